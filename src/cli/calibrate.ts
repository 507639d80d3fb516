/** Fits a calibrator to a policy's predictions, and keeps it in the card of a copy of the policy. */
import type { Argv } from "yargs";
import type { CalibratorKind } from "../evaluation/calibrators.js";
import { print, printJson, table } from "./output.js";

export const command = "calibrate <predictions>";
export const describe = "Fit a calibrator to a policy's predictions; a copy of the policy has it in its card";
export const builder = (line: Argv) =>
  line
    .positional("predictions", {
      type: "string",
      demandOption: true,
      describe: 'What the policy scored, with "correct" or "given_correct"; - for standard input',
    })
    .options({
      adapter: { type: "string", requiresArg: true, describe: "The policy's folder" },
      out: { type: "string", requiresArg: true, describe: "Folder of the calibrated policy" },
      kind: {
        choices: ["temperature", "platt", "isotonic"] as const,
        default: "platt" as const,
        describe:
          "temperature: one number; platt: a slope and an offset; isotonic: any rising curve (many predictions)",
      },
    })
    .demandOption(["adapter", "out"]);

interface CalibrateArguments {
  predictions: string;
  adapter: string;
  out: string;
  kind: CalibratorKind;
  json: boolean;
}

const told = ["brier", "nll", "ece"] as const;

export async function handler({ predictions, adapter, out, kind, json }: CalibrateArguments): Promise<void> {
  const { fitCalibrator } = await import("../evaluation/calibrators.js");
  const { measure } = await import("../evaluation/metrics.js");
  const { applyCalibrator } = await import("../model/calibrator.js");
  const { copyWithCalibrator } = await import("../model/policy-folder.js");
  const { readPredictions } = await import("./predictions.js");
  const before = await readPredictions(predictions);
  const calibrator = await fitCalibrator(kind, before);
  copyWithCalibrator(adapter, out, calibrator);
  const after = before.map((row) => ({ ...row, confidence: applyCalibrator(calibrator, row.confidence) }));
  const values = told.map((metric) => [metric, measure(before, metric)!, measure(after, metric)!] as const);
  if (json) {
    const fitted = Object.fromEntries(values.map(([metric, was, is]) => [metric, { before: was, after: is }]));
    printJson({ calibrator, n: before.length, fitted });
    return;
  }
  print(
    table([
      ["metric", "before", "after"],
      ...values.map(([metric, was, is]) => [metric, was.toFixed(4), is.toFixed(4)]),
    ]),
  );
  print(`on the ${before.length} predictions it was fitted to; judge it on others. The policy is in ${out}`);
}
