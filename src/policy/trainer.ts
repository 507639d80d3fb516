/** One optimiser over a policy's numbers: a step with a loss of the engine's, or a forward held open for one of your own. */
import {
  type BatchLayout,
  families,
  flatMasks,
  flatten,
  flattenMask,
  flattenValues,
  microBatches,
} from "../data/packing.js";
import { CredenceError } from "../errors.js";
import type {
  DivergenceKind,
  ForwardResult,
  KlEstimator,
  NativeBatch,
  NativeLoss,
  NativePpoLoss,
  NativeReadouts,
  NativeTrainer,
  OptimizerSpec,
  ParameterGroup,
  PassSize,
  PolicyTensors,
  PpoSums,
  ReadSpan,
  TensorData,
  Upstream,
} from "../native.js";
import type { Policy } from "./policy.js";

/** The learning rate of each step, the first being 0, or one rate for all. */
export type Rate = number | ((step: number) => number);

/** What a group of parameters has of its own; default as all others. */
export interface GroupOptions {
  schedule?: Rate;
  /** In the place of the optimiser's. */
  weightDecay?: number;
}

export interface TrainerOptions {
  optimizer?: Partial<OptimizerSpec>;
  schedule: Rate;
  /**
   * Groups of the policy's parameters that learn at rates of their own, or decay otherwise. Gradients are clipped by the norm of all
   * of them.
   */
  groups?: Partial<Record<ParameterGroup, GroupOptions>>;
}

/**
 * Proximal policy optimisation over tokens that were sampled (`NativePpoLoss` has the formula). Lists are row by row, one number a
 * token; what has weight 0 is not read.
 */
export interface PpoLoss {
  kind: "ppo";
  /** Weight (from 0) of each token. */
  weights: Float32Array[];
  oldLogprobs: Float32Array[];
  advantages: Float32Array[];
  /** The ratio's range is [1 - low, 1 + high]; one number for both, Infinity for none. Default 0.2. */
  clip?: number | { low: number; high: number };
  /** Coefficient of the entropy that is wished for; default 0. */
  entropy?: number;
  /** Log-probabilities and entropy are those of the logits divided by it, as the old ones have to be; default 1. */
  temperature?: number;
  /** Divergence from the reference as a term of the loss. Estimator: default 1. */
  kl?: { reference: Float32Array[]; coefficient: number; estimator?: KlEstimator };
  /** A critic: what `head` says before each token. clip 0 (default): none. Coefficient: default 1. */
  value?: {
    head: string;
    weights: Float32Array[];
    oldValues?: Float32Array[];
    returns: Float32Array[];
    clip?: number;
    coefficient?: number;
    /** What the critic's loss is divided by; default the sum of its weights. */
    count?: number;
  };
  /** What the policy's loss is divided by; default the sum of its weights. */
  count?: number;
  /**
   * Language modelling beside it, of rows of its own (PPO-ptx: Ouyang et al. 2022, eq. 2): coefficient times the mean negative
   * log-likelihood by the rows' weights is added to the loss.
   */
  ptx?: { sequences: Int32Array[]; weights: Float32Array[]; coefficient: number };
  /**
   * Told what the step is like before anything is updated; false: nothing is, and the gradients are forgotten. The schedule does
   * not go on then.
   */
  accept?: (statistics: PpoStatistics) => boolean;
}

