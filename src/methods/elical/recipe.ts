/** What an EliCal run can be told: every setting with its default, checked; an unknown one is refused by its path. */
import { z } from "zod";
import { promptSchema } from "../../model/card.js";
import { compatOf, compatProblems } from "./quirks.js";

const share = z.number().min(0).max(1);
const positive = z.int().positive();
/** Names a set in rows, tables and folders. */
const setName = z.string().regex(/^[A-Za-z0-9][\w.-]*$/, 'expected letters, digits, "_", "." and "-"');
/** A depth of the model: after so many blocks; the last one; or the one that the training questions choose. */
const layer = z.union([z.literal("last"), z.literal("auto"), positive]);

/** What is asked of a judge that is a model. */
const verdictSettings = {
  /** Longest reply. */
  newTokens: positive.default(64),
  /** A reply that says neither yes nor no: an error, or a no. */
  unparsed: z.enum(["error", "negative"]).default("error"),
};

/** Settings of an EliCal run. */
export const elicalSchema = z.strictObject({
  method: z.literal("elical"),
  /** A folder, a .gguf, or a hub id. */
  model: z.string(),
  questions: z
    .strictObject({
      /** "world-facts", a file of questions, or several files, each a set with a name of its own. */
      file: z
        .union([
          z.string(),
          z.array(z.strictObject({ path: z.string(), set: setName, limit: positive.nullable().default(null) })).min(1),
        ])
        .default("world-facts"),
      /** Which questions of a set are taken where it has a limit. */
      seed: z.int().min(0).default(0),
      /** At most so many, taken from both sides of the split alike. */
      limit: positive.nullable().default(null),
      /** Keep questions whose answer stands in the question. */
      keepGiven: z.boolean().default(false),
      /** Share of the groups (countries) that is held out, where there are no folds. */
      testShare: share.default(0.3),
    })
    .prefault({}),
  prompt: promptSchema.prefault({ user: "Answer the following question.\nQuestion: {question}", system: "default" }),
  answer: z
    .strictObject({
      newTokens: positive.default(16),
      /** What the logit of a token that stands in prompt or answer is divided by (times, below 0); sampled ones too. */
      repetitionPenalty: z.number().positive().default(1),
    })
    .prefault({}),
  samples: z
    .strictObject({
      count: positive.default(10),
      temperature: z.number().positive().default(1),
      topK: positive.nullable().default(50),
      topP: share.default(0.95),
      seed: z.int().default(0),
    })
    .prefault({}),
  /** Who says whether an answer is right, and whether a sample means the same: their words, or a model that is asked. */
  judge: z
    .discriminatedUnion("by", [
      z.strictObject({ by: z.literal("string") }),
      z.strictObject({
        by: z.literal("local"),
        /** A folder, a .gguf, or a hub id; the recipe's own model is loaded once. */
        model: z.string(),
        repetitionPenalty: z.number().positive().default(1),
        ...verdictSettings,
      }),
      z.strictObject({
        by: z.literal("server"),
        /** Its name there. */
        model: z.string(),
        /** Where an OpenAI interface begins. */
        url: z.url({ protocol: /^https?$/, error: "expected a URL such as http://localhost:8000/v1" }),
        ...verdictSettings,
      }),
    ])
    .prefault({ by: "string" }),
  labels: z
    .strictObject({
      /** Numbers of labelled questions that are tried. */
      counts: z.array(positive).min(1).default([30, 100, 300]),
      /** The number the report is about. */
      main: positive.default(100),
      /**
       * What LoRA and heads learn of a labelled question: whether the given answer is right, or as published the share of
       * its samples that are. Probes learn the former.
       */
      of: z.enum(["answer", "samples"]).default("answer"),
    })
    .prefault({}),
  /** Every question is tested once a seed when folds > 0; else one part is held out. */
  seeds: positive.default(1),
  folds: z.int().min(0).default(0),
  /**
   * For each set of questions, also learn from the training questions of the other sets alone and test on its test
   * questions.
   */
  transfer: z.boolean().default(false),
  probes: z
    .strictObject({
      depths: positive.default(5),
      /** Also rows for each depth, at the main number of labels. */
      everyDepth: z.boolean().default(false),
    })
    .prefault({}),
  /** Rows that ask the model again; each says in the report what it costs. */
  baselines: z
    .strictObject({
      /** The samples that mean the given answer, by the cosine of pooled hidden states. */
      semantic: z
        .strictObject({
          enabled: z.boolean().default(false),
          /** Null: after two thirds of the blocks. */
          layer: positive.nullable().default(null),
          /** Share of pairs of answers to different questions that may count as the same: it sets the threshold. */
          falseMatches: share.default(0.01),
        })
        .prefault({}),
      /** How sure the model says it is. */
      verbal: z
        .strictObject({
          /** One row each, with so many solved examples before the question. */
          shots: z.array(z.int().min(0)).default([]),
          /** Where the examples are from; "test" as published: ten test questions of the same set, and their labels. */
          shotsFrom: z.enum(["train", "test"]).default("train"),
          prompt: promptSchema.prefault({
            user: "Judge whether you can answer the question correctly. Give only a score from 0 to 1: 0 if you are sure that you cannot, 1 if you are sure that you can.\nQuestion: {question}",
          }),
          newTokens: positive.default(8),
          /** The confidence where the reply holds no score; 0 as published. */
          unparsed: share.default(0.5),
        })
        .prefault({}),
      /** Whether the model calls its answer right, as it is (`p-true`) and with a temperature from the labels. */
      thermometer: z
        .strictObject({
          enabled: z.boolean().default(false),
          /** The turn after the answer. */
          ask: z.string().default("Is this answer correct?\nA. Yes\nB. No\nReply with A or B only."),
        })
        .prefault({}),
    })
    .prefault({}),
  /** Heads alone, on the frozen state of the prompt's last token. */
  heads: z
    .strictObject({
      kinds: z.array(z.enum(["linear", "mlp"])).default([]),
      /** Also rows for each depth of the probes, at the main number of labels. */
      everyDepth: z.boolean().default(false),
      /** Trained for so many of the seeds; null: all of them. */
      seeds: positive.nullable().default(null),
      learningRate: z.number().positive().default(1e-3),
      weightDecay: z.number().min(0).default(0.1),
      warmup: share.default(0.1),
      batch: positive.default(16),
      elicitEpochs: positive.default(10),
      calibrateEpochs: positive.default(10),
    })
    .prefault({}),
  lora: z
    .strictObject({
      enabled: z.boolean().default(true),
      /** Trained for so many of the seeds; null: all of them. */
      seeds: positive.nullable().default(null),
      rank: positive.default(8),
      alpha: z.number().positive().default(16),
      targets: z
        .array(z.enum(["q", "k", "v", "o", "gate", "up", "down"]))
        .min(1)
        .default(["q", "k", "v", "o", "gate", "up", "down"]),
      /**
       * Depths the head reads at, a row each; the first is the row that everything else is compared with. "auto": where a
       * linear probe on the frozen states ranks the agreement of held-out training questions best.
       */
      layers: z
        .array(layer)
        .min(1)
        .refine((list) => new Set(list).size === list.length, "the same depth stands there twice")
        .default(["last"]),
      /** Trained for the main number of labels alone, for every one of labels.counts, or for those named beside the main one. */
      labels: z.union([z.enum(["main", "all"]), z.array(positive)]).default("main"),
      /** With `transfer`, trained without each set, too: three trainings a set and seed. */
      transfer: z.boolean().default(true),
      /** The prompt the confidence is read from. */
      prompt: promptSchema.prefault({ user: "Answer the following question.\nQuestion: {question}", system: "none" }),
      learningRate: z.number().positive().default(3e-4),
      weightDecay: z.number().min(0).default(0.01),
      warmup: share.default(0.1),
      batch: positive.default(16),
      elicitEpochs: positive.default(2),
      calibrateEpochs: positive.default(5),
      /** Share of a training's groups of questions that is held out and chooses its epoch; 0: the last epoch is taken. */
      validationShare: z.number().min(0).max(0.5).default(0),
      /** Epochs without a smaller loss on those after which a training stops; null: never. */
      patience: positive.nullable().default(null),
      checkpointEvery: positive.default(50),
      microBatchTokens: positive.default(4096),
    })
    .prefault({}),
  evaluation: z
    .strictObject({ bins: positive.default(10), resamples: positive.default(1000), seed: z.int().default(0) })
    .prefault({}),
  /** Quirks of the published code that are brought back; see quirks.ts. */
  compat: z.union([z.literal("all"), z.array(z.string())]).default([]),
});

