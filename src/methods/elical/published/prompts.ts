/** What the published scripts ask: `prompt_type` by name. The wording of the two question types is that of the released adapters. */
import { correctnessRequest } from "../../../evaluation/judges/prompts.js";

/** Prompt types that ask the model that is being calibrated. */
export const questionPrompts = {
  long_qa: (question: string) => `Answer the following question.\nQuestion: ${question}`,
  long_mc_qa: (question: string) =>
    `Select the correct answer to the following question based on your internal knowledge.\nQuestion: ${question}`,
  prior_conf: (question: string) =>
    "Judge whether you can give the correct answer to the following question. Output only a score in [0, 1]: " +
    `0 for no confidence at all, 1 for certainty.\nQuestion: ${question}`,
} as const;

/** Prompt types that ask a judge. */
export const judgePrompts = {
  /** The question is the request itself; the period is the published one. */
  consistency: (request: string) => `${request}.`,
  llm_judge_gold: correctnessRequest,
} as const;

export type PromptType = keyof typeof questionPrompts | keyof typeof judgePrompts;
export const promptTypes = [...Object.keys(questionPrompts), ...Object.keys(judgePrompts)] as PromptType[];
