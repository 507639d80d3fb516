/** The report of a run that is done, written again. */
import { join } from "node:path";
import type { Argv } from "yargs";
import { print, printJson } from "./output.js";

export const command = "report <run>";
export const describe = "Write report.html of a finished run again, and print its table";
export const builder = (line: Argv) =>
  line.positional("run", { type: "string", demandOption: true, describe: "The run's folder" }).options({
    out: {
      type: "string",
      requiresArg: true,
      describe: "Where the report goes [default: report.html in the run's folder]",
    },
  });

export async function handler({ run, out, json }: { run: string; out?: string; json: boolean }): Promise<void> {
  const { writeFileAtomic } = await import("../files.js");
  const { readSummary, reportOf, summaryText } = await import("../methods/recipes.js");
  const summary = readSummary(run);
  writeFileAtomic(out ?? join(run, "report.html"), await reportOf(run, summary));
  if (json) printJson(summary);
  else print(await summaryText(summary, run));
}
