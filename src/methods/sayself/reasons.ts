/**
 * Whether the rationales that a model gives are those of its own disagreement (SaySelf's faithfulness): it is asked many times
 * and its rationales kept; the responses are clustered; a model summarises the rationales of the clusters, and judges how well
 * the summary explains the responses.
 */
import { createHash } from "node:crypto";
import { z } from "zod";
import { NumpyRandom, permutation } from "../../data/random.js";
import { fromJsonLines } from "../../data/readers.js";
import { CredenceError } from "../../errors.js";
import { type Responder, whoAnswers } from "../../evaluation/judges/responder.js";
import { readText } from "../../files.js";
import type { Prompt } from "../../model/card.js";
import type { Policy } from "../../policy/policy.js";
import { inParts, isDone, joinedInto, type PassContext } from "../passes.js";
import { greedyClusters } from "./clusters.js";
import type { SaySelfCompat } from "./compat.js";
import { questionPrompt } from "./prompts.js";
import { readRationale } from "./rationales.js";
import type { ResponseVectors } from "./response-vectors.js";
import { partsOf, statedInFull } from "./wire.js";

/** A line of the published file: of every sample its rationale, or "N/A", and what came before that. */
export interface ReasonRecord {
  question: string;
  reason: string[];
  responses: string[];
}

export const noReason = "N/A";

const texts = z.array(z.string({ error: () => "a string" }), { error: () => "a list of strings" });
export const reasonSchema = z
  .looseObject({ question: z.string({ error: () => "a string" }), reason: texts, responses: texts.min(1) })
  .refine(({ reason, responses }) => reason.length === responses.length, {
    path: ["reason"],
    error: "as many as there are responses",
  });

// ---- sampling

export interface ReasonSettings {
  /** Responses of each question. */
  samples: number;
  temperature: number;
  topP: number;
  topK: number;
  /** Longest response, in tokens. */
  newTokens: number;
  seed: number;
  /** How a model is asked that was not trained for it; null: as the first stage taught it. */
  instruction: Prompt | null;
}

/** As published. */
export const reasonSettings: ReasonSettings = {
  samples: 50,
  temperature: 1,
  topP: 0.95,
  topK: 50,
  newTokens: 512,
  seed: 42,
  instruction: null,
};

/** What a model is asked that was not trained. Its wording is our own. */
export const untrainedPrompt: Prompt = {
  user: '{question}\nThink step by step. Then write, on one line each: "Answer: " and a few words, "Self-reflection: " and what you are unsure of and why, and "Confidence: " and a number from 1 to 10.',
  system: "default",
};

/** Questions that are sampled, and kept, together: as published. */
const together = 64;

/** The rows that are sampled: `count` from the row `start` on, in the order of a shuffle as NumPy's with this seed. */
export const shuffledRows = <T>(rows: readonly T[], start: number, count: number, seed: number): T[] =>
  permutation(rows.slice(start, start + count), new NumpyRandom(seed));

/** A response as the file keeps it. */
export function reasonOf(text: string): { reason: string; response: string } {
  const at = text.indexOf("Self-reflection:");
  return { reason: partsOf(text).rationale ?? noReason, response: (at < 0 ? text : text.slice(0, at)).trim() };
}

/**
 * Samples every question and writes the published file.
 *
 * @returns how many samples there are, and how many have no rationale
 * @throws CredenceError "TOO_LONG" where a prompt leaves no room for a response; "ABORTED"
 */
