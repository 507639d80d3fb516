/**
 * What a run would do and take on this machine, before it does: rows and their tokens, what would be refused, the engine's
 * memory to the byte (the run's own calls on a dry engine), the process's memory, and time from a short measured probe.
 * Nothing is written.
 */
import { statSync } from "node:fs";
import type { Addon, BaseOptions } from "../../native.js";
import { native } from "../../native.js";
import { Model } from "../../policy/model.js";
import type { Policy } from "../../policy/policy.js";
import { auditTemplate, type TemplateAudit } from "../../text/audit.js";
import { silent } from "../../tracking/progress.js";
import { plannedBatches, stepBatch } from "../../training/confidence-head.js";
import { passChoice } from "../../training/loop.js";
import { prepareQuestions } from "../questions.js";
import { answerSettings, batchChoice, chunkSize, probeDepths } from "./answers.js";
import { type PlannedAsking, plannedAsking } from "./asking.js";
import { headPolicy, teachHead } from "./heads.js";
import { type JudgingOptions, type JudgingPlan, judgesItself, type PlannedJudging, planJudging } from "./judging.js";
import type { LabelledRecord } from "./labels.js";
import { confidenceHead, loraLogits, loraPrompts, loraTraining } from "./lora.js";
import {
  divisions,
  frozenStages,
  loraDivision,
  loraTrainings,
  namedDivisions,
  splitWithout,
  stageNames,
} from "./plan.js";
import { compatOf } from "./quirks.js";
import type { ElicalRecipe } from "./recipe.js";
import { type Measured, measure } from "./stopwatch.js";

export interface StagePlan {
  name: string;
  does:
    | "reads questions"
    | "generates"
    | "labels"
    | "asks again"
    | "fits probes"
    | "trains heads"
    | "trains"
    | "evaluates";
  rows: number;
  /** Of a row's prompt. */
  tokens: { min: number; median: number; max: number } | null;
  /** Rows that would be cut: none, since a row that does not fit is refused. */
  cut: number;
  /** Rows longer than the context: with any, the run stops there. */
  refused: number;
  /** Share of the tokens that carry the loss; null where nothing is learnt token by token. */
  supervisedShare: number | null;
  /** Largest memory of the engine in the stage, exact. */
  engineBytes: number;
  /** Largest memory of the process by the end of the stage. */
  processBytes: number;
  /** Null where time was not asked for, or is not known here: a server's, or of weights that are not there. */
  seconds: number | null;
  /** What is chosen to keep to the limit of memory. */
  fitted: string[];
  /** What a judge will be asked at most. */
  judge?: PlannedJudging;
}

export interface ElicalPlan {
  recipe: ElicalRecipe;
  model: { name: string; parameters: number; contextLength: number; device: string; isa: string; dtype: string };
  questions: { total: number; train: number; test: number; leftOut: number };
  template: TemplateAudit;
  stages: StagePlan[];
  engineBytes: number;
  processBytes: number;
  /** Loading the model and all stages whose time is known; null where time was not asked for. */
  seconds: number | null;
  maxMemory: number | null;
}

export interface PlanOptions {
  engine?: BaseOptions;
  /** How the recipe's judge will be asked; its price tells the cost. */
  judging?: JudgingOptions;
  /** Measure this model on this machine to predict time; takes some seconds. Default true. */
  probe?: boolean;
  note?: (line: string) => void;
  signal?: AbortSignal;
  addon?: Pick<Addon, "openBase" | "fitLogistic">;
}

/** Rows of one LoRA training of the run, in the run's own order. */
export interface PlannedTraining {
  name: string;
  job: ReturnType<typeof loraTraining>;
  /** Prompts whose logits are read afterwards, one call after the other. */
  read: Int32Array[][];
}

const spread = (lengths: number[]): StagePlan["tokens"] => {
  if (!lengths.length) return null;
  const sorted = lengths.toSorted((a, b) => a - b);
  return { min: sorted[0]!, median: sorted[sorted.length >> 1]!, max: sorted.at(-1)! };
};

const sum = (values: readonly number[]): number => values.reduce((all, one) => all + one, 0);

