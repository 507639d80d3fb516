/**
 * Where the published scripts of EliCal keep what: R the folder of results, M a model's name, D a data set's, s its split.
 * What is read is looked for under every name that was published; what is written has one.
 */
import { existsSync } from "node:fs";
import { join } from "node:path";
import { CredenceError } from "../../../errors.js";
import { pythonFloat } from "../../published.js";
import type { ElicalCompat } from "./compat.js";

export type Split = "train" | "test";

/** Elicited from agreement; calibrated from scratch (Cal-Only); elicited, then calibrated (EliCal). */
export type ConfidenceType = "greedy" | "right" | "hybrid";

/** What is trained: LoRA and a head, or a head alone. */
export type TrainedPart = "lora" | "mlp";

/** Which prompt the answers were asked for with; MMLU has `long_mc_qa`. */
export type QuestionType = "long_qa" | "long_mc_qa" | "short_qa";

/** `data/<dataset>/<split>.jsonl`. Five of the published sets are tested on their split dev. */
export const questionsPath = (data: string, dataset: string, split: "train" | "dev" | "test"): string =>
  join(data, dataset, `${split}.jsonl`);

/** Which answers: of what model, to what questions, sampled how. */
export interface AnswersPlace {
  /** R, the folder of results. */
  results: string;
  model: string;
  dataset: string;
  split: Split;
  /** Which prompt; prior_conf asks how sure the model is, prior_conf_10 after ten solved examples. */
  questionType?: QuestionType | "prior_conf" | `prior_conf_${number}`;
  topP?: number;
  topK?: number;
  /** Answers sampled a question. */
  samples?: number;
  /** Temperature of the sampled answers. */
  temperature?: number;
}

/** Files of one data set's answers and verdicts. */
export interface AnswersPaths {
  folder: string;
  greedy: string;
  sampled: string;
  /** Requests whether a sample means the same as the greedy answer, a line each, and the replies to them. */
  consistencyRequests: string;
  consistency: string;
  /** Replies to whether the greedy answer is right, and whether each sample is. */
  greedyJudged: string;
  sampledJudged: string;
}

export function answersPaths({
  results,
  model,
  dataset,
  split,
  questionType = "long_qa",
  topP = 0.95,
  topK = 50,
  samples = 20,
  temperature = 1,
}: AnswersPlace): AnswersPaths {
  const folder = join(results, model, dataset, `${split}_data`, questionType);
  const stem = (warmth: number, count: number) =>
    join(
      folder,
      `${dataset}_${split}_${model}_${questionType}_${pythonFloat(warmth)}_${pythonFloat(topP)}_${topK}_sample_${count}`,
    );
  const greedy = stem(0, 1);
  const sampled = stem(temperature, samples);
  return {
    folder,
    greedy: `${greedy}.jsonl`,
    sampled: `${sampled}.jsonl`,
    consistencyRequests: `${sampled}_for_greedy_consistency_check.jsonl`,
    consistency: `${sampled}_for_greedy_consistency_res.jsonl`,
    greedyJudged: `${greedy}_${questionType}_judge.jsonl`,
    sampledJudged: `${sampled}_${questionType}_judge.jsonl`,
  };
}

/** Where a set's replies to how sure the model is stand, asked after so many solved examples (Verbal-N). */
export const statedPath = (place: Pick<AnswersPlace, "results" | "model" | "dataset">, shots: number): string =>
  answersPaths({ ...place, split: "test", questionType: shots ? `prior_conf_${shots}` : "prior_conf" }).greedy;

/** Training rows of a run as folders are named: "" for all of them (0), "_1k_training_samples" for 1000. */
export const sizeTail = (rows: number): string => (rows === 0 ? "" : `_${rows / 1000}k_training_samples`);

/** Epochs at most: 10 for all rows (0), 50 up to 10,000 of them, 15 beyond. */
export const epochsOf = (rows: number): number => (rows === 0 ? 10 : rows <= 10_000 ? 50 : 15);

