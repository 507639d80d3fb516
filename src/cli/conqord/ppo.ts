/** Reinforcement on quality and on confidences in its order, as step3_RL_finetune_LLM has it. */
import { join } from "node:path";
import type { Argv } from "yargs";
import { type ConqordCompat, conqordRows } from "../../methods/conqord/compat.js";
import { trainingDefaults } from "../../methods/conqord/training-settings.js";
import { interruptible } from "../interrupt.js";
import { aboveZero, type EngineArguments, fromZero, integer, positiveInteger, wholeFromZero } from "../options.js";
import { logs, note, print, printJson, UsageError } from "../output.js";
import { type PublishedScript, publishedOptions, publishedUnneeded } from "../published.js";
import {
  type DataArguments,
  dataFlags,
  engineBesideDtype,
  modelOptionsOf,
  number,
  ownDataOptions,
  ppoUnneeded,
  precisionFlag,
  presetOption,
  readPhase,
  scheduleFlag,
  settingsOf,
  text,
  toggle,
} from "./training.js";

const defaults = trainingDefaults.ppo;

const networkFlags = (whose: "actor" | "critic") => ({
  [`${whose}_learning_rate`]: number(
    `Largest learning rate of the ${whose}`,
    defaults[`${whose}LearningRate`],
    aboveZero(`${whose}_learning_rate`),
  ),
  [`${whose}_weight_decay`]: number("Its AdamW's", defaults[`${whose}WeightDecay`], fromZero(`${whose}_weight_decay`)),
  [`${whose}_lora_dim`]: number(
    "Rank of its adapter where it begins as a model; a policy's folder has its own, which is gone on with",
    defaults[`${whose}LoraDim`],
    wholeFromZero(`${whose}_lora_dim`),
  ),
  [`${whose}_lora_module_name`]: text("Its adapter is on projections in whose name this stands; layers.: all of them", {
    defaultDescription: defaults[`${whose}LoraModuleName`],
  }),
  [`${whose}_lora_learning_rate`]: number(
    `Its adapter's own largest rate [default: --${whose}_learning_rate; with A9-11 5e-4, as published]`,
    undefined,
    aboveZero(`${whose}_lora_learning_rate`),
  ),
});

const whole = (describe: string, name: string, value: number) => number(describe, value, positiveInteger(name));

export const script: PublishedScript = {
  name: "ppo",
  honoured: {
    ...dataFlags(defaults.dataSplit),
    actor_model_name_or_path: text(
      "Who learns to answer: a model, e.g. what sft leaves in final, or a policy's folder",
      {
        demandOption: true,
      },
    ),
    critic_model_name_or_path: text("The reward model, which its critic begins as: what reward-model leaves", {
      demandOption: true,
    }),
    tokenizer_model_name_or_path: text("The model under policies' folders, which name it by its last part alone"),
    per_device_generation_batch_size: whole(
      "Completions that are compared with each other",
      "per_device_generation_batch_size",
      defaults.perDeviceGenerationBatchSize,
    ),
    generation_batches: whole(
      "So many of those are sampled before anything is learnt",
      "generation_batches",
      defaults.generationBatches,
    ),
    per_device_training_batch_size: whole(
      "Completions of a micro-batch",
      "per_device_training_batch_size",
      defaults.perDeviceTrainingBatchSize,
    ),
    gradient_accumulation_steps: whole(
      "Micro-batches of an optimiser step",
      "gradient_accumulation_steps",
      defaults.gradientAccumulationSteps,
    ),
    ppo_epochs: whole("Passes over what was sampled", "ppo_epochs", defaults.ppoEpochs),
    num_train_epochs: whole("Passes over the prompts", "num_train_epochs", defaults.numTrainEpochs),
    max_prompt_seq_len: whole("Tokens of a prompt at most", "max_prompt_seq_len", defaults.maxPromptSeqLen),
    max_answer_seq_len: whole("Tokens of a completion at most", "max_answer_seq_len", defaults.maxAnswerSeqLen),
    ...networkFlags("actor"),
    ...networkFlags("critic"),
    only_optimize_lora: toggle("Nothing learns beside adapters but heads; else embeddings and norms do too"),
    lr_scheduler_type: scheduleFlag(defaults.lrSchedulerType),
    num_warmup_steps: number(
      "Optimiser steps that warm up",
      defaults.numWarmupSteps,
      wholeFromZero("num_warmup_steps"),
    ),
    alpha: number("Weight of the order-preserving term; 0: quality alone", defaults.alpha, fromZero("alpha")),
    enable_ema: toggle("Keep a running average of the actor, of decay 0.992, which is what is given"),
    unsupervised_dataset_name: text("Conversations that are modelled beside it: a file of this machine"),
    unsup_coef: number("Their weight in the loss", defaults.unsupCoef, aboveZero("unsup_coef")),
    output_dir: text("Folder of the training, which it goes on in", { demandOption: true }),
    seed: number("Of everything random", defaults.seed, integer("seed")),
    dtype: precisionFlag,
    enable_test_mode: toggle("Stop after --test_stop_step"),
    test_stop_step: number("Optimiser steps of a test", defaults.testStopStep, wholeFromZero("test_stop_step")),
  },
  unneeded: ppoUnneeded,
  dead: {
    fp16_enabled: "--dtype says the type",
    actor_dropout: "nothing is dropped",
    critic_dropout: "nothing is dropped",
    print_answers: "credence conqord infer writes what a model answers",
  },
  rows: conqordRows,
};

