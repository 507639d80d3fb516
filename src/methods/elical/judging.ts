/**
 * Who labels a recipe's answers: their words, or a model that says yes or no, here or on a server. What a model said is in
 * the run's database before it is used, so that a run that is killed pays for no answer twice.
 */
import { join } from "node:path";
import { type Judge, modelJudge, stringJudge } from "../../evaluation/judges/judge.js";
import { type JudgeRecord, type JudgeServer, judgeRecord, openResponder } from "../../evaluation/judges/open.js";
import { correctnessRequest, equivalenceRequest } from "../../evaluation/judges/prompts.js";
import { writeJsonAtomic } from "../../files.js";
import type { Addon, BaseOptions } from "../../native.js";
import type { Model } from "../../policy/model.js";
import type { StageContext } from "../../training/run.js";
import type { SamplesRecord } from "./answers.js";
import { type LabelledRecord, labelRecords } from "./labels.js";
import { compatOf } from "./quirks.js";
import type { ElicalRecipe } from "./recipe.js";

/** How a judge is opened and asked: none of it changes what it says. */
export interface JudgingOptions extends JudgeServer {
  /** Folder of the database that keeps its answers. Default: judge.answers in the run's folder. */
  answers?: string;
}

export interface JudgingJob {
  recipe: ElicalRecipe;
  /** The model that answered. */
  model: Model;
  engine?: BaseOptions;
  addon?: Pick<Addon, "openBase">;
  judging?: JudgingOptions;
}

/** What judged, what it was asked and what that cost; the labels' stage leaves it. */
export interface JudgeNote extends JudgeRecord {
  /** Of a model of this machine: SHA-256 of its weights. */
  sha256?: string;
  /** Answers and pairs of answers that were judged. */
  verdicts: number;
  /** Replies that said neither yes nor no, counted as no. */
  unparsed: number;
}

export const judgeFile = "judge.json";
const answersFolder = "judge.answers";

/** Where the database of a run's judge lies. */
const answersOf = (context: StageContext, { judging }: JudgingJob): string =>
  judging?.answers ?? join(context.runDirectory, answersFolder);

/** Whether the answering model itself judges: it is named, or it does as published (B9-3). */
export const judgesItself = (recipe: ElicalRecipe): boolean =>
  recipe.judge.by === "local" && (compatOf(recipe).has("B9-3") || recipe.judge.model === recipe.model);

/** What a recipe says of its judge, for `openResponder`. */
function judgeOptions({ recipe, model, engine, addon, judging }: JudgingJob) {
  const { judge } = recipe;
  if (judge.by === "string") return undefined;
  const { answers: _, ...server } = judging ?? {};
  return {
    ...server,
    model: judge.model,
    ...(judge.by === "server" ? { url: judge.url } : { repetitionPenalty: judge.repetitionPenalty }),
    ...(judgesItself(recipe) ? { loaded: model } : {}),
    engine,
    addon,
    maxTokens: judge.newTokens,
    mayBeEmpty: compatOf(recipe).has("B9-15"),
  };
}

/** Labels answers as the recipe says, and leaves judge.json in the stage's folder. */
export async function judgeAnswers(
  context: StageContext,
  job: JudgingJob,
  samples: SamplesRecord[],
): Promise<LabelledRecord[]> {
  const { directory, progress, signal } = context;
  const compat = compatOf(job.recipe);
  const options = judgeOptions(job);
  if (!options) {
    const judge = stringJudge(compat.has("B9-16") ? "published" : "corrected");
    const { records, verdicts } = await labelled(samples, judge, context);
    writeJsonAtomic(join(directory, judgeFile), { judge: judge.name, verdicts, unparsed: 0 } satisfies JudgeNote);
    return records;
  }
  const answers = answersOf(context, job);
  await using open = await openResponder({ ...options, answers, note: progress.note, signal });
  const judge = modelJudge(open.responder, compat.has("B9-15") ? "published" : "corrected");
  const { unparsed: policy } = job.recipe.judge as Exclude<ElicalRecipe["judge"], { by: "string" }>;
  const { records, verdicts, unparsed } = await labelled(samples, judge, context, policy);
  if (unparsed > 0)
    progress.note(`${unparsed} of ${verdicts} replies say neither certain nor uncertain; they count as uncertain`);
  writeJsonAtomic(join(directory, judgeFile), {
    ...judgeRecord(judge, open.server),
    ...(open.sha256 === undefined ? {} : { sha256: open.sha256 }),
    verdicts,
    unparsed,
  } satisfies JudgeNote);
  return records;
}

