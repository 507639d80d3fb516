/**
 * One command for what the published scripts do in dozens of launches: elicitation, and for each number of annotated
 * questions Cal-Only and EliCal; their confidences of every set; and the evaluation. Every path follows from the same
 * settings. What stands there whole is not done again.
 */
import { existsSync, statSync } from "node:fs";
import { join } from "node:path";
import { CredenceError } from "../../../errors.js";
import type { Model } from "../../../policy/model.js";
import { type Progress, silent } from "../../../tracking/progress.js";
import { loadTrained } from "./adapters.js";
import { type EvaluationSettings, evaluateSet, gatherSets } from "./evaluate.js";
import {
  answersPaths,
  type ConfidenceType,
  epochsOf,
  findRun,
  predictionsFolder,
  predictionsName,
  type QuestionType,
  type RunPlace,
  runFolder,
  sizeName,
} from "./paths.js";
import { predictPublished } from "./predict.js";
import { type PublishedTraining, trainingDefaults } from "./settings.js";
import { trainPublished } from "./train.js";

export interface SweepSettings extends Omit<EvaluationSettings, "questionType"> {
  /** Sets that are predicted and evaluated. */
  sets: readonly { set: string; questionType: QuestionType }[];
  weightDecay: number;
  rank: number;
  alpha: number;
  dropout: number;
  learningRate: number;
  patience: number;
  /** At most so many epochs; undefined: 10 for all rows, 50 up to 10,000 of them, 15 beyond. */
  epochs?: number;
  /** Share of the training questions that is held out to choose the best epoch. */
  validationShare: number;
  /** Rows padded together when they are predicted, where rows are padded. */
  predictionBatch: number;
}

export interface SweepOptions {
  model: Model;
  progress?: Progress;
  signal?: AbortSignal;
}

/** One training, and the one it starts from. */
interface SweepRun {
  type: ConfidenceType;
  rows: number;
}

/** Elicitation first: EliCal goes on from it. */
const runsOf = ({ elicitationRows, sizes }: SweepSettings): SweepRun[] => [
  { type: "greedy", rows: elicitationRows },
  ...sizes.flatMap((rows) => [{ type: "right", rows } as const, { type: "hybrid", rows } as const]),
];

const runPlace = (settings: SweepSettings, { type, rows }: SweepRun): RunPlace => ({
  ...settings,
  type,
  rows,
  epochs: settings.epochs ?? epochsOf(rows),
});

const runName = ({ type, rows }: SweepRun): string =>
  `${{ greedy: "elicitation", right: "Cal-Only", hybrid: "EliCal" }[type]} ${sizeName(rows)}`;

/** Trains, predicts and evaluates everything that is not there yet. */
export async function sweep(settings: SweepSettings, options: SweepOptions): Promise<ReturnType<typeof gatherSets>> {
  const { model, progress = silent, signal } = options;
  const twice = settings.sizes.find((rows, i) => settings.sizes.indexOf(rows) < i);
  if (twice !== undefined)
    throw new CredenceError("USAGE", `the size ${sizeName(twice)} stands twice; give each number of rows once`);
  for (const run of runsOf(settings)) {
    const place = runPlace(settings, run);
    progress.note(`${runName(run)}: ${runFolder(place)}`);
    await trainPublished(trainingOf(settings, run), { model, progress, signal });
    await predictRun(settings, place, options);
  }
  for (const { set, questionType } of settings.sets) {
    const { unparsed } = await evaluateSet(set, { ...settings, questionType });
    if (unparsed > 0) progress.note(`${set}: ${unparsed} verdicts say neither, and count as no`);
  }
  return gatherSets(settings);
}

/** The training of a run, with the flags its launch would have had. */
function trainingOf(settings: SweepSettings, run: SweepRun): PublishedTraining {
  const { results, model, trainSet, samples, compat } = settings;
  const place = runPlace(settings, run);
  const answers = (split: "train" | "test") => {
    const { sampled, consistency, sampledJudged } = answersPaths({ results, model, dataset: trainSet, split, samples });
    return { data: sampled, verdicts: run.type === "greedy" ? consistency : sampledJudged };
  };
  const start = findStart(settings, run);
  return {
    ...trainingDefaults,
    part: settings.part,
    train: answers("train"),
    ...(compat.has("B9-9") ? { test: answers("test") } : {}),
    dataset: trainSet,
    shuffle: run.type !== "greedy",
    count: run.rows,
    output: runFolder(place),
    batch: settings.batch,
    accumulation: settings.accumulation,
    epochs: place.epochs!,
    learningRate: settings.learningRate,
    weightDecay: settings.weightDecay,
    patience: settings.patience,
    validationShare: settings.validationShare,
    seed: settings.seed,
    rank: settings.rank,
    alpha: settings.alpha,
    dropout: settings.dropout,
    from: start,
    unparsed: settings.unparsed,
    paddingSide: "right",
    compat,
  };
}

function findStart(settings: SweepSettings, { type }: SweepRun): PublishedTraining["from"] {
  if (type !== "hybrid") return undefined;
  const place = runPlace(settings, { type: "greedy", rows: settings.elicitationRows });
  const { adapter, head } = findRun(place);
  return settings.part === "mlp" ? { head } : { adapter, head };
}

/** Confidences of every set that are not there, or that are older than what was trained. */
async function predictRun(settings: SweepSettings, place: RunPlace, options: SweepOptions): Promise<void> {
  const { results, model, samples, part, compat } = settings;
  const { adapter, head } = findRun(place);
  const trainedAt = statSync(head).mtimeMs;
  const missing = settings.sets
    .map((one) => ({ ...one, output: predictionsFolder(place, one.set) }))
    .filter(({ output }) => {
      const path = join(output, predictionsName("test"));
      return !existsSync(path) || statSync(path).mtimeMs < trainedAt;
    });
  if (missing.length === 0) return;
  await using policy = await loadTrained(options.model, part === "mlp" ? { head } : { adapter, head });
  for (const { set, questionType, output } of missing) {
    const { sampled: data } = answersPaths({ results, model, dataset: set, split: "test", questionType, samples });
    // Another set may put its questions another way, as MMLU does: that is what is to be seen.
    const otherPrompt = questionType !== "long_qa";
    const job = { data, output, split: "test" as const, batch: settings.predictionBatch, otherPrompt, compat };
    await predictPublished(policy, job, options);
  }
}
