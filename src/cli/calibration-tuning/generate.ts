/** A model's answers to a data set, as generate.py outputs makes them. */
import { join } from "node:path";
import type { Argv } from "yargs";
import { calibrationRows } from "../../methods/calibration-tuning/compat.js";
import { interruptible } from "../interrupt.js";
import { baseOptions, type EngineArguments, engineOptions, positiveInteger } from "../options.js";
import { logs, note, print, printJson, UsageError } from "../output.js";
import { type PublishedScript, publishedOptions, publishedUnneeded } from "../published.js";
import {
  batchUnneeded,
  cacheUnneeded,
  type DatasetArguments,
  datasetFlags,
  datasetOf,
  datasetOptions,
  kshotFlag,
  logFolder,
  withoutOption,
} from "./places.js";

export const script: PublishedScript = {
  name: "generate",
  honoured: {
    ...datasetFlags,
    ...kshotFlag,
    "model-name": {
      type: "string",
      requiresArg: true,
      describe: "Who answers: a folder, a .gguf file, a hub id, or a published kind such as llama2:7b-chat",
    },
    "max-new-tokens": {
      type: "number",
      describe: "Longest answer",
      defaultDescription: "30; of a letter: 1",
      coerce: positiveInteger("max-new-tokens"),
    },
  },
  unneeded: { ...cacheUnneeded, ...batchUnneeded },
  dead: {},
  rows: calibrationRows,
};

export const command = "generate";
export const describe = "A model's answers to a data set, in files of the published columns";
export const builder = (line: Argv) =>
  line.options({ ...publishedOptions(script), ...withoutOption, ...engineOptions });

interface GenerateArguments extends DatasetArguments, EngineArguments {
  modelName?: string;
  maxNewTokens?: number;
}

export async function handler(args: GenerateArguments): Promise<void> {
  const notNeeded = publishedUnneeded(script, args);
  const id = datasetOf(args);
  if (args.modelName === undefined) throw new UsageError("which model answers? Give --model-name");
  const { answerSplit } = await import("../../methods/calibration-tuning/answering.js");
  const { openDataset } = await import("../../methods/calibration-tuning/datasets.js");
  const { modelOfKind } = await import("../../methods/calibration-tuning/kinds.js");
  const { loadPolicy } = await import("../policy.js");
  const { progressOn, silent } = await import("../../tracking/progress.js");
  const folder = logFolder(args);
  const { splits } = await openDataset(id, datasetOptions(args));
  const progress = logs("info") ? progressOn() : silent;
  const settings = { maxTokens: args.maxNewTokens ?? (args.promptStyle === "choice" ? 1 : 30) };
  await interruptible(async (signal) => {
    await using loaded = await loadPolicy({ model: modelOfKind(args.modelName!), engine: baseOptions(args), signal });
    const written: { split: string; rows: number; output: string }[] = [];
    for (const [split, rows] of Object.entries(splits)) {
      const output = join(folder, "outputs", split, "rows_0.csv");
      await answerSplit(loaded.policy, rows, settings, { output, progress, label: split, notNeeded, signal });
      written.push({ split, rows: rows.length, output });
    }
    if (args.json) printJson({ dataset: id, splits: written });
    else for (const { split, rows, output } of written) print(`${split}: ${rows} questions answered: ${output}`);
    note(
      `label them: credence calibration-tuning label --dataset offline:${join(folder, "outputs")} --strategy substring`,
    );
  });
}
