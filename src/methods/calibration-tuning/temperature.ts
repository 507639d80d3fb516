/**
 * One temperature behind logits: softmax(logits / exp(log_temperature)) as likely as can be (Guo et al. 2017, section 4.2). Of
 * a query's or a classifier's two logits and of dumped ones it is solved for; of a whole vocabulary's, pass by pass. The
 * published code moves it by AdamW (A9-15), which at an adapter's rate hardly does.
 */
import { CredenceError } from "../../errors.js";
import { cosineOf, plannedSteps, type StepSettings } from "./training.js";

export interface Temperature {
  /** As published: the temperature is exp of it. */
  logTemperature: number;
  temperature: number;
  /** Mean negative log-likelihood (nats) at a temperature of 1, and at this one. */
  before: number;
  after: number;
  /** Absent where one is likeliest; else why it is only the largest or smallest that is taken. */
  diverged?: "logits tell nothing" | "all are right";
}

/** The temperatures that are taken at most and at least. */
export const temperatureBounds = { least: 1e-2, most: 1e2 } as const;

/** Logits [rows, classes], row-major. */
export interface LabelledLogits {
  logits: ArrayLike<number>;
  classes: number;
  labels: readonly number[];
}

/** The summed negative log-likelihood with logits multiplied by `scale` = 1 / T, and its derivative by it. */
function likelihood({ logits, classes, labels }: LabelledLogits, scale: number, rows?: readonly number[]) {
  let [loss, slope] = [0, 0];
  const one = (row: number) => {
    const at = row * classes;
    let largest = Number.NEGATIVE_INFINITY;
    for (let k = 0; k < classes; k++) largest = Math.max(largest, logits[at + k]!);
    let [sum, mean] = [0, 0];
    for (let k = 0; k < classes; k++) {
      const weight = Math.exp(scale * (logits[at + k]! - largest));
      sum += weight;
      mean += weight * (logits[at + k]! - largest);
    }
    const own = logits[at + labels[row]!]! - largest;
    loss += Math.log(sum) - scale * own;
    slope += mean / sum - own;
  };
  if (rows) rows.forEach(one);
  else for (let row = 0; row < labels.length; row++) one(row);
  return { loss, slope };
}

function check({ logits, classes, labels }: LabelledLogits): void {
  if (labels.length === 0 || logits.length !== classes * labels.length)
    throw new CredenceError(
      "BAD_INPUT",
      `a temperature needs logits of ${classes} classes for each label; there are ${logits.length} and ${labels.length}`,
    );
  const wrong = labels.find((label) => !(Number.isInteger(label) && label >= 0 && label < classes));
  if (wrong !== undefined) throw new CredenceError("BAD_INPUT", `a label of ${wrong}; expected 0 to ${classes - 1}`);
  for (let i = 0; i < logits.length; i++)
    if (!Number.isFinite(logits[i]!)) throw new CredenceError("BAD_INPUT", `logit ${i + 1} is ${logits[i]}`);
}

/**
 * The likeliest temperature of a loss that is convex in 1 / T, as the negative log-likelihood is: its derivative is held at 0
 * by the Illinois form of the false position (Dowell & Jarratt 1971).
 *
 * @param at the loss with logits multiplied by `scale`, and its derivative by the scale
 */
async function likeliest(
  at: (scale: number) => Promise<{ loss: number; slope: number }> | { loss: number; slope: number },
  count: number,
): Promise<Temperature> {
  const { least, most } = temperatureBounds;
  const result = async (scale: number, diverged?: Temperature["diverged"]): Promise<Temperature> => ({
    logTemperature: 0 - Math.log(scale),
    temperature: 1 / scale,
    before: (await at(1)).loss / count,
    after: (await at(scale)).loss / count,
    ...(diverged ? { diverged } : {}),
  });
  let [low, high] = [1 / most, 1 / least];
  let [below, above] = [(await at(low)).slope, (await at(high)).slope];
  if (below >= 0) return result(low, "logits tell nothing");
  if (above <= 0) return result(high, "all are right");
  // In the logarithm of the scale the zero is where it was, and the bounds are as far from 1 on either side.
  let side = 0;
  [low, high] = [Math.log(low), Math.log(high)];
  for (let step = 0; step < 200 && high - low > 1e-12; step++) {
    const between = step % 3 === 2 ? (low + high) / 2 : (low * above - high * below) / (above - below);
    const { slope } = await at(Math.exp(between));
    if (slope === 0) return result(Math.exp(between));
    if (slope < 0) {
      [low, below] = [between, slope];
      if (side === -1) above /= 2;
      side = -1;
    } else {
      [high, above] = [between, slope];
      if (side === 1) below /= 2;
      side = 1;
    }
  }
  return result(Math.exp((low + high) / 2));
}

/**
 * The likeliest temperature of labelled logits. Where there is none (right and wrong are told apart without a mistake, or not
 * at all) the nearest bound is taken, and `diverged` says so: it stays positive.
 *
 * @throws CredenceError "BAD_INPUT"
 */
export function solveTemperature(data: LabelledLogits): Promise<Temperature> {
  check(data);
  return likeliest((scale) => likelihood(data, scale), data.labels.length);
}

/** What a pass tells of tokens whose logits are divided by a temperature, summed over them. */
export interface TokenSums {
  /** Log-probabilities, and entropies of the distributions that they are of, nats. */
  logprobs: number;
  entropy: number;
  tokens: number;
}

/**
 * The likeliest temperature of a language model's tokens, a pass over all of them at each step. With a = 1 / T the derivative
 * of a token's log-probability by a is (log p + H) / a.
 */
export async function solveTokenTemperature(pass: (temperature: number) => Promise<TokenSums>): Promise<Temperature> {
  const { tokens } = await pass(1);
  return likeliest(async (scale) => {
    const { logprobs, entropy } = await pass(1 / scale);
    return { loss: -logprobs, slope: -(logprobs + entropy) / scale };
  }, tokens);
}

/** The published way (A9-15): AdamW on log_temperature alone, from 0. */
export function learnTemperature(data: LabelledLogits, settings: StepSettings): Temperature {
  check(data);
  const rate = cosineOf(settings);
  let [value, m, v] = [0, 0, 0];
  const [beta1, beta2, epsilon] = [0.9, 0.999, 1e-8];
  for (const [i, rows] of plannedSteps(settings, data.labels.length).entries()) {
    const scale = Math.exp(-value);
    // d loss / d log T = -scale d loss / d scale, clipped by its norm at 1 as every gradient is.
    const slope = (-scale * likelihood(data, scale, rows).slope) / rows.length;
    const gradient = slope / Math.max(1, Math.abs(slope) + 1e-6);
    m = beta1 * m + (1 - beta1) * gradient;
    v = beta2 * v + (1 - beta2) * gradient * gradient;
    const step = i + 1;
    const [mean, square] = [m / (1 - beta1 ** step), v / (1 - beta2 ** step)];
    value -= rate(i) * ((settings.weightDecay ?? 0) * value + mean / (Math.sqrt(square) + epsilon));
  }
  const loss = (scale: number) => likelihood(data, scale).loss / data.labels.length;
  const scale = Math.exp(-value);
  return { logTemperature: value, temperature: 1 / scale, before: loss(1), after: loss(scale) };
}
