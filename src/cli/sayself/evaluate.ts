/** How sure a model is of its answers, and how well it knows: as evaluate.py measures it, and the paper's baselines beside it. */
import { join } from "node:path";
import type { Argv } from "yargs";
import type { Asking } from "../../methods/sayself/asking.js";
import { type SaySelfCompat, saySelfRows } from "../../methods/sayself/compat.js";
import type { EvaluationResult } from "../../methods/sayself/evaluate.js";
import type { Criterion } from "../../methods/sayself/judging.js";
import { interruptible } from "../interrupt.js";
import { openResponder, type ServerArguments, serverOptions, usageLine } from "../judge.js";
import {
  baseOptions,
  type EngineArguments,
  engineOptions,
  fromZero,
  positiveInteger,
  wholeFromZero,
} from "../options.js";
import { logs, note, print, printJson, table, UsageError } from "../output.js";
import { type PublishedScript, publishedOptions, publishedUnneeded } from "../published.js";

const engineHasIt = "the engine does it by itself";
const oneProcess = "one process has all rows";

export const script: PublishedScript = {
  name: "evaluate",
  honoured: {
    train_file: {
      type: "string",
      requiresArg: true,
      describe: "The questions, in spite of its name: a file of this machine",
    },
    dataset_name: {
      type: "string",
      requiresArg: true,
      describe: "The same, or a saved folder, of which the split validation is read, else test; nothing is downloaded",
    },
    model_name_or_path: { type: "string", requiresArg: true, describe: "A folder, a .gguf file or a hub id" },
    peft_model_name_or_path: {
      type: "string",
      requiresArg: true,
      describe: "A trained policy's folder, or PEFT's; without --model_name_or_path on the model that it names",
    },
    output_dir: {
      type: "string",
      requiresArg: true,
      describe: "The folder of the responses and of what they are worth",
    },
    num_eval_examples: {
      type: "number",
      default: 20_000,
      describe: "Questions at most; the published scripts give 1000",
      coerce: positiveInteger("num_eval_examples"),
    },
    start_index: {
      type: "number",
      default: 0,
      describe: "Questions before the first",
      coerce: wholeFromZero("start_index"),
    },
    max_seq_length: {
      type: "number",
      default: 512,
      describe: "Tokens of a prompt; a longer one is left out, and counted. The published scripts give 1024",
      coerce: positiveInteger("max_seq_length"),
    },
    explicitly_state_confidence: {
      type: "boolean",
      default: false,
      describe: "Direct prompting: a model that was not trained is asked how sure it is",
    },
    r_tuning: { type: "boolean", default: false, describe: 'The model ends in "I am sure" or "I am unsure"' },
    add_bos: {
      type: "boolean",
      default: false,
      describe: "Begin a prompt with that token, whatever the tokenizer does",
    },
    seed: { type: "number", default: 0, describe: "Of the sampled responses", coerce: wholeFromZero("seed") },
  },
  unneeded: {
    dataset_config_name: { type: "string", why: "a file or folder holds one set" },
    tokenizer_name: { type: "string", why: "the model's folder has its tokenizer" },
    use_slow_tokenizer: { type: "boolean", why: "one tokenizer reads the files of both" },
    use_flash_attn: { type: "boolean", why: engineHasIt },
    low_cpu_mem_usage: { type: "boolean", why: engineHasIt },
    train_micro_batch_size_per_gpu: { type: "number", why: "as many rows are answered together as there is room for" },
    preprocessing_num_workers: { type: "number", why: oneProcess },
    timeout: { type: "number", why: `${oneProcess}; of a judge's calls --judge-timeout` },
    overwrite_cache: { type: "boolean", why: "prompts are not kept between runs" },
    with_tracking: { type: "boolean", why: "metrics.json has the numbers" },
    report_to: { type: "string", why: "metrics.json has the numbers" },
    trust_remote_code: { type: "boolean", why: "no code of a model's is run" },
  },
  dead: {
    config_name: "the model's folder has its configuration",
    gradient_checkpointing: "nothing is trained here",
  },
  rows: saySelfRows,
};

const { timeout: judgeTimeout, ...server } = serverOptions;

