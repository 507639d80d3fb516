/** Answers and a judge's verdicts on them, as the published scripts keep them, read and checked against each other. */
import { z } from "zod";
import { readRecords } from "../../../data/readers.js";
import { CredenceError } from "../../../errors.js";
import { publishedVerdict } from "../../../evaluation/judges/published.js";
import { readVerdict } from "../../../evaluation/judges/verdict.js";
import type { AnswersPaths } from "./paths.js";

const listOf = <T extends z.ZodType>(what: string, item: T) => z.array(item, { error: () => `a list of ${what}` });
const text = z.string({ error: () => "a string" });
const replies = listOf("strings (null where there is none)", z.union([text, z.null()])).min(1, {
  error: () => "one reply or more",
});

/** What a pass of generation leaves of each question. */
export const answersSchema = z.looseObject({
  question: text,
  answer: listOf("strings", text),
  /** What the model read, whole; it is what is trained on. */
  prompt: text.optional(),
  response: replies,
  tokens: listOf("lists of tokens", listOf("tokens", text)).nullish(),
  cumulative_logprobs: listOf("numbers", z.number()).nullish(),
  logprobs: listOf("lists of numbers", listOf("numbers", z.number())).nullish(),
});

export type AnswersRow = z.infer<typeof answersSchema>;

const verdictSchema = z.looseObject({
  question: text,
  original_question: text.optional(),
  response: replies.nullable(),
});

/**
 * Reads a file of answers.
 *
 * @throws CredenceError "BAD_INPUT" where a question has another number of answers than `samples`
 */
export async function readAnswers(path: string, samples: number): Promise<AnswersRow[]> {
  const rows = await readRecords(path, answersSchema);
  for (const [i, { response }] of rows.entries()) {
    if (response.length !== samples)
      throw new CredenceError(
        "BAD_INPUT",
        `${path}:${i + 1}: "response" has ${response.length} answers; expected ${samples}`,
      );
  }
  return rows;
}

/** Greedy and sampled answers are to the same questions. */
export function checkSameQuestions(
  paths: Pick<AnswersPaths, "greedy" | "sampled">,
  greedy: readonly { question: string }[],
  sampled: readonly { question: string }[],
): void {
  const differs = greedy.findIndex(({ question }, i) => question !== sampled[i]?.question);
  if (greedy.length === sampled.length && differs < 0) return;
  throw new CredenceError(
    "BAD_INPUT",
    `${paths.sampled} (${sampled.length} questions) and ${paths.greedy} (${greedy.length}) are of different runs` +
      (differs < 0 || !sampled[differs] ? "" : `: they differ from question ${differs + 1}`),
  );
}

export interface VerdictOptions {
  /** Verdicts on each question: 20 on sampled answers, 1 on the greedy one. */
  group: number;
  /** "published" (B9-15): yes unless a refusal stands there, no where there is no reply. */
  reads?: "corrected" | "published";
  /** Corrected reading: a reply that says neither is an error (default), or a no. */
  unparsed?: "error" | "negative";
}

export interface Verdicts {
  /** 0 and 1, a list for each question. */
  values: (0 | 1)[][];
  /** Replies that say neither. */
  unparsed: number;
}

/**
 * Reads a judge's replies to questions' answers, a line each, those of one question one after the other.
 *
 * @param questions what was asked, in the order of the answers' file
 * @throws CredenceError "BAD_INPUT" where lines do not come in groups, or the file belongs to other questions;
 *   "UNPARSED" for replies that say neither yes nor no
 */
export async function readVerdicts(
  path: string,
  questions: readonly string[],
  { group, reads = "corrected", unparsed: policy = "error" }: VerdictOptions,
): Promise<Verdicts> {
  const lines = await readRecords(path, verdictSchema);
  const expected = questions.length * group;
  if (lines.length !== expected) {
    const whole = lines.length % group === 0 ? "" : `, and does not come in groups of ${group}`;
    throw new CredenceError(
      "BAD_INPUT",
      `${path}: has ${lines.length} verdicts${whole}; ${questions.length} questions with ${group} each need ${expected}. Is it of another run, or not finished?`,
    );
  }
  const values: (0 | 1)[][] = questions.map(() => []);
  let unparsed = 0;
  let example = "";
  for (const [i, { question, original_question, response }] of lines.entries()) {
    const which = Math.floor(i / group);
    const asked = original_question ?? question;
    // A request that does not repeat its question apart holds it.
    if (asked !== questions[which] && !(original_question === undefined && question.includes(questions[which]!)))
      throw new CredenceError(
        "BAD_INPUT",
        `${path}:${i + 1}: judges an answer to ${shown(asked)}; question ${which + 1} is ${shown(questions[which]!)}. The file is of another run`,
      );
    const reply = response?.[0] ?? null;
    let value = reads === "published" ? publishedVerdict(reply) : readVerdict(reply ?? "");
    if (value === null) {
      unparsed += 1;
      example ||= `${path}:${i + 1}: ${shown(reply ?? "")}`;
      value = 0;
    }
    values[which]!.push(value);
  }
  if (unparsed > 0 && policy === "error") {
    throw new CredenceError(
      "UNPARSED",
      `${unparsed} of ${lines.length} verdicts say neither "certain" nor "uncertain", e.g. ${example}. ` +
        "Take another judge, count them as uncertain (--unparsed negative), or read all as published (--compat B9-15)",
    );
  }
  return { values, unparsed };
}

const shown = (text: string): string => JSON.stringify(text.length > 80 ? `${text.slice(0, 77)}...` : text);
