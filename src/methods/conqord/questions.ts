/** The questions that CONQORD is evaluated on, from files of this machine: TruthfulQA, Natural Questions, StrategyQA, dialogues. */
import { statSync } from "node:fs";
import { z } from "zod";
import { readRecords } from "../../data/readers.js";
import { readSplit } from "../../data/saved-sets.js";
import { columnsOf, readTable } from "../../data/tables.js";
import { CredenceError } from "../../errors.js";
import { pythonList } from "../../evaluation/judges/prompts.js";
import type { DataName } from "./prompts.js";

export interface EvaluationQuestion {
  question: string;
  /** As files of answers hold it: one answer, or Python's list of several; "" where there is none. */
  reference: string;
  /** Passages retrieved for it. */
  evidence: string[];
}

const text = z.string({ error: () => "a string" });
const texts = z.array(text, { error: () => "a list of strings" });
const evidence = z.union([text, texts], { error: () => "a string or a list of strings" }).optional();

const truthfulSchema = z.looseObject({ question: text, correct_answers: texts, evidence });
const answerSchema = z.looseObject({
  question: text,
  answer: z.union([text, texts, z.boolean()], { error: () => "a string, a list of strings, true or false" }),
  evidence,
});
const dialogueSchema = z.looseObject({ prompt: text, answer: z.union([text, texts]).optional() });

const listed = (value: string | string[] | undefined): string[] => (value === undefined ? [] : [value].flat());

/** A list as the published files hold it: TruthfulQA's and NQ's answers are written as Python shows them. */
const referenceOf = (answer: string | string[] | boolean): string =>
  typeof answer === "boolean" ? (answer ? "Yes" : "No") : typeof answer === "string" ? answer : pythonList(answer);

/**
 * Reads a set's questions.
 *
 * @param path truthful_qa: TruthfulQA.csv, or records with `question` and `correct_answers`. nq and strategy_qa: records with
 *   `question` and `answer` (a string, a list, or true and false), and perhaps `evidence`. dialogue: a set with splits, or a
 *   file, of records with `prompt`
 * @param split of dialogues in a folder
 */
export async function readQuestions(data: DataName, path: string, split = "test"): Promise<EvaluationQuestion[]> {
  if (data === "dialogue") {
    const saved = statSync(path, { throwIfNoEntry: false })?.isDirectory();
    const records = await (saved ? readSplit(path, split, dialogueSchema) : readRecords(path, dialogueSchema));
    return records.map(({ prompt, answer }) => ({
      question: prompt,
      reference: answer === undefined ? "" : referenceOf(answer),
      evidence: [],
    }));
  }
  if (data === "truthful_qa" && /\.csv$/i.test(path)) return truthfulTable(path);
  if (data === "truthful_qa") {
    const records = await readRecords(path, truthfulSchema);
    return records.map(({ question, correct_answers, evidence: passages }) => ({
      question,
      reference: pythonList(correct_answers),
      evidence: listed(passages),
    }));
  }
  const records = await readRecords(path, answerSchema);
  return records.map(({ question, answer, evidence: passages }) => ({
    question,
    reference: referenceOf(answer),
    evidence: listed(passages),
  }));
}

/** The set's own file: right answers in one cell, with semicolons between. */
async function truthfulTable(path: string): Promise<EvaluationQuestion[]> {
  const rows = columnsOf(await readTable(path), ["Question", "Correct Answers"], path);
  return rows.map(({ Question: question, "Correct Answers": answers }, i) => {
    const given = answers
      .split(";")
      .map((answer) => answer.trim())
      .filter((answer) => answer !== "");
    if (given.length === 0) throw new CredenceError("BAD_INPUT", `${path}: row ${i + 1} has no correct answer`);
    return { question: question.trim(), reference: pythonList(given), evidence: [] };
  });
}
