/** How SaySelf's evaluation asks: a trained model, or one of the paper's baselines; and what a response is read for. */
import { CredenceError } from "../../errors.js";
import { norm } from "../../evaluation/match.js";
import {
  type ConfidenceFormat,
  ConfidenceReader,
  confidenceFormats,
  labelledConfidence,
} from "../../evaluation/stated.js";
import type { Prompt } from "../../model/card.js";
import type { Policy } from "../../policy/policy.js";
import type { Message } from "../../text/chat.js";
import { sampleRollouts } from "../../training/ppo/rollouts.js";
import type { SaySelfCompat } from "./compat.js";
import { asksDirectly, asksForAnswer, conversationPrompt, directPrompt, questionPrompt } from "./prompts.js";
import type { SaySelfQuestion } from "./questions.js";
import { bareConfidence, confidenceCue, partsOf, statedPattern } from "./wire.js";

/**
 * "reflection": a model that was trained to reflect and to state a confidence. "bare": one that states a confidence alone, as
 * without reflections or with the confidence of a group of questions. "r-tuning": one that ends in "I am sure" or "I am unsure"
 * (Zhang et al. 2023). "direct": any model, asked for its confidence. "consistency": any model, sampled several times
 * (Wang et al. 2022); its confidence is the share of samples that agree.
 */
export type Asking = "reflection" | "bare" | "r-tuning" | "direct" | "consistency";

export interface ResponseSettings {
  asking: Asking;
  /** "inst": the question in "[INST]", as fine-tuning writes it. "chat": in the model's own chat template. */
  template: "inst" | "chat";
  /** Responses of a question; more than one of "consistency" alone. */
  samples: number;
  temperature: number;
  topK: number | null;
  /** Longest response, and longest continuation of one that is not complete, in tokens. */
  maxTokens: number;
  /** How often a response without a confidence is gone on with, before one is forced. */
  retries: number;
  seed: number;
  /** A beginning-of-sequence token, whether the tokenizer adds one or not. */
  addBos: boolean;
  compat: SaySelfCompat;
}

/** As published: temperature 0.7, of the 50 likeliest tokens, up to 256 of them, three retries. */
export const publishedResponses: Omit<ResponseSettings, "asking" | "compat"> = {
  template: "inst",
  samples: 1,
  temperature: 0.7,
  topK: 50,
  maxTokens: 256,
  retries: 3,
  seed: 0,
  addBos: false,
};

// ---- prompts

const instruction = (asking: Asking): string | null =>
  asking === "direct" ? asksDirectly : asking === "consistency" ? asksForAnswer : null;

const instructed = (turns: readonly Message[], words: string): Message[] => {
  const [first, ...others] = turns;
  return [{ ...first!, content: `${words}\n${first!.content.trim()}` }, ...others];
};

/** The prompt as text; with the template "chat" as turns. As published (B9-12) it follows the set's layout. */
export function evaluationPrompt(
  { question, turns, layout }: SaySelfQuestion,
  { asking, template, compat }: Pick<ResponseSettings, "asking" | "template" | "compat">,
  end: string,
): string | Message[] {
  const words = instruction(asking);
  if (template === "chat") return words === null ? [...turns] : instructed(turns, words);
  const place = compat.has("B9-12") ? layout : "messages";
  if (turns.length === 1) {
    if (asking === "direct") return directPrompt(question, place);
    if (words === null) return questionPrompt(question, place);
  }
  return conversationPrompt(words === null ? turns : instructed(turns, words), end);
}

/** A question with all that the model reads of it. */
export interface Prompted {
  question: SaySelfQuestion;
  text: string;
  tokens: Int32Array;
}

export async function promptsOf(
  { model }: Policy,
  questions: readonly SaySelfQuestion[],
  settings: ResponseSettings,
): Promise<Prompted[]> {
  const { tokenizer } = model;
  const { bosId, specialTokens } = tokenizer;
  if (settings.addBos && bosId === undefined)
    throw new CredenceError("USAGE", "--add_bos: this tokenizer has no token that begins a text");
  const first = bosId !== undefined && (settings.addBos || tokenizer.addsBos) ? [bosId] : [];
  const whole: Prompt = { user: "{question}", system: "none", template: "none" };
  return Promise.all(
    questions.map(async (question) => {
      const asked = evaluationPrompt(question, settings, specialTokens.eos_token ?? "");
      if (typeof asked !== "string")
        return { question, text: model.promptText(asked), tokens: await model.promptTokens(asked) };
      return { question, text: asked, tokens: Int32Array.of(...first, ...(await model.promptTokens(asked, whole))) };
    }),
  );
}

// ---- responses

/** "I am sure" and "I am unsure", in these words: "measure" is neither. */
const surePattern = /\bI am (un)?sure\b/;

const sureFormat: ConfidenceFormat = {
  name: "i-am-sure",
  find(text) {
    const [match] = text.matchAll(new RegExp(surePattern, "g"));
    if (!match) return null;
    const [from, to] = [match.index, match.index + match[0].length];
    return { value: match[1] ? 0 : 1, start: from, end: to, from, to };
  },
};

