/** Reward models in use, and as other programs keep them. */
import { existsSync, readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import t from "tap";
import { Model, mergeAdapter } from "../src/index.js";
import { encodeSafetensors } from "../src/model/safetensors.js";
import { encodeTorchFile } from "../src/model/torch-file.js";
import { native } from "../src/native.js";
import { batchedReward } from "../src/rewards/batched.js";
import { readRewardModel, writeRewardModel } from "../src/training/reward-model/layouts.js";
import { answerRow } from "../src/training/reward-model/rows.js";
import { rewardModel } from "../src/training/reward-model/scoring.js";
import { rewardCard, trainRewardModel } from "../src/training/reward-model/train.js";
import { redPairs } from "./fixtures/preferences.js";
import { writeTinyModel } from "./fixtures/tiny-model.js";

const folder = t.testdir();
const at = (name: string) => join(folder, name);
const model = await Model.load(writeTinyModel(at("model")), { threads: 1, dtype: "f32" });
t.teardown(() => model.dispose());
const pairs = redPairs(64);
const { policy } = await trainRewardModel({
  model,
  directory: at("trained"),
  loss: { kind: "sequence" },
  records: pairs,
  policy: (checkpoint, made) =>
    model.policy({ adapter: checkpoint ?? { rank: 4, alpha: 8, targets: ["q", "v", "down"], seed: 1 }, ...made }),
  batch: 16,
  learningRate: 1e-2,
});
const best = at("trained/best");
const answers = pairs.slice(0, 9).map(({ prompt, chosen }) => ({ prompt, completion: chosen }));
const text = { kind: "chat" as const };
const rewards = await rewardModel(policy).score(answers);

t.test("scores texts and rows of tokens alike, as the card says", async (t) => {
  const rows = await Promise.all(
    answers.map(({ prompt, completion }) => answerRow(model, { prompt }, completion, text)),
  );
  const { heads } = await policy.forward(
    rows.map(({ ids }) => ids),
    {
      heads: ["reward"],
      spans: rows.map(({ ids }, sequence) => ({ sequence, from: ids.length - 1, to: ids.length })),
    },
  );
  t.same(rewards, heads!.reward);
  t.ok(new Set(rewards).size > 5);
  const mixed = [
    rows[1]!.ids,
    answers[0]!,
    { messages: [{ role: "user", content: answers[2]!.prompt }], completion: answers[2]!.completion },
  ];
  t.same([...(await rewardModel(policy).score(mixed))], [rewards[1], rewards[0], rewards[2]]);
  const loaded = await model.policy({ adapter: best });
  t.same(await rewardModel(loaded).score(answers), rewards, "from its folder");
  const plain = rewardModel(loaded, { text: { kind: "plain" } });
  t.notSame(await plain.score(answers), rewards);
  const long = { prompt: "what ?", completion: "red ".repeat(300) };
  await t.rejects(plain.score([answers[0]!, long]), { code: "TOO_LONG", message: /^answer 2 has/ });
  t.throws(() => rewardModel(loaded, { head: "other" }), { code: "NO_HEAD", message: /this policy has reward/ });
  const base = await model.policy();
  t.throws(() => rewardModel(base), { code: "NO_CARD" });

  const scorer = rewardModel(loaded);
  const quality = batchedReward("quality", (items, signal) => scorer.score(items, { signal }));
  const asked = { signal: new AbortController().signal, question: 0, sample: 0, attempt: 0 };
  const given = answers.map(({ prompt, completion }) => quality.score(prompt, completion, undefined, asked));
  t.same(await Promise.all(given), [...rewards], "as a reward among others");
});

t.test("there and back: each layout keeps every reward", async (t) => {
  t.same((await writeRewardModel(model, best, at("trl"), "trl")).files, [
    "adapter_config.json",
    "adapter_model.safetensors",
    "pytorch_model.bin",
  ]);
  await writeRewardModel(model, best, at("transformers"), "transformers");
  for (const layout of ["trl", "transformers"] as const) {
    await using read = await readRewardModel(model, at(layout), { text });
    t.same(await rewardModel(read).score(answers), rewards, layout);
  }
  const config = JSON.parse(readFileSync(at("transformers/adapter_config.json"), "utf8"));
  t.match(config, { task_type: "SEQ_CLS", modules_to_save: ["score"] });
  const names = native()
    .readTensors(at("trl/pytorch_model.bin"))
    .map(({ name, shape }) => `${name} ${shape}`);
  t.same(names, ["v_head.summary.weight 1,40", "v_head.summary.bias 1"]);

  const { files } = await writeRewardModel(model, best, at("deepspeed"), "deepspeed");
  t.ok(files.includes("config.json") && files.includes("tokenizer.json") && !files.includes("merged"), `${files}`);
  const whole = native().readTensors(at("deepspeed/pytorch_model.bin"));
  t.ok(whole.some(({ name }) => name === "rwtranrsformer.layers.0.self_attn.q_proj.weight"));
  t.same(
    whole.filter(({ name }) => !name.startsWith("rwtranrsformer.")).map(({ name, shape }) => `${name} ${shape}`),
    ["v_head.weight 1,40"],
  );
  await t.rejects(readRewardModel(model, at("deepspeed")), {
    code: "UNSUPPORTED",
    message: /its backbone is not model \(.* has other numbers there\)/,
  });
  await mergeAdapter(best, at("merged"), { model: model.path });
  await using merged = await Model.load(at("merged"), { threads: 1, dtype: "f32" });
  const again = await readRewardModel(merged, at("deepspeed"), { text });
  const scores = await rewardModel(again).score(answers);
  const largest = Math.max(...rewards.map(Math.abs));
  t.ok(
    scores.every((score, i) => Math.abs(score - rewards[i]!) < 0.01 * largest),
    "but for the rounding of merged weights",
  );
});

t.test("what does not fit is refused by name", async (t) => {
  const head = (name: string, shape: number[]) => ({
    name,
    shape,
    data: new Float32Array(shape.reduce((a, b) => a * b, 1)).fill(0.1),
  });
  const file = (name: string, tensors: ReturnType<typeof head>[]) => {
    const bytes = name.endsWith(".bin") ? encodeTorchFile(tensors, "x") : encodeSafetensors(tensors);
    writeFileSync(at(name), Buffer.concat(bytes));
    return at(name);
  };
  await using alone = await readRewardModel(model, file("head.bin", [head("v_head.weight", [1, 40])]));
  t.match(alone.heads, [{ name: "reward", bias: false }]);
  t.equal((await rewardModel(alone).score(answers)).length, answers.length);
  const refused: [string, ReturnType<typeof head>[], { code: string; message: RegExp }][] = [
    ["none.safetensors", [head("classifier.weight", [1, 40])], { code: "NO_HEAD", message: /score\.weight/ }],
    ["two.safetensors", [head("score.weight", [2, 40])], { code: "WRONG_HEAD", message: /\[2, 40\]/ }],
    ["wide.safetensors", [head("score.weight", [1, 64])], { code: "WRONG_BASE", message: /reads 64 numbers/ }],
    [
      "other.safetensors",
      [head("score.weight", [1, 40]), head("model.norm.bias", [40])],
      { code: "UNSUPPORTED", message: /model\.norm\.bias is not there/ },
    ],
  ];
  for (const [name, tensors, expected] of refused)
    await t.rejects(readRewardModel(model, file(name, tensors)), expected, name);
  await t.rejects(readRewardModel(model, at("nothing")), { code: "NO_FILE" });

  const biased = await model.policy({ heads: [{ name: "reward", kind: "linear", seed: 1 }] });
  biased.save(at("biased"), rewardCard(model, { name: "reward", kind: "linear" }, text));
  await t.rejects(writeRewardModel(model, at("biased"), at("no"), "deepspeed"), { message: /has a bias of/ });
  await t.rejects(writeRewardModel(model, at("biased"), at("no"), "trl"), { code: "NO_ADAPTER" });
  t.notOk(existsSync(at("no")));
  await t.rejects(writeRewardModel(model, best, at("trl"), "trl"), { code: "EXISTS" });
});
