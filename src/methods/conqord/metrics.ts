/** What CONQORD's evaluation measures: accuracy, calibration error, and how far confidence rises with rating. */
import { correlationP, pearson, spearman } from "../../evaluation/correlation.js";
import { measure } from "../../evaluation/metrics.js";
import { binOf } from "../../evaluation/rows.js";
import type { ConqordCompat } from "./compat.js";

/** An answer's confidence, and the rating that a judge gave it: 0 or 1, or any number. */
export interface RatedRow {
  confidence: number;
  rating: number;
}

export interface ConqordMetrics {
  rows: number;
  /** Mean rating. */
  accuracy: number | null;
  ece: number | null;
  /** Of rating and confidence; null where one of them is constant. p-values are two-sided. */
  pearson: number | null;
  pearsonP: number | null;
  spearman: number | null;
  spearmanP: number | null;
  /** Where every rating is 0 or 1 and both occur. */
  auroc: number | null;
}

const bins = 10;

/**
 * Expected calibration error over ten bins (lo, hi]: sum over bins of (n_b / n) |mean rating_b - mean confidence_b|.
 *
 * @param beyond what becomes of confidences that lie in none of them, 0 and, as A9-6 can read them, those above 1. "binned":
 *   the first and the last bin hold them; "dropped" (A9-7): they are in no bin, and counted in n
 * @returns null where there are no rows
 */
export function ratedError(rows: readonly RatedRow[], beyond: "binned" | "dropped"): number | null {
  if (rows.length === 0) return null;
  const gaps = new Float64Array(bins);
  for (const { confidence, rating } of rows) {
    if (beyond === "dropped" && !(confidence > 0 && confidence <= 1)) continue;
    gaps[binOf(confidence, bins)]! += rating - confidence;
  }
  return gaps.reduce((sum, gap) => sum + Math.abs(gap), 0) / rows.length;
}

export async function conqordMetrics(rows: readonly RatedRow[], compat: ConqordCompat): Promise<ConqordMetrics> {
  const n = rows.length;
  const ratings = rows.map(({ rating }) => rating);
  const confidences = rows.map(({ confidence }) => confidence);
  const p = async (r: number | null) => (r === null ? null : correlationP(r, n));
  const r = pearson(ratings, confidences);
  const rho = spearman(ratings, confidences);
  const judged = rows.every(
    ({ confidence, rating }) => (rating === 0 || rating === 1) && confidence >= 0 && confidence <= 1,
  );
  return {
    rows: n,
    accuracy: n === 0 ? null : ratings.reduce((sum, rating) => sum + rating, 0) / n,
    ece: ratedError(rows, compat.has("A9-7") ? "dropped" : "binned"),
    pearson: r,
    pearsonP: await p(r),
    spearman: rho,
    spearmanP: await p(rho),
    auroc: judged
      ? measure(
          rows.map(({ confidence, rating }) => ({ confidence, correct: rating as 0 | 1 })),
          "auroc",
        )
      : null,
  };
}
