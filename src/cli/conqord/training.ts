/** What CONQORD's three training scripts share: their flags, presets, and the data that a phase learns from. */
import type { Options } from "yargs";
import type { PhaseData } from "../../methods/conqord/data.js";
import type { RecordTexts } from "../../methods/conqord/sources.js";
import {
  scheduleNames,
  type TrainingName,
  trainingDefaults,
  trainingPresets,
  trainingSettings,
} from "../../methods/conqord/training-settings.js";
import type { ModelOptions } from "../../policy/model.js";
import { baseOptions, type EngineArguments, engineOptions } from "../options.js";
import { note, UsageError } from "../output.js";
import type { Unneeded } from "../published.js";

export const text = (describe: string, more: Options = {}): Options => ({
  type: "string",
  requiresArg: true,
  describe,
  ...more,
});

/** A number that a preset may set: its published default is told, and filled in behind the preset. */
export const number = (
  describe: string,
  value: number | undefined,
  coerce: (value: number) => number | undefined,
): Options => ({
  type: "number",
  requiresArg: true,
  describe,
  ...(value === undefined ? {} : { defaultDescription: String(value) }),
  coerce,
});

/** A switch of the same kind. */
export const toggle = (describe: string): Options => ({ type: "boolean", describe, defaultDescription: "false" });

export const scheduleFlag = (value: string): Options => ({
  type: "string",
  requiresArg: true,
  defaultDescription: value,
  describe: `How the learning rate falls: ${scheduleNames.join(", ")}`,
  coerce: (given: string | undefined) => {
    if (given === undefined || (scheduleNames as readonly string[]).includes(given)) return given;
    throw new UsageError(
      given === "polynomial"
        ? "--lr_scheduler_type polynomial: of the power 1, its default, it is linear; give that"
        : `--lr_scheduler_type ${given}: expected one of ${scheduleNames.join(", ")}`,
    );
  },
});

export const precisionFlag: Options = {
  type: "string",
  default: "auto",
  requiresArg: true,
  describe: "Type of the frozen weights and the activations: bf16, fp32 (f32), auto; fp16 is taken as auto",
  coerce: (given: string): EngineArguments["dtype"] => {
    if (given === "fp16") note("--dtype fp16: here it is bf16 or float32, which do not overflow; taken as auto");
    if (given === "fp16" || given === "auto") return "auto";
    if (given === "bf16") return "bf16";
    if (given === "fp32" || given === "f32") return "f32";
    throw new UsageError(`--dtype ${given}: expected auto, bf16, fp32 or fp16`);
  },
};

/** Where the published script has no `--dtype`, that of every command stays. */
const { dtype: _, ...withoutType } = engineOptions;
export const engineBesideDtype = withoutType;

/** What all three scripts were told. */
export const dataFlags = (split: string) =>
  ({
    data_path: text(
      "Sets to learn from: saved sets (Arrow), folders of files, or files; their paths say what they hold",
      {
        array: true,
        demandOption: true,
      },
    ),
    data_split: text("Each set's shares of the three trainings", { defaultDescription: split }),
    data_output_path: text("Folder of files (.npy) that say which rows each training got [default: none are written]"),
  }) satisfies Record<string, Options>;

/** What has no published flag. */
export const ownDataOptions = {
  kind: text("What all the sets are, where their paths do not say it, e.g. local/jsonfile"),
  end: text("What follows a text [default: the token that ends the model's texts]; <|endoftext|> as published"),
} satisfies Record<string, Options>;

export const stageOptions = {
  base: text("The model under a policy's folder, which names it by its last part alone"),
  held: {
    type: "boolean",
    default: true,
    describe: "Hold each epoch against the set's own split for that, and keep the best one; --no-held keeps the last",
  },
} satisfies Record<string, Options>;

/** One process of one engine has no need of these. */
export const launcherFlags = {
  local_rank: { type: "number", why: "one process has the whole model" },
  deepspeed: { type: "boolean", why: "the engine trains by itself" },
  deepspeed_config: { type: "string", why: "the engine trains by itself" },
} satisfies Record<string, Unneeded>;

const memory = "--max-memory is kept to, if need be by computing blocks again";

