/**
 * The steps of a training in its folder: metrics, checkpoints, abort, going on from the newest checkpoint. What a step's
 * batch is follows from the seed and where the training stands, so that a run that was stopped ends with the same bytes.
 */
import { CredenceError } from "../errors.js";
import type { AnyCard } from "../model/card.js";
import type { ParameterGroup, PassSize } from "../native.js";
import type { Policy } from "../policy/policy.js";
import type { FeatureBatch, Trainer, TrainerOptions, TrainingBatch } from "../policy/trainer.js";
import { Metrics } from "../tracking/metrics.js";
import type { Progress } from "../tracking/progress.js";
import { type Checkpoint, type CheckpointState, writeCheckpoint } from "./checkpoint.js";

/** What groups of a policy's parameters have of their own. */
export type GroupRates = Partial<Record<ParameterGroup, { learningRate?: number; weightDecay?: number }>>;

/** What every training is told. */
export interface TrainingSettings {
  /** The stage's folder. */
  directory: string;
  /** The policy to start from, given the folder of a checkpoint to resume or undefined for a fresh start. */
  policy(checkpoint: string | undefined): Promise<Policy>;
  epochs: number;
  /** Largest learning rate. */
  learningRate: number;
  weightDecay: number;
  /** AdamW's decay of the mean of squared gradients; default 0.999. */
  beta2?: number;
  /** Gradients whose norm is above are scaled to it; 0: none is. Default 1. */
  maxGradientNorm?: number;
  /** Groups of parameters with a largest learning rate, which rises and falls with the other, or a weight decay of their own. */
  groups?: GroupRates;
  /** Share of the training that warms up. */
  warmup: number;
  /** Seed of the rows' order. */
  seed: number;
  /** Optimiser steps between checkpoints; the end always has one. */
  checkpointEvery: number;
  /** Tokens of one forward and backward pass at most (one row at least). */
  microBatchTokens: number;
  /** Folder of TensorBoard's events. Default: the stage's. */
  events?: string;
  card?: AnyCard;
  label: string;
  progress: Progress;
  signal?: AbortSignal;
  /** Told how batches are cut where a limit of memory decides it. */
  fitted?(choice: string): void;
}

/** What an epoch's end found. */
export interface Evaluation {
  values: Record<string, number>;
  /** For the step's checkpoint. */
  state: Partial<CheckpointState>;
  /** Whether the step has a checkpoint for its own sake. */
  save: boolean;
  /** Whether it was the last. */
  stop: boolean;
}

/** A step with a loss of one's own, on passes that it holds open. */
export interface OwnStep {
  /** How many it computes. */
  tokens: number;
  /** Adds the step's gradients up, and tells what they are of. */
  accumulate(trainer: Trainer): Promise<{
    /** Summed; the step's gradient is divided by `count`, and so is this where it is told. */
    loss: number;
    count: number;
    /** What metrics.jsonl tells beside it. */
    values?: Record<string, number>;
  }>;
}

/** One optimiser step to take. */
export interface PlannedStep {
  batch: Omit<TrainingBatch, "microBatchTokens"> | FeatureBatch | OwnStep;
  /** What metrics.jsonl tells of it beside the loss. */
  values: Record<string, number>;
  /** How much of the task it is. */
  work: number;
  /** Where the training stands after it, for its checkpoint. */
  state?: Partial<CheckpointState>;
  /** Done after it, before a checkpoint of it. */
  evaluate?(step: number): Promise<Evaluation>;
}

export interface Loop {
  settings: TrainingSettings;
  policy: Policy;
  checkpoint: Checkpoint | undefined;
  /** The rate of each step, the first being 0. */
  rate: (step: number) => number;
  /** What is left to do, in order. */
  steps: Iterable<PlannedStep> | AsyncIterable<PlannedStep>;
  /** The whole and what was done before, in the unit that `work` is in. */
  total: number;
  done: number;
  unit: string;
}

/**
 * Takes the steps. Abort stops before the next one, after writing a checkpoint.
 *
 * @returns how many steps were taken in all, those before the checkpoint included
 */
