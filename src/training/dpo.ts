/**
 * Direct preference optimisation: an adapter learns to make the preferred of two answers the likelier one, against a
 * reference whose log-probabilities are computed once and kept in the training's folder. AdamW, warm-up, then down to zero.
 */
import { existsSync } from "node:fs";
import { join } from "node:path";
import { CredenceError } from "../errors.js";
import { makeFolder, readJson, writeJsonAtomic } from "../files.js";
import type { Policy } from "../policy/policy.js";
import { checkSame, newestCheckpoint } from "./checkpoint.js";
import { type EpochTraining, trainEpochs } from "./epochs.js";
import { lockFolder } from "./lock.js";
import { type AnswerLogprobs, type DpoSettings, dpoLoss, impliedReward } from "./reward-model/losses.js";
import { type PairRecord, type PairRow, type PairSurvey, pairRows } from "./reward-model/pairs.js";
import { defaultText } from "./reward-model/rows.js";
import { type PreferenceSettings, pairDigest, planOf, preferenceDefaults, settingsOf } from "./reward-model/train.js";
import { pairSequences } from "./reward-model/units.js";
import { meanOfUnits, readUnits, type Unit, type UnitRows, unitStep } from "./units.js";

/** Defaults: as of a reward model's training; beta 0.1, no smoothing, "sigmoid". */
export interface DpoTraining extends PreferenceSettings, Partial<DpoSettings> {
  policy(checkpoint: string | undefined): Promise<Policy>;
  records: readonly PairRecord[];
  /** Pairs that each epoch is held against; the policy of the smallest loss is given. */
  held?: readonly PairRecord[];
  /**
   * What the policy is kept close to: "base", the model with the adapter off (default); "start", the policy as it is before
   * the first step, for one that was fine-tuned before.
   */
  reference?: "base" | "start";
}

export interface DpoResult {
  policy: Policy;
  data: PairSurvey;
  /**
   * Of the policy given, on the pairs held out, where there are any: the mean loss, the share of pairs in which the chosen
   * answer's implied reward is the larger, the mean difference of the rewards, and both.
   */
  held?: { loss: number; values: Record<string, number> };
}

/** Where the reference's log-probabilities are kept. */
const referenceFile = "reference.json";

/**
 * Trains to the end, going on from the newest checkpoint in the folder; see `trainRewardModel`. An answer's log-probability
 * is the sum over its own tokens, the one that ends it included.
 *
 * @throws CredenceError "ROW_TOO_LONG", "NOTHING_SUPERVISED" with counts; "BAD_OPTION"; "OTHER_RECIPE"
 */
export async function trainDpo(job: DpoTraining): Promise<DpoResult> {
  makeFolder(job.directory);
  const unlock = lockFolder(job.directory);
  try {
    return await train(job);
  } finally {
    unlock();
  }
}

async function train(given: DpoTraining): Promise<DpoResult> {
  const { beta = 0.1, labelSmoothing = 0, kind = "sigmoid", reference = "base", ...rest } = given;
  const job = { ...preferenceDefaults, ...rest };
  const dpo: DpoSettings = { kind, beta, labelSmoothing };
  checkSettings(dpo);
  const { model, microBatchTokens, signal } = job;
  const text = job.text ?? defaultText(model);
  const learnt = await pairRows(model, job.records, text, job.checks);
  const held = job.held?.length ? await pairRows(model, job.held, text, job.checks) : undefined;
  const digests = { records: pairDigest(learnt.rows), held: held ? pairDigest(held.rows) : "" };
  const settings = { ...settingsOf(job, text), ...digests, loss: JSON.stringify(dpo), reference };
  checkSame(job.directory, newestCheckpoint(job.directory)?.state, settings);
  const found = await referenceOf({ ...given, ...job }, reference, `${digests.records}-${digests.held}`, [
    ...learnt.rows,
    ...(held?.rows ?? []),
  ]);
  const units = dpoUnits(learnt.rows, found, dpo);
  const heldUnits = held && dpoUnits(held.rows, found.slice(units.length), dpo);
  const training: EpochTraining = { ...job, ...(held ? { validation: { patience: job.patience } } : {}) };
  const policy = await trainEpochs(training, planOf(units, job), {
    batch: (rows) =>
      unitStep(
        rows.map((row) => units[row]!),
        "logprobs",
        microBatchTokens,
      ),
    held: (current) => meanOfUnits(current, heldUnits!, "logprobs", { microBatchTokens, signal }),
    settings,
  });
  if (!heldUnits) return { policy, data: learnt.survey };
  return {
    policy,
    data: learnt.survey,
    held: await meanOfUnits(policy, heldUnits, "logprobs", { microBatchTokens, signal }),
  };
}

