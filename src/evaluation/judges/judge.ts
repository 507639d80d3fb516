/** Judges of answers: strings, or a model that is asked. */
import { agreeF1, hasAnswer } from "../match.js";
import { correctnessRequest, equivalenceRequest } from "./prompts.js";
import { publishedMatch, publishedVerdict } from "./published.js";
import type { Responder } from "./responder.js";
import { readVerdict } from "./verdict.js";

/** What is to be judged: whether an answer is one of those expected, or whether two answers mean the same. */
export type JudgeItem =
  | { asks: "correct"; question: string; expected: readonly string[]; given: string }
  | { asks: "same"; question: string; first: string; second: string };

export interface Verdict {
  /** From 0 (no) to 1 (yes); null where the judge's reply says neither. */
  value: number | null;
  /** The reply, of a judge that is a model. */
  reply?: string;
}

/** One verdict an item, in their order; each as soon as those before it are there. */
export interface Judge<Item = JudgeItem> {
  readonly name: string;
  judge(items: Iterable<Item>, options?: { signal?: AbortSignal }): AsyncGenerator<Verdict, void, undefined>;
}

/**
 * Judges by the answers' words: whether an expected answer stands in the one given, and two answers' token F1.
 *
 * @param match "published": whether it stands there is told as by EliCal's scripts, quirks and all
 */
export function stringJudge(match: "corrected" | "published" = "corrected"): Judge {
  const stands =
    match === "published"
      ? publishedMatch
      : (expected: readonly string[], text: string) => (hasAnswer(expected, text) ? 1 : 0);
  return {
    name: match === "published" ? "published string match" : "string match",
    async *judge(items, { signal } = {}) {
      for (const item of items) {
        signal?.throwIfAborted();
        yield {
          value:
            item.asks === "correct"
              ? stands(item.expected, item.given)
              : agreeF1(item.first, item.second, item.question),
        };
      }
    },
  };
}

/**
 * Judges by asking a model, which is to reply with "certain" or "uncertain".
 *
 * @param reads "published": as EliCal's scripts read a reply, which is a yes unless a refusal stands in it
 */
export function modelJudge(responder: Responder, reads: "corrected" | "published" = "corrected"): Judge {
  const read = reads === "published" ? publishedVerdict : readVerdict;
  return {
    name: responder.name,
    async *judge(items, { signal } = {}) {
      for await (const { text } of responder.replies(requests(items), signal)) yield { value: read(text), reply: text };
    },
  };
}

function* requests(items: Iterable<JudgeItem>): Generator<string, void, undefined> {
  for (const item of items) {
    yield item.asks === "correct"
      ? correctnessRequest(item.question, item.expected, item.given)
      : equivalenceRequest(item.question, item.first, item.second);
  }
}
