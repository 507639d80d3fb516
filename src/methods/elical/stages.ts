/** EliCal's stages: questions, answers, labels, probes, LoRA, evaluation, report. */
import { join } from "node:path";
import { CredenceError } from "../../errors.js";
import { applyPlatt, type FitLogistic, fitPlatt } from "../../evaluation/calibrators.js";
import { linkAtomic, writeFileAtomic, writeJsonAtomic } from "../../files.js";
import type { Policy } from "../../policy/policy.js";
import { type Stage, type StageContext, stageFolder } from "../../training/run.js";
import { keepQuestions, readStageQuestions } from "../questions.js";
import { answerQuestions, readFeatures, readSamples } from "./answers.js";
import { type AskingStage, askVerbally, askWhetherRight, compareMeanings } from "./asking.js";
import {
  bestRow,
  evaluateRows,
  gatherRows,
  readPredictions,
  type StagePrediction,
  writePredictions,
  writeRows,
} from "./evaluate.js";
import { trainHeads } from "./heads.js";
import { type JudgingJob, judgeAnswers } from "./judging.js";
import { type LabelledRecord, readLabels, writeLabels } from "./labels.js";
import { confidenceOf, type LoraStage, labelTarget, loraLogits, loraPrompts, trainLora } from "./lora.js";
import {
  askingStages,
  type Division,
  divisions,
  frozenStages,
  type LoraTraining,
  loraDivision,
  loraTrainings,
  type NamedDivision,
  namedDivisions,
  splitWithout,
  stageNames,
  tooManyLabels,
} from "./plan.js";
import { elicit, elicitedHead } from "./probe.js";
import { fitProbes } from "./probes.js";
import { compatOf } from "./quirks.js";
import { type ElicalRecipe, loraCounts } from "./recipe.js";
import { summarize } from "./summary.js";

