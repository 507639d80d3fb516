/** What an EliCal run can be told: every setting with its default, checked; an unknown one is refused by its path. */
import { z } from "zod";
import { promptSchema } from "../../model/card.js";

const share = z.number().min(0).max(1);
const positive = z.int().positive();

/** Settings of an EliCal run. */
export const elicalSchema = z.strictObject({
  method: z.literal("elical"),
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
      /** Share of the groups (countries) that is held out, where there are no folds. */
      testShare: share.default(0.3),
    })
    .prefault({}),
  prompt: promptSchema.prefault({ user: "Answer the following question.\nQuestion: {question}", system: "default" }),
  answer: z.strictObject({ newTokens: positive.default(16) }).prefault({}),
  samples: z
    .strictObject({
      count: positive.default(10),
      temperature: z.number().positive().default(1),
      topK: positive.nullable().default(50),
      topP: share.default(0.95),
      seed: z.int().default(0),
    })
    .prefault({}),
  labels: z
    .strictObject({
      /** Numbers of labelled questions that are tried. */
      counts: z.array(positive).min(1).default([30, 100, 300]),
      /** The number the report is about. */
      main: positive.default(100),
    })
    .prefault({}),
  /** Every question is tested once a seed when folds > 0; else one part is held out. */
  seeds: positive.default(1),
  folds: z.int().min(0).default(0),
  probes: z.strictObject({ depths: positive.default(5) }).prefault({}),
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
      /** The prompt the confidence is read from. */
      prompt: promptSchema.prefault({ user: "Answer the following question.\nQuestion: {question}", system: "none" }),
      learningRate: z.number().positive().default(3e-4),
      weightDecay: z.number().min(0).default(0.01),
      warmup: share.default(0.1),
      batch: positive.default(16),
      elicitEpochs: positive.default(2),
      calibrateEpochs: positive.default(5),
      checkpointEvery: positive.default(50),
      microBatchTokens: positive.default(4096),
    })
    .prefault({}),
  evaluation: z
    .strictObject({ bins: positive.default(10), resamples: positive.default(1000), seed: z.int().default(0) })
    .prefault({}),
});

export type ElicalRecipe = z.infer<typeof elicalSchema>;

/** The same settings where most are left out. */
export type ElicalSettings = z.input<typeof elicalSchema>;
