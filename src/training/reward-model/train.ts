/**
 * Trains a reward model: a scalar head, with an adapter or without, on pairs of answers of which one is preferred, or on
 * answers that are rated one by one. AdamW, warm-up, then down to zero. Where rows are held out, each epoch is held against
 * them and the best one is kept.
 */
import { createHash } from "node:crypto";
import { type PlannedBatch, shuffledBatches } from "../../data/packing.js";
import { CredenceError } from "../../errors.js";
import { makeFolder } from "../../files.js";
import type { AnswerText, RewardCard } from "../../model/card.js";
import type { HeadSpec } from "../../native.js";
import type { Model, PolicyOptions } from "../../policy/model.js";
import type { Policy } from "../../policy/policy.js";
import { fitToContext } from "../../text/context.js";
import { silent } from "../../tracking/progress.js";
import { type EpochTraining, trainEpochs } from "../epochs.js";
import { lockFolder } from "../lock.js";
import { meanOfUnits, type Unit, unitStep, unitTokens } from "../units.js";
import { type PairChecks, type PairRecord, type PairRow, type PairSurvey, pairRows } from "./pairs.js";
import { answerRows, defaultText, type Prompted } from "./rows.js";
import { type PairwiseLoss, pairUnit, type RatedRow, type RatingLoss, ratingUnit } from "./units.js";

/** Name of the head of every reward model. */
export const rewardHead = "reward";

/** An answer with what its score should say; a record of src/data/records.ts. */
export interface RatingRecord extends Prompted {
  completion: string;
  target: number;
}

/** What has no default. */
type Given = "directory" | "learningRate";

/** What a training on preferences or ratings is told, whatever it learns. */
export interface PreferenceSettings
  extends Pick<EpochTraining, Given>,
    Partial<Omit<EpochTraining, Given | "card" | "policy" | "validation">> {
  model: Model;
  /** Pairs, or rated answers, of an optimiser step. Default 64. */
  batch?: number;
  /** How a prompt and an answer are put. Default: as a conversation where the model has a chat template, else plain. */
  text?: AnswerText;
  /** Pairs that fail, are left out or cut. */
  checks?: Omit<PairChecks, "prefixes">;
  /** Stops after so many epochs without a smaller loss on the rows held out; default null: never. */
  patience?: number | null;
}

interface RewardSettings extends PreferenceSettings {
  /**
   * The policy to start from: given the folder of a checkpoint to go on from, or undefined; and the head (of a fresh start
   * alone) and the card that it is to be made with. A start that has the head already is made with the card alone.
   */
  policy(checkpoint: string | undefined, made: Pick<PolicyOptions, "heads" | "card">): Promise<Policy>;
  /** Of a new head: whether it has a bias (default none: only differences of scores count), its depth, its seed. */
  head?: Pick<HeadSpec, "bias" | "layer" | "seed">;
  /** What a tail of kind "padded" pads with. Default: the tokenizer's PAD token. */
  padToken?: number;
}

/** Defaults: one epoch, 64 a step, seed 0, weight decay 0.01, a tenth warms up, passes of at most 4,096 tokens. */
export type RewardModelTraining = RewardSettings &
  (
    | { loss: PairwiseLoss; records: readonly PairRecord[]; held?: readonly PairRecord[] }
    | { loss: RatingLoss; records: readonly RatingRecord[]; held?: readonly RatingRecord[] }
  );

/** What was found in rated answers. */
export interface RatingSurvey {
  records: number;
  rows: number;
  tokens: number;
  longest: number;
  dropped: number;
  cut: number;
}

export interface RewardModelResult {
  policy: Policy;
  data: PairSurvey | RatingSurvey;
  /**
   * Of the policy given, on the rows held out, where there are any: the mean loss; of pairs the share in which the chosen
   * answer scores higher, the mean difference and the mean score of the chosen; of ratings the mean squared error (of the
   * sigmoid where cross-entropy is learnt).
   */
  held?: { loss: number; values: Record<string, number> };
}

