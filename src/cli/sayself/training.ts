/** What SaySelf's two training scripts share: their flags, and the model that they begin with. */
import { join } from "node:path";
import type { Options } from "yargs";
import type { Start } from "../../methods/conqord/training-models.js";
import type { SaySelfCompat } from "../../methods/sayself/compat.js";
import type { Begun } from "../../methods/sayself/training-models.js";
import { type SaySelfTraining, saySelfDefaults, saySelfPresets } from "../../methods/sayself/training-settings.js";
import type { Model } from "../../policy/model.js";
import { number, scheduleFlag, text, toggle } from "../conqord/training.js";
import {
  aboveZero,
  type EngineArguments,
  engineOptions,
  fromZero,
  integer,
  numberThat,
  positiveInteger,
  wholeFromZero,
} from "../options.js";
import { logs, note, UsageError } from "../output.js";
import type { Unneeded } from "../published.js";

const share = (name: string) => numberThat(name, "a number from 0 to 1", (value) => value >= 0 && value <= 1);

/** Flags that both scripts have, with a training's defaults. */
export const stageFlags = (name: SaySelfTraining) => {
  const defaults = saySelfDefaults[name];
  return {
    train_file: text("What is learnt from: .jsonl, or .json of rows or of columns", { demandOption: true }),
    model_name_or_path: text("The model to begin with"),
    peft_model_name_or_path: text("An adapter that is gone on with: PEFT's folder, or a training's"),
    tokenizer_name: text("Refused unless it is the model's own"),
    use_lora: toggle("Give the model an adapter on all seven projections; else all of it learns"),
    lora_rank: number("Rank of that adapter", defaults.loraRank, positiveInteger("lora_rank")),
    lora_alpha: number("Its scale times the rank", defaults.loraAlpha, aboveZero("lora_alpha")),
    max_seq_length: number(
      name === "finetune" ? "Tokens of a row at most" : "Tokens of a prompt at most",
      defaults.maxSeqLength,
      positiveInteger("max_seq_length"),
    ),
    gradient_accumulation_steps: number(
      "Micro-batches of an optimiser step",
      defaults.gradientAccumulationSteps,
      positiveInteger("gradient_accumulation_steps"),
    ),
    learning_rate: number("Largest learning rate", defaults.learningRate, aboveZero("learning_rate")),
    weight_decay: number("AdamW's", defaults.weightDecay, fromZero("weight_decay")),
    num_train_epochs: number("Passes over the rows", defaults.numTrainEpochs, positiveInteger("num_train_epochs")),
    max_train_steps: number(
      name === "finetune"
        ? "Optimiser steps, in the place of the epochs"
        : "Batches of responses, in the place of the epochs",
      undefined,
      positiveInteger("max_train_steps"),
    ),
    lr_scheduler_type: scheduleFlag(defaults.lrSchedulerType),
    warmup_ratio: number("Share of the optimiser steps that warm up", defaults.warmupRatio, share("warmup_ratio")),
    num_train_examples: number(
      "So many rows are used",
      defaults.numTrainExamples,
      positiveInteger("num_train_examples"),
    ),
    add_bos: toggle("Begin each text with the tokenizer's token for that, whether it adds one or not"),
    checkpointing_steps: text(
      name === "finetune"
        ? "Optimiser steps between checkpoints, or epoch [default: 50]"
        : "Batches of responses between checkpoints, or epoch [default: 10]",
      { coerce: checkpointing },
    ),
    output_dir: text("Folder of the training, which it goes on in", { demandOption: true }),
    seed: number("Of everything random", defaults.seed, integer("seed")),
  } satisfies Record<string, Options>;
};

function checkpointing(value: string | undefined): number | "epoch" | undefined {
  if (value === undefined || value === "epoch") return value;
  const steps = Number(value);
  if (Number.isInteger(steps) && steps > 0) return steps;
  throw new UsageError(`--checkpointing_steps ${value}: expected epoch or a whole number above 0`);
}

const memory = "--max-memory is kept to, if need be by computing blocks again";

export const saySelfUnneeded = {
  use_flash_attn: { type: "boolean", why: "attention never holds a whole matrix of scores" },
  use_slow_tokenizer: { type: "boolean", why: "there is one tokenizer, with the slow one's tokens" },
  low_cpu_mem_usage: { type: "boolean", why: "weights are read where they lie" },
  gradient_checkpointing: { type: "boolean", why: memory },
  trust_remote_code: { type: "boolean", why: "no code of a model is run" },
  overwrite_cache: { type: "boolean", why: "nothing is cached" },
  preprocessing_num_workers: { type: "number", why: "texts are tokenized on all cores" },
  timeout: { type: "number", why: "one process waits for no other" },
  logging_steps: { type: "number", why: "metrics.jsonl has every step" },
  resume_from_checkpoint: { type: "string", why: "a training goes on in its --output_dir" },
  with_tracking: { type: "boolean", why: "events are always written" },
  report_to: { type: "string", why: "metrics.jsonl and TensorBoard's events are always written" },
} satisfies Record<string, Unneeded>;

export const saySelfUnsupported = {
  dataset_name: "nothing is downloaded. Save the set as a file, and give that: --train_file",
  dataset_config_name: "nothing is downloaded. Save the set as a file, and give that: --train_file",
  config_name: "a model is read by its own config.json. Give a model that has the other one",
};

