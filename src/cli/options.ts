/** Options that several commands share, checked at the border, and what their values are called inside. */
import type { Options } from "yargs";
import type { BaseOptions } from "../native.js";
import { note, UsageError } from "./output.js";

/** Every command has these; main.ts adds them. */
export const commonOptions = {
  json: { type: "boolean", default: false, describe: "Print one JSON object on standard output" },
  "log-level": {
    choices: ["error", "warn", "info", "debug"] as const,
    default: "info" as const,
    describe: "What standard error tells; debug adds stack traces",
  },
} satisfies Record<string, Options>;

/** Where and how the engine computes. */
export const engineOptions = {
  device: {
    type: "string",
    default: "auto",
    describe:
      "auto, cpu or cuda; auto takes cuda where it can be had and says, on a machine with a GPU, why it does not",
    coerce: device,
  },
  dtype: {
    choices: ["auto", "f32", "bf16"] as const,
    default: "auto" as const,
    describe: "Type of the frozen weights and the activations",
  },
  isa: {
    choices: ["auto", "scalar", "avx2", "avx512", "avx512bf16"] as const,
    default: "auto" as const,
    describe: "Instruction set of the CPU kernels",
  },
  threads: {
    type: "number",
    describe: "Threads of the engine [default: the number of cores]",
    coerce: positiveInteger("threads"),
  },
  "max-memory": {
    type: "string",
    requiresArg: true,
    describe: "Bytes of the engine's memory that are kept to, e.g. 4GB or 900MiB [default: no limit]",
    coerce: byteCount("max-memory"),
  },
} satisfies Record<string, Options>;

export const modelOption = {
  model: {
    type: "string",
    describe: "A Hugging Face folder, a .gguf file, or a hub id",
    requiresArg: true,
  },
} satisfies Record<string, Options>;

/** A model, perhaps with an adapter, and where it runs. */
export const modelOptions = {
  ...modelOption,
  adapter: {
    type: "string",
    describe: "A PEFT folder, perhaps with heads and credence.json beside it",
    requiresArg: true,
  },
  ...engineOptions,
} satisfies Record<string, Options>;

/** What a new adapter is put on. */
export const adapterTargets = ["q", "k", "v", "o", "gate", "up", "down"] as const;

/** Of commands that decode. */
export const decodeOptions = {
  "fast-decode": {
    type: "boolean",
    default: false,
    describe:
      "On a GPU, decode long contexts faster; log-probabilities and confidences are then those of scoring to rounding only",
  },
} satisfies Record<string, Options>;

/** Says where `--fast-decode` has nothing to do. */
export function tellFastDecode({ fastDecode }: { fastDecode: boolean }, device: string): void {
  if (fastDecode && device === "cpu") note("--fast-decode: the CPU decodes as it always does; nothing is different");
}

export const seedOption = {
  seed: { type: "number", default: 0, describe: "Of everything random", coerce: integer("seed") },
} satisfies Record<string, Options>;

/** What `engineOptions` parse to. */
export interface EngineArguments {
  device: NonNullable<BaseOptions["device"]>;
  dtype: NonNullable<BaseOptions["dtype"]>;
  isa: NonNullable<BaseOptions["isa"]>;
  threads?: number;
  maxMemory?: number;
}

/** The engine's part of a command's arguments, as the addon takes it. */
export function baseOptions({ device, dtype, isa, threads, maxMemory }: EngineArguments): BaseOptions {
  return {
    device,
    dtype,
    isa,
    ...(threads === undefined ? {} : { threads }),
    ...(maxMemory === undefined ? {} : { maxMemory }),
  };
}

function device(value: string): EngineArguments["device"] {
  if (value === "auto" || value === "cpu" || value === "cuda") return value;
  throw new UsageError(`--device ${value}: expected auto, cpu or cuda`);
}

/** Yargs gives a repeated option as an array, and NaN for what is no number. */
export function integer(name: string) {
  return (value: number): number => {
    if (!Number.isSafeInteger(value)) throw new UsageError(`--${name}: expected one whole number, got ${value}`);
    return value;
  };
}

const units: Record<string, number> = {
  "": 1,
  K: 1e3,
  M: 1e6,
  G: 1e9,
  T: 1e12,
  KI: 2 ** 10,
  MI: 2 ** 20,
  GI: 2 ** 30,
  TI: 2 ** 40,
};

/** A number of bytes, with a unit or without: 4GB is 4e9, 4GiB is 4 * 2^30. */
function byteCount(name: string) {
  return (value: string | undefined): number | undefined => {
    if (value === undefined) return undefined;
    const [, digits, unit] = /^(\d+(?:\.\d+)?) ?([KMGT]I?)?B?$/i.exec(value) ?? [];
    const bytes = Math.floor(Number(digits) * units[unit?.toUpperCase() ?? ""]!);
    if (!Number.isSafeInteger(bytes) || bytes < 1)
      throw new UsageError(`--${name} ${value}: expected a number of bytes such as 4GB, 900MiB or 2000000000`);
    return bytes;
  };
}

/** For an option that may be absent. */
export function positiveInteger(name: string) {
  return (value: number | undefined): number | undefined => {
    if (value !== undefined && !(Number.isSafeInteger(value) && value > 0)) {
      throw new UsageError(`--${name}: expected one whole number above 0, got ${value}`);
    }
    return value;
  };
}

/**
 * For an option that may be absent.
 *
 * @param what ends the sentence "expected ..."
 */
export function numberThat(name: string, what: string, fits: (value: number) => boolean) {
  return (value: number | undefined): number | undefined => {
    if (value !== undefined && !fits(value)) throw new UsageError(`--${name}: expected ${what}, got ${value}`);
    return value;
  };
}

/** For an option that may be absent. */
export const fromZero = (name: string) => numberThat(name, "a number from 0", (value) => value >= 0);
export const aboveZero = (name: string) => numberThat(name, "a number above 0", (value) => value > 0);
export const wholeFromZero = (name: string) =>
  numberThat(name, "one whole number from 0", (value) => Number.isSafeInteger(value) && value >= 0);
