/**
 * Questions of a set as rows: their contexts, targets and few-shot examples, each drawn by the row's own number, so that a
 * row is the same whatever stands beside it.
 */
import { z } from "zod";
import { NumpyRandom } from "../../data/random.js";
import { readRecords } from "../../data/readers.js";
import { splitFiles } from "../../data/saved-sets.js";
import { CredenceError } from "../../errors.js";
import { Fields, type Item, type QuestionSet, type SetRecord } from "./sets.js";
import { type AnsweredRow, type Row, type Style, textOf } from "./wire.js";

export type SplitName = "train" | "validation" | "test";

export interface RowOptions {
  style: Style;
  /** Row i draws from `numpy.random.default_rng(seed + i)`. Published: 137. */
  seed: number;
  /** Few-shot examples. Default 0. */
  kshot?: number;
  /** In the place of the set's own; "" for none. */
  directive?: string;
}

/** A record and where it stands. */
interface Placed {
  record: SetRecord;
  place: string;
}

const letter = (option: number): string => String.fromCharCode(97 + option);
const upTo = (count: number): number[] => Array.from({ length: count }, (_, i) => i);
const permuted = (count: number, seed: number): number[] => new NumpyRandom(seed).permutation(upTo(count));

/**
 * The records of one of a set's splits that are asked, in their order.
 *
 * @param path a folder that `save_to_disk` wrote, one of files named after their splits, or the file of a set with one split
 * @returns null where the set has no such split, or the path has not
 */
async function recordsOf(set: QuestionSet, path: string, split: string): Promise<Placed[] | null> {
  const only = Object.values(set.splits);
  const files = splitFiles(path, split) ?? (only.length === 1 && only[0] === split ? splitFiles(path, "train") : null);
  if (!files) return null;
  const records: Placed[] = [];
  for (const file of files) {
    const found = await readRecords(file, z.looseObject({}));
    found.forEach((record, i) => {
      const named = renamed(record, set.otherNames);
      if (set.keep?.(named) ?? true) records.push({ record: named, place: `${file}: record ${i + 1}` });
    });
  }
  return records;
}

function renamed(record: SetRecord, names: QuestionSet["otherNames"]): SetRecord {
  if (!names) return record;
  return Object.fromEntries(Object.entries(record).map(([name, value]) => [names[name] ?? name, value]));
}

function itemOf(set: QuestionSet, { record, place }: Placed, seed: number): Item {
  const fields = new Fields(record, place);
  const item = set.read(fields, (count) => permuted(count, seed));
  if (!(item.right >= 0 && item.right < item.options.length))
    throw new CredenceError(
      "BAD_INPUT",
      `${place}: option ${item.right + 1} is to be right, and there are ${item.options.length}`,
    );
  return item;
}

/** What is said for an option. */
const said = ({ options, say }: Item, style: Style, option: number): string =>
  style === "choice" ? letter(option) : say ? say(option) : options[option]!;

/** A question without examples. */
function plainRow(set: QuestionSet, item: Item, { style, directive = set.directive }: RowOptions): Row {
  const lines = item.options.map((option, i) => `  (${letter(i)}): ${option}`);
  const context =
    style === "choice"
      ? [item.choice, "\nChoices:", ...lines].join("\n")
      : [...(directive ? [directive] : []), item.words].join("\n");
  return {
    prompt: "",
    context,
    targetPrompt: style === "oe" ? (set.wordsPrompt ?? "\nAnswer:") : "\nAnswer:",
    target: said(item, style, item.right),
  };
}

/** What stands before a question: examples between a header and a footer, or what the set has where there are none. */
function examples(set: QuestionSet, pool: readonly Row[], seed: number, { style, kshot = 0 }: RowOptions): string {
  if (kshot === 0) return style === "oe" ? (set.withoutExamples ?? "") : "";
  const drawn = permuted(pool.length, seed)
    .slice(0, kshot)
    .map((place) => `${textOf(pool[place]!, pool[place]!.target)}\n`);
  const footer = style === "oe" && set.gluedFooter ? set.footer : `${set.footer}\n\n`;
  return [`The following are ${set.header[style]}.\n`, ...drawn, footer].join("\n");
}

/** A row with an answer that is right by chance: A4.3's "incorrect answers". */
function invented(item: Item, style: Style, seed: number): Pick<AnsweredRow, "output" | "label"> {
  const label = new NumpyRandom(seed).binomial(1, 0.5) as 0 | 1;
  const wrong = upTo(item.options.length).filter((option) => option !== item.right);
  if (wrong.length === 0)
    throw new CredenceError("BAD_INPUT", "answers cannot be invented for a set without wrong options");
  const [place] = new NumpyRandom(seed).choice(wrong.length, { size: 1, replace: true });
  return { label, output: said(item, style, label === 1 ? item.right : wrong[place!]!) };
}

/**
 * The rows of a set's split.
 *
 * @returns null where the set, or the path, has no such split
 * @throws CredenceError "NO_FILE" or "BAD_INPUT" naming the record and the field
 */
export async function rowsOf(
  set: QuestionSet,
  path: string,
  split: SplitName,
  options: RowOptions,
): Promise<Row[] | null> {
  return (await itemsOf(set, path, split, options))?.map(({ row }) => row) ?? null;
}

/** The same with answers made up: right for one half by chance, else a wrong option by chance. */
export async function inventedRowsOf(
  set: QuestionSet,
  path: string,
  split: SplitName,
  options: RowOptions,
): Promise<AnsweredRow[] | null> {
  const items = await itemsOf(set, path, split, options);
  return items?.map(({ item, row }, i) => ({ ...row, ...invented(item, options.style, options.seed + i) })) ?? null;
}

async function itemsOf(
  set: QuestionSet,
  path: string,
  split: SplitName,
  options: RowOptions,
): Promise<{ item: Item; row: Row }[] | null> {
  const name = set.splits[split];
  const records = name === undefined ? null : await recordsOf(set, path, name);
  if (!records) return null;
  const { style, seed, kshot = 0 } = options;
  if (style === "choice" && set.header.choice === "")
    throw new CredenceError("BAD_OPTION", `${set.source} has no options to choose from; take the style oe`);
  const pool = kshot > 0 ? await poolOf(set, path, options) : [];
  return records.map((record, i) => {
    const item = itemOf(set, record, seed + i);
    return { item, row: { ...plainRow(set, item, options), prompt: examples(set, pool, seed + i, options) } };
  });
}

async function poolOf(set: QuestionSet, path: string, options: RowOptions): Promise<Row[]> {
  const records = await recordsOf(set, path, set.pool);
  const { kshot = 0, seed } = options;
  if (!records || records.length < kshot)
    throw new CredenceError(
      "BAD_INPUT",
      `${path}: ${kshot} examples are drawn from its split ${set.pool}, which ${records ? `has ${records.length} records` : "is not there"}`,
    );
  return records.map((record, i) => plainRow(set, itemOf(set, record, seed + i), options));
}
