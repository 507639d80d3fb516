/** CONQORD's files of answers, ratings and scores: where they lie, and their published columns. */
import { join } from "node:path";
import { appendTable, columnsOf, readTable, writeTable } from "../../data/tables.js";
import { CredenceError } from "../../errors.js";
import { pythonFloat } from "../published.js";
import type { ConqordCompat } from "./compat.js";
import { type ConqordMetrics, conqordMetrics, type RatedRow } from "./metrics.js";
import { type AskedFor, confidenceReading, type Reading } from "./wire.js";

/** Whose answers to what: flags of the published scripts. */
export interface EvaluationPlace {
  /** Folder that holds answer_csv/ and rating/. */
  root: string;
  /** `--data_name`. */
  data: string;
  mode: string;
  suffix: string;
  /** "0", or a checkpoint's step, which then stands behind the suffix. */
  step: string;
}

const named = ({ suffix, step }: EvaluationPlace): string => (step === "0" ? suffix : `${suffix}step${step}`);

/** `answer_csv/<data>/<mode>/<suffix>_all.csv` */
export const answersPath = (place: EvaluationPlace): string =>
  join(place.root, "answer_csv", place.data, place.mode, `${named(place)}_all.csv`);

/** `rating/<data>/<mode>/<suffix>_gpt_outputs.csv` */
export const ratingsPath = (place: EvaluationPlace): string =>
  join(place.root, "rating", place.data, place.mode, `${named(place)}_gpt_outputs.csv`);

/** The two files that scores are added to: the suffix's, and the mode's of all suffixes. */
export const scoresPaths = ({ root, data, mode, suffix }: EvaluationPlace): [string, string] => {
  const folder = join(root, "rating", data, mode);
  return [join(folder, `${suffix}correct_final_score.csv`), join(folder, "correct_final_score.csv")];
};

/** The name that a place's scores have. */
export const scoreName = (place: EvaluationPlace): string => named(place) + place.mode;

// ---- answers

export interface AnswerRow {
  /** All that the model read. */
  prompt: string;
  /** What it wrote. */
  output: string;
  /** The expected answer, or Python's list of them; empty where there is none. */
  reference: string;
}

const answerColumns = ["prompt", "only_out", "seq_conf_arr", "gt_answer"] as const;

export function writeAnswers(path: string, rows: readonly AnswerRow[]): void {
  writeTable(path, {
    columns: [...answerColumns],
    rows: rows.map(({ prompt, output, reference }) => [prompt, output, prompt + output, reference]),
  });
}

export async function readAnswers(path: string): Promise<AnswerRow[]> {
  const rows = columnsOf(await readTable(path), ["prompt", "only_out", "gt_answer"], path);
  return rows.map(({ prompt, only_out: output, gt_answer: reference }) => ({ prompt, output, reference }));
}

// ---- ratings

export interface RatingRow {
  question: string;
  /** What the model wrote, its confidence included. */
  answer: string;
  rating: number;
  /** The judge's reply. */
  reply: string;
  reference: string;
}

const ratingColumns = ["prompt_arr_full", "answer_arr_full", "ratings_correct_arr", "output_arr", "correct"] as const;

export function writeRatings(path: string, rows: readonly RatingRow[]): void {
  writeTable(path, {
    columns: [...ratingColumns],
    rows: rows.map(({ question, answer, rating, reply, reference }) => [
      question,
      answer,
      pythonFloat(rating),
      reply,
      reference,
    ]),
  });
}

/** @throws CredenceError "BAD_INPUT" naming the row whose rating is no number */
export async function readRatings(path: string): Promise<RatingRow[]> {
  const rows = columnsOf(await readTable(path), ratingColumns, path);
  if (rows.length === 0) throw new CredenceError("BAD_INPUT", `${path}: holds no ratings`);
  return rows.map((row, i) => {
    const { ratings_correct_arr: cell } = row;
    const rating = cell.trim() === "" ? Number.NaN : Number(cell);
    if (!Number.isFinite(rating))
      throw new CredenceError("BAD_INPUT", `${path}: rating ${i + 1} is ${JSON.stringify(cell)}; expected a number`);
    return {
      question: row.prompt_arr_full,
      answer: row.answer_arr_full,
      rating,
      reply: row.output_arr,
      reference: row.correct,
    };
  });
}

/** What becomes of an answer whose confidence cannot be read: an error that counts them, the row left out, or a value. */
export type Unparsed = "error" | "drop" | number;

export interface ConfidenceOptions {
  compat: ConqordCompat;
  unparsed: Unparsed;
  asked: AskedFor;
}

/**
 * The confidence that each answer states; null where the row is to be left out.
 *
 * @throws CredenceError "NO_CONFIDENCE" with how many state none, where that is to be an error
 */
export function statedConfidences(
  rows: readonly RatingRow[],
  path: string,
  { compat, unparsed, asked }: ConfidenceOptions,
): { confidences: (number | null)[]; counts: Reading["counts"] } {
  const onFailure = unparsed === "error" ? "drop" : unparsed;
  const reading = confidenceReading("evaluation", { compat, asked, onFailure });
  const confidences = rows.map(({ answer }) => reading.read(answer));
  const { counts } = reading;
  if (unparsed === "error" && confidences.includes(null)) {
    const first = rows[confidences.indexOf(null)]!;
    throw new CredenceError(
      "NO_CONFIDENCE",
      `${path}: ${counts.failed} of ${counts.texts} answers state no confidence, the first of them to ${JSON.stringify(first.question.slice(0, 80))}: ${JSON.stringify(first.answer.slice(-80))}. Choose what such answers have: drop, or a value`,
    );
  }
  return { confidences, counts };
}

/** A ratings file's metrics, with what could not be read. */
export async function scoreRatings(
  path: string,
  options: ConfidenceOptions,
): Promise<ConqordMetrics & { unparsed: number; clamped: number }> {
  const rows = await readRatings(path);
  const { confidences, counts } = statedConfidences(rows, path, options);
  const rated = rows.flatMap(({ rating }, i): RatedRow[] => {
    const confidence = confidences[i]!;
    return confidence === null ? [] : [{ confidence, rating }];
  });
  return { ...(await conqordMetrics(rated, options.compat)), unparsed: counts.failed, clamped: counts.clamped };
}

// ---- scores

const scoreColumns = [
  "name",
  "ratings_correct_arr_mean",
  "correct_ece",
  "correct_pearson_corr",
  "correct_pearson_p_value",
  "correct_spearman_corr",
  "correct_spearman_p_value",
] as const;

/** Adds a line to a file of scores, and begins it with its header; what is undefined is an empty cell. */
export async function appendScores(path: string, name: string, scores: ConqordMetrics): Promise<void> {
  const { accuracy, ece, pearson, pearsonP, spearman, spearmanP } = scores;
  const numbers = [accuracy, ece, pearson, pearsonP, spearman, spearmanP];
  await appendTable(path, {
    columns: [...scoreColumns],
    rows: [[name, ...numbers.map((value) => (value === null ? "" : pythonFloat(value)))]],
  });
}
