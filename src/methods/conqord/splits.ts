/** Which rows of a set each of the three phases learns from, as the published code deals them, and the files that keep it. */
import { join } from "node:path";
import { NumpyRandomState, permutation, roundHalfEven } from "../../data/random.js";
import { npyBytes } from "../../data/vectors.js";
import { CredenceError } from "../../errors.js";
import { writeFileAtomic } from "../../files.js";

/** Fine-tuning, reward model, reinforcement. */
export type Phase = 1 | 2 | 3;

/** Shares as they are published, "2,4,4". They need not sum to anything. */
export function parseShares(text: string): number[] {
  const shares = text.split(",").map((part) => (part.trim() === "" ? Number.NaN : Number(part)));
  if (shares.some((share) => !(share >= 0)) || !(shares.reduce((sum, share) => sum + share, 0) > 0))
    throw new CredenceError(
      "USAGE",
      `${JSON.stringify(text)} are no shares; expected numbers from 0 with commas between, e.g. 2,4,4`,
    );
  return shares;
}

/**
 * Where each part of `count` rows begins, and the end: every share is rounded (halves to even), and what all of them have
 * too many or too few is taken from every boundary. One that falls below 0 is 0; the published code counted it from the end.
 */
export function boundaries(shares: readonly number[], count: number): number[] {
  const total = shares.reduce((sum, share) => sum + share, 0);
  const ends: number[] = [];
  let end = 0;
  for (const share of shares) {
    end += roundHalfEven((share / total) * count);
    ends.push(end);
  }
  const excess = end - count;
  return [0, ...ends.map((one) => Math.max(0, one - excess))];
}

/** The rows of each part: numpy.random.RandomState(seed).shuffle(arange(count)), cut at the boundaries. */
export function dealt(shares: readonly number[], count: number, seed: number): number[][] {
  const order = permutation(
    Array.from({ length: count }, (_, row) => row),
    new NumpyRandomState(seed),
  );
  const at = boundaries(shares, count);
  return shares.map((_, part) => order.slice(at[part], at[part + 1]));
}

/** What is dealt: of which set (its name as a file's), with which shares, for training or evaluation. */
export interface Dealing {
  name: string;
  seed: number;
  use: "train" | "eval" | "train_eval";
  /** As they were given. */
  shares: string;
}

/** `<folder>/<name>_seed<seed>_<use>_<shares>_<part>.npy`, the published file of a part's rows. */
export const indexPath = (folder: string, { name, seed, use, shares }: Dealing, part: number): string =>
  join(folder, `${name}_seed${seed}_${use}_${shares}_${part}.npy`);

/** Writes every part's rows under the published names, byte for byte as NumPy saves them. */
export function writeIndices(folder: string, dealing: Dealing, count: number): void {
  dealt(parseShares(dealing.shares), count, dealing.seed).forEach((rows, part) => {
    writeFileAtomic(indexPath(folder, dealing, part), npyBytes(rows));
  });
}
