/** What goes wrong in a PPO training, from its metrics: while it runs, after a resumption, and afterwards, the same. */
import { existsSync, readFileSync } from "node:fs";
import { join } from "node:path";
import { CredenceError } from "../../errors.js";
import { type Alarm, type AlarmThresholds, AlarmWatch, alarmsOf, type StepStatistics } from "../../rewards/alarms.js";
import { metricsName } from "../../tracking/metrics.js";

const unit = "iteration";

/** Of one iteration, as `trainPpo` writes it. */
export const statisticsOf = (iteration: number, values: Record<string, number>): StepStatistics => ({
  step: iteration,
  ratio: values.ratio,
  startingRatioError: values.firstRatioChange,
  kl: values.klOfCompletion,
  clipFraction: values.clipFraction,
  reward: values.reward,
  formatFailures: values.unstated,
  entropy: values.entropy,
  gradientNorm: values.gradientNorm,
});

function* statisticsIn(directory: string, iterations: number): Generator<StepStatistics> {
  const path = join(directory, metricsName);
  if (!existsSync(path)) throw new CredenceError("FILE_NOT_FOUND", `${path}: nothing was trained in this folder`);
  const lines = readFileSync(path, "utf8").split("\n");
  for (const [i, line] of lines.slice(0, Math.min(iterations, lines.length - 1)).entries()) {
    try {
      // JSON has no number that is not finite: such a one was written as null.
      const { iteration, ...values } = JSON.parse(line, (_, value) => (value === null ? Number.NaN : value));
      yield statisticsOf(iteration, values);
    } catch {
      throw new CredenceError("BAD_INPUT", `${path}, line ${i + 1} is damaged: train from a checkpoint before it`);
    }
  }
}

/** A watch that knows the iterations before this one. */
export function watchFrom(directory: string, iterations: number): AlarmWatch {
  const watch = new AlarmWatch({}, unit);
  if (iterations > 0) for (const statistics of statisticsIn(directory, iterations)) watch.add(statistics);
  return watch;
}

/**
 * What went wrong in a training by `trainPpo`, from the metrics in its folder. A step is an iteration, from 1.
 *
 * @throws CredenceError "FILE_NOT_FOUND" where nothing was trained there, "BAD_INPUT" for a line that is damaged
 */
export const ppoAlarms = (directory: string, thresholds: Partial<AlarmThresholds> = {}): Alarm[] =>
  alarmsOf(statisticsIn(directory, Number.POSITIVE_INFINITY), thresholds, unit);
