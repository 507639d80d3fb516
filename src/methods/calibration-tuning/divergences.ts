/**
 * How far an adapted model's next-token distribution p is from the one q that it is held at, and the losses over a closed set
 * of tokens that say whether an answer is right. The engine computes the same divergences itself where q is the base
 * (`DivergenceKind`); here q is anything.
 */
import { CredenceError } from "../../errors.js";
import type { DivergenceKind } from "../../native.js";

/** The published names. Both Kullback-Leibler divergences are named from the reference's point of view there. */
export const divergenceNames: Readonly<Record<string, DivergenceKind>> = {
  jsd: "jsd",
  reverse_kl: "kl",
  forward_kl: "reverse-kl",
};

/** A loss, and its derivative by each log-probability that it was given. */
export interface LossOfLogprobs {
  loss: number;
  gradient: Float32Array;
}

/**
 * The divergence in nats: sum p log(p/q) ("kl"), sum q log(q/p) ("reverse-kl"), or the mean of both's distance from their
 * mean m (Jensen-Shannon, "jsd"). Its derivatives by log p_i are p_i (log(p_i/q_i) + 1), -q_i and p_i log(p_i/m_i) / 2.
 *
 * @param logP log-probabilities over the same tokens as `logQ`
 */
export function divergenceOf(kind: DivergenceKind, logP: ArrayLike<number>, logQ: ArrayLike<number>): LossOfLogprobs {
  let loss = 0;
  const gradient = new Float32Array(logP.length);
  for (let i = 0; i < logP.length; i++) {
    const [a, b] = [logP[i]!, logQ[i]!];
    const [p, q] = [Math.exp(a), Math.exp(b)];
    if (kind === "kl") {
      if (p > 0) loss += p * (a - b);
      gradient[i] = p > 0 ? p * (a - b + 1) : 0;
    } else if (kind === "reverse-kl") {
      if (q > 0) loss += q * (b - a);
      gradient[i] = -q;
    } else {
      const m = Math.log((p + q) / 2);
      if (p > 0) loss += (p * (a - m)) / 2;
      if (q > 0) loss += (q * (b - m)) / 2;
      gradient[i] = p > 0 ? (p * (a - m)) / 2 : 0;
    }
  }
  return { loss, gradient };
}

/** What is said of an answer by the tokens that a model may choose between. */
export interface ClosedSetLoss {
  name: string;
  /** @param label 1: the answer is right */
  of(logprobs: ArrayLike<number>, label: 0 | 1): LossOfLogprobs;
}

/** Two tokens, for wrong and right: the negative log-likelihood of the one that is true. */
export const crossEntropy: ClosedSetLoss = {
  name: "cross-entropy",
  of(logprobs, label) {
    const gradient = new Float32Array(logprobs.length);
    gradient[label] = -1;
    return { loss: -logprobs[label]!, gradient };
  },
};

/**
 * ConfTuner's tokenised Brier loss (Li et al. 2025, arXiv 2508.18847): the tokens stand for confidences, and the loss is the
 * mean Brier score of the confidence that would be sampled, sum p_i (c_i - y)^2. It is proper: it is least where all mass is on
 * the confidence nearest to the probability that the answer is right.
 *
 * @param confidences of each candidate, in [0, 1]
 */
export function tokenizedBrier(confidences: readonly number[]): ClosedSetLoss {
  const wrong = confidences.find((confidence) => !(confidence >= 0 && confidence <= 1));
  if (confidences.length < 2 || wrong !== undefined)
    throw new CredenceError(
      "BAD_OPTION",
      wrong === undefined ? "two confidences at least are needed" : `a confidence of ${wrong}; expected 0 to 1`,
    );
  return {
    name: "tokenized-brier",
    of(logprobs, label) {
      let loss = 0;
      const gradient = Float32Array.from(confidences, (confidence, i) => {
        const term = Math.exp(logprobs[i]!) * (confidence - label) ** 2;
        loss += term;
        return term;
      });
      return { loss, gradient };
    },
  };
}