/** Of one step, before its update. Means are by the tokens' weights. */
export interface PpoStatistics {
  /** Divided by their counts; the value loss without its coefficient. */
  policyLoss: number;
  valueLoss: number;
  /** Mean entropy before the tokens, nats. */
  entropy: number;
  /** Mean ratio of new to old probability, and the largest |ratio - 1|. */
  ratio: number;
  ratioChange: number;
  /** Share of the tokens whose gradient clipping takes, and of those whose ratio is outside the range. */
  clipFraction: number;
  outsideFraction: number;
  /** Mean of old - new log-probability, and of half their difference's square. */
  approximateKl: number;
  approximateKl2: number;
  /** Mean estimate of the divergence from the loss's reference; 0 without one. */
  referenceKl: number;
  /** Mean (value - return)^2, and the share of the tokens whose gradient clipping takes. */
  valueError: number;
  valueClipFraction: number;
  /** Mean negative log-likelihood of the rows of `PpoLoss.ptx`; absent without them, and where the step was not taken. */
  ptxLoss?: number;
  /** Whether the step was taken (see `PpoLoss.accept`). */
  accepted: boolean;
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
    | { kind: "divergence"; divergence: DivergenceKind; weights: Float32Array[] }
    | PpoLoss;
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
  /** Before clipping; 0 where the step was not taken. */
  gradientNorm: number;
  /** Of all groups that have none of their own; 0 where the step was not taken. */
  learningRate: number;
  /** Of the loss "ppo". */
  ppo?: PpoStatistics;
}

/** What a forward pass held open is asked for. */
export interface PassReadouts extends BatchLayout {
  readouts?: ("logprobs" | "entropy")[];
  /** Both are those of the logits divided by it; default 1. */
  temperature?: number;
  heads?: { name: string; spans: ReadSpan[] }[];
  /** Log-probabilities over these tokens alone; at the last token of each row unless told where. */
  closedSet?: { candidates: number[]; at?: { sequence: number; index: number }[] };
  /** Divergence between the adapter on (p) and off (q), at the tokens whose mask is not 0; default: all that something predicts. */
  divergence?: { kind: DivergenceKind; mask?: Uint8Array[] };
  /** Row by row: log-probabilities, and entropy before, are read at the tokens whose mark is not 0; default everywhere. */
  mask?: Uint8Array[];
  /** A head of one output, read before each token whose mark is not 0: one number a token, 0 elsewhere. */
  values?: { head: string; mask: Uint8Array[] };
}

/** What a trainer goes on from. */
export interface TrainerState {
  step: number;
  /** Of dropout; absent: the trainer keeps its own. */
  seed?: number;
  /** The moments. */
  tensors: TensorData[];
  average?: PolicyTensors;
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

const rateOf = (schedule: Rate): ((step: number) => number) =>
  typeof schedule === "number" ? () => schedule : schedule;

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
  if (loss.kind === "ppo") {
    const count = loss.count ?? sumOfWeights(loss.weights, prefixOf);
    return count === 0 ? criticCount(loss, prefixOf) : count;
  }
  if (loss.kind === "confidence" || loss.kind === "closed-set")
    return (loss.kind === "confidence" ? loss.targets : loss.labels).filter((value) => value !== null).length;
  return sumOfWeights(loss.weights, prefixOf);
}

function criticCount({ value }: PpoLoss, prefixOf: BatchLayout["prefixOf"]): number {
  return value ? (value.count ?? sumOfWeights(value.weights, prefixOf)) : 0;
}

/** The part of it that some rows have; everything is divided by `count` in the end, the critic's loss by a count of its own. */
function ppoLossOf(
  { loss, prefixOf }: TrainingBatch & { loss: PpoLoss },
  rows: number[],
  count: number,
): NativePpoLoss {
  const flat = (list: Float32Array[]) => flattenValues(rows.map((row) => list[row]!));
  const { clip = 0.2, kl, value } = loss;
  return {
    kind: "ppo",
    weights: flat(loss.weights),
    oldLogprobs: flat(loss.oldLogprobs),
    advantages: flat(loss.advantages),
    clipLow: typeof clip === "number" ? clip : clip.low,
    clipHigh: typeof clip === "number" ? clip : clip.high,
    entropy: loss.entropy,
    temperature: loss.temperature,
    kl: kl && { reference: flat(kl.reference), coefficient: kl.coefficient, estimator: kl.estimator ?? 1 },
    value: value && {
      head: value.head,
      weights: flat(value.weights),
      oldValues: value.oldValues && flat(value.oldValues),
      returns: flat(value.returns),
      clip: value.clip,
      coefficient: ((value.coefficient ?? 1) * count) / (criticCount(loss, prefixOf) || 1),
    },
  };
}

