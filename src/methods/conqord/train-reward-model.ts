/** CONQORD's second training: which of two answers is the better one, token by token from where they differ. */
import { CredenceError } from "../../errors.js";
import type { Model } from "../../policy/model.js";
import type { PairChecks } from "../../training/reward-model/pairs.js";
import { type RewardModelResult, trainRewardModel } from "../../training/reward-model/train.js";
import { preApproachPairs } from "./data.js";
import type { RecordTexts } from "./sources.js";
import { checkpointEvery, endOf, padOf, publishedBeta2, type TrainingContext } from "./train-sft.js";
import type { Learner } from "./training-models.js";
import { type RewardSettings, scheduleOf } from "./training-settings.js";
import { withoutConfidences } from "./wire.js";

export interface RewardTraining extends TrainingContext {
  model: Model;
  learner: Learner;
  texts: readonly RecordTexts[];
  /** Held against each epoch, the best of which is given; without any the last is. */
  held?: readonly RecordTexts[];
  settings: RewardSettings;
  /** What follows an answer; default the token that ends the model's texts. */
  end?: string;
  /** What becomes of pairs with a row longer than `maxSeqLen`. */
  truncate?: PairChecks["truncate"];
  /** Folder of TensorBoard's events; default the training's. */
  events?: string;
}

/** The part of a text that follows its prompt; null where it does not begin with it. */
const answerIn = (text: string, prompt: string): string | null =>
  text.startsWith(prompt) ? text.slice(prompt.length) : null;

/**
 * Pairs as a reward model reads them. What both sides begin with is shared, whatever part of it the set calls the prompt.
 *
 * @throws CredenceError "BAD_INPUT" where PreApproach's pairs are asked for and a text does not begin with its prompt
 */
export function pairsOf(
  texts: readonly RecordTexts[],
  pairs: RewardSettings["pairs"],
): { prompt: string; chosen: string; rejected: string }[] {
  const whole = texts.map(({ prompt, chosen, rejected }) => ({ prompt, chosen: chosen!, rejected: rejected! }));
  if (pairs === "stated") return whole.map((pair) => ({ ...pair, prompt: "" }));
  const plain = (text: string, prompt: string) => {
    const answer = answerIn(text, prompt);
    if (answer !== null) return withoutConfidences(answer);
    if (pairs === "quality") return null;
    throw new CredenceError(
      "BAD_INPUT",
      `an answer that does not begin with its prompt (${JSON.stringify(prompt.slice(-60))}): where its confidence belongs cannot be told`,
    );
  };
  const answers = whole.map(({ prompt, chosen, rejected }) => {
    const sides = [plain(chosen, prompt), plain(rejected, prompt)];
    return sides.includes(null) ? { prompt: "", chosen, rejected } : { prompt, chosen: sides[0]!, rejected: sides[1]! };
  });
  return pairs === "quality" ? answers : preApproachPairs(answers).map((pair) => ({ ...pair, prompt: "" }));
}

/**
 * Trains to the end, going on from the newest checkpoint in the folder. The head is linear and has no bias.
 *
 * @throws CredenceError as `trainRewardModel`; pairs whose sides are equal have been refused by `phaseTexts`
 */
export function trainConqordReward(job: RewardTraining): Promise<RewardModelResult> {
  const { model, learner, texts, held, settings, truncate, directory, events, progress, signal } = job;
  const { perDeviceTrainBatchSize, gradientAccumulationSteps, maxSeqLen, numTrainEpochs, tail } = settings;
  const batch = perDeviceTrainBatchSize * gradientAccumulationSteps;
  const steps = Math.ceil(texts.length / batch) * numTrainEpochs;
  return trainRewardModel({
    model,
    directory,
    policy: learner.policy,
    loss: { kind: "token", tail },
    records: pairsOf(texts, settings.pairs),
    ...(held ? { held: pairsOf(held, settings.pairs) } : {}),
    text: { kind: "plain", end: job.end ?? endOf(model.tokenizer) },
    checks: { maxTokens: maxSeqLen, ...(truncate ? { truncate } : {}) },
    ...(tail === "padded" ? { padToken: padOf(model.tokenizer) } : {}),
    batch,
    epochs: numTrainEpochs,
    learningRate: settings.learningRate,
    weightDecay: settings.weightDecay,
    beta2: publishedBeta2,
    groups: learner.groups,
    ...scheduleOf(settings.lrSchedulerType, settings.numWarmupSteps, steps),
    seed: settings.seed,
    checkpointEvery,
    microBatchTokens: 2 * perDeviceTrainBatchSize * maxSeqLen,
    ...(events === undefined ? {} : { events }),
    label: "learning what is better",
    progress,
    ...(signal ? { signal } : {}),
  });
}
