/** Recipes and run folders: what is refused and how it is said, and that stopping changes nothing. */
import { existsSync, readdirSync, readFileSync, writeFileSync } from "node:fs";
import { hostname } from "node:os";
import { join } from "node:path";
import t from "tap";
import { appendFile, isWholeFolder, writeFileAtomic, writeFolderAtomic } from "../src/files.js";
import { loadRecipe, parseSetting, runRecipe } from "../src/methods/recipes.js";
import { progressOn } from "../src/tracking/progress.js";
import { lockFolder, lockName } from "../src/training/lock.js";
import { fakeEngine } from "./fixtures/fake-native.js";
import { fitLogistic } from "./fixtures/fit-logistic.js";
import { metricsOf, runBytes, tinySettings } from "./fixtures/runs.js";
import { writeTinyModel, writeTinyQuestions } from "./fixtures/tiny-model.js";

const addon = { ...fakeEngine(), fitLogistic };

t.test("recipes", async (t) => {
  const recipe = loadRecipe("elical/quickstart");
  t.match(recipe, {
    method: "elical",
    samples: { count: 10, temperature: 1, topK: 50, topP: 0.95 },
    answer: { newTokens: 16 },
  });
  t.match(recipe.labels, { counts: [30, 100, 300], main: 100 });
  t.match(recipe.lora, { rank: 8, alpha: 16, learningRate: 3e-4, elicitEpochs: 2, calibrateEpochs: 5, batch: 16 });
  t.equal(loadRecipe("elical/quickstart", [parseSetting("questions.limit=120")]).questions.limit, 120);
  t.throws(() => loadRecipe("elical/quickstart", [["samples.cuont", 3]]), {
    code: "BAD_RECIPE",
    message: /samples\.cuont: there is no such option/,
  });
  t.throws(() => loadRecipe("elical/quickstart", [["samples.count", "many"]]), {
    code: "BAD_RECIPE",
    message: /samples\.count/,
  });
  t.throws(() => loadRecipe("elical/quickstart", [["labels.main", 50]]), {
    message: /labels\.main is 50; expected one of/,
  });
  t.throws(() => loadRecipe("elical/fast"), { code: "NO_RECIPE", message: /elical\/quickstart/ });
  t.throws(() => loadRecipe({ method: "magic" }), { message: /method is "magic"; expected one of elical/ });
  t.throws(() => loadRecipe({ method: "elical", model: "m", prompt: { user: "Go" } }), {
    message: /prompt\.user: has no \{question\}/,
  });
  t.throws(() => parseSetting("questions.limit"), { code: "USAGE" });
});

t.test("one process at a time", async (t) => {
  const folder = t.testdir();
  const lock = join(folder, lockName);
  const unlock = lockFolder(folder);
  t.throws(() => lockFolder(folder), { code: "RUN_IN_USE", message: new RegExp(`process ${process.pid} `) });
  unlock();
  t.notOk(existsSync(lock));

  const holder = { host: hostname(), pid: process.ppid, started: "1" };
  writeFileSync(lock, JSON.stringify(holder));
  lockFolder(folder)(); // that number belongs to another process now
  writeFileSync(lock, JSON.stringify({ ...holder, pid: 2 ** 22 + 1 }));
  lockFolder(folder)(); // nobody has it
  writeFileSync(lock, JSON.stringify({ ...holder, host: "elsewhere" }));
  t.throws(() => lockFolder(folder), { code: "RUN_IN_USE", message: /on elsewhere.*delete/ });
});

