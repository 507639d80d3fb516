/**
 * A recipe executing in a run folder: its stages in order, each in a folder of its own, each done once. Started again on
 * the same folder it goes on where it stopped, and ends with the same bytes as if it had never been stopped.
 */
import { createHash } from "node:crypto";
import { existsSync, readdirSync } from "node:fs";
import { join } from "node:path";
import { parse, stringify } from "yaml";
import { z } from "zod";
import { CredenceError } from "../errors.js";
import { makeFolder, readJson, readText, sweep, writeFileAtomic, writeJsonAtomic } from "../files.js";
import { clock, type Progress } from "../tracking/progress.js";
import { lockFolder, lockName } from "./lock.js";

export interface StageContext {
  /** The stage's own folder. */
  directory: string;
  runDirectory: string;
  progress: Progress;
  signal?: AbortSignal;
  /** Tells what was chosen to keep to the limit of memory; told once, and kept in state.json. */
  fitted?(choice: string): void;
}

export interface Stage {
  /** Folder under stages/, e.g. "05-elicit-seed0". */
  name: string;
  /** Does the work; called again after a kill, it goes on from what it finds. */
  run(context: StageContext): Promise<void>;
}

/** Folder of a stage in the same run. */
export const stageFolder = (context: Pick<StageContext, "runDirectory">, name: string): string =>
  join(context.runDirectory, "stages", name);

const stateSchema = z.strictObject({
  version: z.literal(1),
  recipe: z.string(),
  /** What the numbers depend on besides the recipe: device, instruction set, type, model, version. */
  machine: z.record(z.string(), z.string()),
  stages: z.record(
    z.string(),
    z.strictObject({
      seconds: z.number(),
      /** Largest memory of the process by the end of the stage. */
      peakBytes: z.number(),
      /** Largest memory of the engine in the stage. */
      engineBytes: z.number().optional(),
      /** What was chosen to keep to the limit of memory. */
      fitted: z.array(z.string()).optional(),
    }),
  ),
});

export type RunState = z.infer<typeof stateSchema>;

export interface RunOptions {
  directory: string;
  /** A plain object that YAML can write; two runs are the same when this is. */
  recipe: unknown;
  stages: Stage[];
  machine: Record<string, string>;
  /** The engine's largest memory since it was last asked to restart the peak. */
  engineBytes?(restartPeak: boolean): number;
  progress: Progress;
  signal?: AbortSignal;
  /** Go on although the machine is another: the result is as good, but not the same bits. */
  resumeInexact?: boolean;
}

/** Paths at which two plain objects differ. */
function differences(a: unknown, b: unknown, path = ""): string[] {
  if (JSON.stringify(a) === JSON.stringify(b)) return [];
  const plain = (value: unknown): value is Record<string, unknown> =>
    typeof value === "object" && value !== null && !Array.isArray(value);
  if (!plain(a) || !plain(b)) return [path || "everything"];
  const keys = [...new Set([...Object.keys(a), ...Object.keys(b)])];
  return keys.flatMap((key) => differences(a[key], b[key], path ? `${path}.${key}` : key));
}

/** Opens a run's folder: a new one, or one that the same recipe made. */
export function openRun({
  directory,
  recipe,
  machine,
  resumeInexact,
}: Omit<RunOptions, "stages" | "progress" | "signal">): RunState {
  const recipePath = join(directory, "recipe.yaml");
  const statePath = join(directory, "state.json");
  sweep(directory);
  const plain = JSON.parse(JSON.stringify(recipe)) as unknown;
  const text = stringify(plain, { lineWidth: 120 });
  const sum = createHash("sha256").update(text).digest("hex");
  if (!existsSync(recipePath)) {
    if (existsSync(directory) && readdirSync(directory).some((name) => name !== lockName)) {
      throw new CredenceError(
        "NOT_A_RUN",
        `${directory} has files in it and is no run's folder. Choose another with --run-dir`,
      );
    }
    writeFileAtomic(recipePath, text);
  } else {
    const paths = differences(parse(readText(recipePath)), plain);
    if (paths.length > 0)
      throw new CredenceError(
        "OTHER_RECIPE",
        `${directory} was made by another recipe (it differs in ${paths.slice(0, 6).join(", ")}). Choose another folder with --run-dir, or delete this one`,
      );
  }
  if (!existsSync(statePath)) {
    const state: RunState = { version: 1, recipe: sum, machine, stages: {} };
    writeJsonAtomic(statePath, state);
    return state;
  }
  const state = stateSchema.safeParse(readJson(statePath));
  if (!state.success)
    throw new CredenceError(
      "OTHER_RECIPE",
      `${statePath} was written by another version. Choose another folder with --run-dir`,
    );
  const changed = differences(state.data.machine, machine);
  if (changed.length && !resumeInexact) {
    const what = changed
      .map((key) => `${key}: ${state.data.machine[key] ?? "none"} then, ${machine[key] ?? "none"} now`)
      .join("; ");
    throw new CredenceError(
      "OTHER_MACHINE",
      `${directory} was begun elsewhere (${what}); going on would not give the same bits. Use --resume-inexact to go on all the same`,
    );
  }
  return state.data;
}

/** Largest memory this process has held, in bytes. */
const peakBytes = (): number => process.resourceUsage().maxRSS * 1024;

/**
 * Runs the stages that are not done yet.
 *
 * @throws CredenceError "ABORTED" when the signal fires; the folder can be resumed
 * @throws CredenceError "RUN_IN_USE" when another process runs in the folder
 */
export async function executeRun(options: RunOptions): Promise<RunState> {
  makeFolder(options.directory);
  const unlock = lockFolder(options.directory);
  try {
    return await runStages(options);
  } finally {
    unlock();
  }
}

async function runStages(options: RunOptions): Promise<RunState> {
  const { directory, stages, progress, signal } = options;
  const state = openRun(options);
  const left = stages.filter((stage) => !state.stages[stage.name]);
  if (left.length < stages.length && left.length)
    progress.note(`going on in ${directory}: ${stages.length - left.length} of ${stages.length} stages are done`);
  for (const stage of left) {
    if (signal?.aborted)
      throw new CredenceError("ABORTED", `stopped before ${stage.name}; started again it goes on from there`);
    const started = performance.now();
    const folder = stageFolder({ runDirectory: directory }, stage.name);
    makeFolder(folder);
    options.engineBytes?.(true);
    const choices: string[] = [];
    const fitted = (choice: string) => {
      if (choices.includes(choice)) return;
      choices.push(choice);
      progress.note(choice);
    };
    await stage.run({ directory: folder, runDirectory: directory, progress, signal, fitted });
    const seconds = (performance.now() - started) / 1000;
    state.stages[stage.name] = {
      seconds,
      peakBytes: peakBytes(),
      engineBytes: options.engineBytes?.(false),
      ...(choices.length ? { fitted: choices } : {}),
    };
    writeJsonAtomic(join(directory, "state.json"), state);
    progress.note(`${stage.name} done in ${clock(seconds)}`);
  }
  return state;
}
