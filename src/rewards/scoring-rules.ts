/**
 * What a stated confidence c in [0, 1] earns once it is known whether the answer was right (y). A rule is *proper* where
 * nobody who believes in a probability p earns more, in expectation, by stating anything but p, and strictly so where all
 * else earns less (Gneiting & Raftery 2007). A reward that is no proper rule teaches something other than honesty.
 */
import { CredenceError } from "../errors.js";

export type Properness = "strictly proper" | "proper" | "improper";

export interface ScoringRule {
  readonly name: string;
  /** In words of c and y. */
  readonly formula: string;
  readonly source: string;
  readonly properness: Properness;
  /** The confidences among which it is proper; beyond them they are taken as the nearer end. */
  readonly within: readonly [number, number];
  /**
   * Whether an honest policy earns more, the more often it is right: only then does the reward pay for better answers as
   * well as for honest ones.
   */
  readonly paysCorrectness: boolean;
  /** What is paid for y by itself, whatever the confidence: the rest of the score is about honesty. */
  readonly correctnessWeight: number;
  /**
   * @param confidence from 0 to 1
   * @param correct 1 right, 0 wrong, or a share between where correctness is graded
   * @throws CredenceError "BAD_INPUT" for anything else
   */
  score(confidence: number, correct: number): number;
}

const everywhere = [0, 1] as const;

const share = (what: string, value: number): number => {
  if (!(value >= 0 && value <= 1))
    throw new CredenceError(
      "BAD_INPUT",
      `${what} ${value}; expected a number from 0 to 1. Clamp or drop it where the completion is parsed`,
    );
  return value;
};

type Description = Pick<ScoringRule, "name" | "formula" | "source" | "properness">;

/**
 * What an honest policy expects is convex in the probability of being right, so that it grows all the way if it grows at 0:
 * there its slope is what being right earns over being wrong.
 */
const grows = (properness: Properness, least: number, score: ScoringRule["score"]): boolean => {
  const slope = score(least, 1) - score(least, 0);
  return slope > 0 || (slope === 0 && properness === "strictly proper");
};

/** A rule that checks what it is given; `epsilon` keeps the confidence away from 0 and 1. */
function rule(description: Description & { epsilon?: number }, formula: (c: number, y: number) => number): ScoringRule {
  const { epsilon = 0, ...rest } = description;
  if (!(epsilon >= 0 && epsilon < 0.5))
    throw new CredenceError("USAGE", `${rest.name}: epsilon ${epsilon}; expected a number from 0, below 0.5`);
  const within = epsilon > 0 ? ([epsilon, 1 - epsilon] as const) : everywhere;
  const score: ScoringRule["score"] = (confidence, correct) => {
    const c = Math.min(within[1], Math.max(within[0], share("a confidence of", confidence)));
    return formula(c, share("a correctness of", correct));
  };
  return { ...rest, within, paysCorrectness: grows(rest.properness, within[0], score), correctnessWeight: 0, score };
}

/** -(c - y)^2, from -1 to 0 (Brier 1950). */
export const brierRule = (): ScoringRule =>
  rule(
    {
      name: "brier",
      formula: "-(c - y)^2",
      source: "Brier 1950",
      properness: "strictly proper",
    },
    (c, y) => -((c - y) ** 2),
  );

/**
 * ln c of a right answer, ln(1 - c) of a wrong one (Good 1952).
 *
 * @param epsilon how near to 0 and 1 a confidence is taken; default 1e-4, so that the worst is -9.21 and not infinite
 */
export const logRule = ({ epsilon = 1e-4 }: { epsilon?: number } = {}): ScoringRule =>
  rule(
    {
      name: "log",
      formula: "y ln c + (1 - y) ln(1 - c), c in [epsilon, 1 - epsilon]",
      source: "Good 1952",
      properness: "strictly proper",
      epsilon,
    },
    logarithm,
  );

/** A term whose weight is 0 is 0, whatever its logarithm. */
const logarithm = (c: number, y: number): number =>
  (y > 0 ? y * Math.log(c) : 0) + (y < 1 ? (1 - y) * Math.log(1 - c) : 0);

/** The probability given to what happened over the length of (c, 1 - c), from 0 to 1 (Roby 1965). */
export const sphericalRule = (): ScoringRule =>
  rule(
    {
      name: "spherical",
      formula: "(y c + (1 - y)(1 - c)) / sqrt(c^2 + (1 - c)^2)",
      source: "Roby 1965",
      properness: "strictly proper",
    },
    (c, y) => (y * c + (1 - y) * (1 - c)) / Math.hypot(c, 1 - c),
  );

/**
 * c of a right answer, -c of a wrong one: a bet. Improper: whoever is right more often than not earns most with 1, all
 * others with 0. (The linear ablation of SaySelf, Xu et al. 2024.)
 */
export const linearRule = (): ScoringRule =>
  rule(
    {
      name: "linear",
      formula: "c where y >= 0.5, else -c",
      source: "SaySelf's ablation (arXiv 2405.20974, its code)",
      properness: "improper",
    },
    (c, y) => (y >= 0.5 ? c : -c),
  );

