/** What reinforcement did: rows of confidences for the same questions, differences between them, the choice among tries. */
import { type BootstrapOptions, evaluate, type MetricValue, pairedBootstrap } from "../../evaluation/bootstrap.js";
import type { MetricName } from "../../evaluation/metrics.js";
import type { Prediction } from "../../evaluation/rows.js";
import { type Verdict, verdict } from "../../report/words.js";
import { readPpoLines } from "../../training/ppo/lines.js";
import type { ReinforcementRecipe, Try } from "./recipe.js";
import type { Said } from "./speaking.js";

type Evaluation = ReinforcementRecipe["evaluation"];

/** Names of the rows of a table, in its order. */
export const rowTitles = {
  after: "After PPO, as stated",
  ablation: "After PPO without what the method adds, as stated",
  before: "Fine-tuned to the form, as stated",
  direct: "Untrained, asked how sure it is",
  "answer-probe": "Fine-tuned, probe of its answer",
  "sequence-probability": "Fine-tuned, probability of its answer",
  "rate-of-kind": "Fine-tuned, rate of the kind of question",
  constant: "Fine-tuned, one rate for all",
} as const;
export type RowName = keyof typeof rowTitles;
/** Rows that a method may add. */
export type OtherRow = "direct" | "answer-probe";
/** Rows that not every method has. */
type Optional = "ablation" | OtherRow;
type Of<Value> = Record<Exclude<RowName, Optional>, Value> & Partial<Record<Optional, Value>>;

export interface RowResult {
  /** Where it is not the usual one. */
  title?: string;
  metrics: Record<MetricName, MetricValue>;
  /** Answers that state no confidence; they count with `evaluation.unstated`. Absent where confidences are not stated. */
  unstated?: number;
}

export interface Comparison {
  of: RowName;
  against: RowName;
  metric: MetricName;
  /** `of` less `against`, with a paired interval over groups. */
  difference: MetricValue;
  /** What of the whole interval can be said: "level" where it holds 0; null where there is none. */
  outcome: Verdict | null;
}

export interface Evaluated {
  rows: Of<RowResult>;
  comparisons: Comparison[];
}

/** The rows that there are, in a table's order, with their titles. */
export const titledRows = (rows: Evaluated["rows"]): [name: RowName, title: string, row: RowResult][] =>
  (Object.entries(rowTitles) as [RowName, string][]).flatMap(([name, usual]) => {
    const row = rows[name];
    return row ? [[name, row.title ?? usual, row]] : [];
  });

/** Confidences as they were stated; `unstated` where none was. */
export const statedPredictions = (said: readonly Said[], { unstated }: Evaluation): Prediction[] =>
  said.map(({ confidence, correct, group }) => ({ confidence: confidence ?? unstated, correct, group }));

/** The same answers with other confidences. */
const beliefs = (said: readonly Said[], confidence: (one: Said) => number): Prediction[] =>
  said.map((one) => ({ confidence: confidence(one), correct: one.correct, group: one.group }));

const rateOf = (said: readonly Said[]): number => {
  // One right and one wrong beside them: a kind of which all were right is not taken for sure.
  const right = said.reduce((sum, { correct }) => sum + correct, 0);
  return (right + 1) / (said.length + 2);
};

const bootstrapOf = ({ resamples, seed }: Evaluation): BootstrapOptions => ({ samples: resamples, seed });

/** What is compared with the fine-tuned policy whatever a method hopes for. */
const always: readonly MetricName[] = ["brier", "auroc", "ece", "accuracy"];

export interface Answered {
  /** Of the test questions, by the fine-tuned policy and by the reinforced one. */
  before: Said[];
  after: Said[];
  /** Of the test questions, without what the method adds. */
  ablation?: Said[];
  /** Of the validation questions, before: what rates are from. */
  labelled: Said[];
  /** Of the test questions, by others. */
  others?: Partial<Record<OtherRow, Prediction[]>>;
}

