/** CONQORD's published scripts, one sub-command each, with their flags, file names and layouts. */
import type { Argv, CommandModule } from "yargs";
import * as infer from "./conqord/infer.js";
import * as metrics from "./conqord/metrics.js";
import * as ppo from "./conqord/ppo.js";
import * as rate from "./conqord/rate.js";
import * as retrieval from "./conqord/retrieval.js";
import * as rewardModel from "./conqord/reward-model.js";
import * as sft from "./conqord/sft.js";
import type { PublishedScript } from "./published.js";

const commands = [sft, rewardModel, ppo, infer, rate, metrics, retrieval] as unknown as (CommandModule & {
  script: PublishedScript;
})[];

/** The scripts' flags, for whoever reads the command line before yargs does. */
export const scripts: readonly PublishedScript[] = commands.map(({ script }) => script);

export const command = "conqord";
export const describe = "CONQORD's published trainings and evaluation: the same flags, file names and layouts";
export const builder = (line: Argv) =>
  commands
    .reduce((parser, script) => parser.command(script), line)
    .usage("$0 conqord <script>\n\nCONQORD's published scripts, corrected; --compat brings a quirk of theirs back.")
    .demandCommand(1, 1, "which script? credence conqord --help lists them", "one script at a time");

/** A sub-command does the work; without one, yargs has refused. */
export const handler = (): void => {};
