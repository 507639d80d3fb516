/**
 * Training as published: LoRA and a scalar head that reads the prompt alone, or a head alone on the frozen model's states;
 * squared error to what the samples say. The output folder is a run's folder, which a killed training goes on in, with the
 * published files in it: the losses of each epoch, and the best epoch's adapter and head.
 */
import { createHash } from "node:crypto";
import { join } from "node:path";
import { PythonRandom, shuffle } from "../../../data/random.js";
import { splitByGroup } from "../../../data/splits.js";
import { CredenceError } from "../../../errors.js";
import { writeFileAtomic, writeJsonAtomic } from "../../../files.js";
import type { Card } from "../../../model/card.js";
import type { HeadSpec } from "../../../native.js";
import type { Model } from "../../../policy/model.js";
import type { Policy } from "../../../policy/policy.js";
import { type Progress, silent } from "../../../tracking/progress.js";
import { newestCheckpoint } from "../../../training/checkpoint.js";
import { type HeadTraining, trainConfidenceHead, trainHeadOnFeatures } from "../../../training/confidence-head.js";
import { executeRun, type StageContext } from "../../../training/run.js";
import { machineOf } from "../../run.js";
import { confidenceHead } from "../lora.js";
import { loadTrained, writeTrained } from "./adapters.js";
import { collectFeatures, readFeatures } from "./features.js";
import { runPaths, type TrainedPart } from "./paths.js";
import { eosText, paddingOf, promptTokens, publishedGroups, type Reading, readingOf } from "./reading.js";
import { type PublishedRow, promptTemplate, type RowsRead, readSampledRows } from "./rows.js";
import type { PublishedTraining, RowFiles } from "./settings.js";

export interface TrainingReport {
  /** Rows learnt from, and those the best epoch was chosen on. */
  rows: number;
  validationRows: number;
  /** Verdicts that say neither yes nor no, counted as no. */
  unparsed: number;
  /** Squared error on the validation rows after each epoch. */
  losses: number[];
  /** From 1. */
  bestEpoch: number;
  steps: number;
  adapter?: string;
  head: string;
}

/** A path for each set: its name where the whole list stands. */
export function pathsOfSets(path: string, dataset: string): string[] {
  const names = dataset.split("-");
  if (names.length === 1) return [path];
  if (!path.includes(dataset)) {
    throw new CredenceError(
      "BAD_INPUT",
      `${path} does not hold ${JSON.stringify(dataset)}, in whose place each of its ${names.length} sets would stand`,
    );
  }
  return names.map((name) => path.replaceAll(dataset, name));
}

async function readSets({ data, verdicts }: RowFiles, job: PublishedTraining): Promise<RowsRead> {
  const { dataset } = job;
  const judged = verdicts === undefined ? undefined : pathsOfSets(verdicts, dataset);
  const out: RowsRead = { rows: [], unparsed: 0 };
  for (const [i, path] of pathsOfSets(data, dataset).entries()) {
    const { rows, unparsed } = await readSampledRows(path, judged?.[i], job);
    for (const row of rows) out.rows.push(row);
    out.unparsed += unparsed;
  }
  return out;
}

/** The rows that are labelled: all, or so many at random; of a head alone the first ones, as published (B9-19). */
export function chosenRows<Row>(
  rows: readonly Row[],
  {
    count,
    part,
    seed,
    shuffle: mixed,
    dataset,
    compat,
  }: Pick<PublishedTraining, "count" | "part" | "seed" | "shuffle" | "dataset" | "compat">,
): Row[] {
  const random = new PythonRandom(seed);
  const all = [...rows];
  if (mixed && dataset.includes("-")) shuffle(all, random);
  if (count === 0) return all;
  if (count > all.length) {
    throw new CredenceError(
      "BAD_INPUT",
      `${count} training rows are asked for, there are ${all.length}. Ask for fewer, or 0 for all`,
    );
  }
  return part === "mlp" && compat.has("B9-19") ? all.slice(0, count) : random.sample(all, count);
}

/** A row made ready. */
interface Ready {
  tokens: Int32Array;
  target: number;
}

export interface TrainingOptions {
  model: Model;
  progress?: Progress;
  signal?: AbortSignal;
  resumeInexact?: boolean;
}

/**
 * Trains, or goes on where a training of the same settings in the same folder was stopped.
 *
 * @throws CredenceError "OTHER_RECIPE" where the folder was begun with other settings or rows
 */
