/** The LoRA classifier, as classifier_tune.py --with-lora trains it. */
import type { Argv } from "yargs";
import { calibrationRows } from "../../methods/calibration-tuning/compat.js";
import { interruptible } from "../interrupt.js";
import { baseOptions, type EngineArguments, engineOptions, wholeFromZero } from "../options.js";
import { logs, note, print, printJson, UsageError } from "../output.js";
import { type PublishedScript, publishedOptions, publishedUnneeded } from "../published.js";
import { logFolder } from "./places.js";
import {
  examplesOption,
  judgedSplits,
  stepsOf,
  type TrainingArguments,
  trainingFlags,
  trainingUnneeded,
} from "./training.js";

export const script: PublishedScript = {
  name: "classify",
  honoured: {
    ...trainingFlags,
    "with-lora": { type: "boolean", default: false, describe: "Train an adapter under the head" },
  },
  unneeded: trainingUnneeded,
  dead: { "max-token-length": "rows that do not fit the context are errors" },
  rows: calibrationRows,
};

export const command = "classify";
export const describe = "Teach an adapter and a head on it whether the model's answers are right (LoRA)";
export const builder = (line: Argv) =>
  line.options({
    ...publishedOptions(script),
    ...examplesOption,
    place: {
      choices: ["last", "answer-mean"] as const,
      default: "last" as const,
      describe: "Where the head reads: the answer's last token, or the mean over its tokens",
    },
    depth: {
      type: "number",
      describe: "The block behind which it reads, 0 for the embedding",
      defaultDescription: "behind the last norm",
      coerce: wholeFromZero("depth"),
    },
    ...engineOptions,
  });

interface ClassifyArguments extends TrainingArguments, EngineArguments {
  withLora: boolean;
  place: "last" | "answer-mean";
  depth?: number;
}

export async function handler(args: ClassifyArguments): Promise<void> {
  publishedUnneeded(script, args);
  if (!args.withLora) throw new UsageError("only the head on an adapter can be trained yet: give --with-lora");
  const { classifierTune } = await import("../../methods/calibration-tuning/classify.js");
  const { modelOfKind } = await import("../../methods/calibration-tuning/kinds.js");
  const { Model } = await import("../../policy/model.js");
  const { progressOn, silent } = await import("../../tracking/progress.js");
  const directory = logFolder(args);
  const { train, validation } = await judgedSplits(args);
  await interruptible(async (signal) => {
    await using model = await Model.load(modelOfKind(args.modelName), { ...baseOptions(args), note, signal });
    const policy = await classifierTune({
      ...stepsOf(args),
      model,
      directory,
      rows: train,
      validation,
      place: args.place,
      ...(args.depth === undefined ? {} : { depth: args.depth }),
      progress: logs("info") ? progressOn() : silent,
      signal,
    });
    await policy.dispose();
    const output = `${directory}/checkpoint-${args.maxSteps}`;
    if (args.json) printJson({ rows: train.length, steps: args.maxSteps, output });
    else print(`${args.maxSteps} steps on ${train.length} rows: ${output}`);
  });
}
