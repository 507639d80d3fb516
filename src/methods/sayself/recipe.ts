/** What a run of SaySelf can be told: every setting with its default, checked; an unknown one is refused by its path. */
import { z } from "zod";
import { promptSchema } from "../../model/card.js";
import { type ReinforcementRecipe, reinforcementProblems, reinforcementSettings, trySchema } from "../ppo/recipe.js";
import { type SaySelfRule, saySelfRules } from "./reward.js";

const positive = z.int().positive();
const rules = Object.keys(saySelfRules) as [SaySelfRule, ...SaySelfRule[]];

/** A prompt of the question, behind a system text that is ours unless told otherwise. */
const promptWith = (text: string) =>
  promptSchema
    .extend({
      user: promptSchema.shape.user.default("{question}"),
      system: promptSchema.shape.system.unwrap().default({ text }),
    })
    .prefault({});

export const saySelfRecipeSchema = z.strictObject({
  method: z.literal("sayself"),
  ...reinforcementSettings,
  /** What the untrained model answers to each training question, again and again: what it is unsure of is read from that. */
  sampling: z
    .strictObject({
      prompt: promptWith("Answer in a few words."),
      /** Answers to each question. */
      samples: positive.default(100),
      newTokens: positive.default(16),
      temperature: z.number().positive().default(1),
      topP: z.number().gt(0).max(1).default(0.95),
      topK: positive.nullable().default(50),
      /** Whether an answer stands behind "Answer:", or is the whole first line. */
      answer: z.enum(["label", "whole"]).default("whole"),
      /** Answers whose hidden states, freed of their mean, have a greater cosine say the same. */
      threshold: z.number().min(-1).lt(1).default(0.9),
      /** What is compared: the answer, or all that was said. */
      compared: z.enum(["answer", "response"]).default("answer"),
      seed: z.int().min(0).default(0),
    })
    .prefault({}),
  /** What becomes of questions without a right answer: the most frequent one is learnt with a confidence of 0, or none is. */
  unanswered: z.enum(["keep", "drop"]).default("keep"),
  /** Whether a response reflects before it states its confidence. */
  rationale: z.boolean().default(true),
  /** What the second training pays. */
  reward: z
    .strictObject({
      rule: z.enum(rules).default("quadratic"),
      /** What a response without a confidence earns. */
      missing: z.number().default(-1),
    })
    .prefault({}),
  /** The baseline that asks the untrained model how sure it is, and one that reads the fine-tuned one's hidden states. */
  beside: z
    .strictObject({
      /** How the untrained model is asked for an answer and a confidence from 0 to 10. */
      direct: promptWith(
        'Answer in a few words. Then start a new line with "Confidence: " and a number from 0 to 10 that says how sure you are.',
      ),
      /** Depths among which the probe chooses. */
      depths: positive.default(6),
    })
    .prefault({}),
  tries: z.array(trySchema).default([]),
  /** Trains both stages once more without rationales, to show what they did. */
  ablation: z.boolean().default(true),
});

/** Settings of a run of SaySelf. */
export type SaySelfRecipe = z.infer<typeof saySelfRecipeSchema>;

/** What a single setting cannot tell. */
export function saySelfProblems(recipe: SaySelfRecipe): string[] {
  const problems = reinforcementProblems(recipe satisfies ReinforcementRecipe);
  if (!recipe.rationale && recipe.ablation)
    problems.push("ablation: it has no rationales, and with rationale false neither has the training");
  if (recipe.sampling.samples < 2)
    problems.push("sampling.samples: one answer does not tell what else could have been said; give 2 or more");
  return problems;
}
