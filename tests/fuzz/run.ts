/**
 * One target, so many inputs: run.ts TARGET RUNS SEED [FOLDER]. Says in a line of JSON what came of it; an input that
 * breaks something is left in FOLDER. Run by scripts/fuzz.mjs.
 */
import { mkdirSync, writeFileSync } from "node:fs";
import { Session } from "node:inspector/promises";
import { join } from "node:path";
import { search } from "./search.js";
import { targets } from "./targets.js";

const [name, runs, seed, folder] = process.argv.slice(2);
const target = targets.find((one) => one.name === name);
if (!target) throw new Error(`no target ${name}; there are ${targets.map((one) => one.name).join(", ")}`);

const session = new Session();
session.connect();
await session.post("Profiler.enable");
await session.post("Profiler.startPreciseCoverage", { callCount: false, detailed: true });

const started = performance.now();
const { executions, failure } = await search(target, Number(runs), Number(seed));
const seconds = (performance.now() - started) / 1000;

let input: string | undefined;
if (failure) {
  mkdirSync(folder!, { recursive: true });
  input = join(folder!, `${name}.bin`);
  writeFileSync(input, failure.input);
  console.error(failure.error);
}
const covered = await coverage(target.covers);
console.log(JSON.stringify({ executions, seconds, covered, ...(input ? { input } : {}) }));
process.exitCode = failure ? 1 : 0;

/** Share of the characters of the files' functions that were run. (The files themselves ran before anything was counted.) */
async function coverage(files: string[]): Promise<number> {
  const { result: scripts } = await session.post("Profiler.takePreciseCoverage");
  let run = 0;
  let all = 0;
  for (const { functions } of scripts.filter(({ url }) =>
    files.some((file) => url.endsWith(`/src/${file.replace(/ts$/, "js")}`)),
  )) {
    const ranges = functions.filter((one) => one.ranges[0]!.startOffset > 0).flatMap((one) => one.ranges);
    // The innermost range says whether a character was run: outer ones are painted first.
    ranges.sort((a, b) => a.startOffset - b.startOffset || b.endOffset - a.endOffset);
    const painted = new Uint8Array(Math.max(0, ...ranges.map((range) => range.endOffset)));
    for (const { startOffset, endOffset, count } of ranges) painted.fill(count > 0 ? 2 : 1, startOffset, endOffset);
    for (const state of painted) {
      if (state > 0) all += 1;
      if (state === 2) run += 1;
    }
  }
  return run / all;
}
