/** The report of a run that is done, written again, or of a reinforcement training by itself. */
import { existsSync } from "node:fs";
import { join } from "node:path";
import type { Argv } from "yargs";
import { print, printJson } from "./output.js";

export const command = "report <run>";
export const describe =
  "Write report.html of a finished run, or of a reinforcement training's folder, and print its table";
export const builder = (line: Argv) =>
  line
    .positional("run", { type: "string", demandOption: true, describe: "The run's folder, or the training's" })
    .options({
      out: {
        type: "string",
        requiresArg: true,
        describe: "Where the report goes [default: report.html in the run's folder]",
      },
    });

export async function handler({ run, out, json }: { run: string; out?: string; json: boolean }): Promise<void> {
  const { writeFileAtomic } = await import("../files.js");
  const { metricsName } = await import("../tracking/metrics.js");
  const path = out ?? join(run, "report.html");
  if (!existsSync(join(run, "summary.json")) && existsSync(join(run, metricsName))) {
    const { ppoTrainingReport, trainingText } = await import("../report/ppo-training.js");
    const { html, run: training } = ppoTrainingReport(run);
    writeFileAtomic(path, html);
    if (json) printJson(training);
    else print(`${trainingText(training)}\nReport: ${path}`);
    return;
  }
  const { summaryOf, reportOf, summaryText } = await import("../methods/recipes.js");
  const summary = summaryOf(run);
  writeFileAtomic(path, await reportOf(run, summary));
  if (json) printJson(summary);
  else print(await summaryText(summary, run));
}
