/** Question sets as their authors published them, as rows of a question and its answers, by the published rules. */
import { existsSync, readdirSync, statSync } from "node:fs";
import { basename, join } from "node:path";
import { z } from "zod";
import { type Found, formats, openSource } from "../../../data/formats.js";
import { explainIssue } from "../../../data/records.js";
import { CredenceError } from "../../../errors.js";
import { isPattern, patternQuestion } from "./pararel.js";

export interface QaRecord {
  question: string;
  answer: string[];
  /** Of MMLU. */
  subject?: string;
  /** Of sets of mathematics. */
  solution?: string;
}

/** A question set's published form. */
interface SourceFormat<T = unknown> {
  /** Where records lie in a .json file; without it, in a list. */
  elements?: string;
  /** Reads a file or a folder that is not a table of records. */
  read?: (path: string) => AsyncGenerator<Found>;
  schema: z.ZodType<T>;
  convert: (row: T) => QaRecord;
}

const what = "a string with text in it";
const filled = z.string({ error: () => what }).regex(/\S/, { error: () => what });
const texts = (least: number) => {
  const error = () => (least ? "a list of one string or more" : "a list of strings");
  return z.array(z.string({ error }), { error }).min(least, { error });
};
const answered = z.looseObject({ question: filled, answer: filled });
/** Each text once, in the order of their first places. */
const distinct = (answers: readonly string[]): string[] => [...new Set(answers)];

const format = <T>(source: SourceFormat<T>): SourceFormat => source as SourceFormat;

const single = format({ schema: answered, convert: ({ question, answer }) => ({ question, answer: [answer] }) });

const solved = format({
  schema: z.preprocess(
    (row) => Object.fromEntries(Object.entries(row ?? {}).map(([name, value]) => [name.toLowerCase(), value])),
    z.looseObject({
      problem: filled,
      answer: z.union([filled, z.number().transform(String)], { error: () => what }),
      solution: filled.optional(),
    }),
  ),
  convert: ({ problem, answer, solution }) => ({ question: problem, answer: [answer], ...(solution && { solution }) }),
});

