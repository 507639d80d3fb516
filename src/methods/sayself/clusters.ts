/** Which of a question's responses say the same: greedy clusters of their vectors, at a cosine. */
import type { Vectors } from "../../data/vectors.js";
import { CredenceError } from "../../errors.js";

/** What the published scripts give; the function's own default there is 0.95. */
export const publishedThreshold = 0.9;

/**
 * Groups vectors as published: the first that is left begins a cluster, and all that are left whose cosine with it lies above
 * the threshold join; then again. Clusters are in the order of their first members, and so are the members of each. A vector
 * of zeros has no direction: it is a cluster of its own.
 *
 * Takes at most (clusters x count x width) multiply-adds, and (count + width) numbers beside the result.
 *
 * @param threshold from -1 up to 1, that itself excluded: a vector's cosine with its equal is 1 only to rounding
 * @returns the members of each cluster, as rows: every row stands in one of them, once
 * @throws CredenceError "BAD_INPUT" for a threshold beyond that, or a vector with a number that is not finite
 */
export function greedyClusters({ data, count, width }: Vectors, threshold = publishedThreshold): number[][] {
  if (!(threshold >= -1 && threshold < 1))
    throw new CredenceError("BAD_INPUT", `a cosine threshold of ${threshold}; expected a number from -1 to below 1`);
  const first = new Float64Array(width);
  const take = (row: number) => {
    for (let i = 0; i < width; i++) first[i] = data[row * width + i]!;
  };
  const lengths = new Float64Array(count);
  for (let row = 0; row < count; row++) {
    take(row);
    lengths[row] = Math.sqrt(dot(first, data, row * width));
    if (!Number.isFinite(lengths[row]))
      throw new CredenceError("BAD_INPUT", `vector ${row + 1} of ${count} holds a number that is not finite`);
  }
  const clusters: number[][] = [];
  const left = Int32Array.from({ length: count }, (_, row) => row);
  let remaining = count;
  while (remaining > 0) {
    const own = left[0]!;
    take(own);
    const members = [own];
    let kept = 0;
    for (let i = 1; i < remaining; i++) {
      const row = left[i]!;
      const both = lengths[own]! * lengths[row]!;
      if (both > 0 && dot(first, data, row * width) > threshold * both) members.push(row);
      else left[kept++] = row;
    }
    remaining = kept;
    clusters.push(members);
  }
  return clusters;
}

/**
 * A vector in double and one in float32 that begins at `from`: two sums, so that neither waits for the other. In double, so that the
 * order of the sums matters little. (Four sums, or giving up by the Cauchy-Schwarz bound on the rest, came out slower.)
 */
function dot(a: Float64Array, b: Float32Array, from: number): number {
  let even = 0;
  let odd = 0;
  let i = 0;
  for (; i + 1 < a.length; i += 2) {
    even += a[i]! * b[from + i]!;
    odd += a[i + 1]! * b[from + i + 1]!;
  }
  if (i < a.length) even += a[i]! * b[from + i]!;
  return even + odd;
}
