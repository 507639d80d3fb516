/** What evaluate and sweep share: their flags, and how the numbers are shown. */
import type { Options } from "yargs";
import type { ElicalCompat } from "../../methods/elical/published/compat.js";
import type { Average, Evaluation, EvaluationSettings } from "../../methods/elical/published/evaluate.js";
import { roundTo } from "../../methods/elical/published/metrics.js";
import { parseSize, sizeName, type TrainedPart } from "../../methods/elical/published/paths.js";
import type { Compat } from "../../methods/published.js";
import { positiveInteger, seedOption } from "../options.js";
import { table } from "../output.js";
import { unparsedOption } from "./places.js";
import { adapterFlags, trainingFlags } from "./training.js";

/** Published flags that say what was trained and on what it is evaluated. */
export const evaluationFlags = {
  model_name: { type: "string", demandOption: true, requiresArg: true, describe: "The answering model's name: M" },
  train_dataset: {
    type: "string",
    demandOption: true,
    requiresArg: true,
    describe: "What was trained on; several sets joined by hyphens",
  },
  eval_dataset: {
    type: "string",
    array: true,
    demandOption: true,
    requiresArg: true,
    describe: "Sets to evaluate: one, or several, apart or joined by commas",
  },
  training_samples: {
    type: "string",
    demandOption: true,
    requiresArg: true,
    describe: "Numbers of annotated questions, joined by commas: 1k,2k,300,all",
  },
  greedy_samples: {
    type: "string",
    demandOption: true,
    requiresArg: true,
    describe: "Number of questions that were elicited from: all, 10k, ...",
  },
  base_path: { type: "string", demandOption: true, requiresArg: true, describe: "Folder of the results: R" },
  batch_size: {
    type: "number",
    demandOption: true,
    requiresArg: true,
    describe: "Of training, as the folders' names have it",
    coerce: positiveInteger("batch_size"),
  },
  accumulation_steps: {
    type: "number",
    demandOption: true,
    requiresArg: true,
    describe: "Of training, as the folders' names have it",
    coerce: positiveInteger("accumulation_steps"),
  },
} satisfies Record<string, Options>;

/** Settings of the training that stand in its folder's name; the published scripts had them as variables. */
export const runFolderFlags = {
  num_train_epochs: {
    type: "number",
    requiresArg: true,
    describe: "Epochs at most [default: 10 for all questions, 50 up to 10,000 of them, 15 beyond]",
    coerce: positiveInteger("num_train_epochs"),
  },
  weight_decay: { ...trainingFlags.weight_decay, default: 0.1 },
  ...adapterFlags,
} satisfies Record<string, Options>;

/** What has no published flag. */
export const evaluationOptions = {
  part: {
    choices: ["lora", "mlp"] as const,
    default: "lora" as const,
    describe: "What is trained: LoRA and a head, or a head alone",
  },
  "sample-num": {
    type: "number",
    default: 20,
    describe: "Answers sampled a question, as the files' names have it",
    coerce: positiveInteger("sample-num"),
  },
  ...unparsedOption,
  seed: { ...seedOption.seed, default: 42, describe: "Of everything random" },
  out: { type: "string", default: "res", requiresArg: true, describe: "Folder of the workbooks" },
} satisfies Record<string, Options>;

export interface EvaluationArguments {
  modelName: string;
  trainDataset: string;
  evalDataset: string[];
  trainingSamples: string;
  greedySamples: string;
  basePath: string;
  batchSize: number;
  accumulationSteps: number;
  numTrainEpochs?: number;
  weightDecay: number;
  r: number;
  alpha: number;
  loraDropout: number;
  part: TrainedPart;
  sampleNum: number;
  unparsed: "error" | "negative";
  seed: number;
  out: string;
  compat: Compat;
  json: boolean;
}

/** Names that stand apart or are joined by commas. */
export const namesOf = (values: readonly string[]): string[] => values.flatMap((names) => names.split(","));

export const evaluationSettings = (args: EvaluationArguments): Omit<EvaluationSettings, "questionType"> => ({
  results: args.basePath,
  model: args.modelName,
  trainSet: args.trainDataset,
  part: args.part,
  sizes: args.trainingSamples.split(",").map(parseSize),
  elicitationRows: parseSize(args.greedySamples),
  batch: args.batchSize,
  accumulation: args.accumulationSteps,
  epochs: args.numTrainEpochs,
  weightDecay: args.weightDecay,
  rank: args.r,
  alpha: args.alpha,
  dropout: args.loraDropout,
  samples: args.sampleNum,
  unparsed: args.unparsed,
  seed: args.seed,
  compat: args.compat as ElicalCompat,
  out: args.out,
});

/** AUROC, ECE and Alignment of every method, a block a set and a block an average. */
export function evaluationText({ sets, averages }: Evaluation): string {
  const block = (title: string, methods: Average["methods"]) =>
    `${title}\n${table([
      ["method", "annotated", "AUROC", "ECE", "Alignment"],
      ...methods.map(({ method, rows, auroc, ece, align }) => [
        method,
        rows === null ? "" : sizeName(rows),
        shown(auroc, 2),
        shown(ece, 4),
        shown(align, 2),
      ]),
    ])}`;
  return [
    ...sets.map(({ set, questions, accuracy, methods }) =>
      block(`${set}: ${questions} questions, ${(100 * accuracy).toFixed(2)} % right`, methods),
    ),
    ...averages.map(({ group, questions, methods, sets: of }) =>
      block(`average, ${group} (${of.join(", ")}; ${questions} questions, each counted once)`, methods),
    ),
  ].join("\n\n");
}

/** Rounded as the workbooks' cells are. */
const shown = (value: number | null, decimals: number): string =>
  value === null ? "-" : roundTo(value, decimals).toFixed(decimals);
