/**
 * Rewards that need a batch: what one sample earns depends on its neighbours, or on what earlier batches scored. They take
 * a quality for each sample (a reward model's score, or any other reward) and its stated confidence.
 */
import { CredenceError } from "../errors.js";
import type { Properness } from "./scoring-rules.js";

export interface BatchTerm {
  readonly name: string;
  readonly properness: Properness;
  /** Whether samples that state no confidence may be among them, as NaN. */
  readonly takesUnstated?: boolean;
  /**
   * @param qualities r, one a sample
   * @param confidences c from 0 to 1, in the same order
   * @returns what each sample earns in place of r
   */
  apply(qualities: ArrayLike<number>, confidences: ArrayLike<number>): Float64Array;
  /** What a checkpoint keeps; null where nothing is remembered from batch to batch. */
  state(): BatchTermState | null;
  restore(state: BatchTermState | null): void;
}

export interface BatchTermState {
  average: number;
}

const sigmoid = (x: number): number => 1 / (1 + Math.exp(-x));

function checked(name: string, qualities: ArrayLike<number>, confidences: ArrayLike<number>): void {
  if (qualities.length !== confidences.length)
    throw new CredenceError(
      "BAD_INPUT",
      `${name}: ${qualities.length} qualities and ${confidences.length} confidences; expected as many of each`,
    );
  for (let i = 0; i < qualities.length; i++)
    if (!Number.isFinite(qualities[i]) || !Number.isFinite(confidences[i]))
      throw new CredenceError(
        "BAD_INPUT",
        `${name}: sample ${i} of the batch has quality ${qualities[i]} and confidence ${confidences[i]}; expected two finite numbers`,
      );
}

// ---- CONQORD

export interface OrderOptions {
  /**
   * "difference": sum over j of (r_i - r_j)(c_i - c_j), the published term. "sign": sum of sign(r_i - r_j)(c_i - c_j), an
   * older one that no scale of r changes.
   */
  form?: "difference" | "sign";
  /**
   * "sum" as published, which grows with the batch. "mean": over the other samples of the batch. "normalised": r and c are
   * first made to have mean 0 and variance 1 in the batch, and the mean is over the whole of it, so that neither scale nor
   * batch size matters; 0 where all r or all c are equal. Default "sum".
   */
  reduce?: "sum" | "mean" | "normalised";
}

/**
 * CONQORD's order-preserving term R_A, one number a sample: confidences in the order of qualities earn, others cost (Tao et
 * al. 2024, arXiv 2404.17287). The sum of products is B ((r_i - mean r)(c_i - mean c) + cov(r, c)), so that a batch of B
 * takes time B; the form with signs sorts.
 */
export function orderPreserving(
  qualities: ArrayLike<number>,
  confidences: ArrayLike<number>,
  { form = "difference", reduce = "sum" }: OrderOptions = {},
): Float64Array {
  checked("order-preserving", qualities, confidences);
  const n = qualities.length;
  const prepare = reduce === "normalised" ? standardised : (values: ArrayLike<number>) => Float64Array.from(values);
  const r = form === "sign" ? Float64Array.from(qualities) : prepare(qualities);
  const c = prepare(confidences);
  const out = form === "sign" ? signed(r, c) : products(r, c);
  const divisor = reduce === "sum" ? 1 : reduce === "mean" ? Math.max(1, n - 1) : Math.max(1, n);
  return divisor === 1 ? out : out.map((value) => value / divisor);
}

function products(r: Float64Array, c: Float64Array): Float64Array {
  const n = r.length;
  const dr = centred(r);
  const dc = centred(c);
  let covariance = 0;
  for (let i = 0; i < n; i++) covariance += (dr[i]! * dc[i]!) / n;
  return dr.map((d, i) => n * (d * dc[i]! + covariance));
}

/** In the order of r, those below have all been summed when those of one r are read, and those above are the rest. */
function signed(r: Float64Array, c: Float64Array): Float64Array {
  const order = Array.from(r.keys()).sort((a, b) => r[a]! - r[b]!);
  const total = c.reduce((sum, value) => sum + value, 0);
  const out = new Float64Array(r.length);
  let below = 0;
  let sumBelow = 0;
  for (let from = 0; from < order.length; ) {
    let to = from;
    let sumSame = 0;
    for (; to < order.length && r[order[to]!] === r[order[from]!]; to++) sumSame += c[order[to]!]!;
    const above = order.length - to;
    const sumAbove = total - sumBelow - sumSame;
    for (let k = from; k < to; k++) out[order[k]!] = (below - above) * c[order[k]!]! - (sumBelow - sumAbove);
    below = to;
    sumBelow += sumSame;
    from = to;
  }
  return out;
}

