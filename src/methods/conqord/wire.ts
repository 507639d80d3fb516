/**
 * CONQORD's text (Tao et al. 2024, arXiv 2404.17287): a dialogue or a question, an answer and the confidence in it under
 * headings, "\n\n### Confidence: 0.9."; how it is written, and how it is read back from what a model wrote.
 */
import { CredenceError } from "../../errors.js";
import {
  ConfidenceReader,
  confidenceFormats,
  labelledConfidence,
  type ReadingOptions,
  type Stated,
} from "../../evaluation/stated.js";
import { evidenceHeading } from "../../policy/policy.js";
import { spansOfTokens, tokensBetween } from "../../text/spans.js";
import type { Tokenizer } from "../../text/tokenizer.js";
import type { ConqordCompat } from "./compat.js";

/** What announces each part of a text. */
export const headings = {
  human: "\n\n### Human: ",
  assistant: "\n\n### Assistant: ",
  question: "\n\n### Question: ",
  explanation: "\n\n### Explanation: ",
  answer: "\n\n### Answer: ",
  confidence: "\n\n### Confidence: ",
  evidences: evidenceHeading,
} as const;

/** A confidence as it is written: a full stop ends it, and at least one decimal stands before that. */
export function confidenceLine(confidence: number): string {
  if (!(confidence >= 0 && confidence <= 1))
    throw new CredenceError("BAD_INPUT", `a confidence of ${confidence}; expected a number from 0 to 1`);
  return `${headings.confidence}${Number.isInteger(confidence) ? confidence.toFixed(1) : confidence}.`;
}

/** One question of a dialogue and its answer. */
export interface Turn {
  human: string;
  assistant: string;
  /** Written where the dialogue has confidences. */
  confidence: number;
}

export const dialogueText = (turns: readonly Turn[], { confidences = true } = {}): string =>
  turns
    .map(
      ({ human, assistant, confidence }) =>
        `${headings.human}${human}${headings.assistant}${assistant}${confidences ? confidenceLine(confidence) : ""}`,
    )
    .join("");

/** A good answer, a friendly one, and one that only points elsewhere, as the published examples are; the words are our own. */
const examples: readonly Turn[] = [
  {
    human: "What is the film Casablanca about? I only know that it is famous.",
    assistant:
      "It is a drama of 1942, set in Morocco during the war: the owner of a night club has to choose between the woman he loves and helping her and her husband flee. It won three Oscars, that for the best picture among them.",
    confidence: 0.9,
  },
  {
    human: "I want to bake biscuits for my neighbours. Do you know any good ones?",
    assistant: "Yes, I know several that are easy and taste of butter and spices.",
    confidence: 0.9,
  },
  {
    human: "How are they made?",
    assistant: "If you type their name into a search engine, you will find some recipes.",
    confidence: 0.1,
  },
];

/** What stands before every dialogue: an instruction and three solved turns, with confidences or (for data of quality) without. */
export const dialoguePrefix = ({ confidences }: { confidences: boolean }): string =>
  (confidences
    ? "Please provide the Assistant's answer and the Confidence (0.0 to 1.0) that the answer is truthful and informative for the Question."
    : "Please provide the Assistant's answer to the Human's question.") + dialogueText(examples, { confidences });

/** What ends a text to learn from: published texts end in this string, which for Llama and Mistral is seven ordinary tokens. */
export const publishedEnd = "<|endoftext|>";

// ---- reading

/** A part of a text under its heading. Places are UTF-16 units, the end exclusive. */
export interface Field {
  name: string;
  /** Without space at its ends. */
  value: string;
  /** With its heading and the line breaks before it. */
  from: number;
  to: number;
}

const heading =
  /(?:\n[\n ]*|^[\n ]*)### (Human|Assistant|Question|Explanation|Answer(?:-\d+)?|Confidence(?:-\d+)?|Retrieved Evidences):/g;

/** A text's parts: what stands before the first heading, and what stands under each. Other "### ..." lines are text. */
export function fieldsOf(text: string): { lead: string; fields: Field[] } {
  const found = [...text.matchAll(heading)];
  const fields = found.map((match, i): Field => {
    const to = found[i + 1]?.index ?? text.length;
    return { name: match[1]!, value: text.slice(match.index + match[0].length, to).trim(), from: match.index, to };
  });
  return { lead: text.slice(0, found[0]?.index).trim(), fields };
}

/** Where a model that was to answer goes on with a question of its own; the text's length where it does not. */
export const runOn = (text: string): number =>
  fieldsOf(text).fields.find(({ name }) => name === "Human" || name === "Question")?.from ?? text.length;