/**
 * Bytes of the process beside the engine, at the largest: what it holds now, and the weights' files as they are read.
 * Weights that are not there are taken to have 16 bits a parameter, as models of this size are given out.
 */
const resident = (model: Model): number => process.memoryUsage().rss + weightBytes(model);

const weightBytes = ({ info }: Model): number =>
  info.files.length ? sum(info.files.map((file) => statSync(file).size)) : 2 * info.parameters;

/** Hidden states as they are collected, joined, and standardised in float64. */
function stateBytes({ info }: Model, questions: number, depths: number): number {
  return questions * info.hiddenSize * (depths * 2 * (4 + 4) + 3 * 8);
}

/** A checkpoint being written: parameters and two moments as arrays and as files, and the flat copy they come from. */
const checkpointBytes = (trainable: number): number => 7 * 4 * trainable;

async function drain(samples: AsyncIterable<unknown>): Promise<void> {
  for await (const _ of samples);
}

/** Every answer of the run on a dry engine. */
async function rehearseAnswers(policy: Policy, prompts: Int32Array[], recipe: ElicalRecipe, fitted: Set<string>) {
  const settings = answerSettings(recipe, probeDepths(policy.model.info.layers, recipe.probes.depths));
  for (let from = 0; from < prompts.length; from += chunkSize) {
    const chunk = prompts.slice(from, from + chunkSize);
    for (const [what, each] of [
      ["answering", settings.given],
      ["sampling", settings.sampled],
    ] as const) {
      const onStats = ({ maxBatch }: { maxBatch: number }) => {
        if (policy.model.maxMemory !== undefined) fitted.add(batchChoice(what, maxBatch));
      };
      await drain(policy.generate(chunk, { ...each, onStats }));
    }
  }
}

/** Every request of an asking stage on a dry engine. */
async function rehearseAsking(
  policy: Policy,
  { read, together }: PlannedAsking,
  prompts: Int32Array[],
  fitted: Set<string>,
) {
  for (let from = 0; from < prompts.length; from += together)
    await read(policy, prompts.slice(from, from + together), ({ maxBatch }) => {
      if (policy.model.maxMemory !== undefined) fitted.add(batchChoice("asking", maxBatch));
    });
}

/** A step of each kind of head on a dry engine, and what is read of the tested questions. */
async function rehearseHeads(model: Model, { heads }: ElicalRecipe, tested: number) {
  const { hiddenSize: width, layers } = model.info;
  const rows = Array.from({ length: heads.batch }, (_, row) => row);
  const states = new Float32Array(heads.batch * width);
  for (const kind of heads.kinds) {
    await using policy = await headPolicy(model, kind, layers, 0);
    const lesson = { states, width, rows, targets: rows, epochs: 1, seed: 0 };
    await teachHead(policy, policy.native.tensors().heads, lesson, heads);
    policy.native.readHead(confidenceHead, new Float32Array(tested * width));
  }
}

/** The longest requests to a judge here, answered together on a dry engine; returns its bytes beside the answering model's. */
async function rehearseJudging(
  judge: Model,
  { judge: settings }: ElicalRecipe,
  plan: JudgingPlan | undefined,
  model: Model,
  fitted: Set<string>,
): Promise<number> {
  if (plan?.told.by !== "local" || settings.by !== "local") return 0;
  const { newTokens: maxNewTokens, repetitionPenalty } = settings;
  const prompts = plan.longest
    .filter((length) => length + maxNewTokens <= judge.info.contextLength)
    .map((length) => new Int32Array(length));
  await using policy = await judge.policy();
  const onStats = ({ maxBatch }: { maxBatch: number }) => {
    if (judge.maxMemory !== undefined) fitted.add(batchChoice("judging", maxBatch));
  };
  if (prompts.length)
    await drain(policy.generate(prompts, { temperature: 0, maxNewTokens, repetitionPenalty, onStats }));
  return judge === model ? 0 : weightBytes(judge) + judge.memory().peak;
}

