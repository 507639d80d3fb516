/** Checkpoints of a training stage: folders written whole, named by the optimiser steps they have taken. */
import { existsSync, readdirSync, realpathSync, rmSync } from "node:fs";
import { basename, join } from "node:path";
import { z } from "zod";
import { CredenceError } from "../errors.js";
import { type FileData, isWholeFolder, linkAtomic, readJson, sweep, writeFolderAtomic } from "../files.js";
import type { AnyCard } from "../model/card.js";
import { averageFolder, criticFolder, optimizerFile, readPolicyTensors } from "../model/policy-folder.js";
import { encodeSafetensors, readSafetensors } from "../model/safetensors.js";
import type { PolicyTensors, TensorData } from "../native.js";
import type { Policy } from "../policy/policy.js";
import type { Trainer } from "../policy/trainer.js";

const whole = z.int().min(0);

/** Of rows that are not all known at the start. */
const rowsSchema = z.strictObject({
  /** The next pack: of an epoch's window, after so many rows and tokens in all. */
  position: z.strictObject({ epoch: whole, window: whole, pack: whole, rows: whole, tokens: whole }),
  /** What going through the rows found. */
  data: z.strictObject({
    records: whole,
    rows: whole,
    tokens: whole,
    weight: z.number(),
    longest: whole,
    dropped: whole,
    cut: whole,
    unsupervised: whole,
  }),
});

const stateSchema = z.strictObject({
  /** Optimiser steps taken; the order of the rows follows from the stage's seed and this number. */
  step: z.int().min(0),
  /** Seed of the order. */
  seed: z.int(),
  /** Length of metrics.jsonl when the checkpoint was written. */
  metricsBytes: z.int().min(0),
  /** Of a training that is held against rows of its own after each epoch: the losses, and the step of the smallest. */
  validation: z.strictObject({ losses: z.array(z.number()), bestStep: whole }).optional(),
  /** Of a training that is not a recipe's: what the order and the size of its steps follow from. */
  settings: z.record(z.string(), z.union([z.string(), z.number()])).optional(),
  /** Of supervised fine-tuning. */
  sft: rowsSchema.optional(),
  /** Of reinforcement: where it stands. */
  ppo: z
    .strictObject({
      /** How many are done. */
      iteration: whole,
      kl: z.strictObject({ coefficient: z.number() }),
      moments: z.strictObject({ count: z.number(), mean: z.number(), variance: z.number() }),
      term: z.strictObject({ average: z.number() }).nullable(),
      /** Of the rows of language modelling beside it. */
      ptx: rowsSchema.optional(),
    })
    .optional(),
});

export type CheckpointState = z.infer<typeof stateSchema>;

const folderName = (step: number): string => `step-${String(step).padStart(6, "0")}`;

/** How many checkpoints of a stage are kept, beside the best. */
const kept = 2;

const within = (folder: string, files: Record<string, FileData>): Record<string, FileData> =>
  Object.fromEntries(Object.entries(files).map(([name, data]) => [`${folder}/${name}`, data]));

/** A policy and what trains it. */
export interface Trained {
  policy: Policy;
  trainer: Trainer;
}

function trainedFiles({ policy, trainer }: Trained, card?: AnyCard): Record<string, FileData> {
  const { tensors, average } = trainer.state();
  return {
    ...policy.files(card),
    ...(average ? within(averageFolder, policy.files(card, average)) : {}),
    [optimizerFile]: encodeSafetensors(tensors),
  };
}

/** Writes a checkpoint, points `best` at the best one, and removes those older than the one before. */
export function writeCheckpoint(
  directory: string,
  parts: Trained & { card?: AnyCard; critic?: Trained; state: CheckpointState },
): void {
  const name = folderName(parts.state.step);
  const { critic } = parts;
  writeFolderAtomic(join(directory, "checkpoints", name), {
    ...trainedFiles(parts, parts.card),
    ...(critic ? within(criticFolder, trainedFiles(critic)) : {}),
    "state.json": `${JSON.stringify(parts.state, null, 2)}\n`,
  });
  settle(directory, parts.state);
}

/**
 * Points `best` at the best checkpoint, which is the newest where nothing is validated, and removes the oldest; done again
 * on resuming, since a process may die before it.
 */
function settle(directory: string, { validation }: CheckpointState): void {
  const all = checkpoints(directory);
  const best = validation ? folderName(validation.bestStep) : basename(all.at(-1)!);
  linkAtomic(join(directory, "best"), join("checkpoints", best));
  for (const old of all.slice(0, -kept)) if (basename(old) !== best) rmSync(old, { recursive: true, force: true });
}

/** Folder of the best checkpoint of a training that has one. */
export const bestCheckpoint = (directory: string): string => realpathSync(join(directory, "best"));

/** Folder of the policy that a training gives: the running average of its best checkpoint where one is kept, else that itself. */
export function givenPolicy(directory: string): string {
  const best = bestCheckpoint(directory);
  const average = join(best, averageFolder);
  return existsSync(average) ? average : best;
}

/** Folders of a stage's checkpoints, oldest first. */
export function checkpoints(directory: string): string[] {
  const folder = join(directory, "checkpoints");
  if (!existsSync(folder)) return [];
  const names = readdirSync(folder).filter((name) => /^step-\d{6,}$/.test(name));
  return names.sort((a, b) => Number(a.slice(5)) - Number(b.slice(5))).map((name) => join(folder, name));
}

export interface Checkpoint {
  directory: string;
  state: CheckpointState;
  moments: TensorData[];
  /** The running average of the policy, where one was kept. */
  average?: PolicyTensors;
  /** Of a critic of its own, where there was one. */
  critic?: { directory: string; moments: TensorData[] };
}

/**
 * Refuses to go on with other settings or records than a training was begun with.
 *
 * @throws CredenceError "OTHER_RECIPE" naming what differs
 */
export function checkSame(
  directory: string,
  state: CheckpointState | undefined,
  settings: NonNullable<CheckpointState["settings"]>,
): void {
  if (!state) return;
  const then = state.settings ?? {};
  const changed = [...new Set([...Object.keys(settings), ...Object.keys(then)])].filter(
    (key) => settings[key] !== then[key],
  );
  if (changed.length === 0) return;
  const what = changed.map((key) => `${key}: ${then[key] ?? "none"} then, ${settings[key] ?? "none"} now`).join("; ");
  throw new CredenceError(
    "OTHER_RECIPE",
    `${directory} was begun with other settings or records (${what}). Choose another folder, or delete this one`,
  );
}

const momentsIn = (directory: string): TensorData[] => readSafetensors(join(directory, optimizerFile));

/** The newest checkpoint that is whole; what a dying process left half-written is swept away. */
export function newestCheckpoint(directory: string): Checkpoint | undefined {
  sweep(directory);
  for (const path of checkpoints(directory).reverse()) {
    if (!isWholeFolder(path)) {
      rmSync(path, { recursive: true, force: true });
      continue;
    }
    const state = stateSchema.safeParse(readJson(join(path, "state.json")));
    if (!state.success)
      throw new CredenceError(
        "BAD_CHECKPOINT",
        `${path}: its state.json was written by another version. Delete the stage's folder to start it again`,
      );
    settle(directory, state.data);
    const [average, critic] = [join(path, averageFolder), join(path, criticFolder)];
    return {
      directory: path,
      state: state.data,
      moments: momentsIn(path),
      ...(existsSync(average) ? { average: readPolicyTensors(average) } : {}),
      ...(existsSync(critic) ? { critic: { directory: critic, moments: momentsIn(critic) } } : {}),
    };
  }
  return undefined;
}
