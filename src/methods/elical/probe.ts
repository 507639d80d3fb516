/**
 * A linear probe on the frozen model's hidden states that is elicited from agreement and calibrated on a few labels.
 *
 * Elicit: a ridge logistic fit to the agreement of all training questions (soft targets). Its depth and penalty are those
 * whose probe ranks the agreement of groups it was not fitted to best, on average over the inner folds (Spearman): no
 * label has a say.
 * Calibrate: a ridge fit to the labels that pulls towards the elicited weights (Platt-scaled on the same labels) or towards
 * zero. Which, and how hard, is what five-fold cross-validation on those labels likes best by log loss: the probe leans on
 * agreement as far as agreement tells.
 */
import { CredenceError } from "../../errors.js";
import { applyPlatt, type FitLogistic, fitPlatt } from "../../evaluation/calibrators.js";
import { spearman } from "../../evaluation/correlation.js";
import { shuffled } from "../../evaluation/random.js";
import { sigmoid } from "../../model/calibrator.js";

/** Hidden states of every question at one depth. */
export interface ProbeFeatures {
  depth: number;
  width: number;
  /** [questions, width], row-major. */
  data: Float32Array | Float64Array;
}

export interface ElicitOptions {
  /** One family ("question" or "answer") at several depths, over the same questions. */
  features: readonly ProbeFeatures[];
  /** [questions], in [0, 1]. */
  agreement: ArrayLike<number>;
  /** Rows to learn from. */
  train: readonly number[];
  /** Parts of them, whole groups each: depth and penalty are judged on one part after the other, fitted to the rest. */
  inner: readonly (readonly number[])[];
  fit: FitLogistic;
  penalties?: readonly number[];
  signal?: AbortSignal;
}

/** A probe that knows agreement and no label. */
export interface Elicited {
  depth: number;
  penalty: number;
  /** Spearman's correlation with agreement, mean over the inner parts; null where it is undefined for every candidate. */
  rank: number | null;
  /** Mean and deviation of each feature over the training rows. */
  mean: Float64Array;
  deviation: Float64Array;
  /** [questions, width], standardised. */
  standardised: Float64Array;
  /** [width + 1] on the standardised features, offset last. */
  weights: Float64Array;
}

/** What reads a raw hidden state: logit = weights . state + bias. */
export interface LinearHead {
  depth: number;
  weights: Float64Array;
  bias: number;
}

export interface CalibrateOptions {
  /** [questions], 0 or 1; only the labelled rows are read. */
  correct: ArrayLike<number>;
  /** Labelled rows. */
  labels: readonly number[];
  /** The labelled rows cut into the parts of cross-validation; see `labelParts`. */
  parts: readonly (readonly number[])[];
  /** Rows to give probabilities for. */
  test: readonly number[];
  fit: FitLogistic;
  penalties?: readonly number[];
  signal?: AbortSignal;
}

export interface ProbeResult {
  /** [test rows] */
  probabilities: Float64Array;
  head: LinearHead;
  /** What cross-validation chose; the elicitation-only row has no choice. */
  chosen: { pull: "zero" | "elicited"; penalty: number } | null;
}

export interface Calibrated {
  /** Elicited, then calibrated: EliCal. */
  elical: ProbeResult;
  /** The same labels without elicitation. */
  calibrationOnly: ProbeResult;
  /** The elicited probe with a slope and an offset from the same labels. */
  elicitationOnly: ProbeResult;
}

const elicitPenalties = [3e-3, 1e-2, 3e-2, 1e-1];
const calibratePenalties = [1e-2, 3e-2, 1e-1, 3e-1, 1, 10];

/** Labelled rows in random order, cut into parts of nearly equal size, the first ones longer; empty parts left out. */
export function labelParts(labels: readonly number[], seed: number, parts = 5): number[][] {
  const order = shuffled(labels, seed);
  let at = 0;
  return Array.from({ length: parts }, (_, i) => {
    const size = Math.floor(order.length / parts) + (i < order.length % parts ? 1 : 0);
    at += size;
    return order.slice(at - size, at);
  }).filter((part) => part.length > 0);
}

