/**
 * A step of SaySelf's reinforcement against PyTorch (bench/peers/sayself_step.py): scores, advantages, both losses and every gradient of
 * the one network, in float32, with the settings of the training itself.
 */
import { readFileSync } from "node:fs";
import { fileURLToPath } from "node:url";
import t from "tap";
import { valueHead, valueHeads } from "../src/methods/sayself/training-models.js";
import { rlhfPpoSettings, saySelfDefaults } from "../src/methods/sayself/training-settings.js";
import { readSafetensors } from "../src/model/safetensors.js";
import { Model } from "../src/policy/model.js";
import { RunningMoments } from "../src/rewards/running-moments.js";
import { advantagesOf, type Episode } from "../src/training/ppo/advantages.js";
import { type Part, scoreRollouts } from "../src/training/ppo/passes.js";
import type { Rollout } from "../src/training/ppo/rollouts.js";
import { type Target, updateOn } from "../src/training/ppo/update.js";

const folder = fileURLToPath(new URL("golden/sayself-step/", import.meta.url));
const step = JSON.parse(readFileSync(`${folder}step.json`, "utf8"));
const tensors = new Map(readSafetensors(`${folder}tensors.safetensors`).map((tensor) => [tensor.name, tensor]));

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
  await using policy = await model.policy({ adapter: `${folder}policy`, heads: valueHeads });
  policy.native.setTensors(
    ["weight", "bias"].map((part) => ({ ...tensors.get(`value.${part}`)!, name: `${valueHead}.${part}` })),
  );
  const parts: Part[] = step.prompts.map((prompt: number[], b: number) => {
    const tokens = Int32Array.from(step.answers[b]);
    const logprobs = Float32Array.from(step.oldLogprobs[b]);
    const rollout: Rollout = { group: b, sample: 0, tokens, logprobs, text: "", finish: "stop" };
    return { prompt: Int32Array.from(prompt), rollouts: [rollout] };
  });
  const rollouts = parts.map(({ rollouts: [only] }) => only!);
  const settings = rlhfPpoSettings(saySelfDefaults.rlhf, 3000);
  t.match(settings, { score: { normalise: "full" }, kl: { coefficient: step.kl, controller: "adaptive" } });
  const moments = new RunningMoments();
  moments.update(step.before);
  moments.update(step.rewards);
  const scores = moments.scale(step.rewards);
  t.ok(near(scores, step.scores, 1e-6), "rewards in units of all so far");
  const reference = await scoreRollouts(policy, parts, { logprobs: true, adapter: false, budget: 4096 });
  const episodes = rollouts.map((rollout, b): Episode => {
    const own = reference.get(rollout)!.logprobs!;
    t.ok(near(own, step.reference[b], 1e-5), `the reference of response ${b}`);
    return {
      logprobs: rollout.logprobs,
      reference: own,
      values: Float32Array.from(step.oldValues[b]),
      reward: scores[b]!,
      group: b,
      mask: Uint8Array.from(step.masks[b]),
    };
  });
  const { worth, klOfCompletion } = await advantagesOf(model, episodes, settings, settings.kl.coefficient);
  t.ok(Math.abs(klOfCompletion - step.klOfCompletion) < 1e-5, "the divergence of the masked tokens");
  const learnt = (numbers: Float32Array, b: number) => numbers.map((value, i) => value * step.masks[b][i]);
  worth.forEach(({ advantages, returns }, b) => {
    t.ok(near(learnt(advantages, b), step.advantages[b], 1e-5), `advantages of response ${b}`);
    t.ok(near(learnt(returns, b), step.returns[b], 1e-5), `returns of response ${b}`);
  });
  const targets = new Map<Rollout, Target>(
    rollouts.map((rollout, b) => {
      const { values, mask } = episodes[b]!;
      return [rollout, { ...worth[b]!, values: values!, mask: mask! }];
    }),
  );
  // The first moment of AdamW after one step with beta1 0 is the gradient.
  const trainer = policy.trainer({ schedule: 1e-9, optimizer: { beta1: 0, maxGradientNorm: 0 } });
  const { ppo } = await updateOn(trainer, parts, targets, settings, valueHead);
  const found = trainer.state().tensors;
  const expected = [...tensors].filter(([key]) => key.startsWith("gradient."));
  for (const [key, { data }] of expected) {
    const own = key.slice("gradient.".length);
    const moment = found.filter(({ name }) => name.endsWith(own));
    t.equal(moment.length, 2, `${own}: its moments`);
    t.ok(near(moment[0]!.data, data, 1e-4), `gradient of ${own}`);
  }
  t.equal(found.length, 2 * expected.length, "no gradient is left out");
  trainer.dispose();
  t.ok(
    near([ppo!.policyLoss], [step.policyLoss], 1e-5),
    `the policy's loss: ${ppo!.policyLoss} and ${step.policyLoss}`,
  );
  t.ok(near([ppo!.valueLoss], [step.valueLoss], 1e-5), `the critic's loss: ${ppo!.valueLoss} and ${step.valueLoss}`);
  t.ok(Math.abs(ppo!.outsideFraction - step.outside) < 1e-6, "as many ratios are beyond the clip");
});
