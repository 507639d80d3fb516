/** Rows of tokens as the engine takes them: flat, with offsets, in batches whose rows are about equally long. */
import type { NativeBatch } from "../native.js";
import { PythonRandom, type RandomSource, shuffle } from "./random.js";

/** What of a batch is not its tokens. */
export interface BatchLayout {
  /** Which earlier row each goes on from, or -1: a prompt stands once for all its completions. */
  prefixOf?: readonly number[];
  /**
   * The length each row was padded to on the right, or 0: its last token is then the PAD token of that length's last place,
   * which reads the row's other tokens and is seen by nobody (see `padRight`).
   */
  paddedTo?: readonly number[];
  /** How many tokens at each row's end are PAD tokens, which read what stands before them and are seen by nobody. */
  padTokens?: readonly number[];
}

/** Rows one after the other: row b is tokens[offsets[b] .. offsets[b + 1]). */
export function flatten(
  rows: readonly ArrayLike<number>[],
  { prefixOf, paddedTo, padTokens }: BatchLayout = {},
): NativeBatch {
  const offsets = new Int32Array(rows.length + 1);
  rows.forEach((row, b) => {
    offsets[b + 1] = offsets[b]! + row.length;
  });
  const pads = rows.map((_, b) => Math.max(padTokens?.[b] ?? 0, paddedTo?.[b] ? 1 : 0));
  const tokens = new Int32Array(offsets[rows.length]!);
  rows.forEach((row, b) => {
    tokens.set(row, offsets[b]);
  });
  return {
    tokens,
    offsets,
    ...(prefixOf ? { prefixOf: Int32Array.from(prefixOf) } : {}),
    ...(paddedTo?.some((length) => length > 0) ? { positions: placesOf(offsets, paddedTo) } : {}),
    ...(pads.some((count) => count > 0) ? { queryOnly: queryOnly(offsets, pads) } : {}),
  };
}

function placesOf(offsets: Int32Array, paddedTo: readonly number[]): Int32Array {
  const places = new Int32Array(offsets.at(-1)!).fill(-1);
  for (const [row, length] of paddedTo.entries()) if (length > 0) places[offsets[row + 1]! - 1] = length - 1;
  return places;
}

function queryOnly(offsets: Int32Array, pads: readonly number[]): Uint8Array {
  const out = new Uint8Array(offsets.at(-1)!);
  for (const [row, count] of pads.entries()) out.fill(1, offsets[row + 1]! - count, offsets[row + 1]);
  return out;
}

/**
 * Rows as index -1 of a batch padded on the right reads them: a row shorter than the longest of its group ends in the PAD
 * token of the group's last place. Of all PAD tokens that one alone is read, and none is seen by another.
 *
 * @param group rows padded together: the first so many, then the next
 */
export function padRight(
  rows: readonly Int32Array[],
  pad: number,
  group: number,
): { rows: Int32Array[]; paddedTo: number[] } {
  const longest: number[] = [];
  rows.forEach((row, i) => {
    const at = Math.floor(i / group);
    longest[at] = Math.max(longest[at] ?? 0, row.length);
  });
  const paddedTo = rows.map((row, i) => {
    const length = longest[Math.floor(i / group)]!;
    return row.length < length ? length : 0;
  });
  return { rows: rows.map((row, i) => (paddedTo[i] ? Int32Array.of(...row, pad) : row)), paddedTo };
}

/** One value a token, laid out as `flatten` lays out the tokens. */
export function flattenValues(rows: readonly ArrayLike<number>[]): Float32Array {
  const flat = new Float32Array(rows.reduce((sum, row) => sum + row.length, 0));
  let at = 0;
  for (const row of rows) {
    flat.set(row, at);
    at += row.length;
  }
  return flat;
}

/** One mark a token, laid out the same way. */
export function flattenMask(rows: readonly ArrayLike<number>[]): Uint8Array {
  return Uint8Array.from(flattenValues(rows), (mark) => (mark === 0 ? 0 : 1));
}

/** Marks given row by row, as the engine's read-outs take them. */
export function flatMasks({ mask, values }: { mask?: Uint8Array[]; values?: { head: string; mask: Uint8Array[] } }): {
  mask?: Uint8Array;
  values?: { head: string; mask: Uint8Array };
} {
  return {
    mask: mask && flattenMask(mask),
    values: values && { head: values.head, mask: flattenMask(values.mask) },
  };
}

/** How many batches' worth of shuffled rows are sorted by length together. */
const windowBatches = 8;

