/**
 * The texts of calibration-tuning (Kapoor et al. 2024): a question as text, an answer to it, and the uncertainty query that
 * asks whether the answer is right. What a model learnt is bound to the query's every character.
 */
import { CredenceError } from "../../errors.js";
import type { Tokenizer } from "../../text/tokenizer.js";

export { sanitised, textTokens } from "../../text/plain.js";

/** How a question is put: with the options to choose a letter from, or to be answered in words. */
export type Style = "choice" | "oe";

/** A question in its parts, which stand one behind the other. */
export interface TextParts {
  /** Few-shot examples or an instruction; "" where there are none. */
  prompt?: string;
  context: string;
  /** What the answer follows, e.g. "\nAnswer:". */
  targetPrompt: string;
}

/** A question with its reference answer. */
export interface Row extends Required<TextParts> {
  target: string;
}

/** A question with an answer of a model's. */
export interface AnsweredRow extends Row {
  output: string;
  /** Whether it is right; null: not judged yet. */
  label: 0 | 1 | null;
}

/** The text up to where an answer begins, or with an answer, one space before it; nothing at either end. */
export const textOf = ({ prompt = "", context, targetPrompt }: TextParts, answer = ""): string =>
  `${prompt}${context}${targetPrompt} ${answer}`.trim();

/** What follows an answer to ask whether it is right. */
export const querySuffix = "\n\nIs the proposed answer correct?\nChoices:\n(i): no\n(ii): yes\nAnswer:";

/** The uncertainty query: the next token is `i` where the answer is wrong, `ii` where it is right. */
export const queryText = (parts: TextParts, answer: string): string => `${textOf(parts)} ${answer}${querySuffix}`;

/** The words that a model chooses between; the last is for "right" where there are two. */
export const choiceWords = {
  roman_choice: ["i", "ii"],
  bool: ["no", "yes"],
  alpha_choice: ["a", "b"],
  choice: ["a", "b", "c", "d"],
} as const;

/**
 * The token of each word: the last one of the word by itself, which is the one with a word's mark for SentencePiece and the
 * one without a space for byte-level BPE.
 *
 * @throws CredenceError "BAD_TOKENIZER" where a word is no token of its own, or two of them are one token
 */
export async function choiceTokens(
  tokenizer: Pick<Tokenizer, "encode" | "decode" | "path">,
  words: readonly string[] = choiceWords.roman_choice,
): Promise<number[]> {
  const ids: number[] = [];
  for (const word of words) {
    const id = (await tokenizer.encode(word, { specials: "text" })).at(-1);
    if (id !== undefined && tokenizer.decode([id]).trim() === word) ids.push(id);
    else throw unusable(tokenizer.path, `${JSON.stringify(word)} is no token of its own`);
  }
  const twice = ids.findIndex((id, i) => ids.indexOf(id) !== i);
  if (twice >= 0)
    throw unusable(
      tokenizer.path,
      `${JSON.stringify(words[ids.indexOf(ids[twice]!)])} and ${JSON.stringify(words[twice])} are one token`,
    );
  return ids;
}

const unusable = (path: string, why: string): CredenceError =>
  new CredenceError(
    "BAD_TOKENIZER",
    `${path}: ${why}, so that the model cannot be asked to choose. Take a model with another vocabulary`,
  );
