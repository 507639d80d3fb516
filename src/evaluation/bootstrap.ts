/**
 * Metrics with intervals, by percentile bootstrap over clusters: a resample draws groups (a country, a document) with
 * replacement and takes all their rows, so that rows which know of each other do not pass for independent ones.
 */
import { CredenceError } from "../errors.js";
import { type MetricName, metricNames, metrics, undefinedReason } from "./metrics.js";
import { randomBelow } from "./random.js";
import { type Prediction, type Rows, readRows } from "./rows.js";

export interface BootstrapOptions {
  /** Resamples; 0 leaves the interval out. */
  samples: number;
  seed: number;
}

export interface EvaluateOptions {
  /** Of both calibration errors. */
  bins?: number;
  bootstrap?: BootstrapOptions;
}

/** A number with its 95 % interval (null when there were no resamples) and the rows it is about; or null, and why. */
export type MetricValue =
  | { value: number; low: number | null; high: number | null; n: number }
  | { value: null; reason: string };

/** One run's predictions, or those of several seeds: a metric is then the mean over the seeds. */
export type Runs = Iterable<Prediction> | readonly (readonly Prediction[])[];

export const defaultBootstrap: BootstrapOptions = { samples: 2000, seed: 0 };

/** Several runs over the same clusters. */
interface Sample {
  runs: Rows[];
  /** Of each run, the cluster number of each row. */
  clusters: Int32Array[];
  count: number;
  n: number;
}

function readRuns(given: Runs): Rows[] {
  const items = [...(given as Iterable<Prediction | readonly Prediction[]>)];
  return items.length > 0 && items.every(Array.isArray)
    ? (items as Prediction[][]).map((run) => readRows(run))
    : [readRows(items as Prediction[])];
}

function numberClusters(runs: Rows[]): Sample {
  const names = [...new Set(runs.flatMap((rows) => rows.cluster))].sort();
  const numbers = new Map(names.map((name, i) => [name, i]));
  return {
    runs,
    clusters: runs.map((rows) => Int32Array.from(rows.cluster, (name) => numbers.get(name)!)),
    count: names.length,
    n: runs[0]!.n,
  };
}

/** Calls back with how often each cluster was drawn, once a resample. */
function resample(
  clusters: number,
  { samples, seed }: BootstrapOptions,
  use: (counts: Int32Array, index: number) => void,
) {
  const below = randomBelow(seed);
  const counts = new Int32Array(clusters);
  for (let s = 0; s < samples; s++) {
    counts.fill(0);
    for (let i = 0; i < clusters; i++) counts[below(clusters)]!++;
    use(counts, s);
  }
}

function weigh(clusters: Int32Array, counts: Int32Array, weights: Int32Array): void {
  for (let i = 0; i < clusters.length; i++) weights[i] = counts[clusters[i]!]!;
}

/** Quantile of numbers in ascending order, linear between them. */
function quantile(sorted: Float64Array, q: number): number {
  const at = (sorted.length - 1) * q;
  const low = Math.floor(at);
  const high = Math.min(low + 1, sorted.length - 1);
  return sorted[low]! + (at - low) * (sorted[high]! - sorted[low]!);
}

/** The middle 95 % of the resamples where the statistic was defined. */
function interval(values: Float64Array): { low: number | null; high: number | null } {
  const defined = values.filter((v) => !Number.isNaN(v)).sort();
  return defined.length === 0
    ? { low: null, high: null }
    : { low: quantile(defined, 0.025), high: quantile(defined, 0.975) };
}

/** Mean over the runs; NaN if any is undefined. */
function statistic(sample: Sample, metric: MetricName, weights: (Int32Array | Float64Array)[], bins: number): number {
  let sum = 0;
  for (let r = 0; r < sample.runs.length; r++) sum += metrics[metric](sample.runs[r]!, weights[r]!, bins) ?? Number.NaN;
  return sum / sample.runs.length;
}

/**
 * Accuracy, AUROC, ECE (equal width and mass), Brier, NLL, AURC and Spearman's correlation of predictions, each with a 95 % interval.
 *
 * @param given predictions, or an array of them a seed
 * @throws CredenceError "BAD_INPUT" naming the row whose confidence is outside [0, 1]
 */
