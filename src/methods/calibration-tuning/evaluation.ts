/** The published evaluation of one split: answers where there are none, verdicts where there are none, and P(correct) by a mode. */
import { join } from "node:path";
import { writeTable } from "../../data/tables.js";
import { CredenceError } from "../../errors.js";
import type { Judge } from "../../evaluation/judges/judge.js";
import { writeFileAtomic } from "../../files.js";
import { encodeTorchFile, type TorchTensor } from "../../model/torch-file.js";
import type { Policy } from "../../policy/policy.js";
import { type Progress, silent } from "../../tracking/progress.js";
import { answers } from "./answering.js";
import type { CalibrationCompat } from "./compat.js";
import type { DatasetRow } from "./datasets.js";
import { stateEmbeddings } from "./embedding.js";
import { type GradingItem, grades } from "./labels.js";
import { areaUnder, halfOpenEce, letterMetrics, type MetricRow, queryMetrics } from "./metrics.js";
import { probabilities, queryLogprobs } from "./query.js";
import { type Classifier, classified } from "./released-head.js";
import { type AnsweredRow, choiceTokens, sanitised, textOf, textTokens } from "./wire.js";

export const evaluationModes = ["query", "query_choice", "class", "class_choice", "us_oe", "verbal"] as const;
export type EvaluationMode = (typeof evaluationModes)[number];

const otherNames: Readonly<Record<string, EvaluationMode>> = {
  oe: "query",
  choice: "query_choice",
  class_oe: "class",
  vrbal: "verbal",
};

/** @throws CredenceError "BAD_OPTION" with the modes that there are */
export function modeOf(name: string): EvaluationMode {
  const mode = otherNames[name] ?? evaluationModes.find((one) => one === name);
  if (mode) return mode;
  throw new CredenceError(
    "BAD_OPTION",
    `there is no mode ${JSON.stringify(name)}; expected ${evaluationModes.join(", ")} (oe, choice, class_oe and vrbal are other names of them)`,
  );
}

/** Longest answers: published. */
export const answerTokens: Record<EvaluationMode, number> = {
  query: 100,
  query_choice: 1,
  class: 100,
  class_choice: 1,
  us_oe: 30,
  verbal: 30,
};

export interface EvaluationParts {
  mode: EvaluationMode;
  /** Who answers, and states how sure it is. */
  answering: Policy;
  /** Who is asked whether answers are right. */
  asked: Policy;
  /** What the two logits are divided by, and those of letters. Default 1. */
  temperature?: number;
  letterTemperature?: number;
  /** Of the modes `class` and `class_choice`. */
  classifier?: Classifier;
  /** Of answers without labels, and of the mode us_oe. */
  judge?: Judge<GradingItem>;
  compat: CalibrationCompat;
  progress?: Progress;
  signal?: AbortSignal;
}

/** What a split's evaluation leaves. */
export interface Evaluation {
  metrics: MetricRow;
  /** Rows that were judged, and P(correct) of each, in their order. */
  rows: (AnsweredRow & { label: 0 | 1 })[];
  right: Float64Array;
  /** Files of numbers, by their names. */
  dumps: Record<string, TorchTensor[]>;
  /** Rows whose judge's reply was no verdict (left out), and probabilities that could not be read (taken as 0.5). */
  unread: number;
  unparsed: number;
}

/** @throws CredenceError "BAD_OPTION" where a part is missing that the mode needs */
export async function evaluateSplit(given: readonly DatasetRow[], parts: EvaluationParts): Promise<Evaluation> {
  const { mode, answering, compat, progress = silent, signal, temperature = 1 } = parts;
  const answered = await withAnswers(given, parts);
  const { rows, unread } = await withLabels(answered, parts);
  const labels = rows.map(({ label }) => label);
  const task = progress.task("asking how sure", rows.length, "rows", "tokens");
  const step = { signal, advance: task.advance.bind(task) };
  const left = { rows, unread, unparsed: 0 };
  try {
    if (mode === "us_oe") return { ...left, ...(await sampled(rows, parts, step)) };
    let logits: Float32Array;
    let unparsed = 0;
    let name = "query_data.bin";
    let [logitsName, labelsName] = ["q_logits", "q_labels"];
    if (mode === "class" || mode === "class_choice") {
      if (!parts.classifier) throw new CredenceError("BAD_OPTION", `the mode ${mode} needs a head: --with-classifier`);
      const texts = rows.map((row) => textOf(row, sanitised(row.output)));
      const features = await stateEmbeddings(parts.asked, texts, { signal, onEmbedded: step.advance });
      logits = classified(parts.classifier, features);
      name = "classifier_data.bin";
      [logitsName, labelsName] = ["logits", "labels"];
    } else if (mode === "verbal") ({ logits, unparsed } = await verbal(rows, answering, step));
    else logits = await queryLogprobs(parts.asked, rows, { signal, onScored: step.advance });
    const right = probabilities(logits, temperature);
    const dumps: Evaluation["dumps"] = {
      [name]: [
        { name: logitsName, shape: [rows.length, 2], data: logits },
        { name: labelsName, shape: [rows.length], data: BigInt64Array.from(labels, BigInt) },
      ],
    };
    const metrics: MetricRow = { ...queryMetrics(right, labels, compat) };
    if (mode === "query_choice" || mode === "class_choice") {
      const letters = await letterProbabilities(rows, parts);
      Object.assign(metrics, letters.metrics);
      dumps["logits_data.bin"] = letters.dump;
    }
    return { ...left, unparsed, metrics, right, dumps };
  } finally {
    task.end();
  }
}

