/** One optimiser step of the clipped losses over some completions. */
import type { PpoLoss, StepResult, Trainer } from "../../policy/trainer.js";
import type { Worth } from "./advantages.js";
import { type Part, rowsOf } from "./passes.js";
import type { Rollout } from "./rollouts.js";
import type { PpoSettings } from "./settings.js";

/** What the losses need of a completion beside what it was sampled with, one number a token. */
export interface Target extends Worth {
  /** Of the critic, when it was sampled. */
  values?: Float32Array;
  mask?: Uint8Array;
}

/**
 * Takes the step, unless the policy has moved farther from the one that sampled than `kl.stop` allows.
 *
 * @param head the critic's; absent: none
 * @param beside rows of language modelling, with their coefficient
 * @param policy false: the critic learns alone, as one that has an adapter of its own does; nothing stops it
 */
export function updateOn(
  trainer: Trainer,
  parts: Part[],
  targets: ReadonlyMap<Rollout, Target>,
  { loss, kl, trainedTemperature, microBatchTokens }: PpoSettings,
  head: string | undefined,
  { beside, policy = true }: { beside?: PpoLoss["ptx"]; policy?: boolean } = {},
): Promise<StepResult> {
  const { sequences, prefixOf, rollouts } = rowsOf(parts);
  const perRow = (of: (rollout: Rollout, target: Target) => Float32Array | undefined): Float32Array[] =>
    sequences.map(({ length }, row) => {
      const rollout = rollouts[row];
      return (rollout && of(rollout, targets.get(rollout)!)) ?? new Float32Array(length);
    });
  const weights = perRow(({ tokens }, { mask }) =>
    mask ? Float32Array.from(mask, (one) => (one ? 1 : 0)) : new Float32Array(tokens.length).fill(1),
  );
  const { stop } = kl;
  return trainer.step({
    sequences,
    prefixOf,
    microBatchTokens,
    loss: {
      kind: "ppo",
      weights: policy ? weights : weights.map(({ length }) => new Float32Array(length)),
      oldLogprobs: perRow((rollout) => rollout.logprobs),
      advantages: perRow((_, { advantages }) => advantages),
      clip: loss.clip,
      entropy: loss.entropyCoefficient,
      temperature: trainedTemperature,
      value:
        head === undefined
          ? undefined
          : {
              head,
              weights,
              oldValues: perRow((_, { values }) => values),
              returns: perRow((_, { returns }) => returns),
              clip: loss.valueClip ?? 0,
              coefficient: loss.valueCoefficient,
            },
      ptx: beside,
      accept: stop === null || !policy ? undefined : ({ approximateKl }) => approximateKl <= stop,
    },
  });
}
