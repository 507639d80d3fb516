/** EliCal's published scripts, one sub-command each, with their flags, file names and layouts. */
import type { Argv, CommandModule } from "yargs";
import * as consistency from "./elical/consistency.js";
import * as convert from "./elical/convert.js";
import * as draw from "./elical/draw.js";
import * as evaluate from "./elical/evaluate.js";
import * as infer from "./elical/infer.js";
import * as predict from "./elical/predict.js";
import * as predictMlp from "./elical/predict-mlp.js";
import * as sweep from "./elical/sweep.js";
import * as train from "./elical/train.js";
import * as trainMlp from "./elical/train-mlp.js";
import type { PublishedScript } from "./published.js";

const commands = [
  convert,
  infer,
  consistency,
  train,
  trainMlp,
  predict,
  predictMlp,
  evaluate,
  sweep,
  draw,
] as unknown as (CommandModule & { script: PublishedScript })[];

/** The scripts' flags, for whoever reads the command line before yargs does. */
export const scripts: readonly PublishedScript[] = commands.map(({ script }) => script);

export const command = "elical";
export const describe = "EliCal's published scripts: the same flags, file names and layouts";
export const builder = (line: Argv) =>
  commands
    .reduce((parser, script) => parser.command(script), line)
    .usage("$0 elical <script>\n\nEliCal's published scripts, corrected; --compat brings a quirk of theirs back.")
    .demandCommand(1, 1, "which script? credence elical --help lists them", "one script at a time");

/** A sub-command does the work; without one, yargs has refused. */
export const handler = (): void => {};