/** Every list has a row for each sequence, and a number for each of its tokens. */
function checkPpo({ sequences, loss }: TrainingBatch & { loss: PpoLoss }): void {
  const { kl, value } = loss;
  const lists: [string, Float32Array[] | undefined][] = [
    ["weights", loss.weights],
    ["oldLogprobs", loss.oldLogprobs],
    ["advantages", loss.advantages],
    ...(kl ? ([["kl.reference", kl.reference]] as [string, Float32Array[]][]) : []),
    ...(value
      ? ([
          ["value.weights", value.weights],
          ["value.returns", value.returns],
          ...(value.clip ? [["value.oldValues", value.oldValues]] : []),
        ] as [string, Float32Array[] | undefined][])
      : []),
  ];
  for (const [name, list] of lists) {
    if (list?.length !== sequences.length)
      throw new CredenceError(
        "BAD_INPUT",
        `a batch of ${sequences.length} rows has ${name} for ${list?.length ?? "none"}`,
      );
    list.forEach((row, b) => {
      if (row.length !== sequences[b]!.length)
        throw new CredenceError(
          "BAD_INPUT",
          `${name}: row ${b} has ${sequences[b]!.length} tokens and ${row.length} numbers`,
        );
    });
  }
}

function ppoStatistics(sums: PpoSums, count: number, criticCount: number): Omit<PpoStatistics, "accepted"> {
  const mean = (sum: number) => (sums.weight === 0 ? 0 : sum / sums.weight);
  const meanValue = (sum: number) => (sums.valueWeight === 0 ? 0 : sum / sums.valueWeight);
  return {
    policyLoss: sums.policy / count,
    valueLoss: criticCount === 0 ? 0 : sums.value / criticCount,
    entropy: mean(sums.entropy),
    ratio: mean(sums.ratio),
    ratioChange: sums.ratioChange,
    clipFraction: mean(sums.clipped),
    outsideFraction: mean(sums.outside),
    approximateKl: mean(sums.oldKl1),
    approximateKl2: mean(sums.oldKl2),
    referenceKl: mean(sums.referenceKl),
    valueError: meanValue(sums.valueError),
    valueClipFraction: meanValue(sums.valueClipped),
  };
}

/** What the sums of a step's tokens come to, without the rows of `ptx`. */
function ownLoss(sums: PpoSums, { entropy = 0, kl, value }: PpoLoss, count: number, criticCount: number): number {
  const policy = sums.policy - entropy * sums.entropy + (kl?.coefficient ?? 0) * sums.referenceKl;
  return value ? policy + (value.coefficient ?? 1) * (count / (criticCount || 1)) * sums.value : policy;
}

