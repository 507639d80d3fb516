/** Trains an adapter and a head to say how likely the model is to answer a question right, before it answers. */
import { join } from "node:path";
import type { Argv } from "yargs";
import { interruptible } from "./interrupt.js";
import { baseOptions, type EngineArguments, modelOptions, positiveInteger, seedOption } from "./options.js";
import { logs, note } from "./output.js";

export const command = "train <labels>";
export const describe =
  "Train a LoRA adapter and a head to predict labels from the question; again on the same folder it goes on";
export const builder = (line: Argv) =>
  line
    .positional("labels", { type: "string", demandOption: true, describe: "What credence label wrote" })
    .options({
      ...modelOptions,
      ...seedOption,
      out: {
        type: "string",
        demandOption: true,
        requiresArg: true,
        describe: "Folder of the training; its policy is best/",
      },
      target: {
        choices: ["agreement", "correct"] as const,
        default: "agreement" as const,
        describe: "Learn agreement (elicit) or correctness (calibrate)",
      },
      epochs: { type: "number", default: 2, describe: "Times each row is learnt", coerce: positiveInteger("epochs") },
      batch: { type: "number", default: 16, describe: "Rows of an optimiser step", coerce: positiveInteger("batch") },
      "learning-rate": { type: "number", default: 3e-4, describe: "Largest learning rate" },
      rank: { type: "number", default: 8, describe: "Of a new adapter", coerce: positiveInteger("rank") },
      alpha: { type: "number", default: 16, describe: "Of a new adapter" },
      limit: { type: "number", describe: "Use the first so many rows", coerce: positiveInteger("limit") },
    })
    .demandOption("model");

interface TrainArguments extends EngineArguments {
  labels: string;
  model: string;
  adapter?: string;
  seed: number;
  out: string;
  target: "agreement" | "correct";
  epochs: number;
  batch: number;
  learningRate: number;
  rank: number;
  alpha: number;
  limit?: number;
}

export async function handler(args: TrainArguments): Promise<void> {
  const { readRecords } = await import("../data/readers.js");
  const { labelSchema } = await import("../data/records.js");
  const { CredenceError } = await import("../errors.js");
  const { Model } = await import("../policy/model.js");
  const { loadRecipe } = await import("../methods/recipes.js");
  const { trainLora } = await import("../methods/elical/lora.js");
  const { progressOn, silent } = await import("../tracking/progress.js");
  const field = args.target === "agreement" ? "target" : "given_correct";
  const records = (await readRecords(args.labels, labelSchema)).slice(0, args.limit);
  const targets = records.map((record, i) => {
    const value = record[field];
    if (value === undefined)
      throw new CredenceError(
        "BAD_INPUT",
        `${args.labels}: record ${i + 1} has no "${field}"; credence label writes it`,
      );
    return value;
  });
  const { rank, alpha, learningRate, batch, seed, epochs } = args;
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
    const told = new Set<string>();
    const fitted = (choice: string) => {
      if (!told.has(choice)) note(choice);
      told.add(choice);
    };
    const context = { directory: args.out, runDirectory: args.out, progress, signal, fitted };
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
    note(`the policy is in ${join(args.out, "best")}`);
  });
}