function centred(values: Float64Array): Float64Array {
  const mean = values.reduce((sum, value) => sum + value, 0) / values.length;
  return values.map((value) => value - mean);
}

function standardised(values: ArrayLike<number>): Float64Array {
  const all = Float64Array.from(values);
  // Equal numbers may differ from their mean by a rounding, which is no order.
  if (all.every((value) => value === all[0])) return all.fill(0);
  const d = centred(all);
  const deviation = Math.sqrt(d.reduce((sum, value) => sum + value * value, 0) / d.length);
  return d.map((value) => value / deviation);
}

/**
 * The same over a batch that ranks share: what each rank holds is put one behind the other, and each rank gets its own part.
 */
export function orderPreservingGathered(
  ranks: readonly { qualities: ArrayLike<number>; confidences: ArrayLike<number> }[],
  options: OrderOptions = {},
): Float64Array[] {
  for (const { qualities, confidences } of ranks) checked("order-preserving", qualities, confidences);
  const all = orderPreserving(
    ranks.flatMap(({ qualities }) => Array.from(qualities)),
    ranks.flatMap(({ confidences }) => Array.from(confidences)),
    options,
  );
  let at = 0;
  return ranks.map(({ qualities }) => {
    const own = all.slice(at, at + qualities.length);
    at += qualities.length;
    return own;
  });
}

export interface ConqordOptions extends Omit<OrderOptions, "form"> {
  /**
   * "difference" and "sign": r + alpha R_A. Three forms of one sample alone that the authors tried: "absolute" r - alpha
   * |sigmoid(r) - c|, "exponential" r exp(-|sigmoid(r) - c|), "product" r (c - 0.5). Default "difference".
   */
  form?: "difference" | "sign" | "absolute" | "exponential" | "product";
  /** Weight of the term; 0.4 in the paper and here, 0.5 in the code's command line. "exponential" and "product" have none. */
  alpha?: number;
  /** The sum is clamped to plus or minus this; Infinity for not at all, the default. The code has 5. */
  clamp?: number;
}

/**
 * CONQORD's reward. Improper in every form but "absolute" and "exponential", which pay for c = sigmoid(r) and so for what
 * the reward model thinks, not for what is true: those are no proper rules for it either.
 *
 * `apply` refuses a batch of one sample where the term compares samples and alpha is not 0, since it would always be 0.
 */
export function conqordTerm(options: ConqordOptions = {}): BatchTerm {
  const { form = "difference", alpha = 0.4, reduce = "sum", clamp = Number.POSITIVE_INFINITY } = options;
  if (!Number.isFinite(alpha)) throw new CredenceError("USAGE", `alpha ${alpha}; expected a number`);
  if (!(clamp > 0)) throw new CredenceError("USAGE", `clamp ${clamp}; expected a number above 0`);
  const earned = (r: ArrayLike<number>, c: ArrayLike<number>): Float64Array => {
    const own = (f: (r: number, c: number) => number) => Float64Array.from(r, (value, i) => f(value, c[i]!));
    if (form === "absolute") return own((r, c) => r - alpha * Math.abs(sigmoid(r) - c));
    if (form === "exponential") return own((r, c) => r * Math.exp(-Math.abs(sigmoid(r) - c)));
    if (form === "product") return own((r, c) => r * (c - 0.5));
    if (r.length === 1 && alpha !== 0)
      throw new CredenceError(
        "USAGE",
        "conqord: a batch of one sample has no order, and its term would always be 0. Take batches of 2 or more, gather over ranks, or set alpha to 0",
      );
    const term = orderPreserving(r, c, { form, reduce });
    return term.map((value, i) => r[i]! + alpha * value);
  };
  return {
    name: `conqord-${form}`,
    properness: "improper",
    apply(qualities, confidences) {
      checked("conqord", qualities, confidences);
      return earned(qualities, confidences).map((value) => Math.min(clamp, Math.max(-clamp, value)));
    },
    state: () => null,
    restore: () => {},
  };
}

