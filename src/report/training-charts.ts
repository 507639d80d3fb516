/** Charts of a training: a number over its iterations, and where the stated confidences lie over them. */
import type { CustomSeriesRenderItemAPI } from "echarts";
import { axis, ink, render, rule, silent, soft } from "./charts.js";

/** A run's line: told from the others by its colour and by its dashes. */
export interface RunStyle {
  colour: string;
  /** Lengths of dashes and gaps; absent: solid. */
  dashes?: readonly number[];
}

const styles: readonly RunStyle[] = [
  { colour: "var(--after)" },
  { colour: "var(--before)", dashes: [9, 4] },
  { colour: "var(--asking)", dashes: [3, 3] },
  { colour: "var(--twin)", dashes: [12, 3, 3, 3] },
];

/** Of the i-th run; beyond four they come again. */
export const runStyle = (i: number): RunStyle => styles[i % styles.length]!;

/** What a run's line looks like, as the background of a legend's key. */
export function keyOf({ colour, dashes }: RunStyle): string {
  if (!dashes) return colour;
  let at = 0;
  const stops = dashes.map((length, i) => {
    const stop = `${i % 2 === 0 ? colour : "transparent"} ${at}px ${at + length}px`;
    at += length;
    return stop;
  });
  return `repeating-linear-gradient(90deg,${stops.join(",")})`;
}

export type Points = readonly (readonly [iteration: number, value: number])[];

/** Iterations whose mean the thick line shows: a twentieth of the run, and few enough iterations are drawn as they are. */
export const windowOf = (iterations: number): number =>
  iterations < 30 ? 1 : Math.max(5, Math.round(iterations / 20));

/** Each point's mean with its neighbours; towards the ends there are fewer. */
export function movingMean(points: Points, window: number): Points {
  const before = Math.floor((window - 1) / 2);
  return points.map(([x], i) => {
    const near = points.slice(Math.max(0, i - before), i + window - before);
    return [x, near.reduce((sum, [, y]) => sum + y, 0) / near.length];
  });
}

/** Three digits, and no more than the number has. */
export const shortNumber = (value: number): string => {
  const small = Math.abs(value) < 1e-12 ? 0 : Number(value.toPrecision(3));
  return (Math.abs(small) >= 1000 ? small.toLocaleString("en-US") : String(small)).replace("-", "\u2212");
};

/** A share, to a tenth of a per cent. */
export const shortPercent = (share: number): string => `${shortNumber(Math.round(1000 * share) / 10)}\u00a0%`;

const line = (points: Points, { colour, dashes }: RunStyle, width: number, opacity = 1) => ({
  type: "line",
  ...silent,
  symbol: points.length === 1 ? "circle" : "none",
  symbolSize: 7,
  data: points,
  itemStyle: { color: colour },
  lineStyle: { color: colour, width, opacity, ...(dashes ? { type: dashes } : {}) },
});

/** Whole iterations to label, at most seven of them, evenly apart. */
function ticksOf(first: number, last: number): number[] {
  const step = [1, 2, 5].flatMap((n) => [n, 10 * n, 100 * n, 1000 * n, 10_000 * n]).sort((a, b) => a - b);
  const each = step.find((one) => (last - first) / one <= 7) ?? last - first;
  const ticks: number[] = [];
  for (let at = Math.ceil(first / each) * each; at <= last; at += each) ticks.push(at);
  return ticks;
}

/** The horizontal axis, from the first iteration to the last and `room` beyond. */
const across = (first: number, last: number, room: number) => {
  const customValues = ticksOf(first, last);
  return axis("iteration", {
    min: first - room,
    max: last + room,
    nameGap: 30,
    splitLine: { show: false },
    axisTick: { show: true, customValues, lineStyle: { color: rule } },
    axisLabel: { color: soft, fontSize: 12.5, formatter: shortNumber, hideOverlap: true, customValues },
  });
};

export interface Curve {
  /** What the vertical axis is called. */
  metric: string;
  runs: readonly { style: RunStyle; points: Points }[];
  /** Horizontal lines with what they are called. */
  marks?: readonly { at: number; label: string }[];
  /** The axis begins at 0. */
  fromZero?: boolean;
  /** Values are shares, shown as per cent. */
  share?: boolean;
}