/** What a single setting cannot tell. */
export function recipeProblems(recipe: ElicalRecipe): string[] {
  const { questions, folds, transfer, labels, lora, baselines } = recipe;
  const sets = Array.isArray(questions.file) ? questions.file.map(({ set }) => set) : [];
  const problems = compatProblems(recipe);
  if (lora.patience !== null && lora.validationShare === 0 && !compatOf(recipe).has("B9-9"))
    problems.push("lora.patience needs lora.validationShare: the rows that say whether an epoch helped");
  const twice = sets.find((set, i) => sets.indexOf(set) < i);
  if (twice !== undefined) problems.push(`questions.file: two files are the set ${twice}; give each a name of its own`);
  if (!labels.counts.includes(labels.main)) {
    problems.push(`labels.main is ${labels.main}; expected one of labels.counts (${labels.counts.join(", ")})`);
  }
  const unknown = Array.isArray(lora.labels) ? lora.labels.find((count) => !labels.counts.includes(count)) : undefined;
  if (unknown !== undefined)
    problems.push(`lora.labels: ${unknown}; expected some of labels.counts (${labels.counts.join(", ")})`);
  if (folds === 1) problems.push("folds is 1; expected 0 (one part held out) or 2 and more");
  if (transfer && sets.length < 2)
    problems.push("transfer is true; expected at least two sets in questions.file, so that one can be left out");
  if (transfer && folds) problems.push(`transfer is true and folds is ${folds}; transfer needs folds: 0`);
  const most = Math.max(0, ...baselines.verbal.shots);
  if (most && folds)
    problems.push(`baselines.verbal.shots is ${most} and folds is ${folds}; solved examples need folds: 0`);
  return problems;
}

/** Numbers of labels that the LoRA reader is calibrated on, the main one first. */
export function loraCounts({ lora, labels }: ElicalRecipe): number[] {
  const more = lora.labels === "all" ? labels.counts : lora.labels === "main" ? [] : lora.labels;
  return [...new Set([labels.main, ...more])];
}

/** Names of the sets of questions; none where there is one file. */
export const setsOf = ({ questions }: Pick<ElicalRecipe, "questions">): string[] =>
  Array.isArray(questions.file) && questions.file.length > 1 ? questions.file.map(({ set }) => set) : [];

export type ElicalRecipe = z.infer<typeof elicalSchema>;

export type Layer = z.infer<typeof layer>;

/** The same settings where most are left out. */
export type ElicalSettings = z.input<typeof elicalSchema>;
