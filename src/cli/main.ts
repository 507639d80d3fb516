/** The command line: which commands there are, and how an error becomes an exit code. */
import yargs, { type Argv, type CommandModule } from "yargs";
import { version } from "../version.js";
import * as ask from "./ask.js";
import * as bench from "./bench.js";
import * as calibrate from "./calibrate.js";
import * as calibrationTuning from "./calibration-tuning.js";
import * as conqord from "./conqord.js";
import * as convert from "./convert.js";
import * as doctor from "./doctor.js";
import * as elical from "./elical.js";
import * as evaluate from "./evaluate.js";
import * as exports from "./export.js";
import * as generate from "./generate.js";
import * as golden from "./golden.js";
import { INTERRUPTED } from "./interrupt.js";
import * as label from "./label.js";
import * as merge from "./merge.js";
import { commonOptions } from "./options.js";
import { type LogLevel, logs, note, ResultFailed, setLogLevel, UsageError } from "./output.js";
import * as plan from "./plan.js";
import { publishedSpelling } from "./published.js";
import * as reports from "./report.js";
import * as run from "./run.js";
import * as sayself from "./sayself.js";
import * as score from "./score.js";
import * as train from "./train.js";

// A command file imports at its top only what its options need, and the rest inside its handler: help answers at once.
const commands = [
  run,
  plan,
  ask,
  generate,
  label,
  train,
  score,
  evaluate,
  calibrate,
  reports,
  merge,
  exports,
  convert,
  elical,
  conqord,
  sayself,
  calibrationTuning,
  golden,
  bench,
  doctor,
] as unknown as CommandModule[];

/** Commands whose sub-commands are published scripts. */
const published = {
  elical: elical.scripts,
  conqord: conqord.scripts,
  sayself: sayself.scripts,
  "calibration-tuning": calibrationTuning.scripts,
};

/**
 * Parses and runs one command line (without node and the script).
 *
 * @returns the exit code: 0 done, 1 failed, 2 wrong usage, 130 interrupted and resumable
 */
export async function main(args: readonly string[]): Promise<number> {
  try {
    await parser(publishedSpelling(args, published)).parseAsync();
    return 0;
  } catch (error) {
    return report(error);
  }
}

function parser(args: readonly string[]): Argv {
  return commands
    .reduce((line, command) => line.command(command), yargs([...args]))
    .scriptName("credence")
    .usage("$0 <command>\n\nTeaches language models to say how sure they are, and to be right about it.")
    .options(commonOptions)
    .middleware((parsed) => setLogLevel(parsed["log-level"] as LogLevel), true)
    .completion("completion", "Print a script that completes commands and options in bash or zsh")
    .demandCommand(
      1,
      1,
      "which command? credence --help lists them",
      "one command at a time; credence --help lists them",
    )
    .strict()
    .recommendCommands()
    .help()
    .alias("help", "h")
    .version(version)
    .wrap(Math.min(120, process.stdout.columns ?? 100))
    .exitProcess(false)
    .fail((message, error) => {
      // yargs reports what it refuses itself, and what an option's own check threw, as a YError.
      throw error && error.name !== "YError" ? error : new UsageError(message ?? error.message);
    });
}

function report(error: unknown): number {
  if (error instanceof ResultFailed) return 1;
  const { message, code, stack } = described(error);
  if (code === "ABORTED") {
    note(message || "interrupted; the same command goes on from here", "error");
    return INTERRUPTED;
  }
  const usage = code === "USAGE";
  note(`credence: ${message}${usage ? "\nTry credence --help, or --help after a command." : ""}`, "error");
  if (logs("debug") && stack) note(stack, "debug");
  return usage ? 2 : 1;
}

function described(error: unknown): { message: string; code?: unknown; stack?: string } {
  if (!(error instanceof Error)) return { message: String(error) };
  const { message, stack } = error;
  return { message, stack, code: error.name === "AbortError" ? "ABORTED" : (error as { code?: unknown }).code };
}
