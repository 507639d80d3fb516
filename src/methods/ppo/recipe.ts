/** What a run of reinforcement can be told: every setting with its default, checked; an unknown one is refused by its path. */
import { z } from "zod";
import { promptSchema } from "../../model/card.js";
import { scoringRules } from "../../rewards/scoring-rules.js";
import { type PpoSettings, ppoSchema } from "../../training/ppo/settings.js";

const share = z.number().min(0).max(1);
const positive = z.int().positive();
const projections = ["q", "k", "v", "o", "gate", "up", "down"] as const;
const rules = Object.keys(scoringRules) as [keyof typeof scoringRules, ...(keyof typeof scoringRules)[]];

/** Other settings of a recipe's `ppo` under a name. */
export const trySchema = z.strictObject({
  /** Names it in tables and folders. */
  name: z.string().regex(/^[a-z0-9][a-z0-9-]*$/, 'expected lower-case letters, digits and "-"'),
  ppo: z.record(z.string(), z.unknown()).default({}),
});

/** Settings of every method that fine-tunes to a form and then reinforces; each adds what earns. */
export const reinforcementSettings = {
  /** A folder, a .gguf, or a hub id. */
  model: z.string(),
  questions: z
    .strictObject({
      /** "world-facts", or a file of questions. */
      file: z.string().default("world-facts"),
      /** At most so many, taken from both sides of the split alike. */
      limit: positive.nullable().default(null),
      /** Keep questions whose answer stands in the question. */
      keepGiven: z.boolean().default(false),
      /** Share of the groups (countries) that is held out for the test. */
      testShare: share.default(0.3),
      /** Share of the other groups that nothing learns from: it chooses among the settings that are tried. */
      validationShare: share.default(0.2),
      /** Of the choice of those. */
      seed: z.int().min(0).default(0),
    })
    .prefault({}),
  prompt: promptSchema.prefault({
    user: "{question}",
    system: { text: "Answer, then state your confidence." },
  }),
  /** Longest answer with its confidence, in tokens. */
  newTokens: positive.default(24),
  /**
   * When an answer is right: where it is a wording of the expected one and nothing else, or where it holds one. What holds one may
   * hold several, and a policy that is paid for being right learns to give several.
   */
  right: z.enum(["whole", "contained"]).default("whole"),
  adapter: z
    .strictObject({
      rank: positive.default(16),
      alpha: z.number().positive().default(32),
      targets: z
        .array(z.enum(projections))
        .min(1)
        .default([...projections]),
      seed: z.int().min(0).default(0),
    })
    .prefault({}),
  /**
   * What teaches the form: right answers to the training questions, each with a confidence from 0.0 to 1.0 that is drawn at
   * random, so that it teaches nothing about when to be confident.
   */
  sft: z
    .strictObject({
      epochs: positive.default(1),
      learningRate: z.number().positive().default(1e-3),
      weightDecay: z.number().min(0).default(0.01),
      warmup: share.default(0.1),
      batchTokens: positive.default(1024),
      checkpointEvery: positive.default(20),
      seed: z.int().min(0).default(0),
    })
    .prefault({}),
  ppo: ppoSchema.prefault({}),
  /** Other settings of `ppo`, each trained for itself; the validation questions choose among them. None: those above alone. */
  tries: z.array(trySchema).default([]),
  /** What a try must keep to be chosen, and the report holds the result against. */
  limits: z
    .strictObject({
      /** Accuracy that may be lost against the fine-tuned policy. */
      accuracyLoss: share.default(0.02),
      /** Divergence from the fine-tuned policy, in nats a completion, over the last tenth of the iterations. */
      kl: z.number().positive().default(10),
    })
    .prefault({}),
  evaluation: z
    .strictObject({
      bins: positive.default(10),
      resamples: positive.default(2000),
      seed: z.int().default(0),
      /** The confidence of an answer that states none; how many there are is told. */
      unstated: share.default(0.5),
    })
    .prefault({}),
};

/** What recipes of all such methods have. */
export type ReinforcementRecipe = z.infer<z.ZodObject<typeof reinforcementSettings, z.core.$strict>>;

export const ppoRecipeSchema = z.strictObject({
  method: z.literal("ppo"),
  ...reinforcementSettings,
  reward: z
    .strictObject({
      rule: z.enum(rules).default("rlcr"),
      /** What a completion without a confidence earns: below the worst that `rule` pays. */
      unparsed: z.number().default(-1.5),
    })
    .prefault({}),
});

/** Settings of a run that is paid by a scoring rule. */
export type PpoRecipe = z.infer<typeof ppoRecipeSchema>;

export interface Try {
  name: string;
  settings: PpoSettings;
}

/** The settings that are trained, by name: the recipe's own, or those it lists, each on top of the recipe's own. */
export function triesOf({ ppo, tries, newTokens }: ReinforcementRecipe): Try[] {
  const own = { ...ppo, rollout: { ...ppo.rollout, newTokens } };
  if (tries.length === 0) return [{ name: "ppo", settings: own }];
  return tries.map(({ name, ppo: more }) => ({ name, settings: ppoSchema.parse(merged(own, more)) }));
}

const isPlain = (value: unknown): value is Record<string, unknown> =>
  typeof value === "object" && value !== null && !Array.isArray(value);

function merged(under: Record<string, unknown>, over: Record<string, unknown>): Record<string, unknown> {
  const all = { ...under };
  for (const [name, value] of Object.entries(over)) {
    const below = all[name];
    all[name] = isPlain(value) && isPlain(below) ? merged(below, value) : value;
  }
  return all;
}

/** Settings of the trainer that this recipe gives nothing for. */
const withoutPlace = ({ ptx, criticOptimizer }: PpoSettings): string[] => [
  ...(ptx ? ["ptx: this recipe has no rows of language modelling; trainPpo takes some"] : []),
  ...(criticOptimizer
    ? ["criticOptimizer: this recipe's critic is a head of the policy; trainPpo takes one of its own"]
    : []),
];

/** What a single setting cannot tell. */
export function reinforcementProblems(recipe: ReinforcementRecipe): string[] {
  const problems: string[] = [];
  const { prompt, tries, ppo } = recipe;
  if (prompt.template === "none" || prompt.system === "none")
    problems.push(
      "prompt: fine-tuning reads a conversation as the chat template has it; give a system text, or default",
    );
  const names = tries.map(({ name }) => name);
  const twice = names.find((name, i) => names.indexOf(name) < i);
  if (twice !== undefined) problems.push(`tries: the name ${twice} stands there twice`);
  for (const { name, ppo: more } of tries) {
    const checked = ppoSchema.safeParse(merged(ppo, more));
    if (!checked.success)
      problems.push(...checked.error.issues.map(({ path, message }) => `tries ${name}: ${path.join(".")}: ${message}`));
    else problems.push(...withoutPlace(checked.data).map((problem) => `tries ${name}: ${problem}`));
  }
  problems.push(...withoutPlace(ppo).map((problem) => `ppo.${problem}`));
  if (ppo.rollout.newTokens !== ppoSchema.parse({}).rollout.newTokens)
    problems.push("ppo.rollout.newTokens: newTokens says it for all answers");
  return problems;
}
