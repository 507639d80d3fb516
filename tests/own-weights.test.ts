/** The model's own weights, trained beside an adapter: groups, folders, checkpoints, what is merged, and what is refused. */
import { readFileSync, rmSync } from "node:fs";
import { join } from "node:path";
import t from "tap";
import { recordsOf } from "../src/data/readers.js";
import { exportAdapter, Model, mergeAdapter, type Policy } from "../src/index.js";
import { readSafetensors } from "../src/model/safetensors.js";
import type { TensorData } from "../src/native.js";
import { type SftTraining, trainSft } from "../src/training/sft.js";
import { runBytes, stopAfter } from "./fixtures/runs.js";
import { writeTinyModel } from "./fixtures/tiny-model.js";

const folder = t.testdir();
const path = writeTinyModel(join(folder, "model"));
const model = await Model.load(path, { threads: 2 });
t.teardown(() => model.dispose());

const adapter = { rank: 4, alpha: 8, targets: ["q", "v", "down"] as ("q" | "v" | "down")[], seed: 1 };
const besideLora = { embeddings: true, lmHead: true, norms: true };
const rows = await Promise.all(
  ["what colour is that hat ?", "what is that ?"].map((question) => model.promptTokens(question)),
);
const nll = (weight = 1) => ({
  sequences: rows,
  loss: { kind: "nll" as const, weights: rows.map((row) => Float32Array.from(row, (_, i) => (i > 0 ? weight : 0))) },
});
const logprobs = async (policy: Policy, options = {}) =>
  (await policy.forward(rows, { logprobs: true, ...options })).logprobs!;
/** Largest change of the tensors whose name matches. */
const moved = (before: Policy["native"], after: Policy["native"], name: RegExp): number => {
  const [a, b] = [before, after].map((policy) => Object.values(policy.tensors()).flat() as TensorData[]);
  return Math.max(
    ...a!.flatMap((tensor, i) =>
      name.test(tensor.name) ? Array.from(tensor.data, (value, k) => Math.abs(value - b![i]!.data[k]!)) : [0],
    ),
  );
};

t.test("a policy owns its weights, its base stays", async (t) => {
  const plain = await model.policy();
  const before = await logprobs(plain);
  for (const train of [besideLora, "all"] as const) {
    const policy = await model.policy({ train });
    t.equal(policy.hasWeights, true);
    t.equal(policy.hasAdapter, false);
    t.same(await logprobs(policy), before, "it begins as its base");
    if (train === "all") t.equal(policy.native.trainable, model.info.parameters);
    using trainer = policy.trainer({ schedule: 1e-2 });
    const first = await trainer.step(nll());
    for (let i = 0; i < 4; i++) await trainer.step(nll());
    t.ok((await trainer.step(nll())).loss < 0.7 * first.loss);
    t.notSame(await logprobs(policy), before);
    t.same(await logprobs(policy, { adapter: false }), before, "switched off it is the base");
    t.same(await logprobs(plain), before, "others see nothing of it");
    const names = trainer.gradients().map((tensor) => tensor.name);
    t.same(
      names,
      trainer
        .state()
        .tensors.slice(0, names.length)
        .map(({ name }) => name.slice(2)),
    );
    t.equal(names.filter((name) => name.endsWith("norm.weight")).length, 2 * model.info.layers + 1);
  }
  t.equal(plain.hasWeights, false);
});

t.test("samples are scored as they were sampled", async (t) => {
  const policy = await model.policy({ adapter, train: "all" });
  using trainer = policy.trainer({ schedule: 1e-2 });
  for (let i = 0; i < 3; i++) await trainer.step(nll());
  for await (const sample of policy.generate([rows[0]!], { samples: 8, temperature: 1, maxNewTokens: 6, seed: 2 })) {
    const stop = sample.stopToken === undefined ? [] : [sample.stopToken];
    const whole = Int32Array.from([...rows[0]!, ...sample.tokens, ...stop]);
    const scored = await policy.forward([whole], { logprobs: true });
    t.same(scored.logprobs!.subarray(rows[0]!.length), sample.logprobs);
  }
});

