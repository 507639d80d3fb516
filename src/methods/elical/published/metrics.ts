/** The three numbers of the published evaluation, as published and corrected. */
import { roundHalfEven } from "../../../data/random.js";
import { measure } from "../../../evaluation/metrics.js";
import { shuffled } from "../../../evaluation/random.js";
import type { Prediction } from "../../../evaluation/rows.js";
import type { ElicalCompat } from "./compat.js";

/** As NumPy's round(): scaled, halves to the even neighbour, scaled back. */
export const roundTo = (value: number, decimals: number): number =>
  roundHalfEven(value * 10 ** decimals) / 10 ** decimals;

/** 100 times the share of (right, wrong) pairs ranked right, ties a half; null where all are right or all wrong. */
export function auroc100(rows: readonly Prediction[]): number | null {
  const value = measure(rows, "auroc");
  return value === null ? null : 100 * value;
}

const bins = 10;

/**
 * Expected calibration error as a fraction, over ten bins [lower edge, upper edge).
 *
 * @param edges "published" (B9-10): edges are i * 0.1 as doubles, so that .3, .6 and .7 lie one bin lower, and 1.0 lies in
 *   no bin though it is counted; "closed": edges are i / 10, and the last bin holds 1.0
 * @returns null where there are no rows
 */
export function binnedError(rows: readonly Prediction[], edges: "published" | "closed"): number | null {
  if (rows.length === 0) return null;
  const gaps = new Float64Array(bins + 1);
  for (const { confidence, correct } of rows) gaps[binOf(confidence, edges)]! += confidence - correct;
  return gaps.subarray(0, bins).reduce((sum, gap) => sum + Math.abs(gap), 0) / rows.length;
}

/** Number of the bin; 10 is beyond the last. */
export function binOf(confidence: number, edges: "published" | "closed"): number {
  let bin = 0;
  while (bin < bins && confidence >= (edges === "published" ? (bin + 1) * 0.1 : (bin + 1) / 10)) bin++;
  return edges === "closed" ? Math.min(bin, bins - 1) : bin;
}

/** Share of the rows that choose the threshold. */
const chosenShare = 0.2;

/**
 * Rows that choose Alignment's threshold, and the rest that is scored with it: the first fifth as the published code has
 * it (B9-9), where they are as alike as neighbours in a file are, or a fifth drawn at random.
 */
export function alignmentRows(
  count: number,
  by: "first" | { seed: number },
): { choose: readonly number[]; score: readonly number[] } {
  const order = Array.from({ length: count }, (_, row) => row);
  const drawn = by === "first" ? order : shuffled(order, by.seed);
  const n = Math.floor(chosenShare * count);
  return { choose: drawn.slice(0, n), score: drawn.slice(n) };
}

/** 100 times the share of rows where "confidence >= threshold" is whether the answer was right. */
export interface Alignment {
  value: number;
  threshold: number;
}

/**
 * @param rows in the order in which `alignmentRows` counts them
 * @returns null where no row is left to score
 */
export function alignment(
  rows: readonly Prediction[],
  { choose, score }: { choose: readonly number[]; score: readonly number[] },
): Alignment | null {
  if (score.length === 0) return null;
  const agreeing = (of: readonly number[], threshold: number) => {
    let agree = 0;
    let sure = 0;
    for (const row of of) {
      const { confidence, correct } = rows[row]!;
      const said = confidence >= threshold ? 1 : 0;
      sure += said;
      if (said === correct) agree++;
    }
    return { agree, constant: sure === 0 || sure === of.length };
  };
  let threshold = 0.5;
  let best = 0;
  for (let step = 1; step < 100; step++) {
    const { agree, constant } = agreeing(choose, step / 100);
    if (constant || agree <= best) continue;
    best = agree;
    threshold = step / 100;
  }
  return { value: (100 * agreeing(score, threshold).agree) / score.length, threshold };
}

/** A mean in which a set counts as often as it has questions (B7.6); null where there is none. */
export function questionWeighted(sets: readonly { questions: number; value: number }[]): number | null {
  const questions = sets.reduce((sum, set) => sum + set.questions, 0);
  return questions === 0 ? null : sets.reduce((sum, set) => sum + set.questions * set.value, 0) / questions;
}

/** The published three. */
export interface PublishedNumbers {
  /** Times 100; null where every answer is right, or wrong. */
  auroc: number | null;
  /** As a fraction; as published (B9-10) over edges that lose 1.0, and rounded. */
  ece: number | null;
  /** Times 100. */
  align: number | null;
  threshold: number | null;
}

/**
 * What confidences are worth by the published evaluation.
 *
 * @param rows in the order of their file
 * @param seed of the fifth that chooses Alignment's threshold, where it is drawn at random
 */
export function publishedNumbers(rows: readonly Prediction[], compat: ElicalCompat, seed: number): PublishedNumbers {
  const aligned = alignment(rows, alignmentRows(rows.length, compat.has("B9-9") ? "first" : { seed }));
  const ece = binnedError(rows, compat.has("B9-10") ? "published" : "closed");
  return {
    auroc: auroc100(rows),
    ece: ece !== null && compat.has("B9-10") ? roundTo(ece, 2) : ece,
    align: aligned?.value ?? null,
    threshold: aligned?.threshold ?? null,
  };
}
