/** Answers with stated confidences: to a set of questions in each way of asking, and the baseline that asks twice. */

import { createHash } from "node:crypto";
import { readFileSync } from "node:fs";
import { fromJsonLines } from "../../data/readers.js";
import { columnsOf, readTable, writeTable } from "../../data/tables.js";
import { CredenceError } from "../../errors.js";
import { whoAnswers } from "../../evaluation/judges/responder.js";
import { writeJsonAtomic } from "../../files.js";
import type { Prompt } from "../../model/card.js";
import type { Policy, Sample } from "../../policy/policy.js";
import { inParts, isDone, type PassContext } from "../passes.js";
import { aggregated } from "./aggregation.js";
import { type AnswerRow, writeAnswers } from "./files.js";
import { judgedAnswer, ownAnswer } from "./judging.js";
import { type DataName, evaluationPrompt, probabilityPrompt, stopStrings } from "./prompts.js";
import type { EvaluationQuestion } from "./questions.js";
import { type AskedFor, confidenceReading, replyText } from "./wire.js";

/** A text is read as it is, behind the token that begins every text where the tokenizer adds one. */
const asText = (policy: Policy): Prompt => {
  const { tokenizer } = policy.model;
  const bos = tokenizer.addsBos ? (tokenizer.specialTokens.bos_token ?? "") : "";
  return { user: `${bos}{question}`, system: "none", template: "none" };
};

export interface AnswerSettings {
  data: DataName;
  asked: AskedFor;
  /** Longest answer, in tokens. */
  maxTokens: number;
  /** Of several sampled answers, which are then one (aggregation.ts); without it the likeliest tokens. */
  sampled?: { samples: number; temperature: number; topP: number; by: "confidence" | "count" };
  seed: number;
}

const digest = (value: unknown): string => createHash("sha256").update(JSON.stringify(value)).digest("hex");

/** A question's answers, as a part's file keeps them. */
interface Answered {
  prompt: string;
  reference: string;
  responses: string[];
}

/** Questions answered and kept together, unless told. */
const atOnce = 128;

/**
 * Answers every question and writes the file of answers; sampled ones are in `OUTPUT.samples.json` too, each.
 *
 * @returns how many sampled answers state no confidence
 * @throws CredenceError "TOO_LONG" where a prompt leaves no room for an answer; "ABORTED"
 */
export async function answerQuestions(
  policy: Policy,
  questions: readonly EvaluationQuestion[],
  settings: AnswerSettings,
  context: PassContext,
  chunk = atOnce,
): Promise<{ unparsed: number }> {
  const { output, signal } = context;
  const { data, asked, maxTokens, sampled, seed } = settings;
  const told = { unparsed: 0 };
  const made = { policy: digest(whoAnswers(policy)), input: digest(questions), ...settings };
  if (isDone(context, made)) return told;
  const prompt = asText(policy);
  const make = async (from: number, to: number, onTokens: (count: number) => void): Promise<Answered[]> => {
    const some = questions.slice(from, to);
    const prompts = some.map(({ question, evidence }) => evaluationPrompt(data, asked, question, evidence));
    const tokens = await Promise.all(prompts.map((text) => policy.model.promptTokens(text, prompt)));
    const samples: Sample[][] = some.map(() => []);
    const decoding = sampled
      ? { samples: sampled.samples, temperature: sampled.temperature, topP: sampled.topP }
      : { samples: 1, temperature: 0 };
    const onStats = ({ newTokens }: { newTokens: number }) => onTokens(newTokens);
    const asking = { ...decoding, maxNewTokens: maxTokens, stop: stopStrings(asked), seed, signal, onStats };
    for await (const sample of policy.generate(tokens, asking)) samples[sample.prompt]!.push(sample);
    if (samples.some((given) => given.length !== decoding.samples))
      throw new CredenceError("ABORTED", "stopped while answering; started again it goes on from there");
    return some.map(({ reference }, i) => ({
      prompt: prompts[i]!,
      reference,
      responses: samples[i]!.map((sample) => written(policy, sample)),
    }));
  };
  await inParts(context, { count: questions.length, chunk }, make, async (paths) => {
    const all = paths.flatMap((path) => fromJsonLines<Answered>(readFileSync(path, "utf8")));
    const one = (answered: Answered): AnswerRow => {
      const { prompt: read, reference, responses } = answered;
      if (!sampled) return { prompt: read, reference, output: responses[0]! };
      const { text, unparsed } = aggregatedReply(asked, responses, sampled.by);
      told.unparsed += unparsed;
      return { prompt: read, reference, output: text };
    };
    const rows = all.map(one);
    if (sampled) writeJsonAtomic(`${output}.samples.json`, all);
    writeAnswers(output, rows);
  });
  return told;
}

/** An answer as it was written, space at its ends included, up to a question that follows it. */
const written = ({ model }: Policy, { tokens }: Sample): string =>
  ownAnswer(model.tokenizer.decode(tokens, { skipSpecials: true }));

/** Sampled replies as one reply of the form that was asked for. */
export function aggregatedReply(
  asked: AskedFor,
  replies: readonly string[],
  by: "confidence" | "count",
): { text: string; unparsed: number } {
  const reading = confidenceReading("evaluation", { compat: new Set(), onFailure: "drop", asked });
  const stated = replies.map((reply) => {
    const own = ownAnswer(reply);
    return { answer: judgedAnswer(own, asked, new Set()), confidence: reading.read(own) };
  });
  return { text: replyText(asked, aggregated(stated, by)), unparsed: reading.counts.failed };
}

export interface ProbabilityJob {
  /** A CSV file, which is written again with the new column. */
  path: string;
  /** Columns of the questions and of the answers to them. */
  question: string;
  answer: string;
  /** The new column, or one whose empty cells are filled. */
  column: string;
  maxTokens: number;
}

/**
 * The two-call baseline: asks how likely each answer of a table is right, and writes the replies beside it. Cells that are
 * filled already stay, so that work that was stopped goes on.
 *
 * @returns how many were asked
 */
export async function askProbabilities(
  policy: Policy,
  job: ProbabilityJob,
  { progress, signal, label }: Omit<PassContext, "output">,
): Promise<number> {
  const { path, question, answer, column, maxTokens } = job;
  const table = await readTable(path);
  const given = columnsOf(table, [question, answer], path);
  if (!table.columns.includes(column)) {
    table.columns.push(column);
    for (const row of table.rows) row.push("");
  }
  const place = table.columns.indexOf(column);
  const open = table.rows.flatMap((row, i) => (row[place] === "" ? [i] : []));
  const prompt = asText(policy);
  const task = progress.task(label, open.length, "answers");
  try {
    for (let from = 0; from < open.length; from += atOnce) {
      const some = open.slice(from, from + atOnce);
      const texts = some.map((row) => probabilityPrompt(given[row]![question]!, given[row]![answer]!));
      const tokens = await Promise.all(texts.map((text) => policy.model.promptTokens(text, prompt)));
      const asking = { temperature: 0, maxNewTokens: maxTokens, stop: ["\n\nHuman:"], signal };
      let done = 0;
      for await (const sample of policy.generate(tokens, asking)) {
        table.rows[some[sample.prompt]!]![place] = sample.text;
        done += 1;
      }
      if (done < some.length)
        throw new CredenceError("ABORTED", "stopped while asking; started again it goes on from there");
      writeTable(path, table);
      task.advance(some.length);
    }
  } finally {
    task.end();
  }
  return open.length;
}
