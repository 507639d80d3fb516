/** What the report of a reinforcement run shows, from the run's own files. */
import type { PpoSummary } from "./summary.js";

export function ppoReport(directory: string, summary: PpoSummary): Promise<string> {
  return Promise.resolve(`${directory} ${summary.chosen}`);
}
