/** A run's predictions gathered row by row, and what they are worth. */
import { existsSync } from "node:fs";
import { join } from "node:path";
import { toJsonLines } from "../../data/readers.js";
import { CredenceError } from "../../errors.js";
import { evaluate, type MetricValue, pairedBootstrap } from "../../evaluation/bootstrap.js";
import type { MetricName } from "../../evaluation/metrics.js";
import type { Prediction } from "../../evaluation/rows.js";
import { readText, writeFileAtomic } from "../../files.js";
import type { LabelledRecord } from "./labels.js";
import type { ElicalRecipe } from "./recipe.js";

/** One confidence, as a stage writes it: `index` is the question's place in the run's labels. */
export interface StagePrediction {
  row: string;
  /** How many labels it was calibrated on; null where none are used. */
  labels: number | null;
  seed: number;
  index: number;
  confidence: number;
}

/** One line of a predictions file: the question, what the model said of it, and how sure the row is. */
export interface RowPrediction {
  id: string;
  question: string;
  /** Every wording that counts as right. */
  answer: string[];
  group: string;
  kind: string;
  seed: number;
  /** The answer the confidence is about. */
  said: string;
  given_correct: 0 | 1;
  confidence: number;
}

/** Rows in the order of the report; each may stand for several numbers of labels. */
export const rowNames = [
  "probe-answer",
  "probe-answer-calibration-only",
  "probe-answer-elicitation-only",
  "probe-question",
  "probe-question-calibration-only",
  "probe-question-elicitation-only",
  "lora-question",
  "lora-question-calibration-only",
  "lora-question-elicitation-only",
  "lora-question-elicitation-only-platt",
  "self-consistency-platt",
  "self-consistency",
  "mean-token-probability",
  "sequence-probability",
  "rate-of-kind",
] as const;

/** Pairs whose difference the report tells. */
export const comparisons: [string, string][] = [
  ["probe-answer", "self-consistency-platt"],
  ["probe-answer", "probe-answer-calibration-only"],
  ["probe-answer", "probe-answer-elicitation-only"],
  ["probe-answer", "probe-question"],
  ["probe-answer", "sequence-probability"],
  ["probe-answer", "mean-token-probability"],
  ["probe-question", "probe-question-calibration-only"],
  ["lora-question", "lora-question-calibration-only"],
];

const comparedMetrics: MetricName[] = ["auroc", "ece", "brier"];

export const predictionsFile = "predictions.jsonl";

export const writePredictions = (directory: string, predictions: StagePrediction[]): void =>
  writeFileAtomic(join(directory, predictionsFile), toJsonLines(predictions));

export function readPredictions(directory: string): StagePrediction[] {
  const path = join(directory, predictionsFile);
  if (!existsSync(path)) throw new CredenceError("FILE", `${path} is missing; delete the run's folder and start again`);
  return readText(path)
    .trim()
    .split("\n")
    .map((line) => JSON.parse(line) as StagePrediction);
}

/** A row's predictions, one list a seed, each in the order of the questions. */
export type Row = RowPrediction[][];

/** Key of a row with its number of labels, as files and tables name it. */
export const rowKey = (row: string, labels: number | null, main: number): string =>
  labels === null || labels === main ? row : `${row}-${labels}`;

/** Gathers stages' predictions by row and number of labels, with what is known of each question. */
export function gatherRows(
  predictions: StagePrediction[],
  questions: LabelledRecord[],
  recipe: ElicalRecipe,
): Map<string, Row> {
  const rows = new Map<string, Row>();
  const sorted = [...predictions].sort((a, b) => a.seed - b.seed || a.index - b.index);
  for (const { row, labels, seed, index, confidence } of sorted) {
    const key = rowKey(row, labels, recipe.labels.main);
    const question = questions[index]!;
    const seeds = rows.get(key) ?? [];
    rows.set(key, seeds);
    const { id, answer, group, kind } = question;
    seeds[seed] ??= [];
    seeds[seed]!.push({
      id,
      question: question.question,
      answer,
      group,
      kind,
      seed,
      said: question.given.text,
      given_correct: question.given_correct,
      confidence,
    });
  }
  return rows;
}

