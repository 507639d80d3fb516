/**
 * Data sets by the names of the published scripts: the mixture and its sets, MMLU, MMLU-Pro, GSM8K, and answered questions in
 * files. Everything is read where it lies, below one folder of data; nothing is downloaded.
 */
import { existsSync, statSync } from "node:fs";
import { join } from "node:path";
import { CredenceError } from "../../errors.js";
import type { CalibrationCompat } from "./compat.js";
import { mixed, type Part } from "./mixture.js";
import { mmluProCategories, mmluTasks } from "./mmlu.js";
import { offlineRatios, readOffline, splitNames, splitsOf } from "./offline.js";
import { inventedRowsOf, rowsOf, type SplitName } from "./rows.js";
import { mixtureNames, mmluProSet, mmluSet, type QuestionSet, questionSets, type SetName } from "./sets.js";
import type { AnsweredRow, Row, Style } from "./wire.js";

/** A question, perhaps answered, perhaps judged. */
export interface DatasetRow extends Row {
  /** null: not answered yet. */
  output: string | null;
  label: 0 | 1 | null;
}

export interface DatasetOptions {
  /** The folder of data. */
  data: string;
  style?: Style;
  /** Few-shot examples. Default: 5 for MMLU and MMLU-Pro, 8 for GSM8K, else 0. */
  kshot?: number;
  /** Published: 137. */
  seed: number;
  /** Sets of the mixture that are left out, those that cannot be had. */
  without?: readonly string[];
  compat: CalibrationCompat;
}

/** A data set; a split that it has not is absent. */
export interface Dataset {
  id: string;
  splits: Partial<Record<SplitName, DatasetRow[]>>;
}

const mixtures = ["all_20k_uniform", "all_20k_uniform_h"];
const collections = ["mmlu_all", "mmlu_pro_all", "mmlu_offline_all:<name>", "mmlu_pro_offline_all:<name>"];
const single = [
  ...mixtures,
  "mmlu:<task>",
  "mmlu_pro:<category>",
  "offline:<name>",
  ...Object.keys(offlineRatios).map((size) => `offline_${size}:<name>`),
  "mmlu_offline:<name>:<task>",
  "mmlu_pro_offline:<name>:<category>",
];

const unknown = (id: string): CredenceError =>
  new CredenceError(
    "BAD_OPTION",
    `there is no data set ${JSON.stringify(id)}; expected ${[...single, ...collections].join(", ")}, or one of ${Object.keys(questionSets).sort().join(", ")}`,
  );

/** The first colon parts a kind from its name; of a task at the end, the last one. */
function partsOf(id: string): { kind: string; name: string } {
  const at = id.indexOf(":");
  return at < 0 ? { kind: id, name: "" } : { kind: id.slice(0, at), name: id.slice(at + 1) };
}

function nameAndTask(id: string, name: string): [string, string] {
  const at = name.lastIndexOf(":");
  if (at < 1 || at === name.length - 1) throw new CredenceError("BAD_OPTION", `${id}: expected <name>:<task>`);
  return [name.slice(0, at), name.slice(at + 1)];
}

function styleOf(id: string, { style }: DatasetOptions): Style {
  if (style) return style;
  throw new CredenceError("BAD_OPTION", `${id}: is it put in words (oe), or as a choice of letters (choice)?`);
}

/**
 * The data sets that a name stands for.
 *
 * @returns those that are there, and those of a collection that are not
 */
export function idsOf(id: string, options: DatasetOptions): { ids: string[]; missing: string[] } {
  const { kind, name } = partsOf(id);
  const all: Record<string, { each: string; parts: readonly string[]; at: (part: string) => string }> = {
    mmlu_all: { each: "mmlu", parts: mmluTasks, at: (task) => join(options.data, "mmlu", task) },
    mmlu_pro_all: { each: "mmlu_pro", parts: mmluProCategories, at: () => join(options.data, "mmlu_pro") },
    mmlu_offline_all: {
      each: `mmlu_offline:${name}`,
      parts: mmluTasks,
      at: (task) => join(options.data, "mmlu_offline", styleOf(id, options), name, task),
    },
    mmlu_pro_offline_all: {
      each: `mmlu_pro_offline:${name}`,
      parts: mmluProCategories,
      at: (task) => join(options.data, "mmlu_pro_offline", styleOf(id, options), name, task),
    },
  };
  const collection = Object.hasOwn(all, kind) ? all[kind]! : undefined;
  if (!collection) return { ids: [id], missing: [] };
  const { each, parts, at } = collection;
  const ids = parts.filter((part) => existsSync(at(part))).map((part) => `${each}:${part}`);
  if (ids.length === 0)
    throw new CredenceError("NO_FILE", `${id}: none of its ${parts.length} parts is there, the first ${at(parts[0]!)}`);
  return { ids, missing: parts.filter((part) => !existsSync(at(part))) };
}

/**
 * Reads a data set: its splits with their rows.
 *
 * @throws CredenceError "NO_FILE" naming what is missing and where it is to lie; "BAD_OPTION" for a name that is none
 */
