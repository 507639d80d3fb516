/** Confidence in each question from a trained adapter and head, as eval_one_conf.py writes it. */
import type { Argv } from "yargs";
import { elicalRows } from "../../methods/elical/published/compat.js";
import { engineOptions } from "../options.js";
import { type PublishedScript, publishedOptions } from "../published.js";
import {
  deadPredictingFlags,
  ownPredictingOptions,
  type PredictingArguments,
  predict,
  predictingFlags,
  unneededPredictingFlags,
} from "./predicting.js";
import { readingOptions } from "./training.js";

export const script: PublishedScript = {
  name: "predict",
  honoured: {
    ...predictingFlags,
    lora_path: { type: "string", requiresArg: true, demandOption: true, describe: "The trained adapter's folder" },
  },
  unneeded: {
    ...unneededPredictingFlags,
    r: { type: "number", why: "the adapter's folder says it" },
    alpha: { type: "number", why: "the adapter's folder says it" },
    lora_dropout: { type: "number", why: "nothing is dropped in scoring" },
  },
  dead: deadPredictingFlags,
  rows: elicalRows,
};

export const command = "predict";
export const describe = "Score questions with a trained adapter and head";
export const builder = (line: Argv) =>
  line.options({ ...publishedOptions(script), ...ownPredictingOptions, ...readingOptions, ...engineOptions });

export const handler = (args: PredictingArguments): Promise<void> => predict(script, args);