export async function trainPublished(job: PublishedTraining, options: TrainingOptions): Promise<TrainingReport> {
  const { model, progress = silent, signal } = options;
  const { compat } = job;
  const read = await readSets(job.train, job);
  if (read.unparsed > 0) progress.note(`${read.unparsed} verdicts say neither yes nor no: counted as no`);
  const rows = chosenRows(read.rows, job);
  const [training, validation] = await validationSplit(job, rows);
  const template = promptTemplate([...training, ...validation]);

  const eos = job.eos ?? (compat.has("B9-12") ? "training" : "none");
  const reading = readingOf({ lastToken: job.lastToken, paddingSide: job.paddingSide, group: job.batch }, compat);
  const ready = async (some: PublishedRow[]): Promise<Ready[]> => {
    const tokens = await promptTokens(model, some, { eos: eos !== "none", compat });
    return some.map(({ target }, i) => ({ tokens: tokens[i]!, target }));
  };
  const parts = { training: await ready(training), validation: await ready(validation) };
  const card = trainedCard(model, job, template, eos === "always" ? eosText(model) : "");
  const { output, logger: _, compat: __, ...settings } = job;
  const recipe = {
    ...settings,
    reading,
    eos,
    compat: [...compat].sort(),
    rows: { training: checksum(parts.training), validation: checksum(parts.validation) },
  };
  const work: Work = { job, model, card, reading, parts };
  await executeRun({
    directory: output,
    recipe,
    stages: job.part === "lora" ? [loraStage(work)] : [featuresStage(work), headStage(work)],
    machine: machineOf(model),
    engineBytes: (restartPeak) => model.memory({ restartPeak }).peak,
    progress,
    signal,
    resumeInexact: options.resumeInexact,
  });
  const { state } = newestCheckpoint(trainingFolder(output, job.part))!;
  const losses = state.validation!.losses;
  const report: TrainingReport = {
    rows: training.length,
    validationRows: validation.length,
    unparsed: read.unparsed,
    losses,
    bestEpoch: losses.indexOf(Math.min(...losses)) + 1,
    steps: state.step,
    ...(job.part === "lora" ? { adapter: runPaths(output).adapter } : {}),
    head: runPaths(output).head,
  };
  writeJsonAtomic(join(output, "summary.json"), report);
  return report;
}

/** Held-out questions of the training rows; published: the test sets (B9-9). */
async function validationSplit(
  job: PublishedTraining,
  rows: PublishedRow[],
): Promise<[PublishedRow[], PublishedRow[]]> {
  const { compat, test, validationShare: testShare, seed } = job;
  if (!compat.has("B9-9")) {
    const groups = rows.map(({ question }) => ({ group: question }));
    const split = splitByGroup(groups, { testShare, seed });
    return [split.train.map((i) => rows[i]!), split.test.map((i) => rows[i]!)];
  }
  if (!test)
    throw new CredenceError("BAD_INPUT", "the best epoch is to be chosen on the test sets (B9-9), and none is given");
  return [rows, (await readSets(test, job)).rows];
}

function checksum(rows: Ready[]): string {
  const sum = createHash("sha256");
  for (const { tokens, target } of rows) sum.update(`${tokens.join()} ${target}\n`);
  return sum.digest("hex");
}

function headSpec({ part, head, seed }: PublishedTraining, { hiddenSize }: Model["info"]): HeadSpec {
  const layered = part === "mlp" && head === "mlp";
  const widths = layered ? { widths: [Math.floor(hiddenSize / 2), Math.floor(hiddenSize / 4)] } : {};
  return { name: confidenceHead, kind: layered ? "mlp" : "linear", ...widths, outputs: 1, seed };
}

/** How what is trained is used: the question is put as the training rows are. */
function trainedCard(model: Model, job: PublishedTraining, template: string, end: string): Card {
  const { seed: _, ...head } = headSpec(job, model.info);
  const put = (user: string) => ({ user, system: "none" as const, template: "none" as const });
  return {
    version: 1,
    method: "elical",
    prompt: put(template),
    answers: "base",
    answer: { newTokens: 256 },
    heads: [{ ...head, layer: model.info.layers, outputs: 1 }],
    confidence: {
      head: confidenceHead,
      at: "prompt-last",
      prompt: put(template.endsWith(end) ? template : template + end),
      slope: 1,
      offset: 0,
    },
    base: model.cardBase,
  };
}

interface Work {
  job: PublishedTraining;
  model: Model;
  card: Card;
  reading: Reading;
  parts: { training: Ready[]; validation: Ready[] };
}

const stageNames = { lora: "01-train", features: "01-features", head: "02-train" } as const;

