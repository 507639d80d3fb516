/** Figures of several panels as SVG files of their own: drawn as the report's charts are, on white, colours spelled out. */
import type { CustomSeriesRenderItemAPI } from "echarts";
import { axis, ink, render, rule, silent, soft } from "./charts.js";
import { lightColours } from "./style.js";

/** What is drawn alike in every panel, and how. */
export interface Mark {
  name: string;
  /** Name of one of the report's colours. */
  colour: string;
  dashed?: boolean;
}

export interface PanelLine {
  /** Name of its mark. */
  mark: string;
  points: readonly (readonly [x: number, y: number])[];
  /** A curve through no points of its own. */
  smooth?: boolean;
}

/** Two axes and what is drawn between them. */
export interface Panel {
  title: string;
  x: string;
  y: string;
  lines?: readonly PanelLine[];
  /** Bars side by side, one of each mark at a place of the horizontal axis. */
  bars?: readonly { mark: string; values: readonly (number | null)[] }[];
  /** Bars without their numbers. */
  bare?: boolean;
  /** The area between two lines of the panel, by their marks. */
  between?: readonly [string, string];
  /** A sentence under the title. */
  remark?: string;
  /** Where the horizontal axis has labels, at places of the lines or, for bars, one after the other. */
  ticks: readonly { at: number; label: string }[];
  /** Horizontal positions are drawn as their logarithm to base 2. */
  logarithmic?: boolean;
  /** What the quantity is at most: the vertical axis ends there. */
  most?: number;
  /** The vertical axis; else it holds what the panels of the row draw. */
  range?: { low: number; high: number; step: number };
}

const panelWidth = 300;
const panelHeight = 236;
const left = 62;
const right = 18;
const heading = 30;
const bottom = 58;

/** Panels in rows, what their colours mean above them. */
export function figure(marks: readonly Mark[], rows: readonly (readonly Panel[])[], alt: string): string {
  const columns = Math.max(...rows.map((row) => row.length));
  const wide = columns === 1 ? 1.7 : columns === 2 ? 1.4 : 1;
  const top = rows.flat().some(({ remark }) => remark) ? 52 : 34;
  const cell = { width: Math.round(panelWidth * wide), height: top + panelHeight + bottom };
  const width = columns * (left + cell.width + right);
  const height = heading + rows.length * cell.height;
  const panels = rows.flatMap((row, r) => row.map((panel, c) => ({ panel, r, c })));
  const option = {
    legend: legend(marks),
    title: panels.map(({ panel, r, c }) => ({
      text: panel.title,
      left: c * (left + cell.width + right) + left + cell.width / 2,
      top: heading + 4 + r * cell.height,
      textAlign: "center",
      itemGap: 5,
      textStyle: { color: ink, fontSize: 14, fontWeight: 600 },
      ...(panel.remark ? { subtext: panel.remark, subtextStyle: { color: soft, fontSize: 12.5 } } : {}),
    })),
    grid: panels.map(({ r, c }) => ({
      outerBoundsMode: "none",
      left: c * (left + cell.width + right) + left,
      top: heading + top + r * cell.height,
      width: cell.width,
      height: panelHeight,
    })),
    xAxis: panels.map(({ panel }, i) => ({ gridIndex: i, ...horizontal(panel) })),
    yAxis: panels.map(({ panel, r }, i) => ({ gridIndex: i, ...vertical(panel, rows[r]!) })),
    series: panels.flatMap(({ panel }, i) =>
      drawn(panel, marks).map((series) => ({ ...series, xAxisIndex: i, yAxisIndex: i })),
    ),
  };
  return standalone(render(option, alt, width, height), width, height);
}

function legend(marks: readonly Mark[]): Record<string, unknown> {
  return {
    top: 6,
    left: "center",
    itemWidth: 26,
    itemHeight: 10,
    itemGap: 22,
    selectedMode: false,
    textStyle: { color: ink, fontSize: 13 },
    data: marks.map(({ name }) => ({ name })),
  };
}

const place = (panel: Panel, x: number): number => (panel.logarithmic ? Math.log2(x) : x);

function horizontal(panel: Panel): Record<string, unknown> {
  const labels = new Map(panel.ticks.map(({ at, label }) => [place(panel, at), label]));
  const positions = [...labels.keys()];
  const common = axis(panel.x, { nameGap: 34, splitLine: { show: false } });
  if (panel.bars)
    return {
      ...common,
      type: "category",
      data: panel.ticks.map(({ label }) => label),
      axisLabel: { color: ink, fontSize: 12, interval: 0 },
    };
  const xs = (panel.lines ?? []).flatMap(({ points }) => points.map(([x]) => place(panel, x)));
  const low = Math.min(...xs, ...positions);
  const high = Math.max(...xs, ...positions);
  const room = (high - low) * 0.04 || 0.5;
  return {
    ...common,
    min: low - room,
    max: high + room,
    axisTick: { show: true, customValues: positions, lineStyle: { color: rule } },
    axisLabel: {
      color: soft,
      fontSize: 11.5,
      customValues: positions,
      hideOverlap: true,
      formatter: (value: number) => nearest(labels, value),
    },
  };
}

