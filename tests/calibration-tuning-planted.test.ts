/**
 * Answers that are right with a seeded probability, which a word of the question shows: each of calibration-tuning's trained forms
 * comes to know it.
 */
import { join } from "node:path";
import t, { type Test } from "tap";
import { PythonRandom } from "../src/data/random.js";
import { measure } from "../src/evaluation/metrics.js";
import { classifierLogits, placedRows } from "../src/methods/calibration-tuning/classifier.js";
import { classifierTune } from "../src/methods/calibration-tuning/classify.js";
import type { JudgedRow } from "../src/methods/calibration-tuning/lessons.js";
import { probabilities, queryLogprobs } from "../src/methods/calibration-tuning/query.js";
import { calibrationTune } from "../src/methods/calibration-tuning/tune.js";
import { native } from "../src/native.js";
import { Model } from "../src/policy/model.js";
import { queryWords, writeTinyModel } from "./fixtures/tiny-model.js";

const shares = [0.1, 0.4, 0.7, 0.95];
const colours = ["red", "green", "blue", "black"];
const folder = t.testdir();
const words = [...queryWords, ...shares.map((_, kind) => `kind${kind}`)];
const isa = native().machine().isas.includes("avx2") ? "avx2" : "auto";
const model = await Model.load(writeTinyModel(join(folder, "model"), { words }), { isa, dtype: "f32", threads: 1 });
t.teardown(() => model.dispose());

/** As many rows of each kind, with the share of right answers that the kind has. */
function planted(count: number, seed: number): { rows: JudgedRow[]; share: number[] } {
  const random = new PythonRandom(seed);
  const share = Array.from({ length: count }, (_, i) => shares[i % shares.length]!);
  const any = () => colours[Math.floor(random.random() * colours.length)]!;
  const rows = share.map(
    (right, i): JudgedRow => ({
      prompt: "",
      context: `what colour is kind${i % shares.length} ?`,
      targetPrompt: "\nAnswer:",
      target: any(),
      output: any(),
      label: random.random() < right ? 1 : 0,
    }),
  );
  return { rows, share };
}

const learnt = planted(1600, 5);
const held = planted(1600, 6);
const settings = { steps: 160, batch: 24, learningRate: 1e-2, warmup: 0.05 };

/** ECE and AUROC of what is said of the held rows, beside those of the planted shares. */
function judge(t: Test, form: string, said: Float64Array): void {
  const predictions = (confidence: ArrayLike<number>) =>
    held.rows.map(({ label }, i) => ({ confidence: confidence[i]!, correct: label }));
  const own = predictions(said);
  const best = measure(predictions(held.share), "auroc")!;
  const [ece, auroc] = [measure(own, "ece")!, measure(own, "auroc")!];
  t.ok(ece <= 0.04, `${form}: ECE ${ece}`);
  t.ok(auroc >= best - 0.03, `${form}: AUROC ${auroc}, at best ${best}`);
}

t.test("LoRA + Prompt, its answers held", async (t) => {
  const { policy, rows } = await calibrationTune({
    ...settings,
    model,
    directory: join(folder, "tune"),
    rows: learnt.rows,
  });
  t.equal(rows, 1600);
  judge(t, "LoRA + Prompt", probabilities(await queryLogprobs(policy, held.rows)));
  await policy.dispose();
});

t.test("the LoRA classifier", async (t) => {
  const policy = await classifierTune({
    ...settings,
    learningRate: 3e-3,
    model,
    directory: join(folder, "classify"),
    rows: learnt.rows,
  });
  const read = await placedRows(model, held.rows, "last");
  judge(t, "LoRA", probabilities(await classifierLogits(policy, read, { microBatchTokens: 4096 })));
  await policy.dispose();
});