export const command = "ppo";
export const describe = "Reinforce quality, and confidences in the order of it";
export const builder = (line: Argv) =>
  line.options({
    ...publishedOptions(script),
    ...presetOption("ppo"),
    ...ownDataOptions,
    reference: {
      type: "string",
      requiresArg: true,
      describe: "What the actor is kept near: a model or a policy's folder [default: the actor as it begins]",
    },
    form: {
      choices: ["difference", "sign", "absolute", "exponential", "product"] as const,
      defaultDescription: defaults.form,
      describe: "Of the reward; the last three look at one completion alone",
    },
    reduce: {
      choices: ["sum", "mean", "normalised"] as const,
      defaultDescription: defaults.reduce,
      describe: "Of the order-preserving term over its batch",
    },
    "reward-clip": number("Rewards, the term among them, are cut to it", defaults.rewardClip, aboveZero("reward-clip")),
    kl: number("Penalty a token for leaving the reference; 0.005 in the paper", defaults.kl, fromZero("kl")),
    temperature: number("Of what is sampled; 0: the likeliest tokens", defaults.temperature, fromZero("temperature")),
    scored: {
      choices: ["answer", "stated"] as const,
      defaultDescription: defaults.scored,
      describe: "What the reward model reads: answers alone, or with the confidences that they state",
    },
    unparsed: {
      type: "string",
      default: "error",
      requiresArg: true,
      describe: "A completion whose confidence cannot be read, which is counted: error, or its confidence",
      coerce: unparsedPolicy,
    },
    truncate: {
      choices: ["error", "drop", "left"] as const,
      describe: "Prompts longer than --max_prompt_seq_len fail, are left out, or lose their beginning [default: error]",
    },
    ...engineBesideDtype,
  });

function unparsedPolicy(value: string): "error" | number {
  if (value === "error") return value;
  const number = value.trim() === "" ? Number.NaN : Number(value);
  if (number >= 0 && number <= 1) return number;
  throw new UsageError(`--unparsed ${value}: expected error or a number from 0 to 1`);
}

interface PpoArguments extends DataArguments, EngineArguments {
  actorModelNameOrPath: string;
  criticModelNameOrPath: string;
  tokenizerModelNameOrPath?: string;
  unsupervisedDatasetName?: string;
  outputDir: string;
  reference?: string;
  unparsed: "error" | number;
  truncate?: "error" | "drop" | "left";
  end?: string;
  preset?: string;
  compat: ConqordCompat;
  json: boolean;
}

