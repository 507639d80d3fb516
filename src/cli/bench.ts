/** The native benchmark workloads: shapes, medians, and the share of the peak measured in the same process. */
import type { Argv } from "yargs";
import { native } from "../native.js";
import { baseOptions, type EngineArguments, engineOptions, modelOption, positiveInteger } from "./options.js";
import { print, printJson, table } from "./output.js";

const workloads = ["sft"] as const;

export const command = "bench <what>";
export const describe =
  "Run a benchmark workload, e.g. sft: LoRA fine-tuning steps as bench/peers/torch_lora_sft.py takes them";
export const builder = (line: Argv) =>
  line
    .positional("what", { choices: workloads, describe: "The workload" })
    .options(modelOption)
    .options(engineOptions)
    .options({
      batch: { type: "number", default: 4, describe: "Sequences a step", coerce: positiveInteger("batch") },
      sequence: { type: "number", default: 512, describe: "Tokens a sequence", coerce: positiveInteger("sequence") },
      steps: { type: "number", default: 6, describe: "Steps measured", coerce: positiveInteger("steps") },
      warmup: { type: "number", default: 2, describe: "Steps before", coerce: positiveInteger("warmup") },
    })
    .demandOption("model");

interface Arguments extends EngineArguments {
  what: (typeof workloads)[number];
  model: string;
  batch: number;
  sequence: number;
  steps: number;
  warmup: number;
  json: boolean;
}

export async function handler(args: Arguments): Promise<void> {
  const { what, model, batch, sequence, steps, warmup, json } = args;
  const document = await native().bench(what, { ...baseOptions(args), model, batch, sequence, steps, warmup });
  const result = JSON.parse(document) as Record<string, unknown>;
  if (json) printJson(result);
  else print(table(Object.entries(result).map(([name, value]) => [name, shown(value)])));
}

function shown(value: unknown): string {
  if (typeof value === "number") return Number.isInteger(value) ? String(value) : value.toPrecision(5);
  return typeof value === "string" ? value : JSON.stringify(value);
}
