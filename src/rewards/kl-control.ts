/** How much each nat of divergence from the reference costs, from step to step. */
import { CredenceError } from "../errors.js";

export type KlSettings =
  /** The coefficient stays. */
  | { kind: "fixed"; coefficient: number }
  /**
   * The coefficient follows the divergence: times 1 + gain clip(kl / target - 1, -limit, limit) after each step. The gain is
   * the step's samples over a horizon (Ziegler et al. 2019, as in TRL: coefficient 0.2, target 6, horizon 10,000), or a
   * number of its own (Linguistic Calibration's k_beta: 0.1). `limit` is 0.2 in both.
   */
  | ({ kind: "adaptive"; coefficient: number; target: number; limit?: number } & (
      | { horizon: number; gain?: undefined }
      | { gain: number; horizon?: undefined }
    ));

export interface KlController {
  /** Cost of a nat now. */
  readonly coefficient: number;
  /**
   * @param kl the step's divergence: the mean over samples of the sum over tokens, in nats
   * @param samples of the step, over all ranks
   */
  update(kl: number, samples: number): void;
  /** For a checkpoint. */
  state(): { coefficient: number };
  restore(state: { coefficient: number }): void;
}

/** @throws CredenceError "USAGE" naming the setting that is no such number */
export function klController(settings: KlSettings): KlController {
  const above = (name: string, value: number, least = 0) => {
    if (!(value > least && Number.isFinite(value)))
      throw new CredenceError("USAGE", `KL ${name} ${value}; expected a number above ${least}`);
  };
  let { coefficient } = settings;
  if (!(coefficient >= 0 && Number.isFinite(coefficient)))
    throw new CredenceError("USAGE", `KL coefficient ${coefficient}; expected a number from 0`);
  if (settings.kind === "adaptive") {
    above("coefficient of an adaptive control", coefficient);
    above("target", settings.target);
    if (settings.gain === undefined) above("horizon", settings.horizon);
    else above("gain", settings.gain);
    above("limit", settings.limit ?? 0.2);
  }
  return {
    get coefficient() {
      return coefficient;
    },
    update(kl, samples) {
      if (!Number.isFinite(kl) || !(samples > 0))
        throw new CredenceError(
          "BAD_INPUT",
          `KL control: a divergence of ${kl} over ${samples} samples; expected a finite number and at least one sample`,
        );
      if (settings.kind === "fixed") return;
      const { target, limit = 0.2, horizon, gain } = settings;
      const error = Math.min(limit, Math.max(-limit, kl / target - 1));
      coefficient *= 1 + error * (gain ?? samples / horizon!);
    },
    state: () => ({ coefficient }),
    restore(state) {
      if (!(state.coefficient >= 0 && Number.isFinite(state.coefficient)))
        throw new CredenceError("BAD_CHECKPOINT", `KL coefficient ${state.coefficient}; expected a number from 0`);
      coefficient = state.coefficient;
    },
  };
}
