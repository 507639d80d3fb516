/** Trains an adapter: with a head that says how likely an answer is to be right, or to write as conversations do. */
import { join } from "node:path";
import type { Argv } from "yargs";
import type { Truncate } from "../text/context.js";
import { interruptible } from "./interrupt.js";
import { baseOptions, type EngineArguments, modelOptions, positiveInteger, seedOption } from "./options.js";
import { logs, note, printJson, UsageError } from "./output.js";

export const command = "train <file>";
export const describe =
  "Train a LoRA adapter: to predict labels from the question, or on conversations; again on the same folder it goes on";
export const builder = (line: Argv) =>
  line
    .positional("file", {
      type: "string",
      demandOption: true,
      describe: "What credence label wrote, or chats (sft): .jsonl, .csv, .parquet, each also .gz, ...",
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
        choices: ["confidence", "sft"] as const,
        default: "confidence" as const,
        describe: "confidence: a head learns the label; sft: the model learns the turns that have a weight",
      },
      target: {
        choices: ["agreement", "correct"] as const,
        describe: "confidence: learn agreement (elicit) or correctness (calibrate) [default: agreement]",
      },
      epochs: { type: "number", default: 2, describe: "Times each row is learnt", coerce: positiveInteger("epochs") },
      batch: {
        type: "number",
        describe: "confidence: rows of an optimiser step [default: 16]",
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
        describe: "sft: rows that are too long fail, are left out, or lose their beginning or end [default: error]",
      },
      unsupervised: {
        choices: ["error", "drop"] as const,
        describe: "sft: rows in which nothing has a weight fail or are left out [default: error]",
      },
      "learning-rate": { type: "number", default: 3e-4, describe: "Largest learning rate" },
      rank: { type: "number", default: 8, describe: "Of a new adapter", coerce: positiveInteger("rank") },
      alpha: { type: "number", default: 16, describe: "Of a new adapter" },
      limit: { type: "number", describe: "Use the first so many rows", coerce: positiveInteger("limit") },
    })
    .demandOption("model");

interface TrainArguments extends EngineArguments {
  file: string;
  model: string;
  adapter?: string;
  seed: number;
  out: string;
  loss: "confidence" | "sft";
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

/** Options that one of the losses alone has. */
const ownOptions = {
  confidence: ["target", "batch"],
  sft: ["batchTokens", "window", "truncate", "unsupervised"],
} as const;

export async function handler(args: TrainArguments): Promise<void> {
  const other = args.loss === "sft" ? "confidence" : "sft";
  for (const name of ownOptions[other]) {
    if (args[name] === undefined) continue;
    const option = name.replace(/[A-Z]/g, (letter) => `-${letter.toLowerCase()}`);
    throw new UsageError(`--${option} belongs to --loss ${other}; this is --loss ${args.loss}`);
  }
  await (args.loss === "sft" ? trainChats(args) : trainConfidence(args));
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

/** What a new adapter is put on. */
const targets = ["q", "k", "v", "o", "gate", "up", "down"] as const;

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
        model.policy({ adapter: checkpoint ?? args.adapter ?? { rank, alpha, targets: [...targets], seed } }),
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
