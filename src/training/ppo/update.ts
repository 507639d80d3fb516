/** One optimiser step of the clipped losses over some completions. */
import type { Trainer } from "../../policy/trainer.js";
import { type Part, passesOf } from "./passes.js";
import type { Rollout } from "./rollouts.js";
import type { PpoSettings } from "./settings.js";

/** What the losses need of a completion, one number a token. */
export interface Target {
  advantages: Float32Array;
  returns: Float32Array;
  values?: Float32Array;
  mask?: Uint8Array;
}

export interface UpdateResult {
  policyLoss: number;
  valueLoss: number;
  /** Share of the trained tokens whose ratio was clipped, mean log-ratio from old to new, and the ratio farthest from 1. */
  clipFraction: number;
  approximateKl: number;
  ratioDeviation: number;
  gradientNorm: number;
  learningRate: number;
}

export async function updateOn(
  trainer: Trainer,
  parts: Part[],
  targets: Map<Rollout, Target>,
  settings: PpoSettings,
  head: string | undefined,
): Promise<UpdateResult> {
  const { clip, valueClip, valueCoefficient, entropyCoefficient } = settings.loss;
  let [count, policyLoss, valueLoss, clipped, kl, deviation] = [0, 0, 0, 0, 0, 0];
  for (const { sequences, prefixOf, rollouts, starts, spans, before } of passesOf(parts, settings.microBatchTokens)) {
    const pass = await trainer.forward(sequences, {
      readouts: entropyCoefficient > 0 ? ["logprobs", "entropy"] : ["logprobs"],
      heads: head === undefined ? [] : [{ name: head, spans }],
      prefixOf,
    });
    const logprobs = new Float32Array(pass.logprobs!.length);
    const entropy = new Float32Array(pass.logprobs!.length);
    const values = new Float32Array(spans.length);
    let at = 0;
    for (const [i, rollout] of rollouts.entries()) {
      const { advantages, returns, values: old, mask } = targets.get(rollout)!;
      for (let t = 0; t < rollout.tokens.length; t++, at++) {
        if (mask && !mask[t]) continue;
        count += 1;
        entropy[before[at]!]! -= entropyCoefficient;
        const row = starts[i]! + t;
        const change = pass.logprobs![row]! - rollout.logprobs[t]!;
        const ratio = Math.exp(change);
        const plain = -advantages[t]! * ratio;
        const cut = -advantages[t]! * Math.min(1 + clip, Math.max(1 - clip, ratio));
        policyLoss += Math.max(plain, cut);
        if (plain >= cut) logprobs[row] = plain;
        if (Math.abs(ratio - 1) > clip) clipped += 1;
        kl -= change;
        deviation = Math.max(deviation, Math.abs(ratio - 1));
        if (head === undefined) continue;
        const value = pass.heads![head]![at]!;
        const free = (value - returns[t]!) ** 2;
        const near =
          valueClip === null ? value : old![t]! + Math.min(valueClip, Math.max(-valueClip, value - old![t]!));
        const bound = (near - returns[t]!) ** 2;
        valueLoss += 0.5 * Math.max(free, bound);
        if (free >= bound) values[at] = valueCoefficient * (value - returns[t]!);
      }
    }
    await pass.backward({
      logprobs,
      ...(entropyCoefficient > 0 ? { entropy } : {}),
      ...(head === undefined ? {} : { heads: { [head]: values } }),
    });
  }
  const taken = await trainer.update({ count });
  return {
    policyLoss: policyLoss / count,
    valueLoss: valueLoss / count,
    clipFraction: clipped / count,
    approximateKl: kl / count,
    ratioDeviation: deviation,
    ...taken,
  };
}
