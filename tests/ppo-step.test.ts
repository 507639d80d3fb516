/** One step of proximal policy optimisation as a program takes it: rollouts, advantages, the clipped losses, a critic. */
import { join } from "node:path";
import t from "tap";
import { type AdvantageResult, Model, type Policy, type PpoLoss, type Sample } from "../src/index.js";
import { writeTinyModel } from "./fixtures/tiny-model.js";

const questions = ["what colour is that hat ?", "what is that ?"];
const settings = { samples: 4, temperature: 1, maxNewTokens: 12, seed: 3 };

/** Rows of a batch in which each prompt stands once, and lists over them, one number a token. */
async function rollOut(model: Model, policy: Policy) {
  const prompts = await Promise.all(questions.map((question) => model.promptTokens(question)));
  const samples: Sample[] = [];
  for await (const sample of policy.generate(prompts, settings)) if (sample.tokens.length) samples.push(sample);
  const sequences = [...prompts, ...samples.map((sample) => sample.tokens)];
  const prefixOf = [...prompts.map(() => -1), ...samples.map((sample) => sample.prompt)];
  const lists = (of: (sample: Sample, b: number) => ArrayLike<number>) => [
    ...prompts.map((prompt) => new Float32Array(prompt.length)),
    ...samples.map((sample, b) => Float32Array.from(of(sample, b))),
  ];
  const weights = lists((sample) => sample.tokens.map(() => 1));
  const oldLogprobs = lists((sample) => sample.logprobs.subarray(0, sample.tokens.length));
  const scores = Float32Array.from(samples, (_, b) => (b % 3) - 1);
  return { prompts, samples, sequences, prefixOf, lists, weights, oldLogprobs, scores };
}

