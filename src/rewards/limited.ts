/**
 * A reward that may be slow, paid for, or wrong, under limits: how long a call may take, how often it is tried, how many
 * run at once, and what a failure means. What was scored once can be kept by its content.
 */
import { setTimeout as sleep } from "node:timers/promises";
import { CredenceError } from "../errors.js";
import { answerKey } from "../remote/answer-store.js";
import { asScored, type NamedReward, named, type Reward, type RewardContext, type Scored } from "./reward.js";

/** Where scores are kept: `AnswerStore.open<Scored>(folder)`, or `memoryCache()`. */
export interface RewardCache {
  get(key: string): Promise<Scored | undefined>;
  put(key: string, scored: Scored): Promise<void>;
}

/** Kept as long as the process runs. */
export function memoryCache(): RewardCache {
  const kept = new Map<string, Scored>();
  return {
    get: async (key) => kept.get(key),
    put: async (key, scored) => void kept.set(key, scored),
  };
}

export interface RewardLimits {
  /** Seconds a call may take, default 60. Only what waits can be stopped: a function that computes on and on cannot. */
  timeout?: number;
  /** How often a call that threw or ran out of time is tried again; default 2. */
  retries?: number;
  /** Seconds before the first retry, doubled for each further one up to the longest; default 0.5 and 30. */
  backoff?: { first: number; longest: number };
  /** Calls at once; default 8. */
  concurrency?: number;
  /**
   * Keeps scores by prompt, completion and record. `version` stands for the reward itself: change it when the reward gives
   * other numbers. Failures are not kept.
   */
  cache?: { store: RewardCache; version: string };
  /**
   * What a failure does: a throw or time-out that no retry mended, or a result that is no finite number. "error", the
   * default, ends the stream and names the sample; a value is what the sample earns instead, and is counted.
   */
  onFailure?: "error" | { value: number };
}

/** What was asked so far. */
export interface RewardTally {
  /** Calls, retries among them. */
  calls: number;
  retries: number;
  /** Scores taken from the cache, or from an equal call that was running. */
  kept: number;
  /** Samples that earned the value for failures, by kind. */
  threw: number;
  timedOut: number;
  notFinite: number;
}

export type RewardFailure = "threw" | "timedOut" | "notFinite";

/** A score, and why it is the value for failures where it is. */
export interface LimitedScore extends Scored {
  failure?: RewardFailure;
}

export interface LimitedReward<R = unknown> extends NamedReward<R> {
  score(prompt: string, completion: string, record: R, context: Omit<RewardContext, "attempt">): Promise<LimitedScore>;
  readonly tally: RewardTally;
}

const noScore = Symbol("no score");

/** setTimeout's. */
const longestTimeout = (2 ** 31 - 1) / 1000;

/**
 * @throws CredenceError "USAGE" naming the limit that is none. Its score throws "REWARD_FAILED" with the sample, the cause
 *   and the way out, "ABORTED" where the context's signal stops it.
 */
