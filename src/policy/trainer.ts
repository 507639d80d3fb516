/** One optimiser over a policy's numbers: a step with a loss of the engine's, or a forward held open for one of your own. */
import { type BatchLayout, families, flatten, flattenValues, microBatches } from "../data/packing.js";
import { CredenceError } from "../errors.js";
import type {
  DivergenceKind,
  ForwardResult,
  NativeLoss,
  NativeTrainer,
  OptimizerSpec,
  PassSize,
  ReadSpan,
  TensorData,
  Upstream,
} from "../native.js";
import type { Policy } from "./policy.js";

export interface TrainerOptions {
  optimizer?: Partial<OptimizerSpec>;
  /** The learning rate of each step, the first being 0, or one rate for all. */
  schedule: number | ((step: number) => number);
}

/** Rows of one optimiser step, and what they should say. */
export interface TrainingBatch extends BatchLayout {
  sequences: Int32Array[];
  loss: /** Weight (from 0) of each token's negative log-likelihood, row by row; 0: not supervised. What nothing comes before has none. */
    | { kind: "nll"; weights: Float32Array[] }
    /** (sigmoid(head at the last token) - target)^2 for each row; null: not supervised. */
    | { kind: "confidence"; head: string; targets: (number | null)[] }
    /** Negative log-likelihood of candidates[label] after each row's last token, among the candidates alone; null: none. */
    | { kind: "closed-set"; candidates: number[]; labels: (number | null)[] }
    /** Weight of each token's divergence between the adapter on (p) and off (q), row by row; q is constant. */
    | { kind: "divergence"; divergence: DivergenceKind; weights: Float32Array[] };
  /**
   * Tokens in one forward and backward pass at most (one row, or a prompt with its completions, at least); default all.
   * The loss is divided once for all.
   */
  microBatchTokens?: number;
}

/** Rows of one optimiser step of a head alone: hidden states [rows, H] that were collected before, and what it should say. */
export interface FeatureBatch {
  features: Float32Array;
  loss: { kind: "confidence"; head: string; targets: number[] };
}

export interface StepResult {
  /** Divided by the step's sum of weights, or its rows. */
  loss: number;
  /** Before clipping. */
  gradientNorm: number;
  learningRate: number;
}

/** What a forward pass held open is asked for. */
export interface PassReadouts extends BatchLayout {
  readouts?: ("logprobs" | "entropy")[];
  heads?: { name: string; spans: ReadSpan[] }[];
  /** Log-probabilities over these tokens alone; at the last token of each row unless told where. */
  closedSet?: { candidates: number[]; at?: { sequence: number; index: number }[] };
  /** Divergence between the adapter on (p) and off (q), at the tokens whose mask is not 0; default: all that something predicts. */
  divergence?: { kind: DivergenceKind; mask?: Uint8Array[] };
}

/** Read-outs of a forward pass that waits for its gradients. */
export interface OpenPass extends ForwardResult {
  /**
   * Adds the gradients of a loss, given its derivatives with respect to each read-out, in the read-out's layout. Once or
   * more often, until the trainer's next forward, step or update.
   *
   * @throws CredenceError "STALE_PASS" after that
   */
  backward(upstream: Upstream): Promise<void>;
}

export const defaultOptimizer: OptimizerSpec = {
  beta1: 0.9,
  beta2: 0.999,
  epsilon: 1e-8,
  weightDecay: 0.01,
  maxGradientNorm: 1,
};

/** What a loss gives for each row, and how it is called. */
function perRow({ loss }: TrainingBatch): [ArrayLike<unknown>, string] {
  if (loss.kind === "confidence") return [loss.targets, "targets"];
  return loss.kind === "closed-set" ? [loss.labels, "labels"] : [loss.weights, "weights"];
}

/** What the loss is divided by: the sum of weights, or rows. */
function countOf({ loss, prefixOf }: TrainingBatch): number {
  if (loss.kind === "confidence" || loss.kind === "closed-set")
    return (loss.kind === "confidence" ? loss.targets : loss.labels).filter((value) => value !== null).length;
  return sumOfWeights(loss.weights, prefixOf);
}

