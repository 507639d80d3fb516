/** What the commands that write models and adapters share: their options, and how they tell what they did. */
import type { Options } from "yargs";
import type { WeightType } from "../native.js";
import type { WrittenFiles } from "../policy/model-files.js";
import { engineOptions } from "./options.js";
import { note, print, printJson, UsageError } from "./output.js";

export const outOption = {
  out: {
    type: "string",
    demandOption: true,
    requiresArg: true,
    describe: "A new folder of safetensors, or a new file that ends in .gguf",
  },
} satisfies Record<string, Options>;

const types = { auto: "auto", f32: "F32", f16: "F16", bf16: "BF16", q8_0: "Q8_0", q4_0: "Q4_0" } as const;

/** How weights are stored. */
export const weightOptions = {
  type: {
    choices: Object.keys(types) as (keyof typeof types)[],
    default: "auto" as const,
    describe: "Type of the matrices; q8_0 and q4_0 in a .gguf only [auto: as in the source, else f16]",
  },
  "shard-size": {
    type: "string",
    default: "5GB",
    requiresArg: true,
    describe: "Longest file of safetensors, e.g. 500MB",
    coerce: shardBytes,
  },
} satisfies Record<string, Options>;

/** Where the comparison with the source is computed. */
export const checkOptions = {
  ...engineOptions,
  dtype: {
    choices: ["f32", "bf16"] as const,
    default: "f32" as const,
    describe: "Arithmetic of the comparison; bf16 takes half the memory and allows more difference",
  },
} satisfies Record<string, Options>;

export const weightType = (type: keyof typeof types): WeightType => types[type];

function shardBytes(text: string): number {
  const [, number, unit] = /^(\d+(?:\.\d+)?)\s*([KMGT]?)B?$/i.exec(text) ?? [];
  const bytes = Number(number) * 1000 ** ["", "K", "M", "G", "T"].indexOf((unit ?? "").toUpperCase());
  if (!(bytes >= 1)) throw new UsageError(`--shard-size ${text}: expected a size such as 500MB or 5GB`);
  return bytes;
}

/** A size as people say it. */
export function size(bytes: number): string {
  const units = ["bytes", "kB", "MB", "GB", "TB"];
  const power = Math.min(units.length - 1, bytes < 1 ? 0 : Math.floor(Math.log10(bytes) / 3));
  return `${power === 0 ? bytes : (bytes / 1000 ** power).toFixed(1)} ${units[power]}`;
}

export function tellWritten(written: WrittenFiles, json: boolean): void {
  if (json) {
    printJson(written);
    return;
  }
  const { check, notes, path, files, bytes, type } = written;
  for (const line of notes) note(`note: ${line}`);
  print(`${path}: ${files.length === 1 ? "1 file" : `${files.length} files`}, ${size(bytes)} of ${type}`);
  print(
    `read again: every weight is its source's as far as its type holds it; logits differ by at most ${check.largestDifference.toPrecision(3)} of ${check.largestLogit.toPrecision(3)} ` +
      `(${check.error.toPrecision(2)}${check.bound === null ? "" : `, ${check.bound} is allowed`}); ` +
      `the likeliest token is the same in ${check.sameChoice} of ${check.rows} places`,
  );
}