export const command = "evaluate";
export const describe = "A model's answers to a question set, its confidence in each, and how good both are";
export const builder = (line: Argv) =>
  line.options({
    ...publishedOptions(script),
    bare: {
      type: "boolean",
      default: false,
      describe: "The model states a confidence without a reflection before it: trained without one, or by groups",
    },
    "self-consistency": {
      type: "number",
      describe: "Sample so many answers of a model that was not trained; the share that agrees is its confidence",
      coerce: positiveInteger("self-consistency"),
    },
    prompt: {
      choices: ["inst", "chat"] as const,
      default: "inst" as const,
      describe: "How a question is put: in [INST], as SaySelf's models learn it, or in the model's own chat template",
    },
    temperature: { type: "number", default: 0.7, describe: "0: the likeliest tokens", coerce: fromZero("temperature") },
    "top-k": { type: "number", default: 50, describe: "0: all tokens", coerce: wholeFromZero("top-k") },
    "max-new-tokens": {
      type: "number",
      default: 256,
      describe: "Longest response, and longest continuation of one without a confidence",
      coerce: positiveInteger("max-new-tokens"),
    },
    "num-retries": {
      type: "number",
      default: 3,
      describe: "How often a response without a confidence is gone on with, before one is forced",
      coerce: wholeFromZero("num-retries"),
    },
    "trained-on": {
      type: "string",
      array: true,
      requiresArg: true,
      describe: "Files of questions that were trained on: an evaluation that asks one of them is refused",
    },
    judge: {
      choices: ["string", "model", "openai"] as const,
      describe:
        "Who scores: the words under Answer:, the model of --check-model, or a server by the variables OPENAI_API_KEY, OPENAI_DEPLOYMENT_NAME and, on Azure, OPENAI_AZURE_ENDPOINT and OPENAI_API_VERSION [default: string, or model where one is named]",
    },
    "check-model": {
      type: "string",
      requiresArg: true,
      describe: "The model that judges, here or with --url on a server",
    },
    criterion: {
      choices: ["reasoning", "answer"] as const,
      default: "reasoning" as const,
      describe: "What a model scores: an answer and the reasoning for it, as published, or the answer alone",
    },
    ...server,
    "judge-timeout": judgeTimeout,
    ...engineOptions,
  });

interface EvaluateArguments extends Omit<ServerArguments, "timeout">, EngineArguments {
  trainFile?: string;
  datasetName?: string;
  modelNameOrPath?: string;
  peftModelNameOrPath?: string;
  outputDir?: string;
  numEvalExamples: number;
  startIndex: number;
  maxSeqLength: number;
  explicitlyStateConfidence: boolean;
  rTuning: boolean;
  addBos: boolean;
  seed: number;
  bare: boolean;
  selfConsistency?: number;
  prompt: "inst" | "chat";
  temperature: number;
  topK: number;
  maxNewTokens: number;
  numRetries: number;
  trainedOn?: string[];
  judge?: "string" | "model" | "openai";
  checkModel?: string;
  criterion: Criterion;
  judgeTimeout: number;
  compat: SaySelfCompat;
  json: boolean;
}

/** Longest reply of a judge, in tokens. */
const replyTokens = 64;

function askingOf(args: EvaluateArguments): Asking {
  const asked = (
    [
      ["--explicitly_state_confidence", "direct", args.explicitlyStateConfidence],
      ["--r_tuning", "r-tuning", args.rTuning],
      ["--bare", "bare", args.bare],
      ["--self-consistency", "consistency", args.selfConsistency !== undefined],
    ] as const
  ).filter(([, , given]) => given);
  if (asked.length > 1)
    throw new UsageError(`${asked.map(([flag]) => flag).join(" and ")}: a model is asked in one way; give one of them`);
  return asked[0]?.[1] ?? "reflection";
}

function judgeOf({ judge, checkModel, url }: EvaluateArguments): "string" | "model" | "openai" {
  const kind = judge ?? (checkModel === undefined ? "string" : "model");
  if (kind === "model" && checkModel === undefined) throw new UsageError("which model judges? Give --check-model");
  if (kind !== "model" && (checkModel !== undefined || url !== undefined))
    throw new UsageError(`--judge ${kind} has no use for ${checkModel !== undefined ? "--check-model" : "--url"}`);
  return kind;
}

