/** ROUGE-L (Lin 2004): how much of two texts is the same words in the same order, words between them allowed. */

/** Runs of letters and digits, lower case. */
const words = (text: string): string[] => text.toLowerCase().match(/[\p{L}\p{N}\p{M}]+/gu) ?? [];

/** Length of the longest common subsequence. */
function common(a: readonly string[], b: readonly string[]): number {
  let above = new Int32Array(b.length + 1);
  for (const word of a) {
    const row = new Int32Array(b.length + 1);
    for (let j = 0; j < b.length; j++) row[j + 1] = word === b[j] ? above[j]! + 1 : Math.max(above[j + 1]!, row[j]!);
    above = row;
  }
  return above[b.length]!;
}

/** F1 of two texts, in [0, 1]: 2 LCS / (words of both). Two texts without words are the same; one without is not. */
export function rougeL(first: string, second: string): number {
  const a = words(first);
  const b = words(second);
  if (a.length + b.length === 0) return 1;
  return (2 * common(a, b)) / (a.length + b.length);
}
