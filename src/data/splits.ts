/** Splits that keep a group together: what shares a group (a country, a document) is never on both sides. */
import { CredenceError } from "../errors.js";
import { NumpyRandom, PythonRandom, permutation, type RandomSource, roundHalfEven, shuffle } from "./random.js";

/** Row numbers of the two sides, each in the rows' own order unless said otherwise. */
export interface Split {
  train: number[];
  test: number[];
}

/** A row's group, or one of its own. */
type Grouped = { group?: string };

const groupNames = (rows: readonly Grouped[]): string[] =>
  rows.map((row, i) => (row.group === undefined ? `\u0000row ${i}` : row.group));

/** Different groups by code points, the order in which Python sorts strings. */
const sortedGroups = (groups: readonly string[]): string[] => [...new Set(groups)].sort(compareCodePoints);

function compareCodePoints(a: string, b: string): number {
  const length = Math.min(a.length, b.length);
  for (let i = 0; i < length; i++) {
    const difference = placeOf(a.charCodeAt(i)) - placeOf(b.charCodeAt(i));
    if (difference !== 0) return difference;
  }
  return a.length - b.length;
}

/** Halves of a surrogate pair stand for code points above all that one unit is. */
const placeOf = (unit: number): number => (unit >= 0xe000 ? unit - 0x800 : unit >= 0xd800 ? unit + 0x2000 : unit);

/**
 * Holds out a share of the groups.
 *
 * @throws CredenceError "BAD_INPUT" when a side would be empty
 */
export function splitByGroup(
  rows: readonly Grouped[],
  { testShare, seed }: { testShare: number; seed: number },
): Split {
  const names = groupNames(rows);
  const groups = permutation(sortedGroups(names), new NumpyRandom(seed));
  const held = new Set(groups.slice(0, Math.round(groups.length * testShare)));
  if (held.size === 0 || held.size === groups.length) {
    throw new CredenceError(
      "BAD_INPUT",
      `${groups.length} groups cannot be split with a test share of ${testShare}: one side would be empty. Give more groups or another share`,
    );
  }
  return divide(names, (name) => held.has(name));
}

function divide(names: string[], tested: (name: string) => boolean): Split {
  const split: Split = { train: [], test: [] };
  names.forEach((name, i) => {
    (tested(name) ? split.test : split.train).push(i);
  });
  return split;
}

/** One fold: its rows are tested, the others train; `inner` cuts these into parts, whole groups each, that choose between settings. */
export interface Fold extends Split {
  inner: number[][];
}

/**
 * Folds by group: group i of a shuffled order is tested in fold i mod `folds`, and is in inner part floor(i / folds) mod
 * `folds` where it trains. With 5 folds and seed 0 these are the folds of the probe reference, and its one inner part is
 * the first (default_rng(0).permutation of the sorted groups; i % 5; i % 25 // 5 == 0).
 *
 * @throws CredenceError "BAD_INPUT" when there are fewer groups than a fold needs
 */
export function foldsByGroup(rows: readonly Grouped[], { folds = 5, seed = 0 } = {}): Fold[] {
  const names = groupNames(rows);
  const order = permutation(sortedGroups(names), new NumpyRandom(seed));
  if (folds < 2 || order.length < folds) {
    throw new CredenceError(
      "BAD_INPUT",
      `${order.length} groups cannot make ${folds} folds. Choose from 2 to ${order.length} folds`,
    );
  }
  const place = new Map(order.map((name, i) => [name, i]));
  return Array.from({ length: folds }, (_, fold) => {
    const split = divide(names, (name) => place.get(name)! % folds === fold);
    const partOf = (row: number) => Math.floor(place.get(names[row]!)! / folds) % folds;
    const inner = Array.from({ length: folds }, (_, part) => split.train.filter((row) => partOf(row) === part));
    return { ...split, inner: inner.filter((part) => part.length) };
  });
}

/**
 * The training rows in the order in which they are labelled: the first n are the n labelled ones, so that more labels
 * include fewer. The probe reference's: default_rng([seed, fold]).permutation(train).
 */
export function labelOrder(train: readonly number[], seed: number, fold = 0): number[] {
  return permutation(train, new NumpyRandom([seed, fold]));
}

/** Parts of almost equal size in order, the first ones longer: numpy.array_split. */
export function parts<T>(items: readonly T[], count: number): T[][] {
  const small = Math.floor(items.length / count);
  const longer = items.length % count;
  let from = 0;
  return Array.from({ length: count }, (_, i) => {
    const part = items.slice(from, from + small + (i < longer ? 1 : 0));
    from += part.length;
    return part;
  });
}

/**
 * Folds of single rows for choosing a penalty: default_rng(seed).permutation(rows) in `count` parts, each sorted
 * ascending.
 */
export function crossValidationParts(rows: readonly number[], seed: number, count = 5): number[][] {
  return parts(permutation(rows, new NumpyRandom(seed)), count).map((part) => part.sort((a, b) => a - b));
}

/**
 * The split of the EliCal reference: one random.Random(7) shuffles the sorted groups, of which 70 % train, then the
 * rows of either side; `limit` keeps that many rows of all, from both sides alike. Rows are in that shuffled order.
 */
export function elicalReferenceSplit(
  rows: readonly Grouped[],
  { limit = rows.length, seed = 7, trainShare = 0.7 } = {},
): Split {
  const random: RandomSource = new PythonRandom(seed);
  const names = groupNames(rows);
  const groups = shuffle(sortedGroups(names), random);
  const training = new Set(groups.slice(0, roundHalfEven(groups.length * trainShare)));
  const split = divide(names, (name) => !training.has(name));
  shuffle(split.train, random);
  shuffle(split.test, random);
  const share = Math.min(1, limit / rows.length);
  return {
    train: split.train.slice(0, roundHalfEven(split.train.length * share)),
    test: split.test.slice(0, roundHalfEven(split.test.length * share)),
  };
}

/**
 * The labelled rows of the EliCal reference: the first of random.Random(1000 + seed)'s shuffle of the training rows'
 * places.
 */
export function elicalReferenceLabels(trainCount: number, labels: number, seed: number): number[] {
  const places = Array.from({ length: trainCount }, (_, i) => i);
  return shuffle(places, new PythonRandom(1000 + seed)).slice(0, labels);
}
