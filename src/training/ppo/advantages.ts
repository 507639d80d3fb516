/** From scores to what a token is worth: the penalty for leaving the reference, then GAE or a comparison within the prompt. */
import { grpoAdvantages, rlooAdvantages } from "../../rewards/advantages.js";
import type { PpoSettings } from "./settings.js";

/** One completion as the advantage step sees it; arrays have one number a token. */
export interface Episode {
  logprobs: Float32Array;
  reference: Float32Array;
  values?: Float32Array;
  score: number;
  group: number;
  mask?: Uint8Array;
}

export interface Advantages {
  /** A token's own; 0 where it is not trained. */
  advantages: Float32Array[];
  returns: Float32Array[];
  /** Mean estimate a trained token, and a completion's sum of log-ratios in the mean. */
  kl: number;
  klOfCompletion: number;
}

function estimate(ratio: number, estimator: PpoSettings["kl"]["estimator"]): number {
  if (estimator === "k1") return ratio;
  return estimator === "k2" ? ratio ** 2 / 2 : Math.expm1(-ratio) + ratio;
}

export function advantagesOf(
  episodes: Episode[],
  { kl, advantage: { gamma, lambda, whiten, estimator } }: PpoSettings,
  coefficient: number,
): Advantages {
  const out: Advantages = { advantages: [], returns: [], kl: 0, klOfCompletion: 0 };
  let trained = 0;
  const compared = comparedScores(episodes, estimator);
  for (const [i, episode] of episodes.entries()) {
    const { logprobs, reference, values, mask } = episode;
    const length = logprobs.length;
    const on = (t: number) => mask?.[t] !== 0;
    let last = length - 1;
    while (last > 0 && !on(last)) last -= 1;
    const advantage = new Float32Array(length);
    const returns = new Float32Array(length);
    let [next, running] = [0, 0];
    const score = compared[i]!;
    for (let t = length - 1; t >= 0; t--) {
      const ratio = logprobs[t]! - reference[t]!;
      if (!on(t)) continue;
      let penalty = estimate(ratio, kl.estimator);
      if (kl.clamp && penalty < 0) penalty = 0;
      out.kl += penalty;
      out.klOfCompletion += ratio;
      trained += 1;
      const reward = -coefficient * penalty + (t === last ? score : 0);
      const value = estimator === "gae" ? values![t]! : 0;
      running = reward + gamma * next - value + gamma * (estimator === "gae" ? lambda : 1) * running;
      advantage[t] = running;
      returns[t] = running + value;
      next = value;
    }
    out.advantages.push(advantage);
    out.returns.push(returns);
  }
  out.kl /= trained;
  out.klOfCompletion /= episodes.length;
  if (whiten && estimator === "gae") whitened(out.advantages, episodes);
  return out;
}

function comparedScores(episodes: Episode[], estimator: PpoSettings["advantage"]["estimator"]): ArrayLike<number> {
  const scores = episodes.map(({ score }) => score);
  if (estimator === "gae") return scores;
  const groups = episodes.map(({ group }) => group);
  return estimator === "rloo" ? rlooAdvantages(groups, scores) : grpoAdvantages(groups, scores);
}

function whitened(advantages: Float32Array[], episodes: Episode[]): void {
  let [n, sum, square] = [0, 0, 0];
  const each = (body: (a: Float32Array, t: number) => void) =>
    advantages.forEach((a, i) => {
      for (let t = 0; t < a.length; t++) if (!episodes[i]!.mask || episodes[i]!.mask![t]) body(a, t);
    });
  each((a, t) => {
    n += 1;
    sum += a[t]!;
  });
  const mean = sum / n;
  each((a, t) => {
    square += (a[t]! - mean) ** 2;
  });
  const scale = 1 / Math.sqrt(square / Math.max(1, n - 1) + 1e-8);
  each((a, t) => {
    a[t] = (a[t]! - mean) * scale;
  });
}