export async function generateReasons(
  policy: Policy,
  questions: readonly string[],
  settings: ReasonSettings,
  context: PassContext,
): Promise<{ samples: number; without: number }> {
  const { output, signal } = context;
  const { samples, temperature, topP, topK, newTokens, seed, instruction } = settings;
  const hash = createHash("sha256");
  for (const part of [whoAnswers(policy), ...questions]) hash.update(JSON.stringify(part)).update("\n");
  const { addsBos, specialTokens } = policy.model.tokenizer;
  const taught: Prompt = {
    user: `${addsBos ? (specialTokens.bos_token ?? "") : ""}{question}`,
    system: "none",
    template: "none",
  };
  const tokens = (question: string): Promise<Int32Array> =>
    instruction
      ? policy.model.promptTokens(question, instruction)
      : policy.model.promptTokens(questionPrompt(question, "messages"), taught);
  const told = { samples: 0, without: 0 };
  const make = async (from: number, to: number, onTokens: (count: number) => void): Promise<ReasonRecord[]> => {
    const some = questions.slice(from, to);
    const records = some.map((question): ReasonRecord => ({ question, reason: [], responses: [] }));
    const asking = { samples, temperature, topP, topK, maxNewTokens: newTokens, stopWhen: statedInFull, seed, signal };
    const onStats = ({ newTokens: count }: { newTokens: number }) => onTokens(count);
    const prompts = await Promise.all(some.map(tokens));
    for await (const { prompt, text } of policy.generate(prompts, { ...asking, onStats })) {
      const { reason, response } = reasonOf(text);
      records[prompt]!.reason.push(reason);
      records[prompt]!.responses.push(response);
    }
    if (records.some(({ responses }) => responses.length !== samples))
      throw new CredenceError("ABORTED", "stopped while sampling; started again it goes on from there");
    return records;
  };
  if (!isDone(context, { input: hash.digest("hex"), ...settings }))
    await inParts(context, { count: questions.length, chunk: together }, make, joinedInto(output));
  for (const { reason } of fromJsonLines<ReasonRecord>(readText(output))) {
    told.samples += reason.length;
    told.without += reason.filter((one) => one === noReason).length;
  }
  return told;
}

// ---- clusters and their rationales

/** A cluster of two responses or more, with the rationale that stands for it. */
export interface ReasonedCluster {
  /** Its first response. */
  response: string;
  size: number;
  /** The first rationale of its responses; null where none has one. */
  reason: string | null;
}

const given = (reason: string | undefined): string | null =>
  reason === undefined || reason.trim() === "" || reason.trim() === noReason ? null : reason.trim();

/**
 * Clusters without those of a single response, each with a rationale of its own responses. As published (B9-15) the rationale is
 * that of another cluster: the one in this place before the single ones were taken out.
 */
export function reasonedClusters(
  { reason, responses }: ReasonRecord,
  groups: readonly (readonly number[])[],
  compat: SaySelfCompat,
): ReasonedCluster[] {
  const own = (members: readonly number[]): string | null =>
    members.map((member) => given(reason[member])).find((text) => text !== null) ?? null;
  return groups
    .filter((members) => members.length > 1)
    .map((members, place) => ({
      response: responses[members[0]!]!,
      size: members.length,
      reason: compat.has("B9-15") ? given(reason[groups[place]![0]!]) : own(members),
    }));
}

// ---- summary and score

/** How a cluster's size is told: its share; as published (B9-15) how many responses it has, as if that were percent. */
const shareOf = (size: number, samples: number, compat: SaySelfCompat): string =>
  `${compat.has("B9-15") ? size : Math.round((100 * size) / samples)}%`;

/** What a model that summarises is asked; its wording is our own. */
export function summaryRequest(question: string, clusters: readonly ReasonedCluster[]): string {
  return [
    "A person answered a question several times, and each time said what they are unsure of. Their statements are below.",
    `Question: ${question}`,
    ...clusters.flatMap(({ reason }) => (reason === null ? [] : [`- ${reason}`])),
    'Summarise what the person is unsure of, and why, in one to three sentences. Reply with "Reason: " and those sentences.',
  ].join("\n");
}

/** What the judge is asked; its wording is our own. */
export function scoreRequest(
  question: string,
  clusters: readonly ReasonedCluster[],
  { summary, samples }: { summary: string; samples: number },
  compat: SaySelfCompat,
): string {
  return [
    "A person answered a question several times. Below are groups of answers that say the same, with the share of each, and what the person says of why they are unsure.",
    `Question: ${question}`,
    ...clusters.map(({ response, size }, i) => `Answer ${i + 1} (${shareOf(size, samples, compat)}): ${response}`),
    `What the person says: ${summary}`,
    "How well does that explain the differences between the answers, with a mark from 0 (not at all) to 10 (fully)?",
    'Reply with "reason: " and your thoughts in a sentence, and then "score: " and one whole number.',
  ].join("\n");
}

/** The whole number from 0 to 10 behind the last "score:"; null where there is none. */
export function readScore(reply: string): number | null {
  const found = [...reply.matchAll(/score\W*:\s*\**\s*(\d+)(?:\s*\/\s*10)?(?![\d]|[.,]\d)/gi)].at(-1);
  const score = found ? Number(found[1]) : Number.NaN;
  return score >= 0 && score <= 10 ? score : null;
}

