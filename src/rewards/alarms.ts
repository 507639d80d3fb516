/** What goes wrong in reinforcement, said in words while there is time: from each step's statistics, with the way out. */
import { CredenceError } from "../errors.js";

/** Of one optimiser step, or of one rollout and its updates; whatever is left out is not watched. */
export interface StepStatistics {
  step: number;
  /** Mean importance ratio of the step's tokens. */
  ratio?: number;
  /** Largest |ratio - 1| before the step's first update, where both policies are the same. */
  startingRatioError?: number;
  /** Divergence from the reference: mean over samples of the sum over tokens, in nats. */
  kl?: number;
  /** Share of tokens whose ratio was clipped. */
  clipFraction?: number;
  /** Mean reward of the samples, without the divergence's cost. */
  reward?: number;
  /** Share of the samples whose format could not be read. */
  formatFailures?: number;
  /** Mean entropy of the tokens, in nats. */
  entropy?: number;
  gradientNorm?: number;
  /** Name of the first tensor that held a number that is not finite. */
  nonFinite?: string;
}

export interface AlarmThresholds {
  /** Mean ratio at most this, and at least its inverse; default 10, above which TRL skips a batch. */
  ratio: number;
  /** `startingRatioError` at most this; default 1e-3. */
  startingRatioError: number;
  /** KL at most this; default 25 nats. */
  klMost: number;
  /** KL at least this, since a mean of samples may be a little below 0; default -1. */
  klLeast: number;
  /** Default 0.4. */
  clipFraction: number;
  /** Share of format failures over the window; default 0.5. */
  formatFailures: number;
  /** Entropy over the window, as a share of the first window's; default 0.1. */
  entropyShare: number;
  /** Reward over the window: how many of the first window's deviations it may lie below that one's mean; default 3. */
  rewardFall: number;
  /** Gradient norm, in medians of the window before; default 20. */
  gradientSpike: number;
  /** Steps that a trend is taken over; default 10. */
  window: number;
}

export const alarmThresholds: Readonly<AlarmThresholds> = {
  ratio: 10,
  startingRatioError: 1e-3,
  klMost: 25,
  klLeast: -1,
  clipFraction: 0.4,
  formatFailures: 0.5,
  entropyShare: 0.1,
  rewardFall: 3,
  gradientSpike: 20,
  window: 10,
};

export type AlarmKind =
  | "not finite"
  | "starting ratio"
  | "ratio"
  | "high KL"
  | "negative KL"
  | "clip fraction"
  | "format failures"
  | "falling reward"
  | "entropy collapse"
  | "gradient spike"
  | "no gradient";

export interface Alarm {
  step: number;
  kind: AlarmKind;
  /** A sentence with what is wrong and what to do. */
  message: string;
}

type Numbers = Exclude<keyof StepStatistics, "step" | "nonFinite">;

const numberNames: readonly Numbers[] = [
  "ratio",
  "startingRatioError",
  "kl",
  "clipFraction",
  "reward",
  "formatFailures",
  "entropy",
  "gradientNorm",
];

const mean = (values: readonly number[]): number => values.reduce((sum, value) => sum + value, 0) / values.length;

const deviation = (values: readonly number[]): number => {
  const middle = mean(values);
  return Math.sqrt(mean(values.map((value) => (value - middle) ** 2)));
};

const median = (values: readonly number[]): number => values.toSorted((a, b) => a - b)[values.length >> 1]!;

const shown = (value: number): string => String(Number(value.toPrecision(3)));
const percent = (value: number): string => `${shown(100 * value)} %`;

/**
 * Watches a run step by step. An alarm is given when its condition begins to hold, not again at each step until it has
 * ceased. After a resume, add the earlier steps' statistics again: all that is remembered follows from them.
 */
export class AlarmWatch {
  private readonly limits: AlarmThresholds;
  private readonly sounding = new Set<AlarmKind>();
  /** The first window of each number, and the last. */
  private readonly first = new Map<Numbers, number[]>();
  private readonly last = new Map<Numbers, number[]>();

  /**
   * @param unit what a step is called in messages
   * @throws CredenceError "USAGE" naming the threshold that is no number
   */
  constructor(
    thresholds: Partial<AlarmThresholds> = {},
    private readonly unit = "step",
  ) {
    this.limits = { ...alarmThresholds, ...thresholds };
    for (const [name, value] of Object.entries(this.limits))
      if (typeof value !== "number" || Number.isNaN(value))
        throw new CredenceError("USAGE", `alarm threshold ${name} is ${value}; expected a number, Infinity for never`);
    const { window, ratio } = this.limits;
    if (!Number.isInteger(window) || window < 2)
      throw new CredenceError("USAGE", `alarm window ${window}; expected a whole number of steps from 2`);
    if (!(ratio > 1)) throw new CredenceError("USAGE", `alarm threshold ratio is ${ratio}; expected more than 1`);
  }

  /** @returns what begins to be wrong at this step */
  add(statistics: StepStatistics): Alarm[] {
    const found = new Map(this.conditions(statistics));
    for (const name of numberNames) this.remember(name, statistics[name]);
    const begun = [...found].filter(([kind]) => !this.sounding.has(kind));
    this.sounding.clear();
    for (const kind of found.keys()) this.sounding.add(kind);
    const { step } = statistics;
    return begun.map(([kind, what]) => ({ step, kind, message: `${this.unit} ${step}: ${what}` }));
  }