/** Where the training itself keeps its checkpoints. */
const trainingFolder = (output: string, part: TrainedPart): string =>
  join(output, "stages", part === "lora" ? stageNames.lora : stageNames.head);

function common<Row>({ job, model, card }: Work, context: StageContext) {
  return {
    directory: context.directory,
    head: confidenceHead,
    epochs: job.epochs,
    batch: job.batch * job.accumulation,
    order: "shuffled",
    learningRate: job.learningRate,
    weightDecay: job.weightDecay,
    warmup: job.warmup,
    seed: job.seed,
    checkpointEvery: 50,
    microBatchTokens: 4096,
    card,
    label: "training",
    events: job.logger,
    progress: context.progress,
    signal: context.signal,
    fitted: context.fitted,
    policy: (checkpoint) => startPolicy(job, model, checkpoint),
  } satisfies Omit<HeadTraining<Row>, "rows" | "validation"> & { events?: string };
}

/** Where a checkpoint or an earlier stage has none, a fresh one. */
async function startPolicy(job: PublishedTraining, model: Model, checkpoint: string | undefined): Promise<Policy> {
  const { part, rank, alpha, dropout, seed, from } = job;
  if (checkpoint !== undefined) return model.policy({ adapter: checkpoint });
  if (from === undefined) {
    const targets = ["q", "k", "v", "o", "gate", "up", "down"] as const;
    const adapter = part === "lora" ? { rank, alpha, dropout, targets: [...targets], seed } : undefined;
    return model.policy({ adapter, heads: [headSpec(job, model.info)] });
  }
  const policy = await loadTrained(model, from);
  const config = policy.config;
  if (config && (config.r !== rank || config.lora_alpha !== alpha)) {
    await policy.dispose();
    throw new CredenceError(
      "BAD_OPTION",
      `${from.adapter} has r ${config.r} and alpha ${config.lora_alpha}; r ${rank} and alpha ${alpha} are asked for. Give its own`,
    );
  }
  return policy;
}

/** Told after each epoch: the losses so far as published, and what is best by them. */
function validationOf<Row>({ job, card }: Work, rows: Row[]): HeadTraining<Row>["validation"] {
  return {
    rows,
    patience: job.patience,
    group: publishedGroups.epochs,
    told: ({ losses, best }, policy) => {
      writeLosses(job.output, losses);
      if (best) writeTrained(runPaths(job.output), policy, card);
    },
  };
}

function writeLosses(output: string, losses: readonly number[]): void {
  const lines = losses.map((loss, i) => `${JSON.stringify({ epoch: i + 1, test_loss: loss })}\n`);
  writeFileAtomic(runPaths(output).losses, lines.join(""));
}

/** What was told of an epoch may have been lost with the process that was to write it. */
async function finish({ job, card }: Work, training: string, policy: Policy): Promise<void> {
  try {
    writeLosses(job.output, newestCheckpoint(training)!.state.validation!.losses);
    writeTrained(runPaths(job.output), policy, card);
  } finally {
    await policy.dispose();
  }
}

function loraStage(work: Work) {
  const { model, reading, parts } = work;
  return {
    name: stageNames.lora,
    async run(context: StageContext) {
      const policy = await trainConfidenceHead({
        ...common(work, context),
        rows: parts.training,
        validation: validationOf(work, parts.validation),
        padding: paddingOf(model, reading),
      });
      await finish(work, context.directory, policy);
    },
  };
}

function featuresStage({ model, reading, parts }: Work) {
  return {
    name: stageNames.features,
    async run({ directory, progress, signal }: StageContext) {
      for (const [name, rows] of Object.entries(parts)) {
        const group = name === "training" ? reading.group : publishedGroups.epochs;
        const tokens = rows.map((row) => row.tokens);
        await collectFeatures({
          model,
          tokens,
          padding: paddingOf(model, { ...reading, group }),
          directory,
          name,
          progress,
          signal,
        });
      }
    },
  };
}

function headStage(work: Work) {
  const { model, parts } = work;
  return {
    name: stageNames.head,
    async run(context: StageContext) {
      const directory = join(context.runDirectory, "stages", stageNames.features);
      const rowsOf = (name: "training" | "validation") => {
        const features = readFeatures(directory, name, model.info.hiddenSize);
        return parts[name].map(({ target }, i) => ({ features: features[i]!, target }));
      };
      const policy = await trainHeadOnFeatures({
        ...common(work, context),
        rows: rowsOf("training"),
        validation: validationOf(work, rowsOf("validation")),
      });
      await finish(work, context.directory, policy);
    },
  };
}
