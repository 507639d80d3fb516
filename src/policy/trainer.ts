/** One optimiser over a policy's numbers: a step with a loss of the engine's, or a forward held open for one of your own. */
import { flatten, flattenValues, microBatches } from "../data/packing.js";
import { CredenceError } from "../errors.js";
import type { ForwardResult, NativeLoss, NativeTrainer, OptimizerSpec, ReadSpan, TensorData } from "../native.js";
import type { Policy } from "./policy.js";

export interface TrainerOptions {
  optimizer?: Partial<OptimizerSpec>;
  /** The learning rate of each step, the first being 0, or one rate for all. */
  schedule: number | ((step: number) => number);
}

/** Rows of one optimiser step, and what they should say. */
export interface TrainingBatch {
  sequences: Int32Array[];
  loss: /** Weight of each token's negative log-likelihood, row by row; 0: not supervised. */
    | { kind: "nll"; weights: Float32Array[] }
    /** (sigmoid(head at the last token) - target)^2 for each row. */
    | { kind: "confidence"; head: string; targets: number[] };
  /** Tokens in one forward and backward pass at most (one row at least); default all. The loss is divided once for all. */
  microBatchTokens?: number;
}

export interface StepResult {
  /** Divided by the step's count of supervised tokens or rows. */
  loss: number;
  /** Before clipping. */
  gradientNorm: number;
  learningRate: number;
}

/** Read-outs of a forward pass that waits for its gradients. */
export interface OpenPass extends ForwardResult {
  /** Gradients of the summed loss: per token for log-probs, per span for heads. */
  backward(upstream: { logprobs?: Float32Array; heads?: Record<string, Float32Array> }): Promise<void>;
}

export const defaultOptimizer: OptimizerSpec = {
  beta1: 0.9,
  beta2: 0.999,
  epsilon: 1e-8,
  weightDecay: 0.01,
  maxGradientNorm: 1,
};

/** The part of a loss that some rows have. */
function lossOf({ sequences, loss }: TrainingBatch, rows: number[]): NativeLoss {
  if (loss.kind === "nll") return { kind: "nll", weights: flattenValues(rows.map((row) => loss.weights[row]!)) };
  const spans = rows.map((row, sequence) => ({
    sequence,
    from: sequences[row]!.length - 1,
    to: sequences[row]!.length,
  }));
  return { kind: "sigmoid-mse", head: loss.head, spans, targets: Float32Array.from(rows, (row) => loss.targets[row]!) };
}

export class Trainer implements Disposable {
  private readonly native: NativeTrainer;
  private readonly rate: (step: number) => number;
  private readonly forget: () => void;
  private steps = 0;
  private disposed = false;

  /** Made by `policy.trainer()`. */
  constructor(policy: Policy, { optimizer, schedule }: TrainerOptions, forget: () => void) {
    this.native = policy.native.trainer({ ...defaultOptimizer, ...optimizer });
    this.rate = typeof schedule === "number" ? () => schedule : schedule;
    this.forget = forget;
  }

  /** One optimiser step; the loss is divided once, by the step's count of supervised tokens or rows. */
  async step(batch: TrainingBatch): Promise<StepResult> {
    this.checkAlive();
    const rows = batch.sequences.length;
    const { loss } = batch;
    const given = loss.kind === "nll" ? loss.weights.length : loss.targets.length;
    if (given !== rows)
      throw new CredenceError(
        "BAD_INPUT",
        `a batch of ${rows} rows has ${loss.kind === "nll" ? "weights" : "targets"} for ${given}`,
      );
    const count =
      loss.kind === "nll"
        ? loss.weights.reduce((sum, row) => sum + row.filter((weight) => weight !== 0).length, 0)
        : rows;
    if (!count)
      throw new CredenceError(
        "NOTHING_SUPERVISED",
        "the batch supervises no token: check the weights, or which messages are trained on",
      );
    const lengths = batch.sequences.map((row) => row.length);
    let sum = 0;
    for (const part of microBatches(lengths, batch.microBatchTokens ?? Number.POSITIVE_INFINITY)) {
      sum += await this.native.accumulate(flatten(part.map((row) => batch.sequences[row]!)), lossOf(batch, part));
    }
    return { loss: sum / count, ...(await this.update({ count })) };
  }

  /** A forward pass held open: compute a loss from what it gives, then call `backward` on it, then `update` here. */
  async forward(
    sequences: Int32Array[],
    {
      readouts = [],
      heads = [],
    }: { readouts?: ("logprobs" | "entropy")[]; heads?: { name: string; spans: ReadSpan[] }[] },
  ): Promise<OpenPass> {
    this.checkAlive();
    const result = await this.native.forward(flatten(sequences), {
      logprobs: readouts.includes("logprobs"),
      entropy: readouts.includes("entropy"),
      heads,
    });
    return { ...result, backward: (upstream) => this.native.backward(upstream) };
  }

  /** Divides what was accumulated by `count`, clips, takes one step. */
  async update({ count }: { count: number }): Promise<{ gradientNorm: number; learningRate: number }> {
    this.checkAlive();
    const learningRate = this.rate(this.steps);
    const { gradientNorm } = await this.native.update({ learningRate, count });
    if (!Number.isFinite(gradientNorm)) {
      throw new CredenceError(
        "DIVERGED",
        `the gradient of step ${this.steps + 1} is not a number. Lower the learning rate, or clip harder`,
      );
    }
    this.steps += 1;
    return { gradientNorm, learningRate };
  }

  /** Gradients accumulated so far, not yet divided. */
  gradients(): TensorData[] {
    this.checkAlive();
    return this.native.gradients();
  }

  /** The optimiser's moments and step count, for a checkpoint. */
  state(): { step: number; tensors: TensorData[] } {
    this.checkAlive();
    return this.native.state();
  }

  /** Goes on from a checkpoint's state. */
  restore(state: { step: number; tensors: TensorData[] }): void {
    this.checkAlive();
    const given = new Map(state.tensors.map((tensor) => [tensor.name, tensor]));
    // The engine takes its tensors in its own order; a file has them by name.
    const tensors = this.native.state().tensors.map(({ name }) => {
      const tensor = given.get(name);
      if (!tensor)
        throw new CredenceError("BAD_CHECKPOINT", `the optimiser's state has no ${name}: it belongs to another policy`);
      return tensor;
    });
    this.native.restore({ step: state.step, tensors });
    this.steps = state.step;
  }

  private checkAlive(): void {
    if (this.disposed)
      throw new CredenceError("DISPOSED", "this trainer was disposed of; make another with policy.trainer()");
  }

  dispose(): void {
    if (this.disposed) return;
    this.disposed = true;
    this.native.dispose();
    this.forget();
  }

  [Symbol.dispose](): void {
    this.dispose();
  }
}
