/** A model in another format, type or vocabulary. */
import type { Argv } from "yargs";
import { interruptible } from "./interrupt.js";
import { baseOptions, type EngineArguments, positiveInteger } from "./options.js";
import { note } from "./output.js";
import { checkOptions, outOption, tellWritten, weightOptions, weightType } from "./written.js";

export const command = "convert <model>";
export const describe = "Write a model in another format, type or vocabulary: safetensors or GGUF";
export const builder = (line: Argv) =>
  line
    .positional("model", {
      type: "string",
      demandOption: true,
      describe: "A Hugging Face folder (safetensors or .bin), a .gguf file, or a hub id",
    })
    .options({
      ...outOption,
      ...weightOptions,
      tokenizer: {
        type: "string",
        requiresArg: true,
        describe: "Another tokenizer, with tokens more or fewer at the end; the embedding grows or shrinks with it",
      },
      vocabulary: {
        type: "number",
        requiresArg: true,
        describe: "Rows of the embedding, whatever the tokenizer has; new ones are the mean of the old",
        coerce: positiveInteger("vocabulary"),
      },
      ...checkOptions,
    })
    .epilogue(
      "The model passes through a block of rows at a time. What was written is read again: each weight must be the source's " +
        "within what its type rounds, and so must the logits; of a quantised type how far they are is told. A .bin file is read by a reader of tensors alone: nothing in it is run.",
    )
    .example("$0 convert models/smollm2 --out smollm2.gguf --type q8_0", "for llama.cpp")
    .example("$0 convert model.gguf --out folder --type bf16", "for transformers");

interface ConvertArguments extends EngineArguments {
  model: string;
  out: string;
  type: Parameters<typeof weightType>[0];
  shardSize: number;
  tokenizer?: string;
  vocabulary?: number;
  json: boolean;
}

export async function handler(args: ConvertArguments): Promise<void> {
  const { convertModel } = await import("../policy/model-files.js");
  await interruptible(async (signal) => {
    const { model, out, type, shardSize, tokenizer, vocabulary, json } = args;
    const written = await convertModel(model, out, {
      ...baseOptions(args),
      type: weightType(type),
      shardBytes: shardSize,
      ...(tokenizer === undefined ? {} : { tokenizer }),
      ...(vocabulary === undefined ? {} : { vocabulary }),
      note,
      signal,
    });
    tellWritten(written, json);
  });
}
