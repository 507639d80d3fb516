/**
 * Time of a run from a few passes of its real shapes, measured on this machine: generation and training apart, each
 * scaled by the tokens it has to go through. Nothing is written.
 */
import type { FitLogistic } from "../../evaluation/calibrators.js";
import { localResponder } from "../../evaluation/judges/responder.js";
import type { Model } from "../../policy/model.js";
import type { GenerateSettings, Policy } from "../../policy/policy.js";
import { plannedBatches, stepBatch } from "../../training/confidence-head.js";
import { answerSettings, chunkSize, probeDepths } from "./answers.js";
import type { PlannedAsking } from "./asking.js";
import { headPolicy, teachHead } from "./heads.js";
import type { JudgingPlan } from "./judging.js";
import type { LabelledRecord } from "./labels.js";
import { confidenceHead } from "./lora.js";
import { divisions, frozenStages, split, stageNames } from "./plan.js";
import type { PlannedTraining } from "./preflight.js";
import { calibrate, elicit } from "./probe.js";
import type { ElicalRecipe } from "./recipe.js";

export interface Measured {
  /** Opening the model and checking its file. */
  load: number;
  /** Seconds of each stage by its name. */
  stages: Record<string, number>;
  /** Largest memory of this process while it generated: a batch touches less than is set aside for it. */
  generatingBytes: number;
}

export interface Probe {
  recipe: ElicalRecipe;
  load(): Promise<Model>;
  fit: FitLogistic;
  questions: LabelledRecord[];
  /** Of the answers. */
  prompts: Int32Array[];
  /** Stages that ask the model again. */
  asking: PlannedAsking[];
  /** What a judge here will be asked, and how it is loaded where it is another model. */
  judging?: JudgingPlan & { load?: () => Promise<Model> };
  /** The run's trainings on a model. */
  trainings(model: Model): PlannedTraining[];
}

/** Sequences in flight that fill a batch of generation. */
const fullBatch = 128;
/** Optimiser steps that are timed, after one that warms up. */
const timedSteps = 4;

async function seconds(work: () => Promise<unknown>): Promise<number> {
  const started = performance.now();
  await work();
  return (performance.now() - started) / 1000;
}

/** `count` of the items, evenly spread. */
function evenly<T>(items: readonly T[], count: number): T[] {
  if (items.length <= count) return [...items];
  return Array.from({ length: count }, (_, i) => items[Math.floor(((i + 0.5) * items.length) / count)]!);
}

const tokensOf = (rows: readonly Int32Array[]): number => rows.reduce((all, row) => all + row.length, 0);

/** Seconds of generating for all prompts, from some of them. */
async function generation(policy: Policy, prompts: Int32Array[], settings: GenerateSettings): Promise<number> {
  const some = evenly(prompts, Math.min(chunkSize, Math.ceil(fullBatch / (settings.samples ?? 1))));
  const took = await seconds(async () => {
    for await (const _ of policy.generate(some, settings));
  });
  return (took * prompts.length) / some.length;
}

/** Seconds of one training: what its first step does once, its steps by their tokens, and reading after it. */
async function training(all: PlannedTraining[]): Promise<Record<string, number>> {
  const { job, read } = all[0]!;
  const policy = await job.policy(undefined);
  try {
    const batches = plannedBatches(job).map(({ rows }) => stepBatch(job, rows));
    const trainer = policy.trainer({ schedule: 0 });
    const first = await seconds(() => trainer.step(batches[0]!));
    const timed = evenly(batches, timedSteps);
    const took = await seconds(async () => {
      for (const batch of timed) await trainer.step(batch);
    });
    const perToken = took / timed.reduce((sum, batch) => sum + tokensOf(batch.sequences), 0);
    const rows = evenly(read[0]!, 32);
    const readToken = (await seconds(() => policy.logits(rows, confidenceHead))) / tokensOf(rows);
    trainer.dispose();
    const once = Math.max(0, first - perToken * tokensOf(batches[0]!.sequences));
    const out: Record<string, number> = {};
    for (const [i, each] of all.entries()) {
      const steps = plannedBatches(each.job);
      const tokens = steps.reduce((sum, { rows }) => sum + tokensOf(rows.map((row) => each.job.rows[row]!.tokens)), 0);
      const held = tokensOf((each.job.validation?.rows ?? []).map((row) => row.tokens)) * each.job.epochs;
      const read = held + each.read.reduce((sum, part) => sum + tokensOf(part), 0);
      out[each.name] = tokens * perToken + read * readToken;
      if (i === 0) out[each.name]! += once;
    }
    return out;
  } finally {
    await policy.dispose();
  }
}

