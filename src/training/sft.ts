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
import { silent } from "../tracking/progress.js";
import { checkSame, newestCheckpoint } from "./checkpoint.js";
import { lockFolder } from "./lock.js";
import { type PlannedStep, type TrainingSettings, takeSteps } from "./loop.js";
import { learningRate } from "./schedule.js";
import { conversations, type Position, packs, type RowOptions, type Survey, start, surveyed } from "./sft-data.js";

/** What has no default. */
type Given = "directory" | "policy" | "learningRate";

/**
 * A pack is an optimiser step. Defaults: one epoch, seed 0, weight decay 0.01, a tenth warms up, a checkpoint each 50 steps, passes as
 * long as steps; windows of 8,192 records, "error" for rows that cannot be used as they are.
 */
export interface SftTraining
  extends Pick<TrainingSettings, Given>,
    Partial<Omit<TrainingSettings, Given | "card">>,
    Pick<RowOptions, "batchTokens">,
    Partial<Omit<RowOptions, "batchTokens">> {
  model: Model;
  records: RecordFile<{ messages: Message[] }>;
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
  const options = { batchTokens, windowRecords, truncate, unsupervised };
  const data = conversations(model, records, options, { seed: job.seed, epochs: job.epochs, signal: job.signal });
  const settings = {
    seed: job.seed,
    epochs: job.epochs,
    ...options,
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
  let position: Position = checkpoint?.state.sft?.position ?? start;
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
