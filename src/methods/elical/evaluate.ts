/** A run's predictions gathered row by row, and what they are worth. */
import { existsSync } from "node:fs";
import { join } from "node:path";
import { fromJsonLines, toJsonLines } from "../../data/readers.js";
import { CredenceError } from "../../errors.js";
import { evaluate, type MetricValue, pairedBootstrap } from "../../evaluation/bootstrap.js";
import type { MetricName } from "../../evaluation/metrics.js";
import type { Prediction } from "../../evaluation/rows.js";
import { readText, writeFileAtomic } from "../../files.js";
import type { LabelledRecord } from "./labels.js";
import { type PublishedNumbers, publishedNumbers, questionWeighted } from "./published/metrics.js";
import { compatOf } from "./quirks.js";
import { type ElicalRecipe, setsOf } from "./recipe.js";

/** One confidence, as a stage writes it: `index` is the question's place in the run's labels. */
export interface StagePrediction {
  row: string;
  /** How many labels it was calibrated on; null where none are used. */
  labels: number | null;
  seed: number;
  index: number;
  confidence: number;
  /** The depth it was read at, in rows that stand beside the one the recipe's main depth gives. */
  layer?: number;
  /** Learnt without the question's set. */
  transfer?: true;
}

/** One line of a predictions file: the question, what the model said of it, and how sure the row is. */
export interface RowPrediction {
  id: string;
  question: string;
  /** Every wording that counts as right. */
  answer: string[];
  group: string;
  kind: string;
  set?: string;
  seed: number;
  /** The answer the confidence is about. */
  said: string;
  given_correct: 0 | 1;
  confidence: number;
}

/** The row that a run leaves as its policy and its report is about. */
export const bestRow = "probe-joint";

/** Rows in the order of the report; each may stand for several numbers of labels. */
export const rowNames = [
  "probe-joint",
  "probe-joint-calibration-only",
  "probe-joint-elicitation-only",
  "probe-answer",
  "probe-answer-calibration-only",
  "probe-answer-elicitation-only",
  "probe-question",
  "probe-question-calibration-only",
  "probe-question-elicitation-only",
  ...["head-linear", "head-mlp"].flatMap((row) => [row, `${row}-calibration-only`, `${row}-elicitation-only`]),
  "lora-question",
  "lora-question-calibration-only",
  "lora-question-elicitation-only",
  "lora-question-elicitation-only-platt",
  "self-consistency-platt",
  "self-consistency",
  "consistency-lexical",
  "consistency-semantic",
  "verbal",
  "thermometer",
  "p-true",
  "mean-token-probability",
  "sequence-probability",
  "rate-of-kind",
];

/** A row's place among all, solved examples ("verbal-10") and what is not known last in its kind. */
const placeOf = (row: string): number => {
  const at = rowNames.indexOf(row.startsWith("verbal-") ? "verbal" : row);
  return at < 0 ? rowNames.length : at;
};

/** Rows in the order of the report. */
export const inOrder = <T>(rows: Record<string, T>): [string, T][] =>
  Object.entries(rows).sort(([a], [b]) => placeOf(a) - placeOf(b) || a.localeCompare(b, "en", { numeric: true }));

/** Pairs whose difference the report tells. */
export const comparisons: [string, string][] = [
  ["probe-joint", "probe-answer"],
  ["probe-joint", "self-consistency-platt"],
  ["probe-joint", "probe-joint-calibration-only"],
  ["probe-joint", "probe-joint-elicitation-only"],
  ["probe-joint", "sequence-probability"],
  ["probe-joint", "mean-token-probability"],
  ["probe-joint", "thermometer"],
  ["probe-answer", "self-consistency-platt"],
  ["probe-answer", "probe-answer-calibration-only"],
  ["probe-answer", "probe-answer-elicitation-only"],
  ["probe-answer", "probe-question"],
  ["probe-answer", "sequence-probability"],
  ["probe-answer", "mean-token-probability"],
  ["probe-question", "probe-question-calibration-only"],
  ["lora-question", "lora-question-calibration-only"],
  ["lora-question", "probe-question"],
  ["lora-question", "head-linear"],
  ["head-linear", "head-linear-calibration-only"],
  ["head-mlp", "head-mlp-calibration-only"],
  ["probe-answer", "thermometer"],
  ["lora-question", "self-consistency-platt"],
];

/** Ends the name of a row that was learnt without the question's set. */
const transferred = "-transfer";

/** Pairs of what never saw a question's set: against what did, and against labels alone. */
const transferComparisons: [string, string][] = [
  ...["probe-joint", "probe-answer", "probe-question", "head-linear", "head-mlp", "lora-question"].flatMap(
    (row): [string, string][] => [
      [`${row}-transfer`, row],
      [`${row}-transfer`, `${row}-calibration-only-transfer`],
    ],
  ),
  ["probe-answer-transfer", "self-consistency-platt-transfer"],
];

const comparedMetrics: MetricName[] = ["auroc", "ece", "brier"];