export const saySelfOptions = (name: SaySelfTraining) =>
  ({
    preset: {
      choices: Object.keys(saySelfPresets[name]),
      describe: "Settings by name, which other flags go before",
    },
    base: text("The model under an adapter, which names it by its last part alone"),
    "held-out": text("Files of questions that are asked later: sharing one of them is refused", { array: true }),
    "max-words": number(
      "Rows of so many words and more are left out, and counted [default: none; the script 200, of rlhf 100]",
      undefined,
      positiveInteger("max-words"),
    ),
    "max-gradient-norm": number(
      "Gradients whose norm is above are scaled to it; 0: none is",
      saySelfDefaults[name].maxGradientNorm,
      fromZero("max-gradient-norm"),
    ),
    ...engineOptions,
  }) satisfies Record<string, Options>;

export const wholeNumber = (describe: string, name: string, value: number): Options =>
  number(describe, value, wholeFromZero(name));

/** What both commands were told. */
export interface StageArguments extends EngineArguments {
  trainFile: string;
  modelNameOrPath?: string;
  peftModelNameOrPath?: string;
  tokenizerName?: string;
  base?: string;
  heldOut?: string[];
  addBos?: boolean;
  checkpointingSteps?: number | "epoch";
  outputDir: string;
  preset?: string;
  compat: SaySelfCompat;
  json: boolean;
}

/** The settings among a command's arguments. */
export async function settingsOf<Name extends SaySelfTraining>(
  name: Name,
  args: object & { preset?: string },
): Promise<(typeof saySelfDefaults)[Name]> {
  const { saySelfSettings } = await import("../../methods/sayself/training-settings.js");
  const known = new Set(Object.keys(saySelfDefaults[name]));
  const given = Object.fromEntries(Object.entries(args).filter(([key]) => known.has(key)));
  return saySelfSettings(name, given as Partial<(typeof saySelfDefaults)[Name]>, args.preset);
}

/** Where a training begins. */
export async function startOf({
  modelNameOrPath: path,
  peftModelNameOrPath: peft,
  base,
}: StageArguments): Promise<Start> {
  const { startAt } = await import("../../methods/conqord/training-models.js");
  if (path !== undefined && peft !== undefined)
    throw new UsageError(
      "give --model_name_or_path or --peft_model_name_or_path, not both; --base is the model under an adapter",
    );
  if (path === undefined && peft === undefined)
    throw new UsageError(
      "give a model (--model_name_or_path) or an adapter that is gone on with (--peft_model_name_or_path)",
    );
  if (peft === undefined) return { base: path! };
  const start = startAt(peft, base);
  if (start.folder === undefined)
    throw new UsageError(`--peft_model_name_or_path ${peft} is no adapter's folder. Of a model: --model_name_or_path`);
  return start;
}

/** The adapter of a start in the training's own folder. */
export async function begunOf(
  { folder }: Start,
  model: Model,
  outputDir: string,
  dropout: number,
): Promise<Begun | undefined> {
  if (folder === undefined) return undefined;
  const { beginWith } = await import("../../methods/sayself/training-models.js");
  return beginWith(folder, join(outputDir, "start"), model, dropout);
}

/** What both trainings are told alike. */
export async function commonOf({ outputDir, addBos, checkpointingSteps }: StageArguments, signal: AbortSignal) {
  const { progressOn, silent } = await import("../../tracking/progress.js");
  return {
    directory: outputDir,
    ...(addBos === undefined ? {} : { addBos }),
    ...(checkpointingSteps === undefined ? {} : { checkpointEvery: checkpointingSteps }),
    progress: logs("info") ? progressOn() : silent,
    signal,
  };
}

/** What a training left: its policy, and the same as PEFT has it where embeddings stand in it, else null. */
export async function leftBy({ outputDir }: StageArguments): Promise<{ policy: string; peft: string | null }> {
  const { givenPolicy } = await import("../../training/checkpoint.js");
  const { writeEmbedded } = await import("../../methods/sayself/training-models.js");
  const policy = givenPolicy(outputDir);
  const peft = join(outputDir, "peft");
  return { policy, peft: writeEmbedded(policy, peft) ? peft : null };
}

/** Says how many rows of a file are left out for their length. */
export function tellWordy(wordy: number, all: number, maxWords: number | null): void {
  if (wordy > 0) note(`${wordy} of ${all} rows left out: ${maxWords} words and more`, "warn");
}

/** @throws UsageError where another tokenizer than the model's is named */
export async function checkTokenizer(model: Model, named: string | undefined): Promise<void> {
  if (named === undefined) return;
  const { Tokenizer } = await import("../../text/tokenizer.js");
  const { resolveModel } = await import("../../model/resolve.js");
  const { firstDisagreement } = await import("../../text/tokenizer-files.js");
  const { path } = await resolveModel(named, { shapeAlone: true });
  const other = await Tokenizer.load(path);
  if (!firstDisagreement(model.tokenizer, other) && other.vocabularySize === model.tokenizer.vocabularySize) return;
  throw new UsageError(
    `--tokenizer_name ${named} is not ${model.name}'s tokenizer. Write a model that has it: credence convert ${model.path} --tokenizer ${named} --out DIR`,
  );
}
