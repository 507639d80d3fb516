/** Rollouts: what a policy says to an iteration's prompts, with the log-probabilities it was sampled with. */
import { NumpyRandom, permutation } from "../../data/random.js";
import { CredenceError } from "../../errors.js";
import type { Policy, Sample } from "../../policy/policy.js";
import { nextTry, stopWhen } from "../../rewards/retries.js";
import type { Tokenizer } from "../../text/tokenizer.js";
import type { PpoSettings } from "./settings.js";

/** One completion of a prompt, with all its continuations. */
export interface Rollout {
  /** Which of the iteration's groups it is from, and which of its samples. */
  group: number;
  sample: number;
  /** With the stop token that ended it; at least one token. */
  tokens: Int32Array;
  /**
   * Natural log-probability of each token as it was scored while sampling, with nothing cut, at the temperature that is trained; 0
   * of one that was put in.
   */
  logprobs: Float32Array;
  /** Without the stop token. */
  text: string;
  /** How the last of its continuations ended. */
  finish: "stop" | "length";
  /** 0 where a token was put in rather than sampled; absent: all were sampled. */
  sampled?: Uint8Array;
  /** Where completions are tried again: how often this one was gone on with, and whether it is complete now. */
  retry?: { tries: number; complete: boolean };
}

/** How completions are sampled: what `sampleRollouts` reads of a training's settings. */
export type Sampling = Pick<PpoSettings, "trainedTemperature" | "seed"> & {
  rollout: Omit<PpoSettings["rollout"], "prompts">;
};

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
const samplingSeed = (seed: number, iteration: number, tries: number): number =>
  (seed + tries * 1_000_003) * 1_000_003 + iteration;

/** Each prompt's completions, in (prompt, sample) order; with `retry` each as soon as it is complete, or nothing is left to try. */
export async function* sampleRollouts(
  policy: Policy,
  prompts: Int32Array[],
  { rollout, trainedTemperature, seed }: Sampling,
  iteration: number,
  signal?: AbortSignal,
): AsyncGenerator<Rollout, void, undefined> {
  const { samples, temperature, topK, topP, newTokens, stop, stopPattern, stopTokens, retry } = rollout;
  const settings = {
    temperature,
    scoreTemperature: trainedTemperature,
    topK: topK ?? undefined,
    topP,
    stop,
    stopWhen: stopPattern === null ? undefined : stopWhen(new RegExp(stopPattern)),
    stopTokens: stopTokens ?? undefined,
    signal,
  };
  const first = { ...settings, samples, maxNewTokens: newTokens, seed: samplingSeed(seed, iteration, 0) };
  if (!retry) {
    for await (const sample of policy.generate(prompts, first)) yield rolloutOf(sample);
    return;
  }
  const cue = retry.cue === null ? new Int32Array() : await cueTokens(policy.model.tokenizer, retry.cue);
  checkRoom(policy.model.info.contextLength, prompts, rollout, cue.length);
  const rules = { complete: new RegExp(retry.complete), retries: retry.retries, cue: retry.cue ?? undefined };
  let incomplete: Beginning[] = [];
  for (let tries = 0; tries === 0 || incomplete.length > 0; tries++) {
    const from = incomplete;
    incomplete = [];
    const going =
      tries === 0
        ? policy.generate(prompts, first)
        : policy.generate(
            from.map(({ group }) => prompts[group]!),
            {
              ...settings,
              samples: 1,
              firstSamples: from.map(({ sample }) => sample),
              begun: from.map(({ tokens }) => tokens),
              maxNewTokens: retry.newTokens ?? newTokens,
              seed: samplingSeed(seed, iteration, tries),
            },
          );
    for await (const sample of going) {
      const own = tries === 0 ? rolloutOf(sample) : goneOn(from[sample.prompt]!, sample);
      const next = nextTry(own.text, tries, rules);
      if (next.kind === "continue") incomplete.push(beginning(own, sample.stopToken, next.forced ? cue : undefined));
      else yield { ...own, retry: { tries, complete: next.complete } };
    }
  }
}

const rolloutOf = ({ prompt, sample, tokens, stopToken, logprobs, text, finish }: Sample): Rollout => ({
  group: prompt,
  sample,
  tokens: stopToken === undefined ? tokens : Int32Array.of(...tokens, stopToken),
  logprobs,
  text,
  finish,
});

/** What a completion goes on from. */
type Beginning = Pick<Rollout, "group" | "sample" | "tokens" | "logprobs" | "sampled">;

function beginning(rollout: Rollout, stopToken: number | undefined, cue: Int32Array = new Int32Array()): Beginning {
  const { group, sample } = rollout;
  const length = rollout.tokens.length - (stopToken === undefined ? 0 : 1);
  const [tokens, logprobs] = [rollout.tokens.subarray(0, length), rollout.logprobs.subarray(0, length)];
  if (cue.length === 0) return { group, sample, tokens, logprobs };
  return {
    group,
    sample,
    tokens: Int32Array.of(...tokens, ...cue),
    logprobs: Float32Array.of(...logprobs, ...new Float32Array(cue.length)),
    sampled: new Uint8Array(length + cue.length).fill(1, 0, length),
  };
}

function goneOn({ group, sample, tokens, logprobs, sampled }: Beginning, more: Sample): Rollout {
  const own = rolloutOf(more);
  return {
    ...own,
    group,
    sample,
    tokens: Int32Array.of(...tokens, ...own.tokens),
    logprobs: Float32Array.of(...logprobs, ...own.logprobs),
    ...(sampled && { sampled: Uint8Array.of(...sampled, ...new Uint8Array(own.tokens.length).fill(1)) }),
  };
}

/** A cue's tokens as they stand behind a text: at the beginning of one, some tokenizers put a space before it. */
async function cueTokens(tokenizer: Tokenizer, cue: string): Promise<Int32Array> {
  const { ids, spans } = await tokenizer.encodeAligned(`\n${cue}`);
  const first = ids.findIndex((_, i) => spans[2 * i + 1]! > 1);
  const tokens = first >= 0 && spans[2 * first]! >= 1 ? ids.slice(first) : await tokenizer.encode(cue);
  if (tokens.length > 0) return tokens;
  throw new CredenceError("BAD_RECIPE", `the cue ${JSON.stringify(cue)} has no token in this vocabulary`);
}

/** Said before anything is sampled, not when a completion comes to be so long. */
function checkRoom(
  context: number,
  prompts: Int32Array[],
  { newTokens, retry }: Sampling["rollout"],
  cue: number,
): void {
  const tries = retry!.retries + (cue > 0 ? 1 : 0);
  const most = newTokens + tries * (retry!.newTokens ?? newTokens) + cue;
  const longest = prompts.reduce((length, prompt) => Math.max(length, prompt.length), 0);
  if (longest + most <= context) return;
  throw new CredenceError(
    "TOO_LONG",
    `a prompt of ${longest} tokens and a completion of up to ${most}, with all continuations of one that is not complete, are longer than the context (${context} tokens). Shorten the prompt, or allow fewer new tokens or retries`,
  );
}

/** How many completions were gone on with, got the cue, and lack what they should have all the same; shares. */
export function retriesOf(rollouts: readonly Rollout[]): Record<string, number> {
  if (!rollouts.some(({ retry }) => retry)) return {};
  const share = (of: (rollout: Rollout) => boolean) => rollouts.filter(of).length / rollouts.length;
  return {
    retried: share(({ retry }) => retry!.tries > 0),
    cued: share(({ sampled }) => sampled !== undefined),
    incomplete: share(({ retry }) => !retry!.complete),
  };
}
