/** What a run of CONQORD can be told: every setting with its default, checked; an unknown one is refused by its path. */
import { z } from "zod";
import { type ReinforcementRecipe, reinforcementProblems, reinforcementSettings, trySchema } from "../ppo/recipe.js";

const positive = z.int().positive();
const alpha = z.number().min(0);

export const conqordRecipeSchema = z.strictObject({
  method: z.literal("conqord"),
  ...reinforcementSettings,
  /** What scores quality: an adapter and a head that learn to prefer the right answer of a pair to a wrong one. */
  rewardModel: z
    .strictObject({
      /** Answers that the fine-tuned policy samples to each question; the wrong ones among them make pairs. */
      samples: positive.default(8),
      /** Pairs of a question with those, at most. */
      pairs: positive.default(4),
      /**
       * Pairs of a question with right answers to questions of other kinds: without them nothing tells that a country is no continent,
       * and reinforcement finds out.
       */
      strange: z.int().min(0).default(1),
      epochs: positive.default(2),
      learningRate: z.number().positive().default(5e-4),
      batch: positive.default(32),
      checkpointEvery: positive.default(20),
      seed: z.int().min(0).default(0),
    })
    .prefault({}),
  /** What stands beside quality: the order-preserving term (Tao et al. 2024, arXiv 2404.17287, equations 4 and 5). */
  term: z
    .strictObject({
      alpha: alpha.default(0.4),
      form: z.enum(["difference", "sign", "absolute", "exponential", "product"]).default("difference"),
      /** "sum" is the published one, which grows with an iteration's completions; "mean" shrinks with the spread of their confidences. */
      reduce: z.enum(["sum", "mean", "normalised"]).default("normalised"),
      /** The reward is cut to plus and minus this; quality has the mean 0 and the deviation 1 among the validation pairs' answers. */
      clamp: z.number().positive().default(5),
      /** What a completion without a confidence earns in place of its quality; no other is compared with it. */
      unparsed: z.number().default(-5),
    })
    .prefault({}),
  tries: z.array(trySchema.extend({ alpha: alpha.optional() })).default([]),
  /** Trains the chosen settings once more with alpha 0, to show what the term did. */
  ablation: z.boolean().default(true),
});

/** Settings of a run of CONQORD. */
export type ConqordRecipe = z.infer<typeof conqordRecipeSchema>;

/** The term's weight in one of the trainings. */
export const alphaOf = ({ tries, term }: ConqordRecipe, name: string): number =>
  tries.find((one) => one.name === name)?.alpha ?? term.alpha;

/** What a single setting cannot tell. */
export function conqordProblems(recipe: ConqordRecipe): string[] {
  const problems = reinforcementProblems(recipe satisfies ReinforcementRecipe);
  if (recipe.ppo.rollout.prompts * recipe.ppo.rollout.samples < 2)
    problems.push("ppo.rollout: one completion an iteration has no order, and the term would always be 0");
  if (recipe.term.alpha === 0 && recipe.ablation) problems.push("ablation: with term.alpha 0 it is the same training");
  return problems;
}