export interface ElicalJob extends JudgingJob {
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

/**
 * Where the LoRA reader's head reads, and what it begins as. The last state is normed, and a head begins at random there,
 * as published. A middle one is not: a few of its numbers are a hundred times the others. There the head begins as the
 * frozen probe of the same depth that was fitted to agreement, or where agreement has no say, at zero.
 */
async function loraHead(
  { model, fit }: ElicalJob,
  context: StageContext,
  { what, layer }: LoraTraining,
  questions: LabelledRecord[],
  { train, inner }: Division,
): Promise<{ layer: number; head?: LoraStage["head"] }> {
  const last = model.info.layers;
  if (layer === "last" || layer === last) return { layer: last };
  const all = readFeatures(stageFolder(context, stageNames.answers)).filter(({ family }) => family === "question");
  const features = layer === "auto" ? all : all.filter(({ depth }) => depth === layer);
  if (!features.length) {
    throw new CredenceError(
      "BAD_RECIPE",
      `lora.layers: ${layer}; no states were kept there. Expected "last", "auto" or one of ${all.map(({ depth }) => depth).join(", ")} (probes.depths says how many)`,
    );
  }
  const agreement = questions.map(({ target }) => target);
  const elicited = await elicit({ features, agreement, train, inner, fit, signal: context.signal });
  const { depth } = elicited;
  if (depth === last) return { layer: last };
  const width = model.info.hiddenSize;
  const zero = { weights: new Float32Array(width), bias: 0 };
  return { layer: depth, head: what === "elicit" ? elicitedHead(elicited) : zero };
}

/** What a training of the LoRA reader is called while it runs. */
function loraLabel({ what, seed, layer, main, labels, without }: LoraTraining, recipe: ElicalRecipe): string {
  const parts = [
    {
      elicit: "LoRA, learning agreement",
      calibrate: "LoRA, calibrating",
      calibrateOnly: "LoRA, calibrating from scratch",
    }[what],
    main ? "" : `layer ${layer}`,
    without === undefined ? "" : `without ${without}`,
    labels === null || labels === recipe.labels.main ? "" : `${labels} labels`,
    recipe.seeds > 1 ? `seed ${seed}` : "",
  ];
  return parts.filter(Boolean).join(", ");
}

/** One training of the LoRA reader, and what it says of the test questions. */
async function runLora(job: ElicalJob, training: LoraTraining, context: StageContext): Promise<void> {
  const { recipe, model, fit } = job;
  const { what, seed, main, from, without } = training;
  const questions = labelsOf(context);
  const division = loraDivision(questions, training);
  const { learnt, scored } = await loraPrompts(model, recipe, questions);
  const labels = division.labels(seed, training.labels ?? recipe.labels.main);
  const rows = what === "elicit" ? division.train : labels;
  const { layer, head } = await loraHead(job, context, training, questions, division);
  const row = (place: number) => ({
    tokens: learnt[place]!,
    target: what === "elicit" ? questions[place]!.target : labelTarget(recipe, questions[place]!),
    group: questions[place]!.group,
  });
  const policy = await trainLora({
    context,
    model,
    recipe,
    seed,
    epochs: what === "elicit" ? recipe.lora.elicitEpochs : recipe.lora.calibrateEpochs,
    rows: rows.map(row),
    // Published: the tested questions choose the epoch (B9-9).
    ...(compatOf(recipe).has("B9-9") ? { held: division.test.map(row) } : {}),
    layer,
    head,
    from: from === undefined ? undefined : stageFolder(context, from),
    label: loraLabel(training, recipe),
  });
  await withPolicy(policy, async () => {
    const read = async (places: readonly number[]) =>
      Float64Array.from(
        await loraLogits(
          policy,
          recipe,
          places.map((place) => scored[place]!),
          context.signal,
        ),
      );
    const logits = await read(division.test);
    // Depths are told apart where there are several to tell apart, or one that the questions chose.
    const depths = recipe.lora.layers.length > 1 || recipe.lora.layers[0] === "auto";
    const put = (row: string, count: number | null, values: Float64Array): StagePrediction[] => {
      const one = (more: Pick<StagePrediction, "layer" | "transfer">): StagePrediction[] =>
        division.test.map((index, i) => ({ row, labels: count, seed, index, confidence: values[i]!, ...more }));
      const beside = depths && without === undefined && (count === null || count === recipe.labels.main);
      return [...(main ? one(without === undefined ? {} : { transfer: true }) : []), ...(beside ? one({ layer }) : [])];
    };
    const raw = logits.map(confidenceOf(recipe));
    if (what === "calibrate") return writePredictions(context.directory, put("lora-question", training.labels, raw));
    if (what === "calibrateOnly")
      return writePredictions(context.directory, put("lora-question-calibration-only", training.labels, raw));
    const scaled: StagePrediction[] = [];
    for (const count of main && without === undefined ? loraCounts(recipe) : [recipe.labels.main]) {
      const labelled = division.labels(seed, count);
      const platt = await fitPlatt(
        fit,
        await read(labelled),
        Float64Array.from(labelled, (row) => questions[row]!.given_correct),
      );
      scaled.push(...put("lora-question-elicitation-only-platt", count, applyPlatt(platt, logits)));
    }
    writePredictions(context.directory, [...put("lora-question-elicitation-only", null, raw), ...scaled]);
  });
}

/** Stages that leave predictions. */
const predictingStages = (recipe: ElicalRecipe): string[] =>
  [...frozenStages(recipe), ...loraTrainings(recipe)].map(({ name }) => name).concat(askingStages(recipe));

/** The stages that ask the model again. */
function asking({ recipe, model }: ElicalJob): Stage[] {
  const { semantic, verbal, thermometer } = recipe.baselines;
  const stage = (name: string, ask: (stage: AskingStage, divisions: NamedDivision[]) => Promise<void>): Stage => ({
    name,
    run: async (context) => {
      const questions = labelsOf(context);
      await ask({ context, model, recipe, questions }, namedDivisions(questions, recipe));
    },
  });
  return [
    ...(semantic.enabled ? [stage(stageNames.semantic, compareMeanings)] : []),
    ...verbal.shots.map((shots) =>
      stage(stageNames.verbal(shots), (given, divisions) => askVerbally(given, divisions, shots)),
    ),
    ...(thermometer.enabled ? [stage(stageNames.thermometer, askWhetherRight)] : []),
  ];
}

/** All stages of a recipe in order. */
export function elicalStages(job: ElicalJob): Stage[] {
  const { recipe, model, fit } = job;
  const frozen = frozenStages(recipe).map(
    ({ name, what, fold, without }): Stage => ({
      name,
      run: (context) => {
        const questions = labelsOf(context);
        const label = [
          what === "probes" ? "fitting probes" : "training heads",
          recipe.folds ? `fold ${fold + 1} of ${recipe.folds}` : "",
          without === undefined ? "" : `without ${without}`,
        ];
        const stage = {
          context,
          model,
          recipe,
          questions,
          features: readFeatures(stageFolder(context, stageNames.answers)),
          division: without === undefined ? divisions(questions, recipe)[fold]! : splitWithout(questions, without),
          ...(without === undefined ? {} : { transfer: true as const }),
          label: label.filter(Boolean).join(", "),
        };
        return what === "heads" ? trainHeads(stage) : fitProbes({ ...stage, fit });
      },
    }),
  );
  return [
    {
      name: stageNames.questions,
      run: async ({ directory, progress }) => {
        const { questions, dropped } = await keepQuestions(directory, recipe);
        const train = questions.filter(({ part }) => part === "train").length;
        progress.note(
          `${questions.length} questions, ${train} to learn from; ${dropped} left out because their answer stands in them`,
        );
        const few = tooManyLabels(questions, recipe);
        if (few) progress.note(few);
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
        const records = await judgeAnswers(context, job, readSamples(stageFolder(context, stageNames.answers)));
        writeLabels(context.directory, records);
        const right = records.filter((record) => record.given_correct).length;
        context.progress.note(
          `${right} of ${records.length} answers are right (${((100 * right) / records.length).toFixed(1)} %)`,
        );
      },
    },
    ...asking(job),
    ...frozen,
    ...loraTrainings(recipe).map(
      (training): Stage => ({ name: training.name, run: (context) => runLora(job, training, context) }),
    ),
    {
      name: stageNames.evaluate,
      run: async (context) => {
        const questions = labelsOf(context);
        const predictions = predictingStages(recipe).flatMap((name) => readPredictions(stageFolder(context, name)));
        const rows = gatherRows(predictions, questions, recipe);
        writeRows(context.runDirectory, rows, recipe);
        writeJsonAtomic(join(context.directory, "evaluated.json"), evaluateRows(rows, recipe));
        linkAtomic(join(context.runDirectory, "best"), join("stages", frozenStages(recipe)[0]!.name, bestRow));
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