  private remember(name: Numbers, value: number | undefined): void {
    if (value === undefined || !Number.isFinite(value)) return;
    const { window } = this.limits;
    const first = this.first.get(name) ?? [];
    if (first.length < window) first.push(value);
    this.first.set(name, first);
    const last = [...(this.last.get(name) ?? []), value].slice(-window);
    this.last.set(name, last);
  }

  /** The first whole window, and the last with this step; nothing before they are two. */
  private trend(name: Numbers, now: number | undefined): { first: number[]; recent: number[] } | undefined {
    const { window } = this.limits;
    const first = this.first.get(name) ?? [];
    if (now === undefined || !Number.isFinite(now) || first.length < window) return undefined;
    return { first, recent: [...this.last.get(name)!, now].slice(-window) };
  }

  private *conditions(s: StepStatistics): Generator<[AlarmKind, string]> {
    const limits = this.limits;
    const wrong = numberNames.find((name) => s[name] !== undefined && !Number.isFinite(s[name]));
    if (s.nonFinite !== undefined || wrong !== undefined) {
      const where = s.nonFinite === undefined ? `${wrong} is ${s[wrong!]}` : `${s.nonFinite} holds a number not finite`;
      yield [
        "not finite",
        `${where}, and so will all that follows from it. Go back to the checkpoint before, lower the learning rate, or clip the gradient's norm`,
      ];
    }
    if (s.startingRatioError !== undefined && s.startingRatioError > limits.startingRatioError)
      yield [
        "starting ratio",
        `before its first update ratios differ from 1 by up to ${shown(s.startingRatioError)}, so that what is scored is not what was sampled. Look for dropout, another temperature, another adapter, or tokens that were encoded anew`,
      ];
    if (s.ratio !== undefined && (s.ratio > limits.ratio || s.ratio < 1 / limits.ratio))
      yield [
        "ratio",
        `the mean importance ratio is ${shown(s.ratio)}: the policy is far from the one that wrote the samples. Lower the learning rate, or take fewer epochs over a rollout`,
      ];
    if (s.kl !== undefined && s.kl > limits.klMost)
      yield [
        "high KL",
        `the divergence from the reference is ${shown(s.kl)} nats, above ${shown(limits.klMost)}: the policy may please the reward in ways no reader would. Raise the KL coefficient, lower its target, or stop here`,
      ];
    if (s.kl !== undefined && s.kl < limits.klLeast)
      yield [
        "negative KL",
        `the divergence from the reference is ${shown(s.kl)} nats, which no divergence is: samples are not the policy's own. Sample at temperature 1 without top-k and top-p, or score with the same`,
      ];
    if (s.clipFraction !== undefined && s.clipFraction > limits.clipFraction)
      yield [
        "clip fraction",
        `${percent(s.clipFraction)} of the ratios were clipped and taught nothing. Lower the learning rate, or take fewer epochs over a rollout`,
      ];
    yield* this.trends(s);
  }

  private *trends(s: StepStatistics): Generator<[AlarmKind, string]> {
    const limits = this.limits;
    const { window } = limits;
    const failures = [...(this.last.get("formatFailures") ?? []), s.formatFailures ?? Number.NaN].slice(-window);
    if (failures.length === window && mean(failures) > limits.formatFailures)
      yield [
        "format failures",
        `over ${window} steps ${percent(mean(failures))} of the samples state no confidence that can be read, and the reward is mostly what those earn. Make that lower, fine-tune on the format first, or retry with a cue`,
      ];
    const reward = this.trend("reward", s.reward);
    if (reward) {
      const began = mean(reward.first);
      // A reward that hardly moved at first has no deviation to speak of.
      const fall = (began - mean(reward.recent)) / Math.max(deviation(reward.first), 0.01 * Math.abs(began));
      if (fall > limits.rewardFall)
        yield [
          "falling reward",
          `over ${window} steps the reward is ${shown(mean(reward.recent))}, below the ${shown(began)} it began with. Is its sign right? Otherwise lower the learning rate, or look at the value loss`,
        ];
    }
    const entropy = this.trend("entropy", s.entropy);
    if (entropy && mean(entropy.recent) < limits.entropyShare * mean(entropy.first))
      yield [
        "entropy collapse",
        `over ${window} steps the entropy is ${shown(mean(entropy.recent))} nats, of ${shown(mean(entropy.first))} at first: the samples of a question are all alike. Raise the entropy bonus or the KL coefficient, or sample at a higher temperature`,
      ];
    const norms = this.last.get("gradientNorm") ?? [];
    if (s.gradientNorm === undefined || norms.length < window) return;
    if (s.gradientNorm > limits.gradientSpike * median(norms))
      yield [
        "gradient spike",
        `the gradient's norm is ${shown(s.gradientNorm)}, of ${shown(median(norms))} in the steps before. Clip it, and look at the step's rewards and advantages`,
      ];
    if (s.gradientNorm === 0 && norms.every((norm) => norm === 0))
      yield [
        "no gradient",
        `for more than ${window} steps the gradient is 0 and nothing is learnt. Are all rewards of a question equal, or the mask empty?`,
      ];
  }
}

/** The alarms of a run's statistics, in order. */
export function alarmsOf(
  series: Iterable<StepStatistics>,
  thresholds: Partial<AlarmThresholds> = {},
  unit = "step",
): Alarm[] {
  const watch = new AlarmWatch(thresholds, unit);
  return Array.from(series).flatMap((statistics) => watch.add(statistics));
}
