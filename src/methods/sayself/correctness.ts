/**
 * Whether a response is right, by its text. The question of FEVER and of StrategyQA names every label, so that a response
 * that restates it holds the right one: the text under "Answer:" alone is looked at.
 */
import { hasAnswer, norm } from "../../evaluation/match.js";
import { partsOf } from "./wire.js";

/** Of answers that are labels, those that mean the opposite. */
const opposites: Record<string, readonly string[]> = {
  true: ["false", "not"],
  false: ["true", "not"],
  yes: ["no", "not"],
  no: ["yes"],
};

export interface Gold {
  /** Any of them is right. */
  answers: readonly string[];
  /** None of them may stand in a right answer: "true or false" is neither. */
  negatives?: readonly string[];
}

/** A published set's cell of wrong answers, "Rhine/Elbe", as a list. */
export const negativesOf = (cell: string): string[] =>
  cell
    .split("/")
    .map((answer) => answer.trim())
    .filter((answer) => answer !== "");

/** Whether the text under "Answer:" holds one of the answers, and none of the wrong ones. Without that label it is wrong. */
export function isRight(response: string, { answers, negatives = [] }: Gold): boolean {
  const { answer } = partsOf(response);
  if (answer === null) return false;
  return answers.some((gold) => {
    const others = [...negatives, ...(opposites[norm(gold).join(" ")] ?? [])];
    return hasAnswer([gold], answer) && !hasAnswer(others, answer);
  });
}

/** As published (B9-4): the gold answer in lower case anywhere in the response, which as published holds the prompt too. */
export const isRightAsPublished = (response: string, gold: string): boolean =>
  response.toLowerCase().includes(gold.toLowerCase().trim());
