/** CONQORD's third training: PPO on a reward model's quality and on the order-preserving term. */
import type { RecordFile } from "../../data/readers.js";
import { CredenceError } from "../../errors.js";
import type { Model } from "../../policy/model.js";
import type { Policy } from "../../policy/policy.js";
import { conqordTerm, inBlocks } from "../../rewards/batch-terms.js";
import type { Message } from "../../text/chat.js";
import { fitToContext, type Truncate } from "../../text/context.js";
import type { GroupRates } from "../../training/loop.js";
import { trainPpo } from "../../training/ppo/ppo.js";
import type { Rollout } from "../../training/ppo/rollouts.js";
import { type PpoSettings, ppoSchema } from "../../training/ppo/settings.js";
import { type RewardModel, rewardModel } from "../../training/reward-model/scoring.js";
import { digestOf } from "../../training/reward-model/train.js";
import type { ConqordCompat } from "./compat.js";
import { stopStrings } from "./prompts.js";
import { qualityReward } from "./reward.js";
import { begunWith, checkpointEvery, endOf, publishedBeta2, type TrainingContext } from "./train-sft.js";
import type { Learner } from "./training-models.js";
import { type LearningParts, type PpoTrainingSettings, scheduleOf } from "./training-settings.js";

export interface ConqordPpo extends TrainingContext {
  model: Model;
  /** The policy that learns. */
  actor: Learner;
  /** What it is kept near; it stays as it is. */
  reference: Policy;
  /** Which that is, for a resumption to be held against. */
  near: string;
  /** The reward model, which stays as it is, and the critic that begins as it does. */
  quality: Policy;
  critic: Learner;
  prompts: readonly string[];
  settings: PpoTrainingSettings;
  /** What stands for a confidence that a completion does not state; "error": nothing does. */
  unparsed: "error" | number;
  compat: ConqordCompat;
  /** What ends a text; default the token that ends the model's. */
  end?: string;
  /** What becomes of a prompt longer than `maxPromptSeqLen`; default "error". */
  truncate?: Exclude<Truncate, "right">;
  /** Conversations that are modelled beside it, with `unsupCoef`. */
  beside?: RecordFile<{ messages: Message[] }>;
}

/** The actor's learning parts, or the critic's. */
export const partsOf = (settings: PpoTrainingSettings, whose: "actor" | "critic"): LearningParts => ({
  loraDim: settings[`${whose}LoraDim`],
  loraModuleName: settings[`${whose}LoraModuleName`],
  onlyOptimizeLora: settings.onlyOptimizeLora,
  learningRate: settings[`${whose}LearningRate`],
  loraLearningRate: settings[`${whose}LoraLearningRate`],
  weightDecay: settings[`${whose}WeightDecay`],
});

/** How many completions an iteration has, and into how many optimiser steps each of its epochs is cut. */
export function batchesOf({
  perDeviceGenerationBatchSize,
  generationBatches,
  perDeviceTrainingBatchSize,
  gradientAccumulationSteps,
}: PpoTrainingSettings): { prompts: number; miniBatches: number } {
  const sampled = perDeviceGenerationBatchSize * generationBatches;
  const learnt = perDeviceTrainingBatchSize * gradientAccumulationSteps;
  const prompts = Math.max(sampled, learnt);
  if (prompts % sampled !== 0 || prompts % learnt !== 0)
    throw new CredenceError(
      "USAGE",
      `${sampled} completions are sampled at a time (per_device_generation_batch_size times generation_batches), and an optimiser step learns from ${learnt} ` +
        "(per_device_training_batch_size times gradient_accumulation_steps). Give numbers of which one is a multiple of the other",
    );
  return { prompts, miniBatches: prompts / learnt };
}

/** The trainer's settings; greedy rollouts have the temperature 0. */
export function ppoSettingsOf(
  settings: PpoTrainingSettings,
  { prompts: count, stop, groups }: { prompts: number; stop: string[]; groups: Record<"actor" | "critic", GroupRates> },
): PpoSettings {
  const { prompts, miniBatches } = batchesOf(settings);
  const { numTrainEpochs, ppoEpochs, enableTestMode, testStopStep } = settings;
  const whole = Math.max(1, Math.ceil((count * numTrainEpochs) / prompts));
  const stepsEach = ppoEpochs * miniBatches;
  const iterations = enableTestMode && testStopStep > 0 ? Math.min(whole, Math.ceil(testStopStep / stepsEach)) : whole;
  const schedule = scheduleOf(settings.lrSchedulerType, settings.numWarmupSteps, iterations * stepsEach);
  const optimizer = (whose: "actor" | "critic") => {
    const parts = partsOf(settings, whose);
    const { learningRate, weightDecay } = parts;
    return { ...schedule, learningRate, weightDecay, beta2: publishedBeta2, groups: groups[whose] };
  };
  return ppoSchema.parse({
    iterations,
    rollout: {
      prompts,
      samples: 1,
      temperature: settings.temperature,
      newTokens: settings.maxAnswerSeqLen,
      stop,
    },
    score: { clamp: settings.rewardClip },
    kl: { coefficient: settings.kl },
    advantage: { whiten: false },
    loss: { valueCoefficient: 1 },
    epochs: ppoEpochs,
    miniBatches,
    optimizer: optimizer("actor"),
    criticOptimizer: optimizer("critic"),
    ema: settings.enableEma ? { decay: publishedEma } : null,
    microBatchTokens: settings.perDeviceTrainingBatchSize * (settings.maxPromptSeqLen + settings.maxAnswerSeqLen),
    checkpointEvery,
    seed: settings.seed,
  });
}