function checkSettings({ kind, beta, labelSmoothing }: DpoSettings): void {
  if (!(beta > 0 && beta < Infinity))
    throw new CredenceError("BAD_OPTION", `beta is ${beta}; expected a number above 0`);
  if (!(labelSmoothing >= 0 && labelSmoothing < 0.5))
    throw new CredenceError("BAD_OPTION", `labelSmoothing is ${labelSmoothing}; expected a number from 0, below 0.5`);
  if (kind === "ipo" && labelSmoothing > 0)
    throw new CredenceError("BAD_OPTION", "labelSmoothing belongs to the kind sigmoid; ipo has none");
}

/** A pair's log-probabilities, chosen and rejected. */
type Logprobs = readonly [chosen: number, rejected: number];

/**
 * Which of a unit's tokens each answer has: places in the unit's rows laid end to end, of what both begin with and of the
 * answer's own row.
 */
function answerPlaces(pair: PairRow): { chosen: number[]; rejected: number[] } {
  const { shared, sequences } = pairSequences(pair);
  const first = { chosen: shared, rejected: shared + sequences.at(-2)!.length };
  const places = (side: "chosen" | "rejected") => {
    const { ids, from } = pair[side];
    // A row's first token has no probability.
    const start = Math.max(from, 1);
    return Array.from({ length: ids.length - start }, (_, i) => {
      const t = start + i;
      return t < shared ? t : first[side] + t - shared;
    });
  };
  return { chosen: places("chosen"), rejected: places("rejected") };
}

const sumAt = (values: Float32Array, places: readonly number[]): number =>
  places.reduce((sum, place) => sum + values[place]!, 0);

/** Pairs as they are learnt from, given the reference's log-probabilities of each. */
export const dpoUnits = (rows: readonly PairRow[], reference: readonly Logprobs[], settings: DpoSettings): Unit[] =>
  rows.map((pair, i) => pairUnit(pair, reference[i]!, settings));

function pairUnit(pair: PairRow, reference: Logprobs, settings: DpoSettings): Unit {
  const { sequences, prefixOf } = pairSequences(pair);
  const places = answerPlaces(pair);
  return {
    sequences,
    prefixOf,
    spans: [],
    loss: (logprobs) => {
      const side = (name: "chosen" | "rejected", i: 0 | 1): AnswerLogprobs => ({
        policy: sumAt(logprobs, places[name]),
        reference: reference[i],
      });
      const [chosen, rejected] = [side("chosen", 0), side("rejected", 1)];
      const { loss, chosen: dChosen, rejected: dRejected } = dpoLoss(chosen, rejected, settings);
      const gradient = new Float64Array(logprobs.length);
      for (const place of places.chosen) gradient[place]! += dChosen;
      for (const place of places.rejected) gradient[place]! += dRejected;
      const rewards = [impliedReward(chosen, settings.beta), impliedReward(rejected, settings.beta)] as const;
      const told = {
        accuracy: rewards[0] > rewards[1] ? 1 : 0,
        margin: rewards[0] - rewards[1],
        chosenReward: rewards[0],
        rejectedReward: rewards[1],
      };
      return { loss, gradient, told };
    },
  };
}

interface Kept {
  /** Of which reference and pairs. */
  of: string;
  logprobs: Logprobs[];
}

/** The reference's log-probabilities of all pairs: from the folder, or computed and kept there for a resumed training. */
async function referenceOf(
  job: DpoTraining & Pick<EpochTraining, "progress" | "microBatchTokens">,
  reference: "base" | "start",
  digest: string,
  rows: readonly PairRow[],
): Promise<Logprobs[]> {
  const path = join(job.directory, referenceFile);
  const of = `${reference} ${digest}`;
  if (existsSync(path)) {
    const kept = readJson(path) as Kept;
    if (kept.of === of) return kept.logprobs;
  }
  const policy = await job.policy(undefined);
  const told = job.progress.task("reference", rows.length, "pairs");
  const units = rows.map(readOnly);
  const logprobs: Logprobs[] = [];
  try {
    const options = {
      microBatchTokens: job.microBatchTokens,
      adapter: reference === "start",
      ...(job.signal ? { signal: job.signal } : {}),
    };
    for await (const [, read] of readUnits(policy, units, "logprobs", options)) {
      const { chosen, rejected } = answerPlaces(rows[logprobs.length]!);
      logprobs.push([sumAt(read, chosen), sumAt(read, rejected)]);
      told.advance(1);
    }
  } finally {
    told.end();
    await policy.dispose();
  }
  writeJsonAtomic(path, { of, logprobs } satisfies Kept);
  return logprobs;
}

/** A pair's rows, to be read and not learnt from. */
const readOnly = (pair: PairRow): UnitRows => ({
  ...pairSequences(pair),
  spans: [],
});
