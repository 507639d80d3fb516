/** Flags that calibration-tuning's commands share, by their published names: which data, where it lies, where results go. */
import { existsSync } from "node:fs";
import { homedir } from "node:os";
import { basename, join, resolve } from "node:path";
import type { Options } from "yargs";
import { CredenceError } from "../../errors.js";
import type { CalibrationCompat } from "../../methods/calibration-tuning/compat.js";
import type { DatasetOptions } from "../../methods/calibration-tuning/datasets.js";
import type { Style } from "../../methods/calibration-tuning/wire.js";
import { integer, positiveInteger } from "../options.js";
import { UsageError } from "../output.js";
import type { Unneeded } from "../published.js";

/** Of every command that reads a data set. */
export const datasetFlags = {
  seed: { type: "number", default: 137, describe: "Of everything random", coerce: integer("seed") },
  "log-dir": {
    type: "string",
    requiresArg: true,
    describe: "Where results go",
    defaultDescription: "logs/ and the time, in the project's folder",
  },
  dataset: {
    type: "string",
    requiresArg: true,
    describe: "A set, all_20k_uniform, mmlu:<task>, mmlu_all, offline:<name or folder>, ...",
  },
  "data-dir": {
    type: "string",
    requiresArg: true,
    describe: "The folder of data",
    defaultDescription: "datasets/ in the project's folder",
  },
  "prompt-style": { choices: ["oe", "choice"] as const, describe: "Answered in words (oe), or by a letter (choice)" },
} satisfies Record<string, Options>;

export const cacheUnneeded = {
  "use-dataset-cache": { type: "boolean", why: "files are read where they lie" },
} satisfies Record<string, Unneeded>;

export const batchUnneeded = {
  "batch-size": { type: "number", why: "rows go through the engine together as far as its memory has room" },
} satisfies Record<string, Unneeded>;

export const kshotFlag = {
  kshot: {
    type: "number",
    default: 0,
    describe: "Few-shot examples before each question",
    coerce: (value: number) => (value === 0 ? 0 : positiveInteger("kshot")(value)!),
  },
} satisfies Record<string, Options>;

export const withoutOption = {
  without: {
    type: "string",
    array: true,
    requiresArg: true,
    describe: "Sets of the mixture to leave out, where they cannot be had",
  },
} satisfies Record<string, Options>;

export interface DatasetArguments {
  seed: number;
  logDir?: string;
  dataset?: string;
  dataDir?: string;
  promptStyle?: Style;
  kshot?: number;
  without?: string[];
  compat: CalibrationCompat;
  json: boolean;
}

/** The published folder of a project: below PROJECT_HOME or the home folder, named as the working folder is. */
const project = (): string => join(process.env.PROJECT_HOME ?? homedir(), basename(resolve(".")));

export function datasetOf({ dataset }: DatasetArguments): string {
  if (dataset === undefined) throw new UsageError("which data? Give --dataset");
  return dataset;
}

export const datasetOptions = (args: DatasetArguments): DatasetOptions => ({
  data: args.dataDir ?? join(project(), "datasets"),
  ...(args.promptStyle ? { style: args.promptStyle } : {}),
  ...(args.kshot === undefined ? {} : { kshot: args.kshot }),
  ...(args.without ? { without: args.without } : {}),
  seed: args.seed,
  compat: args.compat,
});

/**
 * Where a command's results go. One that is there is gone on with by the same command; as published (A9-13) it is refused.
 */
export function logFolder({ logDir, compat }: DatasetArguments): string {
  const stamp = new Date().toISOString().slice(0, 19).replaceAll(":", "-");
  const job = process.env.JOB_ID ? `${process.env.JOB_ID}-` : "";
  const folder = logDir ?? join(project(), "logs", `${job}${stamp}`);
  if (compat.has("A9-13") && existsSync(folder))
    throw new CredenceError("EXISTS", `${folder} is there already. Name another --log-dir`);
  return folder;
}
