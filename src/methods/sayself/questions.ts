/** The questions that SaySelf is evaluated on, from files of this machine, in each layout of the published sets. */
import { statSync } from "node:fs";
import { z } from "zod";
import { readRecords } from "../../data/readers.js";
import { messageSchema } from "../../data/records.js";
import { readSplit, splitFiles } from "../../data/saved-sets.js";
import { CredenceError } from "../../errors.js";
import type { Message } from "../../text/chat.js";
import { type Gold, negativesOf } from "./correctness.js";
import { refuseOverlap } from "./overlap.js";

export interface SaySelfQuestion extends Gold {
  /** What is asked; of a conversation its last turn. */
  question: string;
  /** All that comes before the answer. */
  turns: Message[];
  /** The answer that a judge holds responses against; the first of `answers`. */
  best: string;
  /** How the set is laid out, by which the published code writes its prompt. */
  layout: "pair" | "messages" | "columns";
}

export interface QuestionSet {
  questions: SaySelfQuestion[];
  /** Rows of the file. */
  rows: number;
  /** Conversations left out for their length. */
  wordy: number;
}

export const filled = z
  .string({ error: () => "a string that is not empty" })
  .regex(/\S/, { error: "a string that is not empty" });

/** A conversation that ends in its answer. */
export const answeredMessages = z
  .array(messageSchema, { error: () => "a list of messages" })
  .min(2, { error: () => "a question and its answer" })
  .refine((messages) => messages.at(-1)?.role === "assistant", { error: "messages of which the last is the answer" });

export const pairSchema = z.looseObject({
  question: filled,
  answer: z.union([filled, z.array(filled).min(1)], { error: () => "a string, or a list of strings" }),
  negative_answer: z.string({ error: () => "a string" }).nullish(),
});
const strategySchema = z.looseObject({ question: filled, answer: z.boolean({ error: () => "true or false" }) });
const truthfulSchema = z.looseObject({
  question: filled,
  best_answer: filled,
  correct_answers: z.array(filled, { error: () => "a list of strings" }),
});
const messagesSchema = z.looseObject({ messages: answeredMessages });

/** What a model is to say of how sure it is, which the answers of one published set end in. */
const sureness = /\s*I am (?:un)?sure[\s\S]*$/;

function fromMessages({ messages }: z.infer<typeof messagesSchema>): SaySelfQuestion {
  const turns = messages.slice(0, -1) as Message[];
  const best = messages.at(-1)!.content.replace(sureness, "").trim();
  return { question: turns.at(-1)!.content.trim(), turns, best, answers: [best], layout: "messages" };
}

const asked = (question: string): Pick<SaySelfQuestion, "question" | "turns"> => ({
  question: question.trim(),
  turns: [{ role: "user", content: question }],
});

function fromPair({ question, answer, negative_answer: wrong }: z.infer<typeof pairSchema>): SaySelfQuestion {
  const answers = [answer].flat().map((one) => one.trim());
  return { ...asked(question), best: answers[0]!, answers, negatives: negativesOf(wrong ?? ""), layout: "pair" };
}

function fromStrategy({ question, answer }: z.infer<typeof strategySchema>): SaySelfQuestion {
  const best = answer ? "True" : "False";
  return { ...asked(question), best, answers: [best], layout: "columns" };
}

function fromTruthful({ question, best_answer, correct_answers }: z.infer<typeof truthfulSchema>): SaySelfQuestion {
  const best = best_answer.trim();
  return { ...asked(question), best, answers: [...new Set([best, ...correct_answers])], layout: "columns" };
}

/** Words of a conversation, its answer included, from which on it is left out, as published. */
const mostWords = 200;
const words = ({ messages }: { messages: readonly { content: string }[] }): number =>
  messages.reduce((sum, { content }) => sum + (content.match(/\S+/g)?.length ?? 0), 0);

/** Of a folder with splits the published evaluation takes the first that is there. */
const splitOf = (path: string): string => (splitFiles(path, "validation") ? "validation" : "test");

/**
 * Reads a set, as its first record is laid out: `messages` (rows, or one column of all of them); `question`, `facts`, `term`
 * and an `answer` that is true or false (StrategyQA); `question` and `answer`, perhaps with `negative_answer`; else `question`,
 * `best_answer` and `correct_answers` (TruthfulQA).
 *
 * @param path a file, or a saved folder, of which its split "validation" is read, else "test"
 * @param range of the rows, conversations that are too long (200 words and more) taken out before; default the first 20,000
 * @throws CredenceError "NO_FILE" or "BAD_INPUT" naming the record and what is wrong with it; "BAD_INPUT" where no row is left
 */
export async function readSaySelfQuestions(
  path: string,
  { start = 0, count = 20_000 }: { start?: number; count?: number } = {},
): Promise<QuestionSet> {
  const read = await readerOf(path);
  const [first] = await read(z.looseObject({}));
  const has = (...fields: string[]) => fields.every((field) => Object.hasOwn(first!, field));
  let all: SaySelfQuestion[];
  let wordy = 0;
  if (has("messages")) {
    const records = await read(messagesSchema);
    const short = records.filter((record) => words(record) < mostWords);
    wordy = records.length - short.length;
    all = short.map(fromMessages);
  } else if (has("facts", "term")) all = (await read(strategySchema)).map(fromStrategy);
  else if (has("question", "answer")) all = (await read(pairSchema)).map(fromPair);
  else all = (await read(truthfulSchema)).map(fromTruthful);
  const questions = all.slice(start, start + count);
  if (questions.length === 0)
    throw new CredenceError(
      "BAD_INPUT",
      `${path}: has ${all.length} rows${wordy > 0 ? ` of fewer than ${mostWords} words` : ""}; none is left from row ${start} on`,
    );
  return { questions, rows: all.length + wordy, wordy };
}

type Read = <T extends z.ZodType>(schema: T) => Promise<z.infer<T>[]>;

async function readerOf(path: string): Promise<Read> {
  if (!statSync(path, { throwIfNoEntry: false })?.isDirectory()) return (schema) => readRecords(path, schema);
  const split = splitOf(path);
  return (schema) => readSplit(path, split, schema);
}

// ---- what was trained on

const trainedSchema = z
  .looseObject({ question: filled.optional(), messages: z.array(messageSchema).min(1).optional() })
  .refine(({ question, messages }) => question !== undefined || messages !== undefined, {
    path: ["question"],
    error: 'a string (or "messages", a list of messages)',
  });

/**
 * Refuses questions that a training has seen, whatever their answers (B9-5: the published evaluation on HotpotQA asks what
 * reinforcement trained on).
 *
 * @param path where the questions are from, for messages
 * @param files what was trained on: records with `question` or `messages`
 * @throws CredenceError "OVERLAP" naming the file, how many questions it shares, and the first
 */
export async function refuseTrained(
  questions: readonly SaySelfQuestion[],
  path: string,
  files: readonly string[],
): Promise<void> {
  const tested = { name: path, questions: questions.map(({ question }) => question) };
  for (const name of files) {
    const records = await readRecords(name, trainedSchema);
    const trained = records.map(
      ({ question, messages }) => question ?? messages?.findLast(({ role }) => role !== "assistant")?.content ?? "",
    );
    refuseOverlap(
      { name, questions: trained },
      tested,
      "evaluate on others, or with --compat B9-5 on these all the same",
    );
  }
}
