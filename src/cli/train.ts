/** Trains an adapter or a head: to say how likely an answer is to be right, to write as conversations do, to judge answers. */
import { join } from "node:path";
import type { Argv } from "yargs";
import type { Truncate } from "../text/context.js";
import { interruptible } from "./interrupt.js";
import {
  adapterTargets,
  baseOptions,
  type EngineArguments,
  modelOptions,
  positiveInteger,
  seedOption,
} from "./options.js";
import { logs, note, printJson, UsageError } from "./output.js";
import { type PreferenceArguments, preferenceOptions, preferenceOwn, trainPreferences } from "./train-preferences.js";

export const command = "train <file>";
export const describe =
  "Train a LoRA adapter: to predict labels, on conversations, or on preferences; again on the same folder it goes on";
const losses = ["confidence", "sft", "reward-model", "dpo"] as const;
export const builder = (line: Argv) =>
  line
    .positional("file", {
      type: "string",
      demandOption: true,
      describe:
        "What credence label wrote, chats (sft), pairs (reward-model, dpo) or ratings (reward-model): .jsonl, .csv, .parquet, each also .gz, ...",
    })
    .options({
      ...modelOptions,
      ...seedOption,
      out: {
        type: "string",
        demandOption: true,
        requiresArg: true,
        describe: "Folder of the training; its policy is best/",
      },
      loss: {
        choices: losses,
        default: "confidence" as const,
        describe:
          "confidence: a head learns the label; sft: the model learns the turns that have a weight; reward-model: a head " +
          "learns which of two answers is preferred, or how each is rated; dpo: the model learns to prefer as pairs do",
      },
      target: {
        choices: ["agreement", "correct"] as const,
        describe: "confidence: learn agreement (elicit) or correctness (calibrate) [default: agreement]",
      },
      epochs: { type: "number", default: 2, describe: "Times each row is learnt", coerce: positiveInteger("epochs") },
      batch: {
        type: "number",
        describe: "confidence, reward-model, dpo: rows or pairs of an optimiser step [default: 16; of preferences 64]",
        coerce: positiveInteger("batch"),
      },
      "batch-tokens": {
        type: "number",
        describe: "sft: tokens of an optimiser step at most; rows are packed into it whole [default: 4096]",
        coerce: positiveInteger("batch-tokens"),
      },
      window: {
        type: "number",
        describe: "sft: rows shuffled, packed and held in memory together [default: 8192]",
        coerce: positiveInteger("window"),
      },
      truncate: {
        choices: ["error", "drop", "left", "right"] as const,
        describe:
          "sft, reward-model, dpo: rows that are too long fail, are left out, or lose their beginning or (sft) end [default: error]",
      },
      unsupervised: {
        choices: ["error", "drop"] as const,
        describe:
          "sft: rows in which nothing has a weight, reward-model, dpo: pairs of equal sides, fail or are left out [default: error]",
      },
      "learning-rate": { type: "number", default: 3e-4, describe: "Largest learning rate" },
      rank: { type: "number", default: 8, describe: "Of a new adapter", coerce: positiveInteger("rank") },
      alpha: { type: "number", default: 16, describe: "Of a new adapter" },
      limit: { type: "number", describe: "Use the first so many rows", coerce: positiveInteger("limit") },
    })
    .group(
      ["loss", "model", "adapter", "out", "epochs", "learning-rate", "rank", "alpha", "seed", "limit"],
      "Training:",
    )
    .options(preferenceOptions)
    .group(Object.keys(preferenceOptions), "Preferences (reward-model, dpo):")
    .example("$0 train labels.jsonl --model DIR --out runs/mine", "a head learns agreement")
    .example("$0 train chats.jsonl --loss sft --model DIR --out runs/chats", "conversations")
    .example("$0 train pairs.jsonl --loss reward-model --held held.jsonl --model DIR --out runs/rm", "a reward model")
    .example("$0 train pairs.jsonl --loss dpo --beta 0.1 --model DIR --out runs/dpo", "preferences without one")
    .demandOption("model");

export interface TrainArguments extends EngineArguments, PreferenceArguments {
  file: string;
  model: string;
  adapter?: string;
  seed: number;
  out: string;
  loss: (typeof losses)[number];
  target?: "agreement" | "correct";
  epochs: number;
  batch?: number;
  batchTokens?: number;
  window?: number;
  truncate?: Truncate;
  unsupervised?: "error" | "drop";
  learningRate: number;
  rank: number;
  alpha: number;
  limit?: number;
  json: boolean;
}