function checkAborted(signal: AbortSignal | undefined): void {
  if (signal?.aborted) throw new CredenceError("ABORTED", "stopped while fitting the probe; nothing was kept");
}

function gather(data: Float64Array, width: number, rows: readonly number[]): Float64Array {
  const out = new Float64Array(rows.length * width);
  rows.forEach((row, i) => {
    out.set(data.subarray(row * width, (row + 1) * width), i * width);
  });
  return out;
}

const pick = (values: ArrayLike<number>, rows: readonly number[]) => Float64Array.from(rows, (row) => values[row]!);

/** Mean and population deviation (plus 1e-6) over the training rows, and every row standardised by them. */
export function standardise({ data, width }: ProbeFeatures, train: readonly number[]) {
  const mean = new Float64Array(width);
  const deviation = new Float64Array(width);
  for (const row of train) for (let j = 0; j < width; j++) mean[j]! += data[row * width + j]! / train.length;
  for (const row of train) {
    for (let j = 0; j < width; j++) deviation[j]! += (data[row * width + j]! - mean[j]!) ** 2 / train.length;
  }
  for (let j = 0; j < width; j++) deviation[j] = Math.sqrt(deviation[j]!) + 1e-6;
  const standardised = new Float64Array(data.length);
  for (let i = 0; i < data.length; i++) standardised[i] = (data[i]! - mean[i % width]!) / deviation[i % width]!;
  return { mean, deviation, standardised };
}

/** weights . row + offset of the rows named. */
function logits(data: Float64Array, weights: Float64Array, rows: readonly number[]): Float64Array {
  const width = weights.length - 1;
  return Float64Array.from(rows, (row) => {
    let sum = weights[width]!;
    for (let j = 0; j < width; j++) sum += data[row * width + j]! * weights[j]!;
    return sum;
  });
}

/** Mean of those that are defined; null where none is. */
function mean(values: readonly (number | null)[]): number | null {
  const defined = values.filter((value) => value !== null);
  return defined.length ? defined.reduce((sum, value) => sum + value, 0) / defined.length : null;
}

/**
 * Learns agreement from the training rows.
 *
 * @throws CredenceError "BAD_INPUT" where there is no inner part, or one of them is empty or all of the training rows
 */
export async function elicit(options: ElicitOptions): Promise<Elicited> {
  const { features, agreement, train, inner, fit, penalties = elicitPenalties, signal } = options;
  const parts = inner.map((part) => {
    const held = new Set(part);
    return { held: part, rest: train.filter((row) => !held.has(row)) };
  });
  if (
    features.length === 0 ||
    parts.length === 0 ||
    parts.some(({ held, rest }) => held.length === 0 || rest.length === 0)
  ) {
    throw new CredenceError(
      "BAD_INPUT",
      `probe: ${train.length} training questions in ${parts.length} parts to choose depth and penalty by; give more questions, in at least 5 groups`,
    );
  }
  let best: (Omit<Elicited, "weights"> & { width: number }) | undefined;
  for (const feature of features) {
    const { width, depth } = feature;
    const scaled = standardise(feature, train);
    const ranks: (number | null)[][] = penalties.map(() => []);
    for (const { held, rest } of parts) {
      checkAborted(signal);
      const rows = gather(scaled.standardised, width, rest);
      const targets = pick(agreement, rest);
      const heldAgreement = pick(agreement, held);
      const fits = await Promise.all(
        penalties.map((penalty) => fit({ features: rows, rows: rest.length, width, targets, penalty })),
      );
      fits.forEach((weights, i) => {
        ranks[i]!.push(spearman(logits(scaled.standardised, weights, held), heldAgreement));
      });
    }
    penalties.forEach((penalty, i) => {
      const rank = mean(ranks[i]!);
      if (best === undefined || (rank ?? -2) > (best.rank ?? -2)) best = { depth, width, penalty, rank, ...scaled };
    });
  }
  checkAborted(signal);
  const { width, ...chosen } = best!;
  const weights = await fit({
    features: gather(chosen.standardised, width, train),
    rows: train.length,
    width,
    targets: pick(agreement, train),
    penalty: chosen.penalty,
  });
  return { ...chosen, weights };
}

