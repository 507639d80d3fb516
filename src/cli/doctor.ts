/** The machine, the back ends and why one is absent, measured peaks, versions: what a bug report needs. */
import { createRequire } from "node:module";
import { arch, platform, release } from "node:os";
import type { Argv } from "yargs";
import { native } from "../native.js";
import { version } from "../version.js";
import { engineOptions } from "./options.js";
import { print, printJson, table } from "./output.js";

export const command = "doctor";
export const describe = "What this machine can do, what is missing and why; what a bug report needs";
export const builder = (line: Argv) => line.options({ threads: engineOptions.threads });

export async function handler({ threads, json }: { threads?: number; json: boolean }): Promise<void> {
  const machine = native().machine();
  const peaks = await native().peaks(threads ?? machine.cores);
  const versions = { credence: version, node: process.versions.node, ...libraries() };
  const system = `${platform()} ${release()} ${arch()}`;
  if (json) {
    printJson({ system, machine, threads: threads ?? machine.cores, peaks, versions });
    return;
  }
  const of = threads ?? machine.cores;
  print(
    table([
      ["system", system],
      ["processor", `${machine.cpu}, ${machine.cores} cores, ${(machine.memoryBytes / 2 ** 30).toFixed(1)} GiB`],
      ["instruction sets", machine.isas.join(", ")],
      ["cuda", machine.cuda],
      ["float32 product", `${peaks.f32Gflops.toFixed(0)} GFLOP/s on ${of} threads`],
      ["bf16 product", `${peaks.bf16Gflops.toFixed(0)} GFLOP/s on ${of} threads`],
      ["reading memory", `${peaks.readGBs.toFixed(1)} GB/s on ${of} threads`],
      ...Object.entries(versions),
    ]),
  );
}

/** Versions of the libraries whose behaviour shows in a result. */
function libraries(): Record<string, string> {
  const require = createRequire(import.meta.url);
  const names = ["tokenizers", "@huggingface/jinja", "@huggingface/hub", "world-countries"];
  return Object.fromEntries(names.map((name) => [name, installed(require, name)]));
}

/** A package may not export its package.json, so its folder is looked up along the search path. */
function installed(require: NodeJS.Require, name: string): string {
  for (const folder of require.resolve.paths(name) ?? []) {
    try {
      return (require(`${folder}/${name}/package.json`) as { version: string }).version;
    } catch {
      // not in this folder
    }
  }
  return "not installed";
}