/** The label of a place, which the axis hands back with the error of its own arithmetic. */
function nearest(labels: ReadonlyMap<number, string>, value: number): string {
  const [, label] = [...labels].reduce((best, one) =>
    Math.abs(one[0] - value) < Math.abs(best[0] - value) ? one : best,
  );
  return label;
}

/** Panels of a row that draw the same quantity have the same axis, so that they compare at sight. */
function vertical(panel: Panel, row: readonly Panel[]): Record<string, unknown> {
  const ys = row
    .filter(({ y }) => y === panel.y)
    .flatMap(({ lines = [], bars = [] }) => [
      ...lines.flatMap(({ points }) => points.map(([, y]) => y)),
      // A bar's length says its value, so it begins at 0.
      ...bars.flatMap(({ values }) => [0, ...values.filter((value) => value !== null)]),
    ]);
  const { low, high, step } = panel.range ?? span(Math.min(...ys), Math.max(...ys));
  const decimals = Math.max(0, -Math.floor(Math.log10(step) + 1e-9));
  return axis(panel.y, {
    nameGap: 44,
    min: low,
    max: Math.min(high, panel.most ?? high),
    interval: step,
    axisLabel: { color: soft, fontSize: 11.5, formatter: (value: number) => value.toFixed(decimals) },
  });
}

/** About five steps of 1, 2 or 5 times a power of ten that hold what is drawn, with room for it. */
function span(least: number, most: number): { low: number; high: number; step: number } {
  const room = (most - least) * 0.06 || Math.abs(most) * 0.02 || 0.1;
  const rough = (most - least + 2 * room) / 4;
  const power = 10 ** Math.floor(Math.log10(rough));
  const step = power * ([1, 2, 5, 10].find((factor) => factor * power >= rough) ?? 10);
  const down = Math.floor((least - room) / step) * step;
  return { low: least >= 0 ? Math.max(0, down) : down, high: Math.ceil((most + room) / step) * step, step };
}

function drawn(panel: Panel, marks: readonly Mark[]): Record<string, unknown>[] {
  const colour = (name: string) => `var(--${marks.find((mark) => mark.name === name)!.colour})`;
  const dash = (name: string) => (marks.find((mark) => mark.name === name)!.dashed ? [6, 4] : "solid");
  const lines = (panel.lines ?? []).map(({ mark, points, smooth = false }) => ({
    type: "line",
    name: mark,
    ...silent,
    clip: false,
    data: points.map(([x, y]) => [place(panel, x), y]),
    symbol: "circle",
    showSymbol: !smooth,
    symbolSize: 6,
    itemStyle: { color: colour(mark) },
    lineStyle: { color: colour(mark), width: 2.2, type: dash(mark) },
  }));
  const bars = (panel.bars ?? []).map(({ mark, values }) => ({
    type: "bar",
    name: mark,
    ...silent,
    barMaxWidth: 34,
    barGap: "8%",
    data: values.map((value) => value ?? "-"),
    itemStyle: { color: colour(mark) },
    label: {
      show: !panel.bare,
      position: "top",
      fontSize: 11,
      color: ink,
      formatter: ({ value }: { value: number | string }) => (typeof value === "number" ? value.toFixed(1) : ""),
    },
  }));
  return [...(panel.between ? [shade(panel, panel.between)] : []), ...lines, ...bars];
}

function shade(panel: Panel, [one, other]: readonly [string, string]): Record<string, unknown> {
  const points = (mark: string) => panel.lines!.find((line) => line.mark === mark)!.points;
  const outline = [...points(one), ...[...points(other)].reverse()];
  return {
    type: "custom",
    ...silent,
    data: [[0, 0]],
    renderItem: (_params: unknown, api: CustomSeriesRenderItemAPI) => ({
      type: "polygon",
      shape: { points: outline.map(([x, y]) => api.coord([place(panel, x), y])) },
      style: { fill: soft, opacity: 0.16 },
    }),
  };
}

/** A file of its own: a size, a white ground, a font, and colours that every viewer knows. */
function standalone(svg: string, width: number, height: number): string {
  return `${svg
    .replace(
      /^<svg /,
      `<svg width="${width}" height="${height}" font-family="Helvetica, Arial, sans-serif" style="background:#ffffff" `,
    )
    .replace(/>/, `><rect width="${width}" height="${height}" fill="#ffffff"/>`)
    .replaceAll(/var\(--([\w-]+)\)/g, (_, name: string) => lightColours.get(name)!)
    .replaceAll(/font-family:inherit;?|font-family="inherit"/g, "")}\n`;
}
