/**
 * The stage that reads the frozen model: probes on the answer and on the question, and what the answer itself already
 * tells, for every seed and number of labels of one division of the questions.
 */
import { join } from "node:path";
import type { FitLogistic } from "../../evaluation/calibrators.js";
import { agreeF1 } from "../../evaluation/match.js";
import { writeFolderAtomic } from "../../files.js";
import { answerStatisticNames, answerStatistics } from "../../model/answer-statistics.js";
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
import { calibrateJoint, type ElicitTarget, elicitJoint, type JointHead, type JointPart } from "./joint.js";
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
    join(directory, "probe-answer"),
    policyFiles({ adapter: [], heads }, undefined, probeCard(model, recipe, depth)),
  );
}

/** The joint probe as a policy: a head at every depth it reads, and the weights of the answer's statistics. */
function saveJoint(directory: string, { parts, bias }: JointHead, model: Model, recipe: ElicalRecipe): void {
  const states = parts.filter((part) => part.family !== "statistics");
  const own = states.findIndex((part) => part.family === "answer");
  const named = states.map((part, i) => ({
    ...part,
    name: i === own ? confidenceHead : `${part.family}-${part.depth}`,
    at: part.family === "answer" ? ("answer-mean" as const) : ("prompt-last" as const),
  }));
  const card: Card = {
    ...probeCard(model, recipe, states[own]!.depth),
    heads: named.map(({ name, depth }) => ({ name, layer: depth, kind: "linear", outputs: 1 })),
  };
  card.confidence.beside = {
    heads: named.flatMap(({ name, at }, i) => (i === own ? [] : [{ head: name, at }])),
    statistics: Object.fromEntries(
      parts
        .filter((part) => part.family === "statistics")
        .flatMap(({ weights }) => answerStatisticNames.map((name, j) => [name, weights[j]!])),
    ),
  };
  // The card's own head holds what belongs to none.
  const rest = parts.reduce((sum, part) => sum + (part.family === "statistics" ? part.bias : 0), bias);
  const heads = named.flatMap(({ name, weights, bias: one }, i) => [
    { name: `${name}.weight`, shape: [1, weights.length], data: Float32Array.from(weights) },
    { name: `${name}.bias`, shape: [1], data: Float32Array.of(i === own ? one + rest : one) },
  ]);
  writeFolderAtomic(join(directory, "probe-joint"), policyFiles({ adapter: [], heads }, undefined, card));
}

/** Everything a pass leaves, of every question. */
function jointParts(features: Features[], questions: LabelledRecord[]): JointPart[] {
  const statistics = questions.map(({ given }) => answerStatistics(given.logprobs));
  return [
    ...features,
    {
      family: "statistics",
      depth: 0,
      width: answerStatisticNames.length,
      data: Float64Array.from(statistics.flatMap((values) => Array.from(values))),
    },
  ];
}

const mean = (values: readonly number[], none: number): number =>
  values.length ? values.reduce((sum, value) => sum + value, 0) / values.length : none;

/**
 * What the joint probe elicits: the samples' agreement with the given answer; less surely, how far they agree with each
 * other, and how many share any word with the answer.
 */
function jointTargets(questions: LabelledRecord[]): ElicitTarget[] {
  const consensus = questions.map(({ question, responses }) =>
    mean(
      responses.flatMap((one, i) => responses.slice(0, i).map((other) => agreeF1(one.text, other.text, question))),
      1,
    ),
  );
  const touched = questions.map(({ agrees }) =>
    mean(
      agrees.map((value) => (value > 0 ? 1 : 0)),
      0,
    ),
  );
  return [
    { values: questions.map(({ target }) => target), deviation: 0.7 },
    { values: consensus, deviation: 0.4 },
    { values: touched, deviation: 0.4 },
  ];
}

/** Rows that fit nothing: what the answer, or asking again, already tells. */
const alreadyTold: [row: string, confidence: (question: LabelledRecord) => number][] = [
  ["self-consistency", ({ target }) => target],
  ["consistency-lexical", ({ given, responses }) => lexicalConsistency(given, responses)],
  ["mean-token-probability", ({ given }) => meanTokenProbability(given.logprobs)],
  ["sequence-probability", ({ given }) => sequenceProbability(given.logprobs)],
];

/** Fits everything for one division and writes its predictions; two probes of the first seed become policies. */
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
  const task = context.progress.task(label, 3 + recipe.seeds * counts.length * 3 + everyDepth, "fits");
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
    // The depth that the answer probe chose by agreement.
    const { depth } = families[0]!.elicited;
    const elicitedJoint = await elicitJoint(jointParts(features, questions), {
      targets: jointTargets(questions),
      train,
      depth,
      fit,
    });
    task.advance(1);
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
        const joint = await calibrateJoint(elicitedJoint, { correct, labels, test, fit });
        put("probe-joint", count, seed, joint.elical.probabilities);
        put("probe-joint-calibration-only", count, seed, joint.calibrationOnly.probabilities);
        put("probe-joint-elicitation-only", count, seed, joint.elicitationOnly.probabilities);
        if (!transfer && seed === 0 && count === recipe.labels.main)
          saveJoint(context.directory, joint.elical.head, model, recipe);
        task.advance(1);
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
