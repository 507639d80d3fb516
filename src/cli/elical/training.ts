/** What the two training scripts and the two predicting ones share: their flags, and the work itself. */
import type { Options } from "yargs";
import type { TrainedPart } from "../../methods/elical/published/paths.js";
import { type PublishedTraining, trainingDefaults } from "../../methods/elical/published/settings.js";
import type { Compat } from "../../methods/published.js";
import { interruptible } from "../interrupt.js";
import {
  aboveZero,
  baseOptions,
  type EngineArguments,
  fromZero,
  integer,
  numberThat,
  positiveInteger,
  wholeFromZero,
} from "../options.js";
import { logs, note, printJson, UsageError } from "../output.js";
import { type PublishedScript, publishedUnneeded } from "../published.js";

const text = (describe: string, more: Options = {}): Options => ({
  type: "string",
  requiresArg: true,
  describe,
  ...more,
});
const number = (describe: string, value: number, coerce: (value: number) => number | undefined): Options => ({
  type: "number",
  requiresArg: true,
  describe,
  default: value,
  coerce,
});

/** Flags of both training scripts. */
export const trainingFlags = {
  model_path: text("The model, with its tokenizer", { demandOption: true }),
  train_data_path: text("Sampled answers, whose prompts are learnt from", { demandOption: true }),
  train_consis_path: text("Verdicts on them, a line a sample; nothing: the answers are looked for in the samples", {
    default: "nothing",
  }),
  test_data_path: text("The test sets: with B9-9 alone, which chooses the best epoch on them"),
  test_consis_path: text("Verdicts on the test sets", { default: "nothing" }),
  output_path: text("Folder of the training, which it goes on in", { default: "./train/save_model" }),
  logger_path: text("Folder of TensorBoard's events [default: the training's own]"),
  per_device_train_batch_size: number(
    "Rows of a micro-batch",
    trainingDefaults.batch,
    positiveInteger("per_device_train_batch_size"),
  ),
  gradient_accumulation_steps: number(
    "Micro-batches of an optimiser step",
    trainingDefaults.accumulation,
    positiveInteger("gradient_accumulation_steps"),
  ),
  num_train_epochs: number("Epochs at most", trainingDefaults.epochs, positiveInteger("num_train_epochs")),
  seed: number("Of everything random", trainingDefaults.seed, integer("seed")),
  weight_decay: number("AdamW's", trainingDefaults.weightDecay, fromZero("weight_decay")),
  train_data_count: number("Rows to learn from; 0: all", trainingDefaults.count, wholeFromZero("train_data_count")),
  resume_from: { type: "boolean", default: false, describe: "Go on from a trained adapter and head: stage 2" },
  vector_head_path: text("The trained head to go on from"),
  dataset: text("Names joined by hyphens, each of which stands in every path in turn", {
    default: trainingDefaults.dataset,
  }),
  shuffle: {
    type: "boolean",
    default: trainingDefaults.shuffle,
    describe: "Shuffle the rows of several sets before some are taken",
  },
} satisfies Record<string, Options>;

/** Flags that the training script had and did not read. */
export const deadTrainingFlags = {
  per_device_eval_batch_size: "rows are scored by themselves, in passes that fit",
  train_acc_path: "verdicts are given by --train_consis_path",
  test_acc_path: "verdicts are given by --test_consis_path",
};

/** LoRA's settings. */
export const adapterFlags = {
  r: number("Rank of the adapter", trainingDefaults.rank, positiveInteger("r")),
  alpha: number("Its scale is alpha / r", trainingDefaults.alpha, aboveZero("alpha")),
  lora_dropout: number(
    "Share of the adapter's inputs dropped",
    trainingDefaults.dropout,
    numberThat("lora_dropout", "a number from 0, below 1", (value) => value >= 0 && value < 1),
  ),
} satisfies Record<string, Options>;

/** What the published scripts had as constants. */
export const constantOptions = {
  "learning-rate": number("Largest learning rate", trainingDefaults.learningRate, aboveZero("learning-rate")),
  patience: number(
    "Epochs without a smaller loss before a training stops",
    trainingDefaults.patience,
    positiveInteger("patience"),
  ),
  "validation-share": number(
    "Share of the training questions that is held out to choose the best epoch",
    trainingDefaults.validationShare,
    numberThat("validation-share", "a number above 0, below 1", (value) => value > 0 && value < 1),
  ),
} satisfies Record<string, Options>;

/** What has no published flag of a training. */
export const ownTrainingOptions = {
  ...constantOptions,
  eos: {
    choices: ["none", "training", "always"] as const,
    describe: "Whether the end-of-sequence token follows the prompt [default: none; training with B9-12]",
  },
  unparsed: {
    choices: ["error", "negative"] as const,
    default: "error" as const,
    describe: "A verdict that says neither yes nor no; B9-15 reads all of them as published",
  },
} satisfies Record<string, Options>;