/** The part of a loss that some rows have. */
function lossOf(
  { sequences, loss }: TrainingBatch & { loss: Exclude<TrainingBatch["loss"], PpoLoss> },
  rows: number[],
): NativeLoss {
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

/** What a pass over `batch`, which is these sequences, is asked for beside heads. */
export function nativeReadouts(
  sequences: Int32Array[],
  batch: NativeBatch,
  { readouts = [], temperature, closedSet, divergence, mask, values, prefixOf }: PassReadouts,
): NativeReadouts {
  return {
    logprobs: readouts.includes("logprobs"),
    entropy: readouts.includes("entropy"),
    temperature,
    ...flatMasks({ mask, values }),
    closedSet: closedSet && {
      candidates: Int32Array.from(closedSet.candidates),
      rows: closedSet.at
        ? Int32Array.from(closedSet.at, ({ sequence, index }) => rowAt(sequences, batch.offsets, sequence, index))
        : lastRows(sequences.map((sequence) => sequence.length)),
    },
    divergence: divergence && {
      kind: divergence.kind,
      mask: flattenMask(
        divergence.mask ??
          sequences.map((row, b) => Uint8Array.from(row, (_, i) => (i > 0 || (prefixOf?.[b] ?? -1) >= 0 ? 1 : 0))),
      ),
    },
  };
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
  private readonly groups: [ParameterGroup, GroupOptions][];
  private readonly forget: () => void;
  private steps = 0;
  /** Counts what ends a pass held open. */
  private passes = 0;
  private disposed = false;

  /** Made by `policy.trainer()`. */
  constructor(policy: Policy, { optimizer, schedule, groups = {} }: TrainerOptions, forget: () => void) {
    this.native = policy.native.trainer({ ...defaultOptimizer, ...optimizer });
    this.rate = rateOf(schedule);
    this.groups = Object.entries(groups) as [ParameterGroup, GroupOptions][];
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
    const parts = microBatches(lengths, batch.microBatchTokens ?? Number.POSITIVE_INFINITY).map((chosen) =>
      chosen.flatMap((family) => together[family]!).sort((a, b) => a - b),
    );
    const flat = (part: number[]) =>
      flatten(
        part.map((row) => sequences[row]!),
        {
          prefixOf: prefixOf && part.map((row) => part.indexOf(prefixOf[row]!)),
          paddedTo: paddedTo && part.map((row) => paddedTo[row]!),
          padTokens: padTokens && part.map((row) => padTokens[row]!),
        },
      );
    const { loss } = batch;
    return this.whole(async () => {
      if (loss.kind === "ppo") return this.ppoStep({ ...batch, loss }, parts, flat, count);
      for (const part of parts) await this.native.accumulate(flat(part), lossOf({ ...batch, loss }, part));
      return (await this.divide(count)).step;
    });
  }

  /** A step that fails half-way is forgotten: what its first parts added is no part of the next one. */
  private async whole(step: () => Promise<StepResult>): Promise<StepResult> {
    try {
      return await step();
    } catch (error) {
      if (!this.disposed) this.native.clearGradients();
      throw error;
    }
  }

  private async ppoStep(
    batch: TrainingBatch & { loss: PpoLoss },
    parts: number[][],
    flat: (part: number[]) => NativeBatch,
    count: number,
  ): Promise<StepResult> {
    checkPpo(batch);
    for (const part of parts) await this.native.accumulate(flat(part), ppoLossOf(batch, part, count));
    const { loss, prefixOf } = batch;
    const statistics = (sums: PpoSums, accepted: boolean): PpoStatistics => ({
      ...ppoStatistics(sums, count, criticCount(loss, prefixOf)),
      accepted,
    });
    const { ptx } = loss;
    if (loss.accept) {
      // Who judges the step first makes the device be waited for once more.
      const sums = await this.native.ppoSums();
      if (!loss.accept(statistics(sums, true))) {
        this.native.clearGradients();
        return { loss: sums.loss / count, gradientNorm: 0, learningRate: 0, ppo: statistics(sums, false) };
      }
    }
    if (ptx) await this.accumulatePtx(ptx, batch.microBatchTokens, count);
    const { step, ppo } = await this.divide(count);
    const told = statistics(ppo, true);
    if (ptx)
      told.ptxLoss = (ppo.loss - ownLoss(ppo, loss, count, criticCount(loss, prefixOf))) / count / ptx.coefficient;
    return { ...step, ppo: told };
  }

  /** Everything is divided by `count` in the end: the rows' weights are brought to it. */
  private async accumulatePtx(
    { sequences, weights, coefficient }: NonNullable<PpoLoss["ptx"]>,
    microBatchTokens = Number.POSITIVE_INFINITY,
    count: number,
  ): Promise<void> {
    const sum = sumOfWeights(weights, undefined);
    if (sum === 0)
      throw new CredenceError("NOTHING_SUPERVISED", `the ${sequences.length} rows of ptx supervise no token`);
    const scale = (coefficient * count) / sum;
    const scaled = weights.map((row) => row.map((weight) => weight * scale));
    const lengths = sequences.map(({ length }) => length);
    for (const part of microBatches(lengths, microBatchTokens))
      await this.native.accumulate(flatten(part.map((row) => sequences[row]!)), {
        kind: "nll",
        weights: flattenValues(part.map((row) => scaled[row]!)),
      });
  }

  private async featureStep({ features, loss: { head, targets } }: FeatureBatch): Promise<StepResult> {
    this.passes += 1;
    const count = targets.length;
    return this.whole(async () => {
      await this.native.accumulateHead(head, features, Float32Array.from(targets));
      return (await this.divide(count)).step;
    });
  }

  /** A forward pass held open: compute a loss from what it gives, then call `backward` on it, then `update` here. */
  async forward(sequences: Int32Array[], asked: PassReadouts): Promise<OpenPass> {
    this.checkAlive();
    const { heads = [] } = asked;
    const batch = flatten(sequences, asked);
    this.passes += 1;
    const pass = this.passes;
    const result = await this.native.forward(batch, { ...nativeReadouts(sequences, batch, asked), heads });
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
    const { gradientNorm, learningRate } = (await this.divide(count)).step;
    return { gradientNorm, learningRate };
  }

  private async divide(count: number): Promise<{ step: StepResult; ppo: PpoSums }> {
    this.checkAlive();
    const learningRate = this.rate(this.steps);
    this.passes += 1;
    const groups = Object.fromEntries(
      this.groups.map(([group, { schedule, weightDecay }]) => [
        group,
        { learningRate: schedule === undefined ? undefined : rateOf(schedule)(this.steps), weightDecay },
      ]),
    );
    const { loss, gradientNorm, ppo } = await this.native.update({ learningRate, count, groups });
    if (!Number.isFinite(gradientNorm)) {
      throw new CredenceError(
        "DIVERGED",
        `the gradient of step ${this.steps + 1} is not a number. Lower the learning rate, or clip harder`,
      );
    }
    this.steps += 1;
    return { step: { loss, gradientNorm, learningRate }, ppo };
  }

  /** Gradients accumulated so far, not yet divided. */
  gradients(): TensorData[] {
    this.checkAlive();
    return this.native.gradients();
  }

  /** The optimiser's moments, step count and seed, for a checkpoint, and the running average where one is kept. */
  state(): TrainerState & { seed: number } {
    this.checkAlive();
    const average = this.average();
    return { ...this.native.state(), ...(average ? { average } : {}) };
  }

  /**
   * The running average of the policy (`averageDecay`), under the names that `policy.native.setTensors` and a policy's folder
   * have; undefined where none is kept. It is no more than read here: what is trained goes on from its own numbers.
   */
  average(): PolicyTensors | undefined {
    this.checkAlive();
    return this.native.average();
  }

  /**
   * Goes on from a checkpoint's state.
   *
   * @throws CredenceError "BAD_CHECKPOINT" where it is another policy's, or an average is in one of the two alone
   */
  restore(state: TrainerState): void {
    this.checkAlive();
    // The engine takes its tensors in its own order; a file has them by name.
    const inOrder = (own: TensorData[], from: TensorData[], what: string): TensorData[] => {
      const given = new Map(from.map((tensor) => [tensor.name, tensor]));
      return own.map(({ name }) => {
        const tensor = given.get(name);
        if (!tensor) throw new CredenceError("BAD_CHECKPOINT", `${what} has no ${name}: it belongs to another policy`);
        return tensor;
      });
    };
    const all = ({ weights, adapter, heads }: PolicyTensors): TensorData[] => [...weights, ...adapter, ...heads];
    const own = this.native.average();
    if (!own !== !state.average) {
      const [there, here] = own ? ["no", "one"] : ["a", "none"];
      throw new CredenceError(
        "BAD_CHECKPOINT",
        `the optimiser's state has ${there} running average, and ${here} is kept here: set averageDecay as it was`,
      );
    }
    this.native.restore({
      ...state,
      tensors: inOrder(this.native.state().tensors, state.tensors, "the optimiser's state"),
      average: own && inOrder(all(own), all(state.average!), "the running average"),
    });
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
