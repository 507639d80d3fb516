/** EliCal's stages: questions, answers, labels, probes, LoRA, evaluation, report. */
import { join } from "node:path";
import { applyPlatt, type FitLogistic, fitPlatt } from "../../evaluation/calibrators.js";
import { linkAtomic, readJson, writeFileAtomic, writeJsonAtomic } from "../../files.js";
import { sigmoid } from "../../model/calibrator.js";
import type { Model } from "../../policy/model.js";
import type { Policy } from "../../policy/policy.js";
import type { Progress } from "../../tracking/progress.js";
import type { Stage, StageContext } from "../../training/run.js";
import { answerQuestions, readFeatures, readSamples } from "./answers.js";
import {
  evaluateRows,
  gatherRows,
  readPredictions,
  type StagePrediction,
  writePredictions,
  writeRows,
} from "./evaluate.js";
import { type LabelledRecord, labelRecords, readLabels, writeLabels } from "./labels.js";
import { confidenceHead, stageFolder, trainLora } from "./lora.js";
import { divisions, split, stageNames } from "./plan.js";
import { fitProbes, probeFolder } from "./probes.js";
import { prepareQuestions, readStageQuestions, writeQuestions } from "./questions.js";
import type { ElicalRecipe } from "./recipe.js";
import { type ElicalSummary, summarize } from "./summary.js";

export interface ElicalJob {
  recipe: ElicalRecipe;
  model: Model;
  fit: FitLogistic;
}

/** The labels, read once a process: every later stage needs them. */
function labelsOf(context: StageContext): LabelledRecord[] {
  return readLabels(stageFolder(context, stageNames.labels));
}

async function withPolicy<T>(policy: Policy, use: (policy: Policy) => Promise<T>): Promise<T> {
  try {
    return await use(policy);
  } finally {
    await policy.dispose();
  }
}

/** Prompts of the LoRA rows, in the order of the questions. */
async function loraPrompts({ model, recipe }: ElicalJob, questions: LabelledRecord[]): Promise<Int32Array[]> {
  return Promise.all(questions.map(({ question }) => model.promptTokens(question, recipe.lora.prompt)));
}

/** The LoRA stages of one seed. */
function loraStages(job: ElicalJob, seed: number): Stage[] {
  const { recipe, model, fit } = job;
  const main = recipe.labels.main;
  const train = async (context: StageContext, what: "elicit" | "calibrate" | "calibrateOnly") => {
    const questions = labelsOf(context);
    const division = split(questions);
    const prompts = await loraPrompts(job, questions);
    const labels = division.labels(seed, main);
    const rows = what === "elicit" ? division.train : labels;
    const label = {
      elicit: "LoRA, learning agreement",
      calibrate: "LoRA, calibrating",
      calibrateOnly: "LoRA, calibrating from scratch",
    }[what];
    const policy = await trainLora({
      context,
      model,
      recipe,
      seed,
      epochs: what === "elicit" ? recipe.lora.elicitEpochs : recipe.lora.calibrateEpochs,
      rows: rows.map((row) => ({
        tokens: prompts[row]!,
        target: what === "elicit" ? questions[row]!.target : questions[row]!.given_correct,
      })),
      from: what === "calibrate" ? stageFolder(context, stageNames.elicit(seed)) : undefined,
      label: `${label}${recipe.seeds > 1 ? `, seed ${seed}` : ""}`,
    });
    await withPolicy(policy, async () => {
      const read = async (places: number[]) =>
        Float64Array.from(
          await policy.logits(
            places.map((row) => prompts[row]!),
            confidenceHead,
            { signal: context.signal },
          ),
        );
      const logits = await read(division.test);
      const put = (row: string, count: number | null, values: Float64Array): StagePrediction[] =>
        division.test.map((index, i) => ({ row, labels: count, seed, index, confidence: values[i]! }));
      const raw = logits.map(sigmoid);
      if (what === "calibrate") return writePredictions(context.directory, put("lora-question", main, raw));
      if (what === "calibrateOnly")
        return writePredictions(context.directory, put("lora-question-calibration-only", main, raw));
      const platt = await fitPlatt(
        fit,
        await read(labels),
        Float64Array.from(labels, (row) => questions[row]!.given_correct),
      );
      writePredictions(context.directory, [
        ...put("lora-question-elicitation-only", null, raw),
        ...put("lora-question-elicitation-only-platt", main, applyPlatt(platt, logits)),
      ]);
    });
  };
  return [
    { name: stageNames.elicit(seed), run: (context) => train(context, "elicit") },
    { name: stageNames.calibrate(seed), run: (context) => train(context, "calibrate") },
    { name: stageNames.calibrateOnly(seed), run: (context) => train(context, "calibrateOnly") },
  ];
}

