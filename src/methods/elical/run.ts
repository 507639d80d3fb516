/** An EliCal run from its recipe to its summary. */
import { CredenceError } from "../../errors.js";
import { type Addon, type BaseOptions, native } from "../../native.js";
import { Model } from "../../policy/model.js";
import { type Progress, silent } from "../../tracking/progress.js";
import { executeRun } from "../../training/run.js";
import { version } from "../../version.js";
import type { JudgingOptions } from "./judging.js";
import type { ElicalRecipe } from "./recipe.js";
import { elicalStages, readSummary } from "./stages.js";
import type { ElicalSummary } from "./summary.js";

export interface RecipeRunOptions {
  /** The run's folder. */
  directory: string;
  progress?: Progress;
  signal?: AbortSignal;
  engine?: BaseOptions;
  /** How the recipe's judge is asked, and where its answers are kept. */
  judging?: JudgingOptions;
  resumeInexact?: boolean;
  /** The engine's entry points; for tests that need no engine. */
  addon?: Pick<Addon, "openBase" | "fitLogistic">;
}

/** What a run's numbers depend on besides its recipe. */
export function machineOf(model: Model): Record<string, string> {
  const { device, isa, dtype } = model.info;
  return {
    credence: version,
    device,
    isa,
    dtype,
    model: model.sha256,
    // How batches are cut follows from it, and with that the last bits of a gradient.
    ...(model.maxMemory === undefined ? {} : { maxMemory: String(model.maxMemory) }),
  };
}

/**
 * Runs what is not done yet.
 *
 * @throws CredenceError "ABORTED" when the signal fires: the same call goes on from there
 */
export async function runElical(recipe: ElicalRecipe, options: RecipeRunOptions): Promise<ElicalSummary> {
  const { directory, progress = silent, signal, addon = native() } = options;
  if (signal?.aborted) throw new CredenceError("ABORTED", "stopped before it began");
  await using model = await Model.load(recipe.model, { ...options.engine, engine: addon, note: progress.note, signal });
  const { device, isa, dtype, threads, storageType } = model.info;
  progress.note(
    `${model.name} (${storageType}, from ${model.source}) on ${device}, ${isa}, ${dtype}, ${threads} threads`,
  );
  await executeRun({
    directory,
    recipe,
    stages: elicalStages({
      recipe,
      model,
      fit: (problem) => addon.fitLogistic({ ...problem, isa }),
      engine: options.engine,
      addon,
      judging: options.judging,
    }),
    machine: machineOf(model),
    engineBytes: (restartPeak) => model.memory({ restartPeak }).peak,
    progress,
    signal,
    resumeInexact: options.resumeInexact,
  });
  return readSummary(directory);
}
