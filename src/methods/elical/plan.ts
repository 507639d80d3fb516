/** Who learns from what: the one split or the folds of a run, its labelled rows, and its stages' names. */
import { crossValidationParts, elicalReferenceLabels, type Fold, foldsByGroup, labelOrder } from "../../data/splits.js";
import { CredenceError } from "../../errors.js";
import type { LabelledRecord } from "./labels.js";
import { type ElicalRecipe, type Layer, loraCounts, setsOf } from "./recipe.js";

/** One division of the questions for the probes and the rows beside them. */
export interface Division extends Fold {
  /** Rows that are labelled for a seed. */
  labels(seed: number, count: number): number[];
  /** The labelled rows in parts for cross-validation. */
  parts(labels: number[], seed: number): number[][];
}

/** Depth and penalty are chosen over so many parts of the training groups: one part alone picks depths by luck. */
const innerFolds = 5;

/** A division whose training rows are labelled in the EliCal reference's order. */
function division(questions: LabelledRecord[], train: number[], test: number[]): Division {
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

/** Rows of one side of the split, all of them or those that belong. */
const side = (questions: LabelledRecord[], part: "train" | "test", belongs = (_: LabelledRecord) => true): number[] =>
  questions.flatMap((question, row) => (question.part === part && belongs(question) ? [row] : []));

/** The split whose training questions come first in the file, as LoRA and a run without folds use it. */
export const split = (questions: LabelledRecord[]): Division =>
  division(questions, side(questions, "train"), side(questions, "test"));

/** The same split without one set: learnt from the others, tested on it. */
export function splitWithout(questions: LabelledRecord[], left: string): Division {
  const train = side(questions, "train", ({ set }) => set !== left);
  const test = side(questions, "test", ({ set }) => set === left);
  if (!test.length || new Set(train.map((row) => questions[row]!.group)).size < 2) {
    throw new CredenceError(
      "BAD_INPUT",
      `transfer: without the set ${left} there are ${train.length} questions to learn from, and ${test.length} of it to test; expected some of either. Raise its limit, or that of the others`,
    );
  }
  return division(questions, train, test);
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

/** Says where fewer questions are learnt from than labels are asked for, by a run's one split or one of its folds. */
export function tooManyLabels(
  questions: readonly { part: "train" | "test"; group?: string }[],
  { labels, folds }: Pick<ElicalRecipe, "labels" | "folds">,
): string | undefined {
  const train = folds
    ? Math.min(...foldsByGroup(questions, { folds }).map((fold) => fold.train.length))
    : questions.filter(({ part }) => part === "train").length;
  const many = [...new Set([...labels.counts, labels.main])].filter((count) => count > train);
  return many.length
    ? `only ${train} questions to learn from: rows with ${many.join(" and ")} labels use all of them`
    : undefined;
}

/** One division of the questions; `without`: the set that is left out and tested. */
export interface NamedDivision {
  division: Division;
  without?: string;
}

/** The divisions of a run, those that leave a set out last. */
export const namedDivisions = (questions: LabelledRecord[], recipe: ElicalRecipe): NamedDivision[] => [
  ...divisions(questions, recipe).map((division) => ({ division })),
  ...(recipe.transfer ? setsOf(recipe) : []).map((without) => ({
    division: splitWithout(questions, without),
    without,
  })),
];

/** What one training of the LoRA reader is for. */
export interface LoraTraining {
  /** Folder of its stage. */
  name: string;
  what: "elicit" | "calibrate" | "calibrateOnly";
  seed: number;
  layer: Layer;
  /** Whether the row is the one that everything else is compared with. */
  main: boolean;
  /** Number of labels; null while agreement is learnt. */
  labels: number | null;
  /** The set that is left out, for transfer. */
  without?: string;
  /** Folder of the stage whose policy is trained further. */
  from?: string;
}

/** Every training of a run: at each depth agreement, then labels; at the main depth labels alone; then without each set. */
export function loraTrainings(recipe: ElicalRecipe): LoraTraining[] {
  const { lora, labels } = recipe;
  if (!lora.enabled) return [];
  const seeds = Math.min(recipe.seeds, lora.seeds ?? recipe.seeds);
  const left = recipe.transfer && lora.transfer ? setsOf(recipe) : [];
  const variants: { layer: Layer; main: boolean; without?: string }[] = [
    ...lora.layers.map((layer, place) => ({ layer, main: place === 0 })),
    ...left.map((without) => ({ layer: lora.layers[0]!, main: true, without })),
  ];
  return variants.flatMap((variant) => {
    const { layer, main, without } = variant;
    const whole = main && without === undefined;
    const counts = whole ? loraCounts(recipe) : [labels.main];
    return Array.from({ length: seeds }, (_, seed) => {
      const name = (stage: string, count: number | null) => {
        const parts = [
          stage,
          !main && `layer-${layer}`,
          without !== undefined && `without-${without}`,
          count !== null && count !== labels.main && String(count),
          `seed${seed}`,
        ];
        return parts.filter(Boolean).join("-");
      };
      const from = name("05-elicit", null);
      const common = { ...variant, seed };
      const calibrations = counts.flatMap((count): LoraTraining[] => [
        { ...common, name: name("06-calibrate", count), what: "calibrate", labels: count, from },
        ...(main
          ? [{ ...common, name: name("07-calibration-only", count), what: "calibrateOnly" as const, labels: count }]
          : []),
      ]);
      return [{ ...common, name: from, what: "elicit" as const, labels: null }, ...calibrations];
    }).flat();
  });
}

/** The rows of a LoRA training. */
export const loraDivision = (questions: LabelledRecord[], { without }: LoraTraining): Division =>
  without === undefined ? split(questions) : splitWithout(questions, without);

/** Stages that ask the model again, in their order. */
export function askingStages({ baselines }: ElicalRecipe): string[] {
  return [
    ...(baselines.semantic.enabled ? [stageNames.semantic] : []),
    ...baselines.verbal.shots.map(stageNames.verbal),
    ...(baselines.thermometer.enabled ? [stageNames.thermometer] : []),
  ];
}

/** Stages that fit to frozen states: the folds, or the split and the sets left out; of probes, then of heads. */
export function frozenStages(
  recipe: ElicalRecipe,
): { name: string; what: "probes" | "heads"; fold: number; without?: string }[] {
  const sets = recipe.transfer ? setsOf(recipe) : [];
  const parts = [
    ...Array.from({ length: Math.max(1, recipe.folds) }, (_, fold) => ({
      part: recipe.folds ? `-fold${fold}` : "",
      fold,
    })),
    ...sets.map((without) => ({ part: `-without-${without}`, fold: 0, without })),
  ];
  return (["probes", "heads"] as const)
    .filter((what) => what === "probes" || recipe.heads.kinds.length)
    .flatMap((what) => parts.map(({ part, ...division }) => ({ name: `04-${what}${part}`, what, ...division })));
}

/** Stage folders; `frozenStages` and `loraTrainings` name those between. */
export const stageNames = {
  questions: "01-questions",
  answers: "02-answers",
  labels: "03-labels",
  semantic: "04-consistency-semantic",
  verbal: (shots: number) => `04-verbal-${shots}`,
  thermometer: "04-thermometer",
  evaluate: "08-evaluate",
  report: "09-report",
};
