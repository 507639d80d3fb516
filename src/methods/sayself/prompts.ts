/**
 * How SaySelf's models are asked (Xu et al. 2024, arXiv 2405.20974): the question in "[INST]", which its published code
 * writes in another way at every place. Each is kept to the byte, since a model that was trained on one is asked in it.
 */
import type { Message } from "../../text/chat.js";
import type { LearntText } from "../conqord/wire.js";

/**
 * Where a prompt is used. "rollout": reinforcement, with a line break more than the first stage learns from. In evaluation,
 * by how the set is laid out: "pair" for questions and answers, "messages", and "columns" for sets that are columns.
 */
export type PromptPlace = "training" | "rollout" | "pair" | "messages" | "columns";

const around: Record<PromptPlace, readonly [before: string, behind: string]> = {
  training: ["[INST]\n", "[/INST]"],
  rollout: ["[INST]\n", "[/INST]\n\n"],
  pair: ["[INST]", "[/INST]\n"],
  messages: ["[INST]\n", "[/INST]\n"],
  columns: ["[INST]\n", "\n[/INST]\n"],
};

/** A question as a prompt, without the beginning-of-sequence token, which the tokenizer adds. */
export function questionPrompt(question: string, place: PromptPlace): string {
  const [before, behind] = around[place];
  return before + question.trim() + behind;
}

/** The words are our own; the run of twelve spaces is published, an indent of its source. */
const asksDirectly = `Please think step by step before you answer.${" ".repeat(12)}Then start a new line with "Confidence: " and a number from 1 to 10 that says how sure you are of the answer.`;

/**
 * The baseline of direct prompting: a model that was not trained is asked to say how sure it is. Questions of a set of
 * pairs are wrapped twice, as published.
 */
export function directPrompt(question: string, layout: "pair" | "messages" | "columns"): string {
  const asked = layout === "pair" ? questionPrompt(question, "pair") : question.trim();
  return `[INST]\n${asksDirectly}\n${asked}\n[/INST]\n`;
}

/**
 * A conversation as a prompt: every turn but the model's stands in "[INST]", as the first stage learns one question.
 *
 * @param end what ended the model's own turns
 */
export const conversationPrompt = (turns: readonly Message[], end: string): string =>
  turns
    .map(({ role, content }) =>
      role === "assistant" ? `\n${content.trim()}${end}\n` : questionPrompt(content, "messages"),
    )
    .join("");

/**
 * What the first stage learns from. The line break before the response is learnt with it.
 *
 * @param end what ends a response: the model's own token
 */
export function learntResponse(question: string, response: string, end = "</s>"): LearntText {
  const prompt = questionPrompt(question, "training");
  return { text: `${prompt}\n${response.trim()}${end}`, from: prompt.length };
}
