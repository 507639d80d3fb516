/** What SaySelf's trainings learn from: files of the published layouts, as texts to learn and as questions to ask. */
import { z } from "zod";
import { readRecords } from "../../data/readers.js";
import { messageSchema } from "../../data/records.js";
import { CredenceError } from "../../errors.js";
import type { Message } from "../../text/chat.js";
import type { LearntText } from "../conqord/wire.js";
import { negativesOf } from "./correctness.js";
import { refuseOverlap } from "./overlap.js";
import { conversationPrompt, learntResponse, questionPrompt } from "./prompts.js";
import { answeredMessages, filled, pairSchema } from "./questions.js";
import type { AskedQuestion } from "./reward.js";

const conversationSchema = z.looseObject({ messages: answeredMessages });
const responseSchema = z.looseObject({ question: filled, response: filled });
const completionSchema = z.looseObject({ prompt: filled, completion: filled });
/** A row, and how many words it has, as the published code counts them: all that is asked and answered. */
interface Counted {
  question: string;
  words: number;
}

export interface RowToLearn extends Counted, LearntText {}
export interface RowToAsk extends Counted, AskedQuestion {
  /** The text that the policy goes on from. */
  prompt: string;
}

const wordsOf = (...texts: string[]): number => texts.reduce((sum, text) => sum + (text.match(/\S+/g)?.length ?? 0), 0);
const wordsIn = (messages: readonly { content: string }[]): number =>
  wordsOf(...messages.map(({ content }) => content));
const askedIn = (turns: readonly Message[]): string => turns.at(-1)!.content.trim();

/** What a file's rows are, by its first one's fields. */
async function fieldsOf(path: string): Promise<(...fields: string[]) => boolean> {
  const [first] = await readRecords(path, z.looseObject({}));
  return (...fields) => fields.every((field) => Object.hasOwn(first!, field));
}

/** A conversation whose last turn is learnt; what stands before it is the prompt, its space at the end taken off as published. */
function learntConversation(messages: readonly Message[], end: string): LearntText {
  const [turns, last] = [messages.slice(0, -1), messages.at(-1)!];
  const prompt = conversationPrompt(turns, end);
  return { text: `${prompt}${last.content.trim()}${end}`, from: prompt.trimEnd().length };
}

/**
 * Rows of the first training: `question` and `response`; `messages`; or `prompt` and `completion`, which are joined with a space
 * where neither has one.
 *
 * @param path .jsonl, or .json of rows or of columns
 * @param end what ends a response
 * @throws CredenceError "NO_FILE" or "BAD_INPUT" naming the row and what is wrong with it
 */
export async function readRowsToLearn(path: string, end: string): Promise<RowToLearn[]> {
  const has = await fieldsOf(path);
  if (has("messages"))
    return (await readRecords(path, conversationSchema)).map(({ messages }) => ({
      question: askedIn(messages.slice(0, -1)),
      words: wordsIn(messages),
      ...learntConversation(messages, end),
    }));
  if (has("prompt", "completion"))
    return (await readRecords(path, completionSchema)).map(({ prompt, completion }) => {
      const between = /\s$/.test(prompt) || /^\s/.test(completion) ? "" : " ";
      const text = `${prompt}${between}${completion}${end}`;
      return { question: prompt.trim(), words: wordsOf(prompt, completion), text, from: prompt.length };
    });
  return (await readRecords(path, responseSchema)).map(({ question, response }) => ({
    question: question.trim(),
    words: wordsOf(question, response),
    ...learntResponse(question, response, end),
  }));
}

/**
 * Questions of the second training, the expected answer with each: `messages`, whose last one is that; or `question` and `answer`,
 * perhaps with `negative_answer`, as sets of evaluation are laid out.
 *
 * @param published the prompt has a line break more than the first training taught, as published (B9-12)
 * @throws CredenceError as `readRowsToLearn`
 */
export async function readRowsToAsk(path: string, end: string, published = false): Promise<RowToAsk[]> {
  const has = await fieldsOf(path);
  const promptOf = (turns: readonly Message[]) => conversationPrompt(turns, end) + (published ? "\n" : "");
  if (has("messages"))
    return (await readRecords(path, conversationSchema)).map(({ messages }) => {
      const turns = messages.slice(0, -1);
      const answers = [messages.at(-1)!.content.trim()];
      return { question: askedIn(turns), words: wordsIn(messages), prompt: promptOf(turns), answers };
    });
  return (await readRecords(path, pairSchema)).map(({ question, answer, negative_answer: wrong }) => {
    const answers = [answer].flat().map((one) => one.trim());
    return {
      question: question.trim(),
      words: wordsOf(question, answers[0]!),
      prompt: questionPrompt(question, published ? "rollout" : "messages"),
      answers,
      negatives: negativesOf(wrong ?? ""),
    };
  });
}

/** Which rows of a file are used. */
export interface RowRange {
  /** Rows of so many words and more are left out; null: none is. */
  maxWords: number | null;
  /** Of those left. Default 0. */
  start?: number;
  count: number;
}

/**
 * @returns the rows, and how many were left out for their words
 * @throws CredenceError "BAD_INPUT" where none is left
 */
export function chosenRows<R extends Counted>(
  rows: readonly R[],
  { maxWords, start = 0, count }: RowRange,
): { rows: R[]; wordy: number } {
  const short = maxWords === null ? [...rows] : rows.filter(({ words }) => words < maxWords);
  const chosen = short.slice(start, start + count);
  if (chosen.length === 0)
    throw new CredenceError(
      "BAD_INPUT",
      `of ${rows.length} rows ${short.length} have fewer than ${maxWords ?? "any number of"} words, and none is left from row ${start} on. Allow more words, or begin earlier`,
    );
  return { rows: chosen, wordy: rows.length - short.length };
}

const questionSchema = z
  .looseObject({ question: filled.optional(), messages: z.array(messageSchema).min(1).optional() })
  .refine(({ question, messages }) => question !== undefined || messages !== undefined, {
    path: ["question"],
    error: 'a string (or "messages", a list of messages)',
  });

/**
 * Refuses to learn from questions that are held out for an evaluation (B9-5).
 *
 * @param files records with `question` or `messages`
 * @throws CredenceError "OVERLAP" naming both files, how many questions they share, and the first
 */
export async function refuseHeldOut(
  { name, rows }: { name: string; rows: readonly Counted[] },
  files: readonly string[],
): Promise<void> {
  const trained = { name, questions: rows.map(({ question }) => question) };
  for (const file of files) {
    const questions = (await readRecords(file, questionSchema)).map(
      ({ question, messages }) => question ?? messages!.findLast(({ role }) => role !== "assistant")?.content ?? "",
    );
    refuseOverlap(trained, { name: file, questions }, "or with --compat B9-5 on these all the same");
  }
}
