/** Advantages of whole samples from the scores of their group: the samples of one question. */
import { CredenceError } from "../errors.js";

/** Indices of the samples of each group, in the order they stand. */
function grouped(groups: ArrayLike<number | string>, scores: ArrayLike<number>, method: string): number[][] {
  if (groups.length !== scores.length)
    throw new CredenceError("BAD_INPUT", `${method}: ${groups.length} groups and ${scores.length} scores`);
  const members = new Map<number | string, number[]>();
  for (let i = 0; i < scores.length; i++) {
    if (!Number.isFinite(scores[i]))
      throw new CredenceError("BAD_INPUT", `${method}: score ${i} is ${scores[i]}; expected a finite number`);
    const group = members.get(groups[i]!);
    if (group) group.push(i);
    else members.set(groups[i]!, [i]);
  }
  for (const [group, { length }] of members)
    if (length < 2)
      throw new CredenceError(
        "USAGE",
        `${method}: question ${group} has one sample, and nothing to compare it with. Take 2 or more samples a question`,
      );
  return [...members.values()];
}

const meanOf = (scores: ArrayLike<number>, members: readonly number[]): number =>
  members.reduce((sum, i) => sum + scores[i]!, 0) / members.length;

/**
 * Leave-one-out: a sample's score less the mean of the others of its group (Kool et al. 2019; RLOO, Ahmadian et al. 2024).
 *
 * @param groups which group each score belongs to
 * @returns in the order of the scores; each group's sum is 0
 */
export function rlooAdvantages(groups: ArrayLike<number | string>, scores: ArrayLike<number>): Float64Array {
  const out = new Float64Array(scores.length);
  for (const members of grouped(groups, scores, "RLOO")) {
    const mean = meanOf(scores, members);
    for (const i of members) out[i] = ((scores[i]! - mean) * members.length) / (members.length - 1);
  }
  return out;
}

export interface GrpoOptions {
  /**
   * What the difference from the group's mean is divided by: the "group"'s deviation (GRPO, Shao et al. 2024), the "batch"'s
   * (of all scores), or nothing (Dr. GRPO, Liu et al. 2025). Default "group".
   */
  scale?: "group" | "batch" | "none";
  /** Added to the deviation, which is unbiased; default 1e-4. A group of equal scores has advantages of 0. */
  epsilon?: number;
}

/** A sample's score less its group's mean, in units of a deviation. */
export function grpoAdvantages(
  groups: ArrayLike<number | string>,
  scores: ArrayLike<number>,
  { scale = "group", epsilon = 1e-4 }: GrpoOptions = {},
): Float64Array {
  const out = new Float64Array(scores.length);
  const deviationOf = (members: readonly number[]): number => {
    const mean = meanOf(scores, members);
    return Math.sqrt(members.reduce((sum, i) => sum + (scores[i]! - mean) ** 2, 0) / (members.length - 1));
  };
  const all = grouped(groups, scores, "GRPO");
  const batch = scale === "batch" ? deviationOf(Array.from(out.keys())) : 0;
  for (const members of all) {
    // Equal scores may differ from their mean by a rounding, which says nothing.
    if (members.every((i) => scores[i] === scores[members[0]!])) continue;
    const mean = meanOf(scores, members);
    const unit = scale === "none" ? 1 : (scale === "batch" ? batch : deviationOf(members)) + epsilon;
    for (const i of members) out[i] = (scores[i]! - mean) / unit;
  }
  return out;
}