async function labelled(
  samples: SamplesRecord[],
  judge: Judge,
  { progress, signal }: StageContext,
  policy?: "error" | "negative",
) {
  const records: LabelledRecord[] = [];
  let unparsed = 0;
  const onUnparsed = (count: number) => {
    unparsed = count;
  };
  const task = progress.task("judging", samples.length, "questions");
  try {
    for await (const record of labelRecords(samples, { judge, unparsed: policy, signal, onUnparsed })) {
      records.push(record);
      task.advance(1);
    }
  } finally {
    task.end();
  }
  const verdicts = samples.reduce((sum, { responses }) => sum + 1 + 2 * responses.length, 0);
  return { records, verdicts, unparsed };
}

/** What a judge that is a model will be asked, at most: equal requests are asked once, and answers may be shorter. */
export interface PlannedJudging {
  by: "local" | "server";
  judge: string;
  url?: string;
  requests: number;
  inputTokens: number;
  outputTokens: number;
  /** In the price's currency; null where no price was given. */
  cost: number | null;
}

/** The same with what a judge here is measured by. */
export interface JudgingPlan {
  told: PlannedJudging;
  /** Tokens of the longest requests, as many as are answered together. */
  longest: number[];
  /** Requests that a judge here has no room for, should the answers be as long as they may be. */
  refused: number;
  /** Requests as they will look, of questions evenly spread. */
  typical: string[];
}

/** Requests that a judge here answers together. */
export const judgedTogether = 64;

/**
 * @param reader whose tokenizer counts the requests' tokens: the judge's own where it is a model here, else the answering
 *   model's, which says how many there are about
 */
export async function planJudging(
  { recipe, judging }: Pick<JudgingJob, "recipe" | "judging">,
  reader: Model,
  questions: readonly { question: string; answer: readonly string[] }[],
): Promise<JudgingPlan | undefined> {
  const { judge, answer, samples } = recipe;
  if (judge.by === "string") return undefined;
  const rows = await Promise.all(
    questions.map(async ({ question, answer: expected }) => {
      const [correct, same] = await Promise.all([
        reader.promptTokens(correctnessRequest(question, expected, "")),
        reader.promptTokens(equivalenceRequest(question, "", "")),
      ]);
      return { correct: correct.length + answer.newTokens, same: same.length + 2 * answer.newTokens };
    }),
  );
  let inputTokens = 0;
  for (const { correct, same } of rows) inputTokens += (1 + samples.count) * correct + samples.count * same;
  const requests = questions.length * (1 + 2 * samples.count);
  const outputTokens = requests * judge.newTokens;
  const { price } = judging ?? {};
  const kinds = rows.flatMap(({ correct, same }) => [
    { length: correct, count: 1 + samples.count },
    { length: same, count: samples.count },
  ]);
  const longest: number[] = [];
  for (const { length, count } of kinds.sort((a, b) => b.length - a.length).slice(0, judgedTogether))
    for (let i = 0; i < count && longest.length < judgedTogether; i++) longest.push(length);
  const room = reader.info.contextLength - judge.newTokens;
  const long = judge.by === "local" ? kinds.filter(({ length }) => length > room) : [];
  const step = Math.max(1, Math.floor((2 * questions.length) / judgedTogether));
  const typical = questions
    .filter((_, i) => i % step === 0)
    .flatMap(({ question, answer: [first = ""], answer: expected }) => [
      correctnessRequest(question, expected, first),
      equivalenceRequest(question, first, expected.at(-1) ?? first),
    ]);
  return {
    told: {
      by: judge.by,
      judge: judgesItself(recipe) ? recipe.model : judge.model,
      ...(judge.by === "server" ? { url: judge.url } : {}),
      requests,
      inputTokens,
      outputTokens,
      cost: price ? (inputTokens * price.input + outputTokens * price.output) / 1e6 : null,
    },
    longest,
    refused: long.reduce((sum, { count }) => sum + count, 0),
    typical: typical.slice(0, judgedTogether),
  };
}
