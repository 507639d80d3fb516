/**
 * The published evaluation: every method's confidences of a set against whether its greedy answers are right. Three
 * workbooks a set as published; beside them everything as JSON Lines, JSON and CSV.
 */
import { existsSync, readdirSync } from "node:fs";
import { join } from "node:path";
import { z } from "zod";
import { toJsonLines } from "../../../data/readers.js";
import { CredenceError } from "../../../errors.js";
import { rougeL } from "../../../evaluation/rouge.js";
import type { Prediction } from "../../../evaluation/rows.js";
import { confidenceFormats } from "../../../evaluation/stated.js";
import { readJson, writeFileAtomic, writeJsonAtomic } from "../../../files.js";
import type { ElicalCompat } from "./compat.js";
import { likelihoods, matched, readPredicted } from "./confidences.js";
import { publishedNumbers, questionWeighted, roundTo } from "./metrics.js";
import {
  answersPaths,
  type ConfidenceType,
  findPredictions,
  type QuestionType,
  runFolderName,
  sizeName,
  statedPath,
  type TrainedPart,
  workbookFolder,
  workbookPath,
} from "./paths.js";
import { type AnswersRow, readAnswers, readVerdicts } from "./verdicts.js";
import { writeWorkbook } from "./workbook.js";

export interface EvaluationSettings {
  /** R, the folder of results. */
  results: string;
  model: string;
  /** Names joined by hyphens where there are several. */
  trainSet: string;
  questionType: QuestionType;
  part: TrainedPart;
  /** Numbers of annotated questions; 0: all. */
  sizes: readonly number[];
  /** Questions that were elicited from; 0: all. */
  elicitationRows: number;
  /** Of the training, as its folder's name has them. */
  batch: number;
  accumulation: number;
  epochs?: number;
  weightDecay: number;
  rank: number;
  alpha: number;
  dropout: number;
  /** Answers sampled a question. */
  samples: number;
  /** A verdict that says neither is an error, or a no; B9-15 reads it as published. */
  unparsed: "error" | "negative";
  /** Of the rows that choose Alignment's threshold. */
  seed: number;
  compat: ElicalCompat;
  /** Folder of the workbooks. */
  out: string;
}

const number = z.number().nullable();

const methodSchema = z.object({
  method: z.string(),
  /** Annotated questions it was trained on, 0: all; null where it was not trained on annotations. */
  rows: z.int().nullable(),
  /** Times 100; null where every answer is right, or wrong. */
  auroc: number,
  /** As a fraction. */
  ece: number,
  /** Times 100. */
  align: number,
  threshold: number,
});

const settingsSchema = z.object({
  model: z.string(),
  trainSet: z.string(),
  part: z.enum(["lora", "mlp"]),
  sizes: z.array(z.int()),
  elicitationRows: z.int(),
  /** Name of the training's folder but for its size. */
  training: z.string(),
  seed: z.int(),
  compat: z.array(z.string()),
});

const setSchema = z.object({
  settings: settingsSchema,
  set: z.string(),
  group: z.enum(["in-domain", "out-of-domain", "other-format"]),
  questionType: z.string(),
  questions: z.int(),
  /** Verdicts that say neither, counted as no. */
  unparsed: z.int(),
  accuracy: z.number(),
  methods: z.array(methodSchema),
});

/** What a method is worth on a set. */
export type MethodValues = z.infer<typeof methodSchema>;
/** What every method is worth on a set. */
export type EvaluatedSet = z.infer<typeof setSchema>;

export const publishedMetrics = ["auroc", "ece", "align"] as const;
export type PublishedMetric = (typeof publishedMetrics)[number];

const averageSchema = z.object({
  group: setSchema.shape.group,
  sets: z.array(z.string()),
  questions: z.int(),
  methods: z.array(methodSchema.omit({ threshold: true })),
});

/** Averages over sets of a kind, each set as often as it has questions. */
export type Average = z.infer<typeof averageSchema>;

export const evaluationSchema = z.object({
  settings: settingsSchema,
  sets: z.array(setSchema.omit({ settings: true })),
  averages: z.array(averageSchema),
});

