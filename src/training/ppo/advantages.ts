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
  /** What is still to come behind a completion that was cut off; read where there are values. Default 0. */
  bootstrap?: number;
  group: number;
  mask?: Uint8Array;
  /** 0 where a token was put in rather than sampled; absent: all were sampled. */
  sampled?: Uint8Array;
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

/**
 * The engine's advantage step over an iteration's completions. What was put into one belongs to what the policy acts in: an
 * advantage goes on from the last sampled token before it to the next one behind it, and it has no divergence.
 */
export async function advantagesOf(
  model: Model,
  given: Episode[],
  { kl, advantage: { gamma, lambda, whiten, estimator } }: PpoSettings,
  klCoefficient: number,
): Promise<Advantages> {
  const episodes = given.map(sampledAlone);
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
    bootstrap: gae ? Float32Array.from(episodes, ({ bootstrap = 0 }) => bootstrap) : undefined,
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
    worth: given.map(({ sampled }, b) => ({
      advantages: inPlaces(result.whitened.slice(offsets[b], offsets[b + 1]), sampled),
      returns: inPlaces(result.returns.slice(offsets[b], offsets[b + 1]), sampled),
    })),
    kl: ratios / trained,
    klOfCompletion: ratios / episodes.length,
  };
}

function sampledAlone(episode: Episode): Episode {
  const { sampled, logprobs, reference, values, mask, settled } = episode;
  if (!sampled) return episode;
  const own = <List extends Float32Array | Uint8Array>(list: List | undefined) =>
    list?.filter((_, t) => sampled[t]) as List | undefined;
  const before = (end: number) => own(sampled.subarray(0, end))!.length;
  return {
    ...episode,
    logprobs: own(logprobs)!,
    reference: own(reference),
    values: own(values),
    mask: own(mask),
    settled: settled?.map(({ at, reward }) => ({ at: before(at + 1) - 1, reward })),
  };
}

/** The sampled tokens' numbers, and 0 between them. */
function inPlaces(numbers: Float32Array, sampled: Uint8Array | undefined): Float32Array {
  let next = 0;
  return sampled ? Float32Array.from(sampled, (one) => (one ? numbers[next++]! : 0)) : numbers;
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