/** Options that not every loss has, and those that have them. */
const ownOptions: { [name in keyof TrainArguments]?: readonly TrainArguments["loss"][] } = {
  target: ["confidence"],
  batch: ["confidence", "reward-model", "dpo"],
  batchTokens: ["sft"],
  window: ["sft"],
  truncate: ["sft", "reward-model", "dpo"],
  unsupervised: ["sft", "reward-model", "dpo"],
  ...preferenceOwn,
};

export async function handler(args: TrainArguments): Promise<void> {
  for (const [name, owners] of Object.entries(ownOptions)) {
    if (args[name as keyof TrainArguments] === undefined || owners.includes(args.loss)) continue;
    const option = name.replace(/[A-Z]/g, (letter) => `-${letter.toLowerCase()}`);
    throw new UsageError(`--${option} belongs to --loss ${owners.join(", ")}; this is --loss ${args.loss}`);
  }
  const { loss } = args;
  if (loss === "sft") await trainChats(args);
  else if (loss === "confidence") await trainConfidence(args);
  else await trainPreferences(args, noteOnce());
  note(`the policy is in ${join(args.out, "best")}`);
}

async function trainConfidence(args: TrainArguments): Promise<void> {
  const { readRecords } = await import("../data/readers.js");
  const { labelSchema } = await import("../data/records.js");
  const { CredenceError } = await import("../errors.js");
  const { Model } = await import("../policy/model.js");
  const { loadRecipe } = await import("../methods/recipes.js");
  const { trainLora } = await import("../methods/elical/lora.js");
  const { progressOn, silent } = await import("../tracking/progress.js");
  const { target = "agreement", batch = 16 } = args;
  const field = target === "agreement" ? "target" : "given_correct";
  const records = (await readRecords(args.file, labelSchema)).slice(0, args.limit);
  const targets = records.map((record, i) => {
    const value = record[field];
    if (value === undefined)
      throw new CredenceError("BAD_INPUT", `${args.file}: record ${i + 1} has no "${field}"; credence label writes it`);
    return value;
  });
  const { rank, alpha, learningRate, seed, epochs } = args;
  const recipe = loadRecipe({ method: "elical", model: args.model, lora: { rank, alpha, learningRate, batch } });
  await interruptible(async (signal) => {
    const progress = logs("info") ? progressOn() : silent;
    await using model = await Model.load(args.model, { ...baseOptions(args), note, signal });
    const rows = await Promise.all(
      records.map(async (record, i) => ({
        tokens: await model.promptTokens(record.question ?? record.messages!, recipe.lora.prompt),
        target: targets[i]!,
      })),
    );
    const context = { directory: args.out, runDirectory: args.out, progress, signal, fitted: noteOnce() };
    await using _ = await trainLora({
      context,
      model,
      recipe,
      seed,
      epochs,
      rows,
      start: args.adapter,
      label: "training",
    });
  });
}

/** Notes each line once. */
function noteOnce(): (line: string) => void {
  const told = new Set<string>();
  return (line) => {
    if (!told.has(line)) note(line);
    told.add(line);
  };
}

async function trainChats(args: TrainArguments): Promise<void> {
  const { firstRecords, openRecords } = await import("../data/readers.js");
  const { chatSchema } = await import("../data/records.js");
  const { Model } = await import("../policy/model.js");
  const { trainSft } = await import("../training/sft.js");
  const { progressOn, silent } = await import("../tracking/progress.js");
  const { rank, alpha, seed, batchTokens = 4096 } = args;
  await interruptible(async (signal) => {
    const progress = logs("info") ? progressOn() : silent;
    await using model = await Model.load(args.model, { ...baseOptions(args), note, signal });
    const { policy, steps, data, utilisation } = await trainSft({
      model,
      directory: args.out,
      records: firstRecords(await openRecords(args.file, chatSchema), args.limit),
      policy: (checkpoint) =>
        model.policy({ adapter: checkpoint ?? args.adapter ?? { rank, alpha, targets: [...adapterTargets], seed } }),
      batchTokens,
      windowRecords: args.window,
      truncate: args.truncate,
      unsupervised: args.unsupervised,
      epochs: args.epochs,
      learningRate: args.learningRate,
      seed,
      progress,
      signal,
      fitted: noteOnce(),
    });
    await policy.dispose();
    const { rows, tokens, weight, records, longest } = data;
    note(
      `${records} rows, ${rows} of them learnt from: ${tokens} tokens (the longest row ${longest}), weights ${weight} in all`,
    );
    const left = {
      "left out as too long": data.dropped,
      cut: data.cut,
      "left out, nothing has a weight": data.unsupervised,
    };
    for (const [what, count] of Object.entries(left)) if (count > 0) note(`${count} rows ${what}`, "warn");
    note(`${steps} steps, ${(100 * utilisation).toFixed(1)} % of ${batchTokens} tokens used on average`);
    if (args.json) printJson({ steps, utilisation, data });
  });
}
