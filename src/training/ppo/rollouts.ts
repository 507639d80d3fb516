/** Rollouts: what a policy says to an iteration's prompts, with the log-probabilities it was sampled with. */
import { NumpyRandom, permutation } from "../../data/random.js";
import type { Policy } from "../../policy/policy.js";
import { stopWhen } from "../../rewards/retries.js";
import type { PpoSettings } from "./settings.js";

/** One completion of a prompt. */
export interface Rollout {
  /** Which of the iteration's groups it is from, and which of its samples. */
  group: number;
  sample: number;
  /** With the stop token that ended it; at least one token. */
  tokens: Int32Array;
  /** Natural log-probability of each token as it was scored while sampling, at temperature 1 with nothing cut. */
  logprobs: Float32Array;
  /** Without the stop token. */
  text: string;
  finish: "stop" | "length";
}

/** A prompt with its completions. */
export interface Group<Data> {
  prompt: Int32Array;
  data: Data;
  rollouts: Rollout[];
}

/** Where an iteration's prompts lie among all: consecutive places of one shuffled order after another. */
export function promptsOf(count: number, each: number, iteration: number, seed: number): number[] {
  const from = iteration * each;
  const orders = new Map<number, number[]>();
  return Array.from({ length: each }, (_, i) => {
    const epoch = Math.floor((from + i) / count);
    let order = orders.get(epoch);
    if (!order) {
      order = permutation([...Array(count).keys()], new NumpyRandom([seed, epoch]));
      orders.set(epoch, order);
    }
    return order[(from + i) % count]!;
  });
}

/** The seed an iteration samples with: another one each time, so that a prompt that comes again is answered anew. */
const samplingSeed = (seed: number, iteration: number): number => seed * 1_000_003 + iteration;

/** Samples in (prompt, sample) order, each as soon as those before it are done. */
export async function* sampleRollouts(
  policy: Policy,
  prompts: Int32Array[],
  { rollout, seed }: PpoSettings,
  iteration: number,
  signal?: AbortSignal,
): AsyncGenerator<Rollout, void, undefined> {
  const { samples, temperature, topK, topP, newTokens, stop, stopPattern, stopTokens } = rollout;
  const settings = {
    samples,
    temperature,
    topK: topK ?? undefined,
    topP,
    maxNewTokens: newTokens,
    stop,
    stopWhen: stopPattern === null ? undefined : stopWhen(new RegExp(stopPattern)),
    stopTokens: stopTokens ?? undefined,
    seed: samplingSeed(seed, iteration),
    signal,
  };
  for await (const { prompt, sample, tokens, stopToken, logprobs, text, finish } of policy.generate(
    prompts,
    settings,
  )) {
    yield {
      group: prompt,
      sample,
      tokens: stopToken === undefined ? tokens : Int32Array.of(...tokens, stopToken),
      logprobs,
      text,
      finish,
    };
  }
}
