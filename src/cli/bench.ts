/** The native benchmarks: shapes, best and median times, and the peaks measured in the same process. */
import type { Argv } from "yargs";
import { native } from "../native.js";
import { baseOptions, type EngineArguments, engineOptions, modelOption, positiveInteger } from "./options.js";
import { median, note, print, printJson, table, UsageError } from "./output.js";

const workloads = ["sft", "ppo", "generate", "samples", "query", "answers", "kernels", "load"] as const;
const shapes = ["15m", "42m", "135m", "360m", "1.1b"] as const;
const groups = ["products", "lora", "attention", "operators"] as const;
const count = (name: string, describe: string) =>
  ({ type: "number", requiresArg: true, describe, coerce: positiveInteger(name) }) as const;

export const command = "bench <what>";
export const describe =
  "Measure the engine beside the peaks of the same process; docs/measurements says how figures are got";
export const builder = (line: Argv) =>
  line
    .positional("what", {
      choices: workloads,
      describe:
        "sft: LoRA fine-tuning steps as bench/peers/torch_lora_sft.py takes them; ppo: a rollout, its scores and the steps learnt " +
        "from it as in bench/peers/torch_ppo.py, with the engine's and the process's memory over the steps; generate: prefill and " +
        "decoding on the prompts of bench/peers/llama_cpp.mjs; samples: ten answers to each of 16 prompts; query: whether an answer is " +
        "right, one answer a question; answers: the same of ten answers to each question; kernels: the engine's operators and products " +
        "alone; load: from Model.load to the first token of a prompt of 32",
    })
    .options(modelOption)
    .options(engineOptions)
    .option("shape", { choices: shapes, describe: "Random weights of this size instead of --model" })
    .option("repeats", { ...count("repeats", "Steps or calls measured"), default: 6 })
    .option("workload", {
      choices: ["full", "ragged"] as const,
      default: "full" as const,
      describe: "sft: every token supervised, or the last fifth of 64 sequences of 40 to 200",
    })
    .option(
      "batch",
      count(
        "batch",
        "sft: sequences of a step [default: 4]; ppo: prompts of a step [default: 32]; generate: sequences decoded [default: 1, 16]",
      ),
    )
    .option("length", {
      ...count("length", "sft: tokens of a sequence; generate: of the prefilled prompt"),
      default: 512,
    })
    .option("new-tokens", { ...count("new-tokens", "ppo: tokens of a completion"), default: 48 })
    .option("rank", { ...count("rank", "sft, ppo: of an adapter"), default: 16 })
    .option("train", {
      choices: ["adapter", "beside", "all"] as const,
      default: "adapter" as const,
      describe: "sft: an adapter, embeddings, head and norms beside it, or every weight and no adapter",
    })
    .option("only", { choices: groups, describe: "kernels: one group of them" })
    .option("tokens", { ...count("tokens", "kernels: rows of a micro-batch, a multiple of 64"), default: 2048 })
    .check(({ what, model, shape }) => {
      if (what === "kernels") return true;
      if (model && shape) throw new UsageError(`bench ${what}: give --model or --shape, not both`);
      if (["load", "ppo", "query", "answers"].includes(String(what)) && !model)
        throw new UsageError(`bench ${what}: --model is missing`);
      if (!model && !shape) throw new UsageError(`bench ${what}: --model is missing, or --shape for random weights`);
      return true;
    });

interface BenchArguments extends EngineArguments {
  what: (typeof workloads)[number];
  model?: string;
  shape?: (typeof shapes)[number];
  workload: "full" | "ragged";
  batch?: number;
  length: number;
  newTokens: number;
  rank: number;
  train: "adapter" | "beside" | "all";
  only?: (typeof groups)[number];
  tokens: number;
  repeats: number;
  json: boolean;
}

/** A kernel at one shape; a rate is of the best time, and so is the share of the peak that binds it. */
interface KernelLine {
  kernel: string;
  shape: string;
  ms_best: number;
  ms_median: number;
  gflops: number;
  gbs: number;
  share_of_peak: number;
  bound: "product" | "memory";
}

/** The four fused products of a layer, adapted beside bare. */
interface AdapterLine {
  pass: "forward" | "backward";
  rows: number;
  ms_bare: number;
  ms_adapted: number;
  overhead: number;
}

export async function handler(args: BenchArguments): Promise<void> {
  const { resolveModel } = await import("../model/resolve.js");
  const { what, shape, workload, batch, length, rank, train, only, tokens, repeats } = args;
  const model = args.model === undefined ? undefined : (await resolveModel(args.model, { note })).path;
  const engine = async (): Promise<Record<string, unknown>> => {
    const options = { model, shape, workload, batch, length, rank, train, only, tokens, repeats };
    return JSON.parse(await native().bench(what, { ...baseOptions(args), ...options }));
  };
  const ppo = async () => (await import("./bench-ppo.js")).benchPpo(model!, { ...args, batch: batch ?? 32 });
  const query = async () => (await import("./bench-query.js")).benchQuery(model!, what === "answers" ? 10 : 1, args);
  const measuring = { load: () => load(model!, args), ppo, query, answers: query };
  const result = await (what in measuring ? measuring[what as keyof typeof measuring]() : engine());
  if (args.json) {
    printJson(result);
    return;
  }
  const { kernels = [], lora = [], ...rest } = result as { kernels?: KernelLine[]; lora?: AdapterLine[] };
  print(table(Object.entries(rest).map(([name, value]) => [name, shown(value)])));
  for (const { pass, rows, ms_bare, ms_adapted, overhead } of lora) {
    const times = `${ms_bare.toFixed(2)} ms bare, ${ms_adapted.toFixed(2)} ms with r 16`;
    print(`four fused products, ${pass}, ${rows} rows: ${times}: ${(100 * overhead).toFixed(1)} % more`);
  }
  if (kernels.length > 0) print(table([heading, ...kernels.map(cells)]));
}

/**
 * Seconds from `Model.load` until the first token of a 32-token prompt is there, each time from nothing: the file is in the
 * system's cache after the first, which is not counted.
 */
async function load(path: string, args: BenchArguments): Promise<Record<string, unknown>> {
  const { Model } = await import("../policy/model.js");
  const loading: number[] = [];
  const all: number[] = [];
  for (let i = 0; i <= args.repeats; i++) {
    const start = performance.now();
    await using model = await Model.load(path, { ...baseOptions(args), note });
    const loaded = performance.now();
    await using policy = await model.policy();
    const prompt = Int32Array.from({ length: 32 }, (_, k) => (k * 7919 + 11) % model.info.vocabularySize);
    for await (const _ of policy.generate([prompt], { maxNewTokens: 1 }));
    if (i === 0) continue;
    loading.push((loaded - start) / 1000);
    all.push((performance.now() - start) / 1000);
  }
  const threads = args.threads ?? native().machine().cores;
  return {
    engine: "credence",
    threads,
    prompt: 32,
    load_s_median: median(loading),
    first_token_s_median: median(all),
    first_token_s_best: Math.min(...all),
    repeats: args.repeats,
    peaks: await native().peaks(threads, args.isa),
  };
}

const heading = ["kernel", "shape", "best", "median", "GFLOP/s", "GB/s", "of peak"];

function cells(line: KernelLine): string[] {
  return [
    line.kernel,
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
