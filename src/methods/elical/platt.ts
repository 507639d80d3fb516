/** Platt scaling: a slope and an offset on a score, fitted to a few labels. */
import type { FitLogisticOptions } from "../../native.js";

/** Ridge logistic regression; the engine's, or a twin of it. */
export type FitLogistic = (options: FitLogisticOptions) => Promise<Float64Array>;

export interface Platt {
  slope: number;
  offset: number;
}

const penalty = 1e-3;

/** Logit to probability; beyond 30 either way it stays what it is at 30. */
export function sigmoid(logit: number): number {
  return 1 / (1 + Math.exp(-Math.min(30, Math.max(-30, logit))));
}

/** Fits sigmoid(slope * score + offset) to targets in [0, 1]: Platt 1999, with a slight ridge on the slope. */
export async function fitPlatt(fit: FitLogistic, scores: Float64Array, targets: Float64Array): Promise<Platt> {
  const weights = await fit({ features: scores, rows: scores.length, width: 1, targets, penalty });
  return { slope: weights[0]!, offset: weights[1]! };
}

/** The probability of each score. */
export function applyPlatt({ slope, offset }: Platt, scores: Float64Array): Float64Array {
  return scores.map((score) => sigmoid(slope * score + offset));
}
