/** CONQORD's first training: to answer, and then to state a confidence, as the data do. */
import { microBatches, shuffledBatches } from "../../data/packing.js";
import { CredenceError } from "../../errors.js";
import { makeFolder } from "../../files.js";
import type { Model } from "../../policy/model.js";
import type { Policy } from "../../policy/policy.js";
import { fitToContext, type Truncate } from "../../text/context.js";
import type { Tokenizer } from "../../text/tokenizer.js";
import type { Progress } from "../../tracking/progress.js";
import { trainEpochs } from "../../training/epochs.js";
import { lockFolder } from "../../training/lock.js";
import { digestOf } from "../../training/reward-model/train.js";
import { learntText } from "./data.js";
import type { RecordTexts } from "./sources.js";
import type { Learner } from "./training-models.js";
import { type SftSettings, scheduleOf } from "./training-settings.js";
import { labelledRow } from "./wire.js";

/** What each of the three trainings is told beside its settings. */
export interface TrainingContext {
  /** Folder of the training, which it goes on in. */
  directory: string;
  progress: Progress;
  signal?: AbortSignal;
}

export interface SftTraining extends TrainingContext {
  model: Model;
  learner: Learner;
  texts: readonly RecordTexts[];
  /** Held against each epoch, the best of which is given; without any the last is. */
  held?: readonly RecordTexts[];
  settings: SftSettings;
  /** What is learnt to follow an answer; default the token that ends the model's texts. */
  end?: string;
  /** What becomes of a row longer than `maxSeqLen`; one that counts with its padding loses its end, as published. */
  truncate?: Truncate;
  /** Folder of TensorBoard's events; default the training's. */
  events?: string;
}

/** AdamW's second decay in all three published trainings. */
export const publishedBeta2 = 0.95;

/** Iterations or steps between checkpoints; the end always has one. */
export const checkpointEvery = 50;

/** The token that ends a model's texts, as text. */
export const endOf = ({ specialTokens }: Tokenizer): string => specialTokens.eos_token ?? "";

/** What rows are padded with: PAD, or without one the token that ends a text, as published. */
export function padOf(tokenizer: Tokenizer): number {
  const pad = tokenizer.padId ?? tokenizer.idOf(endOf(tokenizer));
  if (pad !== undefined) return pad;
  throw new CredenceError(
    "BAD_MODEL",
    `${tokenizer.path}: the tokenizer has neither a PAD token nor one that ends a text. Give it one (credence convert --tokenizer), or pad nothing`,
  );
}

/** What a training that goes on must have begun with beside its settings. */
export const begunWith = (model: Model, { policy: _, ...learner }: Learner): Record<string, string> => ({
  model: model.sha256,
  learner: JSON.stringify(learner),
});

interface Row {
  ids: Int32Array;
  weights: Float32Array;
  supervised: Uint8Array;
}

/** Records tokenized at a time. */
const atOnce = 256;

async function rowsOf(
  { model, settings: { labels, maxSeqLen }, end = endOf(model.tokenizer), truncate }: SftTraining,
  texts: readonly RecordTexts[],
): Promise<Row[]> {
  const { tokenizer } = model;
  const first = tokenizer.addsBos ? [tokenizer.bosId!] : [];
  const length = maxSeqLen - first.length;
  const counted = labels === "answer" ? labels : { padded: { length, pad: padOf(tokenizer) } };
  const rows: Row[] = [];
  for (let from = 0; from < texts.length; from += atOnce) {
    const some = texts.slice(from, from + atOnce);
    for (const { ids, weights } of await Promise.all(
      some.map((one) => labelledRow(tokenizer, learntText(one, end), counted)),
    )) {
      // What stands behind the first token of all is predicted by it.
      if (first.length > 0 && labels === "padded") weights[0] = 1;
      const all = Float32Array.of(...first.map(() => 0), ...weights);
      rows.push({ ids: Int32Array.of(...first, ...ids), weights: all, supervised: Uint8Array.from(all) });
    }
  }
  const contextLength = Math.min(maxSeqLen, model.info.contextLength);
  return fitToContext(rows, { contextLength, ...(truncate ? { truncate } : {}) }).rows;
}

/** Mean negative log-likelihood of what counts, and its exponential. */
async function perplexity(policy: Policy, rows: readonly Row[], microBatchTokens: number, signal?: AbortSignal) {
  let [sum, count] = [0, 0];
  for (const places of microBatches(
    rows.map(({ ids }) => ids.length),
    microBatchTokens,
  )) {
    const some = places.map((place) => rows[place]!);
    const { logprobs } = await policy.forward(
      some.map(({ ids }) => ids),
      { logprobs: true },
      signal,
    );
    const weights = some.flatMap((row) => [...row.weights]);
    for (const [t, weight] of weights.entries()) {
      if (weight === 0) continue;
      sum -= weight * logprobs![t]!;
      count += weight;
    }
  }
  return { loss: sum / count, values: { perplexity: Math.exp(sum / count) } };
}

/** What went into a training. */
export interface SftResult {
  policy: Policy;
  rows: number;
  tokens: number;
}

/**
 * Trains to the end, going on from the newest checkpoint in the folder. A step's loss is the mean over its tokens that count.
 *
 * @throws CredenceError "ROW_TOO_LONG" with counts; "BAD_INPUT" where a text does not begin with its prompt; "OTHER_RECIPE" where the
 *   folder was begun with other settings or data
 */
export async function trainConqordSft(job: SftTraining): Promise<SftResult> {
  const { model, settings, directory, events, progress, signal } = job;
  const { perDeviceTrainBatchSize, maxSeqLen, numTrainEpochs: epochs, learningRate, weightDecay, seed } = settings;
  const rows = await rowsOf(job, job.texts);
  const held = job.held ? await rowsOf(job, job.held) : undefined;
  const batch = perDeviceTrainBatchSize * settings.gradientAccumulationSteps;
  const lengths = rows.map(({ ids }) => ids.length);
  const plan = shuffledBatches({ lengths, batch, epochs, seed, order: "shuffled" });
  const { schedule, warmup } = scheduleOf(settings.lrSchedulerType, settings.numWarmupSteps, plan.length);
  const microBatchTokens = perDeviceTrainBatchSize * maxSeqLen;
  const training = {
    directory,
    policy: job.learner.policy,
    epochs,
    learningRate,
    weightDecay,
    beta2: publishedBeta2,
    groups: job.learner.groups,
    schedule,
    warmup,
    seed,
    checkpointEvery,
    microBatchTokens,
    ...(events === undefined ? {} : { events }),
    ...(held ? { validation: { patience: null } } : {}),
    label: "fine-tuning",
    progress,
    ...(signal ? { signal } : {}),
  };
  const digest = (some: readonly Row[]) =>
    digestOf(some.map(({ ids, supervised }) => [ids, Int32Array.from(supervised)]));
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
      held: (current) => perplexity(current, held!, microBatchTokens, signal),
      settings: {
        ...begunWith(model, job.learner),
        settings: JSON.stringify(settings),
        rows: digest(rows),
        held: held ? digest(held) : "",
      },
    });
    return { policy, rows: rows.length, tokens: lengths.reduce((sum, length) => sum + length, 0) };
  } finally {
    unlock();
  }
}
