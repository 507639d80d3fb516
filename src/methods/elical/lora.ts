/**
 * LoRA on the question, as published: an adapter and a linear head at the prompt's last token, before any answer. First
 * elicited from agreement, then calibrated on a few labels; beside it the same calibration from scratch.
 */
import { splitByGroup } from "../../data/splits.js";
import { sigmoid } from "../../model/calibrator.js";
import type { Card } from "../../model/card.js";
import type { Model } from "../../policy/model.js";
import type { Policy } from "../../policy/policy.js";
import { bestCheckpoint } from "../../training/checkpoint.js";
import { type ConfidenceRow, type ConfidenceTraining, trainConfidenceHead } from "../../training/confidence-head.js";
import type { StageContext } from "../../training/run.js";
import type { LabelledRecord } from "./labels.js";
import { coarseSigmoid, eosText, paddedRows, paddingOf, publishedGroups, readingOf } from "./published/reading.js";
import { compatOf } from "./quirks.js";
import type { ElicalRecipe } from "./recipe.js";

/** Name of the head in every policy of this method. */
export const confidenceHead = "confidence";

export interface LoraStage {
  context: StageContext;
  model: Model;
  recipe: ElicalRecipe;
  seed: number;
  epochs: number;
  /** Prompts, and what the head should say of each. */
  rows: (ConfidenceRow & { group?: string })[];
  /** Rows that choose the epoch; default: those of groups that lora.validationShare holds out. */
  held?: ConfidenceRow[];
  /** Depth of the head; default the last. */
  layer?: number;
  /** What a fresh head begins as; default random. */
  head?: { weights: ArrayLike<number>; bias: number };
  /** Folder of the stage whose policy is trained further; else a fresh adapter. */
  from?: string;
  /** Folder of a policy that is trained further, wherever it lies. */
  start?: string;
  label: string;
}

/** How a policy of this kind is used. */
export function loraCard(model: Model, recipe: ElicalRecipe, layer = model.info.layers): Card {
  return {
    version: 1,
    method: "elical",
    prompt: recipe.prompt,
    answers: "base",
    answer: { newTokens: recipe.answer.newTokens },
    heads: [{ name: confidenceHead, layer, kind: "linear", outputs: 1 }],
    confidence: { head: confidenceHead, at: "prompt-last", prompt: recipe.lora.prompt, slope: 1, offset: 0 },
    base: model.cardBase,
  };
}

/** Trains in the stage's folder, or goes on there; the policy is the caller's to dispose of. */
export const trainLora = (stage: LoraStage): Promise<Policy> => trainConfidenceHead(loraTraining(stage));

/** What such a training is made of. */
export function loraTraining({
  context,
  model,
  recipe,
  seed,
  epochs,
  rows,
  held: given,
  layer = model.info.layers,
  head,
  from,
  start,
  label,
}: LoraStage): ConfidenceTraining {
  const { lora } = recipe;
  const fresh = async () => {
    const policy = await model.policy({
      adapter: { rank: lora.rank, alpha: lora.alpha, targets: lora.targets, seed },
      heads: [{ name: confidenceHead, layer, kind: "linear", outputs: 1, seed }],
    });
    if (head) {
      policy.native.setTensors([
        { name: `${confidenceHead}.weight`, shape: [1, head.weights.length], data: Float32Array.from(head.weights) },
        { name: `${confidenceHead}.bias`, shape: [1], data: Float32Array.of(head.bias) },
      ]);
    }
    return policy;
  };
  const [learnt, held] = given ? [rows, given] : heldOut(rows, lora.validationShare, seed);
  return {
    directory: context.directory,
    policy: (checkpoint) => {
      const folder = checkpoint ?? (from === undefined ? start : bestCheckpoint(from));
      return folder === undefined ? fresh() : model.policy({ adapter: folder });
    },
    head: confidenceHead,
    rows: learnt,
    padding: paddingOf(model, readingOf({ group: publishedGroups.training }, compatOf(recipe))),
    ...(held.length ? { validation: { rows: held, patience: lora.patience, group: publishedGroups.epochs } } : {}),
    epochs,
    batch: lora.batch,
    learningRate: lora.learningRate,
    weightDecay: lora.weightDecay,
    warmup: lora.warmup,
    seed,
    checkpointEvery: lora.checkpointEvery,
    microBatchTokens: lora.microBatchTokens,
    card: loraCard(model, recipe, layer),
    label,
    progress: context.progress,
    signal: context.signal,
    fitted: context.fitted,
  };
}

/** Rows to learn from, and those of whole groups that choose the epoch. */
function heldOut<Row extends { group?: string }>(rows: Row[], testShare: number, seed: number): [Row[], Row[]] {
  if (testShare === 0) return [rows, []];
  const { train, test } = splitByGroup(rows, { testShare, seed });
  return [train.map((i) => rows[i]!), test.map((i) => rows[i]!)];
}

/** The LoRA reader's prompts of all questions: as they are learnt from, and as they are scored. */
export async function loraPrompts(
  model: Model,
  recipe: ElicalRecipe,
  questions: readonly { question: string }[],
): Promise<{ learnt: Int32Array[]; scored: Int32Array[] }> {
  const prompts = await Promise.all(questions.map(({ question }) => model.promptTokens(question, recipe.lora.prompt)));
  if (!compatOf(recipe).has("B9-12")) return { learnt: prompts, scored: prompts };
  const { addsBos, bosId } = model.tokenizer;
  const end = model.tokenizer.idOf(eosText(model))!;
  const scored = prompts.map((ids) => (addsBos && ids[0] === bosId ? Int32Array.of(bosId!, ...ids) : ids));
  return { learnt: scored.map((ids) => (ids.at(-1) === end ? ids : Int32Array.of(...ids, end))), scored };
}

/** Logits of prompts as they are scored, in their order. */
export async function loraLogits(
  policy: Policy,
  recipe: ElicalRecipe,
  prompts: Int32Array[],
  signal?: AbortSignal,
): Promise<Float32Array> {
  const reading = readingOf({ group: publishedGroups.scoring }, compatOf(recipe));
  const { rows, paddedTo } = paddedRows(prompts, paddingOf(policy.model, reading));
  return policy.logits(rows, confidenceHead, { signal, ...(paddedTo ? { paddedTo } : {}) });
}

/** What a head's output says, as a confidence; as published in bf16 (B9-13). */
export const confidenceOf = (recipe: ElicalRecipe): ((logit: number) => number) =>
  compatOf(recipe).has("B9-13") ? coarseSigmoid : sigmoid;

/** What is learnt of a labelled question. */
export const labelTarget = (
  { labels }: ElicalRecipe,
  { given_correct, correct }: Pick<LabelledRecord, "given_correct" | "correct">,
): number =>
  labels.of === "answer" ? given_correct : correct.reduce<number>((sum, one) => sum + one, 0) / correct.length;
