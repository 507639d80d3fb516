/**
 * Supervised fine-tuning on conversations: the negative log-likelihood of the turns that count, each token weighted as its
 * message says, divided once by the step's sum of weights. AdamW, warm-up, then a straight line to zero. The file is read
 * where it lies, so that memory does not grow with it.
 */
import type { RecordFile } from "../data/readers.js";
import { makeFolder } from "../files.js";
import type { Model } from "../policy/model.js";
import type { Policy } from "../policy/policy.js";
import type { Message } from "../text/chat.js";
import type { Truncate } from "../text/context.js";
import { type Progress, silent } from "../tracking/progress.js";
import { checkSame, newestCheckpoint } from "./checkpoint.js";
import { lockFolder } from "./lock.js";
import { type PlannedStep, type TrainingSettings, takeSteps } from "./loop.js";
import { learningRate } from "./schedule.js";
import { type Position, packs, type SftData, type Survey, survey } from "./sft-data.js";

/** What has no default. */
type Given = "directory" | "policy" | "learningRate";

/** Defaults: one epoch, seed 0, weight decay 0.01, a tenth warms up, a checkpoint each 50 steps, passes as long as steps. */
export interface SftTraining extends Pick<TrainingSettings, Given>, Partial<Omit<TrainingSettings, Given | "card">> {
  model: Model;
  records: RecordFile<{ messages: Message[] }>;
  /** Tokens of an optimiser step at most: rows are packed into it by best fit, and none is split. */
  batchTokens: number;
  /** Records that are shuffled and packed together: what is held in memory. Default 8,192. */
  windowRecords?: number;
  /** What to do with a row longer than the context or a step; see `fitToContext`. Default "error". */
  truncate?: Truncate;
  /** What to do with a row of which nothing counts. Default "error". */
  unsupervised?: "error" | "drop";
}

export interface SftResult {
  policy: Policy;
  steps: number;
  /** What was found in the records. */
  data: Survey;
  /** Share of the steps' budget of tokens that was used. */
  utilisation: number;
}

const defaults = {
  epochs: 1,
  seed: 0,
  weightDecay: 0.01,
  warmup: 0.1,
  checkpointEvery: 50,
  label: "training",
  progress: silent,
};

/**
 * Trains to the end, going on from the newest checkpoint in the folder. Before the first step all records are gone through
 * once, so that what is wrong with them is told before anything is learnt. The learning rate of a step is that of the
 * middle of its rows among those of all epochs. Abort stops before the next step, after writing a checkpoint.
 *
 * @throws CredenceError "ROW_TOO_LONG", "NOTHING_SUPERVISED", "DOUBLED_BOS" with counts; "OTHER_RECIPE" where the folder was
 *   begun with other settings or records
 */
export async function trainSft(job: SftTraining): Promise<SftResult> {
  makeFolder(job.directory);
  const unlock = lockFolder(job.directory);
  try {
    return await train(job);
  } finally {
    unlock();
  }
}

async function train(given: SftTraining): Promise<SftResult> {
  const job = { ...defaults, microBatchTokens: given.batchTokens, ...given };
  const { model, records, batchTokens, truncate = "error", unsupervised = "error", windowRecords = 8192 } = job;
  const { contextLength } = model.info;
  const data: SftData = {
    records,
    supervise: (messages) => model.supervise(messages),
    batchTokens,
    fit: {
      contextLength: Math.min(contextLength, batchTokens),
      limit: batchTokens < contextLength ? "batch" : "context",
      truncate,
      unsupervised,
    },
    seed: job.seed,
    epochs: job.epochs,
    windowRecords,
    signal: job.signal,
  };
  const settings = {
    seed: job.seed,
    epochs: job.epochs,
    batchTokens,
    windowRecords,
    truncate,
    unsupervised,
    learningRate: job.learningRate,
    weightDecay: job.weightDecay,
    warmup: job.warmup,
    records: records.records,
    ...(job.groups ? { groups: JSON.stringify(job.groups) } : {}),
  };
  const checkpoint = newestCheckpoint(job.directory);
  checkSame(job.directory, checkpoint?.state, settings);
  const found = checkpoint?.state.sft?.data ?? (await surveyed(job.progress, data));
  const policy = await job.policy(checkpoint?.directory);
  let position: Position = checkpoint?.state.sft?.position ?? { epoch: 0, window: 0, pack: 0, rows: 0, tokens: 0 };
  const total = found.rows * job.epochs;
  const result = (steps: number): SftResult => ({
    policy,
    steps,
    data: found,
    utilisation: position.tokens / (steps * batchTokens),
  });
  if (position.rows >= total) return result(checkpoint!.state.step);

  const schedule = { kind: "linear" as const, peak: job.learningRate, steps: total, warmup: job.warmup };
  const done = position.rows;
  let middle = 0;
  async function* steps(): AsyncGenerator<PlannedStep, void, undefined> {
    for await (const pack of packs(data, position)) {
      const rows = pack.sequences.length;
      middle = pack.position.rows - (rows + 1) / 2;
      const { sequences, weights, epoch } = pack;
      yield {
        batch: { sequences, loss: { kind: "nll", weights } },
        values: { epoch, rows, utilisation: pack.tokens / batchTokens },
        work: rows,
        state: { settings, sft: { position: pack.position, data: found } },
      };
      position = pack.position;
    }
  }
  try {
    const rate = () => learningRate(schedule, middle);
    return result(
      await takeSteps({ settings: job, policy, checkpoint, rate, steps: steps(), total, done, unit: "rows" }),
    );
  } catch (error) {
    await policy.dispose();
    throw error;
  }
}

async function surveyed(progress: Progress, data: SftData): Promise<Survey> {
  const task = progress.task("reading", data.records.records, "rows");
  try {
    return await survey(data, (rows) => task.advance(rows));
  } finally {
    task.end();
  }
}
