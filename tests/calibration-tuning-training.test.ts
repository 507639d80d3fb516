/** What calibration-tuning's trainings are made of: losses by their definitions, lessons, temperatures, and a training that goes on. */
import { existsSync, readFileSync } from "node:fs";
import { join } from "node:path";
import t from "tap";
import { classifierName, classifierSpec, initialise, twoWay } from "../src/methods/calibration-tuning/classifier.js";
import { classifierTune } from "../src/methods/calibration-tuning/classify.js";
import {
  crossEntropy,
  divergenceNames,
  divergenceOf,
  tokenizedBrier,
} from "../src/methods/calibration-tuning/divergences.js";
import { heldFrom, type JudgedRow, lessonsOf } from "../src/methods/calibration-tuning/lessons.js";
import { probabilities } from "../src/methods/calibration-tuning/query.js";
import { readClassifier } from "../src/methods/calibration-tuning/released-head.js";
import {
  learnTemperature,
  solveTemperature,
  solveTokenTemperature,
  temperatureBounds,
} from "../src/methods/calibration-tuning/temperature.js";
import { plannedSteps } from "../src/methods/calibration-tuning/training.js";
import { calibrationTune } from "../src/methods/calibration-tuning/tune.js";
import { Model } from "../src/policy/model.js";
import { queryWords, writeTinyModel } from "./fixtures/tiny-model.js";

const close = (a: number, b: number, bound = 1e-6): boolean => Math.abs(a - b) <= bound;
const folder = t.testdir();
const model = await Model.load(writeTinyModel(join(folder, "model"), { words: queryWords }), {
  dtype: "f32",
  threads: 1,
});
t.teardown(() => model.dispose());

const logs = (values: number[]): Float64Array => Float64Array.from(values, Math.log);

t.test("two tokens, a temperature and three divergences by their numbers", (t) => {
  const logits = [-0.3, 1.1];
  const sum = Math.log(Math.exp(logits[0]!) + Math.exp(logits[1]!));
  const logprobs = logits.map((value) => value - sum);
  t.ok(close(Math.exp(logprobs[1]!), 0.802184));
  t.ok(close(crossEntropy.of(logprobs, 1).loss, 0.220417));
  t.ok(close(crossEntropy.of(logprobs, 0).loss, 1.620417));
  for (const [label, loss] of [
    [1, 0.220417],
    [0, 1.620417],
  ] as const)
    t.ok(close(twoWay(Float32Array.from(logits), [label]).loss, loss), `as a classifier's, label ${label}`);
  for (const [log, temperature, right] of [
    [0.3555, 1.426894, 0.727337],
    [0.9021, 2.464774, 0.638302],
  ] as const) {
    t.ok(close(Math.exp(log), temperature));
    t.ok(close(probabilities(Float32Array.from(logits), temperature)[0]!, right), `at log T = ${log}`);
  }
  const [p, reference] = [logs([0.7, 0.2, 0.1]), logs([0.5, 0.3, 0.2])];
  for (const [published, expected] of [
    ["reverse_kl", 0.085123],
    ["forward_kl", 0.092033],
    ["jsd", 0.021901],
  ] as const)
    t.ok(close(divergenceOf(divergenceNames[published]!, p, reference).loss, expected), published);
  t.end();
});

