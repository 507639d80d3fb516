/**
 * Trains a head alone on states of a frozen model that were collected before: the squared error of sigmoid(head) to the
 * target, AdamW, warm-up, then a straight line to zero. A linear head, or one with hidden layers and ReLU between.
 */
import { PythonRandom, permutation } from "../data/random.js";
import { CredenceError } from "../errors.js";
import { sigmoid } from "../model/calibrator.js";
import { learningRate } from "./schedule.js";

/** One layer: out = weight in + bias. */
export interface HeadLayer {
  inputs: number;
  outputs: number;
  /** [outputs, inputs], row-major. */
  weight: Float64Array;
  bias: Float64Array;
}

/** Layers in order; the last one has one output. */
export type FeatureHead = HeadLayer[];

export interface FeatureHeadTraining {
  /** [rows, width], row-major; standardise first. */
  features: Float32Array | Float64Array;
  width: number;
  /** Rows to learn from, and what the head should say of each, in [0, 1]. */
  rows: readonly number[];
  targets: ArrayLike<number>;
  epochs: number;
  batch: number;
  learningRate: number;
  weightDecay: number;
  warmup: number;
  seed: number;
  signal?: AbortSignal;
}

/** PyTorch's Linear initialisation, uniform in +-1/sqrt(inputs), from the seed; `widths`: of the hidden layers. */
export function newFeatureHead(width: number, widths: readonly number[], seed: number): FeatureHead {
  const random = new PythonRandom(seed);
  const sizes = [width, ...widths, 1];
  return sizes.slice(1).map((outputs, i) => {
    const inputs = sizes[i]!;
    const draw = () => (2 * random.random() - 1) / Math.sqrt(inputs);
    return {
      inputs,
      outputs,
      weight: Float64Array.from({ length: inputs * outputs }, draw),
      bias: Float64Array.from({ length: outputs }, draw),
    };
  });
}

/** What every layer gives for one row of features, the input first; ReLU after all but the last. */
function forward(head: FeatureHead, features: ArrayLike<number>, from: number, values: Float64Array[]): number {
  const input = values[0]!;
  for (let j = 0; j < input.length; j++) input[j] = features[from + j]!;
  for (const [i, { inputs, outputs, weight, bias }] of head.entries()) {
    const before = values[i]!;
    const after = values[i + 1]!;
    const last = i === head.length - 1;
    for (let o = 0; o < outputs; o++) {
      let sum = bias[o]!;
      const row = o * inputs;
      for (let j = 0; j < inputs; j++) sum += weight[row + j]! * before[j]!;
      after[o] = last || sum > 0 ? sum : 0;
    }
  }
  return values.at(-1)![0]!;
}

const buffers = (head: FeatureHead): Float64Array[] => [
  new Float64Array(head[0]!.inputs),
  ...head.map(({ outputs }) => new Float64Array(outputs)),
];

/** The head's logits of the rows named. */
export function readFeatureHead(
  head: FeatureHead,
  features: Float32Array | Float64Array,
  rows: readonly number[],
): Float64Array {
  const width = head[0]!.inputs;
  const values = buffers(head);
  return Float64Array.from(rows, (row) => forward(head, features, row * width, values));
}

const [beta1, beta2, epsilon, largestNorm] = [0.9, 0.999, 1e-8, 1];

/** Trains a copy of the head and returns it. */
export function trainFeatureHead(start: FeatureHead, job: FeatureHeadTraining): FeatureHead {
  const { features, width, rows, targets, signal } = job;
  if (!rows.length) throw new CredenceError("NOTHING_SUPERVISED", "head: there is no row to train on");
  const head = start.map((layer) => ({ ...layer, weight: layer.weight.slice(), bias: layer.bias.slice() }));
  const values = buffers(head);
  const upstream = buffers(head);
  const parameters = head.flatMap(({ weight, bias }) => [weight, bias]);
  const zeros = () => parameters.map(({ length }) => new Float64Array(length));
  const [gradients, first, second] = [zeros(), zeros(), zeros()];
  const random = new PythonRandom(job.seed);
  const steps = job.epochs * Math.ceil(rows.length / job.batch);
  const schedule = { kind: "linear" as const, peak: job.learningRate, steps, warmup: job.warmup };
  let step = 0;
  for (let epoch = 0; epoch < job.epochs; epoch++) {
    const order = permutation(rows, random);
    for (let at = 0; at < order.length; at += job.batch) {
      if (signal?.aborted)
        throw new CredenceError("ABORTED", "stopped while training a head; started again it begins anew");
      const some = order.slice(at, at + job.batch);
      for (const gradient of gradients) gradient.fill(0);
      for (const row of some) {
        const p = sigmoid(forward(head, features, row * width, values));
        // d (p - target)^2 / d logit, averaged over the step's rows.
        upstream.at(-1)![0] = (2 * (p - targets[row]!) * p * (1 - p)) / some.length;
        backward(head, values, upstream, gradients);
      }
      update(parameters, gradients, first, second, step, learningRate(schedule, step), job.weightDecay);
      step += 1;
    }
  }
  return head;
}

/** Adds one row's gradients; `upstream` holds the last layer's and is filled towards the first. */
function backward(
  head: FeatureHead,
  values: Float64Array[],
  upstream: Float64Array[],
  gradients: Float64Array[],
): void {
  for (let i = head.length - 1; i >= 0; i--) {
    const { inputs, outputs, weight } = head[i]!;
    const [input, given, below] = [values[i]!, upstream[i + 1]!, upstream[i]!];
    const [dWeight, dBias] = [gradients[2 * i]!, gradients[2 * i + 1]!];
    below.fill(0);
    for (let o = 0; o < outputs; o++) {
      const g = given[o]!;
      if (g === 0) continue;
      dBias[o]! += g;
      const row = o * inputs;
      for (let j = 0; j < inputs; j++) {
        dWeight[row + j]! += g * input[j]!;
        below[j]! += g * weight[row + j]!;
      }
    }
    // Where ReLU gave 0 nothing comes through.
    if (i > 0) for (let j = 0; j < inputs; j++) if (input[j] === 0) below[j] = 0;
  }
}

/** AdamW with the gradient's norm clipped to 1. */
function update(
  parameters: Float64Array[],
  gradients: Float64Array[],
  first: Float64Array[],
  second: Float64Array[],
  step: number,
  rate: number,
  decay: number,
): void {
  let squares = 0;
  for (const gradient of gradients) for (let j = 0; j < gradient.length; j++) squares += gradient[j]! * gradient[j]!;
  const norm = Math.sqrt(squares);
  const scale = norm > largestNorm ? largestNorm / norm : 1;
  const [correct1, correct2] = [1 - beta1 ** (step + 1), 1 - beta2 ** (step + 1)];
  for (const [k, values] of parameters.entries()) {
    const [gradient, m, v] = [gradients[k]!, first[k]!, second[k]!];
    for (let j = 0; j < values.length; j++) {
      const g = gradient[j]! * scale;
      m[j] = beta1 * m[j]! + (1 - beta1) * g;
      v[j] = beta2 * v[j]! + (1 - beta2) * g * g;
      values[j]! -= rate * (m[j]! / correct1 / (Math.sqrt(v[j]! / correct2) + epsilon) + decay * values[j]!);
    }
  }
}
