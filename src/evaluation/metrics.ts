/**
 * How good confidences are. Each metric takes rows and how often each counts (its weight, a whole number; a resample of
 * the rows is such weights), and is null where it is undefined: nothing of an empty set is 0.
 */
import { binOf, type Prediction, type Rows, readRows } from "./rows.js";

export const metricNames = [
  "accuracy",
  "auroc",
  "ece",
  "eceEqualMass",
  "brier",
  "nll",
  "aurc",
  "spearman",
  "absoluteError",
] as const;
export type MetricName = (typeof metricNames)[number];

/** Per row in the order of its columns. */
export type Weights = Float64Array | Int32Array;
export type Metric = (rows: Rows, weights: Weights, bins: number) => number | null;

const emptyReason = "there are no predictions";

/** Why a metric of these rows is null. */
export function undefinedReason(metric: MetricName, rows: Rows): string {
  if (rows.n === 0) return emptyReason;
  if (metric === "auroc") return rows.correct[0] === 1 ? "every answer is right" : "every answer is wrong";
  if (metric === "spearman") {
    const [all] = rows.correct;
    return rows.correct.every((one) => one === all)
      ? `every answer is ${all === 1 ? "right" : "wrong"}`
      : "every confidence is the same";
  }
  return `${metric} is undefined for these predictions`;
}

function mean(rows: Rows, weights: Weights, term: (confidence: number, correct: number) => number): number | null {
  let sum = 0;
  let count = 0;
  for (let i = 0; i < rows.n; i++) {
    const w = weights[i]!;
    if (w === 0) continue;
    sum += w * term(rows.confidence[i]!, rows.correct[i]!);
    count += w;
  }
  return count > 0 ? sum / count : null;
}

const accuracy: Metric = (rows, weights) => mean(rows, weights, (_, y) => y);

/** Brier 1950. */
const brier: Metric = (rows, weights) => mean(rows, weights, (p, y) => (p - y) * (p - y));

/**
 * Mean distance of a confidence from what came out, which SaySelf publishes under the name of ECE. It is not proper: at its best
 * it says 0 or 1, and what is perfectly calibrated at an accuracy a has 2 a (1 - a).
 */
const absoluteError: Metric = (rows, weights) => mean(rows, weights, (p, y) => Math.abs(p - y));

/** Natural logarithm; a confidence is taken no nearer than 1e-12 to 0 or 1. */
const nll: Metric = (rows, weights) =>
  mean(rows, weights, (p, y) => {
    const q = Math.min(1 - 1e-12, Math.max(1e-12, p));
    return y === 1 ? -Math.log(q) : -Math.log(1 - q);
  });

/** Share of (right, wrong) pairs in which the right answer has the higher confidence; a tie counts half. */
const auroc: Metric = (rows, weights) => {
  let rightBelow = 0; // weight of right answers among strictly lower confidences
  let wrongBelow = 0;
  let pairs = 0;
  for (let i = 0; i < rows.n; ) {
    const p = rows.confidence[i]!;
    let right = 0;
    let wrong = 0;
    for (; i < rows.n && rows.confidence[i] === p; i++) {
      if (rows.correct[i] === 1) right += weights[i]!;
      else wrong += weights[i]!;
    }
    pairs += right * (wrongBelow + wrong / 2);
    rightBelow += right;
    wrongBelow += wrong;
  }
  return rightBelow > 0 && wrongBelow > 0 ? pairs / (rightBelow * wrongBelow) : null;
};

/**
 * Expected calibration error over bins of equal width: sum over bins of (n_b / n) |accuracy_b - confidence_b|
 * (Naeini et al. 2015), bins (lo, hi], the first also holding 0.
 */
const ece: Metric = (rows, weights, bins) => {
  let sum = 0;
  let count = 0;
  for (let i = 0; i < rows.n; ) {
    const bin = binOf(rows.confidence[i]!, bins);
    const edge = bin === bins - 1 ? Number.POSITIVE_INFINITY : (bin + 1) / bins;
    let gap = 0;
    for (; i < rows.n && rows.confidence[i]! <= edge; i++) {
      gap += weights[i]! * (rows.correct[i]! - rows.confidence[i]!);
      count += weights[i]!;
    }
    sum += Math.abs(gap);
  }
  return count > 0 ? sum / count : null;
};