t.test("gradients are finite differences", (t) => {
  const p = logs([0.55, 0.25, 0.15, 0.05]);
  const q = logs([0.3, 0.3, 0.1, 0.3]);
  const losses: [string, (logprobs: Float64Array) => { loss: number; gradient: Float32Array }][] = [
    ...(["kl", "reverse-kl", "jsd"] as const).map(
      (kind): [string, (logprobs: Float64Array) => { loss: number; gradient: Float32Array }] => [
        kind,
        (at) => divergenceOf(kind, at, q),
      ],
    ),
    ["tokenized Brier", (at) => tokenizedBrier([0, 0.3, 0.6, 1]).of(at, 1)],
  ];
  for (const [name, of] of losses) {
    const { gradient } = of(p);
    for (let i = 0; i < p.length; i++) {
      const moved = (by: number) => of(p.map((value, k) => (k === i ? value + by : value))).loss;
      t.ok(close((moved(1e-5) - moved(-1e-5)) / 2e-5, gradient[i]!, 1e-6), `${name}, token ${i}`);
    }
  }
  t.throws(() => tokenizedBrier([0, 1.5]), { code: "BAD_OPTION" });
  t.throws(() => tokenizedBrier([1]), { code: "BAD_OPTION" });
  // Proper: of all ways to say .6 and .2 and 1, all mass on the nearest is least on average where .6 are right.
  const brier = tokenizedBrier([0.2, 0.6, 1]);
  const mean = (logprobs: Float64Array) => 0.6 * brier.of(logprobs, 1).loss + 0.4 * brier.of(logprobs, 0).loss;
  t.ok(mean(logs([0.01, 0.98, 0.01])) < Math.min(mean(logs([0.98, 0.01, 0.01])), mean(logs([0.01, 0.01, 0.98]))));
  t.end();
});

const row = (context: string, target: string, output: string, label: 0 | 1): JudgedRow => ({
  prompt: "",
  context,
  targetPrompt: "\nAnswer:",
  target,
  output,
  label,
});
const rows = [
  row("what colour is that hat of ada ?", "red", "green", 0),
  row("what colour is that pen ?", "blue pen", "blue", 1),
  row("colour ?", "brown", "black hat", 0),
  row("what colour is that ?", "white", "white", 1),
];

t.test("each row has its own target tokens; as published the batch has one number", async (t) => {
  const none = new Set<never>();
  const { lessons } = await lessonsOf(model, rows, { held: true, compat: none });
  t.same(
    heldFrom(lessons, none).map((from, i) => lessons[i]!.whole - from),
    [1, 2, 1, 1],
  );
  for (const { prefix, target, whole, query } of lessons) {
    t.equal(prefix.length + target.length, whole);
    t.ok(prefix.length > 0 && query.length > 0);
  }
  const published = new Set(["A9-5"] as const);
  const { lessons: theirs } = await lessonsOf(model, rows, { held: true, compat: published });
  const count = (some: typeof theirs) => heldFrom(some, published).map((from, i) => some[i]!.whole - from);
  // The longest text is the first row's, and so is the longest question: one token of each.
  t.same(count(theirs), [1, 1, 1, 1]);
  t.same(count([theirs[1]!, theirs[2]!]), [2, 2]);
  const empty = row("what colour is that ?", "", "white", 1);
  await t.rejects(lessonsOf(model, [rows[0]!, empty], { held: true, compat: none }), {
    code: "BAD_INPUT",
    message: /^row 2: has no right answer/,
  });
  const all = (await lessonsOf(model, [empty], { held: true, compat: published })).lessons;
  t.same(heldFrom(all, published), [0], "as published all tokens, where there are none");
  const long = row(Array.from({ length: 300 }, () => "hat").join(" "), "red", "red", 1);
  await t.rejects(lessonsOf(model, [long], { held: false, compat: none }), {
    code: "TOO_LONG",
    message: /^row 1: 3\d\d/,
  });
  const [cut] = (await lessonsOf(model, [long], { held: false, compat: published })).lessons;
  t.equal(cut!.query.length, model.info.contextLength, "as published it loses its end");
  const kept = await lessonsOf(model, [...rows, long], { held: false, maxTokens: 20, compat: none });
  t.same([kept.lessons.length, kept.dropped], [4, 1]);
});