/** The same read-out on raw hidden states: the standardisation folded into weights and offset. */
function fold({ depth, mean, deviation }: Elicited, weights: Float64Array): LinearHead {
  let bias = weights[mean.length]!;
  const raw = Float64Array.from(mean, (mu, j) => {
    const w = weights[j]! / deviation[j]!;
    bias -= mu * w;
    return w;
  });
  return { depth, weights: raw, bias };
}

/** Negative log-likelihood, probabilities taken no nearer than 1e-6 to 0 or 1. */
function logLoss(probabilities: Float64Array, targets: Float64Array): number {
  let loss = 0;
  for (let i = 0; i < targets.length; i++) {
    const p = Math.min(1 - 1e-6, Math.max(1e-6, probabilities[i]!));
    loss -= targets[i]! * Math.log(p) + (1 - targets[i]!) * Math.log(1 - p);
  }
  return loss;
}

/** Calibrates an elicited probe on labelled rows, beside its two twins on the same labels. */
export async function calibrate(elicited: Elicited, options: CalibrateOptions): Promise<Calibrated> {
  const { correct, labels, parts, test, fit, penalties = calibratePenalties, signal } = options;
  if (labels.length < 2) throw new CredenceError("BAD_INPUT", `probe: ${labels.length} labels; expected at least 2`);
  const { standardised, weights: elicitedWeights } = elicited;
  const width = elicited.mean.length;

  const platt = (rows: readonly number[]) =>
    fitPlatt(fit, logits(standardised, elicitedWeights, rows), pick(correct, rows));
  /** The elicited weights on the scale of the labels: where the ridge pulls to. */
  const scaledByPlatt = async (rows: readonly number[]) => {
    const { slope, offset } = await platt(rows);
    return elicitedWeights.map((w, j) => w * slope + (j === width ? offset : 0));
  };
  type Choice = NonNullable<ProbeResult["chosen"]>;
  const learn = (rows: readonly number[], { penalty }: Choice, towards: Float64Array | undefined) =>
    fit({
      features: gather(standardised, width, rows),
      rows: rows.length,
      width,
      targets: pick(correct, rows),
      penalty,
      towards,
    });

  const choices = (["zero", "elicited"] as const).flatMap((pull) => penalties.map((penalty) => ({ pull, penalty })));
  const losses = new Float64Array(choices.length);
  for (const part of parts) {
    checkAborted(signal);
    const left = new Set(part);
    const rest = labels.filter((row) => !left.has(row));
    if (rest.length === 0) continue;
    const towards = await scaledByPlatt(rest);
    const fits = await Promise.all(choices.map((c) => learn(rest, c, c.pull === "elicited" ? towards : undefined)));
    const targets = pick(correct, part);
    fits.forEach((weights, i) => {
      losses[i]! += logLoss(logits(standardised, weights, part).map(sigmoid), targets);
    });
  }
  checkAborted(signal);
  const cheapest = (among: readonly number[]) => among.reduce((best, i) => (losses[i]! < losses[best]! ? i : best));
  const all = choices.map((_, i) => i);
  const result = (weights: Float64Array, chosen: Choice | null): ProbeResult => ({
    probabilities: logits(standardised, weights, test).map(sigmoid),
    head: fold(elicited, weights),
    chosen,
  });
  const towards = await scaledByPlatt(labels);
  const finish = async (choice: Choice) =>
    result(await learn(labels, choice, choice.pull === "elicited" ? towards : undefined), choice);
  return {
    elical: await finish(choices[cheapest(all)]!),
    calibrationOnly: await finish(choices[cheapest(all.slice(0, penalties.length))]!),
    elicitationOnly: result(towards, null),
  };
}

/** The elicited probe as a head on raw hidden states. */
export const elicitedHead = (elicited: Elicited): LinearHead => fold(elicited, elicited.weights);

/** The probabilities of an elicited probe that never saw a label: what it thinks the agreement is. */
export function elicitedAgreement({ standardised, weights }: Elicited, rows: readonly number[]): Float64Array {
  return applyPlatt({ slope: 1, offset: 0 }, logits(standardised, weights, rows));
}
