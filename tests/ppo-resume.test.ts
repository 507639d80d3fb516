/**
 * Reinforcement that dies anywhere goes on to the same bytes, with rewards that come late and out of order: at each write,
 * fsync and rename of a run with a checkpoint after each iteration, and at random moments, killed without a chance to clean up.
 */
import { spawn } from "node:child_process";
import { existsSync, readFileSync, rmSync } from "node:fs";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import t from "tap";
import { parallel, placesToDie } from "./fixtures/kills.js";
import { runBytes } from "./fixtures/runs.js";
import { writeTinyModel } from "./fixtures/tiny-model.js";

const here = (path: string) => fileURLToPath(new URL(path, import.meta.url));
const skip = existsSync(here("../dist/index.js")) ? false : "the library is not built";
const patience = { timeout: 15 * 60_000 };
t.setTimeout(patience.timeout);

interface Ended {
  signal: NodeJS.Signals | null;
  code: number | null;
  /** From the moment the run that may die began. */
  seconds: number;
  errors: string;
}

interface Asked {
  resume?: string;
  begin?: string;
  dieAt?: number;
  countFile?: string;
}

t.test("reinforcement that dies", { skip, ...patience }, async (t) => {
  const folder = t.testdir();
  const model = writeTinyModel(join(folder, "model"));

  /** One process; killed so many seconds after it has begun. */
  const run = (asked: Asked, kill?: number): Promise<Ended> =>
    new Promise((resolve, reject) => {
      const program = here("fixtures/dying-ppo.mjs");
      const child = spawn(process.execPath, [program, JSON.stringify({ model, ...asked })], {
        stdio: ["ignore", "pipe", "pipe"],
      });
      let errors = "";
      let began = 0;
      let timer: NodeJS.Timeout | undefined;
      child.stderr.on("data", (data) => {
        errors += data;
      });
      child.stdout.once("data", () => {
        began = performance.now();
        if (kill !== undefined) timer = setTimeout(() => child.kill("SIGKILL"), kill * 1000);
      });
      child.on("error", reject);
      child.on("close", (code, signal) => {
        clearTimeout(timer);
        resolve({ code, signal, seconds: (performance.now() - began) / 1000, errors });
      });
    });

  const whole = join(folder, "whole");
  const countFile = join(folder, "count");
  const ended = await run({ begin: whole, countFile });
  t.match(ended, { code: 0 }, ended.errors);
  const expected = JSON.stringify(runBytes(whole));
  const operations = Number(readFileSync(countFile, "utf8"));
  t.ok(operations > 100, `${operations} operations`);

  t.test("at each write, fsync and rename", patience, async (t) => {
    // Each process goes on with what the one before it left, then dies in a run of its own: half the starts.
    const places = placesToDie(operations);
    const wrong: string[] = [];
    const chains = 4;
    await parallel(chains, async (chain) => {
      let left: string | undefined;
      const go = async (place?: number) => {
        const begin = place === undefined ? undefined : join(folder, `dies-${place}`);
        const { signal, code, errors } = await run({ resume: left, begin, dieAt: place });
        if (place === undefined ? code !== 0 : signal !== "SIGKILL") wrong.push(`${begin ?? left}: ${errors}`);
        if (left !== undefined) {
          if (JSON.stringify(runBytes(left)) !== expected) wrong.push(`${left}: other bytes`);
          rmSync(left, { recursive: true });
        }
        left = begin;
      };
      for (const place of places.filter((_, i) => i % chains === chain)) await go(place);
      await go();
    });
    t.same(wrong, []);
  });

  t.test("at random moments", patience, async (t) => {
    const directory = join(folder, "killed");
    let killed = 0;
    for (let kill = 0; kill < 5; kill++) {
      const { signal } = await run({ begin: directory }, ended.seconds * Math.random());
      if (signal === "SIGKILL") killed += 1;
      const resumed = await run({ resume: directory });
      t.match(resumed, { code: 0 }, resumed.errors);
      t.equal(JSON.stringify(runBytes(directory)), expected);
      rmSync(directory, { recursive: true });
    }
    t.comment(`${killed} of 5 were killed before they ended`);
  });
});
