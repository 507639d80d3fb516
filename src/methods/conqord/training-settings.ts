/**
 * What CONQORD's three trainings can be told by their published names, with the published defaults, and named settings: the
 * released scripts' values, the paper's, and the baselines'. Where script and paper differ: docs/methods/conqord.md.
 */
import { CredenceError } from "../../errors.js";
import type { TrainSpec } from "../../native.js";
import type { ConqordOptions } from "../../rewards/batch-terms.js";
import type { Schedule } from "../../training/schedule.js";

/** What of the network learns: an adapter, and beside it or without one the base's own numbers. */
export interface LearningParts {
  /** Rank of a new adapter, whose scale is 1 / rank; 0: none, and every number of the base learns. */
  loraDim: number;
  /** An adapter is put on the projections in whose module's name this stands. */
  loraModuleName: string;
  /** Beside an adapter nothing learns but heads; else embeddings, norms and the vocabulary's head do. */
  onlyOptimizeLora: boolean;
  learningRate: number;
  /** The adapter's; undefined: the same. */
  loraLearningRate?: number | undefined;
  weightDecay: number;
}

export const scheduleNames = ["linear", "cosine", "cosine_with_restarts", "constant", "constant_with_warmup"] as const;
export type ScheduleName = (typeof scheduleNames)[number];

/** Of the first two trainings. */
interface StageSettings extends LearningParts {
  dataSplit: string;
  perDeviceTrainBatchSize: number;
  gradientAccumulationSteps: number;
  maxSeqLen: number;
  numTrainEpochs: number;
  lrSchedulerType: ScheduleName;
  numWarmupSteps: number;
  seed: number;
}

export interface SftSettings extends StageSettings {
  /** Which tokens are learnt: the answers', or as published all, those of the padding up to `maxSeqLen` with them. */
  labels: "answer" | "padded";
}

export interface RewardSettings extends StageSettings {
  /** What the longer answer's scores are held against behind the shorter one's end; "padded" as published. */
  tail: "held" | "cut" | "padded";
  /**
   * "quality": answers without their confidences, as completions are scored; "stated": as they are; "pre-approach": each answer
   * without its confidence against itself, with a high one and a low one.
   */
  pairs: "quality" | "stated" | "pre-approach";
}

export interface PpoTrainingSettings {
  dataSplit: string;
  unsupCoef: number;
  /** Prompts that are compared with each other, and how often so many are sampled before something is learnt. */
  perDeviceGenerationBatchSize: number;
  generationBatches: number;
  perDeviceTrainingBatchSize: number;
  ppoEpochs: number;
  maxPromptSeqLen: number;
  maxAnswerSeqLen: number;
  actorLearningRate: number;
  criticLearningRate: number;
  actorWeightDecay: number;
  criticWeightDecay: number;
  numTrainEpochs: number;
  lrSchedulerType: ScheduleName;
  gradientAccumulationSteps: number;
  numWarmupSteps: number;
  seed: number;
  actorLoraDim: number;
  criticLoraDim: number;
  actorLoraModuleName: string;
  criticLoraModuleName: string;
  onlyOptimizeLora: boolean;
  actorLoraLearningRate?: number | undefined;
  criticLoraLearningRate?: number | undefined;
  enableEma: boolean;
  enableTestMode: boolean;
  testStopStep: number;
  /** Weight of the order-preserving term; 0: quality alone. */
  alpha: number;
  form: NonNullable<ConqordOptions["form"]>;
  reduce: NonNullable<ConqordOptions["reduce"]>;
  /** Rewards beyond it, the term among them, are cut to it. */
  rewardClip: number;
  kl: number;
  temperature: number;
  /** What the reward model reads: the answer alone, or with its confidence. */
  scored: "answer" | "stated";
}

/** An adapter's rate in the published code, whatever the other is (A9-11). */
export const publishedLoraRate = 5e-4;

const stage = {
  dataSplit: "2,4,4",
  perDeviceTrainBatchSize: 16,
  maxSeqLen: 512,
  weightDecay: 0,
  numTrainEpochs: 1,
  gradientAccumulationSteps: 1,
  lrSchedulerType: "cosine",
  numWarmupSteps: 0,
  seed: 1234,
  loraDim: 0,
  loraModuleName: "decoder.layers.",
  onlyOptimizeLora: false,
} as const;

/** The published defaults; of what was a constant there, or has no flag, what is done here. */
export const trainingDefaults = {
  sft: { ...stage, learningRate: 1e-3, labels: "answer" } as SftSettings,
  "reward-model": { ...stage, learningRate: 5e-5, tail: "held", pairs: "quality" } as RewardSettings,
  ppo: {
    dataSplit: "2,4,4",
    unsupCoef: 27.8,
    perDeviceGenerationBatchSize: 2,
    generationBatches: 1,
    perDeviceTrainingBatchSize: 2,
    ppoEpochs: 1,
    maxPromptSeqLen: 512,
    maxAnswerSeqLen: 512,
    actorLearningRate: 9.65e-6,
    criticLearningRate: 5e-6,
    actorWeightDecay: 0,
    criticWeightDecay: 0,
    numTrainEpochs: 1,
    lrSchedulerType: "cosine",
    gradientAccumulationSteps: 1,
    numWarmupSteps: 100,
    seed: 1234,
    actorLoraDim: 0,
    criticLoraDim: 0,
    actorLoraModuleName: "decoder.layers.",
    criticLoraModuleName: "decoder.layers.",
    onlyOptimizeLora: false,
    enableEma: false,
    enableTestMode: false,
    testStopStep: 0,
    alpha: 0.5,
    form: "difference",
    reduce: "sum",
    rewardClip: 5,
    kl: 0.1,
    temperature: 1,
    scored: "answer",
  } as PpoTrainingSettings,
};

