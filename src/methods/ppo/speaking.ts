/** How answer and confidence are written in one completion, and what a policy says to questions. */
import { NumpyRandom } from "../../data/random.js";
import { hasAnswer, isAnswer } from "../../evaluation/match.js";
import { type ConfidenceFormat, confidenceFormats, upToOne } from "../../evaluation/stated.js";
import type { Prompt } from "../../model/card.js";
import type { Model } from "../../policy/model.js";
import type { Policy } from "../../policy/policy.js";
import type { Message } from "../../text/chat.js";
import { spansOfTokens, tokensBetween } from "../../text/spans.js";
import type { Progress } from "../../tracking/progress.js";
import type { AskedQuestion } from "../questions.js";
import type { PpoRecipe } from "./recipe.js";

export interface Parts {
  answer: string;
  /** Where the answer ends in the completion, in characters. */
  end: number;
  /** What is said about it besides. */
  rationale?: string;
  /** From 0 to 1; null where none is stated, or one beyond. */
  confidence: number | null;
}

/** How an answer and its confidence are told in one completion. */
export interface Form {
  partsOf(completion: string): Parts;
}

/** One that is taught with confidences drawn at random. */
export interface WrittenForm extends Form {
  written(answer: string, confidence: number): string;
}

/** "Paris\nConfidence: 0.7". */
export const labelledForm: WrittenForm = {
  written: (answer, confidence) => `${answer}\nConfidence: ${confidence.toFixed(1)}`,
  partsOf: (completion) => partsBy(confidenceFormats.labelled, completion),
};

/** A completion whose answer is all that stands before its confidence, as a format finds it. */
export function partsBy(format: ConfidenceFormat, completion: string): Parts {
  const stated = upToOne(format).find(completion);
  const answer = completion.slice(0, stated?.from ?? completion.length).trimEnd();
  return { answer, end: answer.length, confidence: stated?.value ?? null };
}

/** The conversation up to where the answer begins. */
export function askedMessages(question: string, { system, user }: Prompt): Message[] {
  const first = typeof system === "object" ? [{ role: "system", content: system.text }] : [];
  return [...first, { role: "user", content: user.replaceAll("{question}", () => question) }];
}

/**
 * Conversations that teach the form: the first wording of each question's answer, and a confidence in tenths drawn at random.
 */
export function formRows(
  questions: readonly AskedQuestion[],
  { prompt, seed, form }: { prompt: Prompt; seed: number; form: WrittenForm },
): { messages: Message[] }[] {
  const random = new NumpyRandom([seed, 17]);
  return questions.map(({ question, answer }) => ({
    messages: [
      ...askedMessages(question, prompt),
      { role: "assistant", content: form.written(answer[0]!, Math.floor(random.random() * 11) / 10) },
    ],
  }));
}

/** Whether an answer is right, as the recipe has it. */
export const rightAs: Record<PpoRecipe["right"], (answers: readonly string[], answer: string) => boolean> = {
  whole: isAnswer,
  contained: hasAnswer,
};

/** An answer with the confidence stated behind it. */
export interface Said extends AskedQuestion {
  text: string;
  said: string;
  /** What was said about the answer, where the form has a place for it. */
  rationale?: string;
  confidence: number | null;
  correct: 0 | 1;
  /** Probability of the tokens up to the answer's end, without those of the confidence. */
  probability: number;
  finish: "stop" | "length";
}

const logSum = (values: Float32Array, from: number, to: number): number => {
  let sum = 0;
  for (let i = from; i < to; i++) sum += values[i]!;
  return sum;
};

/** What the policy answers when it takes the likeliest token each time. */
export async function say(
  policy: Policy,
  questions: readonly AskedQuestion[],
  { prompt, newTokens, right, form }: Pick<PpoRecipe, "prompt" | "newTokens" | "right"> & { form: Form },
  { progress, signal, label }: { progress: Progress; signal?: AbortSignal; label: string },
): Promise<Said[]> {
  const { model } = policy;
  const prompts = await promptsOf(model, questions, prompt);
  const said: Said[] = [];
  const task = progress.task(label, questions.length, "questions", "tokens");
  try {
    for await (const sample of policy.generate(prompts, { maxNewTokens: newTokens, temperature: 0, signal })) {
      const { text, tokens, logprobs, finish } = sample;
      const question = questions[sample.prompt]!;
      const { answer, end, rationale, confidence } = form.partsOf(text);
      const spans = spansOfTokens(model.tokenizer, tokens, text);
      const of = spans ? tokensBetween(spans, 0, end) : { from: 0, to: tokens.length };
      const probability = Math.exp(logSum(logprobs, of.from, of.to));
      const correct = rightAs[right](question.answer, answer) ? 1 : 0;
      const told = { text, said: answer, ...(rationale === undefined ? {} : { rationale }) };
      said.push({ ...question, ...told, confidence, correct, probability, finish });
      task.advance(1, tokens.length);
    }
  } finally {
    task.end();
  }
  return said;
}

export const promptsOf = (model: Model, questions: readonly AskedQuestion[], prompt: Prompt): Promise<Int32Array[]> =>
  Promise.all(questions.map(({ question }) => model.promptTokens(question, prompt)));
