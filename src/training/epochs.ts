/**
 * A training whose rows are all known at the start: its steps epoch by epoch. Where rows are held out, each epoch is held
 * against them and the best one is kept.
 */
import type { PlannedBatch } from "../data/packing.js";
import { makeFolder } from "../files.js";
import type { Policy } from "../policy/policy.js";
import { bestCheckpoint, type CheckpointState, checkSame, newestCheckpoint } from "./checkpoint.js";
import { type Evaluation, type PlannedStep, type TrainingSettings, takeSteps } from "./loop.js";
import { learningRate, type Schedule } from "./schedule.js";

/** How a training is held against rows of its own after each epoch. */
export interface Held {
  /** Stops after so many epochs without a smaller loss; null: never. */
  patience: number | null;
  /** Told after each epoch, with the losses of all so far; `best`: the last is the smallest. */
  told?(epoch: { losses: readonly number[]; best: boolean }, policy: Policy): void;
}

export interface EpochTraining extends TrainingSettings {
  validation?: Held;
  /** How the learning rate falls after the warm-up. Default "linear". */
  schedule?: Schedule["kind"];
}

/** What is learnt, and how it is held against rows. */
export interface Learnt {
  /** The step of these rows. */
  batch(rows: number[]): PlannedStep["batch"];
  /** The mean loss on the rows held out, and what metrics.jsonl tells beside it. */
  held(policy: Policy): Promise<{ loss: number; values?: Record<string, number> }>;
  /** Settings that a checkpoint must have been made with to be gone on from; default: any. */
  settings?: CheckpointState["settings"];
}

/**
 * Trains to the end and returns the policy, the best one where there is a validation, going on from the newest checkpoint
 * in the folder. Abort stops before the next step, after writing a checkpoint.
 *
 * @throws CredenceError "OTHER_RECIPE" where the folder was begun with other settings
 */
export async function trainEpochs(job: EpochTraining, plan: PlannedBatch[], learnt: Learnt): Promise<Policy> {
  const { directory, validation } = job;
  const { settings } = learnt;
  makeFolder(directory);
  const checkpoint = newestCheckpoint(directory);
  if (settings) checkSame(directory, checkpoint?.state, settings);
  const done = checkpoint?.state.step ?? 0;
  let held = checkpoint?.state.validation;
  if (done >= plan.length || exhausted(held, validation))
    return job.policy(validation ? bestCheckpoint(directory) : checkpoint!.directory);
  const policy = await job.policy(checkpoint?.directory);
  const kind = job.schedule ?? "linear";
  const schedule = { kind, peak: job.learningRate, steps: plan.length, warmup: job.warmup };

  const evaluate = async (step: number): Promise<Evaluation> => {
    const { patience, told } = validation!;
    const { loss, values } = await learnt.held(policy);
    const losses = [...(held?.losses ?? []), loss];
    const best = losses.slice(0, -1).every((before) => loss < before);
    held = { losses, bestStep: best ? step : held!.bestStep };
    told?.({ losses, best }, policy);
    return {
      values: { epoch: losses.length, validationLoss: loss, ...values },
      state: { validation: held },
      save: best,
      stop: exhausted(held, { patience }),
    };
  };
  function* steps(): Generator<PlannedStep, void, undefined> {
    for (let i = done; i < plan.length; i++) {
      const { epoch, rows } = plan[i]!;
      const ends = plan[i + 1]?.epoch !== epoch;
      yield {
        batch: learnt.batch(rows),
        values: { epoch },
        work: 1,
        state: { validation: held, settings },
        ...(validation && ends ? { evaluate } : {}),
      };
    }
  }
  let last: number;
  try {
    const rate = (step: number) => learningRate(schedule, step);
    last = await takeSteps({
      settings: job,
      policy,
      checkpoint,
      rate,
      steps: steps(),
      total: plan.length,
      done,
      unit: "steps",
    });
  } catch (error) {
    await policy.dispose();
    throw error;
  }
  if (!held || held.bestStep === last) return policy;
  await policy.dispose();
  return job.policy(bestCheckpoint(directory));
}

/** Whether the smallest loss is more epochs back than patience has. */
function exhausted(held: CheckpointState["validation"], validation: Held | undefined): boolean {
  if (!held || validation?.patience == null) return false;
  const best = held.losses.indexOf(Math.min(...held.losses));
  return held.losses.length - 1 - best >= validation.patience;
}
