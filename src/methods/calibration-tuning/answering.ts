/** A model's answers to rows: the likeliest tokens behind each text, as it is. */
import { createHash } from "node:crypto";
import { readFileSync } from "node:fs";
import { basename, dirname } from "node:path";
import { fromJsonLines } from "../../data/readers.js";
import { CredenceError } from "../../errors.js";
import { whoAnswers } from "../../evaluation/judges/responder.js";
import type { Model } from "../../policy/model.js";
import type { GenerateSettings, Policy, Sample } from "../../policy/policy.js";
import { inParts, isDone, type PassContext } from "../passes.js";
import type { DatasetRow } from "./datasets.js";
import { writeOffline } from "./offline.js";
import type { SplitName } from "./rows.js";
import { type TextParts, textOf, textTokens } from "./wire.js";

/** The tokens that end an answer: the model's own, and the end of a turn where the vocabulary has one. */
export function endTokens({ stopTokens, tokenizer }: Model): number[] {
  const turn = tokenizer.idOf("<|eot_id|>");
  return [...new Set([...stopTokens, ...(turn === undefined ? [] : [turn])])];
}

export interface AnsweringOptions extends Pick<GenerateSettings, "samples" | "temperature" | "topK" | "topP" | "seed"> {
  /** Longest answer, in tokens. Published: 30 in words, 1 for a letter. */
  maxTokens: number;
  /** Who answers: the base ("off") or the base with the policy's adapter. Default "off". */
  adapter?: "on" | "off";
  signal?: AbortSignal;
  onTokens?: (count: number) => void;
}

/** An answer as it was written, space at its ends included, and its tokens' log-probabilities. */
export interface Answered {
  text: string;
  logprobs: Float32Array;
}

/**
 * Answers to texts, `samples` of each (default 1).
 *
 * @throws CredenceError "TOO_LONG" where a text leaves no room for an answer; "ABORTED"
 */
export async function answers(
  policy: Policy,
  rows: readonly TextParts[],
  options: AnsweringOptions,
): Promise<Answered[][]> {
  const { model } = policy;
  const { maxTokens, adapter = "off", samples = 1, temperature = 0, topK, topP, seed, signal, onTokens } = options;
  const prompts = await Promise.all(rows.map((row) => textTokens(model, textOf(row))));
  const out: Answered[][] = rows.map(() => []);
  const settings = {
    samples,
    temperature,
    maxNewTokens: maxTokens,
    stopTokens: endTokens(model),
    adapter,
    ...(topK === undefined ? {} : { topK }),
    ...(topP === undefined ? {} : { topP }),
    ...(seed === undefined ? {} : { seed }),
    signal,
    onStats: ({ newTokens }: { newTokens: number }) => onTokens?.(newTokens),
  };
  for await (const { prompt, tokens, logprobs } of policy.generate(prompts, settings) as AsyncGenerator<Sample>)
    out[prompt]!.push({ text: model.tokenizer.decode(tokens, { skipSpecials: true }), logprobs });
  if (out.some((given) => given.length !== samples))
    throw new CredenceError("ABORTED", "stopped while answering; started again it goes on from there");
  return out;
}

const digest = (value: unknown): string => createHash("sha256").update(JSON.stringify(value)).digest("hex");

/** Rows answered and kept together. */
const atOnce = 128;

/**
 * Answers a split and writes its file, `<folder>/<split>/<name>.csv`, which `context.output` names: questions with answers that
 * are not judged. A file that is there already, made alike, is kept.
 */
export async function answerSplit(
  policy: Policy,
  rows: readonly DatasetRow[],
  settings: Pick<AnsweringOptions, "maxTokens">,
  context: PassContext,
  chunk = atOnce,
): Promise<void> {
  const { output, signal } = context;
  const questions = rows.map(({ prompt, context: text, targetPrompt, target }) => [prompt, text, targetPrompt, target]);
  if (isDone(context, { policy: digest(whoAnswers(policy)), input: digest(questions), ...settings })) return;
  const make = async (from: number, to: number, onTokens: (count: number) => void) =>
    (await answers(policy, rows.slice(from, to), { ...settings, signal, onTokens })).map(([one]) => ({
      output: one!.text,
    }));
  await inParts(context, { count: rows.length, chunk }, make, async (paths) => {
    const made = paths.flatMap((path) => fromJsonLines<{ output: string }>(readFileSync(path, "utf8")));
    const answered = rows.map((row, i) => ({ ...row, output: made[i]!.output, label: null }));
    const split = basename(dirname(output)) as SplitName;
    writeOffline(dirname(dirname(output)), split, basename(output, ".csv"), answered, { examples: true });
  });
}