const loraSeeds = ({ lora, seeds }: ElicalRecipe): number => (lora.enabled ? Math.min(seeds, lora.seeds ?? seeds) : 0);

/** Stages that leave predictions. */
function predictingStages(recipe: ElicalRecipe): string[] {
  const folds = Array.from({ length: Math.max(1, recipe.folds) }, (_, fold) => stageNames.probes(fold, recipe.folds));
  const seeds = Array.from({ length: loraSeeds(recipe) }, (_, seed) => seed);
  return [
    ...folds,
    ...seeds.flatMap((seed) => [stageNames.elicit(seed), stageNames.calibrate(seed), stageNames.calibrateOnly(seed)]),
  ];
}

/** All stages of a recipe in order. */
export function elicalStages(job: ElicalJob): Stage[] {
  const { recipe, model, fit } = job;
  const probes = Array.from(
    { length: Math.max(1, recipe.folds) },
    (_, fold): Stage => ({
      name: stageNames.probes(fold, recipe.folds),
      run: (context) => {
        const questions = labelsOf(context);
        return fitProbes({
          context,
          model,
          recipe,
          questions,
          features: readFeatures(stageFolder(context, stageNames.answers)),
          division: divisions(questions, recipe)[fold]!,
          fit,
          label: recipe.folds ? `fitting probes, fold ${fold + 1} of ${recipe.folds}` : "fitting probes",
        });
      },
    }),
  );
  return [
    {
      name: stageNames.questions,
      run: async ({ directory, progress }) => {
        const { questions, dropped } = await prepareQuestions(recipe);
        writeJsonAtomic(join(directory, "dropped.json"), { answerInQuestion: dropped });
        writeQuestions(directory, questions);
        const train = questions.filter(({ part }) => part === "train").length;
        progress.note(
          `${questions.length} questions, ${train} to learn from; ${dropped} left out because their answer stands in them`,
        );
        noteLabels(recipe, train, progress);
      },
    },
    {
      name: stageNames.answers,
      run: async (context) => {
        const questions = readStageQuestions(stageFolder(context, stageNames.questions));
        await withPolicy(await model.policy(), (policy) => answerQuestions(context, policy, questions, recipe));
      },
    },
    {
      name: stageNames.labels,
      run: async (context) => {
        const records: LabelledRecord[] = [];
        const samples = readSamples(stageFolder(context, stageNames.answers));
        for await (const record of labelRecords(samples, context)) records.push(record);
        writeLabels(context.directory, records);
        const right = records.filter((record) => record.given_correct).length;
        context.progress.note(
          `${right} of ${records.length} answers are right (${((100 * right) / records.length).toFixed(1)} %)`,
        );
      },
    },
    ...probes,
    ...Array.from({ length: loraSeeds(recipe) }, (_, seed) => loraStages(job, seed)).flat(),
    {
      name: stageNames.evaluate,
      run: async (context) => {
        const questions = labelsOf(context);
        const predictions = predictingStages(recipe).flatMap((name) => readPredictions(stageFolder(context, name)));
        const rows = gatherRows(predictions, questions, recipe);
        writeRows(context.runDirectory, rows, recipe);
        writeJsonAtomic(join(context.directory, "evaluated.json"), evaluateRows(rows, recipe));
        linkAtomic(join(context.runDirectory, "best"), join("stages", predictingStages(recipe)[0]!, probeFolder));
      },
    },
    {
      name: stageNames.report,
      run: async (context) => {
        const summary = summarize(context.runDirectory, job);
        writeJsonAtomic(join(context.runDirectory, "summary.json"), summary);
        const { writeElicalReport } = await import("./report.js");
        writeFileAtomic(
          join(context.runDirectory, "report.html"),
          await writeElicalReport(context.runDirectory, summary),
        );
      },
    },
  ];
}

/** Says where there are fewer training questions than labels asked for. */
function noteLabels({ labels, folds }: ElicalRecipe, train: number, progress: Progress): void {
  const many = [...new Set([...labels.counts, labels.main])].filter((count) => count > train);
  if (many.length && !folds)
    progress.note(`only ${train} questions to learn from: rows with ${many.join(" and ")} labels use all of them`);
}

/** summary.json of a run that is done. */
export const readSummary = (runDirectory: string): ElicalSummary =>
  readJson(join(runDirectory, "summary.json")) as ElicalSummary;
