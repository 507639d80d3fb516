/**
 * A training step of each of calibration-tuning's forms against PyTorch and PEFT (bench/peers/calibration_tuning_step.py): losses and
 * every gradient, in float32.
 */
import { readFileSync } from "node:fs";
import { fileURLToPath } from "node:url";
import t, { type Test } from "tap";
import {
  classifierName,
  classifierSpec,
  classifierStep,
  twoWay,
} from "../src/methods/calibration-tuning/classifier.js";
import { crossEntropy, divergenceNames } from "../src/methods/calibration-tuning/divergences.js";
import type { Lesson } from "../src/methods/calibration-tuning/lessons.js";
import { learnTemperature } from "../src/methods/calibration-tuning/temperature.js";
import { type TuningLoss, tuningLosses, tuningStep } from "../src/methods/calibration-tuning/tuning.js";
import { readSafetensors } from "../src/model/safetensors.js";
import { Model } from "../src/policy/model.js";
import type { Policy } from "../src/policy/policy.js";
import type { OwnStep } from "../src/training/loop.js";

const folder = fileURLToPath(new URL("golden/calibration-tuning-step/", import.meta.url));
const step = JSON.parse(readFileSync(`${folder}step.json`, "utf8"));
const tensors = readSafetensors(`${folder}tensors.safetensors`);
const model = await Model.load(folder, { dtype: "f32", threads: 1 });
t.teardown(() => model.dispose());

/** Whether all of `got` are within a share of the largest of `expected`. */
function near(got: ArrayLike<number>, expected: ArrayLike<number>, share: number): boolean {
  const largest = Array.from(expected).reduce((most, value) => Math.max(most, Math.abs(value)), 1e-6);
  return (
    got.length === expected.length &&
    Array.from(got).every((value, i) => Math.abs(value - expected[i]!) <= share * largest)
  );
}

/** Takes one step's loss and gradients, and holds them against those stored under a name. */
async function same(t: Test, name: string, policy: Policy, own: OwnStep): Promise<void> {
  using trainer = policy.trainer({ schedule: 1e-9, optimizer: { maxGradientNorm: 0 } });
  const { loss, count } = await own.accumulate(trainer);
  t.ok(near([loss / count], [step.losses[name]], 1e-5), `${name}: a loss of ${loss / count}, ${step.losses[name]}`);
  const found = trainer.gradients();
  const expected = tensors.filter((tensor) => tensor.name.startsWith(`${name}.`));
  t.equal(found.length, expected.length, `${name}: no gradient is left out`);
  for (const { name: key, data } of expected) {
    const last = key.slice(name.length + 1).replace(/^model\.|^head\./, "");
    const [only, ...more] = found.filter(
      (tensor) => tensor.name === last || tensor.name === `${classifierName}.${last}`,
    );
    t.ok(only && more.length === 0, `${key}: is one of ours`);
    t.ok(
      near(
        only!.data.map((value) => value / count),
        data,
        1e-4,
      ),
      `gradient ${key}`,
    );
  }
}

const tokens = (...parts: number[][]): Int32Array => Int32Array.from(parts.flat());
const rows: number[] = step.labels.map((_: number, i: number) => i);
const suffix: number[] = step.suffix;
/** The question once for the query and the right answer, or each text by itself. */
const lessons = (shared: boolean): Lesson[] =>
  rows.map((i) => {
    const [question, answer, target] = [step.questions[i], step.answers[i], step.targets[i]];
    const own = shared ? [] : question;
    return {
      label: step.labels[i],
      prefix: shared ? tokens(question) : tokens(),
      query: tokens(own, answer, suffix),
      target: tokens(own, target),
      whole: question.length + target.length,
      question: question.length,
    };
  });
const loss: TuningLoss = {
  candidates: step.choices,
  answer: crossEntropy,
  kappa: step.kappa,
  divergence: "jsd",
  microBatchTokens: 4096,
  compat: new Set(),
};

t.test("LoRA + Prompt at the base, by each divergence, in one pass or in several", async (t) => {
  await using policy = await model.policy({ adapter: `${folder}adapter` });
  for (const [published, divergence] of Object.entries(divergenceNames))
    for (const [shared, microBatchTokens] of [
      [true, 4096],
      [false, 20],
    ] as const)
      await same(
        t,
        `prompt.${published}`,
        policy,
        tuningStep(lessons(shared), { ...loss, divergence, microBatchTokens }),
      );
  const told = await tuningLosses(policy, lessons(true), loss);
  t.ok(near([told.loss], [step.losses["prompt.jsd"]], 1e-5), "the same loss where nothing is learnt");
});

t.test("LoRA + Prompt at another adapter", async (t) => {
  await using policy = await model.policy({ adapter: `${folder}adapter` });
  await using reference = await model.policy({ adapter: `${folder}reference` });
  await same(t, "prompt.reference", policy, tuningStep(lessons(true), { ...loss, reference }));
});

t.test("the classifier into the adapter, and its loss on frozen features", async (t) => {
  const heads = [classifierSpec()];
  const own = tensors
    .filter(({ name }) => name.startsWith("head."))
    .map((tensor) => ({ ...tensor, name: `${classifierName}.${tensor.name.slice("head.".length)}` }));
  await using policy = await model.policy({ adapter: `${folder}adapter`, heads });
  policy.native.setTensors(own);
  for (const place of ["last", "mean"]) {
    const read = rows.map((i) => {
      const [question, answer] = [step.questions[i], step.answers[i]];
      const to = question.length + answer.length;
      const from = place === "last" ? to - 1 : question.length;
      return { tokens: tokens(question, answer), from, to, label: step.labels[i] };
    });
    for (const budget of [4096, 9]) await same(t, `classifier.${place}`, policy, classifierStep(read, budget));
  }
  // Without an adapter the same step moves the head alone: the probe.
  await using probe = await model.policy({ heads });
  probe.native.setTensors(own);
  const { data, shape } = tensors.find(({ name }) => name === "features")!;
  const logits = probe.native.readHead(classifierName, data);
  const { loss: sum, gradient } = twoWay(logits, step.labels);
  t.ok(near([sum / shape[0]!], [step.losses.probe], 1e-5), "the loss on frozen features");
  const bias = [0, 1].map((k) => gradient.reduce((all, one, i) => all + (i % 2 === k ? one : 0), 0) / shape[0]!);
  t.ok(near(bias, tensors.find(({ name }) => name === "probe.6.bias")!.data, 1e-4), "and its derivatives");
});

t.test("a step of the temperature goes where its gradient says", (t) => {
  // AdamW's first step is one of the rate against the gradient's sign: that of T = 1 here, where PyTorch's was at log T = 0.3.
  const { log, logits, loss: stored, gradient } = step.temperature;
  const scaled = logits.map((value: number) => value / Math.exp(log));
  const settings = { steps: 1, batch: rows.length, learningRate: 1e-4, warmup: 0, weightDecay: 0, seed: 0 };
  const told = learnTemperature({ logits: scaled, classes: 2, labels: step.labels }, settings);
  t.ok(near([told.before], [stored], 1e-5), `a loss of ${told.before}, ${stored}`);
  t.ok(near([told.logTemperature], [-1e-4 * Math.sign(gradient)], 1e-4), "the step");
  const further = learnTemperature(
    { logits: scaled.map((v: number) => v / Math.exp(1e-4)), classes: 2, labels: step.labels },
    settings,
  );
  t.ok(near([(further.before - told.before) / 1e-4], [gradient], 2e-3), "the gradient, by a difference");
  t.end();
});
