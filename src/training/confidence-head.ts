/**
 * Trains an adapter and a head to say a number in [0, 1] at a prompt's last token: the squared error of sigmoid(head) to
 * the target, averaged over a step's rows. AdamW, warm-up, then a straight line to zero.
 */

import { shuffledBatches } from "../data/packing.js";
import { CredenceError } from "../errors.js";
import { makeFolder } from "../files.js";
import type { Card } from "../model/card.js";
import type { PassSize } from "../native.js";
import type { Policy } from "../policy/policy.js";
import type { TrainingBatch } from "../policy/trainer.js";
import { Metrics } from "../tracking/metrics.js";
import type { Progress } from "../tracking/progress.js";
import { type Checkpoint, newestCheckpoint, writeCheckpoint } from "./checkpoint.js";
import { learningRate } from "./schedule.js";

export interface ConfidenceRow {
  tokens: Int32Array;
  /** In [0, 1]. */
  target: number;
}

export interface ConfidenceTraining {
  /** The stage's folder. */
  directory: string;
  /** The policy to start from, given the folder of a checkpoint to resume or undefined for a fresh start. */
  policy(checkpoint: string | undefined): Promise<Policy>;
  head: string;
  rows: ConfidenceRow[];
  epochs: number;
  /** Rows of one optimiser step. */
  batch: number;
  learningRate: number;
  weightDecay: number;
  /** Share of the steps that warms up. */
  warmup: number;
  /** Seed of the rows' order. */
  seed: number;
  /** Optimiser steps between checkpoints; the end always has one. */
  checkpointEvery: number;
  /** Tokens of one forward and backward pass at most (one row at least). */
  microBatchTokens: number;
  card?: Card;
  label: string;
  progress: Progress;
  signal?: AbortSignal;
  /** Told how batches are cut where a limit of memory decides it. */
  fitted?(choice: string): void;
}

/**
 * Trains to the end and returns the policy, going on from the newest checkpoint in the folder. Abort stops before the next
 * step, after writing a checkpoint.
 */
export async function trainConfidenceHead(job: ConfidenceTraining): Promise<Policy> {
  makeFolder(job.directory);
  const plan = plannedBatches(job);
  const checkpoint: Checkpoint | undefined = newestCheckpoint(job.directory);
  const policy = await job.policy(checkpoint?.directory);
  let step = checkpoint?.state.step ?? 0;
  if (step >= plan.length) return policy;
  const schedule = { kind: "linear" as const, peak: job.learningRate, steps: plan.length, warmup: job.warmup };
  const trainer = policy.trainer({
    optimizer: { weightDecay: job.weightDecay },
    schedule: (at) => learningRate(schedule, at),
  });
  if (checkpoint) trainer.restore({ step, tensors: checkpoint.moments });
  const metrics = new Metrics(job.directory, checkpoint?.state.metricsBytes ?? 0, step);
  const save = () =>
    writeCheckpoint(job.directory, {
      policy,
      trainer,
      card: job.card,
      state: { step, seed: job.seed, metricsBytes: metrics.sync() },
    });
  const task = job.progress.task(job.label, plan.length, "steps", "tokens");
  task.advance(step);
  try {
    let saved = step;
    while (step < plan.length) {
      if (job.signal?.aborted) {
        if (step > saved) save();
        throw new CredenceError(
          "ABORTED",
          `stopped after step ${step} of ${plan.length}; started again it goes on from there`,
        );
      }
      const { epoch, rows } = plan[step]!;
      const batch = stepBatch(job, rows);
      const started = performance.now();
      const result = await trainer.step(batch);
      step += 1;
      const seconds = (performance.now() - started) / 1000;
      const tokens = batch.sequences.reduce((sum, row) => sum + row.length, 0);
      if (policy.model.maxMemory !== undefined) job.fitted?.(passChoice(trainer.passSize));
      metrics.add(step, { epoch, tokens, ...result }, { seconds, tokensPerSecond: tokens / seconds });
      task.advance(1, tokens);
      if (step === plan.length || step % job.checkpointEvery === 0) {
        save();
        saved = step;
      }
    }
  } catch (error) {
    await policy.dispose();
    throw error;
  } finally {
    task.end();
    trainer.dispose();
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

/** How batches are cut under a limit of memory, in words. */
export const passChoice = ({ tokens, recompute }: PassSize): string =>
  `to keep to the limit of memory: passes of at most ${tokens} tokens, ` +
  (recompute ? "blocks computed again on the way back" : "nothing computed twice");

/** Every step's rows, all epochs: it follows from the seed, so that a resumed run goes on with the same rows. */
export function plannedBatches(
  job: Pick<ConfidenceTraining, "rows" | "label" | "batch" | "epochs" | "seed">,
): { epoch: number; rows: number[] }[] {
  if (!job.rows.length) throw new CredenceError("NOTHING_SUPERVISED", `${job.label}: there is no row to train on`);
  const lengths = job.rows.map((row) => row.tokens.length);
  return shuffledBatches({ lengths, batch: job.batch, epochs: job.epochs, seed: job.seed });
}
