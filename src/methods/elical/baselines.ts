/** What the answer itself, or asking again, already tells: the rows that a trained confidence has to beat. */
import { applyPlatt, type FitLogistic, fitPlatt, likeliestTemperature } from "../../evaluation/calibrators.js";
import { rougeL } from "../../evaluation/rouge.js";
import { sigmoid } from "../../model/calibrator.js";

const sum = (values: ArrayLike<number>) => Array.from(values).reduce((total, value) => total + value, 0);

/** Probability of the whole greedy answer, the token that ended it included. */
export function sequenceProbability(logprobs: ArrayLike<number>): number {
  return Math.min(1, Math.exp(sum(logprobs)));
}

/** Geometric mean of its tokens' probabilities. */
export function meanTokenProbability(logprobs: ArrayLike<number>): number {
  return Math.min(1, Math.exp(sum(logprobs) / Math.max(1, logprobs.length)));
}

/** Mean agreement of the samples with the greedy answer, in [0, 1]; 0 without samples. */
export function selfConsistency(agreements: ArrayLike<number>): number {
  return agreements.length === 0 ? 0 : sum(agreements) / agreements.length;
}

/** Mean ROUGE-L F1 of the samples with the given answer, in [0, 1]; 0 without samples. */
export function lexicalConsistency(given: { text: string }, responses: readonly { text: string }[]): number {
  return selfConsistency(responses.map(({ text }) => rougeL(text, given.text)));
}

/** Temperatures between which one is looked for: beyond, the labels say "the flatter the better", or "the sharper". */
const [coldest, hottest] = [1e-2, 1e2];

/**
 * Confidences sigmoid(logit / T) with the temperature that the labelled rows make likeliest (Shen et al. 2024 predict it,
 * here it is fitted). Where they know none, the last one looked at stands: the order of the answers stays.
 */
export function thermometer(
  logits: ArrayLike<number>,
  correct: ArrayLike<number>,
  labels: readonly number[],
  test: readonly number[],
): { temperature: number; bound: boolean; confidences: Float64Array } {
  const free = likeliestTemperature(
    Float64Array.from(labels, (row) => logits[row]!),
    Uint8Array.from(labels, (row) => correct[row]!),
  );
  const temperature = Math.min(hottest, Math.max(coldest, free));
  const confidences = Float64Array.from(test, (row) => sigmoid(logits[row]! / temperature));
  return { temperature, bound: temperature !== free, confidences };
}

/** Self-consistency with a slope and an offset fitted to labelled rows; returns the test rows' probabilities. */
export async function selfConsistencyPlatt(
  fit: FitLogistic,
  agreement: ArrayLike<number>,
  correct: ArrayLike<number>,
  labels: readonly number[],
  test: readonly number[],
): Promise<Float64Array> {
  const scores = Float64Array.from(labels, (row) => agreement[row]!);
  const platt = await fitPlatt(
    fit,
    scores,
    Float64Array.from(labels, (row) => correct[row]!),
  );
  return applyPlatt(
    platt,
    Float64Array.from(test, (row) => agreement[row]!),
  );
}

/** Share of right answers among labelled rows of the same kind, one more row at the overall share added to each kind. */
export function rateOfKind(
  kinds: readonly (string | undefined)[],
  correct: ArrayLike<number>,
  labels: readonly number[],
  test: readonly number[],
): Float64Array {
  const share = labels.reduce((total, row) => total + correct[row]!, 0) / Math.max(1, labels.length);
  const tally = new Map<string | undefined, { right: number; n: number }>();
  for (const row of labels) {
    const { right, n } = tally.get(kinds[row]) ?? { right: 0, n: 0 };
    tally.set(kinds[row], { right: right + correct[row]!, n: n + 1 });
  }
  return Float64Array.from(test, (row) => {
    const { right, n } = tally.get(kinds[row]) ?? { right: 0, n: 0 };
    return (right + share) / (n + 1);
  });
}
