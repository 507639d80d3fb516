/** SaySelf's evaluation: responses to a set of questions, a judge's score of each, and how good the stated confidences are. */
import { createHash } from "node:crypto";
import { readFileSync } from "node:fs";
import { join } from "node:path";
import { fromJsonLines, writeRecords } from "../../data/readers.js";
import { CredenceError } from "../../errors.js";
import type { Judge, Verdict } from "../../evaluation/judges/judge.js";
import { whoAnswers } from "../../evaluation/judges/responder.js";
import { makeFolder, writeFileAtomic, writeJsonAtomic } from "../../files.js";
import type { Policy } from "../../policy/policy.js";
import type { Progress } from "../../tracking/progress.js";
import { inParts, isDone, type PassContext } from "../passes.js";
import {
  type Prompted,
  promptsOf,
  type ResponseSettings,
  type Responses,
  readResponses,
  respond,
  withoutSureness,
} from "./asking.js";
import type { SaySelfCompat } from "./compat.js";
import type { ResponseToJudge } from "./judging.js";
import { isScoredRight, type SaySelfMetrics, saySelfMetrics } from "./metrics.js";
import type { SaySelfQuestion } from "./questions.js";
import { partsOf } from "./wire.js";

export interface EvaluationSettings extends ResponseSettings {
  /** A question whose prompt has more tokens is left out, and counted. */
  maxPromptTokens: number;
}

export interface EvaluationContext {
  /** The folder that `evaluationFiles` lie in. */
  folder: string;
  progress: Progress;
  /** Flags that were given and make no difference: recorded. */
  notNeeded?: PassContext["notNeeded"];
  signal?: AbortSignal;
}

/** What an evaluation leaves in its folder. */
export const evaluationFiles = {
  /** All that was sampled: JSON lines. */
  responses: "responses.jsonl",
  /** As published: a list of `question`, `best_answer`, `correct_answers`, `response` and `correctness`. */
  reasons: "output_reasons.json",
  /** For `credence evaluate`: JSON lines of rows that have a confidence and a score. */
  predictions: "predictions.jsonl",
  /** An `EvaluationResult`. */
  metrics: "metrics.json",
} as const;

/** A question, what was said to it, and what that is worth. */
export interface EvaluatedRow {
  question: SaySelfQuestion;
  prompt: string;
  response: string;
  /** From 0 to 1, or null. */
  confidence: number | null;
  /** From 0 to 10; null where the judge gave none. */
  score: number | null;
}

export interface EvaluationResult extends SaySelfMetrics {
  judge: string;
  /** Questions whose prompt is too long. */
  tooLong: number;
  /** Responses that were gone on with, and those that lacked a confidence all the same. */
  retried: number;
  incomplete: number;
  /** Responses that the judge gave no score: they are in no metric. */
  unscored: number;
}

/** A question and its responses, as the file of responses has them. */
interface ResponseRow extends Responses {
  question: string;
  prompt: string;
}

const digest = (value: unknown): string => createHash("sha256").update(JSON.stringify(value)).digest("hex");

/** Questions answered and kept together, unless told. */
const atOnce = 128;

async function responsesTo(
  policy: Policy,
  prompts: readonly Prompted[],
  settings: EvaluationSettings,
  context: EvaluationContext,
  chunk: number,
): Promise<ResponseRow[]> {
  const { folder, signal, ...shared } = context;
  const output = join(folder, evaluationFiles.responses);
  const pass: PassContext = { ...shared, signal, output, label: "answering" };
  const { compat, ...plain } = settings;
  const input = digest(prompts.map(({ text }) => text));
  const made = { policy: digest(whoAnswers(policy)), input, ...plain, compat: [...compat].sort() };
  if (!isDone(pass, made)) {
    const make = async (from: number, to: number): Promise<ResponseRow[]> => {
      const some = prompts.slice(from, to);
      const given = await respond(policy, some, settings, signal);
      return given.map((responses, i) => ({
        question: some[i]!.question.question,
        prompt: some[i]!.text,
        ...responses,
      }));
    };
    await inParts(pass, { count: prompts.length, chunk }, make, async (paths) =>
      writeFileAtomic(
        output,
        paths.map((path) => readFileSync(path, "utf8")),
      ),
    );
  }
  return fromJsonLines<ResponseRow>(readFileSync(output, "utf8"));
}