/**
 * One epoch's batches as the EliCal reference draws them: rows shuffled, sorted by length within windows of eight
 * batches (shortest first, ties as shuffled), cut into batches, batches shuffled. Every row is in exactly one batch.
 */
export function lengthGroupedBatches(lengths: readonly number[], batch: number, random: RandomSource): number[][] {
  const order = shuffle(
    lengths.map((_, i) => i),
    random,
  );
  const window = batch * windowBatches;
  const grouped: number[] = [];
  for (let from = 0; from < order.length; from += window) {
    grouped.push(...order.slice(from, from + window).sort((a, b) => lengths[a]! - lengths[b]!));
  }
  const batches: number[][] = [];
  for (let from = 0; from < grouped.length; from += batch) batches.push(grouped.slice(from, from + batch));
  return shuffle(batches, random);
}

function shuffledAlone(lengths: readonly number[], batch: number, random: RandomSource): number[][] {
  const order = shuffle(
    lengths.map((_, i) => i),
    random,
  );
  return Array.from({ length: Math.ceil(order.length / batch) }, (_, i) => order.slice(i * batch, (i + 1) * batch));
}

/** Shuffled, with rows of about one length in a batch; or shuffled alone, as rows that are padded together are published. */
export type RowOrder = "length-grouped" | "shuffled";

export interface PlannedBatch {
  /** From 0. */
  epoch: number;
  rows: number[];
}

/** All batches of all epochs, from one random.Random(seed). */
export function shuffledBatches(plan: {
  lengths: readonly number[];
  batch: number;
  epochs: number;
  seed: number;
  order?: RowOrder;
}): PlannedBatch[] {
  const random = new PythonRandom(plan.seed);
  const batches = plan.order === "shuffled" ? shuffledAlone : lengthGroupedBatches;
  return Array.from({ length: plan.epochs }, (_, epoch) =>
    batches(plan.lengths, plan.batch, random).map((rows) => ({ epoch, rows })),
  ).flat();
}

/** Rows that go on from one another, together, in rising order: a prompt with its completions. */
export function families(prefixOf: readonly number[]): number[][] {
  const roots: number[] = [];
  const byRoot = new Map<number, number[]>();
  for (const [row, prefix] of prefixOf.entries()) {
    const root = prefix < 0 ? row : (roots[prefix] ?? row);
    roots.push(root);
    byRoot.set(root, [...(byRoot.get(root) ?? []), row]);
  }
  return [...byRoot.values()];
}

/** Rows in their order, cut where the next one would exceed the budget of tokens; a longer row stands alone. */
export function microBatches(lengths: readonly number[], budget: number): number[][] {
  const batches: number[][] = [];
  let tokens = 0;
  lengths.forEach((length, i) => {
    if (batches.length === 0 || tokens + length > budget) {
      batches.push([]);
      tokens = 0;
    }
    batches.at(-1)!.push(i);
    tokens += length;
  });
  return batches;
}

/**
 * Best-fit decreasing: rows from the longest down, each into the batch with the least room that still holds it. A row
 * longer than the budget gets a batch of its own. O(n log n) but for the few batches with the same room.
 */
export function packBestFit(lengths: readonly number[], budget: number): number[][] {
  const order = lengths.map((_, i) => i).sort((a, b) => lengths[b]! - lengths[a]! || a - b);
  const batches: number[][] = [];
  /** Batches by the tokens they have room for, and those rooms in order. */
  const byRoom = new Map<number, number[]>();
  const rooms: number[] = [];
  const place = (room: number): number => {
    let low = 0;
    let high = rooms.length;
    while (low < high) {
      const middle = (low + high) >> 1;
      if (rooms[middle]! < room) low = middle + 1;
      else high = middle;
    }
    return low;
  };
  const put = (room: number, batch: number): void => {
    const same = byRoom.get(room);
    if (same) {
      same.push(batch);
      return;
    }
    byRoom.set(room, [batch]);
    rooms.splice(place(room), 0, room);
  };
  for (const row of order) {
    const length = lengths[row]!;
    const at = place(length);
    if (at === rooms.length) {
      batches.push([row]);
      put(Math.max(0, budget - length), batches.length - 1);
      continue;
    }
    const room = rooms[at]!;
    const same = byRoom.get(room)!;
    const batch = same.shift()!;
    if (same.length === 0) {
      byRoom.delete(room);
      rooms.splice(at, 1);
    }
    batches[batch]!.push(row);
    put(room - length, batch);
  }
  return batches;
}
