/** The frozen model's states that a head alone is trained on: read once, kept in files, gone on with after a kill. */
import { existsSync, readdirSync } from "node:fs";
import { join } from "node:path";
import { CredenceError } from "../../../errors.js";
import { sweep, writeFileAtomic } from "../../../files.js";
import { encodeSafetensors, readSafetensors } from "../../../model/safetensors.js";
import type { Model } from "../../../policy/model.js";
import type { Policy } from "../../../policy/policy.js";
import type { Progress } from "../../../tracking/progress.js";
import type { Padding } from "../../../training/confidence-head.js";
import { paddedRows } from "./reading.js";

/** Rows of one file. */
const rowsAFile = 4096;

/** Rows of one forward pass. */
const rowsAtOnce = 32;

const tensorName = "features";

const fileName = (name: string, file: number): string => `${name}-${String(file).padStart(5, "0")}.safetensors`;

export interface FeatureJob {
  model: Model;
  tokens: Int32Array[];
  padding: Padding | undefined;
  directory: string;
  /** Of the files. */
  name: string;
  progress: Progress;
  signal?: AbortSignal;
}

/** Writes [rows, H] float32, the states after the last norm at each row's last place, in files that are each written whole. */
export async function collectFeatures(job: FeatureJob): Promise<void> {
  const { model, tokens, padding, directory, name, progress, signal } = job;
  sweep(directory);
  const { rows, paddedTo } = paddedRows(tokens, padding);
  await using policy = await model.policy();
  const task = progress.task(`reading the ${name} rows`, rows.length, "rows", "tokens");
  try {
    for (let file = 0; file * rowsAFile < rows.length; file++) {
      const from = file * rowsAFile;
      const to = Math.min(rows.length, from + rowsAFile);
      const path = join(directory, fileName(name, file));
      if (existsSync(path)) {
        task.advance(to - from);
        continue;
      }
      const data = new Float32Array((to - from) * model.info.hiddenSize);
      for (let at = from; at < to; at += rowsAtOnce) {
        const end = Math.min(to, at + rowsAtOnce);
        const some = rows.slice(at, end);
        data.set(await states(policy, some, paddedTo?.slice(at, end), signal), (at - from) * model.info.hiddenSize);
        task.advance(
          some.length,
          some.reduce((sum, row) => sum + row.length, 0),
        );
      }
      writeFileAtomic(path, encodeSafetensors([{ name: tensorName, shape: [to - from, model.info.hiddenSize], data }]));
    }
  } finally {
    task.end();
  }
}

async function states(
  policy: Policy,
  rows: Int32Array[],
  paddedTo: number[] | undefined,
  signal: AbortSignal | undefined,
): Promise<Float32Array> {
  const spans = rows.map((row, sequence) => ({ sequence, from: row.length - 1, to: row.length }));
  const collect = [policy.model.info.layers];
  const { hidden } = await policy.forward(rows, { spans, collect, ...(paddedTo ? { paddedTo } : {}) }, signal);
  return hidden!;
}

/** The rows of the files, each a view of its file's numbers. */
export function readFeatures(directory: string, name: string, width: number): Float32Array[] {
  const files = readdirSync(directory).filter((file) => file.startsWith(`${name}-`));
  return files.sort().flatMap((file) => {
    const [tensor] = readSafetensors(join(directory, file));
    if (tensor?.shape[1] !== width)
      throw new CredenceError("BAD_INPUT", `${join(directory, file)}: was written for another model. Delete it`);
    return Array.from({ length: tensor.shape[0]! }, (_, row) => tensor.data.subarray(row * width, (row + 1) * width));
  });
}