/** @param aims what a method hopes to better, against which row */
export function evaluateReinforcement(
  { before, after, ablation, labelled, others = {} }: Answered,
  settings: Evaluation,
  aims: readonly { metric: MetricName; against?: RowName }[],
): Evaluated {
  const overall = rateOf(labelled);
  const kinds = new Map(labelled.map(({ kind }) => [kind, rateOf(labelled.filter((one) => one.kind === kind))]));
  const predictions: Of<Prediction[]> = {
    after: statedPredictions(after, settings),
    ...(ablation ? { ablation: statedPredictions(ablation, settings) } : {}),
    before: statedPredictions(before, settings),
    "sequence-probability": beliefs(before, ({ probability }) => Math.min(1, probability)),
    "rate-of-kind": beliefs(before, ({ kind }) => kinds.get(kind) ?? overall),
    constant: beliefs(before, () => overall),
    ...others,
  };
  const options = { bins: settings.bins, bootstrap: bootstrapOf(settings) };
  const missing = (said: Said[]) => said.filter(({ confidence }) => confidence === null).length;
  const rows = Object.fromEntries(
    Object.entries(predictions).map(([name, row]) => [name, { metrics: evaluate(row, options) }]),
  ) as Evaluated["rows"];
  rows.before.unstated = missing(before);
  rows.after.unstated = missing(after);
  if (ablation) rows.ablation!.unstated = missing(ablation);
  const compared = (against: RowName, metrics: readonly MetricName[]): Comparison[] =>
    metrics.map((metric) => {
      const difference = pairedBootstrap(predictions.after, predictions[against]!, metric, {
        ...options.bootstrap,
        bins: settings.bins,
      });
      return { of: "after", against, metric, difference, outcome: verdict(metric, difference) };
    });
  const told = [...new Set([...always, ...aims.map(({ metric }) => metric)])];
  const aimedAt = new Set(aims.map(({ against }) => against));
  return {
    rows,
    comparisons: [
      ...compared("before", told),
      ...(ablation ? compared("ablation", told) : []),
      ...(Object.keys(others) as OtherRow[]).flatMap((row) =>
        compared(row, aimedAt.has(row) ? told : ["brier", "auroc"]),
      ),
      ...(["sequence-probability", "rate-of-kind", "constant"] as const).flatMap((row) =>
        compared(row, ["brier", "auroc"]),
      ),
    ],
  };
}

/** What a try came to, on the validation questions. */
export interface TryResult {
  name: string;
  accuracy: number;
  accuracyBefore: number;
  brier: number;
  brierBefore: number;
  auroc: number | null;
  unstated: number;
  /** Divergence in nats a completion, mean over the last tenth of the iterations. */
  kl: number;
  iterations: number;
}

export function tryResult(
  { name }: Try,
  said: Said[],
  before: Said[],
  folder: string,
  { evaluation }: Pick<ReinforcementRecipe, "evaluation">,
): TryResult {
  const measured = (answers: Said[]) => {
    const { accuracy, brier, auroc } = evaluate(statedPredictions(answers, evaluation), {
      bins: evaluation.bins,
      bootstrap: { samples: 0, seed: 0 },
    });
    return { accuracy: accuracy.value!, brier: brier.value!, auroc: auroc.value };
  };
  const [then, now] = [measured(before), measured(said)];
  const lines = [...readPpoLines(folder)];
  const last = lines.slice(-Math.ceil(lines.length / 10));
  return {
    name,
    ...now,
    accuracyBefore: then.accuracy,
    brierBefore: then.brier,
    unstated: said.filter(({ confidence }) => confidence === null).length,
    kl: last.reduce((sum, { values }) => sum + values.klOfCompletion!, 0) / last.length,
    iterations: lines.length,
  };
}

/** Of the tries that keep to the limits the one with the least Brier score; where none does, that which loses least accuracy. */
export function chooseTry(results: readonly TryResult[], { accuracyLoss, kl }: ReinforcementRecipe["limits"]): string {
  const lost = (one: TryResult) => one.accuracyBefore - one.accuracy;
  const kept = results.filter((one) => lost(one) <= accuracyLoss && one.kl <= kl);
  const [from, by] = kept.length ? [kept, (one: TryResult) => one.brier] : [results, lost];
  return from.reduce((best, one) => (by(one) < by(best) ? one : best)).name;
}
