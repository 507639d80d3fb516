/** Reward models: gradients, planted preferences, what is wrong with pairs, exact resume. */
import { existsSync, rmSync } from "node:fs";
import { join } from "node:path";
import t from "tap";
import { Model } from "../src/index.js";
import { checkPairs, divergence, pairRows } from "../src/training/reward-model/pairs.js";
import { answerRow } from "../src/training/reward-model/rows.js";
import { type RewardModelTraining, trainRewardModel } from "../src/training/reward-model/train.js";
import { pairUnit, ratingUnit } from "../src/training/reward-model/units.js";
import type { Unit } from "../src/training/units.js";
import { awaken, gradientsAreDifferences, redPairs, shortTraining, smallAdapter } from "./fixtures/preferences.js";
import { metricsOf, runBytes, stopAfter } from "./fixtures/runs.js";
import { writeTinyModel } from "./fixtures/tiny-model.js";

const folder = t.testdir();
const model = await Model.load(writeTinyModel(join(folder, "model")), { threads: 1, dtype: "f32" });
t.teardown(() => model.dispose());
const chat = { kind: "chat" as const };

const pairs = redPairs(240);
const ratings = pairs.flatMap(({ prompt, chosen, rejected }) => [
  { prompt, completion: chosen, target: 0.9 },
  { prompt, completion: rejected, target: 0.2 },
]);

const job = (
  directory: string,
  more: Partial<Extract<RewardModelTraining, { records: readonly { chosen: string }[] }>> = {},
): RewardModelTraining => ({
  model,
  directory: join(folder, directory),
  loss: { kind: "token" },
  records: pairs.slice(0, 180),
  held: pairs.slice(180),
  policy: (checkpoint, made) => model.policy({ adapter: checkpoint ?? smallAdapter, ...made }),
  ...shortTraining,
  ...more,
});
const metrics = (directory: string) => metricsOf(join(folder, directory));

t.test("rows: where an answer begins and ends", async (t) => {
  const row = await answerRow(model, { prompt: "what is that ?" }, "red hat", chat);
  t.equal(model.tokenizer.decode(row.ids.slice(row.from)), "red hat </s>");
  const told = [{ role: "user", content: "what is that ?" }];
  t.same(await answerRow(model, { messages: told }, "red hat", chat), row);
  const turns = [...told, { role: "assistant", content: "hat" }, { role: "user", content: "what colour ?" }];
  const last = await answerRow(model, { messages: turns }, "red", chat);
  t.equal(model.tokenizer.decode(last.ids.slice(last.from)), "red </s>", "of several answers the last");
  const plain = await answerRow(model, { prompt: "what is that ? " }, "red hat", { kind: "plain" });
  t.equal(model.tokenizer.decode(plain.ids), "what is that ? red hat </s>");
  t.equal(model.tokenizer.decode(plain.ids.slice(plain.from)), "red hat </s>");
  const open = await answerRow(model, { prompt: "what is that ? " }, "red", { kind: "plain", end: "" });
  t.equal(model.tokenizer.decode(open.ids.slice(open.from)), "red");
  await t.rejects(answerRow(model, { messages: told }, "red", { kind: "plain" }), { code: "BAD_INPUT" });
  await t.rejects(answerRow(model, { prompt: "red" }, "", { kind: "plain", end: "" }), { code: "BAD_INPUT" });
});

