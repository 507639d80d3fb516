/** What a report is made of: plain data, so that a run's own files are enough to write it again. */
import type { MetricValue } from "../evaluation/bootstrap.js";
import type { MetricName } from "../evaluation/metrics.js";
import type { Prediction } from "../evaluation/rows.js";

export type Metrics = Record<MetricName, MetricValue>;

/** What a confidence costs for one question, the answer itself included. */
export interface RowCost {
  /** Times the model answers or reads the question. */
  passes: number;
  /** Tokens that go through the model, prompts and new ones; null where it is not known. */
  tokens: number | null;
  /** Labelled questions it was fitted to. */
  labels: number;
}

export interface ReportRow {
  /** As in summary.json, e.g. "probe-answer". */
  name: string;
  metrics: Metrics;
  cost?: RowCost;
}

/** The difference row - other of one metric, paired. */
export interface Difference {
  row: string;
  other: string;
  metric: MetricName;
  value: MetricValue;
  /** Number of labels on both sides; absent: the report's main number. */
  labels?: number;
}

export interface Mistake {
  question: string;
  /** What the model said. */
  said: string;
  /** Accepted answers. */
  expected: readonly string[];
  confidence: number;
  /** What the row `before` said of the same answer. */
  before?: number;
}

export interface ReportInput {
  /** Short name of the model, e.g. "SmolLM2-135M-Instruct". */
  model: string;
  /** What it was asked, for a sentence: "world-fact questions". */
  subject: string;
  questions: {
    /** Asked in all, and those among them that no fit saw and the metrics are about. */
    total: number;
    test: number;
    /** What rows of the bootstrap are drawn by, e.g. "country"; absent: questions one by one. */
    clusteredBy?: string;
    seeds?: number;
    folds?: number;
  };
  /** The row the report is about, the model's own voice before, and what asking again gives. */
  best: string;
  before: string;
  asking?: string;
  /** In the order to show. */
  rows: readonly ReportRow[];
  differences: readonly Difference[];
  /** Predictions of rows to draw, all seeds together: `best` and `before` at least, `asking` if there is one. */
  predictions: Readonly<Record<string, readonly Prediction[]>>;
  /** Rows at other numbers of labels (and the main one), to draw what labels buy. */
  byLabels?: readonly { row: string; labels: number; metrics: Metrics }[];
  /** Where the questions come from several sets: what rows are worth on each, and where the set was never learnt from. */
  sets?: readonly {
    name: string;
    test: number;
    /** Share of right answers. */
    accuracy: number;
    rows: readonly ReportRow[];
    transfer: readonly ReportRow[];
  }[];
  /** Rows that never learnt from the set of the question, over all sets. */
  transfer?: readonly ReportRow[];
  /** Rows by the depth they read at. */
  layers?: readonly { row: string; layer: number; metrics: Metrics }[];
  /** Wrong answers that `best` is most sure of, the surest first. */
  mistakes: readonly Mistake[];
  /** What ran, in order: name and text, e.g. ["model file", "model.gguf"], ["SHA-256", "..."]. */
  ran: readonly (readonly [name: string, text: string])[];
  /** The settings it ran with, in order. */
  settings: readonly (readonly [name: string, text: string])[];
  stages: readonly { name: string; seconds: number; peakBytes?: number }[];
  /** Sources and licences of model and questions, a sentence each. */
  notes?: readonly string[];
}
