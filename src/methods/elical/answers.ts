/**
 * The model's own answers: the likeliest one of each question, with the hidden states it went through, and samples. They
 * are written a chunk of questions at a time, so that a kill loses little; a sample's bits do not depend on the chunk.
 */
import { existsSync, rmSync } from "node:fs";
import { join } from "node:path";
import { fromJsonLines, toJsonLines } from "../../data/readers.js";
import { CredenceError } from "../../errors.js";
import { isWholeFolder, makeFolder, readText, writeFileAtomic, writeFolderAtomic } from "../../files.js";
import { encodeSafetensors, readSafetensors } from "../../model/safetensors.js";
import type { GenerateStats, TensorData } from "../../native.js";
import type { GenerateSettings, Policy, Sample } from "../../policy/policy.js";
import type { StageContext } from "../../training/run.js";
import type { AskedQuestion } from "../questions.js";
import type { ElicalRecipe } from "./recipe.js";

/** One answer as the files hold it. */
export interface AnswerRecord {
  text: string;
  tokens: number[];
  /** Natural logarithms, the stop token's last when one was chosen. */
  logprobs: number[];
  finish: "stop" | "length";
}

export interface SamplesRecord extends AskedQuestion {
  /** What the model read, and how many tokens that is. */
  prompt: string;
  prompt_tokens: number;
  given: AnswerRecord;
  responses: AnswerRecord[];
}

/** Where a probe may read: which states, after which block. */
export interface Features {
  /** "question": the prompt's last token; "answer": the mean over the answer's tokens. */
  family: "question" | "answer";
  depth: number;
  /** [questions, width], row-major. */
  data: Float32Array;
  width: number;
}

export const samplesFile = "samples.jsonl";
export const featuresFile = "features.safetensors";

/** Questions answered together, and written together. */
export const chunkSize = 64;

/** How each question is answered: once with the likeliest tokens, its states collected at `depths`, and by samples. */
export function answerSettings(
  recipe: ElicalRecipe,
  depths: number[],
): { given: GenerateSettings; sampled: GenerateSettings } {
  const { count: samples, temperature, topK, topP, seed } = recipe.samples;
  const { newTokens: maxNewTokens, repetitionPenalty } = recipe.answer;
  return {
    given: { maxNewTokens, repetitionPenalty, temperature: 0, collect: depths },
    sampled: { maxNewTokens, repetitionPenalty, samples, temperature, topK: topK ?? undefined, topP, seed },
  };
}

/** How many sequences decode together under a limit of memory, in words. */
export const batchChoice = (what: string, maxBatch: number): string =>
  `to keep to the limit of memory: ${what} with ${maxBatch} sequences at a time`;

/** `count` depths spread over the layers, the last one among them: max(1, round(layers * k / count)). */
export function probeDepths(layers: number, count: number): number[] {
  return [...new Set(Array.from({ length: count }, (_, k) => Math.max(1, Math.round((layers * (k + 1)) / count))))];
}

const record = ({ text, tokens, logprobs, finish }: Sample): AnswerRecord => ({
  text,
  tokens: Array.from(tokens),
  logprobs: Array.from(logprobs),
  finish,
});

/** Answers every question, or what is left of them, and leaves samples.jsonl and features.safetensors in the stage's folder. */
export async function answerQuestions(
  context: StageContext,
  policy: Policy,
  questions: AskedQuestion[],
  recipe: ElicalRecipe,
): Promise<void> {
  const depths = probeDepths(policy.model.info.layers, recipe.probes.depths);
  const folder = join(context.directory, "chunks");
  makeFolder(folder);
  const chunks = Array.from({ length: Math.ceil(questions.length / chunkSize) }, (_, i) => ({
    path: join(folder, String(i).padStart(5, "0")),
    questions: questions.slice(i * chunkSize, (i + 1) * chunkSize),
  }));
  const task = context.progress.task("answering and sampling", questions.length, "questions", "tokens");
  try {
    for (const chunk of chunks) {
      if (context.signal?.aborted)
        throw new CredenceError("ABORTED", "stopped while sampling; started again it goes on from there");
      if (!isWholeFolder(chunk.path))
        await answerChunk(chunk.path, policy, chunk.questions, recipe, depths, context, task.advance);
      else task.advance(chunk.questions.length);
    }
  } finally {
    task.end();
  }
  const tensors = chunks.map(({ path }) => readSafetensors(join(path, featuresFile)));
  const joined = tensors[0]!.map(({ name, shape }): TensorData => {
    const parts = tensors.map((chunk) => chunk.find((tensor) => tensor.name === name)!.data);
    const data = new Float32Array(questions.length * shape[1]!);
    let at = 0;
    for (const part of parts) {
      data.set(part, at);
      at += part.length;
    }
    return { name, shape: [questions.length, shape[1]!], data };
  });
  writeFileAtomic(join(context.directory, featuresFile), encodeSafetensors(joined));
  writeFileAtomic(
    join(context.directory, samplesFile),
    chunks.map(({ path }) => readText(join(path, samplesFile))),
  );
  rmSync(folder, { recursive: true, force: true });
}

