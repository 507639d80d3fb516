/**
 * The report's charts as SVG text, drawn without a browser. Colours are the page's own variables, so that a chart follows
 * light, dark and print; sizes are chosen so that type stays readable when a panel shrinks to a telephone's width.
 */
import type { CustomSeriesRenderItemAPI } from "echarts";
import { BarChart, CustomChart, LineChart, ScatterChart } from "echarts/charts";
import { GridComponent, LegendComponent, TitleComponent } from "echarts/components";
import * as echarts from "echarts/core";
import { SVGRenderer } from "echarts/renderers";
import type { HistogramBin, ReliabilityBin, RiskPoint } from "../evaluation/curves.js";

let registered = false;

export const ink = "var(--ink)";
export const soft = "var(--soft)";
export const rule = "var(--rule)";

/** One panel, or several that point at each other by their places in these lists. */
interface Option {
  grid: Record<string, unknown> | readonly Record<string, unknown>[];
  xAxis: Record<string, unknown> | readonly Record<string, unknown>[];
  yAxis: Record<string, unknown> | readonly Record<string, unknown>[];
  series: readonly Record<string, unknown>[];
}

/** An SVG element of the option, labelled for those who do not see it. */
export function render(option: Option, alt: string, width: number, height: number): string {
  if (!registered) {
    const charts = [BarChart, CustomChart, LineChart, ScatterChart];
    echarts.use([...charts, GridComponent, LegendComponent, TitleComponent, SVGRenderer]);
  }
  registered = true;
  const chart = echarts.init(null, null, { renderer: "svg", ssr: true, width, height });
  try {
    chart.setOption({ animation: false, textStyle: { fontFamily: "inherit" }, ...option });
    const svg = chart.renderToSVGString();
    const label = alt.replaceAll("&", "&amp;").replaceAll("<", "&lt;").replaceAll('"', "&quot;");
    return (
      svg
        .replace(/^<svg width="\d+" height="\d+"/, `<svg role="img" aria-label="${label}"`)
        .replaceAll(/ class="zr\d+-cls-\d+"| pointer-events="visible"| ecmeta_[a-z_]+="[^"]*"/g, "")
        // Everything drawn lies inside its axes; clip paths would only tie the page to a counter of charts drawn before.
        .replaceAll(/ clip-path="url\(#[^)]*\)"/g, "")
        .replaceAll(/<style\s*>.*?<\/style>|<defs\s*>.*?<\/defs>/gs, "")
    );
  } finally {
    chart.dispose();
  }
}

const percentLabel = (value: number) => `${Math.round(value * 100)} %`;

export function axis(name: string, extra: Record<string, unknown> = {}): Record<string, unknown> {
  return {
    type: "value",
    name,
    nameLocation: "middle",
    nameTextStyle: { color: soft, fontSize: 13 },
    axisLabel: { color: soft, fontSize: 12.5, formatter: percentLabel, hideOverlap: true },
    axisLine: { show: true, lineStyle: { color: rule } },
    axisTick: { show: false },
    splitLine: { lineStyle: { color: rule, width: 0.6 } },
    ...extra,
  };
}

const share = { min: 0, max: 1, interval: 0.2 };
export const silent = { silent: true, emphasis: { disabled: true } };

/** Accuracy against confidence: a dot a bin, as large as it has answers, with Wilson's interval; the diagonal is honesty. */
export function reliabilityChart(bins: readonly ReliabilityBin[], colour: string, alt: string): string {
  const filled = bins.filter((bin) => bin.n > 0);
  const most = Math.max(1, ...filled.map((bin) => bin.n));
  const whiskers = {
    type: "custom",
    ...silent,
    data: filled.map((bin) => [bin.confidence!, bin.low!, bin.high!]),
    renderItem: (_params: unknown, api: CustomSeriesRenderItemAPI) => {
      const [x, low] = api.coord([api.value(0), api.value(1)]);
      const [, high] = api.coord([api.value(0), api.value(2)]);
      return {
        type: "line",
        shape: { x1: x!, y1: low!, x2: x!, y2: high! },
        style: { stroke: colour, lineWidth: 2, opacity: 0.45 },
      };
    },
  };
  return render(
    {
      grid: { outerBoundsMode: "none", left: 78, right: 26, top: 12, bottom: 30 },
      xAxis: axis("", share),
      yAxis: axis("is right this often", { ...share, nameGap: 56 }),
      series: [
        {
          type: "line",
          ...silent,
          symbol: "none",
          data: [
            [0, 0],
            [1, 1],
          ],
          lineStyle: { color: soft, type: [5, 5], width: 1.2 },
        },
        {
          type: "line",
          ...silent,
          symbol: "none",
          data: filled.map((b) => [b.confidence, b.accuracy]),
          lineStyle: { color: colour, width: 1.5, opacity: 0.6 },
        },
        whiskers,
        {
          type: "scatter",
          ...silent,
          clip: false,
          data: filled.map((b) => ({ value: [b.confidence, b.accuracy], symbolSize: 6 + 16 * Math.sqrt(b.n / most) })),
          itemStyle: { color: colour, opacity: 1, borderColor: "var(--paper)", borderWidth: 1.5 },
        },
      ],
    },
    alt,
    480,
    380,
  );
}

