/** Confidence in each question from a head alone, as eval_one_conf_mlp.py writes it. */
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
  name: "predict-mlp",
  honoured: {
    ...predictingFlags,
  },
  unneeded: {
    ...unneededPredictingFlags,
  },
  dead: deadPredictingFlags,
  rows: elicalRows,
};

export const command = "predict-mlp";
export const describe = "Score questions with a head alone";
export const builder = (line: Argv) =>
  line.options({ ...publishedOptions(script), ...ownPredictingOptions, ...readingOptions, ...engineOptions });

export const handler = (args: PredictingArguments): Promise<void> => predict(script, args);