export const stageUnneeded = {
  per_device_eval_batch_size: { type: "number", why: "rows held out are scored in passes that fit" },
  gradient_checkpointing: { type: "boolean", why: memory },
  disable_dropout: { type: "boolean", why: "nothing is dropped" },
  offload: { type: "boolean", why: memory },
  zero_stage: { type: "number", why: "one process has the whole model" },
  enable_tensorboard: { type: "boolean", why: "events are always written" },
  print_loss: { type: "boolean", why: "metrics.jsonl has each step's loss" },
  ...launcherFlags,
} satisfies Record<string, Unneeded>;

export const ppoUnneeded = {
  unsupervised_dataset_config_name: { type: "string", why: "--unsupervised_dataset_name is a file" },
  num_padding_at_beginning: { type: "number", why: "nothing is padded at its beginning" },
  preprocessing_num_workers: { type: "number", why: "texts are tokenized on all cores" },
  enable_hybrid_engine: { type: "boolean", why: "one engine samples and learns" },
  unpin_actor_parameters: { type: "boolean", why: "one engine samples and learns" },
  release_inference_cache: { type: "boolean", why: "what sampling takes is given back before anything is learnt" },
  inference_tp_size: { type: "number", why: "one process has the whole model" },
  tp_gather_partition_size: { type: "number", why: "one process has the whole model" },
  offload: { type: "boolean", why: memory },
  offload_reference_model: { type: "boolean", why: "the reference shares the actor's weights" },
  actor_zero_stage: { type: "number", why: "one process has the whole model" },
  critic_zero_stage: { type: "number", why: "one process has the whole model" },
  actor_gradient_checkpointing: { type: "boolean", why: memory },
  critic_gradient_checkpointing: { type: "boolean", why: memory },
  disable_actor_dropout: { type: "boolean", why: "nothing is dropped" },
  disable_critic_dropout: { type: "boolean", why: "nothing is dropped" },
  enable_mixed_precision_lora: { type: "boolean", why: "one process has the whole model" },
  align_overflow: { type: "boolean", why: "bf16 and float32 do not overflow" },
  enable_tensorboard: { type: "boolean", why: "events are always written" },
  tensorboard_path: { type: "string", why: "events stand in --output_dir" },
  ...launcherFlags,
} satisfies Record<string, Unneeded>;

export const presetOption = (name: TrainingName) =>
  ({
    preset: {
      choices: Object.keys(trainingPresets[name]),
      describe: "Settings by name, which other flags go before",
    },
  }) satisfies Record<string, Options>;

/**
 * The settings among a command's arguments.
 *
 * @param published what --compat brings back where no flag says otherwise
 */
export function settingsOf<Name extends TrainingName>(
  name: Name,
  args: object,
  preset: string | undefined,
  published: Partial<(typeof trainingDefaults)[Name]> = {},
): (typeof trainingDefaults)[Name] {
  const names = ["loraLearningRate", "actorLoraLearningRate", "criticLoraLearningRate"];
  const known = new Set([...Object.keys(trainingDefaults[name]), ...names]);
  const given = Object.entries(args).filter(([key]) => known.has(key));
  return trainingSettings(
    name,
    { ...published, ...Object.fromEntries(given.filter(([, value]) => value !== undefined)) } as Partial<
      (typeof trainingDefaults)[Name]
    >,
    preset,
  );
}

export interface DataArguments {
  dataPath: string[];
  dataOutputPath?: string;
  kind?: string;
}

/** A phase's texts, and those that it is held against. */
export async function readPhase(
  { dataPath, dataOutputPath, kind }: DataArguments,
  phase: PhaseData["phase"],
  { shares, seed, held, sftOnly }: { shares: string; seed: number; held: boolean; sftOnly?: string[] | undefined },
): Promise<{ texts: RecordTexts[]; held?: RecordTexts[] }> {
  const { phaseTexts } = await import("../../methods/conqord/data.js");
  const data = {
    paths: dataPath,
    phase,
    shares,
    seed,
    ...(kind === undefined ? {} : { kind }),
    ...(sftOnly ? { sftOnly } : {}),
    ...(dataOutputPath === undefined ? {} : { indices: dataOutputPath }),
  };
  const texts = await phaseTexts({ ...data, part: "train" });
  return held ? { texts, held: await phaseTexts({ ...data, part: "eval" }) } : { texts };
}

/** How models are opened. */
export const modelOptionsOf = (args: EngineArguments, signal: AbortSignal): ModelOptions => ({
  ...baseOptions(args),
  note,
  signal,
});