export const preferenceDefaults = {
  epochs: 1,
  batch: 64,
  seed: 0,
  weightDecay: 0.01,
  warmup: 0.1,
  checkpointEvery: 50,
  microBatchTokens: 4096,
  label: "training",
  progress: silent,
  patience: null,
};

/** How a reward model is read. */
export const rewardCard = (model: Model, head: HeadSpec, text: AnswerText): RewardCard => ({
  version: 1,
  method: "reward-model",
  heads: [
    {
      name: head.name,
      layer: head.layer ?? model.info.layers,
      kind: head.kind,
      ...(head.widths ? { widths: head.widths } : {}),
      outputs: head.outputs ?? 1,
      ...(head.bias === undefined ? {} : { bias: head.bias }),
    },
  ],
  reward: { head: head.name, text },
  base: model.cardBase,
});

/**
 * Trains to the end, going on from the newest checkpoint in the folder. Before the first step all records are rendered and
 * checked, so that what is wrong with them is told before anything is learnt. Abort stops before the next step, after
 * writing a checkpoint.
 *
 * @returns the policy of the smallest loss on the rows held out, or the last where none are
 * @throws CredenceError "ROW_TOO_LONG", "NOTHING_SUPERVISED" with counts; "BAD_INPUT"; "OTHER_RECIPE" where the folder was
 *   begun with other settings or records
 */
export async function trainRewardModel(job: RewardModelTraining): Promise<RewardModelResult> {
  makeFolder(job.directory);
  const unlock = lockFolder(job.directory);
  try {
    return await train(job);
  } finally {
    unlock();
  }
}

async function train(given: RewardModelTraining): Promise<RewardModelResult> {
  const job = { ...preferenceDefaults, ...given };
  const { model, loss, head = {} } = job;
  const text = job.text ?? defaultText(model);
  const learnt = await unitsOf(given, text, given.records);
  const held = given.held?.length ? await unitsOf(given, text, given.held) : undefined;
  const spec: HeadSpec = { name: rewardHead, kind: "linear", outputs: 1, seed: job.seed, bias: false, ...head };
  const reads = { head: rewardHead };
  const { microBatchTokens, signal } = job;
  const card = rewardCard(model, spec, text);
  const training: EpochTraining = {
    ...job,
    card,
    ...(held ? { validation: { patience: job.patience } } : {}),
    policy: async (checkpoint) => {
      const policy = await given.policy(checkpoint, { heads: checkpoint === undefined ? [spec] : [], card });
      checkHead(policy, spec);
      return policy;
    },
  };
  const policy = await trainEpochs(training, planOf(learnt.units, job), {
    batch: (rows) =>
      unitStep(
        rows.map((row) => learnt.units[row]!),
        reads,
        microBatchTokens,
      ),
    held: (current) => meanOfUnits(current, held!.units, reads, { microBatchTokens, signal }),
    settings: {
      loss: JSON.stringify(loss),
      ...settingsOf(job, text),
      records: learnt.digest,
      held: held?.digest ?? "",
    },
  });
  const { survey } = learnt;
  if (!held) return { policy, data: survey };
  return { policy, data: survey, held: await meanOfUnits(policy, held.units, reads, { microBatchTokens, signal }) };
}

function checkHead({ heads, model }: Policy, wanted: HeadSpec): void {
  const own = heads.find(({ name }) => name === rewardHead);
  if (!own)
    throw new CredenceError("NO_HEAD", `the policy to train has no head "${rewardHead}": make it with those given`);
  const described = ({ kind, widths, bias = true, layer = model.info.layers }: HeadSpec) =>
    `${kind}${widths ? ` of ${widths.join(", ")}` : ""}, depth ${layer}, ${bias ? "a" : "no"} bias`;
  if (described(own) === described(wanted)) return;
  throw new CredenceError(
    "WRONG_HEAD",
    `the policy to train has another head "${rewardHead}" (${described(own)}) than is asked for (${described(wanted)})`,
  );
}