export const predictionsFile = "predictions.jsonl";

export const writePredictions = (directory: string, predictions: StagePrediction[]): void =>
  writeFileAtomic(join(directory, predictionsFile), toJsonLines(predictions));

export function readPredictions(directory: string): StagePrediction[] {
  const path = join(directory, predictionsFile);
  if (!existsSync(path)) throw new CredenceError("FILE", `${path} is missing; delete the run's folder and start again`);
  return fromJsonLines<StagePrediction>(readText(path));
}

/** A row's predictions, one list a seed, each in the order of the questions. */
export type Row = RowPrediction[][];

/** What a row's predictions are told apart by. */
export type RowAddress = Pick<StagePrediction, "row" | "labels" | "layer" | "transfer">;

/** A row by name, number of labels, depth and transfer, as files name it. */
export const rowKey = ({ row, labels, layer, transfer }: RowAddress, main: number): string =>
  [
    row,
    ...(layer === undefined ? [] : [`layer-${layer}`]),
    ...(transfer ? ["transfer"] : []),
    ...(labels === null || labels === main ? [] : [labels]),
  ].join("-");

/** All predictions of one row. */
export interface GatheredRow {
  address: RowAddress;
  seeds: Row;
}

/** Gathers stages' predictions by row, number of labels, depth and transfer, with what is known of each question. */
export function gatherRows(
  predictions: StagePrediction[],
  questions: LabelledRecord[],
  recipe: ElicalRecipe,
): Map<string, GatheredRow> {
  const rows = new Map<string, GatheredRow>();
  const sorted = [...predictions].sort((a, b) => a.seed - b.seed || a.index - b.index);
  for (const { seed, index, confidence, ...address } of sorted) {
    const key = rowKey(address, recipe.labels.main);
    const gathered = rows.get(key) ?? { address, seeds: [] };
    rows.set(key, gathered);
    const { id, question, answer, group, kind, set, given, given_correct } = questions[index]!;
    gathered.seeds[seed] ??= [];
    gathered.seeds[seed]!.push({
      id,
      question,
      answer,
      group,
      kind,
      ...(set === undefined ? {} : { set }),
      seed,
      said: given.text,
      given_correct,
      confidence,
    });
  }
  return rows;
}

/** What metrics are computed from. */
export const asPredictions = (row: RowPrediction[]): Prediction[] =>
  row.map(({ confidence, given_correct, group }) => ({ confidence, correct: given_correct, group }));

export type Metrics = Record<MetricName, MetricValue>;

/** What rows are worth on some of the questions. */
export interface View {
  /** At the main number of labels. */
  metrics: Record<string, Metrics>;
  /** Number of labels, then row, for every number that is not the main one. */
  labels: Record<string, Record<string, Metrics>>;
  /** Row, then depth, at the main number of labels. */
  layers: Record<string, Record<string, Metrics>>;
  /** Number of labels, then row: learnt without the set of the question that is tested. */
  transfer: Record<string, Record<string, Metrics>>;
  /** "a - b", then metric; by number of labels. Negative means a is lower. */
  differences: Record<string, Record<string, Record<string, MetricValue>>>;
}

/** The published three, without the threshold, which differs between seeds. */
export type Numbers = Omit<PublishedNumbers, "threshold">;

export interface Evaluated extends View {
  /**
   * AUROC and Alignment in hundredths and ECE by the published evaluation, means over the seeds; by set, then by row as
   * predictions' files name it. "all": where there are several sets, their mean in which each counts by its questions.
   */
  published: Record<string, Record<string, Numbers>>;
  /** Rows without labels on the questions that the LoRA rows are tested on, where the others are tested on all. */
  onSplit: Record<string, Metrics>;
  /** The same of each set of questions, where there are several. */
  sets: Record<string, View>;
}

/** Metrics of every row with intervals, and paired differences, all clustered by group. */
export function evaluateRows(rows: Map<string, GatheredRow>, recipe: ElicalRecipe): Evaluated {
  const all = view(rows, recipe);
  const sets = setsOf(recipe).map((set): [string, View] => {
    const own = [...rows].map(([key, { address, seeds }]): [string, GatheredRow] => [
      key,
      { address, seeds: seeds.map((seed) => seed.filter((prediction) => prediction.set === set)) },
    ]);
    return [set, view(new Map(own), recipe)];
  });
  const onSplit: Evaluated["onSplit"] = {};
  const lora = rows.get("lora-question");
  if (recipe.folds && lora) {
    const tested = new Set(lora.seeds[0]!.map(({ id }) => id));
    for (const row of ["sequence-probability", "mean-token-probability", "self-consistency"])
      onSplit[row] = worth([rows.get(row)!.seeds[0]!.filter(({ id }) => tested.has(id))], recipe);
  }
  return { ...all, onSplit, sets: Object.fromEntries(sets), published: publishedView(rows, recipe) };
}

/** The seed by which the published evaluation draws. */
const publishedSeed = 42;

