/**
 * The string match and the reading of verdicts of EliCal's published scripts, to the bit. They have quirks (an answer
 * without words is in every text, a reply that says nothing is a "yes"), so labels of one's own are better made with
 * match.ts and verdict.ts; these are for numbers that are to equal published ones.
 */

const punctuation = /[!-/:-@[-`{-~]/g;
// Python's \b: what is not a letter or a number ends a word, and so does a combining mark.
const articles = /(?<![\p{L}\p{N}])(?:a|an|the)(?![\p{L}\p{N}])/gu;
const tokens = /[\p{L}\p{N}\p{M}]+|[^\p{Z}\p{C}]/gu;

/** The tokens that are compared: accents stay, as combining marks of their own. */
export function publishedTokens(text: string): string[] {
  const plain = text.normalize("NFD").toLowerCase().replace(punctuation, " ").replace(articles, " ");
  return (plain.match(tokens) ?? []).map((token) => token.toLowerCase());
}

/** Whether one of the answers' tokens stand in the text, together and in order; an answer without tokens always does. */
export function publishedMatch(answers: readonly string[], text: string): 0 | 1 {
  const whole = publishedTokens(text);
  return answers.some((answer) => stands(publishedTokens(answer), whole)) ? 1 : 0;
}

function stands(part: readonly string[], whole: readonly string[]): boolean {
  for (let from = 0; from + part.length <= whole.length; from++) {
    if (part.every((token, i) => whole[from + i] === token)) return true;
  }
  return false;
}

/** What makes a reply a "no". */
const refusals = [
  "sorry",
  "apologize",
  "apologies",
  "uncertain",
  "false",
  "no",
  "unsure",
  "cannot",
  "unknown",
  "no specific answer",
  "not provide",
  "cannot answer",
  "no information provided",
  "no answer",
  "not contain",
  "no definitive answer",
];

/** A judge's reply as 0 or 1: 0 where there is none or one of the refusals stands in it, and 1 whatever else it says. */
export function publishedVerdict(reply: string | null): 0 | 1 {
  return reply === null || publishedMatch(refusals, reply) ? 0 : 1;
}
