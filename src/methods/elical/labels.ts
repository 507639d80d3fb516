/** What the answers say of themselves: whether the given one is right, and how far the samples agree with it. */
import { join } from "node:path";
import { fromJsonLines, toJsonLines } from "../../data/readers.js";
import { CredenceError } from "../../errors.js";
import { type Judge, type JudgeItem, stringJudge } from "../../evaluation/judges/judge.js";
import { readText, writeFileAtomic } from "../../files.js";
import type { SamplesRecord } from "./answers.js";

export interface LabelledRecord extends SamplesRecord {
  given_correct: 0 | 1;
  /** Of each sample: whether it is right, and its agreement with the given answer: token F1, or 0 and 1 by a model. */
  correct: (0 | 1)[];
  agrees: number[];
  /** Mean agreement: what is elicited. */
  target: number;
}

/** What is judged of a question's answers. */
export interface Answered {
  question: string;
  answer: readonly string[];
  given: { text: string };
  responses: readonly { text: string }[];
}

export type Labels = Pick<LabelledRecord, "given_correct" | "correct" | "agrees" | "target">;

export interface LabelOptions {
  /** Default: string match, and token F1 for agreement. */
  judge?: Judge;
  /** A reply that says neither yes nor no: an error once all is judged (default), or no. */
  unparsed?: "error" | "negative";
  signal?: AbortSignal;
  /** Told how many replies said neither, once all is judged. */
  onUnparsed?: (count: number) => void;
}

export const labelsFile = "labels.jsonl";

/** Labels questions' answers, in their order. */
export async function* labelRecords<T extends Answered>(
  records: readonly T[],
  { judge = stringJudge(), unparsed = "error", signal, onUnparsed }: LabelOptions = {},
): AsyncGenerator<T & Labels, void, undefined> {
  const verdicts = judge.judge(items(records), { signal });
  let unclear = 0;
  let example: string | undefined;
  const next = async (): Promise<number> => {
    const { value: verdict } = await verdicts.next();
    if (!verdict) throw new CredenceError("ABORTED", "stopped while judging");
    if (verdict.value !== null) return verdict.value;
    unclear += 1;
    example ??= verdict.reply;
    return 0;
  };
  const several = async (count: number): Promise<number[]> => {
    const values: number[] = [];
    while (values.length < count) values.push(await next());
    return values;
  };
  try {
    for (const record of records) {
      const [given, ...correct] = (await several(1 + record.responses.length)) as (0 | 1)[];
      const agrees = await several(record.responses.length);
      const target = agrees.length ? agrees.reduce((sum, value) => sum + value, 0) / agrees.length : 0;
      yield { ...record, given_correct: given!, correct, agrees, target };
    }
  } finally {
    await verdicts.return();
  }
  onUnparsed?.(unclear);
  if (unclear > 0 && unparsed === "error") {
    throw new CredenceError(
      "UNPARSED",
      `${unclear} replies of ${judge.name} say neither "certain" nor "uncertain", e.g. ${JSON.stringify(example)}. ` +
        "Take another judge, or count them as uncertain: --unparsed negative, or judge.unparsed of a recipe",
    );
  }
}

function* items(records: readonly Answered[]): Generator<JudgeItem, void, undefined> {
  for (const { question, answer: expected, given, responses } of records) {
    for (const { text } of [given, ...responses]) yield { asks: "correct", question, expected, given: text };
    for (const { text } of responses) yield { asks: "same", question, first: given.text, second: text };
  }
}

export const writeLabels = (directory: string, records: LabelledRecord[]): void =>
  writeFileAtomic(join(directory, labelsFile), toJsonLines(records));

export const readLabels = (directory: string): LabelledRecord[] =>
  fromJsonLines<LabelledRecord>(readText(join(directory, labelsFile)));