export function limitedReward<R = unknown>(reward: Reward<R>, limits: RewardLimits = {}): LimitedReward<R> {
  const { timeout = 60, retries = 2, backoff = { first: 0.5, longest: 30 }, concurrency = 8 } = limits;
  const { cache, onFailure = "error" } = limits;
  const inner = named(reward);
  const usage = (what: string) => new CredenceError("USAGE", `reward ${inner.name}: ${what}`);
  if (!(timeout > 0 && timeout <= longestTimeout))
    throw usage(`a time-out of ${timeout} s; expected up to ${Math.floor(longestTimeout)} s`);
  if (!Number.isInteger(retries) || retries < 0) throw usage(`${retries} retries; expected a whole number from 0`);
  if (!Number.isInteger(concurrency) || concurrency < 1)
    throw usage(`${concurrency} calls at once; expected a whole number from 1`);
  if (!(backoff.first >= 0 && backoff.longest >= backoff.first && backoff.longest <= longestTimeout))
    throw usage(`a back-off of ${backoff.first} to ${backoff.longest} s; expected two numbers from 0, the longer last`);
  if (onFailure !== "error" && !Number.isFinite(onFailure.value))
    throw usage(`${onFailure.value} as the value of a failure; expected a finite number`);

  const tally: RewardTally = { calls: 0, retries: 0, kept: 0, threw: 0, timedOut: 0, notFinite: 0 };
  const places = limiter(concurrency);
  const running = new Map<string, Promise<LimitedScore>>();

  /** One call; a failure comes back as such, so that it can be tried again. */
  const attempt = async (
    args: [prompt: string, completion: string, record: R],
    context: RewardContext,
  ): Promise<{ scored: Scored } | { failure: RewardFailure; why: string; cause?: unknown }> => {
    const stop = new AbortController();
    let end = () => {};
    const ended = new Promise<typeof noScore>((resolve) => {
      end = () => {
        resolve(noScore);
        stop.abort();
      };
    });
    const timer = setTimeout(end, 1000 * timeout);
    context.signal.addEventListener("abort", end, { once: true });
    tally.calls += 1;
    try {
      const call = Promise.resolve().then(() => inner.score(...args, { ...context, signal: stop.signal }));
      const outcome = await Promise.race([ended, call]);
      if (context.signal.aborted) throw aborted(inner.name);
      if (outcome === noScore) return { failure: "timedOut", why: `gave no score within ${timeout} s` };
      const scored = asScored(outcome);
      const told = [scored?.reward, ...(scored?.settled ?? []).flatMap(({ reward, end }) => [reward, end])];
      const wrong = told.findIndex((number) => !Number.isFinite(number));
      if (wrong < 0) return { scored };
      const what = wrong > 0 ? "for a settled part " : "";
      return { failure: "notFinite", why: `gave ${what}${String(told[wrong])}, which is no finite number` };
    } catch (error) {
      if (context.signal.aborted) throw aborted(inner.name);
      // A term of a sum under limits of its own has told its failure in full.
      if ((error as { code?: unknown } | null)?.code === "REWARD_FAILED") throw error;
      return { failure: "threw", why: `threw "${(error as Error)?.message ?? String(error)}"`, cause: error };
    } finally {
      clearTimeout(timer);
      context.signal.removeEventListener("abort", end);
    }
  };

  const ask = async (
    args: [prompt: string, completion: string, record: R],
    context: Omit<RewardContext, "attempt">,
  ): Promise<LimitedScore> => {
    let pause = backoff.first;
    for (let tries = 0; ; tries++) {
      if (context.signal.aborted) throw aborted(inner.name);
      const outcome = await attempt(args, { ...context, attempt: tries });
      if ("scored" in outcome) return outcome.scored;
      const { failure, why, cause } = outcome;
      if (failure !== "notFinite" && tries < retries) {
        tally.retries += 1;
        await sleep(1000 * pause, undefined, { signal: context.signal }).catch(() => {});
        pause = Math.min(2 * pause, backoff.longest);
        continue;
      }
      if (onFailure === "error") {
        const times = tries > 0 ? `, as in the ${tries === 1 ? "try" : `${tries} tries`} before` : "";
        throw new CredenceError(
          "REWARD_FAILED",
          `reward ${inner.name}, question ${context.question}, sample ${context.sample}: ${why}${times}. ${wayOut[failure]}, or let such samples earn a fixed value, counted: onFailure: { value: -1 }`,
          { cause },
        );
      }
      tally[failure] += 1;
      return { reward: onFailure.value, failure };
    }
  };

  return {
    name: inner.name,
    tally,
    async score(prompt, completion, record, context) {
      const asked = () => places(() => ask([prompt, completion, record], context));
      if (!cache) return asked();
      const { store, version } = cache;
      const key = answerKey("reward", version, prompt, completion, record);
      // An equal call that is stopped or fails does so for its own sample; this one then asks for itself.
      const shared = await running.get(key)?.catch(() => undefined);
      if (shared && !shared.failure) {
        tally.kept += 1;
        return shared;
      }
      const keptOrAsked = async () => {
        const kept = await store.get(key);
        if (kept) {
          tally.kept += 1;
          return kept;
        }
        const scored = await asked();
        if (!scored.failure) await store.put(key, scored);
        return scored;
      };
      const work = keptOrAsked();
      running.set(key, work);
      try {
        return await work;
      } finally {
        if (running.get(key) === work) running.delete(key);
      }
    },
  };
}

const wayOut: Record<RewardFailure, string> = {
  threw: "Mend the reward or give it more retries",
  timedOut: "Give it a longer time-out",
  notFinite: "Mend the reward",
};

const aborted = (name: string): CredenceError =>
  new CredenceError("ABORTED", `stopped while reward ${name} was asked for; no score was lost that a cache keeps`);

/** Runs work where fewer than `width` are running, else when one of them ends; first come, first served. */
function limiter(width: number): <T>(work: () => Promise<T>) => Promise<T> {
  const waiting: (() => void)[] = [];
  let running = 0;
  return async (work) => {
    // Who leaves hands its place to the first who waits, so that nobody steps in between.
    if (running >= width) await new Promise<void>((resume) => waiting.push(resume));
    else running += 1;
    try {
      return await work();
    } finally {
      const next = waiting.shift();
      if (next) next();
      else running -= 1;
    }
  };
}
