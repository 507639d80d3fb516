/**
 * Records of a file in a random order that follows from a seed, with only a window of them in memory: the file's blocks are
 * shuffled, as many as make a window are read, and the window's records are shuffled. A file that can only be read from its
 * start is shuffled within windows alone; one that is sorted should then be shuffled beforehand.
 *
 * The order of the blocks is NumPy's default_rng([seed, epoch]).permutation; that of window w's records
 * default_rng([seed, epoch, w + 1])'s.
 */
import { CredenceError } from "../errors.js";
import { NumpyRandom, permutation } from "./random.js";
import type { RecordFile } from "./readers.js";

export interface WindowPlan {
  /** From 0. */
  seed: number;
  epoch: number;
  /** Records in a window at most, one block at least. */
  windowRecords: number;
}

/** A stretch of records from..to (excluded). */
type Stretch = readonly [from: number, to: number];

/** Which stretches of the file make up each window. */
export function windowsOf(
  { records, blocks }: Pick<RecordFile<unknown>, "records" | "blocks">,
  { seed, epoch, windowRecords }: WindowPlan,
): Stretch[][] {
  if (blocks.length === 1) {
    const count = Math.ceil(records / windowRecords);
    return Array.from({ length: count }, (_, w) => [
      [w * windowRecords, Math.min(records, (w + 1) * windowRecords)] as const,
    ]);
  }
  const windows: Stretch[][] = [];
  let room = 0;
  for (const block of new NumpyRandom([seed, epoch]).permutation(blocks.map((_, i) => i))) {
    const stretch = [blocks[block]!, blocks[block + 1] ?? records] as const;
    const size = stretch[1] - stretch[0];
    if (windows.length === 0 || size > room) {
      windows.push([]);
      room = windowRecords;
    }
    windows.at(-1)!.push(stretch);
    room -= size;
  }
  return windows;
}

/** The windows of an epoch from number `first` on, each with its generator, from which its records were shuffled. */
export async function* shuffledWindows<T>(
  file: RecordFile<T>,
  plan: WindowPlan,
  first = 0,
): AsyncGenerator<{ window: number; records: T[]; random: NumpyRandom }, void, undefined> {
  if (!(Number.isSafeInteger(plan.seed) && plan.seed >= 0))
    throw new CredenceError("BAD_OPTION", `seed is ${plan.seed}; expected a whole number from 0`);
  const windows = windowsOf(file, plan);
  // A file without blocks is read on from window to window, one with blocks wherever they lie.
  const start = windows[first]?.[0]?.[0] ?? file.records;
  const onward = file.blocks.length === 1 ? new Onward(file.read(start, file.records)) : undefined;
  try {
    for (let window = first; window < windows.length; window++) {
      const records: T[] = [];
      for (const [from, to] of windows[window]!) {
        if (onward) records.push(...(await onward.take(to - from)));
        else for await (const some of file.read(from, to)) records.push(...some);
      }
      const random = new NumpyRandom([plan.seed, plan.epoch, window + 1]);
      yield { window, records: permutation(records, random), random };
    }
  } finally {
    await onward?.close();
  }
}

/** Takes so many from what comes some at a time. */
class Onward<T> {
  private held: T[] = [];
  private readonly source: AsyncGenerator<T[], void, undefined>;

  constructor(source: AsyncGenerator<T[], void, undefined>) {
    this.source = source;
  }

  async take(count: number): Promise<T[]> {
    const taken = this.held.slice(0, count);
    this.held = this.held.slice(count);
    while (taken.length < count) {
      const next = await this.source.next();
      if (next.done) break;
      const room = count - taken.length;
      for (const one of next.value.slice(0, room)) taken.push(one);
      this.held = next.value.slice(room);
    }
    return taken;
  }

  async close(): Promise<void> {
    await this.source.return();
  }
}
