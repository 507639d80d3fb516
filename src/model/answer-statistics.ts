/** What the log-probabilities of an answer's tokens say by themselves, as numbers a card can weigh. */

/** In the order of `answerStatistics`. */
export const answerStatisticNames = ["sum", "mean", "least", "leastThree", "first", "last", "tokens"] as const;

export type AnswerStatistic = (typeof answerStatisticNames)[number];

/**
 * Sum, mean, least, mean of the three least, first, last, and how many.
 *
 * @param logprobs natural logarithms, the stop token's last when one was chosen; all statistics of none are 0
 */
export function answerStatistics(logprobs: ArrayLike<number>): Float64Array {
  const values = Array.from(logprobs);
  if (values.length === 0) return new Float64Array(answerStatisticNames.length);
  const sum = values.reduce((total, value) => total + value, 0);
  const least = values.toSorted((a, b) => a - b).slice(0, 3);
  const leastThree = least.reduce((total, value) => total + value, 0) / least.length;
  return Float64Array.of(sum, sum / values.length, least[0]!, leastThree, values[0]!, values.at(-1)!, values.length);
}
