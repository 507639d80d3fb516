/** Who learns from what: the one split or the folds of a run, its labelled rows, and its stages' names. */
import { crossValidationParts, elicalReferenceLabels, type Fold, foldsByGroup, labelOrder } from "../../data/splits.js";
import type { LabelledRecord } from "./labels.js";
import type { ElicalRecipe } from "./recipe.js";

/** One division of the questions for the probes and the rows beside them. */
export interface Division extends Fold {
  /** Rows that are labelled for a seed. */
  labels(seed: number, count: number): number[];
  /** The labelled rows in parts for cross-validation. */
  parts(labels: number[], seed: number): number[][];
}

/** Depth and penalty are chosen over so many parts of the training groups: one part alone picks depths by luck. */
const innerFolds = 5;

/** The split whose training questions come first in the file, as LoRA and a run without folds use it. */
export function split(questions: LabelledRecord[]): Division {
  const rows = questions.map((_, row) => row);
  const train = rows.filter((row) => questions[row]!.part === "train");
  const test = rows.filter((row) => questions[row]!.part === "test");
  const groups = new Set(train.map((row) => questions[row]!.group)).size;
  const inner = foldsByGroup(
    train.map((row) => questions[row]!),
    { folds: Math.min(innerFolds, groups) },
  ).map(({ test: part }) => part.map((place) => train[place]!));
  return {
    train,
    test,
    inner,
    labels: (seed, count) => elicalReferenceLabels(train.length, count, seed).map((place) => train[place]!),
    parts: (labels, seed) => crossValidationParts(labels, seed).filter((part) => part.length),
  };
}

/** The divisions that test every question once a seed, or the one split. */
export function divisions(questions: LabelledRecord[], recipe: ElicalRecipe): Division[] {
  if (recipe.folds === 0) return [split(questions)];
  return foldsByGroup(questions, { folds: recipe.folds }).map((fold, k) => ({
    ...fold,
    labels: (seed, count) => labelOrder(fold.train, seed, k).slice(0, count),
    parts: (labels, seed) => crossValidationParts(labels, seed).filter((part) => part.length),
  }));
}

/** Stage folders in their order. */
export const stageNames = {
  questions: "01-questions",
  answers: "02-answers",
  labels: "03-labels",
  probes: (fold: number, folds: number) => (folds ? `04-probes-fold${fold}` : "04-probes"),
  elicit: (seed: number) => `05-elicit-seed${seed}`,
  calibrate: (seed: number) => `06-calibrate-seed${seed}`,
  calibrateOnly: (seed: number) => `07-calibration-only-seed${seed}`,
  evaluate: "08-evaluate",
  report: "09-report",
};
