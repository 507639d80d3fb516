/** Reinforcement with a share of language modelling: what a step adds up, which rows it has, exact resumption. */
import { join } from "node:path";
import fc from "fast-check";
import t from "tap";
import { recordsOf } from "../src/data/readers.js";
import { Model } from "../src/policy/model.js";
import type { Message } from "../src/text/chat.js";
import { trainPpo } from "../src/training/ppo/ppo.js";
import { PtxRows } from "../src/training/ppo/ptx.js";
import { type PpoOptions, ppoSchema } from "../src/training/ppo/settings.js";
import { metricsOf, runBytes } from "./fixtures/runs.js";
import { writeTinyModel } from "./fixtures/tiny-model.js";
import { lateRed, tinyPpo, valueHeads } from "./fixtures/tiny-ppo.js";

const folder = t.testdir();
const model = await Model.load(writeTinyModel(join(folder, "model")), { dtype: "f32", threads: 1 });
t.teardown(() => model.dispose());

const people = ["ada", "ben", "cleo", "dan", "eve"];
const chat = (i: number, words: number): { messages: Message[] } => ({
  messages: [
    { role: "user", content: `what colour is that hat of ${people[i % 5]} ?` },
    { role: "assistant", content: Array.from({ length: words }, () => "blue").join(" ") },
  ],
});
const records = recordsOf(Array.from({ length: 11 }, (_, i) => chat(i, 1 + (i % 3))));
const ptx: NonNullable<PpoOptions["ptx"]> = { coefficient: 0.5, batchTokens: 90, windowRecords: 6 };

t.test("coefficient times the mean likelihood of its rows is added, however it is cut", async (t) => {
  const policy = await model.policy({
    adapter: { rank: 4, alpha: 8, targets: ["q", "v", "gate", "down"], seed: 1 },
    heads: valueHeads,
  });
  t.teardown(() => policy.dispose());
  const rows = await Promise.all([3, 1, 2].map((words, i) => model.supervise(chat(i, words).messages)));
  const [asked, ...others] = rows as [(typeof rows)[0], ...typeof rows];
  const beside = { sequences: others.map(({ ids }) => ids), weights: others.map(({ weights }) => weights) };
  const { logprobs } = await policy.forward([asked.ids], { logprobs: true });
  const ones = Float32Array.from(asked.ids, (_, i) => (i > 2 ? 1 : 0));
  const advantages = ones.map((one) => 0.75 * one);
  const value = { head: "value", weights: [ones], returns: [ones.map(() => 2)], coefficient: 0.1 };
  const step = async (coefficient: number, microBatchTokens?: number, accept?: boolean) => {
    const trainer = policy.trainer({ schedule: 0, optimizer: { weightDecay: 0 } });
    const result = await trainer.step({
      sequences: [asked.ids],
      microBatchTokens,
      loss: {
        kind: "ppo",
        weights: [ones],
        oldLogprobs: [logprobs!],
        advantages: [advantages],
        entropy: 0.2,
        value,
        ptx: coefficient ? { ...beside, coefficient } : undefined,
        accept: accept === undefined ? undefined : () => accept,
      },
    });
    trainer.dispose();
    return result;
  };
  const near = (a: number, b: number, what: string) =>
    t.ok(Math.abs(a - b) <= 1e-5 * Math.abs(b), `${what}: ${a}, ${b}`);

  const read = await policy.forward(beside.sequences, { logprobs: true });
  const flat = beside.weights.flatMap((row) => [...row.map((weight, i) => (i === 0 ? 0 : weight))]);
  const weight = flat.reduce((sum, one) => sum + one, 0);
  const likelihood = -flat.reduce((sum, one, i) => sum + one * read.logprobs![i]!, 0) / weight;
  const alone = await step(0);
  t.equal(alone.ppo!.ptxLoss, undefined);
  for (const cut of [undefined, 1]) {
    const together = await step(3, cut);
    near(together.ppo!.ptxLoss!, likelihood, "the mean negative log-likelihood is told");
    near(together.loss, alone.loss + 3 * likelihood, "and added");
    near(together.ppo!.policyLoss, alone.ppo!.policyLoss, "the rest is as it was");
  }
  // A loss whose gradient is known: at ratio 1 and without a critic it is a likelihood weighted by the advantages.
  const gradient = async (ppo: boolean) => {
    const trainer = policy.trainer({ schedule: 0, optimizer: { weightDecay: 0 } });
    const count = ones.reduce((sum, one) => sum + one, 0);
    const result = ppo
      ? await trainer.step({
          sequences: [asked.ids],
          loss: {
            kind: "ppo",
            weights: [ones],
            oldLogprobs: [logprobs!],
            advantages: [advantages],
            ptx: { ...beside, coefficient: 3 },
          },
        })
      : await trainer.step({
          sequences: [asked.ids, ...beside.sequences],
          loss: {
            kind: "nll",
            weights: [
              advantages.map((one) => one / count),
              ...beside.weights.map((row) => row.map((one) => (3 * one) / weight)),
            ],
          },
        });
    trainer.dispose();
    return result.gradientNorm;
  };
  near(await gradient(true), (await gradient(false)) * (0.75 + 3), "the gradient is that of the sum");
  const refused = await step(3, undefined, false);
  t.match(refused, { gradientNorm: 0, ppo: { accepted: false, ptxLoss: undefined } });
  const taken = await step(3, undefined, true);
  t.equal(taken.ppo!.accepted, true);
  near(taken.ppo!.ptxLoss!, likelihood, "what a step tells is the likelihood of its rows");
  beside.weights = beside.weights.map((row) => row.map(() => 0));
  await t.rejects(step(1), { code: "NOTHING_SUPERVISED" });
});