t.test("a temperature is solved for, and one that diverges stays positive and says so", async (t) => {
  const labels = Array.from({ length: 200 }, (_, i) => (i % 10 < 7 ? 1 : 0));
  const sure = Float64Array.from({ length: 400 }, (_, i) => (i % 2 ? 4 : 0));
  const found = await solveTemperature({ logits: sure, classes: 2, labels });
  t.ok(close(found.temperature, 4 / Math.log(0.7 / 0.3), 1e-8), "of one logit that is right in 7 of 10");
  t.ok(close(found.logTemperature, Math.log(found.temperature), 1e-12) && found.after < found.before);
  t.notOk(found.diverged);
  const slow = { steps: 100, batch: 50, learningRate: 1e-4, warmup: 0, weightDecay: 0, seed: 3 };
  const barely = learnTemperature({ logits: sure, classes: 2, labels }, slow);
  t.ok(barely.logTemperature > 0 && barely.logTemperature < 0.006, "as published it hardly moves (A9-15)");
  const far = learnTemperature({ logits: sure, classes: 2, labels }, { ...slow, steps: 600, learningRate: 0.05 });
  t.ok(close(far.temperature, found.temperature, 0.05), "and comes to the same where it can");
  const four = Float64Array.from({ length: 800 }, (_, i) => Math.sin(i * 1.7) * 3 + (i % 4 === 2 ? 2 : 0));
  const letters = await solveTemperature({ logits: four, classes: 4, labels: labels.map((one) => one * 2) });
  const beside = async (by: number) => {
    const logits = four.map((value) => value / (letters.temperature * by));
    return (await solveTemperature({ logits, classes: 4, labels: labels.map((one) => one * 2) })).before;
  };
  t.ok(letters.after <= Math.min(await beside(1.01), await beside(0.99)), "of four letters, too");
  const never = await solveTemperature({ logits: sure, classes: 2, labels: labels.map(() => 1) });
  t.same([never.diverged, never.temperature], ["all are right", temperatureBounds.least]);
  const wrong = await solveTemperature({ logits: sure, classes: 2, labels: labels.map(() => 0) });
  t.equal(wrong.diverged, "logits tell nothing");
  t.ok(close(wrong.temperature, temperatureBounds.most, 1e-9));
  for (const bad of [
    { logits: [1, 2, 3], classes: 2, labels: [1] },
    { logits: [1, 2], classes: 2, labels: [2] },
    { logits: [1, Number.NaN], classes: 2, labels: [1] },
  ])
    await t.rejects(async () => solveTemperature(bad), { code: "BAD_INPUT" });
});

t.test("a vocabulary's temperature by passes", async (t) => {
  await using policy = await model.policy();
  // Of the model's own samples the likeliest temperature is about the one that they were drawn at.
  const sequences: Int32Array[] = [];
  const asked = { samples: 40, temperature: 0.5, maxNewTokens: 8, stopTokens: [], seed: 2 };
  for await (const { tokens } of policy.generate([Int32Array.of(1, 9, 12)], asked))
    sequences.push(Int32Array.of(1, 9, 12, ...tokens));
  const pass = async (temperature: number) => {
    const { logprobs, entropy } = await policy.read(sequences, { readouts: ["logprobs", "entropy"], temperature });
    const sums = { logprobs: 0, entropy: 0, tokens: 0 };
    let at = 0;
    for (const { length } of sequences) {
      for (let i = 3; i < length; i++) {
        sums.logprobs += logprobs![at + i]!;
        sums.entropy += entropy![at + i - 1]!;
        sums.tokens += 1;
      }
      at += length;
    }
    return sums;
  };
  const { temperature, after, before } = await solveTokenTemperature(pass);
  t.ok(after < before && temperature > 0.4 && temperature < 0.62, `a temperature of ${temperature}`);
  for (const by of [0.98, 1.02])
    t.ok(-(await pass(temperature * by)).logprobs / 320 >= after - 1e-7, `beside it, ${by}`);
});

t.test("rows come in another order each epoch, as many steps as asked for", (t) => {
  const plan = plannedSteps({ steps: 7, batch: 3, learningRate: 1, warmup: 0, weightDecay: 0, seed: 1 }, 7);
  t.same(
    plan.map(({ length }) => length),
    [3, 3, 1, 3, 3, 1, 3],
  );
  t.same(plan.slice(0, 3).flat().sort(), [0, 1, 2, 3, 4, 5, 6]);
  t.not(plan.slice(0, 3).join(), plan.slice(3, 6).join());
  t.throws(() => plannedSteps({ steps: 0, batch: 1, learningRate: 1, warmup: 0, weightDecay: 0, seed: 1 }, 7), {
    code: "BAD_OPTION",
  });
  t.end();
});

