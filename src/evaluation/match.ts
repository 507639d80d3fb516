/** Whether a text holds an answer, and whether two texts give the same one: by their words, without accents, case or articles. */

const articles = new Set(["a", "an", "the"]);
// biome-ignore lint/suspicious/noControlCharactersInRegex: Unicode's white space includes the separators 1c to 1f
const spaces = /[\t-\r\x1c-\x20\x85\xa0\u1680\u2000-\u200a\u2028\u2029\u202f\u205f\u3000]+/;
const punctuation = /[!-/:-@[-`{-~]/g;

/** Words that frame an answer rather than give it, beside the question's own. */
const framing = new Set(
  "is of in on it its and to as by was which that this are with for s country countries city located called known".split(
    " ",
  ),
);

const combiningMarks = new Map<string, boolean>();

/**
 * Whether a mark has a canonical combining class other than 0. The language has no property for it, but normalising
 * does: marks of different classes change places, and nothing moves past a class 0. (U+0334 has class 1, U+0345 class 240,
 * the lowest and the highest.)
 */
function combines(mark: string): boolean {
  let known = combiningMarks.get(mark);
  if (known === undefined) {
    known =
      `${mark}\u0334`.normalize("NFD") !== `${mark}\u0334` || `\u0345${mark}`.normalize("NFD") !== `\u0345${mark}`;
    combiningMarks.set(mark, known);
  }
  return known;
}

/** The words of a text: compatibility-decomposed, without combining marks, lower case, punctuation and articles dropped. */
export function norm(text: string): string[] {
  return text
    .normalize("NFKD")
    .replace(/\p{M}/gu, (mark) => (combines(mark) ? "" : mark))
    .toLowerCase()
    .replace(punctuation, " ")
    .split(spaces)
    .filter((word) => word !== "" && !articles.has(word));
}

function within(part: readonly string[], whole: readonly string[]): boolean {
  if (part.length === 0) return false;
  for (let from = 0; from + part.length <= whole.length; from++) {
    if (part.every((word, i) => whole[from + i] === word)) return true;
  }
  return false;
}

/** Whether the words of one of the answers stand in the text, together and in order. An answer without words never does. */
export function hasAnswer(answers: readonly string[], text: string): boolean {
  const words = norm(text);
  return answers.some((answer) => within(norm(answer), words));
}

/** Whether the text is one of the answers, in the same words and no others. An answer without words never is. */
export function isAnswer(answers: readonly string[], text: string): boolean {
  const words = norm(text).join(" ");
  return words !== "" && answers.some((answer) => norm(answer).join(" ") === words);
}

/** The words of an answer without the question's and those that frame it: sentences restate the question. */
export function ownWords(text: string, question: string): string[] {
  const asked = new Set(norm(question));
  return norm(text).filter((word) => !asked.has(word) && !framing.has(word));
}

/** Token F1 of two answers without the question's words, in [0, 1]. Two answers with nothing left agree. */
export function agreeF1(first: string, second: string, question: string): number {
  const x = new Set(ownWords(first, question));
  const y = new Set(ownWords(second, question));
  if (x.size + y.size === 0) return 1;
  let common = 0;
  for (const word of x) if (y.has(word)) common++;
  return (2 * common) / (x.size + y.size);
}
