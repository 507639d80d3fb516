/** LoRA + Prompt, as calibration_tune.py trains it. */
import type { Argv } from "yargs";
import { calibrationRows } from "../../methods/calibration-tuning/compat.js";
import { interruptible } from "../interrupt.js";
import { baseOptions, type EngineArguments, engineOptions, positiveInteger } from "../options.js";
import { logs, note, print, printJson } from "../output.js";
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
  name: "tune",
  honoured: {
    ...trainingFlags,
    "kl-decay": {
      type: "number",
      requiresArg: true,
      default: 0,
      describe: "Weight of the divergence at right answers (the paper's is 1); 0: none",
    },
    "ref-peft-dir": {
      type: "string",
      requiresArg: true,
      describe: "Folder of the adapter that it is of",
      defaultDescription: "--peft-dir, else the base",
    },
    "max-token-length": {
      type: "number",
      requiresArg: true,
      describe: "Leave out rows whose question and right answer have more tokens",
      coerce: positiveInteger("max-token-length"),
    },
  },
  unneeded: trainingUnneeded,
  dead: {},
  rows: calibrationRows,
};

const divergences = ["jsd", "reverse_kl", "forward_kl"] as const;

export const command = "tune";
export const describe = "Teach an adapter to say whether the model's answers are right (LoRA + Prompt)";
export const builder = (line: Argv) =>
  line.options({
    ...publishedOptions(script),
    ...examplesOption,
    "kl-type": {
      choices: divergences,
      default: "jsd" as const,
      describe: "Which divergence; reverse_kl is of the adapted model from the other",
    },
    ...engineOptions,
  });

interface TuneArguments extends TrainingArguments, EngineArguments {
  klDecay: number;
  klType: (typeof divergences)[number];
  refPeftDir?: string;
  maxTokenLength?: number;
}

export async function handler(args: TuneArguments): Promise<void> {
  publishedUnneeded(script, args);
  const { divergenceNames } = await import("../../methods/calibration-tuning/divergences.js");
  const { modelOfKind } = await import("../../methods/calibration-tuning/kinds.js");
  const { calibrationTune } = await import("../../methods/calibration-tuning/tune.js");
  const { Model } = await import("../../policy/model.js");
  const { progressOn, silent } = await import("../../tracking/progress.js");
  const directory = logFolder(args);
  const { train, validation } = await judgedSplits(args);
  await interruptible(async (signal) => {
    await using model = await Model.load(modelOfKind(args.modelName), { ...baseOptions(args), note, signal });
    const { policy, rows, dropped } = await calibrationTune({
      ...stepsOf(args),
      model,
      directory,
      rows: train,
      validation,
      kappa: args.klDecay,
      divergence: divergenceNames[args.klType]!,
      ...(args.refPeftDir === undefined ? {} : { reference: args.refPeftDir }),
      ...(args.maxTokenLength === undefined ? {} : { maxTokens: args.maxTokenLength }),
      compat: args.compat,
      progress: logs("info") ? progressOn() : silent,
      signal,
    });
    await policy.dispose();
    const output = `${directory}/checkpoint-${args.maxSteps}`;
    if (args.json) printJson({ rows, dropped, steps: args.maxSteps, output });
    else print(`${args.maxSteps} steps on ${rows} rows (${dropped} left out as too long): ${output}`);
  });
}
