/** Everything from elicitation to the workbooks, over numbers of annotated questions, in one command. */
import { dirname, join } from "node:path";
import type { Argv } from "yargs";
import { writeJsonAtomic } from "../../files.js";
import { elicalRows } from "../../methods/elical/published/compat.js";
import type { SweepSettings } from "../../methods/elical/published/sweep.js";
import { interruptible } from "../interrupt.js";
import { baseOptions, type EngineArguments, engineOptions, positiveInteger } from "../options.js";
import { logs, note, print, printJson } from "../output.js";
import { type PublishedScript, publishedOptions, publishedUnneeded } from "../published.js";
import {
  type EvaluationArguments,
  evaluationFlags,
  evaluationOptions,
  evaluationSettings,
  evaluationText,
  namesOf,
  runFolderFlags,
} from "./evaluating.js";
import { constantOptions } from "./training.js";

/** The launch scripts for training, predicting and scoring, whose variables are flags here. */
export const script: PublishedScript = {
  name: "sweep",
  honoured: {
    model_path: { type: "string", demandOption: true, requiresArg: true, describe: "The model, with its tokenizer" },
    ...evaluationFlags,
    ...runFolderFlags,
    per_device_eval_batch_size: {
      type: "number",
      default: 1024,
      requiresArg: true,
      describe: "Rows that are predicted padded together, where rows are padded",
      coerce: positiveInteger("per_device_eval_batch_size"),
    },
  },
  unneeded: {
    GPU_NUMS: { type: "number", why: "one process has the whole model" },
    MAIN_PORT: { type: "number", why: "there are no other processes to talk to" },
  },
  dead: {},
  rows: elicalRows,
};

export const command = "sweep";
export const describe =
  "Train, predict and evaluate over numbers of annotated questions; what is there whole is not done again";
export const builder = (line: Argv) =>
  line.options({
    ...publishedOptions(script),
    ...evaluationOptions,
    "mc-dataset": {
      type: "string",
      array: true,
      default: [] as string[],
      requiresArg: true,
      describe: "Sets of multiple choice among those to evaluate, whose answers are letters: mmlu",
    },
    ...constantOptions,
    ...engineOptions,
  });

interface SweepArguments extends EvaluationArguments, EngineArguments {
  modelPath: string;
  perDeviceEvalBatchSize: number;
  mcDataset: string[];
  learningRate: number;
  patience: number;
  validationShare: number;
}

export async function handler(args: SweepArguments): Promise<void> {
  const { Model } = await import("../../policy/model.js");
  const { progressOn, silent } = await import("../../tracking/progress.js");
  const { sweep } = await import("../../methods/elical/published/sweep.js");
  const unneeded = publishedUnneeded(script, args);
  const choices = new Set(namesOf(args.mcDataset));
  const settings: SweepSettings = {
    ...evaluationSettings(args),
    sets: namesOf(args.evalDataset).map((set) => ({ set, questionType: choices.has(set) ? "long_mc_qa" : "long_qa" })),
    learningRate: args.learningRate,
    patience: args.patience,
    validationShare: args.validationShare,
    predictionBatch: args.perDeviceEvalBatchSize,
  };
  await interruptible(async (signal) => {
    const progress = logs("info") ? progressOn() : silent;
    await using model = await Model.load(args.modelPath, { ...baseOptions(args), note, signal });
    const { evaluation, others, path } = await sweep(settings, { model, progress, signal });
    writeJsonAtomic(join(dirname(path), "sweep.json"), { ...settings, compat: [...settings.compat], unneeded });
    for (const other of others) note(`left out: ${other} was evaluated with other settings`, "warn");
    if (args.json) printJson(evaluation);
    else print(evaluationText(evaluation));
    note(`everything is in ${path}`);
  });
}