/** Every step of a training on a dry engine, and what is read after it; returns the bytes of a checkpoint being written. */
async function rehearseTraining(
  model: Model,
  recipe: ElicalRecipe,
  { job, read }: PlannedTraining,
  fitted: Set<string>,
): Promise<number> {
  await using policy = await job.policy(undefined);
  {
    using trainer = policy.trainer({ schedule: 0 });
    for (const { rows } of plannedBatches(job)) {
      await trainer.step(stepBatch(job, rows));
      if (model.maxMemory !== undefined) fitted.add(passChoice(trainer.passSize));
    }
  }
  for (const prompts of read) await loraLogits(policy, recipe, prompts);
  return checkpointBytes(policy.native.trainable);
}

/** The trainings of a run, as its stages will ask for them. */
function plannedTrainings(
  model: Model,
  recipe: ElicalRecipe,
  questions: LabelledRecord[],
  { learnt, scored }: Awaited<ReturnType<typeof loraPrompts>>,
) {
  const row = (place: number) => ({ tokens: learnt[place]!, target: 0, group: questions[place]!.group });
  return loraTrainings(recipe).map((planned): PlannedTraining => {
    const { name, seed, what } = planned;
    const division = loraDivision(questions, planned);
    const tokens = (places: readonly number[]) => places.map((place) => scored[place]!);
    const labels = division.labels(seed, planned.labels ?? recipe.labels.main);
    const { elicitEpochs, calibrateEpochs } = recipe.lora;
    return {
      name,
      job: loraTraining({
        context: { directory: "", runDirectory: "", progress: silent },
        model,
        recipe,
        seed,
        epochs: what === "elicit" ? elicitEpochs : calibrateEpochs,
        rows: (what === "elicit" ? division.train : labels).map(row),
        ...(compatOf(recipe).has("B9-9") ? { held: division.test.map(row) } : {}),
        label: name,
      }),
      read: (what === "elicit" ? [division.test, labels] : [division.test]).map(tokens),
    };
  });
}

