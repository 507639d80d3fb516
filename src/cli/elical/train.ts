/** LoRA and a scalar head that reads the prompt alone, as train_one_conf.py trains them. */
import type { Argv } from "yargs";
import { elicalRows } from "../../methods/elical/published/compat.js";
import { engineOptions } from "../options.js";
import { type PublishedScript, publishedOptions } from "../published.js";
import {
  adapterFlags,
  deadTrainingFlags,
  ownTrainingOptions,
  readingOptions,
  type TrainingArguments,
  train,
  trainingFlags,
} from "./training.js";

export const script: PublishedScript = {
  name: "train",
  honoured: {
    ...trainingFlags,
    lora_path: { type: "string", requiresArg: true, describe: "The trained adapter to go on from" },
    ...adapterFlags,
  },
  unneeded: {},
  dead: deadTrainingFlags,
  rows: elicalRows,
};

export const command = "train";
export const describe =
  "Train an adapter and a head: elicit (greedy), calibrate (right), or calibrate further (hybrid)";
export const builder = (line: Argv) =>
  line.options({ ...publishedOptions(script), ...ownTrainingOptions, ...readingOptions, ...engineOptions });

interface Arguments extends TrainingArguments {
  r: number;
  alpha: number;
  loraDropout: number;
}

export const handler = (args: Arguments): Promise<void> =>
  train(script, args, { part: "lora", rank: args.r, alpha: args.alpha, dropout: args.loraDropout });
