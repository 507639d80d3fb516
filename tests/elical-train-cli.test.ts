/** Training and predicting from the command line: a killed training ends with the same bytes, and flags that cannot be. */
import { spawnSync } from "node:child_process";
import { existsSync, readdirSync, readFileSync } from "node:fs";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import t from "tap";
import { parse } from "yaml";
import type { TrainingReport } from "../src/methods/elical/published/train.js";
import { native } from "../src/native.js";
import { credence } from "./fixtures/command-line.js";
import { writeToySet } from "./fixtures/published-training.js";
import { metricsOf, runBytes } from "./fixtures/runs.js";
import { writeTinyModel } from "./fixtures/tiny-model.js";

const bin = fileURLToPath(new URL("../dist/cli/bin.js", import.meta.url));

t.test("the commands", { skip: existsSync(bin) ? false : "the command line is not built" }, async (t) => {
  const folder = t.testdir();
  const model = writeTinyModel(join(folder, "model"));
  for (const set of ["nq", "tq"]) await writeToySet(join(folder, set), { count: 16 });
  const called = (args: string[], env: Record<string, string> = {}) =>
    spawnSync(process.execPath, [bin, "elical", ...args, "--threads", "1", "--log-level", "warn"], {
      env: { ...process.env, ...env },
      encoding: "utf8",
    });
  const training = (output: string, script = "train") => [
    ...[script, "--model_path", model, "--dataset", "nq-tq", "--shuffle", "--train_data_count", "24"],
    ...["--train_data_path", join(folder, "nq-tq", "sampled.jsonl")],
    ...["--train_consis_path", join(folder, "nq-tq", "verdicts.jsonl")],
    ...["--output_path", join(folder, output), "--logger_path", join(folder, `${output}-logs`)],
    ...["--per_device_train_batch_size", "4", "--gradient_accumulation_steps", "1", "--num_train_epochs", "2"],
    ...["--weight_decay", "0.1", "--learning-rate", "5e-3", "--validation-share", "0.25"],
  ];

  const whole = called(training("whole"), { CREDENCE_FAULTS: "1", CREDENCE_COUNT_FILE: join(folder, "count") });
  t.equal(whole.status, 0, whole.stderr);
  const expected = runBytes(join(folder, "whole"));
  const operations = Number(readFileSync(join(folder, "count"), "utf8"));
  t.ok(readdirSync(join(folder, "whole-logs")).some((name) => name.startsWith("events.out.tfevents.")));
  const first = Math.floor(Date.now() / 86_400_000);
  for (let kill = 0; kill < 4; kill++) {
    const at = Math.floor(((kill + (first % 7) / 7) / 4) * (operations - 1)) + 1;
    const killed = training(`killed-${kill}`);
    t.equal(called(killed, { CREDENCE_FAULTS: "1", CREDENCE_DIE_AT: String(at) }).signal, "SIGKILL", `dies at ${at}`);
    const again = called(killed);
    t.equal(again.status, 0, again.stderr);
    t.same(runBytes(join(folder, `killed-${kill}`)), expected, `of ${operations} operations`);
  }

  const head = called([...training("head", "train-mlp"), "--compat", "B9-19", "--json"]);
  t.equal(head.status, 0, head.stderr);
  t.match(JSON.parse(head.stdout), { rows: 17, validationRows: 7, steps: 10 });
  const at = (run: string) => join(folder, run, "best_checkpoints"); // as released
  const data = ["--test_data_path", join(folder, "nq", "sampled.jsonl"), join(folder, "tq", "sampled.jsonl")];
  const predicting = (script: string, run: string, out: string) => [
    ...[script, "--model_path", model, "--vector_head_path", join(at(run), "vector_head_epoch_best.pt"), ...data],
    ...["--output_path", join(folder, out, "nq"), join(folder, out, "tq")],
  ];
  const lora = ["--lora_path", join(at("whole"), "lora_epoch_best"), "--r", "8"];
  for (const args of [predicting("predict-mlp", "head", "p"), [...predicting("predict", "whole", "p"), ...lora]]) {
    const done = called(args);
    t.equal(done.status, 0, done.stderr);
    const lines = readFileSync(join(folder, "p", "tq", "evaluation_results_test.jsonl"), "utf8")
      .trim()
      .split("\n");
    t.same(
      lines.map((line) => JSON.parse(line).index),
      Array.from({ length: 16 }, (_, i) => i),
    );
  }
  const usage = async (args: string[], message: RegExp) => {
    const { status, told } = await credence("elical", ...args);
    t.equal(status, 2, told);
    t.match(told, message);
  };
  await usage([...training("x"), "--per_device_eval_batch_size", "8"], /did nothing in the published script/);
  for (const [flag, value, expected] of [
    ["num_train_epochs", "0", "one whole number above 0"],
    ["per_device_train_batch_size", "-4", "one whole number above 0"],
    ["train_data_count", "2.5", "one whole number from 0"],
    ["lora_dropout", "1", "a number from 0, below 1"],
    ["learning-rate", "x", "a number above 0"],
    ["validation-share", "1.5", "a number above 0, below 1"],
  ] as const) {
    const at = training("x").indexOf(`--${flag}`);
    const line = at < 0 ? training("x") : training("x").toSpliced(at, 2);
    await usage([...line, `--${flag}=${value}`], new RegExp(`--${flag}: expected ${expected}, got`));
  }
  await usage([...training("x"), "--lora_path", "y"], /--lora_path is what --resume_from goes on from/);
  await usage([...training("x"), "--resume_from"], /--vector_head_path says which head/);
  await usage(predicting("predict-mlp", "head", "p").slice(0, -1), /names 2 files, --output_path 1 folders/);
  await usage([...predicting("predict-mlp", "head", "p"), "--type", "train"], /--train_data_path says what to score/);
});

