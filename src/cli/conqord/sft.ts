/** Fine-tuning to answers with confidences, as step1_supervised_finetuning_LM has it. */
import { join } from "node:path";
import type { Argv } from "yargs";
import { type ConqordCompat, conqordRows } from "../../methods/conqord/compat.js";
import { type SftSettings, trainingDefaults } from "../../methods/conqord/training-settings.js";
import { interruptible } from "../interrupt.js";
import { aboveZero, type EngineArguments, fromZero, integer, positiveInteger, wholeFromZero } from "../options.js";
import { logs, note, print, printJson } from "../output.js";
import { type PublishedScript, publishedOptions, publishedUnneeded } from "../published.js";
import {
  type DataArguments,
  dataFlags,
  engineBesideDtype,
  modelOptionsOf,
  number,
  ownDataOptions,
  precisionFlag,
  presetOption,
  readPhase,
  scheduleFlag,
  settingsOf,
  stageOptions,
  stageUnneeded,
  text,
  toggle,
} from "./training.js";

/** Flags that the first two scripts share. */
export const stageFlags = (defaults: Omit<SftSettings, "labels">) => ({
  ...dataFlags(defaults.dataSplit),
  model_name_or_path: text("The model to begin with, or a policy's folder that is gone on with", {
    demandOption: true,
  }),
  per_device_train_batch_size: number(
    "Rows of a micro-batch",
    defaults.perDeviceTrainBatchSize,
    positiveInteger("per_device_train_batch_size"),
  ),
  max_seq_len: number("Tokens of a row at most", defaults.maxSeqLen, positiveInteger("max_seq_len")),
  learning_rate: number("Largest learning rate", defaults.learningRate, aboveZero("learning_rate")),
  weight_decay: number("AdamW's", defaults.weightDecay, fromZero("weight_decay")),
  num_train_epochs: number("Epochs", defaults.numTrainEpochs, positiveInteger("num_train_epochs")),
  gradient_accumulation_steps: number(
    "Micro-batches of an optimiser step",
    defaults.gradientAccumulationSteps,
    positiveInteger("gradient_accumulation_steps"),
  ),
  lr_scheduler_type: scheduleFlag(defaults.lrSchedulerType),
  num_warmup_steps: number("Steps that warm up", defaults.numWarmupSteps, wholeFromZero("num_warmup_steps")),
  output_dir: text("Folder of the training, which it goes on in", { demandOption: true }),
  seed: number("Of everything random", defaults.seed, integer("seed")),
  lora_dim: number(
    "Rank of an adapter, whose scale is 1 over it; 0: none, and the whole model learns",
    defaults.loraDim,
    wholeFromZero("lora_dim"),
  ),
  lora_module_name: text("The adapter is on projections in whose name this stands; layers.: all of them", {
    defaultDescription: defaults.loraModuleName,
  }),
  only_optimize_lora: toggle("Nothing learns beside the adapter but heads; else embeddings and norms do too"),
  lora_learning_rate: number(
    "The adapter's own largest rate [default: --learning_rate; with A9-11 5e-4, as published]",
    undefined,
    aboveZero("lora_learning_rate"),
  ),
  tensorboard_path: text("Folder of TensorBoard's events [default: the training's own]"),
});

const defaults = trainingDefaults.sft;

export const script: PublishedScript = {
  name: "sft",
  honoured: {
    ...stageFlags(defaults),
    sft_only_data_path: text("Further sets, whole for this training", { array: true }),
    dtype: precisionFlag,
  },
  unneeded: stageUnneeded,
  dead: {},
  rows: conqordRows,
};

export const command = "sft";
export const describe = "Fine-tune a model to answers with confidences";
export const builder = (line: Argv) =>
  line.options({
    ...publishedOptions(script),
    ...presetOption("sft"),
    ...ownDataOptions,
    ...stageOptions,
    labels: {
      choices: ["answer", "padded"] as const,
      defaultDescription: defaults.labels,
      describe: "Which tokens are learnt: the answer's; or all, and the padding up to --max_seq_len, as published",
    },
    truncate: {
      choices: ["error", "drop", "left", "right"] as const,
      describe: "Rows longer than --max_seq_len fail, are left out, or lose their beginning or end [default: error]",
    },
    ...engineBesideDtype,
  });

/** Of the first two scripts. */
export interface StageArguments extends DataArguments, EngineArguments {
  modelNameOrPath: string;
  outputDir: string;
  tensorboardPath?: string;
  base?: string;
  end?: string;
  held: boolean;
  preset?: string;
  compat: ConqordCompat;
  json: boolean;
}

interface SftArguments extends StageArguments {
  sftOnlyDataPath?: string[];
  truncate?: "error" | "drop" | "left" | "right";
}

export async function handler(args: SftArguments): Promise<void> {
  publishedUnneeded(script, args);
  const { Bases, mergeOnce, learnerOf, startAt } = await import("../../methods/conqord/training-models.js");
  const { trainConqordSft } = await import("../../methods/conqord/train-sft.js");
  const { givenPolicy } = await import("../../training/checkpoint.js");
  const { progressOn, silent } = await import("../../tracking/progress.js");
  const { compat, outputDir, end, truncate, tensorboardPath: events } = args;
  const settings = settingsOf("sft", args, args.preset);
  const { dataSplit: shares, seed } = settings;
  await interruptible(async (signal) => {
    const { texts, held } = await readPhase(args, 1, { shares, seed, held: args.held, sftOnly: args.sftOnlyDataPath });
    const options = modelOptionsOf(args, signal);
    const start = startAt(args.modelNameOrPath, args.base);
    const learn = async () => {
      await using bases = new Bases(options);
      const model = await bases.of(start.base);
      const { policy, ...learnt } = await trainConqordSft({
        model,
        directory: outputDir,
        learner: learnerOf(model, start, settings, { seed, compat }),
        texts,
        ...(held ? { held } : {}),
        settings,
        ...(end === undefined ? {} : { end }),
        ...(truncate === undefined ? {} : { truncate }),
        ...(events === undefined ? {} : { events }),
        progress: logs("info") ? progressOn() : silent,
        signal,
      });
      await policy.dispose();
      return { ...learnt, path: model.path };
    };
    const { rows, tokens, path } = await learn();
    const policy = givenPolicy(outputDir);
    const merged = await mergeOnce(policy, join(outputDir, "final"), path, options);
    note(`the policy is in ${policy}`);
    if (args.json) printJson({ rows, tokens, policy, merged });
    else print(`${rows} texts of ${tokens} tokens learnt; the model with them: ${merged}`);
  });
}