/** Everything that was evaluated with one model, training set and elicitation. */
export type Evaluation = z.infer<typeof evaluationSchema>;

/** A method's confidences, one a question. */
interface Column {
  method: string;
  rows: number | null;
  values: readonly number[];
}

/** The five columns of a workbook, and which training fills those that are trained. */
export const workbookColumns = ["N-Prob", "Cons-Sem", "Eli-Only", "Cal-Only", "EliCal"] as const;

const groupOf = (set: string, { trainSet, questionType }: EvaluationSettings): EvaluatedSet["group"] =>
  questionType === "long_mc_qa" ? "other-format" : trainSet.split("-").includes(set) ? "in-domain" : "out-of-domain";

/** The settings that the numbers depend on; sets evaluated with others are not averaged with them. */
const recorded = (settings: Omit<EvaluationSettings, "questionType">) => ({
  model: settings.model,
  trainSet: settings.trainSet,
  part: settings.part,
  sizes: [...settings.sizes],
  elicitationRows: settings.elicitationRows,
  training: runFolderName({ ...settings, type: "right", rows: 0 }),
  seed: settings.seed,
  compat: [...settings.compat].sort(),
});

/** A set's questions, and what a judge said of their answers. */
interface Questions {
  /** The file of greedy answers. */
  path: string;
  greedy: readonly AnswersRow[];
  correct: readonly (0 | 1)[];
  /** Share of the samples that mean the greedy answer. */
  agreement: readonly number[];
  /** How far the samples' words are the greedy answer's (mean ROUGE-L F1), where the samples are there. */
  wording: readonly number[] | undefined;
  /** Verbal-N: the score that the model stated, where it was asked (--prompt_type prior_conf); 0 where it gave none. */
  stated: readonly { method: string; values: readonly number[] }[];
  /** Share of the samples that are right, where they were judged. */
  sampled: readonly number[] | undefined;
  /** Verdicts that say neither, counted as no. */
  unparsed: number;
}

async function readQuestions(set: string, settings: EvaluationSettings): Promise<Questions> {
  const { results, model, questionType, samples, unparsed: policy, compat } = settings;
  const paths = answersPaths({ results, model, dataset: set, split: "test", questionType, samples });
  const greedy = await readAnswers(paths.greedy, 1);
  const given = existsSync(paths.sampled) ? await readAnswers(paths.sampled, samples) : undefined;
  let unparsed = 0;
  const asked = greedy.map(({ question }) => question);
  const verdicts = async (path: string, group: number, answered: readonly AnswersRow[] | undefined) => {
    const answers = answered?.map(({ response }) => response);
    const read = await readVerdicts(path, asked, { group, answers, compat, unparsed: policy });
    unparsed += read.unparsed;
    return read.values;
  };
  const correct =
    questionType === "long_qa"
      ? (await verdicts(paths.greedyJudged, 1, greedy)).map(([one]) => one!)
      : matched(greedy, questionType, compat);
  const agreement = (await verdicts(paths.consistency, samples, given)).map(mean);
  const sampled = existsSync(paths.sampledJudged)
    ? (await verdicts(paths.sampledJudged, samples, given)).map(mean)
    : undefined;
  const wording = given?.map(({ response }, i) =>
    mean(response.map((text) => rougeL(text ?? "", greedy[i]!.response[0] ?? ""))),
  );
  const stated: { method: string; values: number[] }[] = [];
  for (const shots of publishedShotCounts) {
    const path = statedPath({ results, model, dataset: set }, shots);
    if (existsSync(path))
      stated.push({ method: `Verbal-${shots}`, values: statedScores(path, await readAnswers(path, 1), asked) });
  }
  return { path: paths.greedy, greedy, correct, agreement, wording, stated, sampled, unparsed };
}

/** Solved examples that the model was shown before it stated its score. */
const publishedShotCounts = [0, 10];

