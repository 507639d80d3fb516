/** A policy's adapter as a folder that PEFT loads. */
import type { Argv } from "yargs";
import type { RewardLayout } from "../training/reward-model/layouts.js";
import { interruptible } from "./interrupt.js";
import { baseOptions, type EngineArguments, modelOption } from "./options.js";
import { note, print, printJson } from "./output.js";
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
      reward: {
        choices: ["deepspeed", "trl", "transformers"] as const,
        describe:
          "A reward model for another program: deepspeed, merged weights and v_head; trl, an adapter with v_head.summary; " +
          "transformers, an adapter with score, as PEFT keeps sequence classifiers",
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
  reward?: RewardLayout;
  json: boolean;
}

export async function handler(args: ExportArguments): Promise<void> {
  if (args.reward) {
    await exportReward(args, args.reward);
    return;
  }
  const { exportAdapter } = await import("../policy/model-files.js");
  await interruptible(async (signal) => {
    const { adapter, model, out, keys, json } = args;
    const options = { ...baseOptions(args), keys, note, signal };
    tellWritten(await exportAdapter(adapter, out, { ...options, ...(model === undefined ? {} : { model }) }), json);
  });
}

async function exportReward(args: ExportArguments, layout: RewardLayout): Promise<void> {
  const { writeRewardModel } = await import("../training/reward-model/layouts.js");
  const { loadPolicy } = await import("./policy.js");
  await interruptible(async (signal) => {
    await using loaded = await loadPolicy({ ...args, engine: baseOptions(args), signal });
    const written = await writeRewardModel(loaded.model, args.adapter, args.out, layout);
    if (args.json) printJson(written);
    else print(`${written.path}: ${written.files.join(", ")}`);
  });
}
