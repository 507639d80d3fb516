/**
 * Answered questions in files: a folder of `train`, `validation` and `test`, each with CSV files of six columns, and beside
 * them perhaps the rows' embeddings. Every row of `<split>/*.csv` in the order of the files' names.
 */
import { existsSync, mkdirSync, readdirSync } from "node:fs";
import { join } from "node:path";
import { NumpyRandom } from "../../data/random.js";
import { columnsOf, readTable, writeTable } from "../../data/tables.js";
import { CredenceError } from "../../errors.js";
import type { CalibrationCompat } from "./compat.js";
import type { SplitName } from "./rows.js";
import { type AnsweredRow, sanitised } from "./wire.js";

export const splitNames = ["train", "validation", "test"] as const satisfies SplitName[];

const needed = ["context", "target_prompt", "target", "output", "query_label"] as const;

export interface OfflineOptions {
  /** Whether few-shot examples stay before the questions; published: only where their number is said again. */
  examples: boolean;
  /** Share of the training rows that is drawn, 0 to 1; default all. */
  ratio?: number;
  /** Of that draw. Published: 137. */
  seed?: number;
  compat: CalibrationCompat;
}

/** Shares of the published ids `offline_xxs`, `offline_xs`, `offline_sm` and `offline_md`. */
export const offlineRatios = { xxs: 0.01, xs: 0.1, sm: 0.25, md: 0.5 } as const;

/** The splits that a folder has. */
export const splitsOf = (folder: string): SplitName[] =>
  splitNames.filter((split) => csvFiles(join(folder, split)).length > 0);

function csvFiles(folder: string): string[] {
  if (!existsSync(folder)) return [];
  const files = readdirSync(folder).filter((name) => name.endsWith(".csv"));
  return files.sort((a, b) => a.localeCompare(b, "en", { numeric: true })).map((name) => join(folder, name));
}

function labelOf(cell: string, place: string): 0 | 1 | null {
  const value = cell.trim() === "" ? Number.NaN : Number(cell);
  if (value === 0 || value === 1) return value;
  if (value === -1) return null;
  throw new CredenceError(
    "BAD_INPUT",
    `${place}: query_label is ${JSON.stringify(cell)}; expected 1 (right), 0 (wrong) or -1 (not judged)`,
  );
}

/** The rows of one file. */
export async function readAnswered(
  path: string,
  { examples }: Pick<OfflineOptions, "examples">,
): Promise<AnsweredRow[]> {
  const table = await readTable(path);
  const rows = columnsOf(table, needed, path);
  const prompts = table.columns.indexOf("prompt");
  return rows.map(({ context, target, target_prompt: targetPrompt, output, query_label: label }, i) => ({
    prompt: examples && prompts >= 0 ? table.rows[i]![prompts]! : "",
    context,
    targetPrompt,
    target,
    output: sanitised(output),
    label: labelOf(label, `${path}: row ${i + 1}`),
  }));
}

/**
 * The rows of a folder's split. A share is drawn without putting back, from the training rows alone; as published (A9-10) with
 * putting back, from every split.
 *
 * @throws CredenceError "BAD_INPUT" where it has no such split, naming those it has; naming the file whose columns are others, and
 *   the row whose label is none
 */
export async function readOffline(folder: string, split: SplitName, options: OfflineOptions): Promise<AnsweredRow[]> {
  if (!existsSync(folder)) throw new CredenceError("NO_FILE", `${folder}: there is no such folder`);
  const files = csvFiles(join(folder, split));
  if (files.length === 0) {
    const there = splitsOf(folder).join(", ") || "none";
    throw new CredenceError("BAD_INPUT", `${folder}: has no ${split}/*.csv; its splits are ${there}`);
  }
  const rows: AnsweredRow[] = [];
  for (const file of files) for (const row of await readAnswered(file, options)) rows.push(row);
  const { ratio, seed = 137, compat } = options;
  const published = compat.has("A9-10");
  if (ratio === undefined || !(published || split === "train")) return rows;
  const size = Math.floor(ratio * rows.length);
  if (size === 0)
    throw new CredenceError("BAD_INPUT", `${folder}: ${ratio} of ${rows.length} rows of ${split} is less than one`);
  return new NumpyRandom(seed).choice(rows.length, { size, replace: published }).map((place) => rows[place]!);
}

/** Only rows that were judged. */
export function judged(rows: readonly AnsweredRow[], where: string): (AnsweredRow & { label: 0 | 1 })[] {
  const missing = rows.filter(({ label }) => label === null).length;
  if (missing > 0)
    throw new CredenceError(
      "BAD_INPUT",
      `${where}: ${missing} of ${rows.length} rows are not judged (query_label -1); give each a query_label of 0 or 1 first`,
    );
  return rows as (AnsweredRow & { label: 0 | 1 })[];
}

/** Writes `<folder>/<split>/<name>.csv`; `prompt` is a column where `examples` says so. */
export function writeOffline(
  folder: string,
  split: SplitName,
  name: string,
  rows: readonly AnsweredRow[],
  { examples }: Pick<OfflineOptions, "examples">,
): string {
  mkdirSync(join(folder, split), { recursive: true });
  const path = join(folder, split, `${name}.csv`);
  writeTable(path, {
    columns: ["context", ...(examples ? ["prompt"] : []), "target_prompt", "target", "output", "query_label"],
    rows: rows.map(({ prompt, context, targetPrompt, target, output, label }) => [
      context,
      ...(examples ? [prompt] : []),
      targetPrompt,
      target,
      output,
      String(label ?? -1),
    ]),
  });
  return path;
}
