/** Metrics of numbers that an evaluation left: no model is loaded. */
import { existsSync, readdirSync } from "node:fs";
import { join } from "node:path";
import { CredenceError } from "../../errors.js";
import { likeliestTemperature } from "../../evaluation/calibrators.js";
import { native } from "../../native.js";
import type { CalibrationCompat } from "./compat.js";
import { type MetricRow, queryMetrics } from "./metrics.js";
import { mmluTasks } from "./mmlu.js";
import { splitNames } from "./offline.js";
import { probabilities } from "./query.js";
import type { SplitName } from "./rows.js";

/** Two logits and a label a row. */
export interface Logits {
  /** [rows, 2] */
  logits: Float32Array;
  labels: (0 | 1)[];
}

/** Folders of splits by the published names, or by their own path. */
export function logitFolders(dataset: string, data: string): { id: string; folder: string }[] {
  const one = /^(mmlu_offline_(?:query|ve)_logits):([^:]+):([^:]+)$/.exec(dataset);
  if (one) return [{ id: dataset, folder: join(data, one[1]!, one[2]!, one[3]!) }];
  const all = /^(mmlu_offline_(?:query|ve)_logits)_all:([^:]+)$/.exec(dataset);
  if (all) {
    const found = mmluTasks
      .map((task) => ({ id: `${all[1]}:${all[2]}:${task}`, folder: join(data, all[1]!, all[2]!, task) }))
      .filter(({ folder }) => existsSync(folder));
    if (found.length > 0) return found;
    throw new CredenceError("NO_FILE", `${join(data, all[1]!, all[2]!)}: holds none of MMLU's tasks`);
  }
  const kind = /^offline_logits:(.+)$/.exec(dataset)?.[1];
  if (kind !== undefined) return [{ id: dataset, folder: join(data, "offline_logits", kind) }];
  if (existsSync(dataset)) return [{ id: dataset, folder: dataset }];
  throw new CredenceError(
    "BAD_OPTION",
    `there are no logits ${JSON.stringify(dataset)}; expected offline_logits:<kind>, mmlu_offline_query_logits:<name>:<task>, mmlu_offline_query_logits_all:<name> (or ve for query), or a folder of splits`,
  );
}

/**
 * The logits of a folder's split, of all its `.pt` and `.bin` files one behind the other; null where it has none.
 *
 * @throws CredenceError "BAD_INPUT" naming a file that holds something else
 */
export function readLogits(folder: string, split: SplitName): Logits | null {
  const place = join(folder, split);
  const names = existsSync(place) ? readdirSync(place).filter((name) => /\.(pt|bin)$/.test(name)) : [];
  // Of an evaluation's own files those of letters and samples are of another shape.
  const files = names.filter((name) => !/^(logits_data|sampling_data)\.bin$/.test(name)).sort();
  if (files.length === 0) return null;
  const logits: number[] = [];
  const labels: (0 | 1)[] = [];
  for (const name of files) {
    const path = join(place, name);
    const tensors = native().readTensors(path);
    const two = tensors.find((tensor) => /^(q_)?logits$/.test(tensor.name));
    const told = tensors.find((tensor) => /^(q_)?labels$/.test(tensor.name));
    const bad = (what: string) => new CredenceError("BAD_INPUT", `${path}: ${what}`);
    if (!two || !told || two.shape[1] !== 2 || two.shape[0] !== told.data.length)
      throw bad(
        `holds ${tensors.map((tensor) => `${tensor.name} [${tensor.shape.join(", ")}]`).join(", ")}; expected q_logits [N, 2] and q_labels [N]`,
      );
    const other = told.data.find((label) => label !== 0 && label !== 1);
    if (other !== undefined) throw bad(`a label is ${other}; expected 0 or 1`);
    logits.push(...two.data);
    labels.push(...(Array.from(told.data) as (0 | 1)[]));
  }
  return { logits: Float32Array.from(logits), labels };
}

/**
 * The temperature that makes the labels likeliest.
 *
 * @throws CredenceError "CANNOT_CALIBRATE" where there is none: the higher, or the lower, the better without end
 */
export function fittedTemperature({ logits, labels }: Logits, where: string): number {
  const differences = labels.map((_, row) => logits[2 * row + 1]! - logits[2 * row]!);
  const temperature = likeliestTemperature(differences, labels);
  if (temperature > 0 && Number.isFinite(temperature)) return temperature;
  const way = temperature === 0 ? "the lower the temperature the better" : "the higher the temperature the better";
  throw new CredenceError(
    "CANNOT_CALIBRATE",
    `${where}: ${way}, without end: these logits ${temperature === 0 ? "are never wrong" : "say less than nothing"}. Leave the temperature out`,
  );
}

/**
 * Metrics of validation and test; with a temperature that is fitted to validation, those of test alone are of rows that it has
 * not seen.
 */
export function evaluateLogits(
  { id, folder }: { id: string; folder: string },
  { scaled, compat }: { scaled: boolean; compat: CalibrationCompat },
): MetricRow[] {
  const found = splitNames.flatMap((split) => {
    const own = split === "train" ? null : readLogits(folder, split);
    return own ? [{ split, own }] : [];
  });
  if (found.length === 0)
    throw new CredenceError("BAD_INPUT", `${folder}: has no .pt or .bin file in validation or test`);
  const fitted = found.find(({ split }) => split === "validation");
  if (scaled && !fitted)
    throw new CredenceError(
      "BAD_INPUT",
      `${folder}: has no validation split to fit a temperature to. Give --noscale-temp`,
    );
  const temperature = scaled ? fittedTemperature(fitted!.own, `${folder}: validation`) : 1;
  return found.map(({ split, own }) => ({
    ...queryMetrics(probabilities(own.logits, temperature), own.labels, compat),
    ...(scaled ? { temperature } : {}),
    dataset: id,
    split,
  }));
}
