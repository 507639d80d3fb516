/** What a PPO training can be told: every setting with its default. Sources of defaults: docs/methods/reinforcement.md. */
import { z } from "zod";
import { parameterGroups } from "../../native.js";

const positive = z.int().positive();
/** A regular expression as JavaScript writes it, without slashes and flags. */
const pattern = z.string().check(({ value, issues }) => {
  try {
    new RegExp(value);
  } catch (error) {
    issues.push({ code: "custom", input: value, message: (error as Error).message });
  }
});
const share = z.number().min(0).max(1);

const optimizer = z.strictObject({
  learningRate: z.number().positive().default(1e-4),
  /** A straight line or half a cosine to zero over all iterations, or the same rate throughout. */
  schedule: z.enum(["constant", "linear", "cosine"]).default("constant"),
  /** Share of the optimiser steps that warm up. */
  warmup: share.default(0),
  weightDecay: z.number().min(0).default(0),
  beta1: share.default(0.9),
  beta2: share.default(0.999),
  epsilon: z.number().positive().default(1e-8),
  /** 0: no clipping. */
  maxGradientNorm: z.number().min(0).default(1),
  /** Groups of parameters with a largest learning rate, which rises and falls with the other, or a weight decay of their own. */
  groups: z
    .partialRecord(
      z.enum(parameterGroups),
      z.strictObject({ learningRate: z.number().min(0).optional(), weightDecay: z.number().min(0).optional() }),
    )
    .optional(),
});

