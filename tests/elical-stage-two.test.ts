/** Stage 2: a training that goes on from the adapter and the head of another. */
import { join } from "node:path";
import t from "tap";
import { runPaths } from "../src/methods/elical/published/paths.js";
import { trainPublished } from "../src/methods/elical/published/train.js";
import { readSafetensors } from "../src/model/safetensors.js";
import { Model } from "../src/policy/model.js";
import { small, writeToySet } from "./fixtures/published-training.js";
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
