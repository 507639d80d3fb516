/** CONQORD's reward of one completion: the quality that a reward model sees in its answer, and the confidence that it states. */
import { CredenceError } from "../../errors.js";
import { confidenceFormats } from "../../evaluation/stated.js";
import { batchedReward } from "../../rewards/batched.js";
import { type LimitedReward, limitedReward } from "../../rewards/limited.js";
import type { Prompted } from "../../training/reward-model/rows.js";
import type { RewardModel } from "../../training/reward-model/scoring.js";
import type { ConqordCompat } from "./compat.js";
import { confidenceReading, type Reading, runOn, scoredText } from "./wire.js";

export interface QualityOptions<R> {
  /** What a confidence is that is not stated, counted; "error": there is none. */
  unparsed: "error" | number;
  /** What is scored: the answer alone (default), or the answer with the confidence that it states (PreApproach). */
  scored?: "answer" | "stated";
  /**
   * What a completion without a confidence earns in place of its quality, and then its confidence is null (see `amongStated`); absent: its
   * quality, beside what `unparsed` says.
   */
  missing?: number;
  /**
   * Where a completion's answer ends, in characters: its quality is settled there, so that a trainer with a critic lets the confidence
   * earn the term alone. Absent: all is settled at the completion's end, as published.
   */
  answerEnd?(completion: string): number;
  /** What was answered, as the reward model reads it; absent: the prompt's text. */
  asked?(record: R): Prompted;
  compat?: ConqordCompat;
}

/** Completions scored in one pass at most. */
const atOnce = 32;
/** Scoring waits while the same engine samples, however long that takes. */
const day = 24 * 60 * 60;

/**
 * The reward that `conqordTerm` compares: a completion's quality, with its confidence beside it. Invented turns are never scored; with
 * A9-5 the whole completion is.
 *
 * @returns the reward, whose failures are errors, and how many confidences were read, missing, and beyond 0 to 1
 */
export function qualityReward<R = unknown>(
  model: RewardModel,
  { unparsed, scored = "answer", missing, answerEnd, asked, compat = new Set() }: QualityOptions<R>,
): { reward: LimitedReward<R>; counts: Reading["counts"] } {
  const reading = confidenceReading("training", { compat, onFailure: unparsed });
  const read = (completion: string) =>
    scored === "stated" && !compat.has("A9-5")
      ? completion.slice(0, runOn(completion))
      : scoredText(completion, compat);
  const quality = batchedReward<R>(
    "quality",
    (items, signal) =>
      model.score(
        items.map(({ prompt, completion, record }) => ({
          ...(asked ? asked(record) : { prompt }),
          completion: read(completion),
        })),
        { signal },
      ),
    { size: atOnce },
  );
  const reward = limitedReward<R>(
    {
      name: "conqord",
      async score(prompt, completion, record, context) {
        const confidence = confidenceOf(completion);
        if (missing !== undefined && !confidenceFormats.conqord.find(completion))
          return { reward: missing, confidence };
        const own = (await quality.score(prompt, completion, record, context)) as number;
        return {
          reward: own,
          confidence,
          ...(answerEnd && { settled: [{ reward: own, end: answerEnd(completion) }] }),
        };
      },
    },
    { concurrency: 2 * atOnce, retries: 0, timeout: day },
  );
  const confidenceOf = (completion: string): number | null => {
    try {
      return reading.read(completion);
    } catch (error) {
      if (!(error instanceof CredenceError)) throw error;
      throw new CredenceError("REWARD_FAILED", error.message.replace("drop, or a value", "a value (--unparsed)"), {
        cause: error,
      });
    }
  };
  return { reward, counts: reading.counts };
}
