/** An adapter, or labelled answers, as a folder for a hub, as publish.py pushes them. */
import { existsSync } from "node:fs";
import type { Argv } from "yargs";
import { calibrationRows } from "../../methods/calibration-tuning/compat.js";
import { interruptible } from "../interrupt.js";
import { baseOptions, type EngineArguments, engineOptions } from "../options.js";
import { note, print, printJson, UsageError } from "../output.js";
import { type PublishedScript, publishedOptions, publishedUnneeded } from "../published.js";
import { type DatasetArguments, datasetFlags, datasetOptions } from "./places.js";

const { dataset, "data-dir": dataDir, "prompt-style": promptStyle, seed } = datasetFlags;

export const script: PublishedScript = {
  name: "publish",
  honoured: {
    dataset: { ...dataset, describe: "Labelled answers: offline:<name or folder>" },
    "data-dir": dataDir,
    "prompt-style": promptStyle,
    seed,
    "model-name": {
      type: "string",
      requiresArg: true,
      describe: "The adapter's base",
      defaultDescription: "what it names",
    },
    "query-peft-dir": { type: "string", requiresArg: true, describe: "An adapter, in any layout" },
    "hf-hub-id": { type: "string", requiresArg: true, describe: "The repository that the folder is for" },
  },
  unneeded: {
    "hf-token": { type: "string", why: "nothing is uploaded here; the hub's own program asks for it" },
  },
  dead: {},
  rows: calibrationRows,
};

export const command = "publish";
export const describe = "A folder in the released layout, of an adapter or of labelled answers, and how to upload it";
export const builder = (line: Argv) =>
  line.options({
    ...publishedOptions(script),
    out: { type: "string", demandOption: true, requiresArg: true, describe: "The new folder" },
    ...engineOptions,
  });

interface PublishArguments extends DatasetArguments, EngineArguments {
  modelName?: string;
  queryPeftDir?: string;
  hfHubId?: string;
  out: string;
}

export async function handler(args: PublishArguments): Promise<void> {
  publishedUnneeded(script, args);
  const { dataset: id, queryPeftDir, out, hfHubId: hub = "<owner>/<name>" } = args;
  if ((id === undefined) === (queryPeftDir === undefined))
    throw new UsageError("what is published? Give --dataset, or --query-peft-dir");
  if (existsSync(out)) throw new UsageError(`${out} is there already. Name another --out, or remove it first`);
  const written = id === undefined ? await adapterFolder(args) : await datasetFolder(args, id);
  const upload = `hf upload ${hub} ${out} . --repo-type ${id === undefined ? "model" : "dataset"} --private`;
  if (args.json) printJson({ out, files: written, upload });
  else print(`${out}: ${written.join(", ")}`);
  note(`nothing was uploaded. With the hub's own program: ${upload}`);
}

async function adapterFolder(args: PublishArguments): Promise<string[]> {
  const { baseOfTuned, openTuned, releasedFiles } = await import("../../methods/calibration-tuning/adapters.js");
  const { modelOfKind } = await import("../../methods/calibration-tuning/kinds.js");
  const { writeFolderAtomic } = await import("../../files.js");
  const { Model } = await import("../../policy/model.js");
  const base = args.modelName ?? baseOfTuned(args.queryPeftDir!);
  if (base === undefined) throw new UsageError("which model? Give --model-name");
  return interruptible(async (signal) => {
    await using model = await Model.load(modelOfKind(base), { ...baseOptions(args), note, signal });
    const { policy, temperature } = await openTuned(model, args.queryPeftDir);
    const files = releasedFiles(policy, temperature === 1 ? null : temperature);
    writeFolderAtomic(args.out, files);
    return Object.keys(files);
  });
}

async function datasetFolder(args: PublishArguments, id: string): Promise<string[]> {
  const { answeredRows, openDataset } = await import("../../methods/calibration-tuning/datasets.js");
  const { judged } = await import("../../methods/calibration-tuning/offline.js");
  const { tableText } = await import("../../data/tables.js");
  const { writeFolderAtomic } = await import("../../files.js");
  const { splits } = await openDataset(id, { ...datasetOptions(args), kshot: 1 });
  const columns = ["context", "prompt", "target_prompt", "target", "output", "query_label"];
  const files: Record<string, string> = {};
  for (const split of ["train", "validation"] as const) {
    const rows = splits[split];
    if (!rows) throw new UsageError(`${id}: has no ${split} rows; train and validation are published`);
    const cells = judged(answeredRows(rows, id), `${id}: ${split}`).map((row) => [
      row.context,
      row.prompt,
      row.targetPrompt,
      row.target,
      row.output,
      String(row.label),
    ]);
    files[`${split}.csv`] = tableText({ columns, rows: cells });
  }
  writeFolderAtomic(args.out, files);
  return Object.keys(files);
}
