/**
 * Passes of generation and of judging over a file of questions, a line each in their order. A pass that was stopped goes on
 * from where it was; `FILE.pass.json` beside its output says what made it, and a pass by other settings is refused.
 */
import { existsSync, readFileSync, rmSync } from "node:fs";
import { join } from "node:path";
import { toJsonLines, writeRecords } from "../../../data/readers.js";
import { CredenceError } from "../../../errors.js";
import type { Responder } from "../../../evaluation/judges/responder.js";
import { makeFolder, readJson, writeFileAtomic, writeFileFrom, writeJsonAtomic } from "../../../files.js";
import type { Prompt } from "../../../model/card.js";
import type { Policy, Sample } from "../../../policy/policy.js";
import type { Progress } from "../../../tracking/progress.js";

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

export interface PassContext {
  output: string;
  progress: Progress;
  /** Name of the pass, as progress shows it. */
  label: string;
  /** Flags that were given and make no difference: recorded. */
  notNeeded?: Record<string, unknown>;
  signal?: AbortSignal;
}

/** Questions answered together, and written together, unless told. */
export const passChunk = 64;

const shown = (setting: unknown): string => JSON.stringify(setting) ?? "not given";

/** Whether an output is there already, made as is asked for now. */
function isDone({ output, notNeeded = {} }: PassContext, made: Record<string, unknown>): boolean {
  const path = `${output}.pass.json`;
  if (existsSync(path)) {
    const { notNeeded: _, ...before } = readJson(path) as Record<string, unknown>;
    const differs = [...new Set([...Object.keys(made), ...Object.keys(before)])].filter(
      (name) => JSON.stringify(made[name]) !== JSON.stringify(before[name]),
    );
    if (differs.length > 0)
      throw new CredenceError(
        "OTHER_RUN",
        `${output} was made, or begun, with other settings: ${differs.map((name) => `${name} was ${shown(before[name])} and is ${shown(made[name])}`).join("; ")}. Remove ${path}${existsSync(output) ? " and the output" : ""}, or write elsewhere`,
      );
    return existsSync(output);
  }
  if (existsSync(output))
    throw new CredenceError(
      "EXISTS",
      `${output} is there, and nothing beside it says what made it. Remove it, or write elsewhere`,
    );
  writeJsonAtomic(path, { ...made, ...(Object.keys(notNeeded).length > 0 ? { notNeeded } : {}) });
  return false;
}

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
  const { output, signal, progress, label } = context;
  const { model } = policy;
  if (isDone(context, { model: model.sha256, input: rows.digest, ...settings })) return;
  const parts = `${output}.parts`;
  makeFolder(parts);
  const task = progress.task(label, rows.count, "questions", "tokens");
  const paths: string[] = [];
  try {
    for (let from = 0; from < rows.count; from += chunk) {
      const to = Math.min(rows.count, from + chunk);
      // Named by what it holds: a part of another size is not taken for this one.
      const path = join(parts, `${String(from).padStart(9, "0")}-${to}.jsonl`);
      paths.push(path);
      let tokens = 0;
      if (!existsSync(path)) {
        const part: PassRow[] = [];
        for await (const row of rows.read(from, to)) part.push(row);
        const records = await answerPart(policy, part, settings, signal, (count) => {
          tokens = count;
        });
        writeFileAtomic(path, toJsonLines(records));
      }
      task.advance(to - from, tokens);
    }
  } finally {
    task.end();
  }
  async function* whole() {
    for (const path of paths) yield readFileSync(path);
  }
  await writeFileFrom(output, whole());
  rmSync(parts, { recursive: true, force: true });
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
