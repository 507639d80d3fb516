/** The reward model of quality, as step2_reward_model has it. */
import type { Argv } from "yargs";
import { conqordRows } from "../../methods/conqord/compat.js";
import { trainingDefaults } from "../../methods/conqord/training-settings.js";
import { interruptible } from "../interrupt.js";
import { engineOptions } from "../options.js";
import { logs, note, print, printJson } from "../output.js";
import { type PublishedScript, publishedOptions, publishedUnneeded } from "../published.js";
import { type StageArguments, stageFlags } from "./sft.js";
import {
  modelOptionsOf,
  ownDataOptions,
  presetOption,
  readPhase,
  settingsOf,
  stageOptions,
  stageUnneeded,
} from "./training.js";

const defaults = trainingDefaults["reward-model"];

export const script: PublishedScript = {
  name: "reward-model",
  honoured: stageFlags(defaults),
  unneeded: {
    ...stageUnneeded,
    num_padding_at_beginning: { type: "number", why: "nothing is padded at its beginning" },
  },
  dead: {},
  rows: conqordRows,
};

export const command = "reward-model";
export const describe = "Train a reward model of quality on pairs of answers";
export const builder = (line: Argv) =>
  line.options({
    ...publishedOptions(script),
    ...presetOption("reward-model"),
    ...ownDataOptions,
    ...stageOptions,
    pairs: {
      choices: ["quality", "stated", "pre-approach"] as const,
      defaultDescription: defaults.pairs,
      describe:
        "quality: answers without their confidences; stated: as they are; pre-approach: each answer against itself, with a " +
        "high and with a low confidence",
    },
    tail: {
      choices: ["held", "cut", "padded"] as const,
      defaultDescription: defaults.tail,
      describe:
        "What the longer answer is held against after the shorter one's end: its last score, nothing, or its scores at PAD " +
        "tokens as published",
    },
    truncate: {
      choices: ["error", "drop", "left"] as const,
      describe: "Pairs longer than --max_seq_len fail, are left out, or lose their beginning [default: error]",
    },
    ...engineOptions,
  });

interface RewardArguments extends StageArguments {
  truncate?: "error" | "drop" | "left";
}

export async function handler(args: RewardArguments): Promise<void> {
  publishedUnneeded(script, args);
  const { Bases, learnerOf, startAt } = await import("../../methods/conqord/training-models.js");
  const { trainConqordReward } = await import("../../methods/conqord/train-reward-model.js");
  const { bestCheckpoint } = await import("../../training/checkpoint.js");
  const { progressOn, silent } = await import("../../tracking/progress.js");
  const { compat, outputDir, end, truncate, tensorboardPath: events } = args;
  const settings = settingsOf("reward-model", args, args.preset);
  const { dataSplit: shares, seed } = settings;
  await interruptible(async (signal) => {
    const { texts, held } = await readPhase(args, 2, { shares, seed, held: args.held });
    await using bases = new Bases(modelOptionsOf(args, signal));
    const start = startAt(args.modelNameOrPath, args.base);
    const model = await bases.of(start.base);
    const {
      policy,
      data,
      held: scores,
    } = await trainConqordReward({
      model,
      directory: outputDir,
      learner: learnerOf(model, start, settings, { seed, compat }),
      texts,
      ...(held ? { held } : {}),
      settings,
      ...(end === undefined ? {} : { end }),
      ...(truncate === undefined ? {} : { truncate }),
      ...(events === undefined ? {} : { events }),
      progress: logs("info") ? progressOn() : silent,
      signal,
    });
    await policy.dispose();
    const folder = bestCheckpoint(outputDir);
    if (scores)
      note(`the better answer scores higher in ${(100 * scores.values.accuracy!).toFixed(1)} % of the pairs held out`);
    if (args.json) printJson({ data, ...(scores ? { held: scores } : {}), policy: folder });
    else print(`${data.records} pairs learnt; the reward model: ${folder}`);
  });
}