/** Looks ahead. */
export async function planElical(recipe: ElicalRecipe, options: PlanOptions = {}): Promise<ElicalPlan> {
  const { addon = native(), note, signal, probe = true } = options;
  const { questions: prepared, dropped } = await prepareQuestions(recipe);
  const questions = prepared as LabelledRecord[];
  const stages: StagePlan[] = [];
  const load = (dry: boolean, name = recipe.model) =>
    Model.load(name, { ...options.engine, dry, engine: addon, note, signal });
  await using model = await load(true);
  const { contextLength } = model.info;
  const all = await Promise.all(questions.map(({ question }) => model.promptTokens(question, recipe.prompt)));
  const reader = await loraPrompts(model, recipe, questions);
  const asked = reader.learnt;
  const fits = (prompts: Int32Array[], room: number) => prompts.filter(({ length }) => length + room <= contextLength);
  const answered = fits(all, recipe.answer.newTokens);
  const longForLora = asked.length - fits(asked, 0).length;
  const depths = probeDepths(model.info.layers, recipe.probes.depths).length;
  const held = resident(model);

  const add = async (
    stage: Pick<StagePlan, "name" | "does" | "rows"> & Partial<StagePlan>,
    run: (fitted: Set<string>) => Promise<number> = async () => 0,
  ) => {
    model.memory({ restartPeak: true });
    const fitted = new Set<string>();
    const more = await run(fitted);
    const engineBytes = model.memory().peak;
    const processBytes = held + engineBytes + more;
    const defaults = { tokens: null, cut: 0, refused: 0, supervisedShare: null, seconds: null };
    stages.push({ ...defaults, ...stage, engineBytes, processBytes, fitted: [...fitted] });
  };

  const rows = questions.length;
  const lengths = all.map(({ length }) => length);
  await add({ name: stageNames.questions, does: "reads questions", rows });
  await add(
    {
      name: stageNames.answers,
      does: "generates",
      rows,
      tokens: spread(lengths),
      refused: rows - answered.length,
    },
    async (fitted) => {
      await using policy = await model.policy();
      await rehearseAnswers(policy, answered, recipe, fitted);
      return stateBytes(model, rows, depths);
    },
  );
  const ownJudge = recipe.judge.by === "local" && !judgesItself(recipe) ? recipe.judge.model : undefined;
  const judgeModel = ownJudge === undefined ? undefined : await load(true, ownJudge);
  const judging = await planJudging({ recipe, judging: options.judging }, judgeModel ?? model, questions);
  const judgeThere = (judgeModel ?? model).info.files.length > 0;
  await add(
    { name: stageNames.labels, does: "labels", rows, judge: judging?.told, refused: judging?.refused ?? 0 },
    (fitted) => rehearseJudging(judgeModel ?? model, recipe, judging, model, fitted),
  );
  await judgeModel?.dispose();
  const asking = await plannedAsking(model, recipe, prepared, namedDivisions(questions, recipe));
  for (const planned of asking) {
    const { name, prompts, newTokens } = planned;
    const short = fits(prompts, newTokens);
    const counts = { rows: prompts.length, refused: prompts.length - short.length };
    await add(
      { name, does: "asks again", ...counts, tokens: spread(prompts.map((row) => row.length)) },
      async (fitted) => {
        await using policy = await model.policy();
        await rehearseAsking(policy, planned, short, fitted);
        return 0;
      },
    );
  }
  for (const { name, what, fold, without } of frozenStages(recipe)) {
    const division = without === undefined ? divisions(questions, recipe)[fold]! : splitWithout(questions, without);
    const does = what === "probes" ? "fits probes" : "trains heads";
    await add({ name, does, rows: division.train.length }, async () => {
      if (what === "heads") await rehearseHeads(model, recipe, division.test.length);
      return stateBytes(model, rows, depths);
    });
  }
  const trainings = (on: Model) => (longForLora ? [] : plannedTrainings(on, recipe, questions, reader));
  for (const training of trainings(model)) {
    const own = training.job.rows.map((row) => row.tokens.length);
    await add(
      {
        name: training.name,
        does: "trains",
        rows: own.length,
        tokens: spread(own),
        supervisedShare: own.length / sum(own),
      },
      (fitted) => rehearseTraining(model, recipe, training, fitted),
    );
  }
  if (longForLora) {
    const tokens = spread(asked.map(({ length }) => length));
    await add({ name: loraTrainings(recipe)[0]!.name, does: "trains", rows, tokens, refused: longForLora });
  }
  await add({ name: stageNames.evaluate, does: "evaluates", rows });
  await add({ name: stageNames.report, does: "evaluates", rows });

  const { name, info } = model;
  const template = await auditTemplate(model.tokenizer);
  let loading: number | null = null;
  const isThere = info.files.length > 0;
  if (probe && !isThere) note?.(`${name}: its weights are not there, so memory is told and time is not`);
  if (probe && isThere && answered.length) {
    const times: Measured = await measure({
      recipe,
      load: () => load(false),
      fit: (p) => addon.fitLogistic(p),
      questions,
      prompts: answered,
      asking: asking.map(({ prompts, ...one }) => ({ ...one, prompts: fits(prompts, one.newTokens) })),
      trainings,
      ...(judging?.told.by === "local" && judgeThere
        ? { judging: { ...judging, ...(ownJudge === undefined ? {} : { load: () => load(false, ownJudge) }) } }
        : {}),
    });
    loading = times.load;
    for (const stage of stages) {
      const unknown = stage.judge && times.stages[stage.name] === undefined;
      stage.seconds = unknown ? null : (times.stages[stage.name] ?? 0);
      if (stage.does === "generates") {
        const measured = times.generatingBytes + stateBytes(model, rows, depths);
        stage.processBytes = Math.min(stage.processBytes, measured);
      }
    }
  }
  for (const [i, stage] of stages.entries())
    stage.processBytes = Math.max(stage.processBytes, stages[i - 1]?.processBytes ?? 0);
  const train = questions.filter(({ part }) => part === "train").length;
  return {
    recipe,
    model: { name, parameters: info.parameters, contextLength, device: info.device, isa: info.isa, dtype: info.dtype },
    questions: { total: rows, train, test: rows - train, leftOut: dropped },
    template,
    stages,
    engineBytes: Math.max(...stages.map((stage) => stage.engineBytes)),
    processBytes: Math.max(...stages.map((stage) => stage.processBytes)),
    seconds: loading === null ? null : loading + sum(stages.map(({ seconds }) => seconds ?? 0)),
    maxMemory: options.engine?.maxMemory ?? null,
  };
}