t.test("a run folder", async (t) => {
  const folder = t.testdir();
  const settings = tinySettings(
    writeTinyModel(join(folder, "model")),
    writeTinyQuestions(join(folder, "questions.jsonl")),
  );
  const recipe = loadRecipe("elical/quickstart", settings);
  const whole = join(folder, "whole");
  const summary = await runRecipe(recipe, { directory: whole, addon });

  t.test("holds what the interface names", async (t) => {
    for (const name of [
      "recipe.yaml",
      "state.json",
      "summary.json",
      "report.html",
      "best/credence.json",
      "best/heads.safetensors",
    ]) {
      t.ok(existsSync(join(whole, name)), name);
    }
    const checkpoint = join(whole, "stages", "05-elicit-seed0", "best");
    for (const name of [
      "adapter_config.json",
      "adapter_model.safetensors",
      "heads.safetensors",
      "credence.json",
      "optimizer.safetensors",
      "state.json",
    ]) {
      t.ok(existsSync(join(checkpoint, name)), name);
    }
    t.ok(isWholeFolder(checkpoint));
    const metrics = metricsOf(join(whole, "stages", "05-elicit-seed0"));
    t.same(
      metrics.map(({ step }) => step),
      metrics.map((_, i) => i + 1),
    );
    t.ok(readdirSync(join(whole, "stages", "05-elicit-seed0")).some((name) => name.startsWith("events.out.tfevents.")));
    t.match(summary.metrics["probe-answer"]?.brier, { value: Number, low: Number, high: Number, n: Number });
    t.match(summary.model, { files: [{ name: String, sha256: /^[0-9a-f]{64}$/ }] });
    t.ok(readdirSync(join(whole, "predictions")).includes("lora-question-calibration-only.jsonl"));
  });

  t.test("done once, it is not done again", async (t) => {
    const before = runBytes(whole);
    await runRecipe(recipe, { directory: whole, addon });
    t.same(runBytes(whole), before);
  });

  t.test("of another recipe is refused, naming the difference", async (t) => {
    const other = loadRecipe("elical/quickstart", [...settings, ["lora.rank", 4]]);
    await t.rejects(runRecipe(other, { directory: whole, addon }), { code: "OTHER_RECIPE", message: /lora\.rank/ });
  });

  t.test("begun on another machine is refused, unless told", async (t) => {
    const state = join(whole, "state.json");
    const text = readFileSync(state, "utf8");
    writeFileSync(state, text.replace('"isa": "scalar"', '"isa": "avx512bf16"'));
    await t.rejects(runRecipe(recipe, { directory: whole, addon }), {
      code: "OTHER_MACHINE",
      message: /isa: avx512bf16 then, scalar now/,
    });
    await t.resolves(runRecipe(recipe, { directory: whole, addon, resumeInexact: true }));
    writeFileSync(state, text);
  });

  t.test("that is no run's folder is left alone", async (t) => {
    const other = t.testdir({ "notes.txt": "mine" });
    await t.rejects(runRecipe(recipe, { directory: other, addon }), { code: "NOT_A_RUN" });
    t.same(readdirSync(other), ["notes.txt"]);
  });

  t.test("stopped at any stage goes on to the same bytes", async (t) => {
    const expected = runBytes(whole);
    for (const stop of [
      "answering",
      "fitting",
      "LoRA, learning",
      "LoRA, calibrating",
      "LoRA, calibrating from scratch",
    ]) {
      const directory = join(folder, `stopped-${stop.replace(/\W+/g, "-")}`);
      const controller = new AbortController();
      const plain = progressOn({ stream: { write: () => true } as never, terminal: false });
      const progress = {
        ...plain,
        task: (label: string, total: number, unit: string) => {
          const task = plain.task(label, total, unit);
          let done = 0;
          const advance = (count: number, work?: number) => {
            task.advance(count, work);
            done += count;
            if (label.startsWith(stop) && done > 2) controller.abort();
          };
          return { ...task, advance };
        },
      };
      await t.rejects(
        runRecipe(recipe, { directory, addon, progress, signal: controller.signal }),
        { code: "ABORTED" },
        stop,
      );
      await runRecipe(recipe, { directory, addon });
      t.same(runBytes(directory), expected, stop);
    }
  });

  t.test("folds test every question once a seed", async (t) => {
    const directory = join(folder, "folds");
    const folds = loadRecipe("elical/quickstart", [...settings, ["folds", 3], ["seeds", 2], ["lora.enabled", false]]);
    const { metrics, questions } = await runRecipe(folds, { directory, addon });
    const brier = metrics["probe-answer"]!.brier;
    t.equal(brier.value === null ? 0 : brier.n, questions.total);
    for (const seed of [0, 1]) {
      const lines = readFileSync(join(directory, "predictions", `probe-answer-seed${seed}.jsonl`), "utf8")
        .trim()
        .split("\n");
      t.equal(new Set(lines.map((line) => JSON.parse(line).id)).size, questions.total);
    }
  });
});

t.test("files that cannot be written", async (t) => {
  const folder = t.testdir({ file: "text" });
  t.throws(() => writeFileAtomic(join(folder, "file", "inside"), "x"), {
    code: "FILE",
    message: /cannot write .*inside: /,
  });
  t.throws(() => writeFolderAtomic(join(folder, "file", "inside"), { a: "x" }), { code: "FILE" });
  t.throws(() => appendFile("/dev/full", "x"), { code: "DISK_FULL", message: /the disk is full/ });
  t.same(readdirSync(folder), ["file"]);
  writeFolderAtomic(join(folder, "whole"), { a: "1", b: ["2", "3"] });
  t.ok(isWholeFolder(join(folder, "whole")));
  writeFileSync(join(folder, "whole", "b"), "24");
  t.notOk(isWholeFolder(join(folder, "whole")), "a changed file is noticed");
});