/** The part of a loss that some rows have. */
function lossOf({ sequences, loss }: TrainingBatch, rows: number[]): NativeLoss {
  if (loss.kind === "nll" || loss.kind === "divergence")
    return { ...loss, weights: flattenValues(rows.map((row) => loss.weights[row]!)) };
  const all = lastRows(rows.map((row) => sequences[row]!.length));
  const values = loss.kind === "closed-set" ? loss.labels : loss.targets;
  const supervised = [...rows.keys()].filter((i) => values[rows[i]!] !== null);
  const given = supervised.map((i) => values[rows[i]!]!);
  if (loss.kind === "closed-set") {
    return {
      kind: "closed-set",
      candidates: Int32Array.from(loss.candidates),
      rows: Int32Array.from(supervised, (i) => all[i]!),
      labels: Int32Array.from(given),
      weights: new Float32Array(given.length).fill(1),
    };
  }
  const spans = supervised.map((sequence) => {
    const length = sequences[rows[sequence]!]!.length;
    return { sequence, from: length - 1, to: length };
  });
  return { kind: "sigmoid-mse", head: loss.head, spans, targets: Float32Array.from(given) };
}

/** What `families` and the engine rely on, said before anything is run. */
function checkPrefixes(prefixOf: BatchLayout["prefixOf"], rows: number): void {
  if (prefixOf && prefixOf.length !== rows)
    throw new CredenceError("BAD_INPUT", `a batch of ${rows} rows has prefixOf for ${prefixOf.length}`);
  const wrong = prefixOf?.findIndex((prefix, row) => !Number.isInteger(prefix) || prefix < -1 || prefix >= row) ?? -1;
  if (wrong >= 0) {
    throw new CredenceError(
      "BAD_INPUT",
      `prefixOf: row ${wrong} goes on from row ${prefixOf![wrong]}; expected -1 or an earlier row`,
    );
  }
}

/** Where each sequence's last token lies in a flat batch. */
function lastRows(lengths: number[]): Int32Array {
  let end = 0;
  return Int32Array.from(lengths, (length) => {
    end += length;
    return end - 1;
  });
}

/** The flat batch's row of a token of a sequence. */
function rowAt(sequences: Int32Array[], offsets: Int32Array, sequence: number, index: number): number {
  const length = sequences[sequence]?.length ?? 0;
  if (!(index >= 0 && index < length)) {
    throw new CredenceError(
      "BAD_INPUT",
      `closedSet.at: expected a token of a sequence but received token ${index} of sequence ${sequence}, which has ${length}`,
    );
  }
  return offsets[sequence]! + index;
}

/** Of what can be learnt: a row's first token has no probability, unless the row goes on from another. */
function sumOfWeights(rows: Float32Array[], prefixOf: BatchLayout["prefixOf"]): number {
  let sum = 0;
  rows.forEach((weights, row) => {
    weights.forEach((weight, t) => {
      if (!(weight >= 0 && weight < Number.POSITIVE_INFINITY)) {
        throw new CredenceError(
          "BAD_INPUT",
          `row ${row}, token ${t}: its weight is ${weight}; expected a number from 0. For a loss of another kind use forward, backward and update`,
        );
      }
      if (t > 0 || (prefixOf?.[row] ?? -1) >= 0) sum += weight;
    });
  });
  return sum;
}

export class Trainer implements Disposable {
  private readonly native: NativeTrainer;
  private readonly rate: (step: number) => number;
  private readonly forget: () => void;
  private steps = 0;
  /** Counts what ends a pass held open. */
  private passes = 0;
  private disposed = false;

  /** Made by `policy.trainer()`. */
  constructor(policy: Policy, { optimizer, schedule }: TrainerOptions, forget: () => void) {
    this.native = policy.native.trainer({ ...defaultOptimizer, ...optimizer });
    this.rate = typeof schedule === "number" ? () => schedule : schedule;
    this.forget = forget;
  }

  /** One optimiser step; the loss is divided once, by the step's sum of weights, or its rows. */
  async step(batch: TrainingBatch | FeatureBatch): Promise<StepResult> {
    this.checkAlive();
    if ("features" in batch) return this.featureStep(batch);
    const rows = batch.sequences.length;
    const [given, name] = perRow(batch);
    if (given.length !== rows)
      throw new CredenceError("BAD_INPUT", `a batch of ${rows} rows has ${name} for ${given.length}`);
    const count = countOf(batch);
    if (!count)
      throw new CredenceError(
        "NOTHING_SUPERVISED",
        `the batch of ${rows} rows supervises no token: check the weights, or which messages are trained on`,
      );
    const { sequences, prefixOf, paddedTo, padTokens } = batch;
    checkPrefixes(prefixOf, rows);
    const together = families(prefixOf ?? sequences.map(() => -1));
    const lengths = together.map((family) => family.reduce((tokens, row) => tokens + sequences[row]!.length, 0));
    this.passes += 1;
    for (const chosen of microBatches(lengths, batch.microBatchTokens ?? Number.POSITIVE_INFINITY)) {
      const part = chosen.flatMap((family) => together[family]!).sort((a, b) => a - b);
      const prefixes = prefixOf && part.map((row) => part.indexOf(prefixOf[row]!));
      await this.native.accumulate(
        flatten(
          part.map((row) => sequences[row]!),
          {
            prefixOf: prefixes,
            paddedTo: paddedTo && part.map((row) => paddedTo[row]!),
            padTokens: padTokens && part.map((row) => padTokens[row]!),
          },
        ),
        lossOf(batch, part),
      );
    }
    return this.divide(count);
  }

