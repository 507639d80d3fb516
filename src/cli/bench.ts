/** The native benchmark workloads: shapes, medians, and the peaks measured in the same process. */
import type { Argv } from "yargs";
import { native } from "../native.js";
import { baseOptions, type EngineArguments, engineOptions, modelOption, positiveInteger } from "./options.js";
import { note, print, printJson, table } from "./output.js";

const workloads = ["sft"] as const;

export const command = "bench <what>";
export const describe =
  "Run a benchmark workload; sft: LoRA fine-tuning steps as bench/peers/torch_lora_sft.py takes them";
export const builder = (line: Argv) =>
  line
    .positional("what", { choices: workloads, describe: "The workload" })
    .options(modelOption)
    .options(engineOptions)
    .option("repeats", { type: "number", default: 6, describe: "Steps measured", coerce: positiveInteger("repeats") })
    .demandOption("model");

interface BenchArguments extends EngineArguments {
  what: (typeof workloads)[number];
  model: string;
  repeats: number;
  json: boolean;
}

export async function handler(args: BenchArguments): Promise<void> {
  const { resolveModel } = await import("../model/resolve.js");
  const { path } = await resolveModel(args.model, { note });
  const options = { ...baseOptions(args), model: path, repeats: args.repeats };
  const measured = JSON.parse(await native().bench(args.what, options)) as Record<string, unknown>;
  // After the workload, so that measuring the peaks does not warm or cool it.
  const peaks = await native().peaks(args.threads ?? native().machine().cores);
  const result = { ...measured, peaks };
  if (args.json) printJson(result);
  else print(table(Object.entries(result).map(([name, value]) => [name, shown(value)])));
}

function shown(value: unknown): string {
  if (typeof value === "number") return Number.isInteger(value) ? String(value) : value.toPrecision(5);
  return typeof value === "string" ? value : JSON.stringify(value);
}
