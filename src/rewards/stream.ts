/** Rewards of samples that come in while others are still being written. */
import { CredenceError } from "../errors.js";
import { inPlace } from "../remote/in-order.js";
import { type LimitedReward, type LimitedScore, limitedReward } from "./limited.js";
import type { Reward } from "./reward.js";

/** One completion of one question, with what its reward reads. */
export interface RewardSample<R = unknown> {
  /** Numbers from 0: of the question, and of its sample. */
  question: number;
  sample: number;
  prompt: string;
  completion: string;
  record: R;
}

export interface RewardStreamOptions {
  /** Samples of each question; default 1. */
  samples?: number;
  /** Stops at once, with an "ABORTED" error; samples that were yielded stand. */
  signal?: AbortSignal;
}

/**
 * Scores samples in whatever order they come, each at once, and yields them in (question, sample) order: question 0 with
 * all its samples, question 1, and so on without a gap.
 *
 * @param samples what the policy writes, as it finishes; all that come are held until it is their turn
 * @param reward under `limitedReward`'s limits; any other gets their defaults
 * @throws CredenceError as `limitedReward` does, and "BAD_INPUT" for a sample that comes twice, or never
 */
export async function* rewardStream<R, S extends RewardSample<R>>(
  samples: Iterable<S> | AsyncIterable<S>,
  reward: Reward<R> | LimitedReward<R>,
  { samples: each = 1, signal }: RewardStreamOptions = {},
): AsyncGenerator<{ sample: S; scored: LimitedScore }, void, undefined> {
  if (!Number.isInteger(each) || each < 1)
    throw new CredenceError("USAGE", `${each} samples of each question; expected a whole number from 1`);
  const limited = "tally" in reward ? reward : limitedReward(reward);
  const place = ({ question, sample }: S): number => {
    if (Number.isInteger(question) && question >= 0 && Number.isInteger(sample) && sample >= 0 && sample < each)
      return question * each + sample;
    throw new CredenceError(
      "BAD_INPUT",
      `question ${question}, sample ${sample}: expected whole numbers from 0, and ${each} ${each === 1 ? "sample" : "samples"} of each question`,
    );
  };
  const name = (at: number) => `question ${Math.floor(at / each)}, sample ${at % each}`;
  yield* inPlace(
    samples,
    { place, name },
    async (sample, stop) => {
      const { question, sample: number, prompt, completion, record } = sample;
      const context = { question, sample: number, signal: stop };
      return { sample, scored: await limited.score(prompt, completion, record, context) };
    },
    signal,
  );
}
