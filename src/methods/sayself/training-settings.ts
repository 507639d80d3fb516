/** What SaySelf's two trainings can be told by their published names, with the published defaults, and the scripts' values by name. */
import { CredenceError } from "../../errors.js";
import type { AdapterSpec } from "../../native.js";
import { type PpoSettings, ppoSchema } from "../../training/ppo/settings.js";
import { type ScheduleName, scheduleOf } from "../conqord/training-settings.js";
import type { SaySelfCompat } from "./compat.js";
import type { SaySelfRule } from "./reward.js";
import { confidenceCue, statedPattern } from "./wire.js";

/** Of both. */
interface StageSettings {
  /** Whether a model gets an adapter to be trained; else all of it is. */
  useLora: boolean;
  loraRank: number;
  loraAlpha: number;
  /** Tokens of a row, or of a prompt, at most. */
  maxSeqLength: number;
  gradientAccumulationSteps: number;
  learningRate: number;
  weightDecay: number;
  numTrainEpochs: number;
  /** Optimiser steps, of reinforcement batches of responses, in the place of the epochs. */
  maxTrainSteps: number | null;
  lrSchedulerType: ScheduleName;
  /** Share of the optimiser steps that warm up. */
  warmupRatio: number;
  numTrainExamples: number;
  /** Rows of so many words and more are left out; null: none is. */
  maxWords: number | null;
  /** Gradients whose norm is above are scaled to it; 0: none is. */
  maxGradientNorm: number;
  seed: number;
}

export interface FinetuneSettings extends StageSettings {
  /** Share of the inputs of the adapter's A that a step drops. */
  loraDropout: number;
  perDeviceTrainBatchSize: number;
}

export interface RlhfSettings extends StageSettings {
  trainMicroBatchSizePerGpu: number;
  startIndex: number;
  /** How often a response without a confidence is gone on with, before one is forced. */
  numRetries: number;
  /** Passes over what was sampled. */
  ppoEpochs: number;
  newTokens: number;
  temperature: number;
  topK: number | null;
  /** Penalty a token for leaving the reference; the divergence of a response that it is steered to, and over how many responses. */
  kl: number;
  klTarget: number;
  klHorizon: number;
  /** What the policy is kept near: itself as it begins, or the base model. */
  reference: "sft" | "base";
  reward: SaySelfRule;
  /** Whether responses reflect before they state a confidence. */
  rationale: boolean;
}

const stage = {
  useLora: false,
  loraRank: 64,
  loraAlpha: 16,
  maxSeqLength: 512,
  learningRate: 5e-5,
  weightDecay: 0,
  numTrainEpochs: 3,
  maxTrainSteps: null,
  lrSchedulerType: "linear",
  warmupRatio: 0,
  maxWords: null,
  maxGradientNorm: 1,
  seed: 0,
} as const;

/** The published defaults; of what was a constant there, or has no flag, what is done here. */
export const saySelfDefaults = {
  finetune: {
    ...stage,
    loraDropout: 0.1,
    perDeviceTrainBatchSize: 8,
    gradientAccumulationSteps: 1,
    numTrainExamples: 50_000,
  } as FinetuneSettings,
  rlhf: {
    ...stage,
    trainMicroBatchSizePerGpu: 8,
    gradientAccumulationSteps: 2,
    numTrainExamples: 20_000,
    startIndex: 0,
    numRetries: 3,
    ppoEpochs: 2,
    newTokens: 150,
    temperature: 0.7,
    topK: 50,
    kl: 0.2,
    klTarget: 6,
    klHorizon: 10_000,
    reference: "sft",
    reward: "quadratic",
    rationale: true,
  } as RlhfSettings,
};

export type SaySelfTraining = keyof typeof saySelfDefaults;

type Presets = { [name in SaySelfTraining]: Record<string, Partial<(typeof saySelfDefaults)[name]>> };

/** stage_1.sh and stage_2.sh: an optimiser step learns from their 128 rows, which four processes shared. */
export const saySelfPresets = {
  finetune: {
    script: {
      useLora: true,
      maxSeqLength: 400,
      gradientAccumulationSteps: 16,
      learningRate: 7e-5,
      warmupRatio: 0.03,
      maxWords: 200,
    },
  },
  rlhf: {
    script: {
      maxSeqLength: 1024,
      gradientAccumulationSteps: 16,
      learningRate: 1e-5,
      numTrainEpochs: 2,
      numTrainExamples: 3000,
      maxWords: 100,
      reference: "base",
    },
  },
} as const satisfies Presets;

/**
 * A training's settings: what is given, else the preset's, else the default.
 *
 * @throws CredenceError "USAGE" for a preset of no such name
 */