/** Reads "1k", "1000", "0.3k", "all" or 0 (all) as a number of training rows. */
export function parseSize(text: string): number {
  const [, digits, thousand] = /^(\d+(?:\.\d+)?)(k?)$/i.exec(text.trim()) ?? [];
  const rows = text.trim() === "all" ? 0 : Math.round(Number(digits) * (thousand ? 1000 : 1) * 1e6) / 1e6;
  if (!Number.isSafeInteger(rows))
    throw new CredenceError("USAGE", `${JSON.stringify(text)} is no number of training rows; expected 1k, 1000 or all`);
  return rows;
}

/** As `parseSize` reads it: "1k", "300", "all". */
export const sizeName = (rows: number): string =>
  rows === 0 ? "all" : rows % 100 === 0 && rows >= 1000 ? `${rows / 1000}k` : String(rows);

/** Which trained run. */
export interface RunPlace {
  results: string;
  model: string;
  /** Names joined by hyphens where there are several. */
  trainSet: string;
  part: TrainedPart;
  type: ConfidenceType;
  /** Training rows; 0: all. */
  rows: number;
  /** Rows that the elicitation it started from was trained on; 0: all. Of type hybrid alone. */
  elicitationRows?: number;
  questionType?: QuestionType;
  batch?: number;
  accumulation?: number;
  epochs?: number;
  weightDecay?: number;
  rank?: number;
  alpha?: number;
  dropout?: number;
  /** B9-5: under which name it is written. */
  compat?: ElicalCompat;
}

/** The folder of a run's settings: the last one of its path. */
export function runFolderName(place: RunPlace, dropoutWord: (typeof dropoutWords)[number] = "loradrpout"): string {
  const { part, rows, batch = 16, accumulation = 8, epochs = epochsOf(rows), weightDecay = 0.1 } = place;
  const { rank = 8, alpha = 16, dropout = 0 } = place;
  const common = `batchsize${batch}_accumulation${accumulation}_epochs${epochs}_weightdecay${pythonFloat(weightDecay)}`;
  const trained = part === "mlp" ? "mlp_1_layer" : `r${rank}_alpha${alpha}_${dropoutWord}${pythonFloat(dropout)}`;
  return `${common}_${trained}${sizeTail(rows)}`;
}

/** As the scripts spell it, and as the released adapters' folders do. */
const dropoutWords = ["loradrpout", "loradropout"] as const;
const checkpointNames = ["best-checkpoint", "best_checkpoints"];
const lossesNames = ["test_losses.jsonl", "test_losses.json"];

/** `hybrid_answer_conf`, with the elicitation's size where it was not on all rows. */
const typeFolder = ({ type, elicitationRows = 0 }: RunPlace): string =>
  `${type}_answer_conf${type === "hybrid" ? sizeTail(elicitationRows) : ""}`;

type Kind = "models" | "eval" | "models_new" | "eval_new";

/** Published training and prediction write folders of other names than are read (B9-5); here it is one name. */
const writtenKind = (kind: "models" | "eval", { compat }: RunPlace): Kind =>
  compat?.has("B9-5") ? `${kind}_new` : kind;

/** `inside` is what stands between the training set and the type: "lora" or "mlp" for a run, the eval set for predictions. */
const placed = (place: RunPlace, kind: Kind, inside: string, name: string): string =>
  join(
    place.results,
    place.model,
    kind,
    place.trainSet,
    inside,
    typeFolder(place),
    place.questionType ?? "long_qa",
    name,
  );

/** Every name under which a run's files or predictions may stand, the one they are written under first. */
function everyName(place: RunPlace, kind: "models" | "eval", inside: string): string[] {
  const kinds = new Set<Kind>([writtenKind(kind, place), kind, `${kind}_new`]);
  const names = new Set(dropoutWords.map((word) => runFolderName(place, word)));
  return [...kinds].flatMap((one) => [...names].map((name) => placed(place, one, inside, name)));
}

