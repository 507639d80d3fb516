/** A head alone on the frozen model's states, as train_mlp.py trains it. */
import type { Argv } from "yargs";
import { elicalRows } from "../../methods/elical/published/compat.js";
import { trainingDefaults } from "../../methods/elical/published/settings.js";
import { engineOptions } from "../options.js";
import { type PublishedScript, publishedOptions } from "../published.js";
import { ownTrainingOptions, readingOptions, type TrainingArguments, train, trainingFlags } from "./training.js";

export const script: PublishedScript = {
  name: "train-mlp",
  honoured: trainingFlags,
  unneeded: {},
  dead: {},
  rows: elicalRows,
};

export const command = "train-mlp";
export const describe = "Train a head alone on the frozen model's states";
export const builder = (line: Argv) =>
  line.options({
    ...publishedOptions(script),
    head: {
      choices: ["mlp", "linear"] as const,
      default: trainingDefaults.head,
      describe: "Three layers, as published, or one, as the paper says",
    },
    ...ownTrainingOptions,
    ...readingOptions,
    ...engineOptions,
  });

export const handler = (args: TrainingArguments & { head: "mlp" | "linear" }): Promise<void> =>
  train(script, args, { part: "mlp", head: args.head });
