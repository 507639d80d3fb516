/**
 * Trains an adapter and a head to say a number in [0, 1] at a prompt's last token: the squared error of sigmoid(head) to
 * the target, averaged over a step's rows. AdamW, warm-up, then a straight line to zero.
 */

import { shuffledBatches } from "../data/packing.js";
import { CredenceError } from "../errors.js";
import { makeFolder } from "../files.js";
import type { Policy } from "../policy/policy.js";
import type { TrainingBatch } from "../policy/trainer.js";
import { newestCheckpoint } from "./checkpoint.js";
import { type PlannedStep, type TrainingSettings, takeSteps } from "./loop.js";
import { learningRate } from "./schedule.js";

export interface ConfidenceRow {
  tokens: Int32Array;
  /** In [0, 1]. */
  target: number;
}

export interface ConfidenceTraining extends TrainingSettings {
  head: string;
  rows: ConfidenceRow[];
  /** Rows of one optimiser step. */
  batch: number;
}

/**
 * Trains to the end and returns the policy, going on from the newest checkpoint in the folder. Abort stops before the next
 * step, after writing a checkpoint.
 */
export async function trainConfidenceHead(job: ConfidenceTraining): Promise<Policy> {
  makeFolder(job.directory);
  const plan = plannedBatches(job);
  const checkpoint = newestCheckpoint(job.directory);
  const policy = await job.policy(checkpoint?.directory);
  const done = checkpoint?.state.step ?? 0;
  if (done >= plan.length) return policy;
  const schedule = { kind: "linear" as const, peak: job.learningRate, steps: plan.length, warmup: job.warmup };
  const steps = plan
    .slice(done)
    .map(({ epoch, rows }): PlannedStep => ({ batch: stepBatch(job, rows), values: { epoch }, work: 1 }));
  try {
    const rate = (step: number) => learningRate(schedule, step);
    await takeSteps({ settings: job, policy, checkpoint, rate, steps, total: plan.length, done, unit: "steps" });
  } catch (error) {
    await policy.dispose();
    throw error;
  }
  return policy;
}

/** What one optimiser step learns from. */
export function stepBatch(
  { rows, head, microBatchTokens }: Pick<ConfidenceTraining, "rows" | "head" | "microBatchTokens">,
  places: number[],
): TrainingBatch {
  return {
    sequences: places.map((row) => rows[row]!.tokens),
    loss: { kind: "confidence", head, targets: places.map((row) => rows[row]!.target) },
    microBatchTokens,
  };
}

/** Every step's rows, all epochs: it follows from the seed, so that a resumed run goes on with the same rows. */
export function plannedBatches(
  job: Pick<ConfidenceTraining, "rows" | "label" | "batch" | "epochs" | "seed">,
): { epoch: number; rows: number[] }[] {
  if (!job.rows.length) throw new CredenceError("NOTHING_SUPERVISED", `${job.label}: there is no row to train on`);
  const lengths = job.rows.map((row) => row.tokens.length);
  return shuffledBatches({ lengths, batch: job.batch, epochs: job.epochs, seed: job.seed });
}
