/** What the answers say of themselves: whether the given one is right, and how far the samples agree with it. */
import { join } from "node:path";
import { toJsonLines } from "../../data/readers.js";
import { agreeF1, hasAnswer } from "../../evaluation/match.js";
import { readText, writeFileAtomic } from "../../files.js";
import type { SamplesRecord } from "./answers.js";

export interface LabelledRecord extends SamplesRecord {
  given_correct: 0 | 1;
  /** Of each sample: whether it is right, and its token F1 with the given answer. */
  correct: (0 | 1)[];
  agrees: number[];
  /** Mean agreement: what is elicited. */
  target: number;
}

export const labelsFile = "labels.jsonl";

/** Labels one question's answers by string match and agreement. */
export function labelRecord<T extends Pick<SamplesRecord, "question" | "answer" | "given" | "responses">>(
  samples: T,
): T & Pick<LabelledRecord, "given_correct" | "correct" | "agrees" | "target"> {
  const right = (text: string): 0 | 1 => (hasAnswer(samples.answer, text) ? 1 : 0);
  const agrees = samples.responses.map(({ text }) => agreeF1(samples.given.text, text, samples.question));
  return {
    ...samples,
    given_correct: right(samples.given.text),
    correct: samples.responses.map(({ text }) => right(text)),
    agrees,
    target: agrees.length ? agrees.reduce((sum, value) => sum + value, 0) / agrees.length : 0,
  };
}

export const writeLabels = (directory: string, records: LabelledRecord[]): void =>
  writeFileAtomic(join(directory, labelsFile), toJsonLines(records));

export const readLabels = (directory: string): LabelledRecord[] =>
  readText(join(directory, labelsFile))
    .trim()
    .split("\n")
    .map((line) => JSON.parse(line) as LabelledRecord);
