/**
 * Calibrators fitted to predictions: how often was an answer right that was given with this confidence? Each keeps the
 * order of the confidences; see src/model/calibrator.ts for what they compute and where they are kept.
 */
import { CredenceError } from "../errors.js";
import { type Calibrator, logit, sigmoid } from "../model/calibrator.js";
import { type FitLogisticOptions, native } from "../native.js";
import { type Prediction, readRows } from "./rows.js";

export type CalibratorKind = Calibrator["kind"];

/** Ridge logistic regression; the engine's, or a twin of it. */
export type FitLogistic = (options: FitLogisticOptions) => Promise<Float64Array>;

/** A slope and an offset on a score. */
export interface Platt {
  slope: number;
  offset: number;
}

const penalty = 1e-3;

/** Fits sigmoid(slope * score + offset) to targets in [0, 1]: Platt 1999, with a slight ridge on the slope. */
export async function fitPlatt(fit: FitLogistic, scores: Float64Array, targets: Float64Array): Promise<Platt> {
  const weights = await fit({ features: scores, rows: scores.length, width: 1, targets, penalty });
  return { slope: weights[0]!, offset: weights[1]! };
}

/** The probability of each score. */
export function applyPlatt({ slope, offset }: Platt, scores: Float64Array): Float64Array {
  return scores.map((score) => sigmoid(slope * score + offset));
}

const refuse = (why: string): CredenceError => new CredenceError("CANNOT_CALIBRATE", why);

/**
 * Fits a calibrator to predictions. Judge it on others: on these it looks better than it is.
 *
 * @param fit for "platt"; default the engine's
 * @throws CredenceError "CANNOT_CALIBRATE" with the reason, where these predictions determine none
 */
export async function fitCalibrator(
  kind: CalibratorKind,
  predictions: Iterable<Prediction>,
  fit: FitLogistic = (options) => native().fitLogistic(options),
): Promise<Calibrator> {
  const { n, confidence, correct } = readRows(predictions);
  if (n < 2) throw refuse(`${n === 1 ? "1 prediction" : "no predictions"} to calibrate on; expected at least 2`);
  if (correct.every((y) => y === correct[0])) {
    throw refuse(
      `all ${n} answers are ${correct[0] ? "right" : "wrong"}: nothing tells a high confidence from a low one. Give predictions of both kinds`,
    );
  }
  if (confidence[0] === confidence[n - 1]) {
    throw refuse(
      `all ${n} confidences are ${confidence[0]}: calibrating would give every answer the share that is right. Give predictions that differ`,
    );
  }
  switch (kind) {
    case "temperature":
      return { kind, temperature: fitTemperature(confidence.map(logit), correct) };
    case "platt": {
      const platt = await fitPlatt(fit, confidence.map(logit), Float64Array.from(correct));
      if (!(platt.slope > 0)) {
        throw refuse(
          "the confidences are no higher for right answers than for wrong ones: a line through them would turn them round. They tell nothing as they are",
        );
      }
      return { kind, ...platt };
    }
    case "isotonic":
      return { kind, ...poolAdjacentViolators(confidence, correct) };
  }
}

/** The largest 1 / T that is looked at. */
const sharpest = 1e4;

/**
 * The temperature T that makes sigmoid(logit / T) likeliest (Guo et al. 2017, section 4.2, for two classes). The negative
 * log-likelihood is convex in a = 1 / T; its derivative, the sum of (sigmoid(a z) - y) z, is bisected for its zero.
 *
 * @param logits any order
 * @param correct 0 or 1 for each
 * @returns infinity where no temperature is better than 0.5 for every answer, 0 where the lower the better without end
 */
export function likeliestTemperature(logits: ArrayLike<number>, correct: ArrayLike<number>): number {
  const slope = (a: number): number => {
    let sum = 0;
    for (let i = 0; i < logits.length; i++) sum += (sigmoid(a * logits[i]!) - correct[i]!) * logits[i]!;
    return sum;
  };
  if (slope(0) >= 0) return Number.POSITIVE_INFINITY;
  let [low, high] = [0, 1];
  while (slope(high) < 0) {
    [low, high] = [high, 2 * high];
    if (high > sharpest) return 0;
  }
  for (let step = 0; step < 100; step++) {
    const middle = (low + high) / 2;
    if (slope(middle) < 0) low = middle;
    else high = middle;
  }
  return 2 / (low + high);
}

function fitTemperature(logits: Float64Array, correct: Uint8Array): number {
  const temperature = likeliestTemperature(logits, correct);
  if (temperature === Number.POSITIVE_INFINITY) {
    throw refuse(
      "no temperature makes these confidences likelier than 0.5 for every answer: they say less than nothing, or are on the wrong side of 0.5. Try platt or isotonic, or another confidence",
    );
  }
  if (temperature === 0) {
    throw refuse(
      "right answers have confidences above 0.5 and wrong ones below, as good as all: the lower the temperature the better, without end. Give more predictions",
    );
  }
  return temperature;
}

/**
 * The non-decreasing function of the confidence with the least squared error: pool adjacent violators (Ayer et al. 1955),
 * as a calibrator Zadrozny & Elkan 2002. Equal confidences are one point. Kept are both ends of each pooled run.
 *
 * @param confidence ascending
 */
function poolAdjacentViolators(confidence: Float64Array, correct: Uint8Array): { from: number[]; to: number[] } {
  const runs: { first: number; last: number; sum: number; count: number }[] = [];
  for (let i = 0; i < confidence.length; ) {
    const run = { first: confidence[i]!, last: confidence[i]!, sum: 0, count: 0 };
    for (; i < confidence.length && confidence[i] === run.first; i++) {
      run.sum += correct[i]!;
      run.count += 1;
    }
    runs.push(run);
    // Means compared as products of whole numbers: exact. Equal ones are pooled, too.
    while (runs.length > 1) {
      const [before, after] = [runs.at(-2)!, runs.at(-1)!];
      if (before.sum * after.count < after.sum * before.count) break;
      runs.pop();
      before.last = after.last;
      before.sum += after.sum;
      before.count += after.count;
    }
  }
  const points = runs.flatMap(({ first, last, sum, count }) => {
    const to = sum / count;
    return first === last
      ? [{ from: first, to }]
      : [
          { from: first, to },
          { from: last, to },
        ];
  });
  return { from: points.map(({ from }) => from), to: points.map(({ to }) => to) };
}
