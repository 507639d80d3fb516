/** Reinforcement of the tokens that state a confidence, as rlhf_train.py has it. */
import type { Argv } from "yargs";
import { saySelfRows } from "../../methods/sayself/compat.js";
import { saySelfDefaults } from "../../methods/sayself/training-settings.js";
import { modelOptionsOf, number, toggle } from "../conqord/training.js";
import { interruptible } from "../interrupt.js";
import { aboveZero, positiveInteger } from "../options.js";
import { note, print, printJson } from "../output.js";
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
  wholeNumber,
} from "./training.js";

const defaults = saySelfDefaults.rlhf;

export const script: PublishedScript = {
  name: "rlhf",
  honoured: {
    ...stageFlags("rlhf"),
    train_micro_batch_size_per_gpu: number(
      "Responses of a micro-batch",
      defaults.trainMicroBatchSizePerGpu,
      positiveInteger("train_micro_batch_size_per_gpu"),
    ),
    start_index: wholeNumber("Rows before it are left out", "start_index", defaults.startIndex),
    num_retries: wholeNumber(
      "How often a response without a confidence is gone on with, before one is forced",
      "num_retries",
      defaults.numRetries,
    ),
  },
  unneeded: saySelfUnneeded,
  dead: {
    clip_grad_norm: "give --max-gradient-norm",
    use_8bit_optimizer: "AdamW's moments are float32, there and here",
    lora_dropout: "nothing is dropped while responses are reinforced, there and here",
  },
  unsupported: saySelfUnsupported,
  rows: saySelfRows,
};

export const command = "rlhf";
export const describe = "Reinforce stated confidences that are honest";
export const builder = (line: Argv) =>
  line.options({
    ...publishedOptions(script),
    ...saySelfOptions("rlhf"),
    reward: {
      choices: ["quadratic", "linear", "correctness", "log", "brier"] as const,
      defaultDescription: defaults.reward,
      describe: "What a stated confidence earns; correctness pays for being right as well",
    },
    missing: {
      type: "number",
      describe: "What a response earns that states no confidence [default: the least that the reward pays, -1 at most]",
    },
    reference: {
      choices: ["sft", "base"] as const,
      defaultDescription: defaults.reference,
      describe: "What the policy is kept near: itself as it begins, or the base model (as published)",
    },
    rationale: {
      ...toggle("Responses reflect before they state a confidence; --no-rationale: they were taught not to"),
      defaultDescription: "true",
    },
    "ppo-epochs": number(
      "Passes over what was sampled; published, --num_train_epochs says that too",
      defaults.ppoEpochs,
      positiveInteger("ppo-epochs"),
    ),
    "new-tokens": number(
      "Tokens of a response, and of each continuation, at most",
      defaults.newTokens,
      positiveInteger("new-tokens"),
    ),
    temperature: number("Of what is sampled", defaults.temperature, aboveZero("temperature")),
    "top-k": number(
      "So many of the likeliest tokens are sampled from",
      defaults.topK ?? undefined,
      positiveInteger("top-k"),
    ),
    kl: number("Penalty a token for leaving the reference, at the beginning", defaults.kl, aboveZero("kl")),
    "kl-target": number("Divergence of a response that it is steered to", defaults.klTarget, aboveZero("kl-target")),
    "kl-horizon": number("Over about so many responses", defaults.klHorizon, positiveInteger("kl-horizon")),
    truncate: {
      choices: ["error", "drop", "left"] as const,
      describe: "Prompts longer than --max_seq_length fail, are left out, or lose their beginning [default: error]",
    },
  });

interface RlhfArguments extends StageArguments {
  missing?: number;
  truncate?: "error" | "drop" | "left";
}

export async function handler(args: RlhfArguments): Promise<void> {
  publishedUnneeded(script, args);
  const { Bases } = await import("../../methods/conqord/training-models.js");
  const { chosenRows, readRowsToAsk, refuseHeldOut } = await import("../../methods/sayself/training-data.js");
  const { saySelfLearner } = await import("../../methods/sayself/training-models.js");
  const { trainSaySelfRlhf } = await import("../../methods/sayself/train-rlhf.js");
  const { saySelfAdapter } = await import("../../methods/sayself/training-settings.js");
  const { endOf } = await import("../../methods/conqord/train-sft.js");
  const { compat, outputDir, trainFile, heldOut = [], truncate, missing } = args;
  const settings = await settingsOf("rlhf", args);
  const { seed, maxWords, numTrainExamples: count, startIndex, reference } = settings;
  const start = await startOf(args);
  await interruptible(async (signal) => {
    const options = modelOptionsOf(args, signal);
    await using bases = new Bases(options);
    const model = await bases.of(start.base);
    await checkTokenizer(model, args.tokenizerName);
    const all = await readRowsToAsk(trainFile, endOf(model.tokenizer), compat.has("B9-12"));
    const { rows, wordy } = chosenRows(all, { maxWords, count, start: startIndex });
    if (!compat.has("B9-5")) await refuseHeldOut({ name: trainFile, rows }, heldOut);
    const begun = await begunOf(start, model, outputDir, 0);
    const sft = reference === "base" ? undefined : await model.policy(begun ? { adapter: begun.folder } : {});
    const { policy, counts, iterations } = await trainSaySelfRlhf({
      model,
      learner: saySelfLearner(
        model,
        { ...(begun ? { begun } : {}), adapter: saySelfAdapter(settings, { seed }) },
        { critic: true },
      ),
      ...(sft ? { sft } : {}),
      ...(await commonOf(args, signal)),
      rows,
      settings,
      compat,
      ...(missing === undefined ? {} : { missing }),
      ...(truncate === undefined ? {} : { truncate }),
    });
    await policy.dispose();
    const left = await leftBy(args);
    tellWordy(wordy, all.length, maxWords);
    if (counts.failed > 0)
      note(`${counts.failed} of ${counts.texts} responses stated no confidence that can be read`, "warn");
    if (counts.clamped > 0)
      note(`${counts.clamped} stated a confidence beyond 10, taken as ${compat.has("B9-7") ? 1 : 10}`, "warn");
    if (args.json) printJson({ rows: rows.length, wordy, iterations, ...counts, ...left });
    else print(`${rows.length} questions, ${iterations} batches of responses; the policy: ${left.policy}`);
  });
}
