/** Heads that are trained alone, on states collected before: as PyTorch trains them, and able to learn. */
import { readFileSync } from "node:fs";
import { join } from "node:path";
import t from "tap";
import { headPolicy, headWidths, offsetAt, teachHead } from "../src/methods/elical/heads.js";
import { sigmoid } from "../src/model/calibrator.js";
import type { TensorData } from "../src/native.js";
import { Model } from "../src/policy/model.js";
import { writeTinyModel } from "./fixtures/tiny-model.js";

interface Golden {
  width: number;
  states: number[];
  targets: number[];
  cases: { kind: "linear" | "mlp"; start: TensorData[]; logits: number[] }[];
}

const model = await Model.load(writeTinyModel(join(t.testdir(), "model")), { threads: 1 });
t.teardown(() => model.dispose());
const width = model.info.hiddenSize;
const settings = { batch: 7, learningRate: 0.02, weightDecay: 0.1, warmup: 0.25 };
const confidence = "confidence";

t.test("after twelve steps a head says what PyTorch's says", async (t) => {
  const path = new URL("golden/feature-head/heads.json", import.meta.url);
  const golden = JSON.parse(readFileSync(path, "utf8")) as Golden;
  t.equal(golden.width, width);
  const states = Float32Array.from(golden.states);
  const rows = golden.targets.map((_, row) => row);
  for (const { kind, start, logits } of golden.cases) {
    await using policy = await headPolicy(model, kind, 2, 0);
    const given = start.map((tensor) => ({ ...tensor, data: Float32Array.from(tensor.data) }));
    const before = given.map(({ data }) => Array.from(data));
    const lesson = { states, width, rows, targets: golden.targets, epochs: 12, seed: 3 };
    await teachHead(policy, given, lesson, settings);
    const got = policy.native.readHead(confidence, states);
    const off = Math.max(...logits.map((want, row) => Math.abs(got[row]! - want)));
    t.ok(off < 2e-4, `${kind}: ${off}`);
    t.same(
      given.map(({ data }) => Array.from(data)),
      before,
      "the numbers it started from are as they were",
    );
  }
});

t.test("hidden layers learn what a line cannot, from the rows named alone", async (t) => {
  const rows = Array.from({ length: 64 }, (_, row) => row);
  const states = new Float32Array(2 * rows.length * width);
  const targets = new Array<number>(2 * rows.length).fill(0);
  for (const row of rows) {
    states[row * width] = row % 2 ? 1 : -1;
    states[row * width + 1] = (row >> 1) % 2 ? 1 : -1;
    targets[row] = row % 2 === (row >> 1) % 2 ? 1 : 0;
  }
  const learnt = async (kind: "linear" | "mlp", wanted: number[]) => {
    await using policy = await headPolicy(model, kind, 1, 1);
    const lesson = { states, width, rows, targets: wanted, epochs: 60, seed: 0 };
    await teachHead(policy, policy.native.tensors().heads, lesson, { ...settings, batch: 16, weightDecay: 0 });
    return policy.native.readHead(confidence, states.subarray(0, rows.length * width));
  };
  const wrong = (logits: Float32Array) =>
    rows.reduce((sum, row) => sum + (sigmoid(logits[row]!) - targets[row]!) ** 2, 0) / rows.length;
  t.ok(wrong(await learnt("linear", targets)) > 0.24);
  const deep = await learnt("mlp", targets);
  t.ok(wrong(deep) < 0.05);
  const others = targets.map((target, row) => (row < rows.length ? target : 1));
  t.same(await learnt("mlp", others), deep, "what other rows should say has no part in it");
  t.same(headWidths(3584), [1792, 896]);
});

t.test("a head begins at the mean of what it learns", async (t) => {
  await using policy = await headPolicy(model, "mlp", 2, 0);
  const fresh = policy.native.tensors().heads;
  policy.native.setTensors(
    offsetAt(fresh, [0, 1, 2, 3], [1, 0, 0, 0]).map((tensor) =>
      tensor.name.endsWith(".weight") ? { ...tensor, data: tensor.data.map(() => 0) } : tensor,
    ),
  );
  const [said] = policy.native.readHead(confidence, new Float32Array(width));
  t.ok(Math.abs(sigmoid(said!) - 0.3) < 1e-6, `${sigmoid(said!)}: one and a half of five`);
});

t.test("one logit's loss and gradient are the published loss's", async (t) => {
  await using policy = await headPolicy(model, "linear", 2, 0);
  policy.native.setTensors(
    policy.native.tensors().heads.map((tensor) => ({
      ...tensor,
      data: tensor.data.map(() => (tensor.name.endsWith(".bias") ? 0.4 : 0)),
    })),
  );
  const trainer = policy.native.trainer({ beta1: 0, beta2: 0, epsilon: 1, weightDecay: 0, maxGradientNorm: 0 });
  t.teardown(() => trainer.dispose());
  // (sigmoid(0.4) - 0.75)^2; on a state of zeros the offset alone has a gradient.
  await trainer.accumulateHead(confidence, new Float32Array(width), Float32Array.of(0.75));
  const gradient = trainer.gradients().flatMap(({ name, data }) => (name.endsWith(".bias") ? Array.from(data) : []));
  t.equal(gradient.length, 1);
  t.ok(Math.abs(gradient[0]! + 0.072709) < 1e-6, `${gradient[0]}`);
  const { loss } = await trainer.update({ learningRate: 0, count: 1 });
  t.ok(Math.abs(loss - 0.022895) < 1e-6, `${loss}`);
});

t.test("a signal stops", async (t) => {
  await using policy = await headPolicy(model, "linear", 2, 0);
  const lesson = { states: new Float32Array(2 * width), width, rows: [0, 1], targets: [0, 1], epochs: 1, seed: 0 };
  const start = policy.native.tensors().heads;
  const signal = AbortSignal.abort();
  await t.rejects(teachHead(policy, start, { ...lesson, signal }, settings), { code: "ABORTED" });
});
