/** Flags that calibration-tuning's trainings share, by their published names, and the rows that they are given. */
import type { Options } from "yargs";
import type { JudgedRow } from "../../methods/calibration-tuning/lessons.js";
import { aboveZero, positiveInteger, wholeFromZero } from "../options.js";
import { UsageError } from "../output.js";
import type { Unneeded } from "../published.js";
import { cacheUnneeded, type DatasetArguments, datasetFlags, datasetOf, datasetOptions } from "./places.js";

const number = (describe: string, value: number, coerce: (value: number) => number | undefined): Options => ({
  type: "number",
  requiresArg: true,
  default: value,
  describe,
  coerce,
});

/** A number from 0 up. */
const fromZero =
  (name: string, below = Number.POSITIVE_INFINITY) =>
  (value: number): number => {
    if (value >= 0 && value < below) return value;
    throw new UsageError(`--${name} ${value}: expected a number from 0${below === 1 ? ", below 1" : ""}`);
  };

export const trainingFlags = {
  ...datasetFlags,
  "model-name": { type: "string", requiresArg: true, demandOption: true, describe: "The model that answered" },
  "lora-rank": number("Rank of a new adapter", 8, positiveInteger("lora-rank")),
  "lora-alpha": number("Its scale times its rank", 32, aboveZero("lora-alpha")),
  "lora-dropout": number("Share of its inputs that a step drops", 0.1, fromZero("lora-dropout", 1)),
  "peft-dir": { type: "string", requiresArg: true, describe: "Folder of an adapter to train further" },
  "batch-size": number("Rows of a step", 1, positiveInteger("batch-size")),
  lr: number("Largest learning rate; it falls to 0 along half a cosine", 1e-4, aboveZero("lr")),
  "warmup-ratio": number("Share of the steps that warms up", 0, fromZero("warmup-ratio", 1)),
  "max-steps": number("Steps", 1, positiveInteger("max-steps")),
} satisfies Record<string, Options>;

export const trainingUnneeded = {
  ...cacheUnneeded,
  "num-workers": { type: "number", why: "texts are tokenized on all cores" },
  int8: { type: "boolean", why: "the base stays as its file has it" },
} satisfies Record<string, Unneeded>;

export const examplesOption = {
  kshot: {
    type: "number",
    default: 0,
    describe: "0: examples before the questions are left out; else they stay",
    coerce: wholeFromZero("kshot"),
  },
} satisfies Record<string, Options>;

export interface TrainingArguments extends DatasetArguments {
  modelName: string;
  loraRank: number;
  loraAlpha: number;
  loraDropout: number;
  peftDir?: string;
  batchSize: number;
  lr: number;
  warmupRatio: number;
  maxSteps: number;
}

/** The judged rows of each split that a set has; of a training, train is one of them. */
export async function judgedSplits(args: TrainingArguments): Promise<{ train: JudgedRow[]; validation: JudgedRow[] }> {
  const id = datasetOf(args);
  const { answeredRows, openDataset } = await import("../../methods/calibration-tuning/datasets.js");
  const { judged } = await import("../../methods/calibration-tuning/offline.js");
  const { splits } = await openDataset(id, datasetOptions(args));
  const of = (split: "train" | "validation") => {
    const found = splits[split];
    return found ? judged(answeredRows(found, id), `${id}: ${split}`) : [];
  };
  const train = of("train");
  if (train.length === 0)
    throw new UsageError(
      `--dataset ${id}: has no train split; its splits are ${Object.keys(splits).join(", ") || "none"}`,
    );
  return { train, validation: of("validation") };
}

/** The settings among a command's arguments. */
export const stepsOf = (args: TrainingArguments) => ({
  steps: args.maxSteps,
  batch: args.batchSize,
  learningRate: args.lr,
  warmup: args.warmupRatio,
  seed: args.seed,
  rank: args.loraRank,
  alpha: args.loraAlpha,
  dropout: args.loraDropout,
  ...(args.peftDir === undefined ? {} : { from: args.peftDir }),
});