const sources = {
  nq: format({
    schema: z.looseObject({ question: filled, answer: texts(1) }),
    convert: ({ question, answer }) => ({ question, answer }),
  }),
  tq: format({
    elements: "$.Data.*",
    schema: z.looseObject({
      Question: filled,
      Answer: z.looseObject(
        { Value: filled, Aliases: texts(0).default([]) },
        { error: () => "an object with Value and Aliases" },
      ),
    }),
    convert: ({ Question, Answer }) => ({ question: Question, answer: distinct([...Answer.Aliases, Answer.Value]) }),
  }),
  hq: single,
  "2wikimultihopqa": single,
  pararel_patterns: format({
    read: pararelRows,
    schema: z.looseObject({
      pattern: filled.refine(isPattern, { error: () => "a pattern with [X] and, once, [Y]" }),
      subject: filled,
      object: filled,
    }),
    convert: ({ pattern, subject, object }) => ({
      question: patternQuestion(pattern).replaceAll("[X]", () => subject),
      answer: [object],
    }),
  }),
  squad: format({
    read: squadQuestions,
    schema: z.looseObject({
      question: filled,
      answers: z
        .array(z.looseObject({ text: filled }), { error: () => "a list of answers" })
        .min(1, { error: () => "one answer or more (sets with unanswerable questions are not SQuAD 1.1)" }),
    }),
    convert: ({ question, answers }) => ({ question, answer: distinct(answers.map(({ text }) => text)) }),
  }),
  web_questions: format({
    schema: z.union(
      [
        z
          .looseObject({ question: filled, answers: texts(1) })
          .transform(({ question, answers }) => ({ question, answers })),
        z
          .looseObject({ utterance: filled, targetValue: filled })
          .transform(({ utterance, targetValue }) => ({ question: utterance, answers: descriptions(targetValue) })),
      ],
      { error: () => "question and answers, or utterance and targetValue" },
    ),
    convert: ({ question, answers }) => ({ question, answer: answers }),
  }),
  complex_web_questions: format({
    schema: z.looseObject({
      question: filled,
      answers: z
        .array(z.looseObject({ answer: filled, aliases: texts(0).default([]) }), { error: () => "a list of answers" })
        .min(1, { error: () => "one answer or more" }),
    }),
    convert: ({ question, answers: [first] }) => ({ question, answer: [...first!.aliases, first!.answer] }),
  }),
  musique: format({
    schema: z.looseObject({ question: filled, answer: filled, answer_aliases: texts(0).default([]) }),
    convert: ({ question, answer, answer_aliases }) => ({ question, answer: [...answer_aliases, answer] }),
  }),
  popqa: format({
    read: popqaRows,
    schema: z.object({ question: filled, object: filled, aliases: texts(0), possible: texts(0) }),
    convert: ({ question, object, aliases, possible }) => ({
      question,
      answer: distinct([...aliases, object, ...possible]),
    }),
  }),
  mmlu: format({
    read: mmluRows,
    schema: z.looseObject({
      question: filled,
      subject: filled,
      choices: z.array(z.string(), { error: () => "four choices" }).length(4, { error: () => "four choices" }),
      answer: z
        .int({ error: () => "a number from 0 to 3 or a letter from A to D" })
        .min(0)
        .max(3),
    }),
    convert: ({ question, subject, choices, answer }) => ({
      question: `${question}\n${choices.map((choice, i) => `${"ABCD"[i]}.${choice}\n`).join("")}`,
      answer: ["ABCD"[answer]!],
      subject,
    }),
  }),
  strategyqa: format({
    schema: z.looseObject({ question: filled, answer: z.boolean({ error: () => "true or false" }) }),
    convert: ({ question, answer }) => ({ question, answer: [answer ? "Yes" : "No"] }),
  }),
  gsm8k: format({
    schema: z.looseObject({
      question: filled,
      answer: filled.regex(/####\s*\S/, { error: () => "a solution with #### before its result" }),
    }),
    convert: ({ question, answer }) => ({ question, answer: [answer.split("####").at(-1)!.trim()], solution: answer }),
  }),
  math500: solved,
  aime24: solved,
} as const satisfies Record<string, SourceFormat>;

export type SourceName = keyof typeof sources;

/** The sets that can be converted. */
export const sourceNames = Object.keys(sources) as SourceName[];

/** How many rows the published files hold. */
export const publishedRows: Partial<Record<SourceName, Partial<Record<"train" | "dev" | "test", number>>>> = {
  nq: { train: 87_925, test: 3_610 },
  tq: { train: 87_622, dev: 11_313 },
  hq: { train: 90_447, dev: 7_405 },
  "2wikimultihopqa": { train: 167_454, dev: 12_576 },
  pararel_patterns: { train: 134_199, test: 3_000 },
  squad: { dev: 10_570 },
  web_questions: { test: 2_032 },
  complex_web_questions: { dev: 3_519 },
  musique: { dev: 2_417 },
  popqa: { test: 14_267 },
  mmlu: { test: 14_042 },
};

/**
 * The rows of a published question set, in its order.
 *
 * @param path the file it was published as; for ParaRel and MMLU also a folder
 * @throws CredenceError "BAD_INPUT" naming the record and what is wrong with it
 */
export async function* convertQuestions(name: SourceName, path: string): AsyncGenerator<QaRecord, void, undefined> {
  const source: SourceFormat = sources[name];
  let count = 0;
  for await (const { value, place } of source.read ? source.read(path) : records(path, source.elements)) {
    const parsed = source.schema.safeParse(value);
    if (!parsed.success) throw bad(`${place}: ${explainIssue(value, parsed.error.issues[0]!)}`);
    count += 1;
    yield source.convert(parsed.data);
  }
  if (count === 0) throw bad(`${path}: holds no questions of ${name} where they are published`);
}

const bad = (message: string, cause?: unknown): CredenceError => new CredenceError("BAD_INPUT", message, { cause });

/** Records of a table, or elements of a JSON file, which may be larger than a string can be. */
async function* records(path: string, elements = "$.*"): AsyncGenerator<Found> {
  const source = openSource(path);
  if (source.ending === "json") {
    yield* jsonElements(path, elements);
    return;
  }
  const table = Object.hasOwn(formats, source.ending) ? formats[source.ending]! : undefined;
  if (!table)
    throw bad(`${path}: its ending does not say what it holds; known are .${Object.keys(formats).join(", .")}`);
  for await (const found of table.read(source)) yield* found;
}

async function* jsonElements(path: string, elements: string): AsyncGenerator<Found> {
  const { JSONParser } = await import("@streamparser/json");
  const parser = new JSONParser({ paths: [elements], keepStack: false });
  let found: Found[] = [];
  let count = 0;
  parser.onValue = ({ value }) => {
    count += 1;
    found.push({ value, place: `${path}: record ${count}` });
  };
  try {
    for await (const chunk of openSource(path).chunks()) {
      parser.write(chunk);
      yield* found;
      found = [];
    }
  } catch (error) {
    if (error instanceof CredenceError) throw error;
    throw bad(`${path}: not valid JSON after record ${count} (${(error as Error).message})`, error);
  }
  if (!parser.isEnded) throw bad(`${path}: ends in the middle of its JSON, after record ${count}`);
}

async function* squadQuestions(path: string): AsyncGenerator<Found> {
  const schema = z.looseObject({
    paragraphs: z.array(z.looseObject({ qas: z.array(z.unknown(), { error: () => "a list" }) }), {
      error: () => "a list",
    }),
  });
  for await (const { value, place } of records(path, "$.data.*")) {
    const article = schema.safeParse(value);
    if (!article.success) throw bad(`${place}: ${explainIssue(value, article.error.issues[0]!)}`);
    for (const [p, { qas }] of article.data.paragraphs.entries())
      for (const [q, question] of qas.entries())
        yield { value: question, place: `${place}, paragraph ${p + 1}, question ${q + 1}` };
  }
}

/** WebQuestions' answers: (list (description "Lima, Peru") (description Peru)). */
function descriptions(list: string): string[] {
  const found = list.matchAll(/\(description (?:"((?:[^"\\]|\\.)*)"|([^()"]*))\)/g);
  return Array.from(found, ([, quoted, plain]) => quoted?.replace(/\\(.)/g, "$1") ?? plain!.trim());
}