export function evaluate(
  given: Runs,
  { bins = 10, bootstrap = defaultBootstrap }: EvaluateOptions = {},
): Record<MetricName, MetricValue> {
  checkOptions(bins, bootstrap);
  const sample = numberClusters(readRuns(given));
  const drawn = Object.fromEntries(metricNames.map((name) => [name, new Float64Array(bootstrap.samples)])) as Record<
    MetricName,
    Float64Array
  >;
  const weights = sample.runs.map((rows) => new Int32Array(rows.n));
  resample(sample.count, sample.n === 0 ? { ...bootstrap, samples: 0 } : bootstrap, (counts, s) => {
    sample.clusters.forEach((clusters, r) => {
      weigh(clusters, counts, weights[r]!);
    });
    for (const name of metricNames) drawn[name][s] = statistic(sample, name, weights, bins);
  });
  const once = sample.runs.map((rows) => new Int32Array(rows.n).fill(1));
  const entries = metricNames.map((name): [MetricName, MetricValue] => {
    const value = statistic(sample, name, once, bins);
    if (!Number.isNaN(value)) return [name, { value, ...interval(drawn[name]), n: sample.n }];
    const rows = sample.runs.find((run, r) => metrics[name](run, once[r]!, bins) === null)!;
    return [name, { value: null, reason: undefinedReason(name, rows) }];
  });
  return Object.fromEntries(entries) as Record<MetricName, MetricValue>;
}

/**
 * The difference a - b of one metric, both on the same resample each time.
 *
 * @param a, b predictions on the same questions: the same groups, or without groups the same rows in the same order
 */
export function pairedBootstrap(
  a: Runs,
  b: Runs,
  metric: MetricName,
  { bins = 10, ...bootstrap }: BootstrapOptions & { bins?: number } = { ...defaultBootstrap },
): MetricValue {
  checkOptions(bins, bootstrap);
  const left = readRuns(a);
  const right = readRuns(b);
  const sample = numberClusters([...left, ...right]);
  const groups = (runs: Rows[]) => new Set(runs.flatMap((rows) => rows.cluster)).size;
  if (groups(left) !== sample.count || groups(right) !== sample.count) {
    throw new CredenceError(
      "BAD_INPUT",
      "paired bootstrap: the two sides are about different questions or groups; compare predictions on the same ones",
    );
  }
  const side = (runs: Rows[], from: number): Sample => ({
    runs,
    clusters: sample.clusters.slice(from, from + runs.length),
    count: sample.count,
    n: runs[0]!.n,
  });
  const first = side(left, 0);
  const second = side(right, left.length);
  const of = (half: Sample, weights: Int32Array[]) => statistic(half, metric, weights, bins);
  const ones = (half: Sample) => half.runs.map((rows) => new Int32Array(rows.n).fill(1));
  const value = of(first, ones(first)) - of(second, ones(second));
  if (Number.isNaN(value)) {
    const rows = sample.runs.find((run) => metrics[metric](run, new Int32Array(run.n).fill(1), bins) === null)!;
    return { value: null, reason: undefinedReason(metric, rows) };
  }
  const drawn = new Float64Array(bootstrap.samples);
  const scratch = sample.runs.map((rows) => new Int32Array(rows.n));
  resample(sample.count, bootstrap, (counts, s) => {
    sample.clusters.forEach((clusters, r) => {
      weigh(clusters, counts, scratch[r]!);
    });
    drawn[s] = of(first, scratch.slice(0, left.length)) - of(second, scratch.slice(left.length));
  });
  return { value, ...interval(drawn), n: first.n };
}

function checkOptions(bins: number, { samples, seed }: BootstrapOptions): void {
  if (!Number.isInteger(bins) || bins < 1) {
    throw new CredenceError("BAD_INPUT", `bins is ${bins}; expected a whole number from 1`);
  }
  if (!Number.isInteger(samples) || samples < 0) {
    throw new CredenceError("BAD_INPUT", `bootstrap.samples is ${samples}; expected a whole number from 0`);
  }
  if (!Number.isInteger(seed))
    throw new CredenceError("BAD_INPUT", `bootstrap.seed is ${seed}; expected a whole number`);
}