t.test("without other flags a training is as published", async (t) => {
  const folder = t.testdir();
  const model = writeTinyModel(join(folder, "model"));
  const { data, verdicts } = await writeToySet(join(folder, "nq"), { count: 120 });
  const trained = async (script: string, output: string) => {
    const files = ["--train_data_path", data, "--train_consis_path", verdicts, "--output_path", output];
    const { status, out, told } = await credence(
      ...["elical", script, "--model_path", model, ...files, "--threads", "1", "--log-level", "error", "--json"],
    );
    t.equal(status, 0, told);
    return JSON.parse(out) as TrainingReport;
  };

  const lora = await trained("train", join(folder, "lora"));
  t.match(parse(readFileSync(join(folder, "lora", "recipe.yaml"), "utf8")), {
    ...{ batch: 16, accumulation: 8, epochs: 10, learningRate: 5e-5, weightDecay: 0, warmup: 0.1, patience: 4 },
    ...{ seed: 42, count: 0, shuffle: false, rank: 8, alpha: 16, dropout: 0, validationShare: 0.1 },
  });
  t.same([lora.rows, lora.validationRows], [108, 12], "a tenth of the questions is held out");
  // One step an epoch: of ten, one warms up, and what is left goes down in a straight line.
  const steps = metricsOf(join(folder, "lora", "stages", "01-train")).filter(({ loss }) => loss !== undefined);
  t.equal(lora.steps, 10);
  t.same(
    steps.map(({ learningRate }) => learningRate!.toPrecision(6)),
    Array.from({ length: 10 }, (_, i) => ((5e-5 * Math.min(9, 10 - i)) / 9).toPrecision(6)),
  );
  const config = JSON.parse(readFileSync(join(lora.adapter!, "adapter_config.json"), "utf8"));
  t.same(config.target_modules.toSorted(), [
    ...["down_proj", "gate_proj", "k_proj", "o_proj", "q_proj", "up_proj", "v_proj"],
  ]);
  t.match(config, { r: 8, lora_alpha: 16, lora_dropout: 0, bias: "none" });
  t.same(shapes(lora.head), { weight: [1, 40], bias: [1] });

  const head = await trained("train-mlp", join(folder, "head"));
  t.equal(head.adapter, undefined);
  t.same(shapes(head.head), {
    ...{
      "0.weight": [20, 40],
      "0.bias": [20],
      "2.weight": [10, 20],
      "2.bias": [10],
      "4.weight": [1, 10],
      "4.bias": [1],
    },
  });
});

const shapes = (path: string) =>
  Object.fromEntries(
    native()
      .readTensors(path)
      .map(({ name, shape }) => [name, shape]),
  );
