/** Questions that have no answer (SelfAware, Yin et al. 2023): how sure is a model of what it says to them, tuned and not? */
import { z } from "zod";
import { CredenceError } from "../../errors.js";
import type { Judge } from "../../evaluation/judges/judge.js";
import { readJson, writeFileAtomic } from "../../files.js";
import type { Policy } from "../../policy/policy.js";
import { type Progress, silent } from "../../tracking/progress.js";
import { answers } from "./answering.js";
import { type GradingItem, grades } from "./labels.js";
import { probabilities, queryLogprobs } from "./query.js";
import { sanitised } from "./wire.js";

const schema = z.looseObject({
  example: z.array(z.looseObject({ question: z.string(), answerable: z.boolean() })).min(1),
});

/** The questions of a file SelfAware.json that cannot be answered. */
export function unanswerable(path: string): string[] {
  const parsed = schema.safeParse(readJson(path));
  if (!parsed.success)
    throw new CredenceError(
      "BAD_INPUT",
      `${path}: is not SelfAware.json, a list "example" of questions that are "answerable" or not`,
    );
  const questions = parsed.data.example.filter(({ answerable }) => !answerable).map(({ question }) => question);
  if (questions.length === 0) throw new CredenceError("BAD_INPUT", `${path}: every question of it is answerable`);
  return questions;
}

/** What a right answer would say. */
export const unanswerableTarget = "The question is unanswerable, and I do not know.";

/** A question's answer, and how sure the model is of it. */
export interface SelfAwareRow {
  query: string;
  /** P(correct). */
  p: number;
  response: string;
  /** null: not judged, or no verdict. */
  correctness: 0 | 1 | null;
}

/**
 * Answers by the base, asked with the adapter or without it.
 *
 * @param judge whether an answer says that there is none; without one nothing is judged
 */
export async function askUnanswerable(
  policy: Policy,
  questions: readonly string[],
  options: {
    adapter: "on" | "off";
    maxTokens: number;
    temperature: number;
    judge?: Judge<GradingItem>;
    progress?: Progress;
    signal?: AbortSignal;
  },
): Promise<SelfAwareRow[]> {
  const { adapter, maxTokens, temperature, judge, progress = silent, signal } = options;
  const rows = questions.map((context) => ({ prompt: "", context, targetPrompt: "", target: unanswerableTarget }));
  const out: SelfAwareRow[] = [];
  const task = progress.task(
    adapter === "on" ? "asking with the adapter" : "asking the base",
    rows.length,
    "questions",
  );
  const together = 64;
  try {
    for (let from = 0; from < rows.length; from += together) {
      const some = rows.slice(from, from + together);
      const given = await answers(policy, some, { maxTokens, signal });
      const answered = some.map((row, i) => ({ ...row, output: given[i]![0]!.text }));
      const right = probabilities(await queryLogprobs(policy, answered, { adapter, signal }), temperature);
      const items = answered.map((row): GradingItem => ({ ...row, answer: sanitised(row.output) }));
      const labels = judge ? (await grades(items, judge, { signal })).labels : items.map(() => null);
      for (const [i, { context, output }] of answered.entries())
        out.push({ query: context, p: right[i]!, response: output, correctness: labels[i]! });
      task.advance(some.length);
    }
  } finally {
    task.end();
  }
  return out;
}

const columns = ["queries", "P", "response", "correctness"];

/** A cell in quotes where it must be, with a backslash before a quote or a backslash, as published. */
const cell = (text: string): string =>
  /[",\r\n\\]/.test(text) ? `"${text.replaceAll("\\", "\\\\").replaceAll('"', '\\"')}"` : text;

/** Writes the published table: the base's columns, then the tuned model's. */
export function writeSelfAware(path: string, base: readonly SelfAwareRow[], tuned: readonly SelfAwareRow[]): void {
  const cells = ({ query, p, response, correctness }: SelfAwareRow) => [
    query,
    String(p),
    response,
    String(correctness ?? ""),
  ];
  const head = ["default", "query"].flatMap((name) => columns.map((column) => `${name}_${column}`));
  const lines = base.map((row, i) => [...cells(row), ...cells(tuned[i]!)]);
  writeFileAtomic(path, [head, ...lines].map((line) => `${line.map(cell).join(",")}\n`).join(""));
}
