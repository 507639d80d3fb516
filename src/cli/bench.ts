/** The native benchmark workloads: shapes, medians, and the peaks measured in the same process. */
import { join } from "node:path";
import type { Argv } from "yargs";
import { CredenceError } from "../errors.js";
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
  const tokens = await peerTokens(path);
  const options = { ...baseOptions(args), model: path, repeats: args.repeats, tokens };
  const measured = JSON.parse(await native().bench(args.what, options)) as Record<string, unknown>;
  // After the workload, so that measuring the peaks does not warm or cool it.
  const peaks = await native().peaks(args.threads ?? native().machine().cores);
  const result = { ...measured, peaks };
  if (args.json) printJson(result);
  else print(table(Object.entries(result).map(([name, value]) => [name, shown(value)])));
}

/** torch.randint(0, vocabulary, (4, 512)) from a generator seeded with 1234: the peer's token ids. */
async function peerTokens(path: string): Promise<Int32Array> {
  const { MersenneTwister } = await import("../data/random.js");
  const random = new MersenneTwister(1234);
  const vocabulary = await vocabularySize(path);
  return Int32Array.from({ length: 4 * 512 }, () => random.uint32() % vocabulary);
}

/** Rows of the model's embedding, as its own description says. */
async function vocabularySize(path: string): Promise<number> {
  if (/\.gguf$/i.test(path)) {
    const { readGgufMetadata } = await import("../model/gguf-metadata.js");
    const tokens = (await readGgufMetadata(path)).strings("tokenizer.ggml.tokens");
    if (tokens) return tokens.length;
    throw new CredenceError("BAD_MODEL_FILE", `${path}: it names no tokens, so there are none to train on`);
  }
  const { readJson } = await import("../files.js");
  const config = readJson(join(path, "config.json")) as { vocab_size?: unknown };
  if (typeof config.vocab_size === "number") return config.vocab_size;
  throw new CredenceError("BAD_MODEL_FILE", `${join(path, "config.json")}: "vocab_size" is missing`);
}

function shown(value: unknown): string {
  if (typeof value === "number") return Number.isInteger(value) ? String(value) : value.toPrecision(5);
  return typeof value === "string" ? value : JSON.stringify(value);
}