/** Of the running average, a constant in the published code. */
const publishedEma = 0.992;

/**
 * The term over each generation batch, as published over what one process sampled at a time; none where alpha is 0.
 *
 * @throws CredenceError "USAGE" for batches of one, in which nothing can be compared; as published (A9-2) the term is 0 there
 */
export function termOf(
  { alpha, form, reduce, perDeviceGenerationBatchSize: batch }: PpoTrainingSettings,
  compat: ConqordCompat,
) {
  const compares = form === "difference" || form === "sign";
  const idle = compares || form === "absolute" ? alpha === 0 : false;
  if (idle) return undefined;
  if (compares && batch === 1) {
    if (compat.has("A9-2")) return undefined;
    throw new CredenceError(
      "USAGE",
      `per_device_generation_batch_size 1 with alpha ${alpha}: of one completion the order-preserving term is always 0. Give 2 or more, alpha 0, or --compat A9-2`,
    );
  }
  return inBlocks(conqordTerm({ alpha, form, reduce }), batch);
}

/** Prompts as the model reads them. */
async function promptRows({ model, prompts, settings, truncate }: ConqordPpo) {
  const { tokenizer, info } = model;
  const first = tokenizer.addsBos ? [tokenizer.bosId!] : [];
  const encoded = await tokenizer.encodeBatch([...prompts]);
  const rows = encoded.map((ids) => ({ ids: Int32Array.of(...first, ...ids) }));
  const contextLength = Math.min(settings.maxPromptSeqLen, info.contextLength - settings.maxAnswerSeqLen);
  if (contextLength < 1)
    throw new CredenceError(
      "USAGE",
      `max_answer_seq_len ${settings.maxAnswerSeqLen} leaves no room for a prompt in a context of ${info.contextLength}`,
    );
  const fitted = fitToContext(rows, { contextLength, ...(truncate ? { truncate } : {}) });
  return fitted.rows.map(({ ids }, i) => {
    const text = prompts[fitted.indices[i]!]!;
    return { tokens: ids, text, data: { prompt: text } };
  });
}

/** A completion as it was written, space at its ends included, up to the text that ends it. */
export function written(model: Model, { tokens }: Pick<Rollout, "tokens">, end: string): string {
  const text = model.tokenizer.decode(tokens, { skipSpecials: true });
  const at = end === "" ? -1 : text.indexOf(end);
  return at < 0 ? text : text.slice(0, at);
}

/** How completions were read. */
export interface ConqordPpoResult {
  policy: Policy;
  counts: { texts: number; failed: number; clamped: number };
}

/**
 * Trains to the end, going on from the newest checkpoint in the folder.
 *
 * @throws CredenceError "USAGE" for settings that do not go together; "ROW_TOO_LONG"; as `trainPpo`
 */
export async function trainConqordPpo(job: ConqordPpo): Promise<ConqordPpoResult> {
  const { model, directory, quality, settings, compat, unparsed, progress, signal } = job;
  const batchTerm = termOf(settings, compat);
  const end = job.end ?? endOf(model.tokenizer);
  const scorer: RewardModel = rewardModel(quality);
  const own = end !== "" && end !== endOf(model.tokenizer) ? [end] : [];
  const stop = [...own, ...(compat.has("A9-5") ? [] : stopStrings("dialogue"))];
  const prompts = await promptRows(job);
  const groups = { actor: job.actor.groups, critic: job.critic.groups };
  const trained = ppoSettingsOf(settings, { prompts: prompts.length, stop, groups });
  const reward = qualityReward<{ prompt: string }>(scorer, { compat, unparsed, scored: settings.scored });
  const policy = await trainPpo({
    directory,
    policy: job.actor.policy,
    reference: job.reference,
    critic: job.critic.policy,
    valueHead: scorer.head,
    prompts,
    reward: reward.reward,
    completion: (rollout) => written(model, rollout, end),
    ...(batchTerm ? { batchTerm } : {}),
    settings: job.beside ? { ...trained, ptx: besideOf(settings) } : trained,
    ...(job.beside ? { ptx: job.beside } : {}),
    follows: {
      ...begunWith(model, job.actor),
      critic: begunWith(quality.model, job.critic).learner!,
      reference: job.near,
      conqord: JSON.stringify({ ...settings, unparsed, compat: [...compat].sort(), end }),
      prompts: digestOf(prompts.map(({ tokens }) => [tokens])),
    },
    label: "reinforcing",
    progress,
    ...(signal ? { signal } : {}),
  });
  return { policy, counts: reward.counts };
}

/** Rows of language modelling: as long as a prompt with its answer. */
const besideOf = ({ unsupCoef, maxPromptSeqLen, maxAnswerSeqLen, perDeviceTrainingBatchSize }: PpoTrainingSettings) =>
  ppoSchema.shape.ptx.parse({
    coefficient: unsupCoef,
    batchTokens: perDeviceTrainingBatchSize * (maxPromptSeqLen + maxAnswerSeqLen),
  });
