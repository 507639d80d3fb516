/**
 * What SaySelf's first stage learns from, built from bare questions (the paper's stage 0, whose script was not published):
 * samples of each question, clusters of those that say the same, and a rationale that says over what they disagree. Each
 * step leaves a file of JSON lines, is made a part at a time, and goes on where it was stopped. stage-one.ts makes rows of them.
 */
import { createHash } from "node:crypto";
import { z } from "zod";
import { readRecords } from "../../data/readers.js";
import { CredenceError } from "../../errors.js";
import { whoAnswers } from "../../evaluation/judges/responder.js";
import type { Prompt } from "../../model/card.js";
import type { GenerateStats } from "../../native.js";
import type { Policy } from "../../policy/policy.js";
import { stopWhen } from "../../rewards/retries.js";
import { inParts, isDone, joinedInto, type PassContext } from "../passes.js";
import { greedyClusters, publishedThreshold } from "./clusters.js";
import { type Gold, isRight, negativesOf } from "./correctness.js";
import { answeredMessages, filled, pairSchema } from "./questions.js";
import { agreedRationale, type Disagreement, type Summariser, templateRationale } from "./rationales.js";
import type { ComparedTexts, ResponseVectors } from "./response-vectors.js";
import { partsOf, type ResponseParts, responseText } from "./wire.js";

// ---- questions

/** A question with what is right, as files of any step hold it. */
export interface BuildQuestion extends Gold {
  question: string;
  /** Of questions that share a confidence in the group-level variant. */
  group?: string;
}

const buildSchema = z
  .looseObject({
    ...pairSchema.partial().shape,
    group: z.union([z.string(), z.number()], { error: () => "a string or a number" }).optional(),
    messages: answeredMessages.optional(),
  })
  .refine(({ question, messages }) => question !== undefined || messages !== undefined, {
    path: ["question"],
    error: 'a string (or "messages", a list of messages)',
  });
const answeredSchema = buildSchema.refine(
  ({ answer: given, messages }) => given !== undefined || messages !== undefined,
  {
    path: ["answer"],
    error: "a string, or a list of strings",
  },
);

/**
 * Reads questions: records with `question` and `answer` (a string or a list), perhaps `negative_answer` ("Rhine/Elbe") and `group`;
 * or with `messages`, the question and its answer.
 *
 * @param answers whether a record may be without
 * @throws CredenceError "NO_FILE" or "BAD_INPUT" naming the record and what is wrong with it
 */
export async function readBuildQuestions(
  path: string,
  { answers = "needed" }: { answers?: "needed" | "optional" } = {},
): Promise<BuildQuestion[]> {
  const records = await readRecords(path, answers === "needed" ? answeredSchema : buildSchema);
  return records.map(({ question, answer: given, messages, ...rest }) => ({
    question: (question ?? messages!.at(-2)!.content).trim(),
    answers: [given ?? messages?.at(-1)?.content ?? []].flat().map((one) => one.trim()),
    ...(rest.negative_answer ? { negatives: negativesOf(rest.negative_answer) } : {}),
    ...(rest.group === undefined ? {} : { group: String(rest.group) }),
  }));
}

// ---- samples

/** How a question is sampled. */
export interface SampleSettings {
  /** Responses of each question. */
  samples: number;
  temperature: number;
  topP: number;
  /** null: all tokens. */
  topK: number | null;
  /** Longest response, in tokens. */
  newTokens: number;
  seed: number;
  /** How the question is put. */
  prompt: Prompt;
  /**
   * "label": the answer stands behind "Answer:", and a response ends with that line. "whole": the first line of a response is its
   * answer, for models that were asked for nothing else; it is kept as "Answer: ...".
   */
  answer: "label" | "whole";
}

/** Published numbers are of 100 samples; a first try does with 16. */
export const sampleSettings: SampleSettings = {
  samples: 100,
  temperature: 1,
  topP: 0.95,
  topK: 50,
  newTokens: 200,
  seed: 0,
  prompt: {
    user: '{question}\nThink step by step in a sentence or two. Then write "Answer: " and the answer in a few words, and nothing else.',
    system: "default",
  },
  answer: "label",
};

/** A question with what a policy said to it. */
export interface SampledQuestion extends BuildQuestion {
  responses: string[];
}

const answered = /Answer:[^\n]*\S[^\n]*\n/;
const firstLine = /^\s*\S[^\n]*\n/;

/** A sample up to the end of its answer; of whole ones the first line, behind the label. */
function cut(text: string, form: SampleSettings["answer"]): string {
  if (form === "label") return (/^[\s\S]*?Answer:[^\n]*\S[^\n]*/.exec(text)?.[0] ?? text).trim();
  const line = text.trim().split("\n")[0]!.trim();
  return line === "" ? "" : `Answer: ${line}`;
}

