/** A stage's numbers, step by step: one JSON object a line, and the same for TensorBoard. */
import { join } from "node:path";
import { appendFile, cutFile, fileLength, syncFile } from "../files.js";
import { EventsFile } from "./events.js";

export const metricsName = "metrics.jsonl";

export class Metrics {
  readonly path: string;
  private readonly events: EventsFile;

  /**
   * @param offset the file's length at the checkpoint that is resumed: what came after is written again
   * @param step the first step that will be written
   * @param events folder of what TensorBoard reads
   */
  constructor(directory: string, offset = 0, step = 0, events = directory) {
    this.path = join(directory, metricsName);
    cutFile(this.path, offset);
    this.events = new EventsFile(events, step);
  }

  /**
   * @param measured what differs from machine to machine (times, rates, memory); it stands last in the line
   * @param counts how many of a distribution's values lie in each of its bins: for the line alone, TensorBoard's are
   *   `addHistogram`'s
   */
  add(
    step: number,
    values: Record<string, number>,
    measured: Record<string, number> = {},
    counts: Record<string, readonly number[]> = {},
  ): void {
    appendFile(this.path, `${JSON.stringify({ step, ...values, ...counts, measured })}\n`);
    this.events.add(step, { ...values, ...measured });
  }

  /** A distribution at a step, for TensorBoard alone: see `EventsFile.addHistogram`. */
  addHistogram(step: number, name: string, values: ArrayLike<number>, limits: readonly number[]): void {
    this.events.addHistogram(step, name, values, limits);
  }

  /** The file's length once all of it is on the disk. */
  sync(): number {
    if (fileLength(this.path)) syncFile(this.path);
    return fileLength(this.path);
  }
}
