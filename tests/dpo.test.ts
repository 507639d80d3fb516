/** Direct preference optimisation: gradients, the reference, a planted preference, exact resume. */
import { readFileSync, rmSync, statSync } from "node:fs";
import { join } from "node:path";
import t from "tap";
import { Model } from "../src/index.js";
import { type DpoTraining, dpoUnits, trainDpo } from "../src/training/dpo.js";
import { pairRows } from "../src/training/reward-model/pairs.js";
import { awaken, gradientsAreDifferences, redPairs, shortTraining, smallAdapter } from "./fixtures/preferences.js";
import { metricsOf, runBytes, stopAfter } from "./fixtures/runs.js";
import { writeTinyModel } from "./fixtures/tiny-model.js";

const folder = t.testdir();
const model = await Model.load(writeTinyModel(join(folder, "model")), { threads: 1, dtype: "f32" });
t.teardown(() => model.dispose());
const pairs = redPairs(160);

const job = (directory: string, more: Partial<DpoTraining> = {}): DpoTraining => ({
  model,
  directory: join(folder, directory),
  records: pairs.slice(0, 120),
  held: pairs.slice(120),
  policy: (checkpoint) => model.policy({ adapter: checkpoint ?? smallAdapter }),
  ...shortTraining,
  ...more,
});
const metrics = (directory: string) => metricsOf(join(folder, directory));

t.test("the preferred answer becomes the likelier one; a policy equal to its reference has no margin", async (t) => {
  for (const kind of ["sigmoid", "ipo"] as const) {
    const { policy, held } = await trainDpo(job(kind, { kind }));
    const [first] = metrics(kind);
    t.same([first!.margin, first!.chosenReward], [0, 0], "scored while learning as the reference was: the same bits");
    t.ok(Math.abs(first!.loss! - (kind === "ipo" ? 25 : Math.LN2)) < 1e-12, `the first loss is ${first!.loss}`);
    t.ok(held!.values.accuracy! >= 0.9, `${kind}: ${held!.values.accuracy} of held-out pairs`);
    t.ok(held!.values.margin! > 0.2, `margin ${held!.values.margin}`);
    await policy.dispose();
  }
});

t.test("the log-probabilities are those of the answers' own tokens", async (t) => {
  const { policy } = await trainDpo(job("one", { records: pairs.slice(0, 1), held: [], epochs: 1, batch: 1 }));
  await policy.dispose();
  const base = await model.policy();
  const kept = JSON.parse(readFileSync(join(folder, "one", "reference.json"), "utf8")) as { logprobs: number[][] };
  for (const [side, text] of [pairs[0]!.chosen, pairs[0]!.rejected].entries()) {
    const turns = [
      { role: "user", content: pairs[0]!.prompt },
      { role: "assistant", content: text },
    ];
    const { ids, supervised } = await model.supervise(turns);
    const { logprobs } = await base.forward([ids], { logprobs: true });
    const sum = logprobs!.reduce((all, logprob, t) => all + supervised[t]! * logprob, 0);
    t.equal(
      kept.logprobs[0]![side],
      sum,
      `${ids.length} tokens, ${supervised.filter((on) => on).length} of them learnt`,
    );
  }
  await base.dispose();
});

t.test("the reference may be the policy as it started", async (t) => {
  const { policy: before } = await trainDpo(job("before", { epochs: 1 }));
  await before.dispose();
  const start = join(folder, "before", "best");
  const policy = (checkpoint: string | undefined) => model.policy({ adapter: checkpoint ?? start });
  const first = async (reference: "base" | "start") => {
    const { policy: after } = await trainDpo(job(`from-${reference}`, { policy, reference, epochs: 1 }));
    await after.dispose();
    return metrics(`from-${reference}`)[0]!;
  };
  t.equal((await first("start")).margin, 0);
  t.not((await first("base")).margin, 0);
});

t.test("stopped anywhere it ends with the same bytes, and the reference is computed once", async (t) => {
  const { policy } = await trainDpo(job("whole", { labelSmoothing: 0.1 }));
  await policy.dispose();
  const whole = runBytes(join(folder, "whole"));
  for (const stop of [1, 8, 13]) {
    const name = `stopped-${stop}`;
    const stopped = { ...job(name, { labelSmoothing: 0.1 }), ...stopAfter(stop) };
    await t.rejects(trainDpo(stopped), { code: "ABORTED" });
    const reference = join(folder, name, "reference.json");
    const { ino } = statSync(reference);
    const newest = `step-${String(stop).padStart(6, "0")}`;
    if (stop === 13) rmSync(join(folder, name, "checkpoints", newest), { recursive: true });
    const { policy } = await trainDpo(job(name, { labelSmoothing: 0.1 }));
    await policy.dispose();
    t.equal(statSync(reference).ino, ino);
    const bytes = Object.entries(runBytes(join(folder, name))).filter(([path]) => path in whole);
    t.same(Object.fromEntries(bytes), whole, `stopped after ${stop}`);
  }
  await t.rejects(trainDpo(job("whole")), { code: "OTHER_RECIPE", message: /loss: / });
  await t.rejects(trainDpo(job("bad", { beta: 0 })), { code: "BAD_OPTION", message: /beta is 0/ });
  await t.rejects(trainDpo(job("bad", { labelSmoothing: 0.5 })), { message: /below 0.5/ });
  await t.rejects(trainDpo(job("bad", { labelSmoothing: 0.1, kind: "ipo" })), { message: /ipo has none/ });
});

t.test("gradients are finite differences", async (t) => {
  const { rows } = await pairRows(model, pairs.slice(0, 4), { kind: "chat" });
  const units = dpoUnits(
    rows,
    rows.map((_, i) => [-20 - i, -22]),
    { kind: "sigmoid", beta: 0.3, labelSmoothing: 0.1 },
  );
  const policy = await model.policy({ adapter: smallAdapter });
  awaken(policy);
  const tensors = policy.native.tensors().adapter.filter((_, i) => i % 4 === 1);
  await gradientsAreDifferences(t, { policy, units, reads: "logprobs", tensors }, "sigmoid");
});