/** Of one thing, or of many one after the other. */
function digest(...values: readonly unknown[]): string {
  const hash = createHash("sha256");
  for (const value of values) hash.update(JSON.stringify(value)).update("\n");
  return hash.digest("hex");
}

/** Questions that are worked on, and kept, together. */
const together = { samples: 16, clusters: 32, rationales: 32 };

/** A step: what it made before, or what it makes now a part at a time. */
async function step<T>(
  context: PassContext,
  made: Record<string, unknown>,
  rows: { count: number; chunk: number },
  make: (from: number, to: number, onTokens: (count: number) => void) => Promise<readonly T[]>,
): Promise<T[]> {
  const { output } = context;
  if (!isDone(context, made)) await inParts(context, rows, make, joinedInto(output));
  return readRecords(output, z.custom<T>());
}

/**
 * Samples every question.
 *
 * @param context its output: JSON lines of `SampledQuestion`
 * @throws CredenceError "TOO_LONG" where a prompt leaves no room for a response; "ABORTED"; "OTHER_RUN" where the output was
 *   begun with other settings
 */
export async function sampleQuestions(
  policy: Policy,
  questions: readonly BuildQuestion[],
  settings: SampleSettings,
  context: PassContext,
): Promise<SampledQuestion[]> {
  const { signal } = context;
  const { samples, temperature, topP, topK, newTokens, seed, prompt, answer: form } = settings;
  const made = { policy: digest(whoAnswers(policy)), input: digest(...questions), ...settings };
  return step(context, made, { count: questions.length, chunk: together.samples }, async (from, to, onTokens) => {
    const some = questions.slice(from, to);
    const prompts = await Promise.all(some.map(({ question }) => policy.model.promptTokens(question, prompt)));
    const responses: string[][] = some.map(() => []);
    for await (const sample of policy.generate(prompts, {
      samples,
      temperature,
      topP,
      topK: topK ?? undefined,
      maxNewTokens: newTokens,
      stopWhen: stopWhen(form === "label" ? answered : firstLine),
      seed,
      signal,
      onStats: ({ newTokens: count }: GenerateStats) => onTokens(count),
    }))
      responses[sample.prompt]!.push(cut(sample.text, form));
    if (responses.some((own) => own.length !== samples))
      throw new CredenceError("ABORTED", "stopped while sampling; started again it goes on from there");
    return some.map((question, i) => ({ ...question, responses: responses[i]! }));
  });
}

const sampledSchema = z.looseObject({
  question: filled,
  responses: z
    .array(z.string({ error: () => "a string" }), { error: () => "a list of strings" })
    .min(1, { error: () => "at least one response" }),
});

/**
 * Samples that were taken before: records with `question` and `responses`, of the same questions in the same order.
 *
 * @throws CredenceError "BAD_INPUT" naming the first record that is of another question
 */
export async function readSampled(path: string, questions: readonly BuildQuestion[]): Promise<SampledQuestion[]> {
  const records = await readRecords(path, sampledSchema);
  if (records.length !== questions.length)
    throw new CredenceError(
      "BAD_INPUT",
      `${path}: samples of ${records.length} questions, and there are ${questions.length}`,
    );
  return records.map(({ question, responses }, i) => {
    if (question.trim() !== questions[i]!.question)
      throw new CredenceError(
        "BAD_INPUT",
        `${path}: record ${i + 1} has samples of ${JSON.stringify(question.slice(0, 80))}; expected ${JSON.stringify(questions[i]!.question.slice(0, 80))}`,
      );
    return { ...questions[i]!, responses };
  });
}

// ---- clusters

export interface ResponseCluster {
  /** The response that stands for it: of the cluster that holds the right answer its first right one, else its first. */
  response: string;
  /** What that answers; null where it does not say. */
  answer: string | null;
  size: number;
  /** How many of it are right. */
  right: number;
  /** Places of its responses among the question's. */
  members: number[];
}

/** A question with its clusters, and which of them is learnt. */
export interface ClusteredQuestion extends BuildQuestion {
  /** How many responses there are. */
  samples: number;
  /** In the order of their first members. */
  clusters: ResponseCluster[];
  /** The cluster whose response is learnt: the right one, else the largest that answers; null where none answers. */
  chosen: number | null;
  /** Whether it holds the right answer. */
  right: boolean;
  /** Its share of the samples x 10, as a whole number (halves up); 0 where no cluster is right. */
  confidence: number;
}

/** What is compared of a response: all of it, as published, or what it answers alone. */
export type Compared = "response" | "answer";

export const comparedText = (response: string, what: Compared): string =>
  what === "response" ? response : (partsOf(response).answer ?? response);

