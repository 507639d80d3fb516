/** An adapter merged into the weights of its base. */
import type { Argv } from "yargs";
import { interruptible } from "./interrupt.js";
import { baseOptions, type EngineArguments, modelOption } from "./options.js";
import { note } from "./output.js";
import { checkOptions, outOption, tellWritten, weightOptions, weightType } from "./written.js";

export const command = "merge";
export const describe = "Merge an adapter into the weights of its base: a model of its own, as safetensors or GGUF";
export const builder = (line: Argv) =>
  line
    .options({
      adapter: { type: "string", demandOption: true, requiresArg: true, describe: "A PEFT folder" },
      ...modelOption,
      ...outOption,
      ...weightOptions,
      ...checkOptions,
    })
    .epilogue(
      "W + s B A is computed in float32 and rounded once. Without --model the base is the one the adapter names. What was " +
        "written is read again and must give the logits of base and adapter. Heads and card stay with the adapter.",
    )
    .example("$0 merge --adapter runs/quickstart/best --out merged", "a Hugging Face folder")
    .example("$0 merge --adapter tuned --out tuned.gguf --type q8_0", "for llama.cpp");

interface MergeArguments extends EngineArguments {
  adapter: string;
  model?: string;
  out: string;
  type: Parameters<typeof weightType>[0];
  shardSize: number;
  json: boolean;
}

export async function handler(args: MergeArguments): Promise<void> {
  const { mergeAdapter } = await import("../policy/model-files.js");
  await interruptible(async (signal) => {
    const { adapter, model, out, type, shardSize, json } = args;
    const options = { ...baseOptions(args), type: weightType(type), shardBytes: shardSize, note, signal };
    tellWritten(await mergeAdapter(adapter, out, { ...options, ...(model === undefined ? {} : { model }) }), json);
  });
}
