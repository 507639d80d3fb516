/**
 * The mixture that calibration-tuning learns from, `all_20k_uniform`: the first rows of every set, as many of each, and a
 * sample of the validation rows; the same rows as published for the same files in the same order.
 */
import { NumpyRandomState } from "../../data/random.js";
import { CredenceError } from "../../errors.js";
import type { CalibrationCompat } from "./compat.js";

/** A set's rows; null: it has no such split. */
export interface Part<T> {
  train: readonly T[] | null;
  validation: readonly T[] | null;
}

export interface MixtureOptions {
  /** Training rows at most; also of the validation rows that are sampled from. Published: 20,000. */
  size?: number;
  /** Validation rows at most. Published: 2,000. */
  validation?: number;
  /** Of the validation sample. Published: 137. */
  seed?: number;
  compat: CalibrationCompat;
}

/** How many rows of each size are taken: as many of each, at most all of one. */
export function evenShares(sizes: readonly number[], total: number): number[] {
  const each = Math.floor(total / sizes.length);
  return sizes.map((size) => Math.min(each, size));
}

/** How many rows of each size are taken: in proportion, rounded down. */
export function proportionalShares(sizes: readonly number[], total: number): number[] {
  const sum = sizes.reduce((all, size) => all + size, 0);
  const taken = Math.min(total, sum);
  return sizes.map((size) => Math.floor((size / sum) * taken));
}

/**
 * Mixes sets, in the order given.
 *
 * The validation sample is of all validation rows. As published (A9-11) it is the first so many in another order, most of
 * which belong to the first sets.
 */
export function mixed<T>(parts: readonly Part<T>[], options: MixtureOptions): { train: T[]; validation: T[] } {
  const { size = 20_000, validation = 2_000, seed = 137, compat } = options;
  const train = parts.flatMap((part) => (part.train ? [part.train] : []));
  const held = parts.flatMap((part) => (part.validation ? [part.validation] : []));
  if (train.length === 0) throw new CredenceError("BAD_INPUT", "no set of the mixture has rows to train on");
  const lengths = (rows: readonly (readonly T[])[]) => rows.map(({ length }) => length);
  const first = (rows: readonly (readonly T[])[], counts: readonly number[]) =>
    rows.flatMap((some, i) => some.slice(0, counts[i]));
  const all = held.length === 0 ? [] : first(held, proportionalShares(lengths(held), size));
  const count = Math.min(all.length, validation);
  const from = compat.has("A9-11") ? count : all.length;
  const sample = count === 0 ? [] : new NumpyRandomState(seed).choice(from, { size: count, replace: false });
  return { train: first(train, evenShares(lengths(train), size)), validation: sample.map((place) => all[place]!) };
}