/** Where a run is written: R/M/models/<train set>/lora/<type>_answer_conf/long_qa/<settings>. */
export const runFolder = (place: RunPlace): string =>
  placed(place, writtenKind("models", place), place.part, runFolderName(place));

/** What a run's folder holds. */
export interface RunPaths {
  losses: string;
  /** PEFT folder; a head alone has none. */
  adapter: string;
  head: string;
}

/** A run's files under the names they are written by, or under others that were published. */
export const runPaths = (folder: string, checkpoint = checkpointNames[0]!, losses = lossesNames[0]!): RunPaths => ({
  losses: join(folder, losses),
  adapter: join(folder, checkpoint, "lora_epoch_best"),
  head: join(folder, checkpoint, "vector_head_epoch_best.pt"),
});

/**
 * A trained run's files, wherever one of the published names puts them.
 *
 * @throws CredenceError "NO_FILE" naming what was looked for
 */
export function findRun(place: RunPlace): RunPaths {
  for (const folder of everyName(place, "models", place.part)) {
    const losses = lossesNames.find((name) => existsSync(join(folder, name)));
    for (const checkpoint of checkpointNames) {
      const paths = runPaths(folder, checkpoint, losses);
      if (existsSync(paths.head) && (place.part === "mlp" || existsSync(paths.adapter))) return paths;
    }
  }
  const what = place.part === "mlp" ? "head" : "adapter and head";
  throw new CredenceError(
    "NO_FILE",
    `${runFolder(place)}: there is no trained ${what}, under this or another published name. Train it with credence elical ${place.part === "mlp" ? "train-mlp" : "train"}, or with credence elical sweep`,
  );
}

/** Where a run's predictions of a set are written: R/M/eval/<train set>/<eval set>/<type>_answer_conf/long_qa/<settings>. */
export const predictionsFolder = (place: RunPlace, evalSet: string): string =>
  placed(place, writtenKind("eval", place), evalSet, runFolderName(place));

/** Name of the predictions in their folder. */
export const predictionsName = (split: Split): string => `evaluation_results_${split}.jsonl`;

/**
 * A run's predictions of a set, wherever one of the published names puts them.
 *
 * @throws CredenceError "NO_FILE" naming the file that was looked for
 */
export function findPredictions(place: RunPlace, evalSet: string, split: Split): string {
  const paths = everyName(place, "eval", evalSet).map((folder) => join(folder, predictionsName(split)));
  const found = paths.find((path) => existsSync(path));
  if (found) return found;
  throw new CredenceError(
    "NO_FILE",
    `there are no predictions ${paths[0]}, under this or another published name. Write them with credence elical ${place.part === "mlp" ? "predict-mlp" : "predict"}, or with credence elical sweep`,
  );
}

/** Whose evaluation: of what was trained on which sets, elicited from how many questions (0: all). */
export interface EvaluationPlace {
  model: string;
  trainSet: string;
  elicitationRows: number;
  part: TrainedPart;
  evalSet?: string;
}

/** `<out>/<model>/<train set>/<elicitation's size>[/<eval set>]`. */
export const workbookFolder = (
  out: string,
  { model, trainSet, elicitationRows, evalSet = "" }: EvaluationPlace,
): string => join(out, model, trainSet, sizeTail(elicitationRows), evalSet);

/** `<question type>_alignment_<metric>.xlsx` in the set's folder; those of a head alone end in `_mlp`. */
export const workbookPath = (
  out: string,
  place: EvaluationPlace & { questionType: QuestionType },
  metric: "auroc" | "ece" | "align",
): string =>
  join(
    workbookFolder(out, place),
    `${place.questionType}_alignment_${metric}${place.part === "mlp" ? "_mlp" : ""}.xlsx`,
  );
