/**
 * How the published evaluation tells how good P(correct) is: the likelier of the two classes as a prediction, its probability as
 * a confidence in it; and beside it the paper's measure, of P(correct) itself.
 */
import { measure } from "../../evaluation/metrics.js";
import { pythonFloat } from "../published.js";
import type { CalibrationCompat } from "./compat.js";

const bins = 10;
/** Where each bin begins, as NumPy's linspace rounds it: 0.3, 0.6 and 0.7 lie just below the edges of those names. */
const edges = Array.from({ length: bins }, (_, i) => i * (1 / bins));

/**
 * Expected calibration error over ten bins, each with its lower edge and without its upper one: sum over bins of
 * (n_b / n) |mean hit_b - mean confidence_b|. The last bin holds 1; as published (A9-7) a confidence of 1 is in none, and does not
 * count.
 *
 * @returns null where no confidence is in a bin
 */
export function halfOpenEce(
  confidences: ArrayLike<number>,
  hits: ArrayLike<number>,
  compat: CalibrationCompat,
): number | null {
  const gaps = new Float64Array(bins);
  let count = 0;
  for (let i = 0; i < confidences.length; i += 1) {
    const confidence = confidences[i]!;
    const bin = edges.findLastIndex((edge) => confidence >= edge);
    // Published in float32, in which what is nearly 1 is 1.
    if (compat.has("A9-7") && Math.fround(confidence) === 1) continue;
    gaps[bin]! += hits[i]! - confidence;
    count += 1;
  }
  return count === 0 ? null : gaps.reduce((sum, gap) => sum + Math.abs(gap), 0) / count;
}

/** What is told of a split; null: undefined for these rows. */
export interface QueryMetrics {
  N: number;
  /** Share of right answers. */
  acc: number | null;
  /** Share of answers of which it is said rightly whether they are right. */
  unc_acc: number | null;
  unc_auroc: number | null;
  unc_ece: number | null;
  /** Of P(correct) against right answers: the paper's definition. */
  unc_ece_pcorrect: number | null;
}

const mean = (values: ArrayLike<number>): number | null =>
  values.length === 0 ? null : Array.from(values).reduce((sum, value) => sum + value, 0) / values.length;

/** @param right P(correct) of each row */
export function queryMetrics(
  right: ArrayLike<number>,
  labels: readonly (0 | 1)[],
  compat: CalibrationCompat,
): QueryMetrics {
  const chosen = Array.from(right, (p) => (p > 0.5 ? 1 : 0));
  const hits = chosen.map((one, i) => Number(one === labels[i]));
  const confidences = Array.from(right, (p) => Math.max(p, 1 - p));
  return {
    N: labels.length,
    acc: mean(labels),
    unc_acc: mean(hits),
    unc_auroc: areaUnder(right, labels),
    unc_ece: halfOpenEce(confidences, hits, compat),
    unc_ece_pcorrect: halfOpenEce(right, labels, compat),
  };
}

/** Plain AUROC, ties counted half; null where one class is missing. */
export const areaUnder = (scores: ArrayLike<number>, labels: readonly (0 | 1)[]): number | null =>
  measure(
    Array.from(scores, (confidence, i) => ({ confidence, correct: labels[i]! })),
    "auroc",
  );

export interface LetterMetrics {
  logits_acc: number | null;
  logits_auroc: number | null;
  logits_ece: number | null;
}

/**
 * Of the probabilities of letters, [rows, letters]: the likeliest as an answer, its probability as its confidence, and the mean
 * over letters of one letter's AUROC against the others.
 */
export function letterMetrics(
  probabilities: Float64Array,
  letters: number,
  rights: readonly number[],
  compat: CalibrationCompat,
): LetterMetrics {
  const hits: number[] = [];
  const confidences: number[] = [];
  for (const [row, right] of rights.entries()) {
    const own = probabilities.subarray(row * letters, (row + 1) * letters);
    const best = own.indexOf(Math.max(...own));
    hits.push(Number(best === right));
    confidences.push(own[best]!);
  }
  const areas = Array.from({ length: letters }, (_, letter) =>
    areaUnder(
      rights.map((_, row) => Math.min(1, probabilities[row * letters + letter]!)),
      rights.map((right) => (right === letter ? 1 : 0)),
    ),
  );
  return {
    logits_acc: mean(hits),
    logits_auroc: areas.includes(null) ? null : mean(areas as number[]),
    logits_ece: halfOpenEce(confidences, hits, compat),
  };
}

/** A line of the published table. */
export type MetricRow = Record<string, number | string | null>;

/** A table's cells: an empty one where a number is undefined. */
export function metricTable(rows: readonly MetricRow[]): { columns: string[]; rows: string[][] } {
  const columns = [...new Set(rows.flatMap((row) => Object.keys(row)))];
  const whole = new Set(["N", "tasks"]);
  const cell = (name: string, value: MetricRow[string] | undefined): string => {
    if (value === null || value === undefined) return "";
    return typeof value === "number" && !whole.has(name) ? pythonFloat(value) : String(value);
  };
  return { columns, rows: rows.map((row) => columns.map((name) => cell(name, row[name]))) };
}

/**
 * Unweighted means of a table's numbers over its data sets, with their standard deviations (of a population), for each split
 * and group, and for all of a split.
 *
 * @param groupOf the group of a data set; null: none but that of all
 */
export function aggregated(rows: readonly MetricRow[], groupOf: (dataset: string) => string | null): MetricRow[] {
  const groups = new Map<string, { group: string; split: string; rows: MetricRow[] }>();
  for (const row of rows) {
    const split = String(row.split);
    const own = groupOf(String(row.dataset));
    for (const group of own === null ? ["all"] : [own, "all"]) {
      const key = `${split} ${group}`;
      const known = groups.get(key);
      if (known) known.rows.push(row);
      else groups.set(key, { group, split, rows: [row] });
    }
  }
  return [...groups.values()].map(({ group, split, rows: some }) => {
    const out: MetricRow = { group, split, tasks: some.length };
    for (const name of Object.keys(some[0]!)) {
      if (["dataset", "split", "ts", "N"].includes(name)) continue;
      const values = some.flatMap((row) => (typeof row[name] === "number" ? [row[name]] : []));
      const middle = mean(values);
      out[name] = middle;
      out[`${name}_std`] = middle === null ? null : Math.sqrt(mean(values.map((value) => (value - middle) ** 2))!);
    }
    return out;
  });
}
