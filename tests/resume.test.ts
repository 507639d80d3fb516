/**
 * A run that dies anywhere resumes to the same bytes: at each write, fsync and rename of a whole run with three checkpoints,
 * and at random moments. The processes are real ones, killed without a chance to clean up.
 */
import { spawn } from "node:child_process";
import { existsSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import t from "tap";
import { stringify } from "yaml";
import { loadRecipe, type Setting } from "../src/methods/recipes.js";
import { parallel, placesToDie } from "./fixtures/kills.js";
import { runBytes, tinySettings } from "./fixtures/runs.js";
import { writeTinyModel, writeTinyQuestions } from "./fixtures/tiny-model.js";

/** All of some 250 kills take five minutes on two quiet cores, and a multiple of that on busy ones. */
const patience = { timeout: 25 * 60_000 };
t.setTimeout(patience.timeout);

const bin = fileURLToPath(new URL("../dist/cli/bin.js", import.meta.url));
const skip = existsSync(bin) ? false : "the command line is not built";

interface Ended {
  code: number | null;
  signal: NodeJS.Signals | null;
  seconds: number;
  errors: string;
}

/** One process of `credence run`; killed after `kill` seconds if given. */
function run(
  recipe: string,
  directory: string,
  { env = {}, kill }: { env?: Record<string, string>; kill?: number } = {},
): Promise<Ended> {
  return new Promise((resolve, reject) => {
    const started = performance.now();
    const args = [bin, "run", recipe, "--run-dir", directory, "--threads", "1", "--log-level", "error"];
    const child = spawn(process.execPath, args, {
      env: { ...process.env, ...env },
      stdio: ["ignore", "ignore", "pipe"],
    });
    let errors = "";
    child.stderr.on("data", (data) => {
      errors += data;
    });
    const timer = kill === undefined ? undefined : setTimeout(() => child.kill("SIGKILL"), kill * 1000);
    child.on("error", reject);
    child.on("close", (code, signal) => {
      clearTimeout(timer);
      resolve({ code, signal, seconds: (performance.now() - started) / 1000, errors });
    });
  });
}

function recipeFile(folder: string, name: string, extra: Setting[]): string {
  const settings = tinySettings(join(folder, "model"), join(folder, "questions.jsonl"));
  const path = join(folder, `${name}.yaml`);
  writeFileSync(path, stringify(loadRecipe("elical/quickstart", [...settings, ...extra])));
  return path;
}

t.test("a run that dies", { skip, ...patience }, async (t) => {
  const folder = t.testdir();
  writeTinyModel(join(folder, "model"));
  writeTinyQuestions(join(folder, "questions.jsonl"), 48);

  t.test("at each write, fsync and rename", patience, async (t) => {
    // One optimiser step, and with it one checkpoint, for each of the three LoRA trainings.
    const recipe = recipeFile(folder, "short", [
      ["labels.counts", [12]],
      ["labels.main", 12],
      ["lora.batch", 64],
      ["lora.elicitEpochs", 1],
      ["lora.calibrateEpochs", 1],
    ]);
    const whole = join(folder, "short-whole");
    const ended = await run(recipe, whole, {
      env: { CREDENCE_FAULTS: "1", CREDENCE_COUNT_FILE: join(folder, "count") },
    });
    t.match(ended, { code: 0 }, ended.errors);
    const expected = runBytes(whole);
    const operations = Number(readFileSync(join(folder, "count"), "utf8"));
    t.ok(operations > 100, `${operations} operations`);
    const wrong: string[] = [];
    const places = placesToDie(operations);
    await parallel(places.length, async (turn) => {
      const place = places[turn]!;
      const directory = join(folder, `short-${place}`);
      const died = await run(recipe, directory, { env: { CREDENCE_FAULTS: "1", CREDENCE_DIE_AT: String(place) } });
      const resumed = await run(recipe, directory);
      if (died.signal !== "SIGKILL") wrong.push(`${place}: did not die (${died.errors})`);
      else if (resumed.code !== 0) wrong.push(`${place}: ${resumed.errors}`);
      else if (JSON.stringify(runBytes(directory)) !== JSON.stringify(expected)) wrong.push(`${place}: other bytes`);
      rmSync(directory, { recursive: true, force: true });
    });
    t.same(wrong, []);
  });

  t.test("at random moments", patience, async (t) => {
    const recipe = recipeFile(folder, "long", []);
    const whole = join(folder, "long-whole");
    const ended = await run(recipe, whole);
    t.match(ended, { code: 0 }, ended.errors);
    const expected = runBytes(whole);
    for (let kill = 0; kill < 10; kill++) {
      const directory = join(folder, "killed");
      rmSync(directory, { recursive: true, force: true });
      // From the first write to past the border between sampling and training.
      await run(recipe, directory, { kill: ended.seconds * (0.3 + 0.65 * Math.random()) });
      const resumed = await run(recipe, directory);
      t.match(resumed, { code: 0 }, resumed.errors);
      t.same(runBytes(directory), expected);
    }
  });
});
