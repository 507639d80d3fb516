/** Fine-tuning to rationales with confidences, as finetune.py has it. */
import type { Argv } from "yargs";
import { saySelfRows } from "../../methods/sayself/compat.js";
import { saySelfDefaults } from "../../methods/sayself/training-settings.js";
import { modelOptionsOf, number } from "../conqord/training.js";
import { interruptible } from "../interrupt.js";
import { numberThat, positiveInteger } from "../options.js";
import { print, printJson } from "../output.js";
import { type PublishedScript, publishedOptions, publishedUnneeded } from "../published.js";
import {
  begunOf,
  checkTokenizer,
  commonOf,
  leftBy,
  type StageArguments,
  saySelfOptions,
  saySelfUnneeded,
  saySelfUnsupported,
  settingsOf,
  stageFlags,
  startOf,
  tellWordy,
} from "./training.js";

const defaults = saySelfDefaults.finetune;

/** -1 is published for none. */
const clip = (value: number | undefined): number | undefined => (value === undefined ? value : Math.max(0, value));

export const script: PublishedScript = {
  name: "finetune",
  honoured: {
    ...stageFlags("finetune"),
    per_device_train_batch_size: number(
      "Rows of a micro-batch",
      defaults.perDeviceTrainBatchSize,
      positiveInteger("per_device_train_batch_size"),
    ),
    lora_dropout: number(
      "Share of the adapter's inputs that a step drops",
      defaults.loraDropout,
      numberThat("lora_dropout", "a number from 0, below 1", (value) => value >= 0 && value < 1),
    ),
    clip_grad_norm: number(
      "Gradients whose norm is above are scaled to it; -1: none is [default: 1, which the published run takes from DeepSpeed]",
      undefined,
      clip,
    ),
  },
  unneeded: {
    ...saySelfUnneeded,
    reduce_loss: {
      type: "string",
      why: "each token of an optimiser step counts the same, as with sum, and AdamW sees no scale",
    },
  },
  dead: {},
  unsupported: {
    ...saySelfUnsupported,
    use_qlora:
      "weights of four bits are not trained on. A GGUF of four bits is read, and its adapter trained in bf16: --use_lora",
    use_8bit_optimizer: "AdamW's moments are float32. Leave it out; --max-memory says how much may be taken",
  },
  rows: saySelfRows,
};

export const command = "finetune";
export const describe = "Fine-tune a model to reason, answer, reflect and state a confidence";
export const builder = (line: Argv) =>
  line.options({
    ...publishedOptions(script),
    ...saySelfOptions("finetune"),
    truncate: {
      choices: ["error", "drop", "left", "right"] as const,
      describe:
        "Rows longer than --max_seq_length fail, are left out, or lose their beginning or end (as published) [default: error]",
    },
  });

interface FinetuneArguments extends StageArguments {
  clipGradNorm?: number;
  maxGradientNorm?: number;
  truncate?: "error" | "drop" | "left" | "right";
}

export async function handler(args: FinetuneArguments): Promise<void> {
  publishedUnneeded(script, args);
  const { Bases } = await import("../../methods/conqord/training-models.js");
  const { chosenRows, readRowsToLearn, refuseHeldOut } = await import("../../methods/sayself/training-data.js");
  const { saySelfLearner } = await import("../../methods/sayself/training-models.js");
  const { trainSaySelfFinetune } = await import("../../methods/sayself/train-finetune.js");
  const { saySelfAdapter } = await import("../../methods/sayself/training-settings.js");
  const { endOf } = await import("../../methods/conqord/train-sft.js");
  const { compat, outputDir, trainFile, heldOut = [], truncate } = args;
  const clipped = { ...args, maxGradientNorm: args.maxGradientNorm ?? args.clipGradNorm };
  const settings = await settingsOf("finetune", clipped);
  const { seed, loraDropout: dropout, maxWords, numTrainExamples: count } = settings;
  const start = await startOf(args);
  await interruptible(async (signal) => {
    const options = modelOptionsOf(args, signal);
    await using bases = new Bases(options);
    const model = await bases.of(start.base);
    await checkTokenizer(model, args.tokenizerName);
    const all = await readRowsToLearn(trainFile, endOf(model.tokenizer));
    const { rows, wordy } = chosenRows(all, { maxWords, count });
    if (!compat.has("B9-5")) await refuseHeldOut({ name: trainFile, rows }, heldOut);
    const begun = await begunOf(start, model, outputDir, dropout);
    const { policy, ...learnt } = await trainSaySelfFinetune({
      model,
      learner: saySelfLearner(model, {
        ...(begun ? { begun } : {}),
        adapter: saySelfAdapter(settings, { seed, dropout }),
      }),
      ...(await commonOf(args, signal)),
      rows,
      settings,
      ...(truncate === undefined ? {} : { truncate }),
    });
    await policy.dispose();
    const left = await leftBy(args);
    tellWordy(wordy, all.length, maxWords);
    if (args.json) printJson({ ...learnt, wordy, ...left });
    else
      print(
        `${learnt.rows} rows of ${learnt.tokens} tokens learnt in ${learnt.steps} steps; the policy: ${left.policy}`,
      );
  });
}