/** The settings among the command's arguments; as published (A9-9) rollouts are greedy where no flag says otherwise. */
export const ppoSettings = (args: { compat: ConqordCompat; preset?: string; temperature?: number }) =>
  settingsOf("ppo", args, args.preset, args.compat.has("A9-9") ? { temperature: 0 } : {});

export async function handler(args: PpoArguments): Promise<void> {
  publishedUnneeded(script, args);
  const { Bases, checkVocabulary, mergeOnce, learnerOf, startAt } = await import(
    "../../methods/conqord/training-models.js"
  );
  const { partsOf, termOf, trainConqordPpo } = await import("../../methods/conqord/train-ppo.js");
  const { openRecords } = await import("../../data/readers.js");
  const { chatSchema } = await import("../../data/records.js");
  const { givenPolicy } = await import("../../training/checkpoint.js");
  const { progressOn, silent } = await import("../../tracking/progress.js");
  const { compat, outputDir, end, truncate, unparsed, unsupervisedDatasetName: beside } = args;
  const settings = ppoSettings(args);
  termOf(settings, compat); // refuses before anything is opened
  const { seed } = settings;
  await interruptible(async (signal) => {
    const { texts } = await readPhase(args, 3, { shares: settings.dataSplit, seed, held: false });
    const options = modelOptionsOf(args, signal);
    const learn = async () => {
      await using bases = new Bases(options);
      const at = (path: string) => startAt(path, args.tokenizerModelNameOrPath);
      const [begun, scored] = [at(args.actorModelNameOrPath), at(args.criticModelNameOrPath)];
      const near = args.reference === undefined ? begun : at(args.reference);
      const model = await bases.of(begun.base);
      const [judging, keeping] = [await bases.of(scored.base), await bases.of(near.base)];
      checkVocabulary(model, judging, "the reward model's base");
      checkVocabulary(model, keeping, "the reference");
      if (scored.folder === undefined)
        throw new UsageError(
          `--critic_model_name_or_path ${args.criticModelNameOrPath} is no reward model's folder. Give what credence conqord reward-model left`,
        );
      const shared = { seed, compat };
      const { policy, counts } = await trainConqordPpo({
        model,
        directory: outputDir,
        actor: learnerOf(model, begun, partsOf(settings, "actor"), shared),
        reference: await keeping.policy(near.folder === undefined ? {} : { adapter: near.folder }),
        near: near.folder ?? keeping.sha256,
        quality: await judging.policy({ adapter: scored.folder }),
        critic: learnerOf(judging, scored, partsOf(settings, "critic"), shared),
        prompts: texts.map(({ prompt }) => prompt),
        settings,
        unparsed,
        compat,
        ...(end === undefined ? {} : { end }),
        ...(truncate === undefined ? {} : { truncate }),
        ...(beside === undefined ? {} : { beside: await openRecords(beside, chatSchema) }),
        progress: logs("info") ? progressOn() : silent,
        signal,
      });
      await policy.dispose();
      return { counts, path: model.path };
    };
    const { counts, path } = await learn();
    if (counts.failed > 0)
      note(
        `${counts.failed} of ${counts.texts} completions stated no confidence that can be read, taken as ${compat.has("A9-6") ? 1 : unparsed}`,
        "warn",
      );
    if (counts.clamped > 0)
      note(`${counts.clamped} stated a confidence beyond 0 to 1, taken as the nearer of them`, "warn");
    const folder = givenPolicy(outputDir);
    const merged = await mergeOnce(folder, join(outputDir, "actor"), path, options);
    note(`the policy is in ${folder}`);
    if (args.json) printJson({ prompts: texts.length, ...counts, policy: folder, merged });
    else print(`${texts.length} prompts learnt from; the model: ${merged}`);
  });
}