function statedScores(path: string, replies: readonly AnswersRow[], asked: readonly string[]): number[] {
  if (replies.length !== asked.length || replies.some(({ question }, i) => question !== asked[i]))
    throw new CredenceError("BAD_INPUT", `${path}: its questions are not those that were answered; ask them again`);
  return replies.map(({ response }) => confidenceFormats["elical-published"].find(response[0] ?? "")?.value ?? 0);
}

const mean = (values: readonly number[]): number => values.reduce((sum, one) => sum + one, 0) / values.length;

/** Evaluates one set and writes its files: three workbooks, its numbers, and each question's confidences. */
export async function evaluateSet(set: string, settings: EvaluationSettings): Promise<EvaluatedSet> {
  const questions = await readQuestions(set, settings);
  const { path, greedy, correct, agreement, wording, stated, unparsed } = questions;
  const { prob, nProb } = likelihoods(path, greedy);
  const columns: Column[] = [
    { method: "Prob", rows: null, values: prob },
    { method: "N-Prob", rows: null, values: nProb },
    { method: "Cons-Sem", rows: null, values: agreement },
    ...(wording ? [{ method: "Consis-Lex", rows: null, values: wording }] : []),
    ...stated.map((one) => ({ ...one, rows: null })),
    ...(await trained(set, greedy.length, settings)),
  ];
  const evaluated: EvaluatedSet = {
    settings: recorded(settings),
    set,
    group: groupOf(set, settings),
    questionType: settings.questionType,
    questions: greedy.length,
    unparsed,
    accuracy: mean(correct),
    methods: columns.map((column) => valued(column, correct, settings)),
  };
  await writeSet(evaluated, columns, questions, settings);
  return evaluated;
}

async function trained(set: string, questions: number, settings: EvaluationSettings): Promise<Column[]> {
  const { sizes, elicitationRows } = settings;
  const column = async (method: string, type: ConfidenceType, rows: number): Promise<Column> => {
    return {
      method,
      rows: type === "greedy" ? null : rows,
      values: await readPredicted(
        findPredictions({ ...settings, questionType: "long_qa", type, rows }, set, "test"),
        questions,
      ),
    };
  };
  const columns = [await column("Eli-Only", "greedy", elicitationRows)];
  for (const rows of sizes) {
    columns.push(await column("Cal-Only", "right", rows), await column("EliCal", "hybrid", rows));
  }
  return columns;
}

function valued({ method, rows, values }: Column, correct: readonly (0 | 1)[], settings: EvaluationSettings) {
  const predictions: Prediction[] = values.map((confidence, i) => ({ confidence, correct: correct[i]! }));
  const { compat, seed } = settings;
  return { method, rows, ...publishedNumbers(predictions, compat, seed) };
}

const decimals: Record<PublishedMetric, number> = { auroc: 2, ece: 4, align: 2 };

async function writeSet(
  evaluated: EvaluatedSet,
  columns: readonly Column[],
  { correct, sampled }: Questions,
  settings: EvaluationSettings,
): Promise<void> {
  const { out, questionType, compat } = settings;
  const place = { ...settings, evalSet: evaluated.set };
  for (const metric of publishedMetrics) {
    const rows = settings.sizes.map((size) =>
      workbookColumns.map((name) => {
        const value = evaluated.methods.find(({ method, rows }) => method === name && (rows ?? size) === size)![metric];
        return value === null || metric === "ece" ? value : roundTo(value, 2);
      }),
    );
    await writeWorkbook(workbookPath(out, place, metric), rows, compat.has("B9-10") ? 2 : decimals[metric]);
  }
  const folder = workbookFolder(out, place);
  writeFileAtomic(
    confidencesPath(folder, questionType, settings.part),
    toJsonLines(
      correct.map((right, index) => ({
        index,
        correct: right,
        ...(sampled ? { sampled_accuracy: sampled[index] } : {}),
        confidences: Object.fromEntries(columns.map((column) => [columnName(column), column.values[index]])),
      })),
    ),
  );
  writeJsonAtomic(join(folder, setFile(settings)), evaluated);
}

/** "EliCal 1k", "N-Prob". */
export const columnName = ({ method, rows }: { method: string; rows: number | null }): string =>
  rows === null ? method : `${method} ${sizeName(rows)}`;

