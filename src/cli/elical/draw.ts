/** The published figures, from what evaluate wrote. */
import { join } from "node:path";
import type { Argv } from "yargs";
import { elicalRows } from "../../methods/elical/published/compat.js";
import { positiveInteger } from "../options.js";
import { note, print, printJson } from "../output.js";
import { type PublishedScript, publishedOptions } from "../published.js";

/** The published script has no flags: what it draws and from where stands in its code. */
export const script: PublishedScript = { name: "draw", honoured: {}, unneeded: {}, dead: {}, rows: elicalRows };

export const command = "draw";
export const describe = "The published figures as SVG, drawn from the files that evaluate wrote";
export const builder = (line: Argv) =>
  line.options({
    ...publishedOptions(script),
    "model-name": {
      type: "string",
      array: true,
      demandOption: true,
      requiresArg: true,
      describe: "Models to draw side by side, as evaluate has them",
    },
    "train-dataset": { type: "string", demandOption: true, requiresArg: true, describe: "What was trained on" },
    "greedy-samples": {
      type: "string",
      default: "all",
      requiresArg: true,
      describe: "Number of questions that were elicited from",
    },
    "all-samples": {
      type: "number",
      default: 580_000,
      describe: 'How many questions "all" stands for on the axes',
      coerce: positiveInteger("all-samples"),
    },
    "eval-dataset": {
      type: "string",
      requiresArg: true,
      describe: "Set whose confidences are drawn [default: the first in-domain one]",
    },
    out: { type: "string", default: "res", requiresArg: true, describe: "Folder of the workbooks, as evaluate has it" },
    figures: { type: "string", requiresArg: true, describe: "Folder of the figures [default: figures/ in --out]" },
  });

interface DrawArguments {
  modelName: string[];
  trainDataset: string;
  greedySamples: string;
  allSamples: number;
  evalDataset?: string;
  out: string;
  figures?: string;
  json: boolean;
}

export async function handler(args: DrawArguments): Promise<void> {
  const { drawFigures } = await import("../../methods/elical/published/draw.js");
  const { parseSize } = await import("../../methods/elical/published/paths.js");
  const drawn = await drawFigures({
    results: args.out,
    models: args.modelName.flatMap((names) => names.split(",")),
    trainSet: args.trainDataset,
    elicitationRows: parseSize(args.greedySamples),
    allRows: args.allSamples,
    out: args.figures ?? join(args.out, "figures"),
    ...(args.evalDataset === undefined ? {} : { set: args.evalDataset }),
  });
  if (args.json) printJson(drawn);
  for (const figure of drawn) {
    if ("missing" in figure) note(`${figure.name}: not drawn, ${figure.missing}`, "warn");
    else if (!args.json) print(figure.path);
  }
}
