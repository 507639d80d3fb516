/** SaySelf's first training: to reason, to answer, to reflect and to state a confidence, as the rows do. */
import { shuffledBatches } from "../../data/packing.js";
import { CredenceError } from "../../errors.js";
import { makeFolder } from "../../files.js";
import type { Model } from "../../policy/model.js";
import type { Policy } from "../../policy/policy.js";
import { fitToContext, type Truncate } from "../../text/context.js";
import type { Tokenizer } from "../../text/tokenizer.js";
import { trainEpochs } from "../../training/epochs.js";
import { lockFolder } from "../../training/lock.js";
import { digestOf } from "../../training/reward-model/train.js";
import { begunWith, type TrainingContext } from "../conqord/train-sft.js";
import type { Learner } from "../conqord/training-models.js";
import { labelledRow } from "../conqord/wire.js";
import type { RowToLearn } from "./training-data.js";
import { type FinetuneSettings, saySelfSchedule } from "./training-settings.js";

export interface SaySelfFinetune extends TrainingContext {
  model: Model;
  learner: Learner;
  rows: readonly RowToLearn[];
  settings: FinetuneSettings;
  /** A beginning-of-sequence token, whether the tokenizer adds one or not. */
  addBos?: boolean;
  /** Optimiser steps between checkpoints, or one at the end of each epoch. Default 50. */
  checkpointEvery?: number | "epoch";
  /** What becomes of a row longer than `maxSeqLength`; default "error". Published: "right", its end is cut. */
  truncate?: Truncate;
}

export interface SaySelfFinetuneResult {
  policy: Policy;
  rows: number;
  tokens: number;
  steps: number;
}

/**
 * What a text begins with.
 *
 * @throws CredenceError "USAGE" where a token is to begin it and the tokenizer has none
 */
export function beginning({ bosId, addsBos }: Tokenizer, addBos = false): number[] {
  if (addBos && bosId === undefined)
    throw new CredenceError("USAGE", "--add_bos: this tokenizer has no token that begins a text");
  return bosId !== undefined && (addBos || addsBos) ? [bosId] : [];
}

/** Rows tokenized at a time. */
const atOnce = 256;

async function tokenRows({ model, rows, settings, addBos, truncate }: SaySelfFinetune) {
  const { tokenizer, info } = model;
  const first = beginning(tokenizer, addBos);
  const all: { ids: Int32Array; weights: Float32Array; supervised: Uint8Array }[] = [];
  for (let from = 0; from < rows.length; from += atOnce) {
    const some = rows.slice(from, from + atOnce);
    for (const { ids, weights } of await Promise.all(some.map((row) => labelledRow(tokenizer, row, "answer")))) {
      const own = Float32Array.of(...first.map(() => 0), ...weights);
      all.push({ ids: Int32Array.of(...first, ...ids), weights: own, supervised: Uint8Array.from(own) });
    }
  }
  const contextLength = Math.min(settings.maxSeqLength, info.contextLength);
  return fitToContext(all, { contextLength, ...(truncate ? { truncate } : {}) }).rows;
}

/**
 * Trains to the end, going on from the newest checkpoint in the folder. A step's loss is the mean over its tokens that are learnt: the
 * response's, the line break before it and its end.
 *
 * @throws CredenceError "ROW_TOO_LONG" with counts; "OTHER_RECIPE" where the folder was begun with other settings or rows
 */
export async function trainSaySelfFinetune(job: SaySelfFinetune): Promise<SaySelfFinetuneResult> {
  const { model, learner, settings, directory, progress, signal, checkpointEvery = 50 } = job;
  const { perDeviceTrainBatchSize: micro, gradientAccumulationSteps, numTrainEpochs, maxTrainSteps, seed } = settings;
  const rows = await tokenRows(job);
  const batch = micro * gradientAccumulationSteps;
  const each = Math.ceil(rows.length / batch);
  const epochs = maxTrainSteps === null ? numTrainEpochs : Math.ceil(maxTrainSteps / each);
  const lengths = rows.map(({ ids }) => ids.length);
  const whole = shuffledBatches({ lengths, batch, epochs, seed, order: "shuffled" });
  const plan = whole.slice(0, maxTrainSteps ?? whole.length);
  const training = {
    directory,
    policy: learner.policy,
    epochs,
    learningRate: settings.learningRate,
    weightDecay: settings.weightDecay,
    maxGradientNorm: settings.maxGradientNorm,
    groups: learner.groups,
    ...saySelfSchedule(settings, plan.length),
    seed,
    checkpointEvery: checkpointEvery === "epoch" ? each : checkpointEvery,
    microBatchTokens: micro * settings.maxSeqLength,
    label: "fine-tuning",
    progress,
    ...(signal ? { signal } : {}),
  };
  makeFolder(directory);
  const unlock = lockFolder(directory);
  try {
    const policy = await trainEpochs(training, plan, {
      batch: (places) => {
        const some = places.map((place) => rows[place]!);
        return {
          sequences: some.map(({ ids }) => ids),
          loss: { kind: "nll", weights: some.map((row) => row.weights) },
        };
      },
      held: () => Promise.reject(new Error("no rows are held out")),
      settings: {
        ...begunWith(model, learner),
        settings: JSON.stringify(settings),
        rows: digestOf(rows.map(({ ids, supervised }) => [ids, Int32Array.from(supervised)])),
      },
    });
    const tokens = lengths.reduce((sum, length) => sum + length, 0);
    return { policy, rows: rows.length, tokens, steps: plan.length };
  } finally {
    unlock();
  }
}