/** When a response ends by itself, when it is complete, and what is written behind one that is not. */
interface Ending {
  stop: RegExp;
  /** null: every response is. */
  complete: RegExp | null;
  cue: string;
}

function endingOf(asking: Asking, compat: SaySelfCompat): Ending {
  const firstDigit = /Confidence: \d/;
  switch (asking) {
    case "r-tuning":
      return {
        stop: surePattern,
        complete: surePattern,
        cue: ". Did you answer the question from what you know yourself? I am",
      };
    case "consistency":
      return { stop: /Answer:[^\n]*\S[^\n]*\n/, complete: null, cue: "" };
    default:
      return {
        stop: compat.has("B9-1") ? firstDigit : statedPattern(asking === "reflection"),
        complete: /Confidence:/,
        cue: confidenceCue,
      };
  }
}

/** What a model wrote to a question. */
export interface Responses {
  /** Each whole, with its continuations. */
  responses: string[];
  /** How often they were gone on with. */
  tries: number;
  /** Whether all state what they should. */
  complete: boolean;
}

/**
 * The responses to prompts, in their order. A response depends on its prompt and the seed alone, not on what else is asked.
 *
 * @throws CredenceError "TOO_LONG" where a prompt leaves no room for a response and its continuations; "ABORTED"
 */
export async function respond(
  policy: Policy,
  prompts: readonly Prompted[],
  { asking, samples, temperature, topK, maxTokens, retries, seed, compat }: ResponseSettings,
  signal?: AbortSignal,
): Promise<Responses[]> {
  const { stop, complete, cue } = endingOf(asking, compat);
  const rollout = {
    samples,
    temperature,
    topK,
    topP: 1,
    newTokens: maxTokens,
    stop: [],
    stopPattern: stop.source,
    stopTokens: null,
    retry: complete && { complete: complete.source, retries, cue, newTokens: null },
  };
  const given: Responses[] = prompts.map(() => ({ responses: [], tries: 0, complete: true }));
  const tokens = prompts.map(({ tokens: ids }) => ids);
  let count = 0;
  for await (const one of sampleRollouts(policy, tokens, { rollout, trainedTemperature: 1, seed }, 0, signal)) {
    const own = given[one.group]!;
    own.responses[one.sample] = one.text;
    own.tries += one.retry?.tries ?? 0;
    own.complete &&= one.retry?.complete ?? true;
    count += 1;
  }
  if (count < samples * prompts.length)
    throw new CredenceError("ABORTED", "stopped while answering; started again it goes on from there");
  return given;
}

// ---- reading

/** What a response comes to: the text that is judged, what it answers, and how sure it is. */
export interface ReadResponse {
  response: string;
  /** From 0 to 1; null where none could be read. As published (B9-8) it may be more. */
  confidence: number | null;
}

const direct = labelledConfidence({ scale: 10, name: "direct" });
const formatOf: Record<Exclude<Asking, "consistency">, ConfidenceFormat> = {
  reflection: confidenceFormats.sayself,
  bare: bareConfidence,
  "r-tuning": sureFormat,
  direct,
};

/** As published (B9-8): what cannot be read is a 0, and nothing but "unsure" is not sure. */
const publishedConfidence = (asking: Asking, response: string): number =>
  asking === "r-tuning"
    ? response.includes("unsure")
      ? 0
      : 1
    : (confidenceFormats["sayself-published"].find(response)?.value ?? 0);

/** The response that stands for all of a question's, with its confidence. */
export function readResponses(asking: Asking, responses: readonly string[], compat: SaySelfCompat): ReadResponse {
  if (asking === "consistency") return largestGroup(responses);
  const [response] = responses;
  if (compat.has("B9-8")) return { response: response!, confidence: publishedConfidence(asking, response!) };
  const reader = new ConfidenceReader(formatOf[asking], { onFailure: "drop" });
  return { response: response!, confidence: reader.read(response!) };
}

/**
 * Self-consistency: samples agree whose words under "Answer:" are the same (`norm`: without case, accents, articles and
 * punctuation). The first response of the largest group stands for all, of equal groups the earliest; its confidence is the
 * group's share of all samples. A sample without an answer agrees with none.
 */
export function largestGroup(responses: readonly string[]): ReadResponse {
  const groups = new Map<string, { response: string; size: number }>();
  for (const response of responses) {
    const { answer } = partsOf(response);
    if (answer === null) continue;
    const words = norm(answer).join(" ");
    const group = groups.get(words) ?? { response, size: 0 };
    group.size += 1;
    groups.set(words, group);
  }
  let best: { response: string; size: number } | undefined;
  for (const group of groups.values()) if (!best || group.size > best.size) best = group;
  return best
    ? { response: best.response, confidence: best.size / responses.length }
    : { response: responses[0]!, confidence: null };
}

/** A response up to what it says of how sure it is: what a judge sees, who must not be swayed by it. */
export function withoutSureness(asking: Asking, response: string): string {
  const label = asking === "r-tuning" ? surePattern : /Self-reflection:|Confidence:/;
  const at = response.search(label);
  return (at < 0 ? response : response.slice(0, at)).trim();
}