/** Of each row, in their order. */
async function scoresOf(
  rows: readonly Omit<EvaluatedRow, "score">[],
  judge: Judge<ResponseToJudge>,
  { asking, compat }: EvaluationSettings,
  { progress, signal }: EvaluationContext,
): Promise<(number | null)[]> {
  const items = rows.map(({ question: { question, best, answers, negatives }, response }) => ({
    question,
    // A judge that is a model is told the best answer: the first.
    answers: [best, ...answers.filter((answer) => answer !== best)],
    negatives,
    response: compat.has("B9-4") ? response : withoutSureness(asking, response),
  }));
  const task = progress.task("judging", rows.length, "responses");
  try {
    const verdicts = judge.judge(items, { signal });
    const scores: (number | null)[] = [];
    for (const _ of items) {
      const next: IteratorResult<Verdict, void> = await verdicts.next();
      if (next.done) throw new CredenceError("ABORTED", "stopped while judging; what was paid for is kept");
      scores.push(next.value.value ?? (compat.has("B9-8") ? 0 : null));
      task.advance(1);
    }
    return scores;
  } finally {
    task.end();
  }
}

/** A response as it is published: with what ends its prompt before it. */
function publishedResponse({ prompt, response }: EvaluatedRow): string {
  const at = prompt.lastIndexOf("[/INST]");
  return at < 0 ? response : prompt.slice(at) + response;
}

/** The rows of `output_reasons.json`. */
export const publishedReasons = (rows: readonly EvaluatedRow[]) =>
  rows.map((row) => ({
    question: row.question.question,
    best_answer: row.question.best,
    correct_answers: row.question.answers,
    response: publishedResponse(row),
    correctness: row.score,
  }));

function* predictions(rows: readonly EvaluatedRow[]) {
  for (const [i, { question, response, confidence, score }] of rows.entries()) {
    if (confidence === null || score === null || confidence > 1) continue;
    yield {
      id: String(i),
      question: question.question,
      answer: question.answers,
      response,
      rationale: partsOf(response).rationale,
      score,
      confidence,
      given_correct: isScoredRight(score) ? 1 : 0,
    };
  }
}

/** The metrics of rows that have a score. */
export function evaluationMetrics(rows: readonly EvaluatedRow[], compat: SaySelfCompat = new Set()): SaySelfMetrics {
  const scored = rows.flatMap(({ confidence, score }) => (score === null ? [] : [{ confidence, score }]));
  return saySelfMetrics(scored, { beyond: compat.has("B9-8") ? "taken" : "error" });
}

/**
 * Evaluates a policy and writes `evaluationFiles`. One that was stopped goes on where it was, and leaves the same bytes.
 *
 * @returns the metrics, which are in `metrics.json` too, and the rows
 * @throws CredenceError "OTHER_RUN" where the folder has responses by other settings; "TOO_LONG" where no prompt is short enough,
 *   or one leaves no room for a response and its continuations; "ABORTED"
 */
export async function evaluateSaySelf(
  policy: Policy,
  questions: readonly SaySelfQuestion[],
  judge: Judge<ResponseToJudge>,
  settings: EvaluationSettings,
  context: EvaluationContext,
  chunk = atOnce,
): Promise<{ result: EvaluationResult; rows: EvaluatedRow[] }> {
  const { folder } = context;
  const { asking, compat, maxPromptTokens } = settings;
  makeFolder(folder);
  const all = await promptsOf(policy, questions, settings);
  const prompts = all.filter(({ tokens }) => tokens.length <= maxPromptTokens);
  if (prompts.length === 0)
    throw new CredenceError(
      "TOO_LONG",
      `every prompt has more than ${maxPromptTokens} tokens, the shortest ${Math.min(...all.map(({ tokens }) => tokens.length))}. Allow longer ones`,
    );
  const given = await responsesTo(policy, prompts, settings, context, chunk);
  const read = given.map(({ prompt, responses }, i) => ({
    question: prompts[i]!.question,
    prompt,
    ...readResponses(asking, responses, compat),
  }));
  const scores = await scoresOf(read, judge, settings, context);
  const rows = read.map((row, i): EvaluatedRow => ({ ...row, score: scores[i]! }));
  const result: EvaluationResult = {
    judge: judge.name,
    ...evaluationMetrics(rows, compat),
    tooLong: all.length - prompts.length,
    retried: given.filter(({ tries }) => tries > 0).length,
    incomplete: given.filter(({ complete }) => !complete).length,
    unscored: rows.filter(({ score }) => score === null).length,
  };
  writeFileAtomic(join(folder, evaluationFiles.reasons), `${JSON.stringify(publishedReasons(rows))}\n`);
  await writeRecords(join(folder, evaluationFiles.predictions), predictions(rows));
  writeJsonAtomic(join(folder, evaluationFiles.metrics), result);
  return { result, rows };
}
