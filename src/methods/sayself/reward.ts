/** What SaySelf's second training pays: a scoring rule on the confidence that a response states and on whether its answer is right. */
import type { Judge } from "../../evaluation/judges/judge.js";
import { type ConfidenceFormat, ConfidenceReader, confidenceFormats } from "../../evaluation/stated.js";
import { batchedReward } from "../../rewards/batched.js";
import type { NamedReward, RewardContext, RewardFunction } from "../../rewards/reward.js";
import {
  brierRule,
  linearRule,
  logRule,
  quadraticRule,
  rlcrRule,
  type ScoringRule,
  saySelfReward,
} from "../../rewards/scoring-rules.js";
import type { SaySelfCompat } from "./compat.js";
import { type Gold, isRight, isRightAsPublished } from "./correctness.js";
import type { ResponseToJudge } from "./judging.js";

/** The rules by the names they have here; "quadratic" is the published one, "correctness" pays for being right as well. */
export const saySelfRules = {
  quadratic: quadraticRule,
  linear: linearRule,
  correctness: rlcrRule,
  log: logRule,
  brier: brierRule,
} as const satisfies Record<string, () => ScoringRule>;

export type SaySelfRule = keyof typeof saySelfRules;

/** A question as reinforcement knows it. */
export interface AskedQuestion extends Gold {
  question: string;
}

/** How right a response is, from 0 to 10. */
export type Correctness<R = AskedQuestion> = (
  prompt: string,
  completion: string,
  record: R,
  context: RewardContext,
) => number | Promise<number>;

/** 10 where the text under "Answer:" is right, else 0; as published (B9-4) where the answer stands anywhere in prompt and response. */
export const textCorrectness =
  (compat: SaySelfCompat = new Set()): Correctness =>
  (prompt, completion, record) => {
    const right = compat.has("B9-4")
      ? record.answers.some((answer) => isRightAsPublished(prompt + completion, answer))
      : isRight(completion, record);
    return right ? 10 : 0;
  };

/**
 * A judge's score, whose verdicts are from 1 to 10. Responses that come within a few milliseconds are judged together.
 *
 * @throws Error, which is the reward's failure, where the judge's reply holds no score
 */
export function judgedCorrectness(judge: Judge<ResponseToJudge>): Correctness {
  const { score } = batchedReward<AskedQuestion>(judge.name, async (items, signal) => {
    const asked = items.map(({ completion, record: { question, answers, negatives } }) => ({
      question,
      answers,
      negatives,
      response: completion,
    }));
    const scores: number[] = [];
    for await (const { value, reply } of judge.judge(asked, { signal })) {
      if (value === null) throw new Error(`${judge.name} gave no score from 1 to 10 but ${JSON.stringify(reply)}`);
      scores.push(value);
    }
    return scores;
  });
  return (prompt, completion, record, context) => score(prompt, completion, record, context) as Promise<number>;
}

export interface ResponseRewardOptions<R> {
  /** Default "quadratic". */
  rule?: SaySelfRule;
  correctness: Correctness<R>;
  /** What a response earns that states no confidence. Default: the least that the rule pays, and -1 at most. */
  missing?: number;
  /** How a confidence is stated. Default `confidenceFormats.sayself`, after a reflection. */
  format?: ConfidenceFormat;
  compat?: SaySelfCompat;
}

/** How confidences were read: responses, those without one, and those beyond 10, taken as 10. */
export type ReadingCounts = ConfidenceReader["counts"];

/** The least that a rule pays, to whoever is sure and wrong. */
const leastOf = (rule: ScoringRule): number => Math.min(-1, rule.score(1, 0));

/**
 * The reward of a response. Its parts have `correct`, from 0 to 1. As published (B9-8) a confidence that cannot be read is a 0, unless
 * nothing stands behind "Confidence:"; (B9-7) one beyond 10 counts as 1.
 */
export function responseReward<R = AskedQuestion>(
  options: ResponseRewardOptions<R>,
): { reward: NamedReward<R>; counts: ReadingCounts } {
  const { rule: name = "quadratic", correctness, format = confidenceFormats.sayself, compat = new Set() } = options;
  const rule = saySelfRules[name]();
  const missing = options.missing ?? leastOf(rule);
  const published = compat.has("B9-8");
  const reader = new ConfidenceReader(published ? "sayself-published" : format, { onFailure: "drop", clamp: true });
  const score: RewardFunction<R> = async (prompt, completion, record, context) => {
    const right = await correctness(prompt, completion, record, context);
    const confidence = reader.read(completion);
    const scored = { confidence, parts: { correct: right / 10 } };
    if (confidence === null && !(published && /Confidence:[\s\S]/.test(completion)))
      return { ...scored, reward: missing };
    const stated = 10 * (reader.format.find(completion)?.value ?? 0);
    return { ...scored, reward: saySelfReward(right, stated, { rule, asPublished: compat.has("B9-7") }) };
  };
  return { reward: { name: `sayself ${name}`, score }, counts: reader.counts };
}