/** How many right and wrong answers have each confidence, wrong on top. */
export function histogramChart(bins: readonly HistogramBin[], most: number, alt: string): string {
  const bars = (side: "right" | "wrong", colour: string) => ({
    type: "custom",
    ...silent,
    data: bins.map((b) => (side === "right" ? [b.from, b.to, 0, b.right] : [b.from, b.to, b.right, b.right + b.wrong])),
    renderItem: (_params: unknown, api: CustomSeriesRenderItemAPI) => {
      const [x1, bottom] = api.coord([api.value(0), api.value(2)]);
      const [x2, top] = api.coord([api.value(1), api.value(3)]);
      return {
        type: "rect",
        shape: { x: x1! + 1, y: top!, width: Math.max(1, x2! - x1! - 2), height: Math.max(0, bottom! - top!) },
        style: { fill: colour },
      };
    },
  });
  return render(
    {
      grid: { outerBoundsMode: "none", left: 78, right: 26, top: 8, bottom: 48 },
      xAxis: axis("says it is this sure", { ...share, nameGap: 30, splitLine: { show: false } }),
      yAxis: axis("answers", {
        nameGap: 56,
        min: 0,
        max: most,
        splitNumber: 3,
        axisLabel: {
          color: soft,
          fontSize: 12.5,
          formatter: (v: number) => v.toLocaleString("en-US"),
          hideOverlap: true,
        },
      }),
      series: [bars("right", "var(--right)"), bars("wrong", "var(--wrong)")],
    },
    alt,
    480,
    190,
  );
}

export interface Line {
  colour: string;
  points: readonly (readonly [x: number | string, y: number])[];
}

/** Wrong answers among the surest share. */
export function riskChart(lines: readonly { colour: string; points: readonly RiskPoint[] }[], alt: string): string {
  // Where a handful of answers is covered, the rate jumps between 0 and 1: the first 2 % say nothing.
  const drawn = lines.map(({ colour, points }) => ({
    colour,
    points: points.filter((p) => p.coverage >= 0.02).map((p) => [p.coverage, p.risk] as const),
  }));
  const top = Math.max(0.1, ...drawn.flatMap(({ points }) => points.map(([, y]) => y)));
  return render(
    {
      grid: { outerBoundsMode: "none", left: 78, right: 26, top: 12, bottom: 50 },
      xAxis: axis("answers only this share, the surest", { ...share, nameGap: 32, splitLine: { show: false } }),
      yAxis: axis("of those are wrong", {
        nameGap: 56,
        min: 0,
        max: Math.min(1, Math.ceil(top * 10 + 0.3) / 10),
        splitNumber: 4,
      }),
      series: drawn.map(lineSeries),
    },
    alt,
    480,
    350,
  );
}

const lineSeries = ({ colour, points }: Line) => ({
  type: "line",
  ...silent,
  symbol: "none",
  data: points,
  lineStyle: { color: colour, width: 2.4 },
});

/** A metric against a few numbers (of labels, of blocks) in their order, or a few names in theirs; evenly spaced. */
export function linesChart(lines: readonly Line[], across: string, metric: string, alt: string): string {
  const xs = [...new Set(lines.flatMap(({ points }) => points.map(([x]) => x)))];
  if (xs.every((x) => typeof x === "number")) xs.sort((a, b) => a - b);
  const ys = lines.flatMap(({ points }) => points.map(([, y]) => y));
  const room = (Math.max(...ys) - Math.min(...ys)) * 0.12 || 0.01;
  return render(
    {
      grid: { outerBoundsMode: "none", left: 78, right: 26, top: 12, bottom: 50 },
      xAxis: {
        ...axis(across, { nameGap: 32, splitLine: { show: false } }),
        type: "category",
        boundaryGap: ["8%", "8%"],
        data: xs.map(String),
        axisLabel: { color: ink, fontSize: 12.5 },
      },
      yAxis: axis(metric, {
        nameGap: 58,
        min: Math.floor((Math.min(...ys) - room) * 100) / 100,
        max: Math.ceil((Math.max(...ys) + room) * 100) / 100,
        splitNumber: 4,
        axisLabel: { color: soft, fontSize: 12.5, formatter: (v: number) => v.toFixed(3) },
      }),
      series: lines.map((line) => ({
        ...lineSeries(line),
        symbol: "circle",
        symbolSize: 8,
        itemStyle: { color: line.colour },
        data: line.points.map(([x, y]) => [String(x), y]),
      })),
    },
    alt,
    480,
    350,
  );
}