interface Step {
  signal: AbortSignal | undefined;
  advance: (rows: number, tokens?: number) => void;
}

async function withAnswers(given: readonly DatasetRow[], parts: EvaluationParts): Promise<DatasetRow[]> {
  const open = given.filter(({ output }) => output === null);
  if (open.length === 0) return [...given];
  const { mode, answering, signal, progress = silent } = parts;
  const task = progress.task("answering", open.length, "questions");
  const made = new Map<DatasetRow, string>();
  const together = 64;
  try {
    for (let from = 0; from < open.length; from += together) {
      const some = open.slice(from, from + together);
      const texts = await answers(answering, some, { maxTokens: answerTokens[mode], adapter: "on", signal });
      for (const [i, row] of some.entries()) made.set(row, texts[i]![0]!.text);
      task.advance(some.length);
    }
  } finally {
    task.end();
  }
  return given.map((row) => (row.output === null ? { ...row, output: made.get(row)!, label: null } : row));
}

async function withLabels(answered: readonly DatasetRow[], { judge, signal, progress = silent }: EvaluationParts) {
  const rows = answered.map((row) => ({ ...row, output: row.output! }));
  const open = rows.filter(({ label }) => label === null);
  if (open.length === 0) return { rows: rows as Evaluation["rows"], unread: 0 };
  if (!judge)
    throw new CredenceError(
      "BAD_OPTION",
      `${open.length} answers are not judged yet; who judges them? Give --strategy substring or fuzzy_<model>`,
    );
  const task = progress.task("judging", open.length, "answers");
  const items = open.map((row): GradingItem => ({ ...row, answer: sanitised(row.output) }));
  const found = await grades(items, judge, { signal, onJudged: () => task.advance(1) }).finally(() => task.end());
  for (const [i, row] of open.entries()) row.label = found.labels[i]!;
  return { rows: rows.filter(({ label }) => label !== null) as Evaluation["rows"], unread: found.unread };
}

/** The probabilities of letters as the next token, as many as there are options: the published baseline of choices. */
async function letterProbabilities(rows: Evaluation["rows"], parts: EvaluationParts) {
  const { answering, letterTemperature = 1, signal, compat } = parts;
  const rights = rows.map(({ target }) => target.charCodeAt(0) - 97);
  const wrong = rights.findIndex((right) => !(right >= 0 && right < 26));
  if (wrong >= 0)
    throw new CredenceError(
      "BAD_INPUT",
      `row ${wrong + 1}: the right answer is ${JSON.stringify(rows[wrong]!.target)}, no letter`,
    );
  const count = Math.max(4, ...rights.map((right) => right + 1));
  const words = Array.from({ length: count }, (_, i) => String.fromCharCode(97 + i));
  const ids = await choiceTokens(answering.model.tokenizer, words);
  const tokens = await Promise.all(rows.map((row) => textTokens(answering.model, textOf(row))));
  const logprobs = await answering.choices(tokens, ids, { signal });
  const flat = Float32Array.from(logprobs.flatMap((own) => Array.from(own)));
  const shares = new Float64Array(flat.length);
  for (let row = 0; row < rows.length; row += 1) {
    const own = Array.from(flat.subarray(row * count, (row + 1) * count), (value) =>
      Math.exp(value / letterTemperature),
    );
    const sum = own.reduce((all, value) => all + value, 0);
    shares.set(
      own.map((value) => value / sum),
      row * count,
    );
  }
  const dump: TorchTensor[] = [
    { name: "logits", shape: [rows.length, count], data: flat },
    { name: "labels", shape: [rows.length], data: BigInt64Array.from(rights, BigInt) },
    { name: "choice_vec", shape: [count], data: BigInt64Array.from(ids, BigInt) },
  ];
  return { metrics: letterMetrics(shares, count, rights, compat), dump };
}

