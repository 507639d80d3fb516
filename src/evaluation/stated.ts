/** The score from 0 to 1 that a reply states. */

/** As published: the last of 0, 1, 1.0 or a decimal below 1, on word boundaries; 0 where there is none. */
export function publishedScore(reply: string): number {
  const last = [...reply.matchAll(/\b(?:0?\.\d+|1(?:\.0+)?|0)\b/g)].at(-1);
  return last ? Number(last[0]) : 0;
}

/**
 * The last number of the reply that is a score by itself: no part of another number ("1.5", "10", "-0.5"), of a share
 * ("8/10") or of a percentage; null where there is none.
 */
export function statedScore(reply: string): number | null {
  const numbers = [...reply.matchAll(/(?<![\d.,/-])(?:0?\.\d+|0|1(?:\.0+)?)(?![\d/]|[.,]\d|\s?%|\s?\/\s?\d)/g)];
  const last = numbers.at(-1);
  return last ? Number(last[0]) : null;
}