t.test("groups learn at rates of their own", async (t) => {
  const [fresh, policy] = await Promise.all([0, 1].map(() => model.policy({ adapter, train: besideLora })));
  using trainer = policy!.trainer({
    schedule: 1e-3,
    optimizer: { weightDecay: 0 },
    groups: { embeddings: { schedule: 0 }, norms: { schedule: (step) => (step ? 0 : 1e-2) } },
  });
  await trainer.step(nll());
  const near = (value: number, expected: number) => Math.abs(value / expected - 1) < 1e-3;
  t.equal(moved(fresh!.native, policy!.native, /embed_tokens/), 0);
  t.ok(near(moved(fresh!.native, policy!.native, /norm/), 1e-2));
  t.ok(near(moved(fresh!.native, policy!.native, /lm_head|lora_B/), 1e-3));
  const norms = policy!.native.tensors().weights.filter(({ name }) => /norm/.test(name));
  await trainer.step(nll());
  t.same(
    policy!.native.tensors().weights.filter(({ name }) => /norm/.test(name)),
    norms,
    "the second step has rate 0",
  );
  using wrong = policy!.trainer({ schedule: 1e-3, groups: { projections: { schedule: 1 } } });
  await t.rejects(wrong.step(nll()), { code: "BAD_OPTION", message: /trains none of the group "projections"/ });
  using unknown = policy!.trainer({ schedule: 1e-3, groups: { norm: {} } as object });
  await t.rejects(unknown.step(nll()), { code: "BAD_OPTION", message: /no group "norm"/ });
});

t.test("a folder brings them along, and merging makes a model of them", async (t) => {
  const directory = t.testdir();
  const [saved, merged, alone] = ["saved", "merged", "alone"].map((name) => join(directory, name)) as [
    string,
    string,
    string,
  ];
  const policy = await model.policy({ adapter, train: besideLora });
  using trainer = policy.trainer({ schedule: 1e-2 });
  for (let i = 0; i < 3; i++) await trainer.step(nll());
  policy.save(saved);
  t.same(JSON.parse(readFileSync(join(saved, "adapter_config.json"), "utf8")).credence_weights, "weights.safetensors");
  t.same(
    readSafetensors(join(saved, "weights.safetensors")).map(({ name }) => name),
    policy.native
      .tensors()
      .weights.map(({ name }) => name)
      .sort(),
  );
  const read = await model.policy({ adapter: saved });
  t.equal(read.hasWeights, true);
  t.same(read.native.tensors(), policy.native.tensors());
  t.same(await logprobs(read), await logprobs(policy));

  const { check } = await mergeAdapter(saved, merged, { model: path, type: "F32" });
  t.ok(check.error < 1e-5, `${check.error}`);
  await using whole = await Model.load(merged, { threads: 2 });
  const [a, b] = [await logprobs(await whole.policy()), await logprobs(policy)];
  t.ok(a.every((value, i) => Math.abs(value - b[i]!) < 1e-3));
  t.ok(moved(policy.native, (await whole.policy({ train: besideLora })).native, /norm|embed|lm_head/) === 0);

  const everything = await model.policy({ train: "all" });
  everything.save(alone);
  await mergeAdapter(alone, join(directory, "same"), { model: path, type: "F32" });
  await using same = await Model.load(join(directory, "same"), { threads: 2 });
  t.same(await logprobs(await same.policy()), await logprobs(await model.policy()));

  await t.rejects(model.policy({ adapter: saved, train: { norms: true } }), { code: "BAD_OPTION" });
  await t.rejects(exportAdapter(saved, join(directory, "peft"), { model: path }), { code: "UNSUPPORTED" });
  rmSync(join(saved, "weights.safetensors"));
  await t.rejects(model.policy({ adapter: saved }), { code: "NO_WEIGHTS" });
  await using other = await Model.load(writeTinyModel(join(directory, "other"), { words: ["more"] }), { threads: 1 });
  await t.rejects(other.policy({ adapter: alone }), { code: "WRONG_MODEL" });
});

t.test("fine-tuning that was stopped ends with the same bytes", async (t) => {
  const directory = t.testdir();
  const chats = Array.from({ length: 24 }, (_, i) => ({
    messages: [
      { role: "user", content: "what colour is that hat ?" },
      { role: "assistant", content: ["red", "green", "blue"][i % 3]! },
    ],
  }));
  const job = (name: string, more: Partial<SftTraining> = {}): SftTraining => ({
    model,
    directory: join(directory, name),
    records: recordsOf(chats),
    policy: (checkpoint) =>
      model.policy(checkpoint ? { adapter: checkpoint } : { adapter, train: { embeddings: true, norms: true } }),
    batchTokens: 64,
    learningRate: 1e-2,
    groups: { embeddings: { learningRate: 1e-3 }, norms: { weightDecay: 0 } },
    checkpointEvery: 2,
    ...more,
  });
  const whole = await trainSft(job("whole"));
  t.ok(whole.steps > 4);
  const stopping = trainSft(job("stopped", stopAfter(10)));
  await t.rejects(stopping, { code: "ABORTED" });
  await t.rejects(trainSft(job("stopped", { groups: { norms: { weightDecay: 0 } } })), {
    code: "OTHER_RECIPE",
    message: /groups: /,
  });
  await t.rejects(trainSft(job("stopped", { groups: undefined })), { code: "OTHER_RECIPE" });
  await trainSft(job("stopped"));
  t.same(runBytes(join(directory, "stopped")), runBytes(join(directory, "whole")));
});
