/** Mean and deviation of all scores so far, to bring rewards to one scale. */
import { CredenceError } from "../errors.js";

export interface MomentsState {
  count: number;
  mean: number;
  variance: number;
}

/** 2^-23, float32's epsilon: TRL adds its tensor type's to the deviation. */
const epsilon = 2 ** -23;

/**
 * Running moments as TRL 0.7.10 keeps them: batches are merged by their counts (Chan et al. 1979), the count begins at
 * 1e-24 with mean 0 and variance 1, the deviation is the unbiased one. Here in double, there in float32. Of a single score
 * theirs is not a number; here it stays 1 until there are two.
 */
export class RunningMoments {
  private count = 1e-24;
  private average = 0;
  private variance = 1;

  get mean(): number {
    return this.average;
  }

  /** Unbiased standard deviation; 1 before there are two scores. */
  get deviation(): number {
    return this.count > 1.5 ? Math.sqrt((this.variance * this.count) / (this.count - 1)) : 1;
  }

  /** What `scale` divides by. */
  get unit(): number {
    return this.deviation + epsilon;
  }

  /** @throws CredenceError "BAD_INPUT" for a score that is no finite number, before any is taken in */
  update(scores: ArrayLike<number>): void {
    const n = scores.length;
    if (n === 0) return;
    let mean = 0;
    for (let i = 0; i < n; i++) {
      if (!Number.isFinite(scores[i]))
        throw new CredenceError("BAD_INPUT", `score ${i} of the batch is ${scores[i]}; expected a finite number`);
      mean += scores[i]! / n;
    }
    let squares = 0;
    for (let i = 0; i < n; i++) squares += (scores[i]! - mean) ** 2;
    const total = this.count + n;
    const delta = mean - this.average;
    squares += this.variance * this.count + (delta * delta * this.count * n) / total;
    this.average += (delta * n) / total;
    this.variance = squares / total;
    this.count = total;
  }

  /**
   * Scores in units of the deviation so far.
   *
   * @param center takes the mean off first (TRL's `use_score_norm`); default true
   * @param clip bounds the result to plus or minus this; default none
   */
  scale(scores: ArrayLike<number>, { center = true, clip = Number.POSITIVE_INFINITY } = {}): Float64Array {
    const { unit } = this;
    const from = center ? this.average : 0;
    return Float64Array.from(scores, (score) => Math.min(clip, Math.max(-clip, (score - from) / unit)));
  }

  /** For a checkpoint. */
  state(): MomentsState {
    return { count: this.count, mean: this.average, variance: this.variance };
  }

  restore({ count, mean, variance }: MomentsState): void {
    if (!(count > 0 && Number.isFinite(mean) && variance >= 0))
      throw new CredenceError(
        "BAD_CHECKPOINT",
        `running moments of count ${count}, mean ${mean}, variance ${variance}; expected a count above 0 and finite numbers`,
      );
    this.count = count;
    this.average = mean;
    this.variance = variance;
  }
}
