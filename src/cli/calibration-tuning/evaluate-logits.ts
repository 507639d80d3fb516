/** Metrics of numbers that an evaluation left, as evaluate_logits.py has them: no model is loaded. */
import type { Argv } from "yargs";
import { calibrationRows } from "../../methods/calibration-tuning/compat.js";
import { note, print, printJson, UsageError } from "../output.js";
import { type PublishedScript, publishedOptions, publishedUnneeded } from "../published.js";
import {
  batchUnneeded,
  cacheUnneeded,
  type DatasetArguments,
  datasetFlags,
  datasetOf,
  datasetOptions,
  logFolder,
} from "./places.js";

const { seed: _, dataset, ...places } = datasetFlags;

export const script: PublishedScript = {
  name: "evaluate-logits",
  honoured: {
    ...places,
    dataset: {
      ...dataset,
      describe: "offline_logits:<kind>, mmlu_offline_query_logits:<name>:<task>, ..._all:<name>, or a folder of splits",
    },
    "scale-temp": {
      type: "boolean",
      default: true,
      describe: "Divide by the temperature that makes validation's labels likeliest",
    },
    mode: {
      choices: ["query_logits", "class_logits"] as const,
      describe: "What the numbers are of; both are read alike",
    },
  },
  unneeded: {
    ...cacheUnneeded,
    ...batchUnneeded,
    seed: { type: "number", why: "nothing is random" },
    "model-name": { type: "string", why: "no model is run" },
  },
  dead: {},
  rows: calibrationRows,
};

export const command = "evaluate-logits";
export const describe = "The metrics of logits that were dumped, with a temperature that is fitted to validation";
export const builder = (line: Argv) => line.options(publishedOptions(script));

interface EvaluateLogitsArguments extends DatasetArguments {
  scaleTemp: boolean;
  mode?: string;
}

export async function handler(args: EvaluateLogitsArguments): Promise<void> {
  publishedUnneeded(script, args);
  const name = datasetOf(args);
  if (args.mode === undefined) throw new UsageError("which mode? Give --mode query_logits or class_logits");
  const { evaluateLogits, logitFolders } = await import("../../methods/calibration-tuning/logits.js");
  const { tableText, writeTables } = await import("./tables.js");
  const { data } = datasetOptions(args);
  const rows = logitFolders(name, data).flatMap((place) =>
    evaluateLogits(place, { scaled: args.scaleTemp, compat: args.compat }),
  );
  const folder = logFolder(args);
  const { aggregated, paths } = writeTables(folder, rows);
  if (args.json) printJson({ dataset: name, rows, aggregated });
  else print(tableText(rows.length > 6 ? aggregated : rows));
  note(`written: ${paths.join(", ")}`);
}