function publishedView(rows: Map<string, GatheredRow>, recipe: ElicalRecipe): Evaluated["published"] {
  const compat = compatOf(recipe);
  const names = setsOf(recipe);
  const out: Evaluated["published"] = {};
  for (const [key, { seeds }] of rows) {
    const own = (names.length ? names : [undefined]).map((set) => {
      const parts = seeds.map((seed) => seed.filter((row) => set === undefined || row.set === set));
      const numbers = parts.map((part) => publishedNumbers(asPredictions(part), compat, publishedSeed));
      return { set, questions: parts.flat().length, ...each((name) => meanOf(numbers.map((one) => one[name]))) };
    });
    for (const { set, questions: _, ...numbers } of own) {
      const name = set ?? "all";
      out[name] = { ...out[name], [key]: numbers };
    }
    if (!names.length) continue;
    const all = each((name) =>
      own.some((set) => set[name] === null)
        ? null
        : questionWeighted(own.map((set) => ({ questions: set.questions, value: set[name]! }))),
    );
    out.all = { ...out.all, [key]: all };
  }
  return out;
}

const each = (of: (name: keyof Numbers) => number | null): Numbers => ({
  auroc: of("auroc"),
  ece: of("ece"),
  align: of("align"),
});

/** Null where one is. */
const meanOf = (values: readonly (number | null)[]): number | null =>
  values.includes(null) ? null : values.reduce<number>((sum, value) => sum + value!, 0) / values.length;

const bootstrapOf = ({ evaluation: { resamples, seed } }: ElicalRecipe) => ({ samples: resamples, seed });

const worth = (row: Row, recipe: ElicalRecipe): Metrics =>
  evaluate(row.map(asPredictions), { bins: recipe.evaluation.bins, bootstrap: bootstrapOf(recipe) });

function view(rows: Map<string, GatheredRow>, recipe: ElicalRecipe): View {
  const { main } = recipe.labels;
  const out: View = { metrics: {}, labels: {}, layers: {}, transfer: {}, differences: {} };
  const sorted = [...rows.values()].sort((a, b) => placeOf(a.address.row) - placeOf(b.address.row));
  for (const { address, seeds } of sorted) {
    const { row, labels, layer, transfer } = address;
    const values = worth(seeds, recipe);
    if (layer !== undefined) out.layers[row] = { ...out.layers[row], [layer]: values };
    else if (transfer) out.transfer[labels ?? main] = { ...out.transfer[labels ?? main], [row]: values };
    else if (labels === null || labels === main) out.metrics[row] = values;
    else out.labels[labels] = { ...out.labels[labels], [row]: values };
  }
  const difference = (a: Row, b: Row, metric: MetricName) =>
    pairedBootstrap(a.map(asPredictions), b.map(asPredictions), metric, {
      bins: recipe.evaluation.bins,
      ...bootstrapOf(recipe),
    });
  for (const labels of [...new Set([main, ...recipe.labels.counts])]) {
    const rowsOf = (name: string): Row | undefined => {
      const transfer = name.endsWith(transferred);
      const row = transfer ? name.slice(0, -transferred.length) : name;
      return rows.get(rowKey({ row, labels, ...(transfer ? { transfer } : {}) }, main))?.seeds;
    };
    for (const [a, b] of [...comparisons, ...(recipe.transfer ? transferComparisons : [])]) {
      // A row that uses no labels is the same at every number of them.
      const sides = [rowsOf(a), rowsOf(b) ?? rows.get(b)?.seeds];
      // Seeds are draws of labels: only those that both sides have are compared.
      const [left, right] = sides.map((side, i) => side?.filter((_, seed) => sides[1 - i]?.[seed] !== undefined));
      if (!left?.length || !right?.length || left[0]!.length !== right[0]!.length) continue;
      const differences = comparedMetrics.map((metric) => [metric, difference(left, right, metric)]);
      out.differences[labels] = { ...out.differences[labels], [`${a} - ${b}`]: Object.fromEntries(differences) };
    }
  }
  return out;
}

const rowFile = (runDirectory: string, key: string, seed: number, { seeds }: ElicalRecipe): string =>
  join(runDirectory, "predictions", `${key}${seeds > 1 ? `-seed${seed}` : ""}.jsonl`);

/** predictions/ROW.jsonl in the run's folder, one file a seed where there are several. */
export function writeRows(runDirectory: string, rows: Map<string, GatheredRow>, recipe: ElicalRecipe): void {
  for (const [key, { seeds }] of rows) {
    for (const [seed, predictions] of seeds.entries())
      writeFileAtomic(rowFile(runDirectory, key, seed, recipe), toJsonLines(predictions));
  }
}

/** A row's predictions, all seeds together. */
export function readRow(runDirectory: string, key: string, recipe: ElicalRecipe): RowPrediction[] {
  const paths = Array.from({ length: recipe.seeds }, (_, seed) => rowFile(runDirectory, key, seed, recipe)).filter(
    existsSync,
  );
  return paths.flatMap((path) => fromJsonLines<RowPrediction>(readText(path)));
}
