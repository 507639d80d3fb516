/** How good confidences are, with intervals. */
import type { Argv } from "yargs";
import { positiveInteger, seedOption } from "./options.js";
import { print, printJson, table } from "./output.js";

export const command = "evaluate <predictions>";
export const describe = "Accuracy, AUROC, ECE, Brier and more of a file of predictions, with 95 % intervals";
export const builder = (line: Argv) =>
  line
    .positional("predictions", {
      type: "string",
      demandOption: true,
      describe: 'Records with "confidence" and "correct" or "given_correct"; - for standard input',
    })
    .options({
      ...seedOption,
      bins: {
        type: "number",
        default: 10,
        describe: "Bins of the calibration errors",
        coerce: positiveInteger("bins"),
      },
      resamples: { type: "number", default: 2000, describe: "Bootstrap resamples; 0 for no intervals" },
      against: {
        type: "string",
        requiresArg: true,
        describe: "Predictions of the same questions: paired differences are told too",
      },
    });

interface EvaluateArguments {
  predictions: string;
  against?: string;
  bins: number;
  resamples: number;
  seed: number;
  json: boolean;
}

export async function handler({ predictions, against, bins, resamples, seed, json }: EvaluateArguments): Promise<void> {
  const { evaluate, pairedBootstrap } = await import("../evaluation/bootstrap.js");
  const { metricNames } = await import("../evaluation/metrics.js");
  const { readPredictions } = await import("./predictions.js");
  const bootstrap = { samples: resamples, seed };
  const rows = await readPredictions(predictions);
  const metrics = evaluate(rows, { bins, bootstrap });
  const other = against ? await readPredictions(against) : undefined;
  const differences =
    other &&
    Object.fromEntries(metricNames.map((name) => [name, pairedBootstrap(rows, other, name, { bins, ...bootstrap })]));
  if (json) {
    printJson({ metrics, ...(differences ? { differences } : {}) });
    return;
  }
  const cells = (value: (typeof metrics)[keyof typeof metrics]) =>
    value.value === null
      ? ["-", value.reason]
      : [value.value.toFixed(4), value.low === null ? "" : `${value.low.toFixed(4)} to ${value.high!.toFixed(4)}`];
  print(
    table([["metric", "value", "95 %"], ...Object.entries(metrics).map(([name, value]) => [name, ...cells(value)])]),
  );
  if (differences)
    print(
      `\n${table([["difference", "value", "95 %"], ...Object.entries(differences).map(([name, value]) => [name, ...cells(value)])])}`,
    );
}
