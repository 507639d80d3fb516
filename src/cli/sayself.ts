/** SaySelf's published scripts, one sub-command each, with their flags, file names and layouts. */
import type { Argv, CommandModule } from "yargs";
import type { PublishedScript } from "./published.js";
import * as build from "./sayself/build.js";
import * as evaluate from "./sayself/evaluate.js";
import * as evaluateReasons from "./sayself/evaluate-reasons.js";
import * as finetune from "./sayself/finetune.js";
import * as generateReasons from "./sayself/generate-reasons.js";
import * as rlhf from "./sayself/rlhf.js";

/** A sub-command without a script is none that was published. */
const commands = [build, finetune, rlhf, evaluate, generateReasons, evaluateReasons] as unknown as (CommandModule & {
  script?: PublishedScript;
})[];

/** The scripts' flags, for whoever reads the command line before yargs does. */
export const scripts: readonly PublishedScript[] = commands.flatMap(({ script }) => script ?? []);

export const command = "sayself";
export const describe = "SaySelf's published trainings and evaluation: the same flags, file names and layouts";
export const builder = (line: Argv) =>
  commands
    .reduce((parser, script) => parser.command(script), line)
    .usage("$0 sayself <script>\n\nSaySelf's published scripts, corrected; --compat brings a quirk of theirs back.")
    .demandCommand(1, 1, "which script? credence sayself --help lists them", "one script at a time");

/** A sub-command does the work; without one, yargs has refused. */
export const handler = (): void => {};