  private async featureStep({ features, loss: { head, targets } }: FeatureBatch): Promise<StepResult> {
    this.passes += 1;
    const count = targets.length;
    await this.native.accumulateHead(head, features, Float32Array.from(targets));
    return this.divide(count);
  }

  /** A forward pass held open: compute a loss from what it gives, then call `backward` on it, then `update` here. */
  async forward(sequences: Int32Array[], asked: PassReadouts): Promise<OpenPass> {
    this.checkAlive();
    const { readouts = [], heads = [], closedSet, divergence, prefixOf } = asked;
    const batch = flatten(sequences, asked);
    this.passes += 1;
    const pass = this.passes;
    const result = await this.native.forward(batch, {
      logprobs: readouts.includes("logprobs"),
      entropy: readouts.includes("entropy"),
      heads,
      closedSet: closedSet && {
        candidates: Int32Array.from(closedSet.candidates),
        rows: closedSet.at
          ? Int32Array.from(closedSet.at, ({ sequence, index }) => rowAt(sequences, batch.offsets, sequence, index))
          : lastRows(sequences.map((sequence) => sequence.length)),
      },
      divergence: divergence && {
        kind: divergence.kind,
        mask: Uint8Array.from(
          flattenValues(
            divergence.mask ??
              sequences.map((row, b) => Uint8Array.from(row, (_, i) => (i > 0 || (prefixOf?.[b] ?? -1) >= 0 ? 1 : 0))),
          ),
        ),
      },
    });
    return {
      ...result,
      backward: async (upstream) => {
        this.checkAlive();
        if (pass !== this.passes) {
          throw new CredenceError(
            "STALE_PASS",
            "this pass is no longer held open: the trainer has run another since. Call backward before the next forward, step or update",
          );
        }
        await this.native.backward(upstream);
      },
    };
  }

  /** How the latest batch was cut; differs from the default only under a limit of memory. */
  get passSize(): PassSize {
    this.checkAlive();
    return this.native.passSize;
  }

  /** Divides what was accumulated by `count`, clips, takes one step. */
  async update({ count }: { count: number }): Promise<{ gradientNorm: number; learningRate: number }> {
    const { gradientNorm, learningRate } = await this.divide(count);
    return { gradientNorm, learningRate };
  }

  private async divide(count: number): Promise<StepResult> {
    this.checkAlive();
    const learningRate = this.rate(this.steps);
    this.passes += 1;
    const { loss, gradientNorm } = await this.native.update({ learningRate, count });
    if (!Number.isFinite(gradientNorm)) {
      throw new CredenceError(
        "DIVERGED",
        `the gradient of step ${this.steps + 1} is not a number. Lower the learning rate, or clip harder`,
      );
    }
    this.steps += 1;
    return { loss, gradientNorm, learningRate };
  }

  /** Gradients accumulated so far, not yet divided. */
  gradients(): TensorData[] {
    this.checkAlive();
    return this.native.gradients();
  }

  /** The optimiser's moments, step count and seed, for a checkpoint. */
  state(): { step: number; seed: number; tensors: TensorData[] } {
    this.checkAlive();
    return this.native.state();
  }

  /** Goes on from a checkpoint's state. */
  restore(state: { step: number; seed?: number; tensors: TensorData[] }): void {
    this.checkAlive();
    const given = new Map(state.tensors.map((tensor) => [tensor.name, tensor]));
    // The engine takes its tensors in its own order; a file has them by name.
    const tensors = this.native.state().tensors.map(({ name }) => {
      const tensor = given.get(name);
      if (!tensor)
        throw new CredenceError("BAD_CHECKPOINT", `the optimiser's state has no ${name}: it belongs to another policy`);
      return tensor;
    });
    this.native.restore({ ...state, tensors });
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