t.test("a step of PPO", async (t) => {
  const model = await Model.load(writeTinyModel(join(t.testdir(), "model")), { threads: 2 });
  t.teardown(() => model.dispose());
  const adapter = { rank: 4, alpha: 8, targets: ["q" as const, "v" as const, "down" as const], seed: 1 };
  const heads = [{ name: "worth", kind: "linear" as const, seed: 2 }];

  t.test("values are read, advantages made, both losses learnt", async (t) => {
    const policy = await model.policy({ adapter, heads });
    const { prompts, samples, sequences, prefixOf, lists, weights, oldLogprobs, scores } = await rollOut(model, policy);
    const mask = weights.map((row) => Uint8Array.from(row));
    const read = await policy.forward(sequences, {
      prefixOf,
      logprobs: true,
      entropy: true,
      mask,
      values: { head: "worth", mask },
    });
    const behind = prompts.reduce((sum, prompt) => sum + prompt.length, 0);
    t.same(read.logprobs!.subarray(behind), Float32Array.from(oldLogprobs.slice(2).flatMap((row) => [...row])));
    t.ok(read.logprobs!.subarray(0, behind).every((value) => value === 0));
    t.ok(read.values!.subarray(behind).every((value) => value !== 0));

    const lengths = samples.map((sample) => sample.tokens.length);
    const offsets = Int32Array.from([0, ...lengths]).map((_, b) => lengths.slice(0, b).reduce((a, c) => a + c, 0));
    const made: AdvantageResult = await model.advantages({
      offsets,
      completionStart: new Int32Array(samples.length),
      values: read.values!.subarray(behind),
      scores,
      lambda: 0.95,
      whitenAdvantages: "unbiased",
    });
    const total = lengths.reduce((a, b) => a + b, 0);
    t.equal(made.moments.count, total);
    t.ok(Math.abs(made.whitened.reduce((a, b) => a + b, 0)) < 1e-4 * total);
    t.equal(made.rewards[offsets[1]! - 1], scores[0]);
    const spread = (flat: Float32Array) => lists((_, b) => flat.subarray(offsets[b]!, offsets[b + 1]!));
    const loss: PpoLoss = {
      kind: "ppo",
      weights,
      oldLogprobs,
      advantages: spread(made.whitened),
      entropy: 0.01,
      kl: { reference: oldLogprobs, coefficient: 0.05, estimator: 3 },
      value: {
        head: "worth",
        weights,
        oldValues: spread(read.values!.subarray(behind)),
        returns: spread(made.returns),
        clip: 0.2,
        coefficient: 0.5,
      },
    };
    const trainer = policy.trainer({ schedule: 3e-3, optimizer: { weightDecay: 0 } });
    const before = policy.native.tensors();
    const asked: number[] = [];
    const refused = await trainer.step({
      sequences,
      prefixOf,
      loss: { ...loss, accept: ({ ratioChange }) => asked.push(ratioChange) > 1 },
    });
    t.same(asked, [0]);
    t.same([refused.ppo!.accepted, refused.gradientNorm, refused.learningRate], [false, 0, 0]);
    t.same(policy.native.tensors(), before, "a step that is not accepted moves nothing");
    t.ok(trainer.gradients().every(({ data }) => data.every((value) => value === 0)));

    const first = await trainer.step({ sequences, prefixOf, loss });
    const statistics = first.ppo!;
    t.match(
      { ...statistics },
      {
        accepted: true,
        ratio: 1,
        ratioChange: 0,
        clipFraction: 0,
        outsideFraction: 0,
        approximateKl: 0,
        referenceKl: 0,
      },
    );
    t.ok(Math.abs(statistics.policyLoss) < 1e-6 && statistics.entropy > 0 && statistics.valueClipFraction === 0);
    // Coefficients are float32 on the device.
    const expected = statistics.policyLoss - Math.fround(0.01) * statistics.entropy + 0.5 * statistics.valueLoss;
    t.ok(Math.abs(first.loss - expected) < 1e-9 * Math.abs(expected));
    t.ok(Math.abs(statistics.valueError - 2 * statistics.valueLoss) < 1e-9);

    // The same in parts: one division for all.
    const other = await model.policy({ adapter, heads });
    const apart = other.trainer({ schedule: 3e-3, optimizer: { weightDecay: 0 } });
    const cut = await apart.step({ sequences, prefixOf, loss, microBatchTokens: 8 });
    for (const name of ["loss", "gradientNorm"] as const)
      t.ok(Math.abs(cut[name] - first[name]) < 1e-5 * Math.abs(first[name]), name);

    let last = first;
    for (let step = 0; step < 15; step++) last = await trainer.step({ sequences, prefixOf, loss });
    t.ok(last.ppo!.policyLoss < first.ppo!.policyLoss - 0.02, `${last.ppo!.policyLoss}`);
    t.ok(last.ppo!.ratioChange > 0.05 && last.ppo!.referenceKl > 0 && last.ppo!.approximateKl2 > 0);
    t.ok(last.ppo!.outsideFraction >= last.ppo!.clipFraction);
  });

  t.test("a critic learns alone, divided by its own count", async (t) => {
    const policy = await model.policy({ adapter, heads });
    const { sequences, prefixOf, lists, weights } = await rollOut(model, policy);
    const none = weights.map((row) => new Float32Array(row.length));
    const returns = lists((sample) => Float32Array.from(sample.tokens, () => 0.7));
    const trainer = policy.trainer({ schedule: 1e-2 });
    const loss: PpoLoss = {
      kind: "ppo",
      weights: none,
      oldLogprobs: none,
      advantages: none,
      value: { head: "worth", weights, returns },
    };
    const first = await trainer.step({ sequences, prefixOf, loss });
    t.ok(Math.abs(first.loss - first.ppo!.valueLoss) < 1e-9 * first.loss);
    let last = first;
    for (let step = 0; step < 30; step++) last = await trainer.step({ sequences, prefixOf, loss });
    t.ok(last.ppo!.valueError < 0.2 * first.ppo!.valueError, `${first.ppo!.valueError} ${last.ppo!.valueError}`);
  });

  t.test("what does not fit is named", async (t) => {
    const policy = await model.policy({ adapter, heads });
    const { sequences, prefixOf, weights, oldLogprobs } = await rollOut(model, policy);
    const trainer = policy.trainer({ schedule: 1e-3 });
    const loss: PpoLoss = { kind: "ppo", weights, oldLogprobs, advantages: oldLogprobs };
    const fails = (changed: Partial<PpoLoss>, message: RegExp) =>
      t.rejects(trainer.step({ sequences, prefixOf, loss: { ...loss, ...changed } }), { message });
    await fails({ advantages: oldLogprobs.slice(1) }, /has advantages for/);
    await fails({ oldLogprobs: [new Float32Array(1), ...oldLogprobs.slice(1)] }, /oldLogprobs: row 0 has/);
    await fails({ clip: -1 }, /the range of the ratio/);
    await fails({ value: { head: "worth", weights, returns: weights, clip: 0.2 } }, /value.oldValues for none/);
    await fails({ value: { head: "nobody", weights, returns: weights } }, /nobody/);
    await t.rejects(
      model.advantages({ offsets: Int32Array.of(0, 2), completionStart: Int32Array.of(3), scores: Float32Array.of(1) }),
      { message: /the completion of sequence 0 begins at 3 of its 2 tokens/ },
    );
  });
});
