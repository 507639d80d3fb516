/** What the two predicting scripts share: their flags, and the work itself. */
import type { Options } from "yargs";
import type { PublishedPrediction } from "../../methods/elical/published/predict.js";
import type { Compat } from "../../methods/published.js";
import { interruptible } from "../interrupt.js";
import { baseOptions, type EngineArguments, positiveInteger } from "../options.js";
import { logs, note, printJson, UsageError } from "../output.js";
import { type PublishedScript, publishedUnneeded, type Unneeded } from "../published.js";

const list = (describe: string): Options => ({ type: "string", array: true, requiresArg: true, describe });

/** Flags of both predicting scripts. */
export const predictingFlags = {
  model_path: { type: "string", requiresArg: true, demandOption: true, describe: "The model, with its tokenizer" },
  vector_head_path: { type: "string", requiresArg: true, demandOption: true, describe: "The trained head" },
  output_path: { ...list("Folder of each set's predictions"), demandOption: true },
  test_data_path: list("Sampled answers of each set, whose prompts are scored"),
  train_data_path: list("The same of the training sets: scored with --type train"),
  per_device_eval_batch_size: {
    type: "number",
    default: 16,
    requiresArg: true,
    describe: "Rows padded together where rows are padded",
    coerce: positiveInteger("per_device_eval_batch_size"),
  },
  type: { choices: ["test", "train"], default: "test", describe: "Which of the lists is scored" },
} satisfies Record<string, Options>;

export const unneededPredictingFlags: Record<string, Unneeded> = {
  seed: { type: "number", why: "nothing is random" },
};

export const deadPredictingFlags = {
  test_consis_path: "a confidence needs no verdicts; give them to credence elical evaluate",
  train_consis_path: "a confidence needs no verdicts; give them to credence elical evaluate",
};

export const ownPredictingOptions = {
  "other-prompt": {
    type: "boolean",
    default: false,
    describe: "Score prompts that are put otherwise than those trained on",
  },
} satisfies Record<string, Options>;

export interface PredictingArguments extends EngineArguments {
  modelPath: string;
  loraPath?: string;
  vectorHeadPath: string;
  outputPath: string[];
  testDataPath?: string[];
  trainDataPath?: string[];
  perDeviceEvalBatchSize: number;
  type: "test" | "train";
  lastToken?: "last-real" | "index-minus-one";
  paddingSide: "right" | "left";
  otherPrompt: boolean;
  compat: Compat;
  json: boolean;
}

/** Scores each set as a script's flags say. */
export async function predict(script: PublishedScript, args: PredictingArguments): Promise<void> {
  const { Model } = await import("../../policy/model.js");
  const { progressOn, silent } = await import("../../tracking/progress.js");
  const { loadTrained } = await import("../../methods/elical/published/adapters.js");
  const { predictPublished } = await import("../../methods/elical/published/predict.js");
  publishedUnneeded(script, args);
  const flag = args.type === "test" ? "--test_data_path" : "--train_data_path";
  const files = (args.type === "test" ? args.testDataPath : args.trainDataPath) ?? [];
  if (files.length === 0) throw new UsageError(`--type ${args.type}: ${flag} says what to score`);
  if (files.length !== args.outputPath.length)
    throw new UsageError(
      `${flag} names ${files.length} files, --output_path ${args.outputPath.length} folders: one for each`,
    );
  await interruptible(async (signal) => {
    const progress = logs("info") ? progressOn() : silent;
    await using model = await Model.load(args.modelPath, { ...baseOptions(args), note, signal });
    await using policy = await loadTrained(model, { adapter: args.loraPath, head: args.vectorHeadPath });
    const written: { output: string; rows: number }[] = [];
    for (const [i, data] of files.entries()) {
      const job: PublishedPrediction = {
        data,
        output: args.outputPath[i]!,
        split: args.type,
        batch: args.perDeviceEvalBatchSize,
        lastToken: args.lastToken,
        paddingSide: args.paddingSide,
        otherPrompt: args.otherPrompt,
        compat: args.compat as PublishedPrediction["compat"],
      };
      const rows = await predictPublished(policy, job, { progress, signal });
      written.push({ output: job.output, rows: rows.length });
      note(`${rows.length} predictions in ${job.output}`);
    }
    if (args.json) printJson({ written });
  });
}