async function answerChunk(
  path: string,
  policy: Policy,
  questions: AskedQuestion[],
  recipe: ElicalRecipe,
  depths: number[],
  { signal, fitted }: StageContext,
  advance: (questions: number, tokens?: number) => void,
): Promise<void> {
  const { model } = policy;
  const prompts = await Promise.all(questions.map(({ question }) => model.promptTokens(question, recipe.prompt)));
  const settings = answerSettings(recipe, depths);
  const told = (what: string) => ({
    signal,
    onStats: ({ maxBatch }: GenerateStats) => {
      if (model.maxMemory !== undefined) fitted?.(batchChoice(what, maxBatch));
    },
  });
  const given: Sample[] = [];
  for await (const sample of policy.generate(prompts, { ...settings.given, ...told("answering") })) given.push(sample);
  const { count } = recipe.samples;
  const responses: AnswerRecord[][] = questions.map(() => []);
  let tokens = given.reduce((sum, sample) => sum + sample.tokens.length, 0);
  let done = 0;
  for await (const sample of policy.generate(prompts, { ...settings.sampled, ...told("sampling") })) {
    responses[sample.prompt]!.push(record(sample));
    tokens += sample.tokens.length;
    if (responses[sample.prompt]!.length === count) {
      done += 1;
      advance(1, tokens);
      tokens = 0;
    }
  }
  if (done < questions.length)
    throw new CredenceError("ABORTED", "stopped while sampling; started again it goes on from there");
  const width = model.info.hiddenSize;
  const tensor = (name: string, states: Float32Array[]): TensorData => {
    const data = new Float32Array(states.length * width);
    for (const [row, state] of states.entries()) data.set(state, row * width);
    return { name, shape: [states.length, width], data };
  };
  const part = (states: Float32Array | undefined, d: number) => states!.subarray(d * width, (d + 1) * width);
  const tensors = depths.flatMap((depth, d) => [
    tensor(
      `question_${depth}`,
      given.map((sample) => part(sample.promptHidden, d)),
    ),
    tensor(
      `answer_${depth}`,
      given.map((sample) => part(sample.answerHidden, d)),
    ),
  ]);
  const records = questions.map(
    (question, i): SamplesRecord => ({
      ...question,
      prompt: model.promptText(question.question, recipe.prompt),
      prompt_tokens: prompts[i]!.length,
      given: record(given[i]!),
      responses: responses[i]!,
    }),
  );
  writeFolderAtomic(path, { [samplesFile]: toJsonLines(records), [featuresFile]: encodeSafetensors(tensors) });
}

/** The samples of a stage that is done. */
export function readSamples(directory: string): SamplesRecord[] {
  return fromJsonLines<SamplesRecord>(readText(join(directory, samplesFile)));
}

/** The hidden states of a stage that is done, in the order of its samples. */
export function readFeatures(directory: string): Features[] {
  const path = join(directory, featuresFile);
  if (!existsSync(path)) throw new CredenceError("FILE", `${path} is missing; delete the run's folder and start again`);
  return readSafetensors(path).map(({ name, shape, data }) => {
    const [family, depth] = name.split("_");
    return { family: family as Features["family"], depth: Number(depth), data, width: shape[1]! };
  });
}
