/** What goes wrong in a PPO training, from its metrics: while it runs, after a resumption, and afterwards, the same. */
import { type Alarm, type AlarmThresholds, AlarmWatch, alarmsOf, type StepStatistics } from "../../rewards/alarms.js";
import { readPpoLines } from "./lines.js";

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

function* statisticsIn(directory: string, iterations?: number): Generator<StepStatistics> {
  for (const { iteration, values } of readPpoLines(directory, iterations)) yield statisticsOf(iteration, values);
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
  alarmsOf(statisticsIn(directory), thresholds, unit);