export const ppoSchema = z.strictObject({
  /** Rollout batches; each is sampled, scored, and learnt from. */
  iterations: positive.default(50),
  rollout: z
    .strictObject({
      /** Prompts of an iteration, taken in turn from a shuffled order. */
      prompts: positive.default(16),
      /** Completions of each prompt. */
      samples: positive.default(4),
      temperature: z.number().min(0).default(1),
      topK: positive.nullable().default(null),
      topP: share.default(1),
      newTokens: positive.default(64),
      /** Texts that end a completion; they are part of it. */
      stop: z.array(z.string()).default([]),
      /**
       * A completion also ends, on its own, as soon as nothing to come would change its first match of this regular expression
       * (`stopWhen`). The match stays part of it.
       */
      stopPattern: pattern.nullable().default(null),
      /** Token ids that end a completion; null: the model's. Without any end, every completion is `newTokens` long. */
      stopTokens: z.array(z.int().min(0)).nullable().default(null),
      /** What becomes of a completion that lacks what it should have; null: it stays as it is. */
      retry: z
        .strictObject({
          /** A completion that matches this regular expression is complete. */
          complete: pattern,
          /** How often one that does not is gone on with from its own end, a stop token taken off, with other random numbers. */
          retries: z.int().min(0).default(3),
          /** Then put behind it, and gone on with once more; nothing is learnt from its tokens. null: it stays incomplete. */
          cue: z.string().min(1).nullable().default(null),
          /** Tokens of each continuation; null: `newTokens`. */
          newTokens: positive.nullable().default(null),
        })
        .nullable()
        .default(null),
    })
    .prefault({}),
  /**
   * Temperature of the distribution that is trained: log-probabilities, ratios, divergence and entropy are those of the logits
   * divided by it. With `rollout.temperature` the same (and nothing cut) what is sampled from is what is trained.
   */
  trainedTemperature: z.number().positive().default(1),
  /** What a completion's score becomes before it is placed on its last trained token. */
  score: z
    .strictObject({
      /** Scores beyond it are cut to it, on both sides. */
      clamp: z.number().positive().nullable().default(null),
      /** Divided by the running standard deviation, or also freed of the running mean. */
      normalise: z.enum(["none", "scale", "full"]).default("none"),
    })
    .prefault({}),
  kl: z
    .strictObject({
      /** Of the penalty for leaving the reference, a token. */
      coefficient: z.number().min(0).default(0.05),
      /** Of Schulman (2020): 1 the log-ratio, 2 half its square, 3 the unbiased one that is never negative. */
      estimator: z.union([z.literal(1), z.literal(2), z.literal(3)]).default(1),
      /** A token's estimate below 0 counts as 0. */
      clamp: z.boolean().default(false),
      /** "adaptive": the coefficient follows the target (Ziegler et al. 2019, section 2.2). */
      controller: z.enum(["fixed", "adaptive"]).default("fixed"),
      /** Of the adaptive controller: KL of a whole completion. */
      target: z.number().positive().default(6),
      horizon: positive.default(10_000),
      /**
       * A step is not taken, and the iteration's epochs end, where the policy has moved so far from the one that sampled (mean
       * estimate 1 a token); null: never.
       */
      stop: z.number().positive().nullable().default(null),
    })
    .prefault({}),
  advantage: z
    .strictObject({
      /**
       * "gae": a value head and generalised advantage estimation (Schulman et al. 2016). "rloo", "grpo": no values; a
       * completion is held against the others of its prompt (Ahmadian et al. 2024; Shao et al. 2024).
       */
      estimator: z.enum(["gae", "rloo", "grpo"]).default("gae"),
      gamma: share.default(1),
      lambda: share.default(0.95),
      /**
       * A completion whose length ran out counts as ended there ("terminated"), or its last token also earns what the critic expects
       * to come behind it, discounted ("bootstrap").
       */
      cutOff: z.enum(["terminated", "bootstrap"]).default("terminated"),
      /** Freed of the mean and divided by the standard deviation over the iteration's trained tokens. */
      whiten: z.boolean().default(true),
    })
    .prefault({}),
  loss: z
    .strictObject({
      /** Ratios are clipped to 1 - clip and 1 + clip. */
      clip: z.number().positive().default(0.2),
      /** Values are clipped to so much around those of the rollout; null: not at all. */
      valueClip: z.number().positive().nullable().default(0.2),
      /** Of the critic's loss; of a critic of its own it matters beside `maxGradientNorm` and `epsilon` alone. */
      valueCoefficient: z.number().min(0).default(0.1),
      entropyCoefficient: z.number().min(0).default(0),
    })
    .prefault({}),
  /**
   * Language modelling beside it (PPO-ptx, Ouyang et al. 2022), of the rows of `PpoTraining.ptx`: each optimiser step has a pack of
   * them, and coefficient times its mean negative log-likelihood is added to the policy's loss. null: none.
   */
  ptx: z
    .strictObject({
      coefficient: z.number().positive().default(1),
      /** Tokens of a pack at most: rows are packed into it by best fit, and none is split. */
      batchTokens: positive.default(2048),
      /** Records that are shuffled and packed together: what is held in memory. */
      windowRecords: positive.default(8192),
      /** What to do with a row longer than the context or a pack: fail, leave it out, keep its end or its beginning. */
      truncate: z.enum(["error", "drop", "left", "right"]).default("error"),
      /** What to do with a row of which nothing counts. */
      unsupervised: z.enum(["error", "drop"]).default("error"),
    })
    .nullable()
    .default(null),
  /** Passes over an iteration's completions, and into how many optimiser steps each is cut. */
  epochs: positive.default(2),
  miniBatches: positive.default(1),
  optimizer: optimizer.prefault({}),
  /** Of a critic of its own (`PpoTraining.critic`), which has an adapter, gradients and moments of its own; null: as the policy's. */
  criticOptimizer: optimizer.nullable().default(null),
  /**
   * A running average of the policy (Polyak & Juditsky 1992; exponential): after each optimiser step, average = decay * average +
   * (1 - decay) * policy, from the policy that training starts from. The training itself goes on from the policy. null: none.
   */
  ema: z
    .strictObject({ decay: z.number().gt(0).lt(1) })
    .nullable()
    .default(null),
  /** Tokens of one forward and backward pass at most (a prompt with its completions at least). */
  microBatchTokens: positive.default(4096),
  /** Iterations between checkpoints; the end always has one. */
  checkpointEvery: positive.default(10),
  /** Of the order of prompts and of sampling. */
  seed: z.int().min(0).default(0),
});

export type PpoSettings = z.infer<typeof ppoSchema>;
/** The same settings where most are left out. */
export type PpoOptions = z.input<typeof ppoSchema>;