/** Where a prompt is read. */
export const readingOptions = {
  "last-token": {
    choices: ["last-real", "index-minus-one"] as const,
    describe: "What is read: the prompt's last token, or the last place of the padded batch [default: last-real]",
  },
  "padding-side": {
    choices: ["right", "left"] as const,
    default: "right" as const,
    describe: "Of batches read at index -1; on the left that is the last real token",
  },
} satisfies Record<string, Options>;

export interface TrainingArguments extends EngineArguments {
  modelPath: string;
  trainDataPath: string;
  trainConsisPath: string;
  testDataPath?: string;
  testConsisPath: string;
  outputPath: string;
  loggerPath?: string;
  perDeviceTrainBatchSize: number;
  gradientAccumulationSteps: number;
  numTrainEpochs: number;
  seed: number;
  weightDecay: number;
  trainDataCount: number;
  resumeFrom: boolean;
  loraPath?: string;
  vectorHeadPath?: string;
  dataset: string;
  shuffle: boolean;
  learningRate: number;
  patience: number;
  validationShare: number;
  eos?: "none" | "training" | "always";
  unparsed: "error" | "negative";
  lastToken?: "last-real" | "index-minus-one";
  paddingSide: "right" | "left";
  compat: Compat;
  json: boolean;
}

/** "nothing" is how the scripts are told that there are no verdicts. */
const rowFiles = (data: string, verdicts: string) => ({ data, ...(verdicts === "nothing" ? {} : { verdicts }) });

function startOf(
  { resumeFrom, loraPath, vectorHeadPath }: TrainingArguments,
  part: TrainedPart,
): PublishedTraining["from"] {
  const given = { "--lora_path": loraPath, "--vector_head_path": vectorHeadPath };
  if (!resumeFrom) {
    for (const [flag, value] of Object.entries(given))
      if (value) throw new UsageError(`${flag} is what --resume_from goes on from; give that too`);
    return undefined;
  }
  if (!vectorHeadPath) throw new UsageError("--resume_from: --vector_head_path says which head to go on from");
  if (part === "lora" && !loraPath) throw new UsageError("--resume_from: --lora_path says which adapter to go on from");
  return { ...(loraPath ? { adapter: loraPath } : {}), head: vectorHeadPath };
}

/** Trains as a script's flags say. */
export async function train(
  script: PublishedScript,
  args: TrainingArguments,
  own: Pick<PublishedTraining, "part"> & Partial<PublishedTraining>,
): Promise<void> {
  const { writeJsonAtomic } = await import("../../files.js");
  const { join } = await import("node:path");
  const { Model } = await import("../../policy/model.js");
  const { progressOn, silent } = await import("../../tracking/progress.js");
  const { trainPublished } = await import("../../methods/elical/published/train.js");
  const unneeded = publishedUnneeded(script, args);
  const job: PublishedTraining = {
    ...trainingDefaults,
    train: rowFiles(args.trainDataPath, args.trainConsisPath),
    ...(args.testDataPath ? { test: rowFiles(args.testDataPath, args.testConsisPath) } : {}),
    dataset: args.dataset,
    shuffle: args.shuffle,
    count: args.trainDataCount,
    output: args.outputPath,
    ...(args.loggerPath ? { logger: args.loggerPath } : {}),
    batch: args.perDeviceTrainBatchSize,
    accumulation: args.gradientAccumulationSteps,
    epochs: args.numTrainEpochs,
    learningRate: args.learningRate,
    weightDecay: args.weightDecay,
    patience: args.patience,
    validationShare: args.validationShare,
    seed: args.seed,
    from: startOf(args, own.part),
    lastToken: args.lastToken,
    paddingSide: args.paddingSide,
    eos: args.eos,
    unparsed: args.unparsed,
    compat: args.compat as PublishedTraining["compat"],
    ...own,
  };
  if (job.test && !job.compat.has("B9-9"))
    note("the test sets are not looked at: the best epoch is chosen on training questions that are held out");
  await interruptible(async (signal) => {
    const progress = logs("info") ? progressOn() : silent;
    await using model = await Model.load(args.modelPath, { ...baseOptions(args), note, signal });
    const report = await trainPublished(job, { model, progress, signal });
    writeJsonAtomic(join(job.output, "summary.json"), { ...report, compat: [...job.compat], unneeded });
    const { losses, bestEpoch, steps } = report;
    note(`${steps} steps; epoch ${bestEpoch} of ${losses.length} is the best: ${losses[bestEpoch - 1]!.toFixed(6)}`);
    note(`the ${report.adapter ? "adapter and head are" : "head is"} beside ${report.head}`);
    if (args.json) printJson(report);
  });
}