export type TrainingName = keyof typeof trainingDefaults;

const adapters = {
  actorLoraDim: 64,
  criticLoraDim: 64,
  actorLoraModuleName: "layers.",
  criticLoraModuleName: "layers.",
};
const published = {
  numTrainEpochs: 1,
  lrSchedulerType: "constant",
  numWarmupSteps: 0,
  maxPromptSeqLen: 256,
  maxAnswerSeqLen: 256,
  actorLearningRate: 1e-6,
  criticLearningRate: 1e-6,
  actorWeightDecay: 0.1,
  criticWeightDecay: 0.1,
  ...adapters,
} as const;
/** One optimiser step a rollout batch of 32, whose term is over the whole of it. */
const paper = {
  ...published,
  perDeviceGenerationBatchSize: 32,
  perDeviceTrainingBatchSize: 32,
  kl: 0.005,
  alpha: 0.4,
} as const;

type Presets = { [name in TrainingName]: Record<string, Partial<(typeof trainingDefaults)[name]>> };

/** Named settings of each training: run_step1.sh to run_step3.sh, the paper's, and baselines on top of the paper's. */
export const trainingPresets = {
  sft: {
    script: {
      dataSplit: "10,0,0",
      perDeviceTrainBatchSize: 32,
      learningRate: 1e-4,
      loraLearningRate: publishedLoraRate,
      numTrainEpochs: 3,
      gradientAccumulationSteps: 64,
      numWarmupSteps: 5,
      loraDim: 128,
      loraModuleName: "layers.",
      labels: "padded",
    },
  },
  "reward-model": {
    script: {
      dataSplit: "0,10,0",
      perDeviceTrainBatchSize: 32,
      learningRate: 5e-5,
      loraLearningRate: publishedLoraRate,
      weightDecay: 0.1,
      numTrainEpochs: 10,
      gradientAccumulationSteps: 16,
      loraDim: 128,
      loraModuleName: "layers.",
      tail: "padded",
    },
    "pre-approach": { pairs: "pre-approach" },
  },
  ppo: {
    script: {
      ...published,
      dataSplit: "0,0,10",
      perDeviceGenerationBatchSize: 1,
      perDeviceTrainingBatchSize: 1,
      gradientAccumulationSteps: 32,
      actorLoraLearningRate: publishedLoraRate,
      criticLoraLearningRate: publishedLoraRate,
      alpha: 0.5,
      kl: 0.1,
    },
    paper,
    "quality-only": { ...paper, alpha: 0 },
    "pre-approach": { ...paper, alpha: 0, scored: "stated" },
  },
} as const satisfies Presets;

/**
 * A training's settings: what is given, else the preset's, else the default.
 *
 * @throws CredenceError "USAGE" for a preset of no such name
 */
export function trainingSettings<Name extends TrainingName>(
  name: Name,
  given: Partial<(typeof trainingDefaults)[Name]>,
  preset?: string,
): (typeof trainingDefaults)[Name] {
  const named: Record<string, object> = trainingPresets[name];
  if (preset !== undefined && !Object.hasOwn(named, preset))
    throw new CredenceError(
      "USAGE",
      `no preset of ${name} is called "${preset}"; there are ${Object.keys(named).join(", ")}`,
    );
  const defaults = trainingDefaults[name];
  const own = Object.fromEntries(Object.entries(given).filter(([, value]) => value !== undefined));
  return { ...defaults, ...(preset === undefined ? {} : named[preset]), ...own };
}

/**
 * The published schedules as those here. "constant" has no warm-up whatever is asked for, as transformers has it; one cycle of
 * "cosine_with_restarts" is a cosine.
 *
 * @param steps optimiser steps in all
 */
export function scheduleOf(
  name: ScheduleName,
  warmupSteps: number,
  steps: number,
): { schedule: Schedule["kind"]; warmup: number } {
  if (name === "constant") return { schedule: "constant", warmup: 0 };
  if (warmupSteps > steps)
    throw new CredenceError(
      "USAGE",
      `num_warmup_steps ${warmupSteps}: the training has ${steps} steps, which would all warm up. Give fewer, or learn from more`,
    );
  const schedule = name === "constant_with_warmup" ? "constant" : name === "linear" ? "linear" : "cosine";
  return { schedule, warmup: warmupSteps / steps };
}

/** What of the base learns beside an adapter of this rank, or without one. */
export const learntOfBase = ({
  loraDim,
  onlyOptimizeLora,
}: Pick<LearningParts, "loraDim" | "onlyOptimizeLora">): TrainSpec | "all" | undefined =>
  loraDim === 0 ? "all" : onlyOptimizeLora ? undefined : { embeddings: true, norms: true, lmHead: true };
