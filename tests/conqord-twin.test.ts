/**
 * A step of CONQORD's reinforcement against PyTorch (bench/peers/conqord_step.py): scores, advantages, both losses and every gradient of
 * actor and critic, in float32.
 */
import { readFileSync } from "node:fs";
import { fileURLToPath } from "node:url";
import t from "tap";
import { readSafetensors } from "../src/model/safetensors.js";
import { Model } from "../src/policy/model.js";
import type { Policy } from "../src/policy/policy.js";
import { conqordTerm } from "../src/rewards/batch-terms.js";
import { advantagesOf, type Episode } from "../src/training/ppo/advantages.js";
import { type Part, scoreRollouts } from "../src/training/ppo/passes.js";
import type { Rollout } from "../src/training/ppo/rollouts.js";
import { ppoSchema } from "../src/training/ppo/settings.js";
import { type Target, updateOn } from "../src/training/ppo/update.js";

const folder = fileURLToPath(new URL("golden/conqord-step/", import.meta.url));
const step = JSON.parse(readFileSync(`${folder}step.json`, "utf8"));
const tensors = new Map(readSafetensors(`${folder}tensors.safetensors`).map((tensor) => [tensor.name, tensor]));
const head = "value";
const heads = [{ name: head, kind: "linear" as const, bias: false }];

/** Where the worst of `got` lies beyond its bound: a share of the largest of `expected`. */
function near(got: ArrayLike<number>, expected: ArrayLike<number>, share: number): boolean {
  const largest = Array.from(expected).reduce((most, value) => Math.max(most, Math.abs(value)), 1e-6);
  return (
    got.length === expected.length &&
    Array.from(got).every((value, i) => Math.abs(value - expected[i]!) <= share * largest)
  );
}

t.test("a step is PyTorch's", async (t) => {
  await using model = await Model.load(folder, { dtype: "f32", threads: 1 });
  await using actor = await model.policy({ adapter: `${folder}actor` });
  await using critic = await model.policy({ adapter: `${folder}critic`, heads });
  critic.native.setTensors([{ ...tensors.get("value.weight")!, name: "value.weight" }]);
  const parts: Part[] = step.prompts.map((prompt: number[], b: number) => {
    const tokens = Int32Array.from(step.answers[b]);
    const logprobs = Float32Array.from(step.oldLogprobs[b]);
    const rollout: Rollout = { group: b, sample: 0, tokens, logprobs, text: "", finish: "stop" };
    return { prompt: Int32Array.from(prompt), rollouts: [rollout] };
  });
  const rollouts = parts.map(({ rollouts: [only] }) => only!);
  const budget = 4096;
  const reference = await scoreRollouts(actor, parts, { logprobs: true, adapter: false, budget });
  const { alpha, kl, rewardClip: clamp, quality, confidence } = step;
  const scores = conqordTerm({ alpha, clamp }).apply(quality, confidence);
  t.ok(near(scores, step.scores, 1e-6), "quality and the order-preserving term");
  const settings = ppoSchema.parse({
    kl: { coefficient: kl },
    advantage: { whiten: false },
    loss: { valueCoefficient: 1 },
    optimizer: { beta1: 0, maxGradientNorm: 0 },
  });
  const episodes = rollouts.map((rollout, b): Episode => {
    const own = reference.get(rollout)!.logprobs!;
    t.ok(near(own, step.reference[b], 1e-5), `the reference of answer ${b}`);
    const values = Float32Array.from(step.oldValues[b]);
    return { logprobs: rollout.logprobs, reference: own, values, reward: scores[b]!, group: b };
  });
  const { worth } = await advantagesOf(model, episodes, settings, kl);
  worth.forEach(({ advantages, returns }, b) => {
    t.ok(near(advantages, step.advantages[b], 1e-5), `advantages of answer ${b}`);
    t.ok(near(returns, step.returns[b], 1e-5), `returns of answer ${b}`);
  });
  const targets = new Map<Rollout, Target>(
    rollouts.map((rollout, b) => [rollout, { ...worth[b]!, values: episodes[b]!.values! }]),
  );
  /** The first moment of AdamW after one step with beta1 0 is the gradient. */
  const learnt = async (policy: Policy, name: "actor" | "critic") => {
    const { beta1, maxGradientNorm } = settings.optimizer;
    const trainer = policy.trainer({ schedule: 1e-9, optimizer: { beta1, maxGradientNorm } });
    const result = await updateOn(trainer, parts, targets, settings, name === "critic" ? head : undefined, {
      policy: name === "actor",
    });
    const moments = trainer.state().tensors;
    const expected = [...tensors].filter(([key]) => key.startsWith(`${name}.gradient.`));
    for (const [key, { data }] of expected) {
      const own = key.slice(`${name}.gradient.`.length);
      const found = moments.filter((tensor) => tensor.name.endsWith(own));
      t.equal(found.length, 2, `${own}: its moments`);
      t.ok(near(found[0]!.data, data, 1e-4), `gradient of the ${name}'s ${own}`);
    }
    t.equal(moments.length, 2 * expected.length, `no gradient of the ${name}'s is left out`);
    trainer.dispose();
    return result.ppo!;
  };
  const { policyLoss, outsideFraction } = await learnt(actor, "actor");
  t.ok(near([policyLoss], [step.actorLoss], 1e-5), `the policy's loss: ${policyLoss} and ${step.actorLoss}`);
  t.ok(Math.abs(outsideFraction - step.outside) < 1e-6, "as many ratios are beyond the clip");
  const { valueLoss } = await learnt(critic, "critic");
  t.ok(near([valueLoss], [step.criticLoss], 1e-5), `the critic's loss: ${valueLoss} and ${step.criticLoss}`);
});