t.test("rows go on from wherever they stand, epoch after epoch", async (t) => {
  const property = fc.asyncProperty(
    fc.array(fc.integer({ min: 1, max: 6 }), { minLength: 1, maxLength: 12 }),
    fc.integer({ min: 40, max: 80 }), // no row is longer
    fc.integer({ min: 1, max: 8 }),
    fc.nat(99),
    fc.nat(30),
    async (lengths, batchTokens, windowRecords, seed, cut) => {
      const some = recordsOf(lengths.map((words, i) => chat(i, words)));
      const settings = ppoSchema.parse({ ptx: { batchTokens, windowRecords } }).ptx!;
      const rows = await PtxRows.open(model, some, settings, { seed });
      for (let i = 0; i < cut; i++) await rows.next();
      const from = JSON.parse(JSON.stringify(rows.state()));
      const again = await PtxRows.open(model, some, settings, { seed, from });
      for (let i = 0; i < 8; i++) {
        const [one, other] = [await rows.next(), await again.next()];
        if (JSON.stringify(one) !== JSON.stringify(other) || one.tokens > batchTokens) return false;
      }
      const same = JSON.stringify(rows.state()) === JSON.stringify(again.state());
      await rows.close();
      await again.close();
      return same;
    },
  );
  await t.resolves(fc.assert(property, { numRuns: 25 }));
});

t.test("what is modelled beside it is not lost, and a run that stopped goes on to the same bytes", async (t) => {
  const options: PpoOptions = { ptx, iterations: 6, kl: { stop: 0.05 }, ema: { decay: 0.5 } };
  const [without, whole, stopped] = ["without", "whole", "stopped"].map((name) => join(folder, name)) as [
    string,
    string,
    string,
  ];
  const last = async (directory: string, given: PpoOptions, more = {}) => {
    const policy = await trainPpo(await tinyPpo(model, directory, given, more));
    const rows = await Promise.all([0, 1, 2].map((i) => model.supervise(chat(i, 2).messages)));
    const { logprobs } = await policy.forward(
      rows.map(({ ids }) => ids),
      { logprobs: true },
    );
    await policy.dispose();
    const weights = rows.flatMap((row) => [...row.weights]);
    return weights.reduce((sum, weight, i) => sum - weight * logprobs![i]!, 0);
  };
  const { ptx: _, ...plain } = options;
  const lost = await last(without, plain);
  const kept = await last(whole, options, { ptx: records });
  t.ok(kept < 0.8 * lost, `likelihood of the rows: ${lost} without, ${kept} with`);
  const lines = metricsOf(whole);
  t.ok(lines.every(({ ptxLoss, firstRatioChange }) => ptxLoss! > 0 && firstRatioChange === 0));
  t.ok(lines.at(-1)!.ptxLoss! < lines[0]!.ptxLoss!);
  t.ok(
    lines.some(({ steps }) => steps! < 4),
    "an iteration ends early, after the rows of its last step were taken",
  );
  const expected = runBytes(whole);
  for (const after of [1, 4]) {
    const controller = new AbortController();
    const told = (iteration: number) => iteration === after && controller.abort();
    const { signal } = controller;
    const directory = `${stopped}-${after}`;
    const more = { ptx: records, reward: lateRed };
    await t.rejects(tinyPpo(model, directory, options, { ...more, told, signal }).then(trainPpo), { code: "ABORTED" });
    await (await trainPpo(await tinyPpo(model, directory, options, more))).dispose();
    t.same(runBytes(directory), expected, `stopped after iteration ${after}`);
  }
  await t.rejects(tinyPpo(model, whole, options, { ptx: recordsOf([chat(0, 1)]) }).then(trainPpo), {
    code: "OTHER_RECIPE",
    message: /ptxRecords: 11 then, 1 now/,
  });
});

t.test("what cannot work is said before anything is sampled", async (t) => {
  const refused = (options: PpoOptions, more: object, expected: { code: string; message: RegExp }) =>
    t.rejects(tinyPpo(model, join(folder, "refused"), options, more).then(trainPpo), expected);
  await refused({}, { ptx: records }, { code: "BAD_RECIPE", message: /settings.ptx does not say/ });
  await refused({ ptx }, {}, { code: "BAD_RECIPE", message: /give some \(ptx\)/ });
  await refused({ ptx: { ...ptx, batchTokens: 5 } }, { ptx: records }, { code: "ROW_TOO_LONG", message: /11 of 11/ });
});