/** Behind an answer: its wording is our own. */
export const verbalRequest =
  "How likely is the proposed answer to be right? Give the probability alone, a number from 0.0 to 1.0.\nProbability:";

/** A stated probability: the number behind the last colon of the reply's first line; null where there is none from 0 to 1. */
export function statedProbability(reply: string): number | null {
  const first = reply.trim().split("\n")[0]!;
  const text = first.slice(first.lastIndexOf(":") + 1).trim();
  const value = text === "" ? Number.NaN : Number(text);
  return value >= 0 && value <= 1 ? value : null;
}

async function verbal(rows: Evaluation["rows"], policy: Policy, { signal, advance }: Step) {
  const asked = rows.map((row) => ({
    context: `${textOf(row)} ${sanitised(row.output)}\n\n${verbalRequest}`,
    targetPrompt: "",
  }));
  const replies = await answers(policy, asked, { maxTokens: answerTokens.verbal, adapter: "on", signal });
  advance(rows.length);
  const stated = replies.map(([reply]) => statedProbability(reply!.text));
  // Published: a probability that cannot be read is one half.
  const logits = Float32Array.from(
    stated.flatMap((p) => [1 - (p ?? 0.5), p ?? 0.5].map((share) => Math.log(Math.max(share, 1e-12)))),
  );
  return { logits, unparsed: stated.filter((p) => p === null).length };
}

/** Samples of an answer, as published. */
const sampling = { samples: 10, temperature: 1, topP: 0.95, topK: 50, seed: 1 };

async function sampled(
  rows: Evaluation["rows"],
  { answering, judge, compat }: EvaluationParts,
  { signal, advance }: Step,
): Promise<Pick<Evaluation, "metrics" | "right" | "dumps">> {
  if (!judge)
    throw new CredenceError("BAD_OPTION", "the mode us_oe needs a judge of two answers: give --strategy fuzzy_<model>");
  const given = await answers(answering, rows, { ...sampling, maxTokens: answerTokens.us_oe, adapter: "on", signal });
  const items = rows.flatMap((row, i) =>
    given[i]!.map(({ text }): GradingItem => ({ ...row, answer: sanitised(text), other: sanitised(row.output) })),
  );
  const { labels: same } = await grades(items, judge, { signal });
  const counting = new Float64Array(rows.length);
  const likelihood = new Float64Array(rows.length);
  for (const [i] of rows.entries()) {
    const verdicts = same.slice(i * sampling.samples, (i + 1) * sampling.samples);
    const weights = given[i]!.map(({ logprobs }) =>
      Math.exp(logprobs.reduce((sum, value) => sum + value, 0) / Math.max(1, logprobs.length)),
    );
    let [yes, all, heavy, weight] = [0, 0, 0, 0];
    for (const [k, verdict] of verdicts.entries()) {
      if (verdict === null) continue;
      yes += verdict;
      all += 1;
      heavy += verdict * weights[k]!;
      weight += weights[k]!;
    }
    counting[i] = all > 0 ? yes / all : 0.5;
    likelihood[i] = weight > 0 ? Math.min(1, heavy / weight) : 0.5;
  }
  advance(rows.length);
  const labels = rows.map(({ label }) => label);
  const metrics: MetricRow = {
    N: rows.length,
    acc: labels.reduce<number>((sum, label) => sum + label, 0) / rows.length,
    auroc_counting: areaUnder(counting, labels),
    ece_counting: halfOpenEce(counting, labels, compat),
    auroc_likelihood: areaUnder(likelihood, labels),
    ece_likelihood: halfOpenEce(likelihood, labels, compat),
  };
  const dump: TorchTensor[] = [
    { name: "counting", shape: [rows.length], data: Float32Array.from(counting) },
    { name: "likelihood", shape: [rows.length], data: Float32Array.from(likelihood) },
    { name: "labels", shape: [rows.length], data: BigInt64Array.from(labels, BigInt) },
  ];
  return { metrics, right: counting, dumps: { "sampling_data.bin": dump } };
}

/** Writes a split's numbers and rows, each file whole. */
export function writeEvaluation(folder: string, { rows, right, dumps }: Evaluation): void {
  for (const [name, tensors] of Object.entries(dumps))
    writeFileAtomic(join(folder, name), encodeTorchFile(tensors, name.replace(/\.bin$/, "")));
  writeTable(join(folder, "rows_0.csv"), {
    columns: ["context", "prompt", "target_prompt", "target", "output", "query_label", "p_correct"],
    rows: rows.map(({ context, prompt, targetPrompt, target, output, label }, i) => [
      context,
      prompt,
      targetPrompt,
      target,
      output,
      String(label),
      String(right[i]),
    ]),
  });
}