/** A number over the iterations: thin as it was, thick its moving mean. */
export function curveChart({ metric, runs, marks = [], fromZero = false, share = false }: Curve, alt: string): string {
  const xs = runs.flatMap(({ points }) => points.map(([x]) => x));
  const ys = [...runs.flatMap(({ points }) => points.map(([, y]) => y)), ...marks.map(({ at }) => at)];
  const [first, last] = [Math.min(...xs), Math.max(...xs)];
  const middle = (Math.min(...ys) + Math.max(...ys)) / 2;
  const room = first === last ? 0.5 : 0;
  return render(
    {
      grid: { outerBoundsMode: "none", left: 78, right: 26, top: 14, bottom: 48 },
      xAxis: across(first, last, room),
      yAxis: axis(metric, {
        nameGap: 58,
        scale: !fromZero,
        splitNumber: 4,
        axisLabel: { color: soft, fontSize: 12.5, formatter: share ? shortPercent : shortNumber, hideOverlap: true },
      }),
      series: [
        ...marks.map(({ at, label }) => ({
          type: "line",
          ...silent,
          symbol: "none",
          data: [
            {
              value: [first - room, at],
              symbol: "circle",
              symbolSize: 0.1,
              label: {
                show: true,
                formatter: label,
                position: [4, at > middle ? 4 : -16],
                align: "left",
                color: soft,
                fontSize: 12.5,
              },
            },
            [last + room, at],
          ],
          lineStyle: { color: soft, type: [5, 5], width: 1.4 },
        })),
        ...runs.flatMap(({ points, style }) => {
          const window = windowOf(points.length);
          return window === 1
            ? [line(points, style, 2.4)]
            : [line(points, { colour: style.colour }, 1, 0.35), line(movingMean(points, window), style, 2.4)];
        }),
      ],
    },
    alt,
    480,
    300,
  );
}

/** Shares of an iteration's confidences in one bin, from so much on, and how strongly they are drawn. */
export const shadeSteps: readonly { from: number; opacity: number }[] = [
  { from: 0, opacity: 0.1 },
  { from: 0.02, opacity: 0.22 },
  { from: 0.05, opacity: 0.38 },
  { from: 0.1, opacity: 0.56 },
  { from: 0.2, opacity: 0.76 },
  { from: 0.4, opacity: 1 },
];

/** More columns than this would be narrower than what can be seen. */
const mostColumns = 60;

/** Counts of neighbouring iterations together, so that no more than `most` columns are drawn. */
export function columnsOf(
  counts: readonly { iteration: number; counts: readonly number[] }[],
  most = mostColumns,
): { from: number; to: number; counts: number[] }[] {
  const each = Math.ceil(counts.length / most);
  return Array.from({ length: Math.ceil(counts.length / each) }, (_, i) => {
    const group = counts.slice(i * each, (i + 1) * each);
    const bins = group[0]!.counts.map((_, bin) => group.reduce((sum, one) => sum + one.counts[bin]!, 0));
    return { from: group[0]!.iteration, to: group.at(-1)!.iteration, counts: bins };
  });
}

export interface Strip {
  counts: readonly { iteration: number; counts: readonly number[] }[];
  /** The mean stated confidence, and how often the answer was right. */
  stated: Points;
  right: Points;
}

/** Where confidences lie, iteration by iteration: the darker, the more of them; on top what they are on average, and should be. */
export function stripChart({ counts, stated, right }: Strip, alt: string): string {
  const columns = columnsOf(counts);
  const shades = shadeSteps.map(({ from, opacity }, step) => {
    const below = shadeSteps[step + 1]?.from ?? Number.POSITIVE_INFINITY;
    const cells = columns.flatMap((column) => {
      const all = column.counts.reduce((sum, n) => sum + n, 0);
      return column.counts.flatMap((n, bin) =>
        n > 0 && n / all >= from && n / all < below
          ? [
              [
                column.from - 0.5,
                column.to + 0.5,
                bin / column.counts.length,
                (bin + 1) / column.counts.length,
              ] as const,
            ]
          : [],
      );
    });
    return {
      type: "custom",
      ...silent,
      data: cells.length ? [[cells[0]![0], cells[0]![2]]] : [],
      // All cells of a shade are one path: a page of many thousand rectangles is slow to open.
      renderItem: (_params: unknown, api: CustomSeriesRenderItemAPI) => ({
        type: "path",
        shape: { pathData: cells.map((cell) => outline(cell, api)).join("") },
        style: { fill: "var(--after)", opacity },
      }),
    };
  });
  const over = (points: Points, dashes?: readonly number[]) => {
    const drawn = movingMean(points, windowOf(points.length));
    return [
      line(drawn, { colour: "var(--paper)" }, 5, 0.8),
      line(drawn, { colour: ink, ...(dashes ? { dashes } : {}) }, 2.2),
    ];
  };
  return render(
    {
      grid: { outerBoundsMode: "none", left: 78, right: 26, top: 14, bottom: 48 },
      xAxis: across(columns[0]!.from, columns.at(-1)!.to, 0.5),
      yAxis: axis("states this confidence", { min: 0, max: 1, interval: 0.2, nameGap: 56 }),
      series: [...shades, ...over(stated), ...over(right, rightDashes)],
    },
    alt,
    480,
    380,
  );
}

/** Of the line that says how often the answer was right. */
export const rightDashes: readonly number[] = [7, 4];

/** One cell's rectangle as a path, to a tenth of a pixel, a gap around it where it is wide enough. */
function outline(
  [fromX, toX, fromY, toY]: readonly [number, number, number, number],
  api: CustomSeriesRenderItemAPI,
): string {
  const [left, top] = api.coord([fromX, toY]) as [number, number];
  const [right, bottom] = api.coord([toX, fromY]) as [number, number];
  const gap = right - left > 6 ? 0.5 : 0;
  const at = (value: number) => value.toFixed(1);
  return `M${at(left + gap)} ${at(top + 0.5)}H${at(right - gap)}V${at(bottom - 0.5)}H${at(left + gap)}Z`;
}