/** A response's parts as the first stage learns them; null where it has none that could be read back. */
export function learntParts(response: string): Pick<ResponseParts, "reasoning" | "answer"> | null {
  const { answer: short } = partsOf(response);
  if (short === null) return null;
  const parts = { reasoning: response.slice(0, response.lastIndexOf("Answer:")), answer: short };
  try {
    responseText(parts);
    return parts;
  } catch (error) {
    if ((error as { code?: unknown }).code === "BAD_INPUT") return null;
    throw error;
  }
}

/**
 * Which cluster holds the right answer: of those at least half of whose responses are right the one with the most right ones, of
 * equal ones the earliest. A response that does not say what it answers is not right.
 */
export function judgedClusters(
  { responses, ...question }: SampledQuestion,
  groups: readonly (readonly number[])[],
): ClusteredQuestion {
  const readable = responses.map((response) => learntParts(response) !== null);
  const right = responses.map((response, i) => readable[i]! && isRight(response, question));
  const counts = groups.map((members) => members.filter((member) => right[member]).length);
  const clusters = groups.map((members, i): ResponseCluster => {
    const most = 2 * counts[i]! >= members.length;
    const own =
      members.find((member) => most && right[member]) ?? members.find((member) => readable[member]) ?? members[0]!;
    return {
      response: responses[own]!,
      answer: partsOf(responses[own]!).answer,
      size: members.length,
      right: counts[i]!,
      members: [...members],
    };
  });
  const best = (
    fits: (cluster: ResponseCluster) => boolean,
    by: (cluster: ResponseCluster) => number,
  ): number | null => {
    let place: number | null = null;
    clusters.forEach((cluster, i) => {
      if (fits(cluster) && (place === null || by(cluster) > by(clusters[place]!))) place = i;
    });
    return place;
  };
  const holds = best(
    ({ size, right: count }) => count > 0 && 2 * count >= size,
    (cluster) => cluster.right,
  );
  const samples = responses.length;
  return {
    ...question,
    samples,
    clusters,
    chosen:
      holds ??
      best(
        ({ response }) => learntParts(response) !== null,
        ({ size }) => size,
      ),
    right: holds !== null,
    confidence: holds === null ? 0 : Math.round((10 * clusters[holds]!.size) / samples),
  };
}

export interface ClusterSettings {
  /** Cosine above which responses say the same. */
  threshold: number;
  compared: Compared;
}

export const clusterSettings: ClusterSettings = { threshold: publishedThreshold, compared: "response" };

/** What is compared of every question. */
export const comparedTexts = (sampled: readonly SampledQuestion[], compared: Compared): ComparedTexts[] =>
  sampled.map(({ responses }, place) => ({ place, texts: responses.map((text) => comparedText(text, compared)) }));

/**
 * Clusters every question's responses.
 *
 * @param context its output: JSON lines of `ClusteredQuestion`
 */
export async function clusterQuestions(
  vectors: ResponseVectors,
  sampled: readonly SampledQuestion[],
  { threshold, compared }: ClusterSettings,
  context: PassContext,
): Promise<ClusteredQuestion[]> {
  const made = { vectors: digest(vectors.identity), input: digest(...sampled), threshold, compared };
  const texts = comparedTexts(sampled, compared);
  return step(context, made, { count: sampled.length, chunk: together.clusters }, async (from, to) => {
    const own = await vectors.of(texts.slice(from, to), context.signal);
    return own.map((of, i) => judgedClusters(sampled[from + i]!, greedyClusters(of, threshold)));
  });
}

// ---- rationales

/** A question's rationale and who wrote it: a model, the template, or nobody, where all samples are right alike. */
export interface QuestionRationale {
  question: string;
  rationale: string;
  by: "fixed" | "template" | "model";
}

/** Whether all samples say the same, and that is right. */
export const agrees = ({ clusters, right }: ClusteredQuestion): boolean => right && clusters.length === 1;

/**
 * Writes a rationale for every question.
 *
 * @param context its output: JSON lines of `QuestionRationale`
 * @returns them; those of a model that cannot be used are the template's, which `by` says
 */
export async function writeRationales(
  summariser: Summariser,
  clustered: readonly ClusteredQuestion[],
  context: PassContext,
): Promise<QuestionRationale[]> {
  const made = { summariser: summariser.name, input: digest(...clustered) };
  const own = summariser.name === "template" ? "template" : "model";
  return step(context, made, { count: clustered.length, chunk: together.rationales }, async (from, to) => {
    const some = clustered.slice(from, to);
    const open: Disagreement[] = some.filter((question) => !agrees(question));
    const written: (string | null)[] = [];
    for await (const text of summariser.rationales(open, context.signal)) written.push(text);
    return some.map((question): QuestionRationale => {
      if (agrees(question)) return { question: question.question, rationale: agreedRationale, by: "fixed" };
      const text = written.shift();
      return text === null || text === undefined
        ? { question: question.question, rationale: templateRationale(question), by: "template" }
        : { question: question.question, rationale: text, by: own };
    });
  });
}
