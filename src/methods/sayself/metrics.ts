/** What SaySelf's evaluation measures, its absolute error and the binned calibration error each under its own name. */
import { CredenceError } from "../../errors.js";
import { measure } from "../../evaluation/metrics.js";
import { ratedError } from "../conqord/metrics.js";

/** A response's confidence, and the score that a judge gave it. */
export interface ScoredRow {
  /** From 0 to 1; null where it could not be read. */
  confidence: number | null;
  /** From 0 to 10. */
  score: number;
}

export interface SaySelfMetrics {
  rows: number;
  /** Rows without a confidence: they count in the accuracy, and in nothing else. */
  parseFailures: number;
  /** Mean of score / 10. */
  accuracy: number | null;
  /** Mean of |confidence - score / 10|, no bins: what is published as "ECE". A constant that is calibrated has 2 a (1 - a). */
  absoluteError: number | null;
  /** Over ten bins (lo, hi]: sum of (n_b / n) |mean score_b / 10 - mean confidence_b|. */
  ece: number | null;
  /** Of the confidence against a score of 7 or more; null where all or none are. */
  auroc: number | null;
  /** Mean confidence where the score is 7 or more, and where it is 3 or less; null where there is none. */
  confidenceRight: number | null;
  confidenceWrong: number | null;
}

const right = 7;
const wrong = 3;

/** Whether a score counts as right where that is a question of yes or no. */
export const isScoredRight = (score: number): boolean => score >= right;

const mean = (values: readonly number[]): number | null =>
  values.length === 0 ? null : values.reduce((sum, value) => sum + value, 0) / values.length;

/**
 * @param beyond a confidence above 1: an "error", or "taken" as it is, as published (B9-8): `ece` has it in the last bin, and the
 *   absolute error may exceed 1
 * @throws CredenceError "BAD_INPUT" naming the row whose confidence or score is out of its range
 */
export function saySelfMetrics(
  rows: readonly ScoredRow[],
  { beyond = "error" }: { beyond?: "error" | "taken" } = {},
): SaySelfMetrics {
  const read: { confidence: number; score: number }[] = [];
  rows.forEach(({ confidence, score }, i) => {
    if (!(score >= 0 && score <= 10))
      throw new CredenceError("BAD_INPUT", `row ${i}: a score of ${score}; expected a number from 0 to 10`);
    if (confidence === null) return;
    if (!(confidence >= 0 && (confidence <= 1 || (beyond === "taken" && Number.isFinite(confidence)))))
      throw new CredenceError("BAD_INPUT", `row ${i}: a confidence of ${confidence}; expected a number from 0 to 1`);
    read.push({ confidence, score });
  });
  // AUROC is of the order alone.
  const largest = Math.max(1, ...read.map(({ confidence }) => confidence));
  const among = (takes: (score: number) => boolean) =>
    mean(read.filter(({ score }) => takes(score)).map(({ confidence }) => confidence));
  return {
    rows: rows.length,
    parseFailures: rows.length - read.length,
    accuracy: mean(rows.map(({ score }) => score / 10)),
    absoluteError: mean(read.map(({ confidence, score }) => Math.abs(confidence - score / 10))),
    ece: ratedError(
      read.map(({ confidence, score }) => ({ confidence, rating: score / 10 })),
      "binned",
    ),
    auroc: measure(
      read.map(({ confidence, score }) => ({
        confidence: confidence / largest,
        correct: isScoredRight(score) ? 1 : 0,
      })),
      "auroc",
    ),
    confidenceRight: among(isScoredRight),
    confidenceWrong: among((score) => score <= wrong),
  };
}
