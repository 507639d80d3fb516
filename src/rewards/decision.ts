/**
 * Rewards of Linguistic Calibration (Band et al. 2024, arXiv 2404.00474): a text is worth what its reader can forecast from
 * it. A forecast is a probability for the true answer and for each answer that the text was found to give.
 */
import { CredenceError } from "../errors.js";

export interface DecisionOptions {
  /** The true answer's probability is taken no nearer to 0; default 1e-4. */
  epsilon?: number;
  /** Weight of the distance between the given answers' probabilities and a sum of 1; default 5. */
  lambda?: number;
  /** Added to the reward; 5 in training, 0 in evaluation. Default 5. */
  offset?: number;
}

export interface DecisionReward {
  reward: number;
  /** ln clip(p_0, epsilon, 1). */
  log: number;
  /** -lambda |sum of the given answers' probabilities - 1|. */
  normalisation: number;
}

/**
 * ln clip(p_0, epsilon, 1) - lambda |p_1 + .. + p_k - 1| + offset. Strictly proper over the given answers where they hold
 * the true one with the same forecast and lambda is above 1: below that, probabilities that sum to more than 1 earn more.
 * With no answer given the penalty is lambda, so that the reward is ln p_0 where offset and lambda are equal.
 *
 * @param truth p_0, the forecast of the true answer, whether or not the text gave it
 * @param given p_1 .. p_k, the forecasts of the answers the text gave
 * @throws CredenceError "BAD_INPUT" for a forecast that is no finite number from 0
 */
export function decisionReward(truth: number, given: ArrayLike<number>, options: DecisionOptions = {}): DecisionReward {
  const { epsilon = 1e-4, lambda = 5, offset = 5 } = options;
  if (!(epsilon > 0 && epsilon < 1)) throw new CredenceError("USAGE", `epsilon ${epsilon}; expected between 0 and 1`);
  let sum = 0;
  for (let j = 0; j < given.length; j++) sum += forecast(given[j]!);
  const log = Math.log(Math.min(1, Math.max(epsilon, forecast(truth))));
  const normalisation = -lambda * Math.abs(sum - 1);
  return { reward: log + normalisation + offset, log, normalisation };
}

/** What a reader model's head says, as the probability it stands for. */
export const forecastOf = (logit: number): number => 1 / (1 + Math.exp(-logit));

function forecast(value: number): number {
  if (!(value >= 0 && Number.isFinite(value)))
    throw new CredenceError("BAD_INPUT", `a forecast of ${value}; expected a finite number from 0`);
  return value;
}

/** 1 where the reader finds the text right, which is a logit above 0, else 0. Says nothing of confidence: improper. */
export function factualityReward(logit: number): 0 | 1 {
  if (Number.isNaN(logit)) throw new CredenceError("BAD_INPUT", "the factuality model's logit is not a number");
  return logit > 0 ? 1 : 0;
}

/**
 * The answers in an extractor's reply: none of exactly "No Answer", else what stands between semicolons, trimmed, each once,
 * in order.
 *
 * @param keepEmpty as published, the empty string between two semicolons is an answer; otherwise it is left out
 */
export function extractedAnswers(reply: string, { keepEmpty = false } = {}): string[] {
  if (reply === "No Answer") return [];
  const answers = new Set(reply.split(";").map((answer) => answer.trim()));
  if (!keepEmpty) answers.delete("");
  return [...answers];
}