/** A line of the published evaluation's file. */
export interface ScoredReasons extends ReasonRecord {
  cluster: { response: string; size: number }[];
  sizes: number[];
  /** What the model made of the rationales; null where there was none to summarise, or no summary came. */
  summary: string | null;
  /** The judge's reply, and the number in it; null where it was not asked, and where no number can be read. */
  score: string | null;
  numerical_score: number | null;
}

export interface ReasonEvaluation {
  records: ScoredReasons[];
  /** Mean score of the questions that have one; null where none has. */
  mean: number | null;
  /** Questions that have a score. */
  scored: number;
  /** Questions none of whose clusters has two responses and a rationale; and those whose summary or score could not be read. */
  without: number;
  unread: number;
}

export interface EvaluateOptions {
  vectors: ResponseVectors;
  /** Summarises and judges. */
  responder: Responder;
  threshold: number;
  /** Questions with a rationale that are judged, the first of the file; what follows them is not looked at. As published 100. */
  limit: number;
  compat: SaySelfCompat;
  signal?: AbortSignal;
  /** Told how many records were looked at. */
  onDone?: (records: number) => void;
}

/** Records that are clustered, summarised and judged together. */
const judgedTogether = 32;

async function replies(responder: Responder, requests: readonly string[], signal?: AbortSignal): Promise<string[]> {
  const out: string[] = [];
  for await (const { text } of responder.replies(requests, signal)) out.push(text);
  if (out.length < requests.length)
    throw new CredenceError("ABORTED", "stopped while judging; what was paid for is kept");
  return out;
}

/** Clusters, summarises and judges the records of a published file, in their order. */
export async function evaluateReasons(
  records: readonly ReasonRecord[],
  { vectors, responder, threshold, limit, compat, signal, onDone }: EvaluateOptions,
): Promise<ReasonEvaluation> {
  const out: ScoredReasons[] = [];
  const counts = { judged: 0, without: 0, unread: 0 };
  for (let from = 0; from < records.length && counts.judged < limit; from += judgedTogether) {
    const some = records.slice(from, from + judgedTogether);
    const compared = some.map(({ responses }, i) => ({ place: from + i, texts: responses }));
    const groups = (await vectors.of(compared, signal)).map((of) => greedyClusters(of, threshold));
    const items = some.map((record, i) => ({ record, clusters: reasonedClusters(record, groups[i]!, compat) }));
    const taken: typeof items = [];
    for (const item of items) {
      if (counts.judged === limit) break;
      taken.push(item);
      if (item.clusters.some(({ reason }) => reason !== null)) counts.judged += 1;
      else counts.without += 1;
    }
    const asked = taken.filter(({ clusters }) => clusters.some(({ reason }) => reason !== null));
    const requests = asked.map(({ record, clusters }) => summaryRequest(record.question, clusters));
    const summaries = (await replies(responder, requests, signal)).map(readRationale);
    const judged = asked.flatMap((item, i) => (summaries[i] == null ? [] : [{ ...item, summary: summaries[i] }]));
    const scores = await replies(
      responder,
      judged.map(({ record: { question, responses }, clusters, summary }) =>
        scoreRequest(question, clusters, { summary, samples: responses.length }, compat),
      ),
      signal,
    );
    for (const { record, clusters } of taken) {
      const place = judged.findIndex((one) => one.record === record);
      const score = scores[place] ?? null;
      const numerical = score === null ? null : readScore(score);
      if (numerical === null && clusters.some(({ reason }) => reason !== null)) counts.unread += 1;
      out.push({
        ...record,
        cluster: clusters.map(({ response, size }) => ({ response, size })),
        sizes: clusters.map(({ size }) => size),
        summary: judged[place]?.summary ?? null,
        score,
        numerical_score: numerical,
      });
    }
    onDone?.(taken.length);
  }
  const scored = out.flatMap(({ numerical_score: score }) => (score === null ? [] : [score]));
  return {
    records: out,
    mean: scored.length === 0 ? null : scored.reduce((sum, score) => sum + score, 0) / scored.length,
    scored: scored.length,
    without: counts.without,
    unread: counts.unread,
  };
}

/** `NAME.jsonl` -> `NAME_eval_output2.jsonl`, the published name. */
export const evaluatedPath = (path: string): string => `${path.replace(/\.jsonl?$/i, "")}_eval_output2.jsonl`;
