/** Many rationales of a model to each question, as generate_reasons_for_evaluation.py has them sampled. */
import type { Argv } from "yargs";
import { saySelfRows } from "../../methods/sayself/compat.js";
import { interruptible } from "../interrupt.js";
import {
  aboveZero,
  baseOptions,
  type EngineArguments,
  engineOptions,
  integer,
  numberThat,
  positiveInteger,
  wholeFromZero,
} from "../options.js";
import { logs, note, print, printJson, UsageError } from "../output.js";
import { type PublishedScript, publishedOptions, publishedUnneeded } from "../published.js";

export const script: PublishedScript = {
  name: "generate-reasons",
  honoured: {
    dataset_path: {
      type: "string",
      demandOption: true,
      requiresArg: true,
      describe: "Questions: records with question, or with messages, as for build",
    },
    output_path: {
      type: "string",
      demandOption: true,
      requiresArg: true,
      describe: "JSON lines of question, reason and responses; the same command goes on with them",
    },
    model: { type: "string", requiresArg: true, describe: "Who is asked: a folder, a .gguf file or a hub id" },
    num_try: { type: "number", default: 50, describe: "Samples of a question", coerce: positiveInteger("num_try") },
    seed: { type: "number", default: 42, describe: "Of the samples and of the rows' order", coerce: integer("seed") },
    num_examples: {
      type: "number",
      default: 1000,
      describe: "Questions that are asked",
      coerce: positiveInteger("num_examples"),
    },
    start_index: { type: "number", default: 0, describe: "The first of them", coerce: wholeFromZero("start_index") },
    enable_unsfted_model: {
      type: "boolean",
      default: false,
      describe: "The model was not trained: it is asked for its reflection, in its own chat template",
    },
  },
  unneeded: {
    tokenizer: { type: "string", why: "the model's folder has its tokenizer" },
    tensor_parallel_size: { type: "number", why: "one process has the whole model" },
  },
  dead: {},
  rows: saySelfRows,
};

export const command = "generate-reasons";
export const describe = "Sample many responses of a model to each question, and keep the rationale of each";
export const builder = (line: Argv) =>
  line.options({
    ...publishedOptions(script),
    adapter: { type: "string", requiresArg: true, describe: "A policy's folder on that model" },
    temperature: { type: "number", default: 1, describe: "Of the samples", coerce: aboveZero("temperature") },
    "top-p": {
      type: "number",
      default: 0.95,
      describe: "Of the samples",
      coerce: numberThat("top-p", "a number above 0, up to 1", (value) => value > 0 && value <= 1),
    },
    "top-k": { type: "number", default: 50, describe: "Of the samples", coerce: positiveInteger("top-k") },
    "max-new-tokens": {
      type: "number",
      default: 512,
      describe: "Longest response",
      coerce: positiveInteger("max-new-tokens"),
    },
    ...engineOptions,
  });

interface GenerateArguments extends EngineArguments {
  datasetPath: string;
  outputPath: string;
  model?: string;
  adapter?: string;
  numTry: number;
  seed: number;
  numExamples: number;
  startIndex: number;
  enableUnsftedModel: boolean;
  temperature: number;
  topP: number;
  topK: number;
  maxNewTokens: number;
  json: boolean;
}

export async function handler(args: GenerateArguments): Promise<void> {
  const notNeeded = publishedUnneeded(script, args);
  const { model, adapter, outputPath: output, startIndex: start, numExamples, seed } = args;
  if ((model ?? adapter) === undefined) throw new UsageError("which model is asked? Give --model");
  const { readBuildQuestions } = await import("../../methods/sayself/building.js");
  const { generateReasons, shuffledRows, untrainedPrompt } = await import("../../methods/sayself/reasons.js");
  const { progressOn, silent } = await import("../../tracking/progress.js");
  const { loadPolicy } = await import("../policy.js");
  const progress = logs("info") ? progressOn() : silent;
  const rows = await readBuildQuestions(args.datasetPath, { answers: "optional" });
  const questions = shuffledRows(rows, start, numExamples, seed).map(({ question }) => question);
  if (questions.length === 0)
    throw new UsageError(`--start_index ${start}: ${args.datasetPath} has ${rows.length} questions`);
  await interruptible(async (signal) => {
    await using loaded = await loadPolicy({ model, adapter, engine: baseOptions(args), signal });
    const { numTry: samples, temperature, topP, topK, maxNewTokens: newTokens } = args;
    const instruction = args.enableUnsftedModel ? untrainedPrompt : null;
    const settings = { samples, temperature, topP, topK, newTokens, seed, instruction };
    const context = { output, progress, label: "sampling rationales", notNeeded, signal };
    const told = await generateReasons(loaded.policy, questions, settings, context);
    if (told.without > 0) note(`${told.without} of ${told.samples} responses have no rationale`, "warn");
    if (args.json) printJson({ questions: questions.length, ...told, output });
    else
      print(`${questions.length} questions, ${told.samples} responses, ${told.without} without a rationale: ${output}`);
  });
}
