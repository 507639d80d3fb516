/** The data of SaySelf's first stage from bare questions: samples, clusters, rationales, and a file for each variant. */
import { join } from "node:path";
import type { Argv } from "yargs";
import type { OpenResponder } from "../../evaluation/judges/open.js";
import type { Compared, SampledQuestion } from "../../methods/sayself/building.js";
import type { VariantName } from "../../methods/sayself/stage-one.js";
import type { Policy } from "../../policy/policy.js";
import { interruptible } from "../interrupt.js";
import { openResponder, type ServerArguments, serverOptions, usageLine } from "../judge.js";
import {
  aboveZero,
  baseOptions,
  type EngineArguments,
  modelOptions,
  numberThat,
  positiveInteger,
  seedOption,
  wholeFromZero,
} from "../options.js";
import { logs, note, print, printJson, table, UsageError } from "../output.js";
import { checkEmbedding, type EmbeddingArguments, embeddingOptions, openVectors } from "./embedding.js";

const variantNames = [
  "standard",
  "no-reflection",
  "no-confidence",
  "r-tuning",
  "group-level",
] as const satisfies VariantName[];

export const command = "build";
export const describe = "The first stage's data from bare questions: samples, clusters, rationales, a file a variant";
export const builder = (line: Argv) =>
  line.options({
    questions: {
      type: "string",
      demandOption: true,
      requiresArg: true,
      describe: "Records with question and answer (and perhaps negative_answer and group), or with messages",
    },
    out: {
      type: "string",
      demandOption: true,
      requiresArg: true,
      describe: "Folder of what each step leaves; the same command goes on there",
    },
    ...modelOptions,
    responses: {
      type: "string",
      requiresArg: true,
      describe: "Samples that were taken before, as this command leaves them in samples.jsonl: no model samples",
    },
    samples: { type: "number", default: 100, describe: "Responses of a question", coerce: positiveInteger("samples") },
    temperature: { type: "number", default: 1, describe: "Of the samples", coerce: aboveZero("temperature") },
    "top-p": {
      type: "number",
      default: 0.95,
      describe: "Of the samples",
      coerce: numberThat("top-p", "a number above 0, up to 1", (value) => value > 0 && value <= 1),
    },
    "top-k": { type: "number", default: 50, describe: "Of the samples; 0: all tokens", coerce: wholeFromZero("top-k") },
    "max-new-tokens": {
      type: "number",
      default: 200,
      describe: "Longest response",
      coerce: positiveInteger("max-new-tokens"),
    },
    prompt: {
      type: "string",
      requiresArg: true,
      describe: "How a question is put, with {question} in it [default: asks for steps and for Answer:]",
    },
    reads: {
      choices: ["label", "whole"] as const,
      default: "label" as const,
      describe:
        "What a response answers: what stands behind Answer:, or, where it was asked for no more, its first line",
    },
    compared: {
      choices: ["response", "answer"] as const,
      default: "response" as const,
      describe: "What is compared of responses: all, or what they answer",
    },
    ...embeddingOptions,
    summariser: {
      type: "string",
      default: "template",
      requiresArg: true,
      describe:
        "Who writes rationales: template (states answers and shares), policy (who sampled), a model here, or with --url a server's",
    },
    variants: {
      choices: variantNames,
      array: true,
      default: ["standard"] as VariantName[],
      describe: "Of the first stage's data, each a file; group-level needs a group in every record",
    },
    unanswered: {
      choices: ["keep", "drop"] as const,
      default: "keep" as const,
      describe: "Questions no cluster of which is right: learnt with a confidence of 0, or left out",
    },
    "held-out": {
      type: "string",
      array: true,
      requiresArg: true,
      describe: "Files of questions that an evaluation asks: none of them may be among those that are learnt",
    },
    ...seedOption,
    ...serverOptions,
  });

interface BuildArguments extends EmbeddingArguments, ServerArguments, EngineArguments {
  questions: string;
  out: string;
  model?: string;
  adapter?: string;
  responses?: string;
  samples: number;
  temperature: number;
  topP: number;
  topK: number;
  maxNewTokens: number;
  prompt?: string;
  reads: "label" | "whole";
  compared: Compared;
  summariser: string;
  variants: VariantName[];
  unanswered: "keep" | "drop";
  heldOut?: string[];
  seed: number;
  json: boolean;
}

/** Longest rationale, in tokens. */
const rationaleTokens = 160;