export function saySelfSettings<Name extends SaySelfTraining>(
  name: Name,
  given: Partial<(typeof saySelfDefaults)[Name]>,
  preset?: string,
): (typeof saySelfDefaults)[Name] {
  const named: Record<string, object> = saySelfPresets[name];
  if (preset !== undefined && !Object.hasOwn(named, preset))
    throw new CredenceError(
      "USAGE",
      `no preset of ${name} is called "${preset}"; there is ${Object.keys(named).join(", ")}`,
    );
  const own = Object.fromEntries(Object.entries(given).filter(([, value]) => value !== undefined));
  return { ...saySelfDefaults[name], ...(preset === undefined ? {} : named[preset]), ...own };
}

/** The published adapter, on all seven projections. Reinforcement drops nothing, as published. */
export const saySelfAdapter = (
  { useLora, loraRank, loraAlpha }: Pick<StageSettings, "useLora" | "loraRank" | "loraAlpha">,
  { seed, dropout = 0 }: { seed: number; dropout?: number },
): AdapterSpec | undefined =>
  useLora
    ? {
        rank: loraRank,
        alpha: loraAlpha,
        targets: ["q", "k", "v", "o", "gate", "up", "down"],
        seed,
        ...(dropout > 0 ? { dropout } : {}),
      }
    : undefined;

/** The published schedules as those here; so many optimiser steps in all. */
export const saySelfSchedule = (
  { lrSchedulerType, warmupRatio }: Pick<StageSettings, "lrSchedulerType" | "warmupRatio">,
  steps: number,
) => scheduleOf(lrSchedulerType, Math.floor(steps * warmupRatio), steps);

/**
 * Batches of responses in all. As published (B9-10) accumulation counts towards the end alone: after so many batches the first epoch
 * ends, and each further one after one batch.
 */
function iterationsOf(rows: number, settings: RlhfSettings, published: boolean): number {
  const { trainMicroBatchSizePerGpu: micro, gradientAccumulationSteps: accumulation, numTrainEpochs } = settings;
  const batches = Math.ceil(rows / (published ? micro : micro * accumulation));
  if (!published) return settings.maxTrainSteps ?? Math.ceil((rows * numTrainEpochs) / (micro * accumulation));
  const each = Math.ceil(batches / accumulation);
  const most = settings.maxTrainSteps ?? numTrainEpochs * each;
  let done = 0;
  for (let epoch = 0; epoch < Math.ceil(most / each); epoch++) done += Math.max(1, Math.min(batches, most - done));
  return done;
}

/**
 * The trainer's settings, as the published ones have them (TRL 0.7.10's, and constants of rlhf_train.py): adaptive KL, masked rewards,
 * advantages whitened over all tokens that are learnt from, scores brought to the mean and deviation of all so far.
 *
 * @param rows how many questions there are
 */
export function rlhfPpoSettings(settings: RlhfSettings, rows: number, compat: SaySelfCompat = new Set()): PpoSettings {
  const { trainMicroBatchSizePerGpu: micro, gradientAccumulationSteps: accumulation, ppoEpochs, rationale } = settings;
  const published = compat.has("B9-10");
  const prompts = published ? micro : micro * accumulation;
  const miniBatches = published ? micro : 1;
  const iterations = iterationsOf(rows, settings, published);
  const steps = iterations * ppoEpochs * miniBatches;
  const schedule = published ? scheduleOf("constant", 0, steps) : saySelfSchedule(settings, steps);
  const stated = compat.has("B9-1") ? /Confidence: \d/ : statedPattern(rationale);
  return ppoSchema.parse({
    iterations,
    rollout: {
      prompts,
      samples: 1,
      temperature: settings.temperature,
      topK: settings.topK,
      newTokens: settings.newTokens,
      stopPattern: stated.source,
      retry: { complete: "Confidence:", retries: settings.numRetries, cue: confidenceCue },
    },
    score: { normalise: "full" },
    kl: {
      coefficient: settings.kl,
      controller: "adaptive",
      target: settings.klTarget,
      horizon: settings.klHorizon,
    },
    advantage: { gamma: 1, lambda: 0.95, whiten: true },
    loss: { clip: 0.2, valueClip: 0.2, valueCoefficient: 0.1 },
    epochs: ppoEpochs,
    miniBatches,
    optimizer: {
      ...schedule,
      learningRate: settings.learningRate,
      weightDecay: settings.weightDecay,
      maxGradientNorm: published ? 0 : settings.maxGradientNorm,
    },
    microBatchTokens: micro * settings.maxSeqLength,
    seed: settings.seed,
  });
}
