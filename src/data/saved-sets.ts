/** Sets of records with splits: a folder that Hugging Face's datasets saved (Arrow), or files named after their splits. */
import { existsSync, readdirSync, statSync } from "node:fs";
import { join } from "node:path";
import { z } from "zod";
import { CredenceError } from "../errors.js";
import { readJson } from "../files.js";
import { readRecords } from "./readers.js";

const dictSchema = z.looseObject({ splits: z.array(z.string()) });
const stateSchema = z.looseObject({
  _data_files: z.array(z.looseObject({ filename: z.string() })),
  /** Of old versions: rows in another order, in a file beside them. */
  _indices_data_files: z.array(z.unknown()).nullish(),
});

/** What follows a split's name in that of its files: which of several it is, and how it is read. */
const rest = /^(?:-\d+-of-\d+)?\.(?:jsonl|json|parquet|arrow|csv)(?:\.gz)?$/;

/**
 * The files of a split, in their order.
 *
 * @param path a folder that `save_to_disk` wrote, of one set or several; a folder of files `<split>.jsonl`,
 *   `<split>-00000-of-00002.parquet` and the like, in it or in its folder data/; or a file, which is the split "train"
 * @returns null where the path has no such split
 * @throws CredenceError "NO_FILE" where there is nothing at the path, "BAD_INPUT" where a saved folder is not what it says
 */
export function splitFiles(path: string, split: string): string[] | null {
  if (!existsSync(path))
    throw new CredenceError("NO_FILE", `${path}: there is no such file or folder; nothing is downloaded`);
  if (!statSync(path).isDirectory()) return split === "train" ? [path] : null;
  const dict = join(path, "dataset_dict.json");
  if (existsSync(dict)) {
    const { splits } = checked(dictSchema, dict);
    return splits.includes(split) ? savedFiles(join(path, split)) : null;
  }
  if (existsSync(join(path, "state.json"))) return split === "train" ? savedFiles(path) : null;
  for (const folder of [path, join(path, "data")].filter((name) => existsSync(name))) {
    const files = readdirSync(folder).filter((name) => name.startsWith(split) && rest.test(name.slice(split.length)));
    if (files.length > 0) return files.sort().map((name) => join(folder, name));
  }
  return null;
}

function savedFiles(folder: string): string[] {
  const path = join(folder, "state.json");
  const state = checked(stateSchema, path);
  if (state._indices_data_files?.length)
    throw new CredenceError(
      "BAD_INPUT",
      `${path}: the order of its rows lies in another file, as old versions saved it. Save it again with flatten_indices()`,
    );
  return state._data_files.map(({ filename }) => join(folder, filename));
}

function checked<T extends z.ZodType>(schema: T, path: string): z.infer<T> {
  const parsed = schema.safeParse(readJson(path));
  if (!parsed.success)
    throw new CredenceError(
      "BAD_INPUT",
      `${path}: is not what save_to_disk writes (${parsed.error.issues[0]!.message})`,
    );
  return parsed.data;
}

/**
 * The records of a split, whole, in their order.
 *
 * @throws CredenceError as `splitFiles` and `readRecords`; "BAD_INPUT" where the path has no such split
 */
export async function readSplit<T extends z.ZodType>(path: string, split: string, schema: T): Promise<z.infer<T>[]> {
  const files = splitFiles(path, split);
  if (!files) throw new CredenceError("BAD_INPUT", `${path}: has no split ${split}`);
  const records: z.infer<T>[] = [];
  for (const file of files) for (const record of await readRecords(file, schema)) records.push(record);
  return records;
}