export async function handler(args: BuildArguments): Promise<void> {
  checkEmbedding(args);
  const { model, adapter, responses, summariser, url, prompt, out } = args;
  const samplesHere = responses === undefined;
  const ownVectors = args.vectors === undefined && args.embeddingModel === undefined;
  if (samplesHere && (model ?? adapter) === undefined)
    throw new UsageError("which model is sampled? Give --model, or --responses that were sampled before");
  if (prompt !== undefined && !prompt.includes("{question}"))
    throw new UsageError("--prompt: where does the question stand? Put {question} there");
  if (url !== undefined && ["template", "policy"].includes(summariser))
    throw new UsageError("--url: which of its models writes rationales? Give --summariser");
  const needsPolicy = samplesHere || ownVectors || summariser === "policy";
  const building = await import("../../methods/sayself/building.js");
  const { modelSummariser, templateSummariser } = await import("../../methods/sayself/rationales.js");
  const { refuseOverlap } = await import("../../methods/sayself/overlap.js");
  const { stageOneRows, variants, writeStageOne } = await import("../../methods/sayself/stage-one.js");
  const { progressOn, silent } = await import("../../tracking/progress.js");
  const progress = logs("info") ? progressOn() : silent;
  const questions = await building.readBuildQuestions(args.questions);
  const asked = questions.map(({ question }) => question);
  for (const file of args.heldOut ?? [])
    refuseOverlap(
      { name: args.questions, questions: asked },
      {
        name: file,
        questions: (await building.readBuildQuestions(file, { answers: "optional" })).map(({ question }) => question),
      },
      "or leave --held-out out",
    );
  await interruptible(async (signal) => {
    const engine = baseOptions(args);
    const pass = (file: string, label: string) => ({ output: join(out, file), label, progress, signal });
    const { loadPolicy } = await import("../policy.js");
    await using loaded = needsPolicy ? await loadPolicy({ model, adapter, engine, signal }) : undefined;
    const { samples, temperature, topP, topK, maxNewTokens: newTokens, seed, reads, compared, threshold } = args;
    const settings = {
      ...{ samples, temperature, topP, topK: topK === 0 ? null : topK, newTokens, seed, answer: reads },
      prompt: prompt === undefined ? building.sampleSettings.prompt : { user: prompt, system: "default" as const },
    };
    const sampled: SampledQuestion[] = samplesHere
      ? await building.sampleQuestions(loaded!.policy, questions, settings, pass("samples.jsonl", "sampling"))
      : await building.readSampled(responses, questions);
    const texts = building.comparedTexts(sampled, compared);
    await using vectors = await openVectors(args, texts, { policy: loaded?.policy, engine, signal });
    const chosen = { threshold, compared };
    const clustered = await building.clusterQuestions(
      vectors.vectors,
      sampled,
      chosen,
      pass("clusters.jsonl", "clustering"),
    );
    const needsRationales = args.variants.some((name) => variants[name].rationale);
    let told: { fixed: number; template: number; model: number } | undefined;
    let rationales: string[] = [];
    if (needsRationales) {
      await using responder = await openSummariser(args, loaded?.policy, signal);
      const by = responder ? modelSummariser(responder.responder) : templateSummariser();
      const written = await building.writeRationales(by, clustered, pass("rationales.jsonl", "writing rationales"));
      rationales = written.map(({ rationale }) => rationale);
      const count = (who: string) => written.filter((one) => one.by === who).length;
      told = { fixed: count("fixed"), template: count("template"), model: count("model") };
      if (responder?.server) note(usageLine(responder.server.usage));
      if (responder && told.template > 0)
        note(`${told.template} rationales of ${by.name} could not be used; the template's stand for them`, "warn");
    }
    const files = args.variants.map((name) => {
      const variant = variants[name];
      const { rows, ...counts } = stageOneRows(clustered, { variant, rationales, unanswered: args.unanswered });
      return { variant: name, path: writeStageOne(out, variant, rows), rows: rows.length, ...counts };
    });
    const agreed = clustered.filter(building.agrees).length;
    const right = clustered.filter((question) => question.right).length;
    const clusters = clustered.reduce((sum, question) => sum + question.clusters.length, 0);
    const summary = { questions: clustered.length, clusters, right, agreed, vectors: vectors.vectors.name, files };
    if (args.json) printJson({ ...summary, ...(told ? { rationales: told } : {}) });
    else {
      print(
        `${clustered.length} questions, ${clusters} clusters; of ${right} one holds the right answer, ${agreed} alike throughout`,
      );
      print(
        table([
          ["variant", "rows", "no cluster right", "unreadable", "file"],
          ...files.map(({ variant, rows, unanswered, unreadable, path }) => [
            variant,
            rows,
            unanswered,
            unreadable,
            path,
          ]),
        ]),
      );
    }
  });
}

/** The model that writes rationales; undefined for the template. */
async function openSummariser(
  args: BuildArguments,
  policy: Policy | undefined,
  signal: AbortSignal,
): Promise<OpenResponder | undefined> {
  const { summariser: name, out } = args;
  if (name === "template") return undefined;
  const answers = args.answers ?? join(out, "rationales.answers");
  const [maxTokens, mayBeEmpty] = [rationaleTokens, true];
  if (name !== "policy")
    return openResponder({ ...args, model: name, engine: baseOptions(args), maxTokens, mayBeEmpty, answers, signal });
  const { AnswerStore } = await import("../../remote/answer-store.js");
  const { localResponder } = await import("../../evaluation/judges/responder.js");
  const store = await AnswerStore.open(answers);
  return {
    responder: localResponder(policy!, { maxTokens, answers: store }),
    [Symbol.asyncDispose]: () => store[Symbol.asyncDispose](),
  };
}
