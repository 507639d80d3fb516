/**
 * The stage that reads the frozen model: probes on the answer and on the question, and what the answer itself already
 * tells, for every seed and number of labels of one division of the questions.
 */
import { join } from "node:path";
import type { FitLogistic } from "../../evaluation/calibrators.js";
import { writeFolderAtomic } from "../../files.js";
import type { Card } from "../../model/card.js";
import { policyFiles } from "../../model/policy-folder.js";
import type { Model } from "../../policy/model.js";
import type { StageContext } from "../../training/run.js";
import type { Features } from "./answers.js";
import {
  lexicalConsistency,
  meanTokenProbability,
  rateOfKind,
  selfConsistencyPlatt,
  sequenceProbability,
} from "./baselines.js";
import { type StagePrediction, writePredictions } from "./evaluate.js";
import type { LabelledRecord } from "./labels.js";
import { confidenceHead } from "./lora.js";
import type { Division } from "./plan.js";
import { calibrate, elicit, type LinearHead } from "./probe.js";
import type { ElicalRecipe } from "./recipe.js";

export interface ProbesStage {
  context: StageContext;
  model: Model;
  recipe: ElicalRecipe;
  questions: LabelledRecord[];
  features: Features[];
  division: Division;
  fit: FitLogistic;
  /** The division leaves the tested set out: only rows that learn something are new, and they are called so. */
  transfer?: true;
  label: string;
}

/** Folder of the answer probe's policy in the stage's folder. */
export const probeFolder = "probe-answer";

/** How a probe on the answer is used: the base answers, a head reads the mean of the answer's states at one depth. */
export function probeCard(model: Model, recipe: ElicalRecipe, depth: number): Card {
  return {
    version: 1,
    method: "elical",
    prompt: recipe.prompt,
    answers: "base",
    answer: { newTokens: recipe.answer.newTokens },
    heads: [{ name: confidenceHead, layer: depth, kind: "linear", outputs: 1 }],
    confidence: { head: confidenceHead, at: "answer-mean", slope: 1, offset: 0 },
    base: model.cardBase,
  };
}

function saveProbe(directory: string, { depth, weights, bias }: LinearHead, model: Model, recipe: ElicalRecipe): void {
  const heads = [
    { name: `${confidenceHead}.weight`, shape: [1, weights.length], data: Float32Array.from(weights) },
    { name: `${confidenceHead}.bias`, shape: [1], data: Float32Array.of(bias) },
  ];
  writeFolderAtomic(
    join(directory, probeFolder),
    policyFiles({ adapter: [], heads }, undefined, probeCard(model, recipe, depth)),
  );
}

/** Rows that fit nothing: what the answer, or asking again, already tells. */
const alreadyTold: [row: string, confidence: (question: LabelledRecord) => number][] = [
  ["self-consistency", ({ target }) => target],
  ["consistency-lexical", ({ given, responses }) => lexicalConsistency(given, responses)],
  ["mean-token-probability", ({ given }) => meanTokenProbability(given.logprobs)],
  ["sequence-probability", ({ given }) => sequenceProbability(given.logprobs)],
];

/** Fits everything for one division and writes its predictions; the answer probe of the first seed becomes a policy. */
export async function fitProbes({
  context,
  model,
  recipe,
  questions,
  features,
  division,
  fit,
  transfer,
  label,
}: ProbesStage): Promise<void> {
  const { train, inner, test } = division;
  const agreement = questions.map((question) => question.target);
  const correct = questions.map((question) => question.given_correct);
  const kinds = questions.map((question) => question.kind);
  const predictions: StagePrediction[] = [];
  const put = (row: string, labels: number | null, seed: number, values: ArrayLike<number>, layer?: number) => {
    const more = { ...(layer === undefined ? {} : { layer }), ...(transfer ? { transfer } : {}) };
    for (const [i, index] of test.entries())
      predictions.push({ row, labels, seed, index, confidence: values[i]!, ...more });
  };
  const counts = [...new Set([...recipe.labels.counts, recipe.labels.main])];
  const everyDepth = recipe.probes.everyDepth && !transfer ? features.length : 0;
  const task = context.progress.task(label, 2 + recipe.seeds * counts.length * 2 + everyDepth, "fits");
  try {
    const families = [];
    for (const family of ["answer", "question"] as const) {
      const own = features.filter((feature) => feature.family === family);
      families.push({
        family,
        elicited: await elicit({ features: own, agreement, train, inner, fit, signal: context.signal }),
      });
      task.advance(1);
    }
    for (let seed = 0; seed < recipe.seeds; seed++) {
      if (!transfer) {
        for (const [row, of] of alreadyTold)
          put(
            row,
            null,
            seed,
            test.map((index) => of(questions[index]!)),
          );
      }
      for (const count of counts) {
        const labels = division.labels(seed, count);
        put("self-consistency-platt", count, seed, await selfConsistencyPlatt(fit, agreement, correct, labels, test));
        if (!transfer) put("rate-of-kind", count, seed, rateOfKind(kinds, correct, labels, test));
        const parts = division.parts(labels, seed);
        for (const { family, elicited } of families) {
          const fitted = await calibrate(elicited, { correct, labels, parts, test, fit, signal: context.signal });
          put(`probe-${family}`, count, seed, fitted.elical.probabilities);
          put(`probe-${family}-calibration-only`, count, seed, fitted.calibrationOnly.probabilities);
          put(`probe-${family}-elicitation-only`, count, seed, fitted.elicitationOnly.probabilities);
          if (!transfer && family === "answer" && seed === 0 && count === recipe.labels.main)
            saveProbe(context.directory, fitted.elical.head, model, recipe);
          task.advance(1);
        }
      }
    }
    if (recipe.probes.everyDepth && !transfer) {
      for (const feature of features) {
        const elicited = await elicit({ features: [feature], agreement, train, inner, fit, signal: context.signal });
        for (let seed = 0; seed < recipe.seeds; seed++) {
          const labels = division.labels(seed, recipe.labels.main);
          const parts = division.parts(labels, seed);
          const fitted = await calibrate(elicited, { correct, labels, parts, test, fit, signal: context.signal });
          const row = `probe-${feature.family}`;
          put(row, recipe.labels.main, seed, fitted.elical.probabilities, feature.depth);
          put(`${row}-calibration-only`, recipe.labels.main, seed, fitted.calibrationOnly.probabilities, feature.depth);
          put(`${row}-elicitation-only`, recipe.labels.main, seed, fitted.elicitationOnly.probabilities, feature.depth);
        }
        task.advance(1);
      }
    }
  } finally {
    task.end();
  }
  writePredictions(context.directory, predictions);
}
