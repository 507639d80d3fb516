/** The answers of a model to question sets, and a judge's verdicts on them: all passes, or one of a file. */
import { join } from "node:path";
import type { Argv } from "yargs";
import type { OpenResponder } from "../../evaluation/judges/open.js";
import { writeJsonAtomic } from "../../files.js";
import { type ElicalCompat, elicalRows } from "../../methods/elical/published/compat.js";
import type { InferContext, InferSet } from "../../methods/elical/published/infer-sets.js";
import type { PromptType } from "../../methods/elical/published/prompts.js";
import type { Compat } from "../../methods/published.js";
import type { Prompt } from "../../model/card.js";
import { interruptible } from "../interrupt.js";
import { openResponder, type ServerArguments, serverOptions, usageLine } from "../judge.js";
import {
  aboveZero,
  baseOptions,
  type EngineArguments,
  engineOptions,
  fromZero,
  numberThat,
  positiveInteger,
  seedOption,
  wholeFromZero,
} from "../options.js";
import { logs, note, printJson, UsageError } from "../output.js";
import { type PublishedScript, publishedOptions, publishedUnneeded } from "../published.js";
import { answersPlace, type PlaceArguments, placeOptions, unparsedOption } from "./places.js";

const promptTypes = [
  "long_qa",
  "long_mc_qa",
  "prior_conf",
  "consistency",
  "llm_judge_gold",
] as const satisfies PromptType[];

export const script: PublishedScript = {
  name: "infer",
  honoured: {
    model_path: {
      type: "string",
      requiresArg: true,
      describe: "The answering model: a folder, a .gguf file or a hub id",
    },
    input_path: {
      type: "string",
      requiresArg: true,
      describe: "One pass: the file of questions, or of answers to judge",
    },
    output_path: { type: "string", requiresArg: true, describe: "One pass: where its records go" },
    prompt_type: {
      choices: promptTypes,
      default: "long_qa" as const,
      describe: "One pass: what is asked; with --dataset, prior_conf asks every set how sure the model is, and no more",
    },
    temperature: {
      type: "number",
      describe: "0: the likeliest tokens [default: 1 of samples, 0 of one answer]",
      coerce: fromZero("temperature"),
    },
    topp: {
      type: "number",
      default: 0.95,
      describe: "Of sampled answers",
      coerce: numberThat("topp", "a number above 0, up to 1", (value) => value > 0 && value <= 1),
    },
    topk: {
      type: "number",
      default: 50,
      describe: "Of sampled answers; 0 for all tokens",
      coerce: wholeFromZero("topk"),
    },
    max_tokens: {
      type: "number",
      describe: "Longest answer [default: 256 of long_qa, else 64]",
      coerce: positiveInteger("max_tokens"),
    },
    repetition_penalty: {
      type: "number",
      default: 1.05,
      describe: "1: none",
      coerce: aboveZero("repetition_penalty"),
    },
    sample_num: {
      type: "number",
      describe: "Answers of a question [default: 20 sampled ones; of one pass: 1]",
      coerce: positiveInteger("sample_num"),
    },
    batchsize: {
      type: "number",
      default: 1024,
      describe: "Questions answered and written together: what a stop may lose",
      coerce: positiveInteger("batchsize"),
    },
    logprobs: { type: "number", default: 1, describe: "One pass: 1 writes the tokens' log-probabilities" },
    get_tokens: { type: "number", default: 1, describe: "One pass: 1 writes the tokens" },
  },
  unneeded: {
    template: { type: "string", why: "the model's own chat template is used" },
    tp_size: { type: "number", why: "one engine computes" },
    dataset_name: { type: "string", why: "--output_path says it" },
  },
  dead: {},
  rows: elicalRows,
};

const { "sample-num": _, ...places } = placeOptions;

export const command = "infer";
export const describe = "A model's answers to question sets, greedy and sampled, and a judge's verdicts on them";
export const builder = (line: Argv) =>
  line.options({
    ...publishedOptions(script),
    ...places,
    "base-path": {
      type: "string",
      default: ".",
      requiresArg: true,
      describe: "All passes: the folder that holds data/",
    },
    "check-model": {
      type: "string",
      requiresArg: true,
      describe: "All passes: the model that judges, here or with --url on a server; without one, answers alone",
    },
    shots: {
      type: "number",
      default: 0,
      requiresArg: true,
      describe: "Of prior_conf with --dataset: solved questions of the set before each, judged first (10: Verbal-10)",
      coerce: wholeFromZero("shots"),
    },
    ...unparsedOption,
    system: {
      type: "string",
      default: "default",
      requiresArg: true,
      describe: "System message: default for the template's own, none, or a text",
    },
    ...serverOptions,
    ...engineOptions,
    ...seedOption,
  });