export async function takeSteps({ settings, policy, checkpoint, rate, steps, ...task }: Loop): Promise<number> {
  const { directory, seed, card, signal } = settings;
  let step = checkpoint?.state.step ?? 0;
  let saved = step;
  let state: Partial<CheckpointState> = {};
  const trainer = policy.trainer({
    optimizer: {
      weightDecay: settings.weightDecay,
      seed: settings.seed,
      ...(settings.beta2 === undefined ? {} : { beta2: settings.beta2 }),
      ...(settings.maxGradientNorm === undefined ? {} : { maxGradientNorm: settings.maxGradientNorm }),
    },
    schedule: rate,
    groups: groupSchedules(settings, rate),
  });
  if (checkpoint) trainer.restore({ step, seed: checkpoint.state.seed, tensors: checkpoint.moments });
  const metrics = new Metrics(directory, checkpoint?.state.metricsBytes ?? 0, step, settings.events);
  const save = () => {
    if (step === saved) return;
    writeCheckpoint(directory, {
      policy,
      trainer,
      card,
      state: { step, seed, metricsBytes: metrics.sync(), ...state },
    });
    saved = step;
  };
  const told = settings.progress.task(settings.label, task.total, task.unit, "tokens");
  told.advance(task.done);
  try {
    for await (const { batch, values, work, state: after, evaluate } of steps) {
      if (signal?.aborted) {
        save();
        throw new CredenceError("ABORTED", `stopped after step ${step}; started again it goes on from there`);
      }
      const started = performance.now();
      const result = await take(trainer, batch, settings.microBatchTokens);
      step += 1;
      state = after ?? {};
      const seconds = (performance.now() - started) / 1000;
      const tokens = tokensOf(batch);
      metrics.add(step, { ...values, tokens, ...result }, { seconds, tokensPerSecond: tokens / seconds });
      if (policy.model.maxMemory !== undefined) settings.fitted?.(passChoice(trainer.passSize));
      told.advance(work, tokens);
      const found = await evaluate?.(step);
      if (found) {
        metrics.add(step, found.values);
        state = { ...state, ...found.state };
        if (found.save) save();
        if (found.stop) break;
      }
      if (step % settings.checkpointEvery === 0) save();
    }
    save();
    return step;
  } finally {
    told.end();
    trainer.dispose();
  }
}

/** Each group's own rate, which is what the others' is of their largest. */
export function groupSchedules(
  { groups = {}, learningRate: largest }: Pick<TrainingSettings, "groups" | "learningRate">,
  rate: (step: number) => number,
): TrainerOptions["groups"] {
  return Object.fromEntries(
    Object.entries(groups).map(([group, { learningRate, weightDecay }]) => [
      group,
      {
        ...(learningRate === undefined ? {} : { schedule: (step: number) => (rate(step) / largest) * learningRate }),
        weightDecay,
      },
    ]),
  );
}

async function take(
  trainer: Trainer,
  batch: PlannedStep["batch"],
  microBatchTokens: number,
): Promise<Record<string, number>> {
  if (!("accumulate" in batch)) {
    const { ppo, ...result } = await trainer.step({ ...batch, microBatchTokens });
    return ppo ? { ...result, ...ppo, accepted: Number(ppo.accepted) } : result;
  }
  const { loss, count, values } = await batch.accumulate(trainer);
  return { ...values, loss: loss / count, ...(await trainer.update({ count })) };
}

function tokensOf(batch: PlannedStep["batch"]): number {
  if ("accumulate" in batch) return batch.tokens;
  return "features" in batch ? 0 : batch.sequences.reduce((sum, row) => sum + row.length, 0);
}

/** How batches are cut under a limit of memory, in words. */
export const passChoice = ({ tokens, recompute }: PassSize): string =>
  `to keep to the limit of memory: passes of at most ${tokens} tokens, ` +
  (recompute ? "blocks computed again on the way back" : "nothing computed twice");
