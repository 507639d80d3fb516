/** A recipe's stages executing in a run folder, on the recipe's model. */
import { join } from "node:path";
import { CredenceError } from "../errors.js";
import { readJson } from "../files.js";
import { type Addon, type BaseOptions, native } from "../native.js";
import { Model } from "../policy/model.js";
import { type Progress, silent } from "../tracking/progress.js";
import { executeRun, type Stage } from "../training/run.js";
import { version } from "../version.js";
import type { JudgingOptions } from "./elical/judging.js";

type Engine = Pick<Addon, "openBase" | "fitLogistic">;

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
  addon?: Engine;
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
export async function runStages<Summary>(
  recipe: { model: string },
  options: RecipeRunOptions,
  stagesOf: (model: Model, engine: Engine) => Stage[],
): Promise<Summary> {
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
    stages: stagesOf(model, addon),
    machine: machineOf(model),
    engineBytes: (restartPeak) => model.memory({ restartPeak }).peak,
    progress,
    signal,
    resumeInexact: options.resumeInexact,
  });
  return readSummary<Summary>(directory);
}

/** summary.json of a run that is done: what its last stage wrote. */
export const readSummary = <Summary>(directory: string): Summary =>
  readJson(join(directory, "summary.json")) as Summary;