export async function handler(args: EvaluateArguments): Promise<void> {
  const notNeeded = publishedUnneeded(script, args);
  const { trainFile, datasetName, modelNameOrPath: model, peftModelNameOrPath: adapter, outputDir, compat } = args;
  const path = trainFile ?? datasetName;
  if (path === undefined) throw new UsageError("which questions? Give --train_file or --dataset_name a file");
  if (trainFile !== undefined && datasetName !== undefined)
    throw new UsageError("--train_file and --dataset_name both name the questions; give one of them");
  if (model === undefined && adapter === undefined)
    throw new UsageError("which model? Give --model_name_or_path, or --peft_model_name_or_path");
  if (outputDir === undefined) throw new UsageError("where do the responses go? Give --output_dir");
  const asking = askingOf(args);
  const kind = judgeOf(args);
  const { readSaySelfQuestions, refuseTrained } = await import("../../methods/sayself/questions.js");
  const { evaluateSaySelf, evaluationFiles } = await import("../../methods/sayself/evaluate.js");
  const { publishedServer, scoringJudge, stringScore } = await import("../../methods/sayself/judging.js");
  const { loadPolicy } = await import("../policy.js");
  const { progressOn, silent } = await import("../../tracking/progress.js");
  const azure = kind === "openai" ? publishedServer() : undefined;
  const set = await readSaySelfQuestions(path, { start: args.startIndex, count: args.numEvalExamples });
  if (set.wordy > 0) note(`${set.wordy} of ${set.rows} conversations have 200 words or more and are left out`, "warn");
  if (!compat.has("B9-5")) await refuseTrained(set.questions, path, args.trainedOn ?? []);
  const engine = baseOptions(args);
  const settings = {
    asking,
    template: args.prompt,
    samples: args.selfConsistency ?? 1,
    temperature: args.temperature,
    topK: args.topK === 0 ? null : args.topK,
    maxTokens: args.maxNewTokens,
    retries: args.numRetries,
    seed: args.seed,
    addBos: args.addBos,
    compat,
    maxPromptTokens: args.maxSeqLength,
  };
  await interruptible(async (signal) => {
    await using loaded = await loadPolicy({ model, adapter, engine, signal });
    await using opened =
      kind === "string"
        ? undefined
        : await openResponder({
            ...args,
            timeout: args.judgeTimeout,
            ...(azure ?? { model: args.checkModel! }),
            engine,
            maxTokens: replyTokens,
            mayBeEmpty: true,
            answers: args.answers ?? join(outputDir, "judge.answers"),
            signal,
          });
    const judge = opened ? scoringJudge(opened.responder, args.criterion) : stringScore(compat);
    const context = { folder: outputDir, progress: logs("info") ? progressOn() : silent, notNeeded, signal };
    const { result } = await evaluateSaySelf(loaded.policy, set.questions, judge, settings, context);
    if (opened?.server) note(usageLine(opened.server.usage));
    if (args.json) printJson({ ...result, wordy: set.wordy, output: outputDir });
    else {
      tell(result, args.maxSeqLength);
      print(metricsText(result));
      print(`${result.rows} responses, scored by ${result.judge}: ${join(outputDir, evaluationFiles.reasons)}`);
    }
  });
}

/** What is in none of the numbers, or in some of them alone. */
function tell({ tooLong, parseFailures, incomplete, unscored }: EvaluationResult, most: number): void {
  if (tooLong > 0) note(`${tooLong} questions left out, whose prompt has more than ${most} tokens`, "warn");
  if (unscored > 0) note(`${unscored} responses that the judge gave no score are in none of the numbers`, "warn");
  if (parseFailures > 0)
    note(
      `${parseFailures} responses without a confidence that can be read (${incomplete} lack one after every retry) count in the accuracy alone`,
      "warn",
    );
}

const shown = (value: number | null): string => (value === null ? "-" : value.toFixed(4));

const metricsText = (result: EvaluationResult): string =>
  table([
    ["rows", "accuracy", "AUROC", "ECE", "absolute error", "right", "wrong", "unread"],
    [
      result.rows,
      shown(result.accuracy),
      shown(result.auroc),
      shown(result.ece),
      shown(result.absoluteError),
      shown(result.confidenceRight),
      shown(result.confidenceWrong),
      result.parseFailures,
    ],
  ]);
