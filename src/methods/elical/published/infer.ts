/** Passes of generation and of judging over a file of questions, a line each in their order; see passes.ts. */
import { readFileSync } from "node:fs";
import { writeRecords } from "../../../data/readers.js";
import { CredenceError } from "../../../errors.js";
import type { Responder } from "../../../evaluation/judges/responder.js";
import { writeFileFrom } from "../../../files.js";
import type { Prompt } from "../../../model/card.js";
import type { Policy, Sample } from "../../../policy/policy.js";
import { inParts, isDone, type PassContext } from "../../passes.js";

/** A line of the input, with what the model is asked. */
export interface PassRow {
  input: Record<string, unknown>;
  instruction: string;
}

/** What a pass goes over, read where it lies. */
export interface PassRows {
  count: number;
  /** Names the rows' content. */
  digest: string;
  /** Rows from..to (excluded), in their order. */
  read(from: number, to: number): AsyncIterable<PassRow>;
}

export interface GenerationSettings {
  /** 0: the likeliest tokens. */
  temperature: number;
  /** Answers a question. */
  samples: number;
  topP: number;
  topK: number;
  maxTokens: number;
  repetitionPenalty: number;
  seed: number;
  /** Whether the log-probabilities of an answer's tokens, and the tokens themselves, are written. */
  logprobs: boolean;
  tokens: boolean;
  /** The system message: the template's own, none, or one's own. */
  system: Prompt["system"];
}

/** Questions answered together, and written together, unless told. */
export const passChunk = 64;

/**
 * Answers every row and writes, for each, the row with `instruction`, `prompt` (the whole text that the model read),
 * `response`, `tokens`, `cumulative_logprobs` and `logprobs`. Log-probabilities are natural and of the model itself, at
 * temperature 1 and with nothing cut; the token that ends an answer is not among them.
 */
export async function generationPass(
  policy: Policy,
  rows: PassRows,
  settings: GenerationSettings,
  context: PassContext,
  chunk = passChunk,
): Promise<void> {
  const { output, signal } = context;
  const { model } = policy;
  if (isDone(context, { model: model.sha256, input: rows.digest, ...settings })) return;
  const make = async (from: number, to: number, onTokens: (count: number) => void) => {
    const part: PassRow[] = [];
    for await (const row of rows.read(from, to)) part.push(row);
    return answerPart(policy, part, settings, signal, onTokens);
  };
  await inParts(context, { count: rows.count, chunk }, make, async (paths) => {
    async function* whole() {
      for (const path of paths) yield readFileSync(path);
    }
    await writeFileFrom(output, whole());
  });
}

async function answerPart(
  policy: Policy,
  rows: readonly PassRow[],
  settings: GenerationSettings,
  signal: AbortSignal | undefined,
  onTokens: (count: number) => void,
): Promise<unknown[]> {
  const { model } = policy;
  const prompt: Prompt = { user: "{question}", system: settings.system };
  const prompts = await Promise.all(rows.map(({ instruction }) => model.promptTokens(instruction, prompt)));
  const { temperature, samples, topP, topK, repetitionPenalty, maxTokens: maxNewTokens, seed } = settings;
  const answers: Sample[][] = rows.map(() => []);
  const sampling = { temperature, samples, topP, topK: topK || undefined, repetitionPenalty, maxNewTokens, seed };
  const onStats = ({ newTokens }: { newTokens: number }) => onTokens(newTokens);
  for await (const sample of policy.generate(prompts, { ...sampling, signal, onStats }))
    answers[sample.prompt]!.push(sample);
  if (answers.some((given) => given.length !== samples))
    throw new CredenceError("ABORTED", "stopped while answering; started again it goes on from there");
  return rows.map(({ input, instruction }, i) => {
    const given = answers[i]!;
    const logprobs = given.map((answer) => Array.from(answer.logprobs.subarray(0, answer.tokens.length)));
    const text = (token: number) => model.tokenizer.decode(Int32Array.of(token));
    return {
      ...input,
      instruction,
      prompt: model.promptText(instruction, prompt),
      response: given.map((answer) => answer.text),
      tokens: settings.tokens ? given.map((answer) => Array.from(answer.tokens, text)) : null,
      cumulative_logprobs: settings.logprobs ? logprobs.map((all) => all.reduce((sum, one) => sum + one, 0)) : null,
      logprobs: settings.logprobs ? logprobs : null,
    };
  });
}

/**
 * Has a judge reply to every row and writes, for each, the row with `instruction`, `prompt` and `response`. What is kept
 * of a pass that was stopped is up to the responder.
 *
 * @param settings what the replies depend on beside the judge and the rows
 */
export async function judgePass(
  responder: Responder,
  rows: PassRows,
  settings: Record<string, unknown>,
  context: PassContext,
): Promise<void> {
  const { output, signal, progress, label } = context;
  if (isDone(context, { judge: responder.name, input: rows.digest, ...settings })) return;
  const task = progress.task(label, rows.count, "verdicts");
  /** Rows whose replies are not there yet. */
  const open: PassRow[] = [];
  async function* requests() {
    for await (const row of rows.read(0, rows.count)) {
      open.push(row);
      yield row.instruction;
    }
  }
  async function* judged() {
    let count = 0;
    for await (const { text } of responder.replies(requests(), signal)) {
      const { input, instruction } = open.shift()!;
      yield { ...input, instruction, prompt: responder.prompt(instruction), response: [text] };
      count += 1;
      task.advance(1);
    }
    if (count < rows.count)
      throw new CredenceError("ABORTED", "stopped while judging; started again it goes on from there");
  }
  try {
    await writeRecords(output, judged());
  } finally {
    task.end();
  }
}