/** Cells of a table without named columns. */
async function* cells(path: string, delimiter: string): AsyncGenerator<{ row: string[]; place: string }> {
  const { parse } = await import("csv-parse");
  const { Readable } = await import("node:stream");
  const parser = parse({
    delimiter,
    relax_quotes: true,
    relax_column_count: true,
    skip_empty_lines: true,
    bom: true,
    info: true,
  });
  const bytes = Readable.from(openSource(path).chunks(), { objectMode: true });
  bytes.on("error", (error) => parser.destroy(error));
  try {
    for await (const { record, info } of bytes.pipe(parser) as AsyncIterable<{
      record: string[];
      info: { lines: number };
    }>)
      yield { row: record, place: `${path}:${info.lines}` };
  } catch (error) {
    if (error instanceof CredenceError) throw error;
    throw bad(`${path}: not a table (${(error as Error).message})`, error);
  }
}

function jsonList(text: string | undefined, place: string, column: string): unknown {
  try {
    return JSON.parse(text ?? "");
  } catch (error) {
    throw bad(`${place}: ${column} is no JSON list`, error);
  }
}

async function* popqaRows(path: string): AsyncGenerator<Found> {
  for await (const { row, place } of cells(path, "\t")) {
    if (row[0] === "id") continue;
    if (row.length < 17) throw bad(`${place}: ${row.length} columns; PopQA has 17, tabs between them`);
    const aliases = jsonList(row[8], place, "column 9 (aliases of the object)");
    const possible = jsonList(row.at(-1), place, "the last column (possible answers)");
    yield { value: { question: row[15], object: row[3], aliases, possible }, place };
  }
}

/** A table with question, subject, choices and answer, a CSV without named columns, or a folder of those. */
async function* mmluRows(path: string): AsyncGenerator<Found> {
  const folder = statSync(path, { throwIfNoEntry: false })?.isDirectory();
  const files = folder
    ? readdirSync(path)
        .filter((name) => name.endsWith(".csv"))
        .sort()
        .map((name) => join(path, name))
    : [path];
  for (const file of files) {
    if (!file.endsWith(".csv")) {
      yield* records(file);
      continue;
    }
    const subject = basename(file, ".csv")
      .replace(/_(test|val|dev)$/, "")
      .replaceAll("_", " ");
    for await (const { row, place } of cells(file, ",")) {
      if (row.length !== 6)
        throw bad(`${place}: ${row.length} columns; expected a question, four choices and a letter`);
      const [question, ...rest] = row;
      const answer = "ABCD".indexOf(rest[4]!.trim() || "-");
      yield { value: { question, subject, choices: rest.slice(0, 4), answer: answer < 0 ? rest[4] : answer }, place };
    }
  }
}

/**
 * ParaRel as a table with the columns pattern (or a list, of which the first counts), subject and object; or as its folder
 * of patterns and facts, one file a relation each.
 */
async function* pararelRows(path: string): AsyncGenerator<Found> {
  const patterns = join(path, "pattern_data", "graphs_json");
  const facts = join(path, "trex_lms_vocab");
  if (!existsSync(patterns)) {
    if (statSync(path, { throwIfNoEntry: false })?.isDirectory())
      throw bad(`${path}: has no pattern_data/graphs_json; name ParaRel's folder data, or a table`);
    for await (const { value, place } of records(path)) {
      const row = value as Record<string, unknown>;
      const pattern = row.pattern ?? row.patterns;
      const first = Array.isArray(pattern) ? pattern[0] : pattern;
      yield {
        value: { pattern: first, subject: row.subject ?? row.sub_label, object: row.object ?? row.obj_label },
        place,
      };
    }
    return;
  }
  for (const name of readdirSync(patterns)
    .filter((file) => file.endsWith(".jsonl"))
    .sort(byNumber)) {
    if (!existsSync(join(facts, name))) throw bad(`${facts}: has no ${name}, of which there are patterns`);
    let pattern: unknown;
    for await (const { value } of records(join(patterns, name))) {
      pattern = (value as { pattern?: unknown }).pattern;
      break;
    }
    for await (const { value, place } of records(join(facts, name))) {
      const { sub_label, obj_label } = value as Record<string, unknown>;
      yield { value: { pattern, subject: sub_label, object: obj_label }, place };
    }
  }
}

/** P19.jsonl before P101.jsonl. */
const byNumber = (x: string, y: string): number => Number.parseInt(x.slice(1), 10) - Number.parseInt(y.slice(1), 10);
