/** Rows and metrics on a terminal. */
import type { MetricName } from "../evaluation/metrics.js";
import type { ReportRow } from "./input.js";
import { metricWords, number, rowLabel } from "./words.js";

export interface TableOptions {
  metrics?: readonly MetricName[];
  /** 95 % intervals beside the values. */
  intervals?: boolean;
}

/**
 * The rows as aligned text, the best value of each column marked `*`; reasons for values that are undefined follow.
 * Fits 100 columns with the default metrics.
 */
export function renderTable(
  rows: readonly Pick<ReportRow, "name" | "metrics">[],
  { metrics = ["auroc", "ece", "brier"], intervals = true }: TableOptions = {},
): string {
  const best = bestOf(rows, metrics);
  const reasons: string[] = [];
  const cells = rows.map(({ name, metrics: values }) => [
    rowLabel(name),
    ...metrics.map((metric) => {
      const value = values[metric];
      if (value.value === null) {
        reasons.push(`${metricWords[metric].short} of ${rowLabel(name)}: ${value.reason}`);
        return "\u2013";
      }
      const mark = best.get(metric) === name ? "*" : " ";
      const interval =
        intervals && value.low !== null && value.high !== null ? `  ${number(value.low)} to ${number(value.high)}` : "";
      return `${number(value.value)}${mark}${interval}`;
    }),
  ]);
  const header = ["", ...metrics.map((metric) => metricWords[metric].short)];
  const widths = header.map((title, i) => Math.max(title.length, ...cells.map((row) => row[i]!.length)));
  const line = (row: string[]) =>
    row
      .map((cell, i) => cell.padEnd(widths[i]!))
      .join("   ")
      .trimEnd();
  const rule = widths.map((width) => "\u2500".repeat(width)).join("\u2500\u2500\u2500");
  return `${[line(header), rule, ...cells.map(line), ...new Set(reasons)].join("\n")}\n`;
}

/** Name of the row with the best value of each metric. */
export function bestOf(
  rows: readonly Pick<ReportRow, "name" | "metrics">[],
  metrics: readonly MetricName[],
): Map<MetricName, string> {
  const best = new Map<MetricName, string>();
  for (const metric of metrics) {
    let top: { name: string; value: number } | undefined;
    for (const { name, metrics: values } of rows) {
      const { value } = values[metric];
      if (value === null) continue;
      const higher = metric === "auroc" || metric === "accuracy";
      if (top === undefined || (higher ? value > top.value : value < top.value)) top = { name, value };
    }
    if (top) best.set(metric, top.name);
  }
  return best;
}
