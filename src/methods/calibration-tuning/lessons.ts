/**
 * Judged answers as tokens that a model learns from: the uncertainty query behind the answer, and the question with its right
 * answer, at which the model's own distribution is held. What both begin with stands once.
 */
import { CredenceError } from "../../errors.js";
import type { Model } from "../../policy/model.js";
import type { CalibrationCompat } from "./compat.js";
import { type AnsweredRow, queryText, sanitised, textOf, textTokens } from "./wire.js";

/** A judged answer. */
export type JudgedRow = AnsweredRow & { label: 0 | 1 };

/** One judged answer as it is learnt from. */
export interface Lesson {
  /** Whether the answer is right. */
  label: 0 | 1;
  /** What both texts begin with. */
  prefix: Int32Array;
  /** The query's other tokens: behind the last one the model is asked. */
  query: Int32Array;
  /** The other tokens of the question with its right answer; none where no distribution is held. */
  target: Int32Array;
  /** Tokens of the question with its right answer, and of the question that it begins with. */
  whole: number;
  question: number;
}

export interface LessonOptions {
  /** Whether the distribution at the right answer is held; it needs one. */
  held: boolean;
  /** Tokens of the question with its right answer at most; longer rows are left out. Default: none is. */
  maxTokens?: number;
  compat: CalibrationCompat;
}

/** How many tokens two rows begin with alike. */
export function commonLength(a: Int32Array, b: Int32Array): number {
  let length = 0;
  while (length < a.length && length < b.length && a[length] === b[length]) length += 1;
  return length;
}

/**
 * Rows as lessons. A text that the model cannot read is an error; as published (A9-5) it loses its end, and the query with it.
 *
 * @returns those kept, and how many were longer than `maxTokens`
 * @throws CredenceError "TOO_LONG" and "BAD_INPUT" naming the row
 */
export async function lessonsOf(
  model: Model,
  rows: readonly JudgedRow[],
  options: LessonOptions,
): Promise<{ lessons: Lesson[]; dropped: number }> {
  const all = await Promise.all(rows.map((row, i) => lessonOf(model, row, i + 1, options)));
  const lessons = all.filter((lesson) => lesson !== null);
  return { lessons, dropped: all.length - lessons.length };
}

async function lessonOf(
  model: Model,
  row: JudgedRow,
  number: number,
  { held, maxTokens, compat }: LessonOptions,
): Promise<Lesson | null> {
  const { contextLength } = model.info;
  const cut = async (text: string): Promise<Int32Array> => {
    const tokens = await textTokens(model, text);
    if (tokens.length <= contextLength) return tokens;
    if (compat.has("A9-5")) return tokens.slice(0, contextLength);
    throw new CredenceError(
      "TOO_LONG",
      `row ${number}: ${tokens.length} tokens, longer than the context (${contextLength}). Give fewer examples, or leave long rows out by a largest number of tokens`,
    );
  };
  if (maxTokens !== undefined && (await textTokens(model, textOf(row, row.target))).length > maxTokens) return null;
  const query = await cut(queryText(row, sanitised(row.output)));
  const none = new Int32Array();
  if (!held) return { label: row.label, prefix: none, query, target: none, whole: 0, question: 0 };
  const [whole, question] = await Promise.all([cut(textOf(row, row.target)), cut(textOf(row))]);
  const asked = commonLength(whole, question);
  if (asked === whole.length && !compat.has("A9-5"))
    throw new CredenceError(
      "BAD_INPUT",
      `row ${number}: has no right answer (target) to hold the model's distribution at. Give one, or a kl_decay of 0`,
    );
  const shared = Math.min(commonLength(query, whole), asked, query.length - 1, whole.length - 1);
  return {
    label: row.label,
    prefix: query.subarray(0, shared),
    query: query.subarray(shared),
    target: whole.subarray(shared),
    whole: whole.length,
    question: compat.has("A9-5") ? question.length : asked,
  };
}

/**
 * From which token on the question with its right answer is held, for each lesson of a batch: where the answer begins. As
 * published (A9-5) as many tokens at the end of each as the batch's longest text has more with its answer than the longest
 * question; all of them where that is none.
 */
export function heldFrom(lessons: readonly Lesson[], compat: CalibrationCompat): number[] {
  if (!compat.has("A9-5")) return lessons.map(({ question }) => question);
  const longest = (length: "whole" | "question") => Math.max(...lessons.map((lesson) => lesson[length]));
  const count = longest("whole") - longest("question");
  return lessons.map(({ whole }) => (count === 0 ? 0 : Math.max(0, whole - count)));
}
