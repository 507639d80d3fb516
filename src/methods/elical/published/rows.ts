/**
 * Rows that the published scripts train on and predict: the text that the model read, verbatim, and what its samples say of
 * the question, from the file of sampled answers and the file of verdicts beside it.
 */
import { z } from "zod";
import { openRecords } from "../../../data/readers.js";
import { CredenceError } from "../../../errors.js";
import { publishedMatch } from "../../../evaluation/judges/published.js";
import { hasAnswer } from "../../../evaluation/match.js";
import type { ElicalCompat } from "./compat.js";
import { answersSchema, eachOf, VerdictFile, type VerdictOptions, VerdictReader } from "./verdicts.js";

/** A question with the text of its prompt. */
export interface PublishedRow {
  /** Where it stands in its file, from 0. */
  index: number;
  question: string;
  /** The whole text that the model reads, special tokens by their names. */
  prompt: string;
  /** Share of the samples that count: by their verdicts, or where there are none by whether an answer stands in them. */
  target: number;
}

export interface RowsRead {
  rows: PublishedRow[];
  /** Verdicts that say neither yes nor no, counted as no. */
  unparsed: number;
}

const sampledSchema = answersSchema.extend({
  prompt: z.string({
    error: () =>
      'a string: "prompt" is what is learnt from; records of HonestyBench get theirs from credence elical convert',
  }),
});

/**
 * Reads a file of sampled answers and, if there is one, that of the verdicts on them. Of the answers nothing is kept but
 * what the labels say.
 *
 * @throws CredenceError "BAD_INPUT" where the verdicts are not on these answers; "UNPARSED" as `VerdictReader`
 */
export async function readSampledRows(
  path: string,
  verdicts: string | undefined,
  { compat, unparsed }: VerdictOptions & { compat: ElicalCompat },
): Promise<RowsRead> {
  const judged = verdicts === undefined ? undefined : await VerdictFile.open(verdicts);
  const reader = new VerdictReader({ compat, unparsed });
  const matches = compat.has("B9-16") ? publishedMatch : hasAnswer;
  const rows: PublishedRow[] = [];
  for await (const { question, answer, prompt, response } of eachOf(await openRecords(path, sampledSchema))) {
    const values = judged
      ? reader.read(await judged.next(question, response))
      : response.map((text) => (matches(answer, text ?? "") ? 1 : 0));
    const sum = values.reduce<number>((total, value) => total + value, 0);
    rows.push({ index: rows.length, question, prompt, target: sum / values.length });
  }
  await judged?.end();
  reader.end();
  return { rows, unparsed: reader.unparsed };
}

/**
 * Whether the prompts are all put in one way, and how: the text with `{question}` in the question's place.
 *
 * @throws CredenceError "BAD_INPUT" where a row is put in another way, or does not hold its question
 */
export function promptTemplate(rows: readonly PublishedRow[]): string {
  const bad = (row: PublishedRow, what: string) =>
    new CredenceError("BAD_INPUT", `record ${row.index + 1}: its prompt ${what}: ${JSON.stringify(row.prompt)}`);
  let template: string | undefined;
  for (const row of rows) {
    const { question, prompt } = row;
    if (!prompt.includes(question.trim())) throw bad(row, "does not hold its question");
    // A short question may stand elsewhere in the text as well; then another row says where it belongs.
    if (prompt.split(question.trim()).length === 2) {
      template = prompt.replace(question.trim(), () => "{question}");
      break;
    }
  }
  if (template === undefined) throw bad(rows[0]!, "holds its question more than once, as every other one does");
  for (const row of rows) {
    if (!isPut(row, template))
      throw bad(row, `is not put as the others are, ${JSON.stringify(template)}; train on one way of asking at a time`);
  }
  return template;
}

/** Whether a row's prompt is this template's. */
export const isPut = ({ question, prompt }: PublishedRow, template: string): boolean =>
  [question, question.trim()].some((text) => template.replaceAll("{question}", () => text) === prompt);