interface InferArguments extends Omit<PlaceArguments, "sampleNum">, EngineArguments, ServerArguments {
  modelPath?: string;
  inputPath?: string;
  outputPath?: string;
  promptType: PromptType;
  temperature?: number;
  topp: number;
  topk: number;
  maxTokens?: number;
  repetitionPenalty: number;
  sampleNum?: number;
  batchsize: number;
  logprobs: number;
  getTokens: number;
  basePath: string;
  checkModel?: string;
  shots: number;
  unparsed: "error" | "negative";
  system: string;
  seed: number;
  compat: Compat;
  json: boolean;
}

/** Longest verdict, in tokens. */
const verdictTokens = 64;

export async function handler(args: InferArguments): Promise<void> {
  const notNeeded = publishedUnneeded(script, args);
  const { progressOn, silent } = await import("../../tracking/progress.js");
  const progress = logs("info") ? progressOn() : silent;
  await interruptible((signal) =>
    (args.inputPath === undefined ? allPasses : onePass)(args, { progress, signal, notNeeded }),
  );
}

const systemOf = (text: string): Prompt["system"] => (text === "default" || text === "none" ? text : { text });

/** What both ways of answering share. */
function settingsOf(args: InferArguments, type: PromptType) {
  const { topp: topP, topk: topK, repetitionPenalty, seed } = args;
  const maxTokens = args.maxTokens ?? (type === "long_qa" ? 256 : verdictTokens);
  return { topP, topK, repetitionPenalty, seed, maxTokens, system: systemOf(args.system) };
}

type Context = InferContext & { signal: AbortSignal };

async function onePass(args: InferArguments, shared: Context): Promise<void> {
  const { signal } = shared;
  const { inputPath, outputPath: output, promptType, modelPath, logprobs, getTokens, url } = args;
  if (output === undefined) throw new UsageError("--input_path: where do the records go? Give --output_path");
  const { generationPass, judgePass } = await import("../../methods/elical/published/infer.js");
  const { agreementRows, correctnessRows, questionRows } = await import("../../methods/elical/published/infer-sets.js");
  const { questionPrompts } = await import("../../methods/elical/published/prompts.js");
  const { openRecords } = await import("../../data/readers.js");
  const { answersSchema } = await import("../../methods/elical/published/verdicts.js");
  const samples = args.sampleNum ?? 1;
  const answersOf = async (path: string) => {
    for await (const [first] of (await openRecords(path, answersSchema)).read(0, 1)) return first!.response.length;
    return 1;
  };
  const rows =
    promptType === "consistency"
      ? await agreementRows(inputPath!)
      : promptType === "llm_judge_gold"
        ? await correctnessRows(inputPath!, await answersOf(inputPath!))
        : await questionRows(inputPath!, questionPrompts[promptType]);
  const context = { ...shared, output, label: promptType };
  if (url !== undefined) {
    if (promptType !== "consistency" && promptType !== "llm_judge_gold")
      throw new UsageError(`--url: a server judges; --prompt_type ${promptType} is answered by --model_path here`);
    await using judge = await openCheckModel(args, args.checkModel ?? modelPath, `${output}.answers`, signal);
    await judgePass(judge.responder, rows, judgeSettings(args), context);
    await tellJudge(judge, `${output}.judge.json`);
  } else {
    await using answering = await openAnswering(modelPath, args, signal);
    const temperature = args.temperature ?? (samples > 1 ? 1 : 0);
    const settings = {
      ...settingsOf(args, promptType),
      temperature,
      samples,
      logprobs: logprobs > 0,
      tokens: getTokens > 0,
    };
    await generationPass(answering.policy, rows, settings, context, args.batchsize);
  }
  if (args.json) printJson({ rows: rows.count, output });
  else note(`${rows.count} records in ${output}`);
}

async function openAnswering(model: string | undefined, args: InferArguments, signal: AbortSignal) {
  if (model === undefined) throw new UsageError("which model answers? Give --model_path");
  const { loadPolicy } = await import("../policy.js");
  return loadPolicy({ model, engine: baseOptions(args), signal });
}