/** A text without the lines of its confidences. */
export function withoutConfidences(text: string): string {
  let rest = "";
  let at = 0;
  for (const { name, from, to } of fieldsOf(text).fields) {
    if (!name.startsWith("Confidence")) continue;
    rest += text.slice(at, from);
    at = to;
  }
  return rest + text.slice(at);
}

/**
 * The text that a reward model scores: without confidences and without turns that were invented, or, as published (A9-5),
 * with both.
 */
export const scoredText = (completion: string, compat: ConqordCompat): string =>
  compat.has("A9-5") ? completion : withoutConfidences(completion.slice(0, runOn(completion)));

/** What reads confidences and counts. */
export interface Reading {
  /** The confidence, or what stands for one that cannot be read; null: the row is left out. */
  read(text: string): number | null;
  readonly counts: { texts: number; failed: number; clamped: number };
}

/** How a model was asked; see prompts.ts. */
export type AskedFor = "answer" | "top-k" | "chain-of-thought" | "dialogue";

const topFormat = labelledConfidence({ label: "### Confidence-1", which: "first", name: "conqord-top-k" });

/**
 * A reader of confidences: the first "### Confidence: 0.9." (of several answers that of the first), a number beyond 0 to 1
 * taken as the nearer of them. As published (A9-6) any number is one and 1 stands for none in training; in evaluation one
 * digit on each side of the point is one, and 0 stands for none.
 */
export function confidenceReading(
  use: "training" | "evaluation",
  options: { compat: ConqordCompat; onFailure: ReadingOptions["onFailure"]; asked?: AskedFor },
): Reading {
  const { compat, onFailure, asked = "answer" } = options;
  if (!compat.has("A9-6"))
    return new ConfidenceReader(asked === "top-k" ? topFormat : "conqord", { onFailure, clamp: true });
  const counts = { texts: 0, failed: 0, clamped: 0 };
  const format = confidenceFormats[use === "training" ? "conqord" : "conqord-evaluation"];
  return {
    counts,
    read(text) {
      counts.texts += 1;
      const stated = format.find(text);
      if (stated) return stated.value;
      counts.failed += 1;
      return use === "training" ? 1 : 0;
    },
  };
}

/** Tokens as a range: the first, and the one behind the last. */
export interface TokenRange {
  from: number;
  to: number;
}

/**
 * Which tokens of a completion state its confidence: those that hold the number, and those of the whole line.
 *
 * @param text `tokenizer.decode(ids)`
 * @returns null where none is stated, or where the text's characters cannot be told apart by its tokens
 */
export function confidenceTokens(
  tokenizer: Tokenizer,
  ids: ArrayLike<number>,
  text: string,
): { stated: Stated; number: TokenRange; line: TokenRange } | null {
  const stated = confidenceFormats.conqord.find(text);
  const spans = stated && spansOfTokens(tokenizer, ids, text);
  if (!stated || !spans) return null;
  return {
    stated,
    number: tokensBetween(spans, stated.start, stated.end),
    line: tokensBetween(spans, stated.from, stated.to),
  };
}

/** A text to learn from, and where the part to be learnt begins, in UTF-16 units. */
export interface LearntText {
  text: string;
  from: number;
}

/**
 * Tokens of a text and how much each counts, 0 or 1.
 *
 * @param labels "answer": tokens that begin at `from` or behind it count. "padded", as published: every token does, and so
 *   do the PAD tokens that fill the row up to `length`; a longer row loses its end
 */
export async function labelledRow(
  tokenizer: Tokenizer,
  { text, from }: LearntText,
  labels: "answer" | { padded: { length: number; pad: number } },
): Promise<{ ids: Int32Array; weights: Float32Array }> {
  const { ids, spans } = await tokenizer.encodeAligned(text);
  if (labels === "answer") return { ids, weights: Float32Array.from(ids, (_, i) => (spans[2 * i]! >= from ? 1 : 0)) };
  const { length, pad } = labels.padded;
  const row = new Int32Array(length).fill(pad);
  row.set(ids.subarray(0, length));
  // Nothing predicts a first token.
  return { ids: row, weights: new Float32Array(length).fill(1).fill(0, 0, 1) };
}

/** An answer and its confidence as one reply of the form that was asked for. */
export function replyText(asked: AskedFor, { answer, confidence }: { answer: string; confidence: number }): string {
  if (asked === "dialogue") return answer + confidenceLine(confidence);
  if (asked !== "top-k") return headings.answer + answer + confidenceLine(confidence);
  return `\n\n### Answer-1: ${answer}${confidenceLine(confidence).replace("Confidence:", "Confidence-1:")}`;
}
