/** What `trainPpo` writes of each iteration, and reads again. */
import { existsSync, readFileSync } from "node:fs";
import { join } from "node:path";
import { CredenceError } from "../../errors.js";
import { binOf } from "../../evaluation/rows.js";
import { metricsName } from "../../tracking/metrics.js";

/** One iteration's line of metrics.jsonl. */
export interface PpoLine {
  /** From 1. */
  iteration: number;
  /** Optimiser steps taken so far. */
  step: number;
  /** By name; NaN where a number was not finite. */
  values: Record<string, number>;
  /** How many stated confidences lie in each twentieth (from, to], the first of them also holding 0; absent: none was stated. */
  confidences?: number[];
  /** Seconds by phase. */
  measured: Record<string, number>;
}

const confidenceBins = 20;

/** Counts by twentieths; of no confidences there are none. */
export function confidenceCounts(confidences: readonly number[]): Record<string, number[]> {
  if (confidences.length === 0) return {};
  const counts = Array<number>(confidenceBins).fill(0);
  for (const confidence of confidences) counts[binOf(confidence, confidenceBins)]! += 1;
  return { confidences: counts };
}

/**
 * The iterations written so far, at most so many; a line that is still being written is none yet.
 *
 * @throws CredenceError "FILE_NOT_FOUND" where nothing was trained there, "BAD_INPUT" for a line that is damaged
 */
export function* readPpoLines(directory: string, iterations = Number.POSITIVE_INFINITY): Generator<PpoLine> {
  const path = join(directory, metricsName);
  if (!existsSync(path)) throw new CredenceError("FILE_NOT_FOUND", `${path}: nothing was trained in this folder`);
  const lines = readFileSync(path, "utf8").split("\n");
  for (const [i, line] of lines.slice(0, Math.min(iterations, lines.length - 1)).entries()) {
    const found = parsed(line);
    if (!found)
      throw new CredenceError(
        "BAD_INPUT",
        `${path}, line ${i + 1} is damaged, or no iteration's of reinforcement: train from a checkpoint before it`,
      );
    yield found;
  }
}

function parsed(line: string): PpoLine | undefined {
  try {
    // JSON has no number that is not finite: such a one was written as null.
    const { iteration, step, measured, confidences, ...values } = JSON.parse(line, (_, value) =>
      value === null ? Number.NaN : value,
    );
    if (!Number.isInteger(iteration)) return undefined;
    return { iteration, step, values, measured, ...(confidences ? { confidences } : {}) };
  } catch {
    return undefined;
  }
}