/** The judge, whose empty replies are replies: how verdicts are read is chosen when they are read. */
const openCheckModel = (args: InferArguments, model: string | undefined, answers: string, signal: AbortSignal) => {
  if (model === undefined) throw new UsageError("which model judges? Give --check_model");
  const { repetitionPenalty } = args;
  const asked = { model, maxTokens: verdictTokens, mayBeEmpty: true, repetitionPenalty, signal };
  return openResponder({ ...args, ...asked, answers: args.answers ?? answers, engine: baseOptions(args) });
};

/** What a server's verdicts cost: now, on standard error; in all, beside them, since a pass that is there asks nothing. */
async function tellJudge({ responder, server }: OpenResponder, path: string): Promise<void> {
  if (!server) return;
  const { judgeRecord } = await import("../../evaluation/judges/open.js");
  note(usageLine(server.usage));
  writeJsonAtomic(path, judgeRecord(responder, server, await server.spent()));
}

const judgeSettings = ({ url, repetitionPenalty }: InferArguments) =>
  url === undefined ? { maxTokens: verdictTokens, repetitionPenalty } : { maxTokens: verdictTokens, url };

async function allPasses(args: InferArguments, context: Context): Promise<void> {
  const { signal } = context;
  const { answerSets, askHowSure, judgeSets, questionsSplit } = await import(
    "../../methods/elical/published/infer-sets.js"
  );
  const { questionsPath } = await import("../../methods/elical/published/paths.js");
  const { qaType, basePath, resPath, modelPath, compat, temperature = 1, sampleNum = 20 } = args;
  if (args.dataset === undefined || resPath === undefined)
    throw new UsageError("give --dataset and --res_path for all passes, or --input_path and --output_path for one");
  if (qaType === "short_qa") throw new UsageError("--qa_type short_qa: nothing says how such questions are asked");
  const { promptType } = args;
  if (promptType === "prior_conf" && args.dataType !== "test")
    throw new UsageError("--prompt_type prior_conf asks of the sets that are evaluated; give --data_type test");
  if (promptType !== "long_qa" && promptType !== "prior_conf")
    throw new UsageError(
      `--prompt_type ${promptType} is of one pass (--input_path); how --dataset's questions are asked is --qa_type`,
    );
  const itself = compat.has("B9-3");
  if (itself && args.url !== undefined)
    throw new UsageError("--compat B9-3: the answering model judges itself, not --url");
  const checkModel = itself ? modelPath : args.checkModel;
  if (args.url !== undefined && checkModel === undefined)
    throw new UsageError("--url: which model there? Give --check_model");
  const { topp: topP, topk: topK } = args;
  await using answering = await openAnswering(modelPath, args, signal);
  const modelName = args.modelName ?? answering.model.name;
  const sets: InferSet[] = args.dataset.split(/[-,]/).map((dataset) => {
    const place = answersPlace({ ...args, modelName, dataset, sampleNum });
    const questions = questionsPath(join(basePath, "data"), dataset, questionsSplit(dataset, args.dataType));
    return { questions, place: { ...place, questionType: qaType, samples: sampleNum, temperature, topP, topK } };
  });
  if (promptType === "prior_conf") {
    const { shots, unparsed, batchsize } = args;
    const stated = { ...settingsOf(args, promptType), temperature: 0, shots };
    await askHowSure(answering.policy, sets, stated, { unparsed, compat: compat as ElicalCompat }, context, batchsize);
    if (args.json) printJson({ sets: sets.length, model: modelName });
    else note(`${sets.length} question sets asked how sure ${modelName} is, in ${resPath}`);
    return;
  }
  const settings = { ...settingsOf(args, qaType), temperature };
  await answerSets(answering.policy, sets, settings, context, args.batchsize);
  await answering[Symbol.asyncDispose]();
  if (checkModel !== undefined) {
    await using judge = await openCheckModel(args, checkModel, join(resPath, modelName, "judge.answers"), signal);
    try {
      await judgeSets(judge.responder, sets, judgeSettings(args), context);
    } finally {
      await tellJudge(judge, join(resPath, modelName, "judge.json"));
    }
  }
  const told = { sets: sets.length, model: modelName, ...(checkModel === undefined ? {} : { judge: checkModel }) };
  if (args.json) printJson(told);
  else
    note(`${sets.length} question sets ${checkModel === undefined ? "answered" : "answered and judged"} in ${resPath}`);
}
