/** Long work over many rows, a chunk at a time: what is done is on disk, and a kill loses one chunk at most. */
import { existsSync, rmSync } from "node:fs";
import { join } from "node:path";
import { fromJsonLines, toJsonLines } from "../../data/readers.js";
import { CredenceError } from "../../errors.js";
import { makeFolder, readText, writeFileAtomic } from "../../files.js";
import type { StageContext } from "../../training/run.js";

/**
 * One result for each item, in their order; written to `file` in the stage's folder once all are there, and read from it
 * if they are already.
 */
export async function inChunks<Item, Result>(
  { directory, progress, signal }: StageContext,
  { file, label, items, size }: { file: string; label: string; items: readonly Item[]; size: number },
  work: (chunk: Item[], from: number) => Promise<Result[]>,
): Promise<Result[]> {
  const path = join(directory, file);
  if (existsSync(path)) return fromJsonLines(readText(path));
  const folder = join(directory, "chunks");
  makeFolder(folder);
  const task = progress.task(label, items.length, "rows");
  const all: Result[] = [];
  try {
    for (let from = 0; from < items.length; from += size) {
      if (signal?.aborted)
        throw new CredenceError("ABORTED", `stopped while ${label}; started again it goes on from there`);
      const part = join(folder, `${String(from).padStart(8, "0")}.jsonl`);
      if (!existsSync(part)) writeFileAtomic(part, toJsonLines(await work(items.slice(from, from + size), from)));
      all.push(...fromJsonLines<Result>(readText(part)));
      task.advance(Math.min(size, items.length - from));
    }
  } finally {
    task.end();
  }
  writeFileAtomic(path, toJsonLines(all));
  rmSync(folder, { recursive: true, force: true });
  return all;
}
