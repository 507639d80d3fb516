/** A policy's adapter as a folder that PEFT loads. */
import type { Argv } from "yargs";
import { interruptible } from "./interrupt.js";
import { baseOptions, type EngineArguments, modelOption } from "./options.js";
import { note } from "./output.js";
import { checkOptions, tellWritten } from "./written.js";

export const command = "export";
export const describe = "Write a policy's adapter as a PEFT folder, with its heads and card";
export const builder = (line: Argv) =>
  line
    .options({
      adapter: {
        type: "string",
        demandOption: true,
        requiresArg: true,
        describe: "A policy's folder, such as a run's best, or another PEFT folder",
      },
      out: { type: "string", demandOption: true, requiresArg: true, describe: "A new folder" },
      keys: {
        choices: ["peft", "bare"] as const,
        default: "peft" as const,
        describe: "Names of the tensors: peft, for a causal model; bare, for a backbone without its head (AutoModel)",
      },
      ...modelOption,
      ...checkOptions,
    })
    .epilogue(
      "The folder is read again on the base that the adapter names (or --model) and must give the same logits to the bit. " +
        "For weights with the adapter in them see credence merge.",
    );

interface ExportArguments extends EngineArguments {
  adapter: string;
  model?: string;
  out: string;
  keys: "peft" | "bare";
  json: boolean;
}

export async function handler(args: ExportArguments): Promise<void> {
  const { exportAdapter } = await import("../policy/model-files.js");
  await interruptible(async (signal) => {
    const { adapter, model, out, keys, json } = args;
    const options = { ...baseOptions(args), keys, note, signal };
    tellWritten(await exportAdapter(adapter, out, { ...options, ...(model === undefined ? {} : { model }) }), json);
  });
}
