/** Stage 2: a training that goes on from the adapter and the head of another. */
import { readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import t from "tap";
import { runPaths } from "../src/methods/elical/published/paths.js";
import { trainPublished } from "../src/methods/elical/published/train.js";
import { readSafetensors } from "../src/model/safetensors.js";
import { encodeTorchFile } from "../src/model/torch-file.js";
import { Model } from "../src/policy/model.js";
import { small, writeToySet } from "./fixtures/published-training.js";
import { metricsOf } from "./fixtures/runs.js";
import { writeTinyModel } from "./fixtures/tiny-model.js";

const folder = t.testdir();
const model = await Model.load(writeTinyModel(join(folder, "model")), { dtype: "f32", threads: 1 });
t.teardown(() => model.dispose());
const files = await writeToySet(join(folder, "nq"));
const output = join(folder, "first");
await trainPublished(small(output, files), { model });
const paths = runPaths(output);

t.test("goes on from its adapter and head, with an optimiser of its own", async (t) => {
  const second = join(folder, "second");
  const from = { adapter: paths.adapter, head: paths.head };
  await trainPublished({ ...small(second, files), from, epochs: 1 }, { model });
  const tensors = (run: string) => readSafetensors(join(runPaths(run).adapter, "adapter_model.safetensors"));
  const before = new Map(tensors(output).map(({ name, data }) => [name, data]));
  for (const { name, data } of tensors(second)) {
    t.notSame(data, before.get(name), `${name} has learnt`);
    const moved = Math.max(...data.map((value, i) => Math.abs(value - before.get(name)![i]!)));
    t.ok(moved < 0.05, `${name} has begun where the first stage ended: moved by ${moved}`);
  }
  await t.rejects(trainPublished({ ...small(join(folder, "r4"), files), from, rank: 4 }, { model }), {
    message: /has r 8 and alpha 16; r 4 and alpha 16 are asked for/,
  });
});

t.test("a step is AdamW's with the published constants, and nothing is left of the first stage's", async (t) => {
  // A third where all is certain: there the error's gradient is the largest, and clipped.
  const certain = join(folder, "certain.jsonl");
  writeFileSync(certain, readFileSync(files.verdicts, "utf8").replaceAll("Uncertain.", "certain"));
  const head = join(folder, "third.pt");
  const third = [
    { name: "weight", shape: [1, 40], data: Float32Array.from({ length: 40 }, (_, i) => 0.5 * Math.sin(i)) },
    { name: "bias", shape: [1], data: Float32Array.of(-Math.LN2) },
  ];
  writeFileSync(head, Buffer.concat(encodeTorchFile(third, "head")));
  const job = small(join(folder, "step"), { ...files, verdicts: certain });
  const from = { adapter: paths.adapter, head };
  const { steps } = await trainPublished({ ...job, from, epochs: 1, accumulation: 8 }, { model });
  t.equal(steps, 1);
  const stage = join(job.output, "stages", "01-train");
  const { gradientNorm, learningRate } = metricsOf(stage)[0]!;
  t.ok(gradientNorm! > 1.2, `the gradient's norm is ${gradientNorm}`);
  t.equal(learningRate, job.learningRate);
  const moments = readSafetensors(join(stage, "best", "optimizer.safetensors"));
  const sum = (kind: "m" | "v", of: (value: number) => number) =>
    moments
      .filter(({ name }) => name.startsWith(`${kind}.`))
      .reduce((all, { data }) => all + data.reduce((part, value) => part + of(value), 0), 0);
  // After one step m = (1 - beta1) g and v = (1 - beta2) g^2, where g is cut to a norm of 1.
  const first = Math.sqrt(sum("m", (value) => value * value));
  const second = sum("v", (value) => value);
  t.ok(Math.abs(first - 0.1) < 1e-5, `m has the norm ${first}`);
  t.ok(Math.abs(second - 0.001) < 1e-7, `v sums to ${second}`);
});
