/** Predictions in columns, sorted once, so that a metric of any resample of them is one pass. */
import { CredenceError } from "../errors.js";

export interface Prediction {
  /** In [0, 1]. */
  confidence: number;
  /** Whether the answer was right. */
  correct: 0 | 1;
  /** Rows of one group are drawn together by the bootstrap. */
  group?: string;
}

/** n predictions by ascending confidence, ties in the order given. */
export interface Rows {
  n: number;
  confidence: Float64Array;
  correct: Uint8Array;
  /** Name of each row's cluster: its group, or a name of its own. */
  cluster: string[];
  /** Positions in the columns by descending confidence, ties in the order given. */
  descending: Int32Array;
}

/**
 * Reads predictions once.
 *
 * @throws CredenceError "BAD_INPUT" naming the row whose confidence or correctness is not what it must be
 */
export function readRows(predictions: Iterable<Prediction>): Rows {
  const given = [...predictions];
  given.forEach(({ confidence, correct }, i) => {
    if (typeof confidence !== "number" || !(confidence >= 0 && confidence <= 1)) {
      throw new CredenceError(
        "BAD_INPUT",
        `prediction ${i}: confidence is ${confidence}; expected a number from 0 to 1`,
      );
    }
    if (correct !== 0 && correct !== 1) {
      throw new CredenceError("BAD_INPUT", `prediction ${i}: correct is ${String(correct)}; expected 0 or 1`);
    }
  });
  const order = given.map((_, i) => i).sort((a, b) => given[a]!.confidence - given[b]!.confidence);
  const place = new Int32Array(given.length);
  order.forEach((row, position) => {
    place[row] = position;
  });
  const down = given.map((_, i) => i).sort((a, b) => given[b]!.confidence - given[a]!.confidence);
  return {
    n: given.length,
    confidence: Float64Array.from(order, (i) => given[i]!.confidence),
    correct: Uint8Array.from(order, (i) => given[i]!.correct),
    cluster: order.map((i) => (given[i]!.group === undefined ? `row ${i}` : `group ${given[i]!.group}`)),
    descending: Int32Array.from(down, (i) => place[i]!),
  };
}

/** Bin k of `bins` holds (k / bins, (k + 1) / bins]; the first also holds 0. */
export function binOf(confidence: number, bins: number): number {
  let k = Math.min(bins - 1, Math.max(0, Math.ceil(confidence * bins) - 1));
  while (k > 0 && confidence <= k / bins) k--;
  while (k < bins - 1 && confidence > (k + 1) / bins) k++;
  return k;
}
