/** From rewards to what a token is worth: the penalty for leaving the reference, then GAE or a comparison within the prompt. */
import type { Model } from "../../policy/model.js";
import { grpoAdvantages, rlooAdvantages } from "../../rewards/advantages.js";
import type { PpoSettings } from "./settings.js";

/** One completion as the advantage step sees it; lists have one number a token. */
export interface Episode {
  logprobs: Float32Array;
  reference?: Float32Array;
  values?: Float32Array;
  reward: number;
  /** Parts of the reward that stand on earlier tokens; read where there are values. */
  settled?: readonly PlacedReward[];
  group: number;
  mask?: Uint8Array;
}

export interface PlacedReward {
  /** Index of the token; -1: no token that is learnt from has earned it. */
  at: number;
  reward: number;
}

/** 0 where a token is not learnt from. */
export interface Worth {
  advantages: Float32Array;
  returns: Float32Array;
}

export interface Advantages {
  /** In the episodes' order. */
  worth: Worth[];
  /** Log-ratio to the reference: the mean over tokens learnt from, and over completions of their sum. */
  kl: number;
  klOfCompletion: number;
}

/** The engine's advantage step over an iteration's completions. */
export async function advantagesOf(
  model: Model,
  episodes: Episode[],
  { kl, advantage: { gamma, lambda, whiten, estimator } }: PpoSettings,
  klCoefficient: number,
): Promise<Advantages> {
  const offsets = new Int32Array(episodes.length + 1);
  episodes.forEach(({ logprobs }, b) => {
    offsets[b + 1] = offsets[b]! + logprobs.length;
  });
  const total = offsets[episodes.length]!;
  const flat = <List extends Float32Array | Uint8Array>(
    out: List,
    of: (episode: Episode) => ArrayLike<number>,
  ): List => {
    episodes.forEach((episode, b) => {
      out.set(of(episode), offsets[b]);
    });
    return out;
  };
  const numbers = (of: (episode: Episode) => ArrayLike<number>) => flat(new Float32Array(total), of);
  const mask = flat(new Uint8Array(total), ({ mask, logprobs }) => mask ?? new Uint8Array(logprobs.length).fill(1));
  const logprobs = numbers((episode) => episode.logprobs);
  const reference = numbers((episode) => episode.reference ?? episode.logprobs);
  const gae = estimator === "gae";
  const result = await model.advantages({
    offsets,
    completionStart: new Int32Array(episodes.length),
    mask,
    values: gae ? numbers((episode) => episode.values!) : undefined,
    scores: Float32Array.from(gae ? episodes.map(atTheEnd) : comparedRewards(episodes, estimator)),
    tokenRewards: gae && episodes.some(({ settled }) => settled?.length) ? numbers(onTokens) : undefined,
    kl: { logprobs, reference, coefficient: klCoefficient, estimator: kl.estimator, clamp: kl.clamp },
    gamma,
    lambda: gae ? lambda : 1,
    whitenAdvantages: whiten && gae ? "unbiased" : "none",
  });
  let [ratios, trained] = [0, 0];
  for (let t = 0; t < total; t++) {
    if (!mask[t]) continue;
    ratios += logprobs[t]! - reference[t]!;
    trained += 1;
  }
  return {
    worth: episodes.map((_, b) => ({
      advantages: result.whitened.slice(offsets[b], offsets[b + 1]),
      returns: result.returns.slice(offsets[b], offsets[b + 1]),
    })),
    kl: ratios / trained,
    klOfCompletion: ratios / episodes.length,
  };
}

const atTheEnd = ({ reward, settled = [] }: Episode): number =>
  settled.reduce((rest, part) => rest - part.reward, reward);

function onTokens({ logprobs, settled = [] }: Episode): Float32Array {
  const out = new Float32Array(logprobs.length);
  for (const { at, reward } of settled) if (at >= 0) out[at]! += reward;
  return out;
}

function comparedRewards(episodes: Episode[], estimator: "rloo" | "grpo"): ArrayLike<number> {
  const rewards = episodes.map(({ reward }) => reward);
  const groups = episodes.map(({ group }) => group);
  return estimator === "rloo" ? rlooAdvantages(groups, rewards) : grpoAdvantages(groups, rewards);
}
