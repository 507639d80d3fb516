/** SaySelf's second training: PPO on the tokens that state a confidence, paid by a scoring rule. */
import { CredenceError } from "../../errors.js";
import { confidenceFormats } from "../../evaluation/stated.js";
import type { Model } from "../../policy/model.js";
import type { Policy } from "../../policy/policy.js";
import { limitedReward } from "../../rewards/limited.js";
import { fitToContext, type Truncate } from "../../text/context.js";
import { trainPpo } from "../../training/ppo/ppo.js";
import { digestOf } from "../../training/reward-model/train.js";
import { begunWith, type TrainingContext } from "../conqord/train-sft.js";
import type { Learner } from "../conqord/training-models.js";
import type { SaySelfCompat } from "./compat.js";
import { type Correctness, type ReadingCounts, responseReward, textCorrectness } from "./reward.js";
import { beginning } from "./train-finetune.js";
import type { RowToAsk } from "./training-data.js";
import { valueHead } from "./training-models.js";
import { type RlhfSettings, rlhfPpoSettings } from "./training-settings.js";
import { bareConfidence, reinforcedTokens } from "./wire.js";

export interface SaySelfRlhf extends TrainingContext {
  model: Model;
  /** The policy that learns, with the head `valueHead`. */
  learner: Learner;
  /** The policy as it begins, which stays; needed where `settings.reference` is "sft". */
  sft?: Policy;
  rows: readonly RowToAsk[];
  settings: RlhfSettings;
  /** Default: the text under "Answer:" tells. */
  correctness?: Correctness;
  /** What else that follows from, for a resumption to be held against: the judge's name. */
  judged?: string;
  /** What a response earns that states no confidence. Default: the least that the rule pays, and -1 at most. */
  missing?: number;
  compat?: SaySelfCompat;
  addBos?: boolean;
  /** Batches of responses between checkpoints, or one at the end of each pass over the questions. Default 10. */
  checkpointEvery?: number | "epoch";
  /** What becomes of a prompt longer than `maxSeqLength`; default "error". */
  truncate?: Exclude<Truncate, "right">;
}

export interface SaySelfRlhfResult {
  policy: Policy;
  /** How confidences were read; of this call, where a training was gone on with. */
  counts: ReadingCounts;
  iterations: number;
}

/** Scoring waits while the same engine samples, however long that takes. */
const day = 24 * 60 * 60;

/** Prompts as the model reads them, with room for a response and its continuations. */
async function promptRows({ model, rows, settings, addBos, truncate, compat }: SaySelfRlhf) {
  const { tokenizer, info } = model;
  const first = beginning(tokenizer, addBos);
  const encoded = await tokenizer.encodeBatch(rows.map(({ prompt }) => prompt));
  const room = info.contextLength - settings.newTokens * (settings.numRetries + 2) - cueRoom;
  const contextLength = Math.min(settings.maxSeqLength, compat?.has("B9-3") ? Math.floor(room / 2) : room);
  if (contextLength < 1)
    throw new CredenceError(
      "USAGE",
      `--new-tokens ${settings.newTokens} and --num_retries ${settings.numRetries}: a response with all its continuations leaves no room for a prompt in a context of ${info.contextLength}. Lower one of them`,
    );
  const all = encoded.map((ids) => ({ ids: Int32Array.of(...first, ...ids) }));
  const { rows: kept, indices } = fitToContext(all, { contextLength, ...(truncate ? { truncate } : {}) });
  return kept.map(({ ids }, i) => {
    const row = rows[indices[i]!]!;
    return { tokens: ids, text: row.prompt, data: row };
  });
}

/** Tokens of the cue that forces a confidence, at most. */
const cueRoom = 16;

/**
 * Trains to the end, going on from the newest checkpoint in the folder. The tokens behind "Confidence:" alone are learnt from
 * (`reinforcedTokens`), and the reward stands on the last of them.
 *
 * @throws CredenceError "USAGE" for settings that do not go together; "ROW_TOO_LONG"; as `trainPpo`
 */
export async function trainSaySelfRlhf(job: SaySelfRlhf): Promise<SaySelfRlhfResult> {
  const { model, learner, sft, directory, settings, compat = new Set(), progress, signal } = job;
  const { reference, reward: rule, rationale } = settings;
  if (reference === "sft" && !sft)
    throw new CredenceError("USAGE", 'reference "sft" needs the policy as it begins: give sft, or take "base"');
  const prompts = await promptRows(job);
  const format = rationale ? confidenceFormats.sayself : bareConfidence;
  const correctness = job.correctness ?? textCorrectness(compat);
  const { missing } = job;
  const paid = responseReward({ rule, correctness, format, compat, ...(missing === undefined ? {} : { missing }) });
  const trained = rlhfPpoSettings(settings, prompts.length, compat);
  const { checkpointEvery = 10 } = job;
  const { tokenizer } = model;
  const policy = await trainPpo({
    directory,
    policy: learner.policy,
    reference: reference === "base" ? "base" : sft!,
    valueHead,
    prompts,
    reward: limitedReward(paid.reward, { timeout: day, concurrency: 64 }),
    mask: (rollout) => reinforcedTokens(tokenizer, rollout, format),
    // As published a response begins with its prompt, and stands behind it once more.
    ...(compat.has("B9-3") ? { learntPrompt: (prompt: Int32Array) => Int32Array.of(...prompt, ...prompt) } : {}),
    settings: {
      ...trained,
      optimizer: { ...trained.optimizer, groups: learner.groups },
      checkpointEvery:
        checkpointEvery === "epoch" ? Math.ceil(prompts.length / trained.rollout.prompts) : checkpointEvery,
    },
    follows: {
      ...begunWith(model, learner),
      sayself: JSON.stringify({ ...settings, missing, judged: job.judged, compat: [...compat].sort() }),
      prompts: digestOf(prompts.map(({ tokens }) => [tokens])),
    },
    label: "reinforcing",
    progress,
    ...(signal ? { signal } : {}),
  });
  return { policy, counts: paid.counts, iterations: trained.iterations };
}