const job = { model, rows, validation: rows.slice(0, 2), steps: 20, batch: 2, learningRate: 1e-2, warmup: 0.1 };

t.test("a training that was stopped ends with the same bytes, and leaves each tenth", async (t) => {
  const weights = (name: string) => readFileSync(join(folder, name, "checkpoint-20", "adapter_model.safetensors"));
  const { policy, dropped } = await calibrationTune({ ...job, directory: join(folder, "whole") });
  await policy.dispose();
  t.equal(dropped, 0);
  for (let step = 2; step <= 20; step += 2)
    t.ok(existsSync(join(folder, "whole", `checkpoint-${step}`)), `step ${step}`);
  const told = readFileSync(join(folder, "whole", "metrics.jsonl"), "utf8")
    .trim()
    .split("\n")
    .map((line) => JSON.parse(line));
  t.equal(told.filter((line) => "eval_queryLoss" in line).length, 10);
  const stop = new AbortController();
  const stopping = {
    note() {},
    task: () => ({
      advance(work: number) {
        steps += work;
        if (work > 0 && steps === 9) stop.abort();
      },
      end() {},
    }),
  };
  let steps = 0;
  const again = { ...job, directory: join(folder, "again") };
  await t.rejects(calibrationTune({ ...again, progress: stopping, signal: stop.signal }), { code: "ABORTED" });
  await (await calibrationTune(again)).policy.dispose();
  t.same(weights("again"), weights("whole"));
  await t.rejects(calibrationTune({ ...again, kappa: 0.5 }), {
    code: "OTHER_RECIPE",
    message: /kappa: 1 then, 0.5 now/,
  });
});

t.test("the losses that are told are with dropout as published (A9-26), and without it here", async (t) => {
  const told = async (name: string, compat: ReadonlySet<"A9-26">) => {
    const directory = join(folder, name);
    const small = { ...job, steps: 2, dropout: 0.5, learningRate: 0.05, directory, compat };
    await (await calibrationTune(small)).policy.dispose();
    const last = readFileSync(join(directory, "metrics.jsonl"), "utf8").trim().split("\n").at(-1)!;
    return JSON.parse(last).eval_queryLoss as number;
  };
  const [here, published] = [await told("here", new Set()), await told("dropping", new Set(["A9-26"] as const))];
  t.not(here, published);
  // Nothing else differs: the same policy is trained.
  const adapter = (name: string) => readFileSync(join(folder, name, "checkpoint-2", "adapter_model.safetensors"));
  t.same(adapter("here"), adapter("dropping"));
});

t.test("the classifier begins as published, and its file is read again", async (t) => {
  await using policy = await model.policy({ heads: [classifierSpec({ seed: 4 })] });
  initialise(policy, 4);
  const { heads } = policy.native.tensors();
  const weight = heads.find(({ name }) => name === `${classifierName}.2.weight`)!;
  t.same(weight.shape, [128, 256]);
  const variance = weight.data.reduce((sum, value) => sum + value * value, 0) / weight.data.length;
  t.ok(close(variance, 2 / (128 + 256), 2e-4), `variance ${variance}`);
  const directory = join(folder, "classifier");
  const made = await classifierTune({ ...job, steps: 4, directory });
  const own = made.native.tensors().heads;
  await made.dispose();
  const read = readClassifier(join(directory, "checkpoint-4"));
  t.equal(read.layers[0]!.inputs, model.info.hiddenSize);
  t.equal(read.temperature, 1);
  t.equal(own.length, 2 * read.layers.length);
  for (const [i, layer] of read.layers.entries())
    for (const part of ["weight", "bias"] as const)
      t.same(layer[part], own.find(({ name }) => name === `${classifierName}.${2 * i}.${part}`)?.data, `${i} ${part}`);
  t.throws(() => readClassifier(folder), { code: "NO_HEAD" });
  t.throws(() => readClassifier(join(folder, "whole", "checkpoint-20")), { code: "NO_HEAD" });
});
