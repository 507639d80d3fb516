/** `credence calibration-tuning tune` and `classify` on a small labelled set in the published files. */
import { existsSync, readFileSync } from "node:fs";
import { join } from "node:path";
import t from "tap";
import { setLogLevel } from "../src/cli/output.js";
import { writeOffline } from "../src/methods/calibration-tuning/offline.js";
import { readClassifier } from "../src/methods/calibration-tuning/released-head.js";
import type { AnsweredRow } from "../src/methods/calibration-tuning/wire.js";
import { credence } from "./fixtures/command-line.js";
import { queryWords, writeTinyModel } from "./fixtures/tiny-model.js";

setLogLevel("error");
const folder = t.testdir();
const model = writeTinyModel(join(folder, "model"), { words: queryWords });
const row = (i: number, label: 0 | 1 | null): AnsweredRow => ({
  prompt: "",
  context: `what colour is that ${["hat", "pen", "cup"][i % 3]} ?`,
  targetPrompt: "\nAnswer:",
  target: "red",
  output: i % 2 ? "red" : "blue hat",
  label,
});
const rows = Array.from({ length: 12 }, (_, i) => row(i, i % 2 ? 1 : 0));
const labels = join(folder, "labels");
writeOffline(labels, "train", "0", rows, { examples: false });
writeOffline(labels, "validation", "0", rows.slice(0, 4), { examples: false });
const unjudged = join(folder, "unjudged");
writeOffline(unjudged, "train", "0", [rows[0]!, row(1, null)], { examples: false });
const heldOnly = join(folder, "held-only");
writeOffline(heldOnly, "validation", "0", rows, { examples: false });

const run = (script: string, set: string, logs: string, ...more: string[]) =>
  credence(
    ...["--json", "calibration-tuning", script, "--dataset", `offline:${set}`, "--log-dir", join(folder, logs)],
    ...["--model-name", model, "--dtype", "f32", "--threads", "1", "--max-steps=10", "--batch-size=4", "--lr=1e-2"],
    ...more,
  );

t.test("LoRA + Prompt by its published flags", async (t) => {
  const ended = await run("tune", labels, "tune", "--kl-decay=1.0", "--noint8", "--warmup_ratio=0.1");
  t.equal(ended.status, 0, ended.told);
  const told = JSON.parse(ended.out);
  t.match(told, { rows: 12, dropped: 0, steps: 10 });
  for (const step of [1, 10]) t.ok(existsSync(join(folder, "tune", `checkpoint-${step}`, "adapter_model.safetensors")));
  const config = JSON.parse(readFileSync(join(told.output, "adapter_config.json"), "utf8"));
  t.match(config, { r: 8, lora_alpha: 32, lora_dropout: 0.1, target_modules: ["q_proj", "v_proj"] });
  t.equal((await run("tune", labels, "tune", "--kl-decay=1.0", "--warmup_ratio=0.1")).status, 0, "done once more");
  const other = await run("tune", labels, "tune", "--kl-decay=0.5", "--warmup_ratio=0.1");
  t.match(other.told, /begun with other settings.*kappa: 1 then, 0\.5 now/);
  const published = await run("tune", labels, "tune", "--kl-decay=1.0", "--compat=A9-13");
  t.match(published.told, /is there already/, "as published a log folder that exists is refused");
  const further = await run(
    "tune",
    labels,
    "further",
    "--peft-dir",
    told.output,
    "--kl-decay=1",
    "--kl-type=reverse_kl",
  );
  t.equal(further.status, 0, further.told);
  const legacy = await run("tune", labels, "legacy", "--kl-decay=1", "--compat=A9-5,A9-26");
  t.equal(legacy.status, 0, legacy.told);
});

t.test("the LoRA classifier by its published flags", async (t) => {
  const ended = await run("classify", labels, "classify", "--with-lora", "--place", "answer-mean");
  t.equal(ended.status, 0, ended.told);
  t.equal(readClassifier(JSON.parse(ended.out).output).layers[0]!.inputs, 40);
  t.match((await run("classify", labels, "none")).told, /--with-lora/);
});

t.test("what is wrong is named", async (t) => {
  t.match((await run("tune", unjudged, "a")).told, /1 of 2 rows are not judged/);
  t.match((await run("tune", heldOnly, "b")).told, /has no train split; its splits are validation/);
  t.match((await run("tune", labels, "c", "--compat=A9-17")).told, /A9-17: it has no switch/);
  t.match(
    (await run("tune", labels, "d", "--lora-dropout=1")).told,
    /lora-dropout 1: expected a number from 0, below 1/,
  );
});
