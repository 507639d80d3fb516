/**
 * Trains an adapter and a head to say a number in [0, 1] at a prompt's last token, or a head alone on hidden states that
 * were collected before: the squared error of sigmoid(head) to the target, averaged over a step's rows. AdamW, warm-up,
 * then a straight line to zero. Where rows are held out, each epoch is held against them and the best one is kept.
 */
import { type PlannedBatch, padRight, type RowOrder, shuffledBatches } from "../data/packing.js";
import { CredenceError } from "../errors.js";
import type { Policy } from "../policy/policy.js";
import type { FeatureBatch, TrainingBatch } from "../policy/trainer.js";
import { type Held, trainEpochs } from "./epochs.js";
import type { TrainingSettings } from "./loop.js";

export interface ConfidenceRow {
  tokens: Int32Array;
  /** In [0, 1]. */
  target: number;
}

/** A hidden state that was collected before. */
export interface FeatureRow {
  /** [H] */
  features: Float32Array;
  /** In [0, 1]. */
  target: number;
}

/** Rows read as index -1 of a batch padded on the right. */
export interface Padding {
  /** The PAD token's id. */
  token: number;
  /** How many rows are padded to the longest among them. */
  group: number;
}

/** Rows that a training is held against after each epoch: the policy of the smallest loss is the one it gives. */
export interface Validation<Row> extends Held {
  rows: Row[];
  /** How these rows are padded together, where rows are. */
  group?: number;
}

export interface HeadTraining<Row> extends TrainingSettings {
  head: string;
  rows: Row[];
  /** Rows of one optimiser step. */
  batch: number;
  /** Default "length-grouped". */
  order?: RowOrder;
  validation?: Validation<Row>;
}

export interface ConfidenceTraining extends HeadTraining<ConfidenceRow> {
  padding?: Padding;
}

/**
 * Trains to the end and returns the policy, the best one where there is a validation, going on from the newest checkpoint
 * in the folder. Abort stops before the next step, after writing a checkpoint.
 */
export function trainConfidenceHead(job: ConfidenceTraining): Promise<Policy> {
  return trainEpochs(job, plannedBatches(job), {
    batch: (places) => stepBatch(job, places),
    held: async (policy) => meanSquaredError(await rowLogits(policy, job), job.validation!.rows),
  });
}

/** The same for a head alone: the blocks are not run. */
export function trainHeadOnFeatures(job: HeadTraining<FeatureRow>): Promise<Policy> {
  const { rows, head } = job;
  return trainEpochs(job, planned(job, { lengths: rows.map(() => 1) }), {
    batch: (places): FeatureBatch => ({
      features: flat(places.map((row) => rows[row]!)),
      loss: { kind: "confidence", head, targets: places.map((row) => rows[row]!.target) },
    }),
    held: async (policy) =>
      meanSquaredError(policy.native.readHead(head, flat(job.validation!.rows)), job.validation!.rows),
  });
}

function flat(rows: FeatureRow[]): Float32Array {
  const width = rows[0]?.features.length ?? 0;
  const out = new Float32Array(rows.length * width);
  for (const [i, { features }] of rows.entries()) out.set(features, i * width);
  return out;
}

/** Of the rows held out. */
function rowLogits(policy: Policy, { head, padding, validation, signal }: ConfidenceTraining): Promise<Float32Array> {
  const tokens = validation!.rows.map((row) => row.tokens);
  if (!padding) return policy.logits(tokens, head, { signal });
  const { rows: padded, paddedTo } = padRight(tokens, padding.token, validation!.group ?? padding.group);
  return policy.logits(padded, head, { signal, paddedTo });
}

function meanSquaredError(logits: Float32Array, rows: { target: number }[]): { loss: number } {
  let sum = 0;
  for (const [i, { target }] of rows.entries()) sum += (1 / (1 + Math.exp(-logits[i]!)) - target) ** 2;
  return { loss: sum / rows.length };
}

/** What one optimiser step learns from. */
export function stepBatch(
  { rows, head, microBatchTokens, padding }: Pick<ConfidenceTraining, "rows" | "head" | "microBatchTokens" | "padding">,
  places: number[],
): TrainingBatch {
  const tokens = places.map((row) => rows[row]!.tokens);
  const { rows: sequences, paddedTo } = padding
    ? padRight(tokens, padding.token, padding.group)
    : { rows: tokens, paddedTo: undefined };
  return {
    sequences,
    ...(paddedTo ? { paddedTo } : {}),
    loss: { kind: "confidence", head, targets: places.map((row) => rows[row]!.target) },
    microBatchTokens,
  };
}

/** Every step's rows, all epochs: it follows from the seed, so that a resumed run goes on with the same rows. */
export const plannedBatches = (
  job: Pick<ConfidenceTraining, "rows" | "label" | "batch" | "epochs" | "seed" | "order">,
): PlannedBatch[] => planned(job, { lengths: job.rows.map((row) => row.tokens.length) });

function planned(
  job: Pick<HeadTraining<unknown>, "rows" | "label" | "batch" | "epochs" | "seed" | "order">,
  { lengths }: { lengths: number[] },
): PlannedBatch[] {
  if (!job.rows.length) throw new CredenceError("NOTHING_SUPERVISED", `${job.label}: there is no row to train on`);
  return shuffledBatches({ lengths, batch: job.batch, epochs: job.epochs, seed: job.seed, order: job.order });
}
