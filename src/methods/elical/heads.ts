/**
 * Heads alone on the frozen model: the published ablation without an adapter. A linear head, or one of three layers, on the
 * state of the prompt's last token; elicited from agreement, then calibrated on a few labels, beside its two twins.
 */
import { shuffledBatches } from "../../data/packing.js";
import { CredenceError } from "../../errors.js";
import { logit } from "../../model/calibrator.js";
import type { TensorData } from "../../native.js";
import type { Model } from "../../policy/model.js";
import type { Policy } from "../../policy/policy.js";
import type { StageContext } from "../../training/run.js";
import { learningRate } from "../../training/schedule.js";
import type { Features } from "./answers.js";
import { type StagePrediction, writePredictions } from "./evaluate.js";
import type { LabelledRecord } from "./labels.js";
import { confidenceHead, confidenceOf, labelTarget } from "./lora.js";
import type { Division } from "./plan.js";
import { standardise } from "./probe.js";
import { compatOf } from "./quirks.js";
import type { ElicalRecipe } from "./recipe.js";

export interface HeadsStage {
  context: StageContext;
  model: Model;
  recipe: ElicalRecipe;
  questions: LabelledRecord[];
  features: Features[];
  division: Division;
  /** The division leaves the tested set out. */
  transfer?: true;
  label: string;
}

/** Hidden widths as published: a half and a quarter of the model's. */
export const headWidths = (width: number): number[] => [Math.max(1, width >> 1), Math.max(1, width >> 2)];

/** A policy of a head alone, which is only read on states. */
export const headPolicy = (model: Model, kind: "linear" | "mlp", depth: number, seed: number): Promise<Policy> =>
  model.policy({
    heads: [
      {
        name: confidenceHead,
        layer: depth,
        kind,
        ...(kind === "mlp" ? { widths: headWidths(model.info.hiddenSize) } : {}),
        outputs: 1,
        seed,
      },
    ],
  });

export interface HeadLesson {
  /** [rows, width], row-major; standardise first. */
  states: Float32Array;
  width: number;
  /** Rows to learn from, and of every row what the head should say, in [0, 1]. */
  rows: readonly number[];
  targets: readonly number[];
  epochs: number;
  seed: number;
  signal?: AbortSignal;
}

/** Trains a policy's head from the numbers given, and returns those it ends with. */
export async function teachHead(
  policy: Policy,
  start: TensorData[],
  { states, width, rows, targets, epochs, seed, signal }: HeadLesson,
  heads: Pick<ElicalRecipe["heads"], "batch" | "learningRate" | "weightDecay" | "warmup">,
): Promise<TensorData[]> {
  policy.native.setTensors(start);
  const plan = shuffledBatches({ lengths: rows.map(() => 1), batch: heads.batch, epochs, seed });
  const schedule = { kind: "linear" as const, peak: heads.learningRate, steps: plan.length, warmup: heads.warmup };
  using trainer = policy.trainer({
    optimizer: { weightDecay: heads.weightDecay },
    schedule: (step) => learningRate(schedule, step),
  });
  for (const { rows: places } of plan) {
    if (signal?.aborted)
      throw new CredenceError(
        "ABORTED",
        "stopped while training a head; started again it begins with this one's stage",
      );
    const some = places.map((place) => rows[place]!);
    await trainer.step({
      features: gather(states, width, some),
      loss: { kind: "confidence", head: confidenceHead, targets: some.map((row) => targets[row]!) },
    });
  }
  return policy.native.tensors().heads;
}

/**
 * The same numbers with the offset that says the mean of what is to be learnt: on standardised states nothing else moves
 * the mean, and a rare right answer is far from one half. A sure mean is taken as one row less sure.
 */
export function offsetAt(start: TensorData[], rows: readonly number[], targets: readonly number[]): TensorData[] {
  const mean = (rows.reduce((sum, row) => sum + targets[row]!, 0) + 0.5) / (rows.length + 1);
  const last = start.findLastIndex(({ name }) => name.endsWith(".bias"));
  return start.map((tensor, i) => (i === last ? { ...tensor, data: Float32Array.of(logit(mean)) } : tensor));
}

function gather(states: Float32Array, width: number, rows: readonly number[]): Float32Array {
  const out = new Float32Array(rows.length * width);
  for (const [i, row] of rows.entries()) out.set(states.subarray(row * width, (row + 1) * width), i * width);
  return out;
}

/** Trains the heads of one division and writes their predictions; depths other than the last where there is no transfer. */
export async function trainHeads({
  context,
  model,
  recipe,
  questions,
  features,
  division,
  transfer,
  label,
}: HeadsStage): Promise<void> {
  const { heads, labels, seeds } = recipe;
  const asked = features.filter(({ family }) => family === "question");
  const last = Math.max(...asked.map(({ depth }) => depth));
  const read = heads.everyDepth && !transfer ? asked : asked.filter(({ depth }) => depth === last);
  const counts = [...new Set([labels.main, ...labels.counts])];
  const agreement = questions.map(({ target }) => target);
  const correct = questions.map((question) => labelTarget(recipe, question));
  const confidence = confidenceOf(recipe);
  // Published: the first training rows are the labelled ones (B9-19).
  const first = compatOf(recipe).has("B9-19");
  const predictions: StagePrediction[] = [];
  const runs = Math.min(seeds, heads.seeds ?? seeds);
  const task = context.progress.task(label, read.length * heads.kinds.length * runs, "heads");
  try {
    for (const { depth, width, data } of read) {
      const states = Float32Array.from(standardise({ depth, width, data }, division.train).standardised);
      const tested = gather(states, width, division.test);
      for (const kind of heads.kinds) {
        for (let seed = 0; seed < runs; seed++) {
          await using policy = await headPolicy(model, kind, depth, seed);
          const teach = (start: TensorData[], rows: readonly number[], targets: readonly number[], epochs: number) =>
            teachHead(policy, start, { states, width, rows, targets, epochs, seed, signal: context.signal }, heads);
          const put = (row: string, count: number | null) => {
            const logits = policy.native.readHead(confidenceHead, tested);
            const one = (more: Pick<StagePrediction, "layer" | "transfer">) => {
              for (const [i, index] of division.test.entries())
                predictions.push({ row, labels: count, seed, index, confidence: confidence(logits[i]!), ...more });
            };
            if (depth === last) one(transfer ? { transfer } : {});
            if (heads.everyDepth && !transfer && (count === null || count === labels.main)) one({ layer: depth });
          };
          const fresh = policy.native.tensors().heads;
          const elicited = await teach(
            offsetAt(fresh, division.train, agreement),
            division.train,
            agreement,
            heads.elicitEpochs,
          );
          put(`head-${kind}-elicitation-only`, null);
          for (const count of depth === last ? counts : [labels.main]) {
            const rows = first ? division.train.slice(0, count) : division.labels(seed, count);
            await teach(elicited, rows, correct, heads.calibrateEpochs);
            put(`head-${kind}`, count);
            await teach(offsetAt(fresh, rows, correct), rows, correct, heads.calibrateEpochs);
            put(`head-${kind}-calibration-only`, count);
          }
          task.advance(1);
        }
      }
    }
  } finally {
    task.end();
  }
  writePredictions(context.directory, predictions);
}
