/** What a head's logit means: a slope and an offset, a sigmoid, and a calibrator that was fitted to predictions. */
import { z } from "zod";

const ascending = (values: number[]): boolean => values.every((value, i) => i === 0 || value >= values[i - 1]!);
const share = z.number().min(0).max(1);

/**
 * A map from a confidence to a better one, that never turns two round. With logit(p) = log(p / (1 - p)):
 * temperature: sigmoid(logit(p) / temperature); platt: sigmoid(slope * logit(p) + offset); isotonic: straight lines
 * between the points (from[i], to[i]), flat beyond the ends.
 */
export const calibratorSchema = z.discriminatedUnion("kind", [
  z.strictObject({ kind: z.literal("temperature"), temperature: z.number().positive() }),
  z.strictObject({ kind: z.literal("platt"), slope: z.number().positive(), offset: z.number() }),
  z
    .strictObject({ kind: z.literal("isotonic"), from: z.array(share).min(1), to: z.array(share).min(1) })
    .refine(({ from, to }) => from.length === to.length, "from and to differ in length")
    .refine(({ from, to }) => ascending(from) && ascending(to), "from and to must ascend"),
]);

export type Calibrator = z.infer<typeof calibratorSchema>;

/** Logit to probability; beyond 30 either way it stays what it is at 30. */
export function sigmoid(logit: number): number {
  return 1 / (1 + Math.exp(-Math.min(30, Math.max(-30, logit))));
}

/** Probability to logit; 0 and 1 are taken as the nearest that `sigmoid` gives. */
export function logit(probability: number): number {
  return Math.min(30, Math.max(-30, Math.log(probability) - Math.log1p(-probability)));
}

/** A confidence as the calibrator has it. */
export function applyCalibrator(calibrator: Calibrator, confidence: number): number {
  switch (calibrator.kind) {
    case "temperature":
      return sigmoid(logit(confidence) / calibrator.temperature);
    case "platt":
      return sigmoid(calibrator.slope * logit(confidence) + calibrator.offset);
    case "isotonic":
      return interpolate(calibrator.from, calibrator.to, confidence);
  }
}

/** The value at x of straight lines through (from[i], to[i]); of points with the same `from`, x there takes the first. */
function interpolate(from: readonly number[], to: readonly number[], x: number): number {
  let low = 0;
  let high = from.length;
  while (low < high) {
    const middle = (low + high) >> 1;
    if (from[middle]! < x) low = middle + 1;
    else high = middle;
  }
  if (low === from.length) return to.at(-1)!;
  if (low === 0 || from[low] === x) return to[low]!;
  const share = (x - from[low - 1]!) / (from[low]! - from[low - 1]!);
  const value = to[low - 1]! + share * (to[low]! - to[low - 1]!);
  return Math.min(to[low]!, Math.max(to[low - 1]!, value));
}

/** How a card reads a head's logit. */
export interface ReadOut {
  slope: number;
  offset: number;
  calibrator?: Calibrator | undefined;
}

/** The confidence that a head's logit says. */
export function confidenceOf({ slope, offset, calibrator }: ReadOut, headLogit: number): number {
  const confidence = sigmoid(slope * headLogit + offset);
  return calibrator ? applyCalibrator(calibrator, confidence) : confidence;
}
