/** Calibration-tuning's published scripts, one sub-command each, with their flags, file names and layouts. */
import type { Argv, CommandModule } from "yargs";
import * as ambiguous from "./calibration-tuning/ambiguous.js";
import * as classify from "./calibration-tuning/classify.js";
import * as embed from "./calibration-tuning/embed.js";
import * as evaluate from "./calibration-tuning/evaluate.js";
import * as evaluateLogits from "./calibration-tuning/evaluate-logits.js";
import * as generate from "./calibration-tuning/generate.js";
import * as label from "./calibration-tuning/label.js";
import * as play from "./calibration-tuning/play.js";
import * as publish from "./calibration-tuning/publish.js";
import * as tune from "./calibration-tuning/tune.js";
import type { PublishedScript } from "./published.js";

const commands = [
  generate,
  label,
  embed,
  tune,
  classify,
  evaluate,
  evaluateLogits,
  ambiguous,
  play,
  publish,
] as unknown as (CommandModule & { script: PublishedScript })[];

/** The scripts' flags, for whoever reads the command line before yargs does. */
export const scripts: readonly PublishedScript[] = commands.map(({ script }) => script);

export const command = "calibration-tuning";
export const describe = "Calibration-tuning's published scripts: the same flags, file names and layouts";
export const builder = (line: Argv) =>
  commands
    .reduce((parser, script) => parser.command(script), line)
    .usage(
      "$0 calibration-tuning <script>\n\nCalibration-tuning's published scripts, corrected; --compat brings a quirk of theirs back.",
    )
    .demandCommand(1, 1, "which script? credence calibration-tuning --help lists them", "one script at a time");

/** A sub-command does the work; without one, yargs has refused. */
export const handler = (): void => {};
