/** `credence train` on preferences: a reward model, or the policy itself by DPO. */
import type { Options } from "yargs";
import type { ZodType } from "zod";
import type { PairSurvey } from "../training/reward-model/pairs.js";
import type { RatingSurvey } from "../training/reward-model/train.js";
import type { PairwiseLoss, RatingLoss } from "../training/reward-model/units.js";
import { interruptible } from "./interrupt.js";
import { adapterTargets, baseOptions, positiveInteger } from "./options.js";
import { logs, note, printJson, UsageError } from "./output.js";
import type { TrainArguments } from "./train.js";

const objectives = ["token", "sequence", "cross-entropy", "squared", "sigmoid", "ipo"] as const;

export const preferenceOptions = {
  objective: {
    choices: objectives,
    describe:
      "reward-model: of pairs token (each token from where the answers differ) or sequence (the last tokens), of ratings " +
      "cross-entropy or squared [default: token]; dpo: sigmoid or ipo [default: sigmoid]",
  },
  held: {
    type: "string",
    requiresArg: true,
    describe: "Rows that each epoch is held against: best/ is the epoch of the smallest loss [default: the last]",
  },
  patience: {
    type: "number",
    describe: "Stops after so many epochs without a smaller loss on --held [default: never]",
    coerce: positiveInteger("patience"),
  },
  text: {
    choices: ["chat", "plain"] as const,
    describe:
      "How prompt and answer are put: as a conversation, or one after the other [default: chat where the model has a template]",
  },
  end: {
    type: "string",
    describe: "plain: what follows an answer [default: the token that ends the model's texts]",
  },
  tail: {
    choices: ["held", "cut", "padded"] as const,
    describe:
      "token: what the longer answer is held against after the shorter one's end: its last score, nothing, or its scores " +
      "at PAD tokens as published [default: held]",
  },
  margin: { type: "number", describe: "sequence: by how much the chosen answer should score higher [default: 0]" },
  bias: { type: "boolean", describe: "reward-model: the head has a bias [default: false]" },
  "head-only": { type: "boolean", describe: "reward-model: train the head alone, without an adapter" },
  beta: { type: "number", describe: "dpo: how closely the reference is kept to [default: 0.1]" },
  "label-smoothing": { type: "number", describe: "dpo: share of pairs thought to be the wrong way round [default: 0]" },
  reference: {
    choices: ["base", "start"] as const,
    describe: "dpo: kept close to the model without adapter, or to --adapter as it starts [default: base]",
  },
} satisfies Record<string, Options>;

export interface PreferenceArguments {
  objective?: (typeof objectives)[number];
  held?: string;
  patience?: number;
  text?: "chat" | "plain";
  end?: string;
  tail?: "held" | "cut" | "padded";
  margin?: number;
  bias?: boolean;
  headOnly?: boolean;
  beta?: number;
  labelSmoothing?: number;
  reference?: "base" | "start";
}

/** Which losses each of these options belongs to. */
export const preferenceOwn = {
  objective: ["reward-model", "dpo"],
  held: ["reward-model", "dpo"],
  patience: ["reward-model", "dpo"],
  text: ["reward-model", "dpo"],
  end: ["reward-model", "dpo"],
  tail: ["reward-model"],
  margin: ["reward-model"],
  bias: ["reward-model"],
  headOnly: ["reward-model"],
  beta: ["dpo"],
  labelSmoothing: ["dpo"],
  reference: ["dpo"],
} satisfies Record<keyof PreferenceArguments, readonly TrainArguments["loss"][]>;

/** What a reward model learns, as the options say. */
function rewardLoss({ objective = "token", tail, margin }: PreferenceArguments): PairwiseLoss | RatingLoss {
  if (tail !== undefined && objective !== "token") throw new UsageError("--tail belongs to --objective token");
  if (margin !== undefined && objective !== "sequence")
    throw new UsageError("--margin belongs to --objective sequence");
  switch (objective) {
    case "token":
      return { kind: objective, ...(tail ? { tail } : {}) };
    case "sequence":
      return { kind: objective, ...(margin === undefined ? {} : { margin }) };
    case "cross-entropy":
    case "squared":
      return { kind: objective };
    default:
      throw new UsageError(`--objective ${objective} belongs to --loss dpo; this is --loss reward-model`);
  }
}

function dpoKind({ objective = "sigmoid" }: PreferenceArguments): "sigmoid" | "ipo" {
  if (objective === "sigmoid" || objective === "ipo") return objective;
  throw new UsageError(`--objective ${objective} belongs to --loss reward-model; this is --loss dpo`);
}

