/** What the evaluating commands print and write of their metrics. */
import { join } from "node:path";
import { writeTable } from "../../data/tables.js";
import { aggregated, type MetricRow, metricTable } from "../../methods/calibration-tuning/metrics.js";
import { superCategoryOf } from "../../methods/calibration-tuning/mmlu.js";
import { table } from "../output.js";

/** Rows as a table to read: four digits. */
export function tableText(rows: readonly MetricRow[]): string {
  const columns = [...new Set(rows.flatMap((row) => Object.keys(row)))].filter((name) => !name.endsWith("_std"));
  const cell = (value: MetricRow[string] | undefined): string | number => {
    if (value === null || value === undefined) return "-";
    return typeof value === "number" && !Number.isInteger(value) ? value.toFixed(4) : value;
  };
  return table([columns, ...rows.map((row) => columns.map((name) => cell(row[name])))]);
}

/** Writes the published table of an evaluation, and its means over tasks. */
export function writeTables(folder: string, rows: readonly MetricRow[]): { aggregated: MetricRow[]; paths: string[] } {
  const groupOf = (dataset: string) => superCategoryOf(dataset.split(":").at(-1)!);
  const means = aggregated(rows, groupOf);
  const paths = [join(folder, "metrics.csv"), join(folder, "aggregated.csv")];
  writeTable(paths[0]!, metricTable(rows));
  writeTable(paths[1]!, metricTable(means));
  return { aggregated: means, paths };
}
