/** Several sampled answers as one: what the paper's baseline "CoT + Agg" does, and its repository does not have. */
import { CredenceError } from "../../errors.js";
import { norm } from "../../evaluation/match.js";

export interface StatedAnswer {
  answer: string;
  confidence: number;
}

/**
 * The answer that weighs most, of equal ones the earliest, and its share of all weights (Xiong et al. 2024, arXiv
 * 2306.13063). Answers are the same if their words are (`norm`).
 *
 * @param samples one that states no confidence has null
 * @param by "confidence": an answer weighs the sum of the confidences stated with it (there Avg-Conf), one without nothing.
 *   "count": how many samples give it (there Consistency)
 * @throws CredenceError "BAD_INPUT" for no samples
 */
export function aggregated(
  samples: readonly { answer: string; confidence: number | null }[],
  by: "confidence" | "count",
): StatedAnswer {
  const groups = new Map<string, StatedAnswer>();
  let all = 0;
  for (const { answer, confidence } of samples) {
    const weight = by === "count" ? 1 : (confidence ?? 0);
    const words = norm(answer).join(" ");
    const group = groups.get(words) ?? { answer, confidence: 0 };
    group.confidence += weight;
    groups.set(words, group);
    all += weight;
  }
  const [first, ...others] = groups.values();
  if (!first) throw new CredenceError("BAD_INPUT", "there are no sampled answers to aggregate");
  const best = others.reduce((most, one) => (one.confidence > most.confidence ? one : most), first);
  return { answer: best.answer, confidence: all > 0 ? best.confidence / all : 0 };
}