/** Seconds of fitting the probes of one division, from one depth of one family and one calibration on made-up states. */
async function fitting({ recipe, questions, fit }: Probe, { info }: Model): Promise<number> {
  const division = divisions(questions, recipe)[0]!;
  const width = info.hiddenSize;
  const depths = probeDepths(info.layers, recipe.probes.depths).length;
  // Numbers without structure, the same each time.
  let state = 1;
  const next = () => {
    state = (state * 48271) % 2147483647;
    return state / 2147483647;
  };
  const data = Float32Array.from({ length: questions.length * width }, () => next() - 0.5);
  const agreement = questions.map(next);
  const correct = questions.map(() => (next() < 0.5 ? 0 : 1));
  const features = [{ family: "answer" as const, depth: 1, data, width }];
  const { train, inner, test } = division;
  let elicited: Awaited<ReturnType<typeof elicit>> | undefined;
  const one = await seconds(async () => {
    elicited = await elicit({ features, agreement, train, inner, fit });
  });
  const labels = division.labels(0, recipe.labels.main);
  const parts = division.parts(labels, 0);
  const calibrated = await seconds(() => calibrate(elicited!, { correct, labels, parts, test, fit }));
  const counts = [...new Set([...recipe.labels.counts, recipe.labels.main])];
  const shares = counts.reduce((sum, count) => sum + Math.min(count, train.length) / labels.length, 0);
  return 2 * depths * one + 2 * recipe.seeds * shares * calibrated;
}

/** Seconds of training the heads of one division, from one epoch of each kind on made-up states. */
async function heading({ recipe, questions }: Probe, model: Model): Promise<(transfer: boolean) => number> {
  const { heads, labels, seeds } = recipe;
  const { hiddenSize: width, layers } = model.info;
  const rows = Array.from({ length: 256 }, (_, row) => row);
  const states = Float32Array.from({ length: rows.length * width }, (_, i) => Math.sin(i));
  let perRow = 0;
  for (const kind of heads.kinds) {
    await using policy = await headPolicy(model, kind, layers, 0);
    const lesson = { states, width, rows, targets: rows.map(() => 0.5), epochs: 1, seed: 0 };
    perRow += (await seconds(() => teachHead(policy, policy.native.tensors().heads, lesson, heads))) / rows.length;
  }
  const train = split(questions).train.length;
  const passes = (counts: number[]) =>
    heads.elicitEpochs * train + 2 * heads.calibrateEpochs * counts.reduce((sum, n) => sum + Math.min(n, train), 0);
  const last = passes([...new Set([labels.main, ...labels.counts])]);
  const others = (probeDepths(layers, recipe.probes.depths).length - 1) * passes([labels.main]);
  const each = perRow * Math.min(seeds, heads.seeds ?? seeds);
  return (transfer) => each * (last + (heads.everyDepth && !transfer ? others : 0));
}

/** Seconds of judging, from requests as they will look. */
async function judgingSeconds(
  { load, told, typical }: NonNullable<Probe["judging"]>,
  { judge }: ElicalRecipe,
  answering: Model,
): Promise<number> {
  if (judge.by !== "local") return 0;
  const { newTokens: maxTokens, repetitionPenalty } = judge;
  const model = load ? await load() : answering;
  try {
    await using policy = await model.policy();
    const responder = localResponder(policy, { maxTokens, repetitionPenalty });
    const took = await seconds(async () => {
      for await (const _ of responder.replies(typical));
    });
    return (took * told.requests) / typical.length;
  } finally {
    if (load) await model.dispose();
  }
}

/** Loads the model and measures. */
export async function measure(probe: Probe): Promise<Measured> {
  const { recipe, prompts, trainings } = probe;
  let model: Model | undefined;
  const load = await seconds(async () => {
    model = await probe.load();
    return model.sha256;
  });
  const stages: Record<string, number> = {};
  let generatingBytes = 0;
  try {
    const settings = answerSettings(recipe, probeDepths(model!.info.layers, recipe.probes.depths));
    const policy = await model!.policy();
    stages[stageNames.answers] =
      (await generation(policy, prompts, settings.given)) + (await generation(policy, prompts, settings.sampled));
    for (const { name, prompts: asked, together, read } of probe.asking) {
      if (!asked.length) continue;
      const some = evenly(asked, 2 * together);
      const took = await seconds(async () => {
        for (let from = 0; from < some.length; from += together) await read(policy, some.slice(from, from + together));
      });
      stages[name] = (took * tokensOf(asked)) / tokensOf(some);
    }
    if (probe.judging) stages[stageNames.labels] = await judgingSeconds(probe.judging, recipe, model!);
    await policy.dispose();
    generatingBytes = process.resourceUsage().maxRSS * 1024;
    const fits = await fitting(probe, model!);
    const taught = await heading(probe, model!);
    for (const { name, what, without } of frozenStages(recipe))
      stages[name] = what === "probes" ? fits : taught(without !== undefined);
    const planned = trainings(model!);
    if (planned.length) Object.assign(stages, await training(planned));
  } finally {
    await model!.dispose();
  }
  return { load, stages, generatingBytes };
}
