/** Answers with stated confidences, as test_conqord.py makes them; how likely given answers are, as obtain_confidence.py asks. */
import type { Argv } from "yargs";
import { conqordRows } from "../../methods/conqord/compat.js";
import { interruptible } from "../interrupt.js";
import {
  aboveZero,
  baseOptions,
  type EngineArguments,
  engineOptions,
  numberThat,
  positiveInteger,
  seedOption,
} from "../options.js";
import { logs, note, print, printJson, UsageError } from "../output.js";
import { type PublishedScript, publishedOptions, publishedUnneeded } from "../published.js";
import { type PlaceArguments, placeFlags, placeOf, placeOptions } from "./places.js";

export const script: PublishedScript = {
  name: "infer",
  honoured: {
    ...placeFlags,
    suffix: { ...placeFlags.suffix, describe: "What the files' names begin with; with --input_path, the new column" },
    path: { type: "string", requiresArg: true, describe: "The answering model: a folder, a .gguf file or a hub id" },
    model_path: { type: "string", requiresArg: true, describe: "The same, as the second script calls it" },
    input_path: {
      type: "string",
      requiresArg: true,
      describe: "Instead of answering: a CSV of questions and answers; how likely each is right goes into a new column",
    },
    gpu: { type: "string", describe: "-1: the CPU, as --device cpu; else --device says where" },
  },
  unneeded: {
    token_path: { type: "string", why: "the model's folder has its tokenizer" },
  },
  dead: {
    metrics: "give credence conqord metrics the answers' ratings",
    preset: "--input_path names the questions",
    tag: "--suffix names the column",
  },
  rows: conqordRows,
};

export const command = "infer";
export const describe = "A model's answers to a question set with the confidences that it states";
export const builder = (line: Argv) =>
  line.options({
    ...publishedOptions(script),
    ...placeOptions,
    adapter: { type: "string", requiresArg: true, describe: "A PEFT folder on that model" },
    questions: {
      type: "string",
      requiresArg: true,
      describe: "The questions: a file of this machine; for dialogues also a saved set",
    },
    split: { type: "string", default: "test", requiresArg: true, describe: "Of dialogues in a saved set" },
    "max-new-tokens": {
      type: "number",
      describe: "Longest answer [default: 256; of a probability: 10]",
      coerce: positiveInteger("max-new-tokens"),
    },
    samples: {
      type: "number",
      describe: "Sample so many answers, which become one (chain of thought with aggregation) [default: the likeliest]",
      coerce: positiveInteger("samples"),
    },
    temperature: { type: "number", default: 0.7, describe: "Of sampled answers", coerce: aboveZero("temperature") },
    "top-p": {
      type: "number",
      default: 1,
      describe: "Of sampled answers",
      coerce: numberThat("top-p", "a number above 0, up to 1", (value) => value > 0 && value <= 1),
    },
    by: {
      choices: ["confidence", "count"] as const,
      default: "confidence" as const,
      describe: "What sampled answers weigh: what each states, or one each",
    },
    "question-column": { type: "string", default: "Question", describe: "Of --input_path" },
    "answer-column": { type: "string", default: "llama", describe: "Of --input_path" },
    ...seedOption,
    ...engineOptions,
  });

interface InferArguments extends PlaceArguments, EngineArguments {
  path?: string;
  modelPath?: string;
  inputPath?: string;
  gpu?: string;
  adapter?: string;
  questions?: string;
  split: string;
  maxNewTokens?: number;
  samples?: number;
  temperature: number;
  topP: number;
  by: "confidence" | "count";
  questionColumn: string;
  answerColumn: string;
  seed: number;
  json: boolean;
}

export async function handler(args: InferArguments): Promise<void> {
  const notNeeded = publishedUnneeded(script, args);
  const model = args.path ?? args.modelPath;
  if (model === undefined && args.adapter === undefined) throw new UsageError("which model answers? Give --path");
  if (args.inputPath === undefined && args.questions === undefined)
    throw new UsageError("which questions? Give --questions a file, or --input_path one with answers");
  if (args.inputPath !== undefined && args.suffix === "")
    throw new UsageError("--input_path: which column do the replies go into? Give --suffix");
  const { loadPolicy } = await import("../policy.js");
  const { progressOn, silent } = await import("../../tracking/progress.js");
  const progress = logs("info") ? progressOn() : silent;
  const engine = { ...baseOptions(args), ...(args.gpu === "-1" ? { device: "cpu" as const } : {}) };
  await interruptible(async (signal) => {
    await using loaded = await loadPolicy({ model, adapter: args.adapter, engine, signal });
    const shared = { progress, signal, notNeeded };
    await (args.inputPath === undefined
      ? answers(args, loaded.policy, shared)
      : probabilities(args, loaded.policy, shared));
  });
}

type Policy = import("../../policy/policy.js").Policy;
type Shared = Omit<import("../../methods/passes.js").PassContext, "output" | "label">;

async function answers(args: InferArguments, policy: Policy, shared: Shared): Promise<void> {
  const { answerQuestions } = await import("../../methods/conqord/infer.js");
  const { answersPath } = await import("../../methods/conqord/files.js");
  const { askedFor, dataNameOf } = await import("../../methods/conqord/prompts.js");
  const { readQuestions } = await import("../../methods/conqord/questions.js");
  const data = dataNameOf(args.dataName);
  const questions = await readQuestions(data, args.questions!, args.split);
  const output = answersPath(placeOf(args));
  const { samples, temperature, topP, by, seed } = args;
  const settings = {
    data,
    asked: askedFor(data, args.mode),
    maxTokens: args.maxNewTokens ?? 256,
    ...(samples === undefined ? {} : { sampled: { samples, temperature, topP, by } }),
    seed,
  };
  const { unparsed } = await answerQuestions(policy, questions, settings, { ...shared, output, label: "answering" });
  if (unparsed > 0) note(`${unparsed} sampled answers state no confidence that can be read`, "warn");
  if (args.json) printJson({ questions: questions.length, unparsed, output });
  else print(`${questions.length} questions answered: ${output}`);
}

async function probabilities(args: InferArguments, policy: Policy, shared: Shared): Promise<void> {
  const { askProbabilities } = await import("../../methods/conqord/infer.js");
  const path = args.inputPath!;
  const { questionColumn: question, answerColumn: answer, suffix: column, maxNewTokens: maxTokens = 10 } = args;
  const job = { path, question, answer, column, maxTokens };
  const asked = await askProbabilities(policy, job, { ...shared, label: "asking how likely" });
  if (args.json) printJson({ asked, column, output: path });
  else print(`${asked} answers asked about: column ${column} of ${path}`);
}
