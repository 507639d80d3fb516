/**
 * The study of adaptive retrieval: what it is worth to look things up only where a model is not sure. From two files of
 * ratings of the same questions, answered without evidence and with it.
 */
import { tableText } from "../../data/tables.js";
import { CredenceError } from "../../errors.js";
import { figure, type Mark } from "../../report/figures.js";
import { type ConfidenceOptions, type RatingRow, readRatings, statedConfidences } from "./files.js";
import { headings } from "./wire.js";

/** A question's ratings, and the confidence of the answer that was given without evidence. */
export interface RetrievalRow {
  confidence: number;
  without: number;
  with: number;
}

/** Mean ratings of some questions; null where there are none. */
export interface Arms {
  questions: number;
  without: number | null;
  with: number | null;
}

export interface RetrievalPoint {
  threshold: number;
  /** Mean rating where evidence is looked up for what is less sure than the threshold, and for nothing else. */
  adaptive: number | null;
  /** Share of the questions that are looked up. */
  retrieved: number | null;
  /** Questions at least as sure as the threshold, and those that are less sure. */
  sure: Arms;
  unsure: Arms;
}

/** 0, 0.1, ... 1. */
export const thresholds: readonly number[] = Array.from({ length: 11 }, (_, i) => i / 10);

const mean = (values: readonly number[]): number | null =>
  values.length === 0 ? null : values.reduce((sum, value) => sum + value, 0) / values.length;

const arms = (rows: readonly RetrievalRow[]): Arms => ({
  questions: rows.length,
  without: mean(rows.map((row) => row.without)),
  with: mean(rows.map((row) => row.with)),
});

/** A point for each threshold; a confidence equal to it counts as sure. */
export function retrievalSweep(rows: readonly RetrievalRow[], at: readonly number[] = thresholds): RetrievalPoint[] {
  return at.map((threshold) => {
    const unsure = rows.filter(({ confidence }) => confidence < threshold);
    return {
      threshold,
      adaptive: mean(rows.map((row) => (row.confidence < threshold ? row.with : row.without))),
      retrieved: rows.length === 0 ? null : unsure.length / rows.length,
      sure: arms(rows.filter(({ confidence }) => confidence >= threshold)),
      unsure: arms(unsure),
    };
  });
}

const asked = ({ question }: RatingRow): string => question.split(headings.evidences.trimEnd())[0]!.trim();

/**
 * Reads both files of ratings.
 *
 * @throws CredenceError "BAD_INPUT" where they are not of the same questions in the same order, "NO_CONFIDENCE" as
 *   `statedConfidences`
 */
export async function readRetrieval(
  paths: { without: string; with: string },
  options: ConfidenceOptions,
): Promise<{ rows: RetrievalRow[]; unparsed: number; clamped: number }> {
  const [without, looked] = [await readRatings(paths.without), await readRatings(paths.with)];
  checkQuestions(without.map(asked), looked.map(asked), paths);
  const { confidences, counts } = statedConfidences(without, paths.without, options);
  const rows = without.flatMap((row, i): RetrievalRow[] => {
    const confidence = confidences[i]!;
    return confidence === null ? [] : [{ confidence, without: row.rating, with: looked[i]!.rating }];
  });
  return { rows, unparsed: counts.failed, clamped: counts.clamped };
}

function checkQuestions(
  without: readonly string[],
  looked: readonly string[],
  paths: { without: string; with: string },
): void {
  const differs = without.findIndex((question, i) => question !== looked[i]);
  if (differs < 0 && without.length === looked.length) return;
  const what =
    differs < 0 || differs >= looked.length
      ? `${paths.without} has ${without.length} questions, ${paths.with} ${looked.length}`
      : `row ${differs + 1} of ${paths.without} asks ${JSON.stringify(without[differs]!.slice(0, 80))}, of ${paths.with} ${JSON.stringify(looked[differs]!.slice(0, 80))}`;
  throw new CredenceError(
    "BAD_INPUT",
    `${what}: ratings with and without evidence must be of the same questions in the same order. Rate answers to one file of questions`,
  );
}

const marks: readonly Mark[] = [
  { name: "adaptive", colour: "after" },
  { name: "never looked up", colour: "before", dashed: true },
  { name: "always looked up", colour: "soft", dashed: true },
];

/** The sweep as a figure: mean rating against threshold, beside never and always looking things up. */
export function retrievalFigure(points: readonly RetrievalPoint[], rows: readonly RetrievalRow[]): string {
  const all = arms(rows);
  const line = (mark: string, value: (point: RetrievalPoint) => number | null) => ({
    mark,
    points: points.map((point) => [point.threshold, value(point) ?? 0] as const),
  });
  const panel = {
    title: `${rows.length} questions`,
    x: "looked up where confidence is below",
    y: "mean rating",
    lines: [
      line("adaptive", ({ adaptive }) => adaptive),
      line("never looked up", () => all.without),
      line("always looked up", () => all.with),
    ],
    ticks: points.map(({ threshold }) => ({ at: threshold, label: String(threshold) })),
  };
  return figure(marks, [[panel]], "Mean rating by the confidence below which evidence is looked up");
}

/** The sweep as CSV: a line a threshold; a mean of no questions is an empty cell. */
export function retrievalCsv(points: readonly RetrievalPoint[]): string {
  const cell = (value: number | null) => (value === null ? "" : String(value));
  const columns = ["threshold", "adaptive", "retrieved"];
  for (const side of ["sure", "unsure"]) columns.push(side, `${side}_without`, `${side}_with`);
  return tableText({
    columns,
    rows: points.map(({ threshold, adaptive, retrieved, sure, unsure }) =>
      [threshold, adaptive, retrieved, ...[sure, unsure].flatMap((arm) => [arm.questions, arm.without, arm.with])].map(
        cell,
      ),
    ),
  });
}
