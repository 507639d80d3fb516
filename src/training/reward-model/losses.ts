/**
 * Losses on preferences, each of one pair or one row, with its derivatives: on scalar scores (reward models) and on
 * log-probabilities (DPO). Everything here is in double.
 */

/** -log sigmoid(x), without overflow: log(1 + e^-x). */
export const softplusMinus = (x: number): number => Math.max(-x, 0) + Math.log1p(Math.exp(-Math.abs(x)));

/** sigmoid(x) - 1, the derivative of -log sigmoid(x). */
const slope = (x: number): number => (x >= 0 ? -Math.exp(-x) / (1 + Math.exp(-x)) : -1 / (1 + Math.exp(x)));

const sigmoid = (x: number): number => 1 + slope(x);

/** A loss with its derivatives with respect to the scores of the two sides. */
export interface PairLoss<Side> {
  loss: number;
  chosen: Side;
  rejected: Side;
}

/**
 * What the tokens of the longer side are held against once the shorter side has ended: "held", the shorter side's last
 * score, which is what that side is worth; "cut", nothing, the overlap alone is compared; "padded", the scores that the
 * shorter side has at PAD tokens after its end, as published.
 */
export type Tail = "held" | "cut" | "padded";

/** Scores at every token of two rows; only "padded" reads beyond a row's end. */
export interface TokenScores {
  chosen: ArrayLike<number>;
  rejected: ArrayLike<number>;
  /** Tokens of each row without PAD. */
  chosenLength: number;
  rejectedLength: number;
  /** The first token at which the rows differ; where one row begins the other, the shorter one's length. */
  from: number;
  tail: Tail;
}

/** Tokens that a token-level loss compares: [from, end). */
export const comparedUntil = ({ chosenLength, rejectedLength, tail }: Omit<TokenScores, "chosen" | "rejected">) =>
  tail === "cut" ? Math.min(chosenLength, rejectedLength) : Math.max(chosenLength, rejectedLength);

/**
 * The mean over tokens t from the first at which the rows differ of -log sigmoid(chosen[t] - rejected[t]) (DeepSpeed-Chat's
 * reward model, which CONQORD's is; there with `tail` "padded").
 *
 * @returns the loss and its derivatives, each as long as the scores given; NaN where nothing is compared
 */
export function tokenPairLoss(scores: TokenScores): PairLoss<Float64Array> {
  const { chosen, rejected, chosenLength, rejectedLength, from, tail } = scores;
  const end = comparedUntil(scores);
  const [dChosen, dRejected] = [new Float64Array(chosen.length), new Float64Array(rejected.length)];
  const within = (t: number, length: number) => (tail === "held" ? Math.min(t, length - 1) : t);
  let sum = 0;
  for (let t = from; t < end; t++) {
    const [c, r] = [within(t, chosenLength), within(t, rejectedLength)];
    const difference = chosen[c]! - rejected[r]!;
    sum += softplusMinus(difference);
    const d = slope(difference) / (end - from);
    dChosen[c]! += d;
    dRejected[r]! -= d;
  }
  return { loss: sum / (end - from), chosen: dChosen, rejected: dRejected };
}

/**
 * -log sigmoid(chosen - rejected - margin) of the scores at the rows' last tokens (Bradley & Terry 1952; the margin as in
 * Llama 2, Touvron et al. 2023).
 */
export function sequencePairLoss(chosen: number, rejected: number, margin = 0): PairLoss<number> {
  const difference = chosen - rejected - margin;
  const d = slope(difference);
  return { loss: softplusMinus(difference), chosen: d, rejected: -d };
}

/** A loss of one score with its derivative. */
export interface RowLoss {
  loss: number;
  score: number;
}

/** Binary cross-entropy of sigmoid(score) to a soft target in [0, 1], as Linguistic Calibration's forecasts are learnt. */
export function crossEntropyLoss(score: number, target: number): RowLoss {
  return {
    loss: target * softplusMinus(score) + (1 - target) * softplusMinus(-score),
    score: sigmoid(score) - target,
  };
}

/** (score - target)^2 of the score itself, for targets of any range. */
export const squaredLoss = (score: number, target: number): RowLoss => ({
  loss: (score - target) ** 2,
  score: 2 * (score - target),
});

/**
 * "sigmoid": -(1 - s) log sigmoid(beta h) - s log sigmoid(-beta h) with label smoothing s (Rafailov et al. 2023, eq. 7;
 * smoothed as in Mitchell 2023); "ipo": (h - 1 / (2 beta))^2 (Azar et al. 2023, eq. 17).
 */
export type DpoKind = "sigmoid" | "ipo";

export interface DpoSettings {
  kind: DpoKind;
  /** How closely the policy is kept to its reference: the larger, the closer. */
  beta: number;
  /** Share of pairs thought to be the wrong way round, below 1/2; of "sigmoid" alone. */
  labelSmoothing: number;
}

/** Summed log-probabilities of an answer under the policy and under its reference. */
export interface AnswerLogprobs {
  policy: number;
  reference: number;
}

/**
 * The loss of a pair, where h = (log policy/reference of the chosen answer) - (the same of the rejected), with its
 * derivatives with respect to the policy's two log-probabilities.
 */
export function dpoLoss(
  chosen: AnswerLogprobs,
  rejected: AnswerLogprobs,
  { kind, beta, labelSmoothing }: DpoSettings,
): PairLoss<number> {
  const h = chosen.policy - chosen.reference - (rejected.policy - rejected.reference);
  if (kind === "ipo") {
    const off = h - 1 / (2 * beta);
    return { loss: off ** 2, chosen: 2 * off, rejected: -2 * off };
  }
  const z = beta * h;
  const loss = (1 - labelSmoothing) * softplusMinus(z) + labelSmoothing * softplusMinus(-z);
  const d = beta * (sigmoid(z) - (1 - labelSmoothing));
  return { loss, chosen: d, rejected: -d };
}

/** beta log(policy / reference), the reward that a policy trained so stands for. */
export const impliedReward = ({ policy, reference }: AnswerLogprobs, beta: number): number =>
  beta * (policy - reference);
