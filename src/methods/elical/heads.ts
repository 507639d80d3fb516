/**
 * Heads alone on the frozen model: the published ablation without an adapter. A linear head, or one of three layers, on the
 * state of the prompt's last token; elicited from agreement, then calibrated on a few labels, beside its two twins.
 */
import { sigmoid } from "../../model/calibrator.js";
import { type FeatureHead, newFeatureHead, readFeatureHead, trainFeatureHead } from "../../training/feature-head.js";
import type { StageContext } from "../../training/run.js";
import type { Features } from "./answers.js";
import { type StagePrediction, writePredictions } from "./evaluate.js";
import type { LabelledRecord } from "./labels.js";
import type { Division } from "./plan.js";
import { standardise } from "./probe.js";
import type { ElicalRecipe } from "./recipe.js";

export interface HeadsStage {
  context: StageContext;
  recipe: ElicalRecipe;
  questions: LabelledRecord[];
  features: Features[];
  division: Division;
  /** The division leaves the tested set out. */
  transfer?: true;
  label: string;
}

/** Hidden widths: none, or as published a half and a quarter of the model's. */
export const headWidths = (kind: "linear" | "mlp", width: number): number[] =>
  kind === "linear" ? [] : [Math.max(1, width >> 1), Math.max(1, width >> 2)];

/** Trains the heads of one division and writes their predictions; depths other than the last where there is no transfer. */
export async function trainHeads({
  context,
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
  const correct = questions.map(({ given_correct }) => given_correct);
  const predictions: StagePrediction[] = [];
  const runs = Math.min(seeds, heads.seeds ?? seeds);
  const task = context.progress.task(label, read.length * heads.kinds.length * runs, "heads");
  try {
    for (const { depth, width, data } of read) {
      const { standardised } = standardise({ depth, width, data }, division.train);
      for (const kind of heads.kinds) {
        for (let seed = 0; seed < runs; seed++) {
          const train = (start: FeatureHead, rows: readonly number[], targets: number[], epochs: number) =>
            trainFeatureHead(start, {
              features: standardised,
              width,
              rows,
              targets,
              epochs,
              batch: heads.batch,
              learningRate: heads.learningRate,
              weightDecay: heads.weightDecay,
              warmup: heads.warmup,
              seed,
              signal: context.signal,
            });
          const put = (row: string, count: number | null, head: FeatureHead) => {
            const logits = readFeatureHead(head, standardised, division.test);
            const one = (more: Pick<StagePrediction, "layer" | "transfer">) => {
              for (const [i, index] of division.test.entries())
                predictions.push({ row, labels: count, seed, index, confidence: sigmoid(logits[i]!), ...more });
            };
            if (depth === last) one(transfer ? { transfer } : {});
            if (heads.everyDepth && !transfer && (count === null || count === labels.main)) one({ layer: depth });
          };
          const fresh = newFeatureHead(width, headWidths(kind, width), seed);
          const elicited = train(fresh, division.train, agreement, heads.elicitEpochs);
          put(`head-${kind}-elicitation-only`, null, elicited);
          for (const count of depth === last ? counts : [labels.main]) {
            const rows = division.labels(seed, count);
            put(`head-${kind}`, count, train(elicited, rows, correct, heads.calibrateEpochs));
            put(`head-${kind}-calibration-only`, count, train(fresh, rows, correct, heads.calibrateEpochs));
          }
          task.advance(1);
          // Training holds the thread: let a signal and the line of progress through.
          await new Promise((resume) => setImmediate(resume));
        }
      }
    }
  } finally {
    task.end();
  }
  writePredictions(context.directory, predictions);
}
