/** The native benchmarks: shapes, best and median times, and the peaks measured in the same process. */
import type { Argv } from "yargs";
import { native } from "../native.js";
import { baseOptions, type EngineArguments, engineOptions, modelOption, positiveInteger } from "./options.js";
import { note, print, printJson, table, UsageError } from "./output.js";

const workloads = ["sft", "operators"] as const;

export const command = "bench <what>";
export const describe =
  "Measure the engine; sft: LoRA fine-tuning steps of a model as bench/peers/torch_lora_sft.py takes them; operators: each of its operators";
export const builder = (line: Argv) =>
  line
    .positional("what", { choices: workloads, describe: "What is measured" })
    .options(modelOption)
    .options(engineOptions)
    .option("repeats", {
      type: "number",
      default: 6,
      describe: "sft: steps measured",
      coerce: positiveInteger("repeats"),
    })
    .check(({ what, model }) => {
      if (what === "sft" && !model) throw new UsageError("bench sft: --model is missing");
      return true;
    });

interface BenchArguments extends EngineArguments {
  what: (typeof workloads)[number];
  model?: string;
  repeats: number;
  json: boolean;
}

/** One operator at one shape; a rate is of the best time, and so is the share of the peak that binds it. */
interface OperatorLine {
  operator: string;
  shape: string;
  ms_best: number;
  ms_median: number;
  gflops: number;
  gbs: number;
  share_of_peak: number;
  bound: "product" | "memory";
}

type Measured = Record<string, unknown> & { isa: string; threads: number; operators?: OperatorLine[] };

export async function handler(args: BenchArguments): Promise<void> {
  const { resolveModel } = await import("../model/resolve.js");
  const model = args.model === undefined ? undefined : (await resolveModel(args.model, { note })).path;
  const measured = JSON.parse(
    await native().bench(args.what, { ...baseOptions(args), model, repeats: args.repeats }),
  ) as Measured;
  // After the workload, so that measuring the peaks does not warm or cool it.
  const peaks = measured.peaks ?? (await native().peaks(measured.threads, measured.isa));
  const { operators = [], ...result } = { ...measured, peaks };
  if (args.json) {
    printJson(args.what === "operators" ? { ...result, operators } : result);
    return;
  }
  print(table(Object.entries(result).map(([name, value]) => [name, shown(value)])));
  if (operators.length > 0) print(table([heading, ...operators.map(cells)]));
}

const heading = ["operator", "shape", "best", "median", "GFLOP/s", "GB/s", "of peak"];

function cells(line: OperatorLine): string[] {
  return [
    line.operator,
    line.shape,
    `${line.ms_best.toFixed(3)} ms`,
    `${line.ms_median.toFixed(3)} ms`,
    line.gflops.toFixed(1),
    line.gbs.toFixed(1),
    `${(100 * line.share_of_peak).toFixed(0)} % (${line.bound})`,
  ];
}

function shown(value: unknown): string {
  if (typeof value === "number") return Number.isInteger(value) ? String(value) : value.toPrecision(5);
  return typeof value === "string" ? value : JSON.stringify(value);
}