/** Every step's units, all epochs. */
export const planOf = (
  units: readonly Unit[],
  { batch, epochs, seed }: { batch: number; epochs: number; seed: number },
): PlannedBatch[] => shuffledBatches({ lengths: units.map(unitTokens), batch, epochs, seed, order: "length-grouped" });

/** What a checkpoint must agree with. */
export const settingsOf = (
  job: Pick<EpochTraining, "epochs" | "seed" | "learningRate" | "weightDecay" | "warmup" | "schedule"> & {
    batch: number;
  },
  text: AnswerText,
) => ({
  epochs: job.epochs,
  batch: job.batch,
  seed: job.seed,
  learningRate: job.learningRate,
  weightDecay: job.weightDecay,
  warmup: job.warmup,
  schedule: job.schedule ?? "linear",
  text: JSON.stringify(text),
});

/** A checksum of what is learnt from. */
export function digestOf(rows: Iterable<readonly (Int32Array | number)[]>): string {
  const hash = createHash("sha256");
  for (const row of rows) {
    for (const part of row) {
      if (typeof part === "number") hash.update(`${part};`);
      else hash.update(`${part.length}:`).update(new Uint8Array(part.buffer, part.byteOffset, part.byteLength));
    }
  }
  return hash.digest("hex").slice(0, 16);
}

/** A checksum of pairs. */
export const pairDigest = (rows: readonly PairRow[]): string =>
  digestOf(rows.map(({ chosen, rejected, margin }) => [chosen.ids, chosen.from, rejected.ids, rejected.from, margin]));

interface Units {
  units: Unit[];
  survey: PairSurvey | RatingSurvey;
  digest: string;
}

const isPairwise = (loss: PairwiseLoss | RatingLoss): loss is PairwiseLoss =>
  loss.kind === "token" || loss.kind === "sequence";

async function unitsOf(
  { model, loss, checks, padToken = model.tokenizer.padId }: RewardModelTraining,
  text: AnswerText,
  records: readonly (PairRecord | RatingRecord)[],
): Promise<Units> {
  if (!isPairwise(loss)) return ratingUnits(model, loss, checks, text, records as readonly RatingRecord[]);
  const prefixes = !(loss.kind === "token" && loss.tail === "cut");
  const { rows, survey } = await pairRows(model, records as readonly PairRecord[], text, { ...checks, prefixes });
  return { units: rows.map((row) => pairUnit(row, loss, padToken)), survey, digest: pairDigest(rows) };
}

async function ratingUnits(
  model: Model,
  loss: RatingLoss,
  { maxTokens = Infinity, truncate }: NonNullable<RewardModelTraining["checks"]> = {},
  text: AnswerText,
  records: readonly RatingRecord[],
): Promise<Units> {
  const wrong = records.findIndex(({ target }) => loss.kind === "cross-entropy" && !(target >= 0 && target <= 1));
  if (wrong >= 0) {
    throw new CredenceError(
      "BAD_INPUT",
      `record ${wrong + 1}: its target is ${records[wrong]!.target}; cross-entropy learns a probability. For other numbers choose the loss "squared"`,
    );
  }
  const given = records.map(({ completion, ...prompted }) => ({ ...prompted, answer: completion }));
  const all: RatedRow[] = (await answerRows(model, given, text)).map((row, i) => ({
    ...row,
    target: records[i]!.target,
  }));
  const longest = all.reduce((most, { ids }) => Math.max(most, ids.length), 0);
  const contextLength = Math.min(maxTokens, model.info.contextLength);
  const { rows, dropped, cut } = fitToContext(all, { contextLength, truncate });
  const tokens = rows.reduce((sum, { ids }) => sum + ids.length, 0);
  return {
    units: rows.map((row) => ratingUnit(row, loss)),
    survey: { records: records.length, rows: rows.length, tokens, longest, dropped, cut },
    digest: digestOf(rows.map(({ ids, target }) => [ids, target])),
  };
}
