/**
 * Passes over a file of rows: what was made goes to an output, with `FILE.pass.json` beside it that says what made it. A pass
 * that was stopped goes on from where it was; one by other settings is refused.
 */
import { existsSync, rmSync } from "node:fs";
import { join } from "node:path";
import { toJsonLines } from "../data/readers.js";
import { CredenceError } from "../errors.js";
import { makeFolder, readJson, readText, writeFileAtomic, writeFileFrom, writeJsonAtomic } from "../files.js";
import type { Progress } from "../tracking/progress.js";

export interface PassContext {
  output: string;
  progress: Progress;
  /** Name of the pass, as progress shows it. */
  label: string;
  /** Flags that were given and make no difference: recorded. */
  notNeeded?: Record<string, unknown>;
  signal?: AbortSignal;
}

const shown = (setting: unknown): string => JSON.stringify(setting) ?? "not given";

/** Whether an output is there already, made as is asked for now. */
export function isDone({ output, notNeeded = {} }: PassContext, made: Record<string, unknown>): boolean {
  const path = `${output}.pass.json`;
  if (existsSync(path)) {
    const { notNeeded: _, ...before } = readJson(path) as Record<string, unknown>;
    const differs = [...new Set([...Object.keys(made), ...Object.keys(before)])].filter(
      (name) => JSON.stringify(made[name]) !== JSON.stringify(before[name]),
    );
    if (differs.length > 0)
      throw new CredenceError(
        "OTHER_RUN",
        `${output} was made, or begun, with other settings: ${differs.map((name) => `${name} was ${shown(before[name])} and is ${shown(made[name])}`).join("; ")}. Remove ${path}${existsSync(output) ? " and the output" : ""}, or write elsewhere`,
      );
    return existsSync(output);
  }
  if (existsSync(output))
    throw new CredenceError(
      "EXISTS",
      `${output} is there, and nothing beside it says what made it. Remove it, or write elsewhere`,
    );
  writeJsonAtomic(path, { ...made, ...(Object.keys(notNeeded).length > 0 ? { notNeeded } : {}) });
  return false;
}

/**
 * Makes records of rows a part at a time, in JSON lines beside the output; parts that are there already are kept.
 *
 * @param make the records of rows from..to (excluded); tells how many tokens they took
 * @param finish what becomes of the parts' files, in their order; they are removed behind it
 */
export async function inParts(
  { output, progress, label }: PassContext,
  rows: { count: number; chunk: number },
  make: (from: number, to: number, onTokens: (count: number) => void) => Promise<readonly unknown[]>,
  finish: (paths: readonly string[]) => Promise<void>,
): Promise<void> {
  const parts = `${output}.parts`;
  makeFolder(parts);
  const task = progress.task(label, rows.count, "questions", "tokens");
  const paths: string[] = [];
  try {
    for (let from = 0; from < rows.count; from += rows.chunk) {
      const to = Math.min(rows.count, from + rows.chunk);
      // Named by what it holds: a part of another size is not taken for this one.
      const path = join(parts, `${String(from).padStart(9, "0")}-${to}.jsonl`);
      paths.push(path);
      let tokens = 0;
      if (!existsSync(path)) {
        const records = await make(from, to, (count) => {
          tokens = count;
        });
        writeFileAtomic(path, toJsonLines(records));
      }
      task.advance(to - from, tokens);
    }
  } finally {
    task.end();
  }
  await finish(paths);
  rmSync(parts, { recursive: true, force: true });
}

/** For `inParts`: the parts one after the other are the output. */
export const joinedInto =
  (output: string) =>
  (paths: readonly string[]): Promise<void> =>
    writeFileFrom(output, pieces(paths));

async function* pieces(paths: readonly string[]): AsyncGenerator<string, void, undefined> {
  for (const path of paths) yield readText(path);
}
