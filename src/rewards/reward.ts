/**
 * A reward: whatever gives a completion a number. A function does, or an object with a name; sums of such, a scoring rule on
 * the stated confidence, and a model that scores many completions at once are made of functions here.
 */
import { CredenceError } from "../errors.js";
import { type ScoringRule, type ScoringRuleName, scoringRules } from "./scoring-rules.js";

/** Where a completion stands, and what stops the work on it. */
export interface RewardContext {
  /** Number of the question (prompt) and of its sample, from 0. */
  question: number;
  sample: number;
  /** 0 at the first call, 1 at the first retry. */
  attempt: number;
  /** Aborted at the time-out, and where the caller stops. */
  signal: AbortSignal;
}

/** A number, and what it is made of. */
export interface Scored {
  reward: number;
  /** Named numbers for the log: a sum's terms, a rule's correctness. */
  parts?: Record<string, number>;
  /** The confidence the completion states, from 0 to 1; null where none could be read. Rewards over a batch need it. */
  confidence?: number | null;
  /**
   * Parts of `reward` that the completion's first `end` characters settle: right or wrong is settled by the answer, before a
   * confidence is stated. A trainer with a critic places them there, where they are no noise in what comes after.
   */
  settled?: readonly Settled[];
}

export interface Settled {
  reward: number;
  end: number;
}

/**
 * @param prompt as the policy read it
 * @param completion what it wrote, without the prompt
 * @param record the question's record, with whatever the reward needs (answers, evidence)
 */
export type RewardFunction<R = unknown> = (
  prompt: string,
  completion: string,
  record: R,
  context: RewardContext,
) => number | Scored | Promise<number | Scored>;

export interface NamedReward<R = unknown> {
  readonly name: string;
  readonly score: RewardFunction<R>;
}

export type Reward<R = unknown> = RewardFunction<R> | NamedReward<R>;

/** A reward by its name; that of a function is its own. */
export function named<R>(reward: Reward<R>): NamedReward<R> {
  return typeof reward === "function" ? { name: reward.name || "reward", score: reward } : reward;
}

export const asScored = (value: number | Scored): Scored => (typeof value === "object" ? value : { reward: value });

/**
 * weight_1 reward_1 + weight_2 reward_2 + ..., asked for beside each other. Each term's own number is a part of the result,
 * and so are its parts; the confidence is the first term's that states one.
 *
 * @throws CredenceError "USAGE" for no terms, two of one name, or a weight that is no finite number
 */
export function weightedSum<R = unknown>(
  terms: readonly { weight: number; reward: Reward<R> }[],
  name = "sum",
): NamedReward<R> {
  const all = terms.map(({ weight, reward }) => ({ weight, ...named(reward) }));
  if (all.length === 0) throw new CredenceError("USAGE", `${name}: a sum of no rewards; expected at least one`);
  const names = new Set<string>();
  for (const term of all) {
    if (!Number.isFinite(term.weight))
      throw new CredenceError("USAGE", `${name}: ${term.name} has the weight ${term.weight}; expected a number`);
    if (names.has(term.name))
      throw new CredenceError(
        "USAGE",
        `${name}: two of its rewards are called "${term.name}"; give one { name, score }`,
      );
    names.add(term.name);
  }
  return {
    name,
    async score(prompt, completion, record, context) {
      const scored = await Promise.all(
        all.map(async (term) => asScored(await term.score(prompt, completion, record, context))),
      );
      const parts: Record<string, number> = {};
      let reward = 0;
      scored.forEach((own, i) => {
        const { name: term, weight } = all[i]!;
        reward += weight * own.reward;
        parts[term] = own.reward;
        for (const [part, value] of Object.entries(own.parts ?? {})) parts[`${term}.${part}`] = value;
      });
      const stating = scored.find(({ confidence }) => confidence !== undefined);
      const settled = scored.flatMap((own, i) =>
        (own.settled ?? []).map(({ reward, end }) => ({ reward: all[i]!.weight * reward, end })),
      );
      return {
        reward,
        parts,
        ...(stating && { confidence: stating.confidence }),
        ...(settled.length > 0 && { settled }),
      };
    },
  };
}

export interface ConfidenceRewardOptions<R> {
  rule: ScoringRule | ScoringRuleName;
  /** The confidence that a completion states, from 0 to 1; null where there is none. */
  confidence: (completion: string) => number | null;
  /** 1 right, 0 wrong, or a share between. */
  correct: (
    prompt: string,
    completion: string,
    record: R,
    context: RewardContext,
  ) => number | boolean | Promise<number | boolean>;
  /**
   * What a completion earns that states no confidence. Below the rule's worst it teaches the format: -1 in SaySelf, -3 times
   * the scale in Rewarding Doubt. Asked for, since no value fits all rules.
   */
  unparsed: number;
  /**
   * Where the answer ends in a completion, in characters: what the rule pays for being right is settled there. 0: the answer
   * stands before the completion, which then learns nothing from being right. Default: all is settled at the completion's end.
   */
  answerEnd?: (completion: string) => number;
  name?: string;
}

/** A scoring rule on the stated confidence and on whether the answer is right. Its parts have `correct`. */
export function confidenceReward<R = unknown>(options: ConfidenceRewardOptions<R>): NamedReward<R> {
  const { confidence: read, correct, unparsed, answerEnd } = options;
  const rule = typeof options.rule === "string" ? scoringRules[options.rule]?.() : options.rule;
  if (!rule)
    throw new CredenceError(
      "USAGE",
      `no scoring rule is called "${options.rule}"; there are ${Object.keys(scoringRules).join(", ")}`,
    );
  if (!Number.isFinite(unparsed))
    throw new CredenceError("USAGE", `${rule.name}: unparsed ${unparsed}; expected what a completion without earns`);
  return {
    name: options.name ?? rule.name,
    async score(prompt, completion, record, context) {
      const right = Number(await correct(prompt, completion, record, context));
      const confidence = read(completion);
      const scored = { parts: { correct: right }, confidence };
      if (confidence === null) return { ...scored, reward: unparsed };
      const reward = rule.score(confidence, right);
      if (!answerEnd || rule.correctnessWeight === 0) return { ...scored, reward };
      const end = answerEnd(completion);
      if (!(Number.isInteger(end) && end >= 0 && end <= completion.length))
        throw new CredenceError(
          "BAD_REWARD",
          `${rule.name}: answerEnd gave ${end} for a completion of ${completion.length} characters; expected where its answer ends, 0 where that stands before the completion`,
        );
      return { ...scored, reward, settled: [{ reward: rule.correctnessWeight * right, end }] };
    },
  };
}