/** The same over runs of equal size in ascending confidence; the first n mod `bins` runs are one longer. */
const eceEqualMass: Metric = (rows, weights, bins) => {
  let count = 0;
  for (let i = 0; i < rows.n; i++) count += weights[i]!;
  if (count === 0) return null;
  const short = Math.floor(count / bins);
  const longer = count % bins;
  let sum = 0;
  let bin = 0;
  let room = short + (longer > 0 ? 1 : 0);
  let gap = 0;
  for (let i = 0; i < rows.n; i++) {
    for (let left = weights[i]!; left > 0; ) {
      const take = Math.min(left, room);
      gap += take * (rows.correct[i]! - rows.confidence[i]!);
      left -= take;
      room -= take;
      if (room > 0) break;
      sum += Math.abs(gap);
      gap = 0;
      bin++;
      room = short + (bin < longer ? 1 : 0);
    }
  }
  return (sum + Math.abs(gap)) / count;
};

/** Area under the risk-coverage curve: mean over k of the error rate among the k most confident; ties in the order given. */
const aurc: Metric = (rows, weights) => {
  let errors = 0;
  let covered = 0;
  let sum = 0;
  for (let r = 0; r < rows.n; r++) {
    const i = rows.descending[r]!;
    const wrong = 1 - rows.correct[i]!;
    for (let copies = weights[i]!; copies > 0; copies--) {
      errors += wrong;
      covered++;
      sum += errors / covered;
    }
  }
  return covered > 0 ? sum / covered : null;
};

/** The same with each row's error replaced by the mean error of the rows that have its confidence. */
export const aurcTiesAveraged: Metric = (rows, weights) => {
  let errors = 0;
  let covered = 0;
  let sum = 0;
  for (let end = rows.n; end > 0; ) {
    let start = end;
    let wrong = 0;
    let count = 0;
    while (start > 0 && rows.confidence[start - 1] === rows.confidence[end - 1]) {
      start--;
      wrong += weights[start]! * (1 - rows.correct[start]!);
      count += weights[start]!;
    }
    for (let copy = 0; copy < count; copy++) {
      errors += wrong / count;
      covered++;
      sum += errors / covered;
    }
    end = start;
  }
  return covered > 0 ? sum / covered : null;
};

/** Spearman's rank correlation of confidence and correctness, ties sharing their mean rank; ranks of two values are the values. */
const spearman: Metric = (rows, weights) => {
  let count = 0;
  let right = 0;
  let rankOfRight = 0;
  let squares = 0;
  for (let i = 0; i < rows.n; ) {
    const p = rows.confidence[i]!;
    let tied = 0;
    let rightHere = 0;
    for (; i < rows.n && rows.confidence[i] === p; i++) {
      tied += weights[i]!;
      rightHere += weights[i]! * rows.correct[i]!;
    }
    const rank = count + (tied - 1) / 2;
    squares += tied * rank * rank;
    rankOfRight += rightHere * rank;
    count += tied;
    right += rightHere;
  }
  const middle = (count - 1) / 2;
  const ofRanks = squares - count * middle * middle;
  const ofRight = right - (right * right) / count;
  return ofRanks > 0 && ofRight > 0 ? (rankOfRight - middle * right) / Math.sqrt(ofRanks * ofRight) : null;
};

export const metrics: Record<MetricName, Metric> = {
  accuracy,
  auroc,
  ece,
  eceEqualMass,
  brier,
  nll,
  aurc,
  spearman,
  absoluteError,
};

/** Which way is better: 1 for higher, -1 for lower. */
export const direction: Record<MetricName, 1 | -1> = {
  accuracy: 1,
  auroc: 1,
  ece: -1,
  eceEqualMass: -1,
  brier: -1,
  nll: -1,
  aurc: -1,
  spearman: 1,
  absoluteError: -1,
};

/** One metric of a set of predictions, without an interval. */
export function measure(predictions: Iterable<Prediction>, metric: MetricName, { bins = 10 } = {}): number | null {
  const rows = readRows(predictions);
  return metrics[metric](rows, new Float64Array(rows.n).fill(1), bins);
}

/** Every metric under the names that the reference fixtures give them. */
export function goldenMetrics(scores: readonly number[], labels: readonly number[]): Record<string, number | null> {
  const rows = readRows(scores.map((confidence, i) => ({ confidence, correct: labels[i] as 0 | 1 })));
  const once = new Float64Array(rows.n).fill(1);
  return {
    auroc: auroc(rows, once, 10),
    ece_equal_width: ece(rows, once, 10),
    ece_equal_mass: eceEqualMass(rows, once, 10),
    brier: brier(rows, once, 10),
    nll: nll(rows, once, 10),
    aurc: aurc(rows, once, 10),
    aurc_ties_averaged: aurcTiesAveraged(rows, once, 10),
  };
}