/**
 * A term whose batch is cut into blocks, each compared within itself: several small batches that one optimiser step learns from.
 *
 * @param size samples of a block; the last has what is left
 */
export function inBlocks(term: BatchTerm, size: number): BatchTerm {
  if (!Number.isInteger(size) || size < 1)
    throw new CredenceError("USAGE", `${term.name}: blocks of ${size}; expected a whole number from 1`);
  return {
    ...term,
    apply(qualities, confidences) {
      checked(term.name, qualities, confidences);
      const out = new Float64Array(qualities.length);
      for (let from = 0; from < out.length; from += size) {
        const block = (values: ArrayLike<number>) => Array.from(values).slice(from, from + size);
        out.set(term.apply(block(qualities), block(confidences)), from);
      }
      return out;
    },
  };
}

/**
 * A term over the samples that state a confidence. One that states none keeps what it has, and no other is compared with it: a
 * confidence put in its place would pay or cost the others for theirs.
 */
export function amongStated(term: BatchTerm): BatchTerm {
  return {
    ...term,
    takesUnstated: true,
    apply(qualities, confidences) {
      const out = Float64Array.from(qualities);
      const stated = Array.from(confidences, (_, i) => i).filter((i) => !Number.isNaN(confidences[i]));
      // One alone is compared with nothing.
      if (stated.length < 2) return out;
      const of = (values: ArrayLike<number>) => stated.map((i) => values[i]!);
      const earned = term.apply(of(qualities), of(confidences));
      stated.forEach((i, place) => {
        out[i] = earned[place]!;
      });
      return out;
    },
  };
}

// ---- PPO-C

export interface PpoCOptions {
  /** Weight of the adjustment; 0.5, as in the code's command line. The published script for Llama 3 has 2. */
  weight?: number;
  /** Share of the newest batch's mean in the moving average; default 0.1. */
  rate?: number;
  /**
   * "difference": r + w (r - average)(c - 0.5), the published script's. "threshold": r + w |r| (c - 0.5) where r is at
   * least the average, r - w |r| (c - 0.5) below it, the code's default. Default "difference".
   */
  adjust?: "difference" | "threshold";
  /** Scores are clamped to plus or minus this before anything else; default 10. */
  clamp?: number;
  /** The average before the first batch: the mean of the reward model's scores. Default 0. */
  average?: number;
}

/**
 * PPO-C's calibrated reward (Leng et al. 2024, arXiv 2410.09724): confidence earns where the score is above the moving
 * average of scores, which is updated by the batch first, and costs below it. Linear in c and so improper: it pays most at
 * 0 or 1.
 */
export function ppoCTerm(options: PpoCOptions = {}): BatchTerm {
  const { weight = 0.5, rate = 0.1, adjust = "difference", clamp = 10 } = options;
  let { average = 0 } = options;
  if (!(rate > 0 && rate <= 1)) throw new CredenceError("USAGE", `ppo-c: rate ${rate}; expected above 0, at most 1`);
  if (!(clamp > 0)) throw new CredenceError("USAGE", `ppo-c: clamp ${clamp}; expected a number above 0`);
  if (!Number.isFinite(weight) || !Number.isFinite(average))
    throw new CredenceError("USAGE", `ppo-c: weight ${weight}, average ${average}; expected numbers`);
  return {
    name: `ppo-c-${adjust}`,
    properness: "improper",
    apply(qualities, confidences) {
      checked("ppo-c", qualities, confidences);
      if (qualities.length === 0) return new Float64Array(0);
      const r = Float64Array.from(qualities, (value) => Math.min(clamp, Math.max(-clamp, value)));
      average = rate * (r.reduce((sum, value) => sum + value, 0) / r.length) + (1 - rate) * average;
      return r.map((value, i) => {
        const lean = confidences[i]! - 0.5;
        if (adjust === "difference") return value + weight * (value - average) * lean;
        return value + (value >= average ? 1 : -1) * weight * Math.abs(value) * lean;
      });
    },
    state: () => ({ average }),
    restore(state) {
      if (state === null || !Number.isFinite(state.average))
        throw new CredenceError("BAD_CHECKPOINT", "ppo-c: the checkpoint has no moving average of scores");
      average = state.average;
    },
  };
}