/** What metrics are computed from. */
export const asPredictions = (row: RowPrediction[]): Prediction[] =>
  row.map(({ confidence, given_correct, group }) => ({ confidence, correct: given_correct, group }));

export type Metrics = Record<MetricName, MetricValue>;

export interface Evaluated {
  metrics: Record<string, Metrics>;
  /** Number of labels, then row, for every number that is not the main one. */
  labels: Record<string, Record<string, Metrics>>;
  /** Rows without labels on the questions that the LoRA rows are tested on, where the others are tested on all. */
  onSplit: Record<string, Metrics>;
  /** "a - b", then metric; by number of labels. Negative means a is lower. */
  differences: Record<string, Record<string, Record<string, MetricValue>>>;
}

/** Metrics of every row with intervals, and paired differences, all clustered by group. */
export function evaluateRows(rows: Map<string, Row>, recipe: ElicalRecipe): Evaluated {
  const { bins, resamples, seed } = recipe.evaluation;
  const { main, counts } = recipe.labels;
  const bootstrap = { samples: resamples, seed };
  const worth = (row: Row) => evaluate(row.map(asPredictions), { bins, bootstrap });
  const difference = (a: Row, b: Row, metric: MetricName) =>
    pairedBootstrap(a.map(asPredictions), b.map(asPredictions), metric, { bins, ...bootstrap });
  const out: Evaluated = { metrics: {}, labels: {}, onSplit: {}, differences: {} };
  for (const labels of [...new Set([main, ...counts])]) {
    for (const row of rowNames) {
      const predictions = rows.get(rowKey(row, labels, main));
      if (!predictions) continue;
      const metrics = worth(predictions);
      if (labels === main) out.metrics[row] = metrics;
      else out.labels[labels] = { ...out.labels[labels], [row]: metrics };
    }
    for (const [a, b] of comparisons) {
      const left = rows.get(rowKey(a, labels, main));
      // A row that uses no labels is the same at every number of them.
      const right = rows.get(rowKey(b, labels, main)) ?? rows.get(b);
      if (!left || !right || left[0]!.length !== right[0]!.length) continue;
      const differences = comparedMetrics.map((metric) => [metric, difference(left, right, metric)]);
      out.differences[labels] = { ...out.differences[labels], [`${a} - ${b}`]: Object.fromEntries(differences) };
    }
  }
  if (recipe.folds && rows.has("lora-question")) {
    const tested = new Set(rows.get("lora-question")![0]!.map(({ id }) => id));
    for (const row of ["sequence-probability", "mean-token-probability", "self-consistency"]) {
      const predictions = rows
        .get(row)!
        .slice(0, 1)
        .map((seed) => seed.filter(({ id }) => tested.has(id)));
      out.onSplit[row] = worth(predictions);
    }
  }
  return out;
}

const rowFile = (runDirectory: string, key: string, seed: number, { seeds }: ElicalRecipe): string =>
  join(runDirectory, "predictions", `${key}${seeds > 1 ? `-seed${seed}` : ""}.jsonl`);

/** predictions/ROW.jsonl in the run's folder, one file a seed where there are several. */
export function writeRows(runDirectory: string, rows: Map<string, Row>, recipe: ElicalRecipe): void {
  for (const [key, seeds] of rows) {
    for (const [seed, predictions] of seeds.entries())
      writeFileAtomic(rowFile(runDirectory, key, seed, recipe), toJsonLines(predictions));
  }
}

/** A row's predictions, all seeds together. */
export function readRow(runDirectory: string, key: string, recipe: ElicalRecipe): RowPrediction[] {
  const paths = Array.from({ length: recipe.seeds }, (_, seed) => rowFile(runDirectory, key, seed, recipe)).filter(
    existsSync,
  );
  return paths.flatMap((path) =>
    readText(path)
      .trim()
      .split("\n")
      .map((line) => JSON.parse(line) as RowPrediction),
  );
}