export async function openDataset(id: string, options: DatasetOptions): Promise<Dataset> {
  const { kind, name } = partsOf(id);
  if (mixtures.includes(id)) return { id, splits: await mixtureOf(id, options) };
  if (kind === "mmlu" && mmluTasks.includes(name))
    return { id, splits: await setOf(mmluSet(name), join(options.data, "mmlu", name), id, 5, options) };
  if (kind === "mmlu_pro" && mmluProCategories.includes(name))
    return { id, splits: await setOf(mmluProSet(name), join(options.data, "mmlu_pro"), id, 5, options) };
  if (Object.hasOwn(questionSets, id)) {
    const set: QuestionSet = questionSets[id as SetName];
    return { id, splits: await setOf(set, join(options.data, id), id, id === "gsm8k" ? 8 : 0, options) };
  }
  const size = /^offline(?:_(\w+))?$/.exec(kind)?.[1];
  if (kind === "offline" || (size !== undefined && Object.hasOwn(offlineRatios, size))) {
    const ratio = size === undefined ? undefined : offlineRatios[size as keyof typeof offlineRatios];
    return { id, splits: await answeredOf(offlineFolder(id, name, options), ratio, options.kshot ?? 0, options) };
  }
  if (kind === "mmlu_offline" || kind === "mmlu_pro_offline") {
    const [set, task] = nameAndTask(id, name);
    const folder = join(options.data, kind, styleOf(id, options), set, task);
    return { id, splits: await answeredOf(folder, undefined, options.kshot ?? 5, options) };
  }
  throw unknown(id);
}

/** Where answered questions of a name lie: below the folder of data, or in the folder that a stage wrote. */
function offlineFolder(id: string, name: string, options: DatasetOptions): string {
  if (name !== "" && existsSync(name) && statSync(name).isDirectory() && splitsOf(name).length > 0) return name;
  return join(options.data, "offline", `${name}-${styleOf(id, options)}`);
}

async function setOf(set: QuestionSet, path: string, id: string, usual: number, options: DatasetOptions) {
  needed(set, path);
  const { seed, kshot = usual } = options;
  const splits: Dataset["splits"] = {};
  for (const split of splitNames) {
    const rows = await rowsOf(set, path, split, { style: styleOf(id, options), seed, kshot });
    if (rows) splits[split] = rows.map((row) => ({ ...row, output: null, label: null }));
  }
  return splits;
}

function needed(set: QuestionSet, path: string): void {
  if (existsSync(path)) return;
  throw new CredenceError(
    "NO_FILE",
    `${path}: put ${set.source} there, as the hub has its files; nothing is downloaded`,
  );
}

async function answeredOf(folder: string, ratio: number | undefined, kshot: number, options: DatasetOptions) {
  if (!existsSync(folder)) throw new CredenceError("NO_FILE", `${folder}: there is no such folder`);
  const { seed, compat } = options;
  const names = splitsOf(folder);
  if (names.length === 0)
    throw new CredenceError("BAD_INPUT", `${folder}: has no ${splitNames.map((split) => `${split}/*.csv`).join(", ")}`);
  const splits: Partial<Record<SplitName, AnsweredRow[]>> = {};
  for (const split of names)
    splits[split] = await readOffline(folder, split, {
      examples: kshot > 0,
      ...(ratio === undefined ? {} : { ratio }),
      seed,
      compat,
    });
  return splits;
}

async function mixtureOf(id: string, options: DatasetOptions): Promise<Dataset["splits"]> {
  const { without = [], seed, kshot = 0, compat } = options;
  const style = styleOf(id, options);
  const names = mixtureNames(style).filter((name) => !without.includes(name));
  const missing = names.filter((name) => !existsSync(join(options.data, name)));
  if (missing.length > 0)
    throw new CredenceError(
      "NO_FILE",
      `${id}: ${missing.length} of its ${names.length} sets are not in ${options.data}: ${missing.map((name) => `${name} (${questionSets[name].source})`).join(", ")}. Put each into a folder of its name, or leave it out`,
    );
  const parts: Part<DatasetRow>[] = [];
  for (const name of names) {
    const read = async (split: SplitName): Promise<DatasetRow[] | null> => {
      const [set, path, asked] = [questionSets[name], join(options.data, name), { style, seed, kshot }] as const;
      if (id === "all_20k_uniform_h") return inventedRowsOf(set, path, split, asked);
      const rows = await rowsOf(set, path, split, asked);
      return rows?.map((row) => ({ ...row, output: null, label: null })) ?? null;
    };
    parts.push({ train: await read("train"), validation: await read("validation") });
  }
  const { train, validation } = mixed(parts, { seed, compat });
  return { train, ...(validation.length > 0 ? { validation } : {}) };
}

/** A split's rows with answers. */
export function answeredRows(rows: readonly DatasetRow[], where: string): AnsweredRow[] {
  if (rows.some(({ output }) => output === null))
    throw new CredenceError(
      "BAD_INPUT",
      `${where}: holds questions without answers; generate them first, and name what it wrote`,
    );
  return rows as AnsweredRow[];
}
