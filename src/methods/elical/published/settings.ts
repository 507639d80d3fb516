/** What a training as published is told, and what it was told where nothing else is said: flags and programs take it from here. */
import type { ElicalCompat } from "./compat.js";
import type { TrainedPart } from "./paths.js";
import type { LastToken } from "./reading.js";

/** Sampled answers, and the verdicts on them; without those the answers are looked for in the samples. */
export interface RowFiles {
  data: string;
  verdicts?: string;
}

export interface PublishedTraining {
  /** LoRA and a linear head, or a head alone. */
  part: TrainedPart;
  train: RowFiles;
  /** B9-9 alone: the test sets that the best epoch is chosen on. */
  test?: RowFiles;
  /** Names joined by hyphens; where there are several, each stands in turn where the whole stands in a path. */
  dataset: string;
  /** Shuffles the rows of several sets before some are taken. */
  shuffle: boolean;
  /** Rows to learn from and to choose the best epoch on; 0: all. */
  count: number;
  output: string;
  /** Folder of TensorBoard's events. Default: the training's own. */
  logger?: string;
  /** Rows of a micro-batch, which are padded together where rows are padded; an optimiser step has `accumulation` of them. */
  batch: number;
  accumulation: number;
  epochs: number;
  learningRate: number;
  weightDecay: number;
  /** Share of the training that warms up. */
  warmup: number;
  /** Epochs without a smaller loss before it stops. */
  patience: number;
  /** Share of the questions that is held out to choose the best epoch. */
  validationShare: number;
  seed: number;
  rank: number;
  alpha: number;
  dropout: number;
  /** Of a head alone: three layers as published, or one as the paper says. */
  head: "mlp" | "linear";
  /** Trained further: stage 2. */
  from?: { adapter?: string; head: string };
  lastToken?: LastToken;
  paddingSide?: "right" | "left";
  /** Whether the end-of-sequence token follows the prompt: in neither, in training alone (B9-12), or in scoring too. */
  eos?: "none" | "training" | "always";
  /** B9-15 not asked for: a verdict that says neither yes nor no is an error (default), or a no. */
  unparsed?: "error" | "negative";
  compat: ElicalCompat;
}

/** As published, but for what has to be said. */
export const trainingDefaults = {
  dataset: "nq",
  shuffle: false,
  count: 0,
  batch: 16,
  accumulation: 8,
  epochs: 10,
  learningRate: 5e-5,
  weightDecay: 0,
  warmup: 0.1,
  patience: 4,
  validationShare: 0.1,
  seed: 42,
  rank: 8,
  alpha: 16,
  dropout: 0,
  head: "mlp",
} as const satisfies Partial<PublishedTraining>;