const suffix = ({ part }: { part: TrainedPart }): string => (part === "mlp" ? "_mlp" : "");
const setFile = (settings: { questionType: QuestionType; part: TrainedPart }): string =>
  `${settings.questionType}_evaluation${suffix(settings)}.json`;

/** Where each question's confidences of a set stand. */
export const confidencesPath = (folder: string, questionType: string, part: TrainedPart): string =>
  join(folder, `${questionType}_confidences${suffix({ part })}.jsonl`);

/** Where everything that was evaluated for a model, training set and elicitation stands. */
export const evaluationPath = (folder: string, part: TrainedPart): string =>
  join(folder, `evaluation${suffix({ part })}.json`);

/**
 * Gathers every set that was evaluated with these settings, whichever command did it, averages them and writes
 * evaluation.json and evaluation.csv beside the sets' folders.
 *
 * @returns what was written, and the sets that were left out because they were evaluated with other settings
 */
export function gatherSets(settings: Omit<EvaluationSettings, "questionType">): {
  evaluation: Evaluation;
  others: string[];
  path: string;
} {
  const folder = workbookFolder(settings.out, settings);
  const same = JSON.stringify(recorded(settings));
  const sets: EvaluatedSet[] = [];
  const others: string[] = [];
  const folders = readdirSync(folder, { withFileTypes: true }).filter((entry) => entry.isDirectory());
  for (const name of folders.map((entry) => entry.name).sort()) {
    for (const questionType of ["long_qa", "long_mc_qa", "short_qa"] as const) {
      const path = join(folder, name, setFile({ questionType, part: settings.part }));
      if (!existsSync(path)) continue;
      const read = setSchema.safeParse(readJson(path));
      if (!read.success)
        throw new CredenceError("BAD_INPUT", `${path}: is not as evaluate writes it; evaluate it again`);
      if (JSON.stringify(read.data.settings) === same) sets.push(read.data);
      else others.push(path);
    }
  }
  const evaluation: Evaluation = {
    settings: recorded(settings),
    sets: sets.map(({ settings: _, ...set }) => set),
    averages: averagesOf(sets),
  };
  const path = evaluationPath(folder, settings.part);
  writeJsonAtomic(path, evaluation);
  writeFileAtomic(path.replace(/\.json$/, ".csv"), toCsv(evaluation));
  return { evaluation, others, path };
}

function averagesOf(sets: readonly EvaluatedSet[]): Average[] {
  return setSchema.shape.group.options.flatMap((group) => {
    const members = sets.filter((set) => set.group === group);
    if (members.length === 0) return [];
    const methods = members[0]!.methods.map(({ method, rows }) => {
      const average = (metric: PublishedMetric): number | null => {
        const values = members.map((set) => ({
          questions: set.questions,
          value: set.methods.find((one) => one.method === method && one.rows === rows)?.[metric] ?? null,
        }));
        // An average that leaves a set out would be of other questions than the one beside it.
        if (values.some(({ value }) => value === null)) return null;
        return questionWeighted(values as { questions: number; value: number }[]);
      };
      return { method, rows, auroc: average("auroc"), ece: average("ece"), align: average("align") };
    });
    return [
      {
        group,
        sets: members.map(({ set }) => set),
        questions: members.reduce((sum, { questions }) => sum + questions, 0),
        methods,
      },
    ];
  });
}

function toCsv({ sets, averages }: Evaluation): string {
  const lines = ["group,set,questions,method,annotated,auroc,ece,align,threshold"];
  const add = (group: string, set: string, questions: number, of: Partial<MethodValues>[]) => {
    for (const { method, rows, auroc, ece, align, threshold } of of)
      lines.push(
        [
          group,
          set,
          questions,
          method,
          rows === null ? "" : sizeName(rows!),
          ...[auroc, ece, align, threshold].map((value) => value ?? ""),
        ].join(","),
      );
  };
  for (const { group, set, questions, methods } of sets) add(group, set, questions, methods);
  for (const { group, questions, methods } of averages) add(group, "average", questions, methods);
  return `${lines.join("\n")}\n`;
}
