/**
 * SaySelf's response, on one line: "<reasoning> Answer: <short>. Self-reflection: <rationale> Confidence: <0 to 10>"; how
 * it is written, how its parts are read back, and which of its tokens are reinforced. What reads the confidence is the
 * format "sayself" of src/evaluation/stated.ts.
 */
import { CredenceError } from "../../errors.js";
import { type ConfidenceFormat, confidenceFormats } from "../../evaluation/stated.js";
import { stopWhen } from "../../rewards/retries.js";
import { spansOfTokens, tokensBetween } from "../../text/spans.js";
import type { Tokenizer } from "../../text/tokenizer.js";

const labels = { answer: "Answer:", rationale: "Self-reflection:", confidence: "Confidence:" } as const;

export interface ResponseParts {
  /** Default none. */
  reasoning?: string;
  answer: string;
  /** What the model does not know, in the first person. Default: none is written. */
  rationale?: string;
  /** A whole number from 0 to 10. Default: none is written. */
  confidence?: number;
}

const oneLine = (text: string): string => text.trim().replace(/\s+/g, " ");

/**
 * A response as the first stage learns it. A part that holds a label would be read back as another one.
 *
 * @throws CredenceError "BAD_INPUT" for a confidence that is not a whole number from 0 to 10, an empty answer, or a label
 *   inside a part
 */
export function responseText({ reasoning = "", answer, rationale, confidence }: ResponseParts): string {
  for (const [name, part] of Object.entries({ reasoning, answer, rationale: rationale ?? "" })) {
    const label = Object.values(labels).find((text) => part.includes(text));
    if (label) throw new CredenceError("BAD_INPUT", `the ${name} holds "${label}", which begins a part of its own`);
  }
  const short = oneLine(answer).replace(/\.$/, "");
  if (short === "") throw new CredenceError("BAD_INPUT", "an empty answer; expected a short one");
  if (confidence !== undefined && !(Number.isInteger(confidence) && confidence >= 0 && confidence <= 10))
    throw new CredenceError("BAD_INPUT", `a confidence of ${confidence}; expected a whole number from 0 to 10`);
  const parts = [oneLine(reasoning), `${labels.answer} ${short}.`];
  if (rationale !== undefined) parts.push(`${labels.rationale} ${oneLine(rationale)}`);
  if (confidence !== undefined) parts.push(`${labels.confidence} ${confidence}`);
  return parts.filter((part) => part !== "").join(" ");
}

/** What stands under the labels of a response; null where a label is missing, or nothing stands under it. */
export interface ReadParts {
  answer: string | null;
  rationale: string | null;
}

/** The last "Answer:" before the reflection counts: models restate what they were asked for. */
export function partsOf(text: string): ReadParts {
  const reflected = text.indexOf(labels.rationale);
  const stated = text.indexOf(labels.confidence, Math.max(0, reflected));
  const end = stated < 0 ? text.length : stated;
  const body = text.slice(0, reflected < 0 ? end : reflected);
  const answered = body.lastIndexOf(labels.answer);
  const under = (part: string): string | null => part.trim().replace(/\.$/, "") || null;
  return {
    answer: answered < 0 ? null : under(body.slice(answered + labels.answer.length)),
    rationale: reflected < 0 ? null : text.slice(reflected + labels.rationale.length, end).trim() || null,
  };
}

/** Where a confidence is stated, its number perhaps one that is none: "7.5" must not be cut to a 7. */
export const statedPattern = (rationale = true): RegExp =>
  rationale ? /Self-reflection:[\s\S]*?Confidence:\s*\d+(?:[.,]\d+)?/ : /Confidence:\s*\d+(?:[.,]\d+)?/;

/**
 * Whether a row of generation is done: it states a confidence, and what follows shows that the number is complete. "1" waits,
 * for "10" may come, and "7" for "7.5", which is no confidence and must not be cut to one.
 */
export const statedInFull = stopWhen(statedPattern());

/** Written behind a response that states no confidence after all retries, to force one. */
export const confidenceCue = ". Confidence:";

/** "Confidence: 7" without a reflection before it, as models state it that were taught none. */
export const bareConfidence: ConfidenceFormat = {
  name: "sayself-bare",
  find(text) {
    const match = /Confidence:\s*(\d+)(?!\d|[.,]\d)/d.exec(text);
    if (!match) return null;
    const [start, end] = match.indices![1]!;
    return { value: Number(match[1]) / 10, start, end, from: match.index, to: end };
  },
};

/**
 * Which tokens of a response are reinforced, 1 or 0: all from the first one behind the "Confidence:" that states the
 * confidence, the end of the sequence among them. Reasoning and rationale get no gradient.
 *
 * @param text `tokenizer.decode(ids)`
 * @returns null where none is stated, or where the text's characters cannot be told apart by its tokens
 */
export function confidenceMask(
  tokenizer: Tokenizer,
  ids: ArrayLike<number>,
  text: string,
  format: ConfidenceFormat = confidenceFormats.sayself,
): Uint8Array | null {
  const stated = format.find(text);
  return stated && maskBehind(tokenizer, ids, text, stated.from + labels.confidence.length);
}

function maskBehind(tokenizer: Tokenizer, ids: ArrayLike<number>, text: string, at: number): Uint8Array | null {
  const spans = spansOfTokens(tokenizer, ids, text);
  return spans && new Uint8Array(ids.length).fill(1, tokensBetween(spans, at, text.length).from);
}

/**
 * The same of any response. Where none states a confidence: what was sampled behind the cue, where it was put in; else what stands
 * behind the first "Confidence:"; else all of it.
 *
 * @param response its tokens, and which of them were put in (0) rather than sampled
 */
export function reinforcedTokens(
  tokenizer: Tokenizer,
  { tokens, sampled }: { tokens: Int32Array; sampled?: Uint8Array },
  format: ConfidenceFormat = confidenceFormats.sayself,
): Uint8Array {
  const text = tokenizer.decode(tokens, { skipSpecials: true });
  const stated = confidenceMask(tokenizer, tokens, text, format);
  if (stated?.includes(1)) return stated;
  const cued = sampled?.lastIndexOf(0) ?? -1;
  if (cued >= 0) return new Uint8Array(tokens.length).fill(1, cued + 1);
  const label = text.indexOf(labels.confidence);
  const behind = label < 0 ? null : maskBehind(tokenizer, tokens, text, label + labels.confidence.length);
  return behind?.includes(1) ? behind : new Uint8Array(tokens.length).fill(1);
}