/**
 * 1 - 2 (y - c)^2, from -1 to 1: SaySelf's reward as its code has it (Xu et al. 2024). Wrong at 0 earns as much as right
 * at 1, so it pays for honesty alone.
 */
export const quadraticRule = (): ScoringRule =>
  rule(
    {
      name: "quadratic",
      formula: "1 - 2 (y - c)^2",
      source: "SaySelf (arXiv 2405.20974, its code)",
      properness: "strictly proper",
    },
    (c, y) => 1 - 2 * (y - c) ** 2,
  );

/**
 * A rule with the correctness itself added, which does not depend on c, so that the sum is as proper as the rule. With a
 * bounded rule and enough weight an honest policy earns more by being right more often (Damani et al. 2025, theorem 1).
 *
 * @param weight of y; default 1
 */
export function correctnessPaying(honesty: ScoringRule, { weight = 1 }: { weight?: number } = {}): ScoringRule {
  if (!Number.isFinite(weight)) throw new CredenceError("USAGE", `a weight of ${weight}; expected a number`);
  const score: ScoringRule["score"] = (confidence, correct) => weight * correct + honesty.score(confidence, correct);
  return {
    ...honesty,
    name: `correctness+${honesty.name}`,
    formula: `${weight === 1 ? "" : `${weight} `}y + ${honesty.name}(c, y)`,
    paysCorrectness: grows(honesty.properness, honesty.within[0], score),
    correctnessWeight: honesty.correctnessWeight + weight,
    score,
  };
}

/**
 * RLCR: y - (c - y)^2 (Damani et al. 2025, arXiv 2507.16806). The variant of SaySelf that pays for correctness is the same
 * sum, as its paper is recalled and not verified; its code pays `quadraticRule`.
 */
export const rlcrRule = (): ScoringRule => ({
  ...correctnessPaying(brierRule()),
  name: "rlcr",
  formula: "y - (c - y)^2",
  source: "RLCR (arXiv 2507.16806)",
});

/**
 * Rewarding Doubt: the log rule, mapped linearly so that the best is 1 and the worst -1 (Bani-Harouni et al. 2025, arXiv
 * 2503.02623), then scaled. Of an answer without a confidence the authors make -3 times the scale.
 *
 * @param epsilon default 1e-3, as published
 * @param bonus added where the answer is right, before scaling; 0 in the paper, 0.25 in the code
 * @param scale 1 by default; in the code 10 for one answer, 5 for several
 */
export function rewardingDoubtRule({ epsilon = 1e-3, bonus = 0, scale = 1 } = {}): ScoringRule {
  if (!(epsilon > 0)) throw new CredenceError("USAGE", `rewarding-doubt: epsilon ${epsilon}; expected more than 0`);
  if (!(scale > 0) || !Number.isFinite(bonus))
    throw new CredenceError(
      "USAGE",
      `rewarding-doubt: scale ${scale}, bonus ${bonus}; expected numbers, scale above 0`,
    );
  const best = Math.log(1 - epsilon);
  const middle = Math.log(epsilon) / 2;
  const honesty = rule(
    {
      name: "rewarding-doubt",
      formula: "scale ((log(c, y) - ln(epsilon)/2) / (ln(1 - epsilon) - ln(epsilon)/2) + bonus y)",
      source: "Rewarding Doubt (arXiv 2503.02623)",
      properness: "strictly proper",
      epsilon,
    },
    (c, y) => scale * ((logarithm(c, y) - middle) / (best - middle) + bonus * y),
  );
  return { ...honesty, correctnessWeight: scale * bonus };
}

/** The rules by name, with their defaults. */
export const scoringRules = {
  log: logRule,
  brier: brierRule,
  spherical: sphericalRule,
  quadratic: quadraticRule,
  linear: linearRule,
  rlcr: rlcrRule,
  "rewarding-doubt": rewardingDoubtRule,
} as const satisfies Record<string, () => ScoringRule>;

export type ScoringRuleName = keyof typeof scoringRules;

/**
 * SaySelf's reward on its own scale, correctness and confidence from 0 to 10: its code's `calculate_reward`, or another rule in its
 * place.
 *
 * @param rule default `quadraticRule`
 * @param asPublished what lies outside 0 to 10 is clamped to 0 to 1, so that "Confidence: 100" counts as 0.1; otherwise it
 *   is clamped to 0 to 10
 */
export function saySelfReward(
  correctness: number,
  confidence: number,
  { rule = quadraticRule(), asPublished = false }: { rule?: ScoringRule; asPublished?: boolean } = {},
): number {
  const tenth = (value: number): number => {
    const inside = value >= 0 && value <= 10;
    const most = asPublished && !inside ? 1 : 10;
    return Math.min(most, Math.max(0, value)) / 10;
  };
  return rule.score(tenth(confidence), tenth(correctness));
}
