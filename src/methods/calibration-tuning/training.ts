/**
 * A training of so many steps, saved and held against rows of its own at each tenth of them, as calibration-tuning's are: no
 * step is chosen, the last one counts. Rows come in a new order each epoch.
 */
import { createHash } from "node:crypto";
import { join } from "node:path";
import { shuffledBatches } from "../../data/packing.js";
import { CredenceError } from "../../errors.js";
import { type FileData, makeFolder, writeFolderAtomic } from "../../files.js";
import type { Policy } from "../../policy/policy.js";
import { type Progress, silent } from "../../tracking/progress.js";
import { checkSame, newestCheckpoint } from "../../training/checkpoint.js";
import { lockFolder } from "../../training/lock.js";
import { type OwnStep, type PlannedStep, type TrainingSettings, takeSteps } from "../../training/loop.js";
import { learningRate } from "../../training/schedule.js";

/** What is told to every training here. Published defaults: `tuningDefaults`. */
export interface StepSettings {
  steps: number;
  /** Rows of a step. */
  batch: number;
  /** Largest; it falls to 0 along half a cosine. */
  learningRate: number;
  /** Share of the steps that warms up. */
  warmup: number;
  weightDecay: number;
  seed: number;
}

/** As published, but for the steps, of which one was taken. */
export const tuningDefaults = {
  batch: 1,
  learningRate: 1e-4,
  warmup: 0,
  weightDecay: 0,
  seed: 137,
} as const satisfies Partial<StepSettings>;

/** The published adapter: on the query and value projections, its inputs dropped out. */
export const adapterDefaults = { rank: 8, alpha: 32, dropout: 0.1, targets: ["q", "v"] } as const;

/** Tokens of a pass at most. */
export const defaultPassTokens = 8192;

export interface StepTraining extends StepSettings {
  /** Checkpoints to go on from, metrics.jsonl, and a folder `checkpoint-<step>` for each tenth. */
  directory: string;
  /** The policy to start from, given the folder of a checkpoint to resume or undefined for a fresh start. */
  policy: TrainingSettings["policy"];
  microBatchTokens?: number;
  label?: string;
  progress?: Progress;
  signal?: AbortSignal;
}

/** What is learnt. */
export interface TaughtBySteps {
  rows: number;
  /** What another folder's training would differ by, beside the settings above. */
  settings: Record<string, string | number>;
  step(places: number[]): OwnStep;
  /** Means over rows held out; default: none are. */
  held?(policy: Policy): Promise<Record<string, number>>;
  /** Files of a `checkpoint-<step>` beside the policy's. */
  files?(policy: Policy): Record<string, FileData>;
}

/** Every step's rows. */
export function plannedSteps({ steps, batch, seed }: StepSettings, rows: number): number[][] {
  if (rows === 0) throw new CredenceError("NOTHING_SUPERVISED", "there is no row to train on");
  for (const [name, value] of Object.entries({ steps, batch }))
    if (!(Number.isInteger(value) && value > 0))
      throw new CredenceError("BAD_OPTION", `${name} is ${value}; expected a whole number from 1`);
  const epochs = Math.ceil(steps / Math.ceil(rows / batch));
  const lengths = Array.from({ length: rows }, () => 1);
  const plan = shuffledBatches({ lengths, batch, epochs, seed, order: "shuffled" });
  return plan.slice(0, steps).map(({ rows: places }) => places);
}

/** The rate of each step, the first being 0. */
export const cosineOf =
  ({ learningRate: peak, steps, warmup }: StepSettings): ((step: number) => number) =>
  (step) =>
    learningRate({ kind: "cosine", peak, steps, warmup }, step);

/** Of whatever a training's rows are. */
export function digestOf(parts: Iterable<string | NodeJS.ArrayBufferView>): string {
  const hash = createHash("sha256");
  for (const part of parts) hash.update(part);
  return hash.digest("hex");
}

/**
 * Trains to the end and returns the policy it ends with, going on from the newest checkpoint in the folder. Abort stops
 * before the next step, after writing a checkpoint.
 *
 * @throws CredenceError "OTHER_RECIPE" where the folder was begun with other settings or rows
 */
export async function trainBySteps(job: StepTraining, taught: TaughtBySteps): Promise<Policy> {
  makeFolder(job.directory);
  const unlock = lockFolder(job.directory);
  try {
    return await train(job, taught);
  } finally {
    unlock();
  }
}

async function train(job: StepTraining, { rows, settings: own, step, held, files }: TaughtBySteps): Promise<Policy> {
  const { directory, steps, batch, learningRate: peak, warmup, weightDecay, seed } = job;
  const plan = plannedSteps(job, rows);
  const every = Math.max(1, Math.floor(steps / 10));
  const settings = { ...own, rows, steps, batch, learningRate: peak, warmup, weightDecay, seed };
  const checkpoint = newestCheckpoint(directory);
  checkSame(directory, checkpoint?.state, settings);
  const done = checkpoint?.state.step ?? 0;
  const policy = await job.policy(checkpoint?.directory);
  if (done >= steps) return policy;
  const rate = cosineOf(job);

  const tenth = async (at: number) => {
    const values = (await held?.(policy)) ?? {};
    writeFolderAtomic(join(directory, `checkpoint-${at}`), { ...policy.files(undefined), ...files?.(policy) });
    const named = Object.fromEntries(Object.entries(values).map(([name, value]) => [`eval_${name}`, value]));
    return { values: named, state: { settings }, save: true, stop: false };
  };
  function* planned(): Generator<PlannedStep, void, undefined> {
    for (let i = done; i < plan.length; i++) {
      const told = (i + 1) % every === 0 || i + 1 === plan.length;
      yield {
        batch: step(plan[i]!),
        values: {},
        work: 1,
        state: { settings },
        ...(told ? { evaluate: tenth } : {}),
      };
    }
  }
  try {
    await takeSteps({
      settings: {
        directory,
        policy: job.policy,
        epochs: 1,
        learningRate: peak,
        weightDecay,
        warmup,
        seed,
        checkpointEvery: every,
        microBatchTokens: job.microBatchTokens ?? defaultPassTokens,
        label: job.label ?? "training",
        progress: job.progress ?? silent,
        signal: job.signal,
      },
      policy,
      checkpoint,
      rate,
      steps: planned(),
      total: steps,
      done,
      unit: "steps",
    });
    return policy;
  } catch (error) {
    await policy.dispose();
    throw error;
  }
}