t.test("pairs: what is useless or too long is refused with counts, or left out and counted", async (t) => {
  const row = (...ids: number[]) => ({ ids: Int32Array.from(ids), from: 2 });
  const pair = (a: number[], b: number[]) => {
    const [chosen, rejected] = [row(...a), row(...b)];
    return { chosen, rejected, from: divergence(chosen.ids, rejected.ids), margin: 0 };
  };
  const good = pair([1, 2, 3, 4], [1, 2, 5]);
  const equal = pair([1, 2, 3], [1, 2, 3]);
  const begins = pair([1, 2, 3, 4, 5], [1, 2, 3]);
  const long = pair([7, 8, 9, 1, 2, 3, 4, 5], [7, 8, 9, 1, 2, 6]);
  t.same(checkPairs([good, begins], {}).survey, {
    records: 2,
    pairs: 2,
    tokens: 5 + 6,
    longest: 5,
    dropped: 0,
    cut: 0,
    equal: 0,
    prefixes: 1,
  });
  const refused = (rows: (typeof good)[], checks: Parameters<typeof checkPairs>[1], message: RegExp) =>
    t.throws(() => checkPairs(rows, checks), { message });
  refused([good, equal, equal], {}, /^2 of 3 pairs have two equal sides: nothing .*useless: drop/);
  refused([equal], { useless: "drop" }, /Give other pairs/);
  refused([good, begins], { prefixes: false }, /^1 of 2 pairs have a side that begins the other/);
  refused(
    [good, long],
    { maxTokens: 6 },
    /^1 of 2 pairs have a row that is longer than 6 tokens \(the longest has 8\)/,
  );
  refused([good, long], { maxTokens: 6, truncate: "left" }, /even without their prompts' beginnings/);
  t.match(checkPairs([good, equal, begins], { useless: "drop", prefixes: false }).survey, {
    pairs: 1,
    equal: 1,
    prefixes: 1,
  });
  t.match(checkPairs([good, long], { maxTokens: 6, truncate: "drop" }).survey, { pairs: 1, dropped: 1 });
  const { rows, survey } = checkPairs([long], { maxTokens: 7, truncate: "left" });
  t.match(survey, { pairs: 1, cut: 1 });
  t.same([...rows[0]!.chosen.ids, rows[0]!.chosen.from, rows[0]!.from], [8, 9, 1, 2, 3, 4, 5, 1, 4]);
});

t.test("gradients of every loss are finite differences, with a shared beginning and without", async (t) => {
  const policy = await model.policy({
    adapter: smallAdapter,
    heads: [{ name: "reward", kind: "linear", seed: 3, bias: false }],
  });
  awaken(policy);
  const { rows } = await pairRows(model, pairs.slice(0, 5), chat);
  // A side that begins the other, and two that share nothing.
  const [first] = rows;
  const shorter = { ...first!.chosen, ids: first!.chosen.ids.slice(0, -2) };
  rows.push({ ...first!, rejected: shorter, from: shorter.ids.length });
  const other = { ...first!.rejected, ids: first!.rejected.ids.slice(1) };
  rows.push({ ...first!, rejected: other, from: 0 });
  const rated = rows.map(({ chosen }, i) => ({ ...chosen, target: 0.1 + 0.1 * i }));
  const losses: [string, Unit[]][] = [
    ["token, held", rows.map((row) => pairUnit(row, { kind: "token" }, undefined))],
    ["token, cut", rows.slice(0, 5).map((row) => pairUnit(row, { kind: "token", tail: "cut" }, undefined))],
    ["token, padded", rows.map((row) => pairUnit(row, { kind: "token", tail: "padded" }, 0))],
    ["sequence", rows.map((row) => pairUnit(row, { kind: "sequence", margin: 0.3 }, undefined))],
    ["cross-entropy", rated.map((row) => ratingUnit(row, { kind: "cross-entropy" }))],
    ["squared", rated.map((row) => ratingUnit(row, { kind: "squared" }))],
  ];
  for (const [name, units] of losses) {
    const { adapter, heads } = policy.native.tensors();
    const tensors = [...adapter.filter((_, i) => i % 5 === 0), ...heads];
    const gradients = await gradientsAreDifferences(t, { policy, units, reads: { head: "reward" }, tensors }, name);
    t.same(
      gradients.filter((tensor) => tensor.name.startsWith("reward")).map((tensor) => tensor.shape),
      [[1, 40]],
      "a head without a bias",
    );
  }
});

t.test("a planted preference is learnt: by each loss, of pairs and of ratings", async (t) => {
  const learn = async (name: string, more: Partial<RewardModelTraining>) => {
    const { policy, held, data } = await trainRewardModel({ ...job(name), ...more } as RewardModelTraining);
    await policy.dispose();
    t.same(data.records, name === "cross-entropy" ? 360 : 180);
    return held!;
  };
  for (const kind of ["token", "sequence"] as const) {
    const { loss, values } = await learn(kind, { loss: { kind } });
    t.ok(values.accuracy! >= 0.9, `${kind}: ${values.accuracy} of held-out pairs`);
    t.ok(values.margin! > 0.5 && loss < 0.5, `margin ${values.margin}, loss ${loss}`);
    const told = metrics(kind).filter((line) => line.validationLoss !== undefined);
    t.equal(told.length, 3, "held against the rows after each epoch");
    t.ok(Math.min(...told.map((line) => line.validationLoss!)) === loss, "the policy of the smallest loss is given");
  }
  const rated = { loss: { kind: "cross-entropy" as const }, records: ratings.slice(0, 360), held: ratings.slice(360) };
  const { values } = await learn("cross-entropy", rated);
  t.ok(values.squaredError! < 0.05, `squared error ${values.squaredError}, of a constant ${0.35 ** 2}`);
});

t.test("a head alone, and one with a bias, without rows held out", async (t) => {
  const directory = join(folder, "alone");
  const { policy, held } = await trainRewardModel({
    ...job("alone", { head: { bias: true, layer: 1 }, epochs: 1, held: [] }),
    policy: (checkpoint, made) => model.policy(checkpoint === undefined ? made : { adapter: checkpoint, ...made }),
  });
  t.equal(held, undefined);
  t.equal(policy.hasAdapter, false);
  await policy.dispose();
  const again = await model.policy({ adapter: join(directory, "best") });
  t.same(again.rewardCard?.reward, { head: "reward", text: { kind: "chat" } });
  t.match(again.heads, [{ name: "reward", layer: 1, bias: true }]);
  await t.rejects(again.score(["what is that ?"]), { code: "NO_CARD", message: /is a reward model/ });
  await again.dispose();
});

t.test("stopped anywhere it ends with the same bytes; other settings or records are refused", async (t) => {
  const { policy } = await trainRewardModel(job("whole"));
  await policy.dispose();
  const whole = runBytes(join(folder, "whole"));
  const steps = metrics("whole").filter((line) => line.gradientNorm !== undefined).length;
  t.equal(steps, 36);
  // An abort leaves a checkpoint more behind.
  const kept = (bytes: Record<string, string>) =>
    Object.fromEntries(Object.entries(bytes).filter(([path]) => path in whole));
  for (const stop of [1, 12, 13, 35]) {
    const name = `stopped-${stop}`;
    await t.rejects(trainRewardModel({ ...job(name), ...stopAfter(stop) }), { code: "ABORTED" });
    // As if it had been killed: the metrics are ahead of the newest checkpoint.
    const newest = `step-${String(stop).padStart(6, "0")}`;
    if (stop === 13) rmSync(join(folder, name, "checkpoints", newest), { recursive: true });
    const { policy, held } = await trainRewardModel(job(name));
    await policy.dispose();
    t.same(kept(runBytes(join(folder, name))), whole, `stopped after ${stop}`);
    t.ok(held!.values.accuracy! > 0.5);
  }
  const { policy: again } = await trainRewardModel(job("whole"));
  await again.dispose();
  t.same(runBytes(join(folder, "whole")), whole, "a training that is done is left as it is");
  await t.rejects(trainRewardModel(job("whole", { loss: { kind: "sequence" }, batch: 8 })), {
    code: "OTHER_RECIPE",
    message: /loss: .*; batch: 16 then, 8 now/,
  });
  await t.rejects(trainRewardModel(job("whole", { records: pairs.slice(1, 181) })), { message: /records: / });
});

t.test("what is wrong is told before anything is learnt", async (t) => {
  const rejects = async (more: Partial<RewardModelTraining>, expected: { code?: string; message: RegExp }) => {
    await t.rejects(trainRewardModel({ ...job("wrong"), ...more } as RewardModelTraining), expected);
    t.notOk(existsSync(join(folder, "wrong", "metrics.jsonl")));
  };
  const same = { prompt: "what ?", chosen: "red", rejected: "red" };
  await rejects({ records: [...pairs.slice(0, 3), same] }, { code: "NOTHING_SUPERVISED", message: /^1 of 4 pairs/ });
  await rejects({ checks: { maxTokens: 15 } }, { code: "ROW_TOO_LONG", message: /longer than 15 tokens/ });
  await rejects({ loss: { kind: "token", tail: "padded" } }, { code: "BAD_OPTION", message: /padToken/ });
  const rated = { loss: { kind: "cross-entropy" as const }, held: [], records: [{ ...ratings[0]!, target: 7 }] };
  await rejects(rated, { code: "BAD_INPUT", message: /record 1: its target is 7; .*"squared"/ });
  const headless = (checkpoint: string | undefined) => model.policy({ adapter: checkpoint ?? smallAdapter });
  await rejects({ policy: headless }, { code: "NO_HEAD", message: /make it with those given/ });
  const other = () => model.policy({ adapter: smallAdapter, heads: [{ name: "reward", kind: "linear" }] });
  await rejects({ policy: other }, { code: "WRONG_HEAD", message: /a bias\) than is asked for \(.* no bias/ });
});

t.test("PAD tokens after a row are read one by one as each would be alone", async (t) => {
  const policy = await model.policy({ adapter: smallAdapter, heads: [{ name: "reward", kind: "linear", seed: 3 }] });
  awaken(policy);
  const { ids, from } = await answerRow(model, { prompt: pairs[0]!.prompt }, pairs[0]!.chosen, chat);
  const pad = 5;
  const alone: number[] = [];
  for (let place = ids.length; place < ids.length + 3; place++) {
    const [score] = await policy.logits([Int32Array.of(...ids, pad)], "reward", { paddedTo: [place + 1] });
    alone.push(score!);
  }
  t.equal(new Set(alone).size, 3, "places differ");
  const rest = Int32Array.of(...ids.slice(from), pad, pad, pad);
  const spans = [0, 1, 2].map((k) => {
    const at = rest.length - 3 + k;
    return { sequence: 1, from: at, to: at + 1 };
  });
  const { heads } = await policy.forward([ids.slice(0, from), rest], {
    prefixOf: [-1, 0],
    padTokens: [0, 3],
    heads: ["reward"],
    spans,
  });
  t.same([...heads!.reward!], alone);
  await policy.dispose();
});