/** The rows to learn from, and those held out. */
async function rows<T extends ZodType>({ file, held, limit }: TrainArguments, schema: T) {
  const { readRecords } = await import("../data/readers.js");
  const records = (await readRecords(file, schema)).slice(0, limit);
  return held === undefined ? { records } : { records, held: await readRecords(held, schema) };
}

async function rewardRows(args: TrainArguments) {
  const { pairSchema, ratingSchema } = await import("../data/records.js");
  const loss = rewardLoss(args);
  return loss.kind === "token" || loss.kind === "sequence"
    ? { loss, ...(await rows(args, pairSchema)) }
    : { loss, ...(await rows(args, ratingSchema)) };
}

export async function trainPreferences(args: TrainArguments, fitted: (choice: string) => void): Promise<void> {
  const { pairSchema } = await import("../data/records.js");
  const { readPolicyFolder } = await import("../model/policy-folder.js");
  const { Model } = await import("../policy/model.js");
  const { rewardHead, trainRewardModel } = await import("../training/reward-model/train.js");
  const { trainDpo } = await import("../training/dpo.js");
  const { progressOn, silent } = await import("../tracking/progress.js");
  const { rank, alpha, seed, truncate, unsupervised, text, end, adapter, loss: kind } = args;
  if (truncate === "right") throw new UsageError("--truncate right would cut the answers; choose drop or left");
  if (end !== undefined && text !== "plain") throw new UsageError("--end belongs to --text plain");
  if (args.patience !== undefined && args.held === undefined) throw new UsageError("--patience needs --held");
  if (args.headOnly && adapter !== undefined)
    throw new UsageError("--head-only trains no adapter: leave --adapter out");
  const fresh = { rank, alpha, targets: [...adapterTargets], seed };
  const learnt = kind === "dpo" ? undefined : await rewardRows(args);
  const preferred = learnt ? undefined : { kind: dpoKind(args), ...(await rows(args, pairSchema)) };
  await interruptible(async (signal) => {
    await using model = await Model.load(args.model, { ...baseOptions(args), note, signal });
    const shared = {
      model,
      directory: args.out,
      learningRate: args.learningRate,
      epochs: args.epochs,
      seed,
      ...(args.batch === undefined ? {} : { batch: args.batch }),
      ...(text ? { text: { kind: text, ...(end === undefined ? {} : { end }) } } : {}),
      checks: { truncate, useless: unsupervised },
      patience: args.patience ?? null,
      progress: logs("info") ? progressOn() : silent,
      signal,
      fitted,
    };
    const result = learnt
      ? await trainRewardModel({
          ...shared,
          ...learnt,
          head: { bias: args.bias ?? false },
          policy: (checkpoint, made) => {
            if (args.headOnly) return model.policy(checkpoint === undefined ? made : { adapter: checkpoint, ...made });
            const start = checkpoint ?? adapter;
            const has = start !== undefined && readPolicyFolder(start).heads.some(({ name }) => name === rewardHead);
            return model.policy({ adapter: start ?? fresh, ...made, ...(has ? { heads: [] } : {}) });
          },
        })
      : await trainDpo({
          ...shared,
          ...preferred!,
          ...(args.beta === undefined ? {} : { beta: args.beta }),
          ...(args.labelSmoothing === undefined ? {} : { labelSmoothing: args.labelSmoothing }),
          ...(args.reference === undefined ? {} : { reference: args.reference }),
          policy: (checkpoint) => model.policy({ adapter: checkpoint ?? adapter ?? fresh }),
        });
    await result.policy.dispose();
    tell(result.data, result.held);
    if (args.json) printJson({ data: result.data, ...(result.held ? { held: result.held } : {}) });
  });
}

function tell(data: PairSurvey | RatingSurvey, held?: { loss: number; values: Record<string, number> }): void {
  const pairs = "pairs" in data;
  const what = pairs ? "pairs" : "ratings";
  const kept = pairs ? data.pairs : data.rows;
  note(`${data.records} ${what}, ${kept} of them learnt from: ${data.tokens} tokens (the longest row ${data.longest})`);
  const left: Record<string, number> = { "left out as too long": data.dropped, cut: data.cut };
  if (pairs) {
    left["left out, their sides are equal"] = data.equal;
    left["have a side that begins the other: does an answer lack its end?"] = data.prefixes;
  }
  for (const [how, count] of Object.entries(left)) if (count > 0) note(`${count} ${what} ${how}`, "warn");
  if (!held) return;
  const values = Object.entries({ loss: held.loss, ...held.values });
  note(`held out: ${values.map(([name, value]) => `${name} ${value.toFixed(4)}`).join(", ")}`);
}
