/** What the report of a run of reinforcement shows, from the run's own files. */

import { settingLines } from "../../report/page.js";
import { readTrainingRun } from "../../report/ppo-training.js";
import { type ReinforcementInput, reinforcementReport, type SaidAnswer } from "../../report/reinforcement.js";
import { stageFolder } from "../../training/run.js";
import { statedPredictions, titledRows } from "./evaluate.js";
import { triesOf } from "./recipe.js";
import type { Said } from "./speaking.js";
import { ablation, readSaid, stageNames } from "./stages.js";
import type { ReinforcementSummary } from "./summary.js";

/** How many answers are shown, before and after. */
const shownExamples = 12;

/** Settings in which the tries differ: "optimizer.learningRate 0.0001". */
function differing(tries: readonly { name: string; settings: object }[]): Map<string, string> {
  const flat = (value: unknown, path = ""): [string, string][] =>
    typeof value === "object" && value !== null
      ? Object.entries(value).flatMap(([name, inner]) => flat(inner, path ? `${path}.${name}` : name))
      : [[path, JSON.stringify(value)]];
  const all = tries.map(({ settings }) => new Map(flat(settings)));
  const paths = [...new Set(all.flatMap((one) => [...one.keys()]))].filter(
    (path) => new Set(all.map((one) => one.get(path))).size > 1,
  );
  return new Map(
    tries.map(({ name }, i) => [name, paths.map((path) => `${path} ${all[i]!.get(path) ?? "none"}`).join(", ")]),
  );
}

const saidAnswer = ({ said, confidence, correct }: Said): SaidAnswer => ({
  answer: said,
  confidence,
  right: correct === 1,
});

/** The questions whose confidence changed most, half of them answered right after. */
function examplesOf(before: readonly Said[], after: readonly Said[]): NonNullable<ReinforcementInput["examples"]> {
  const moved = (i: number) => Math.abs((after[i]!.confidence ?? 0) - (before[i]!.confidence ?? 0));
  const places = after.map((_, i) => i).sort((a, b) => moved(b) - moved(a));
  const some = (correct: 0 | 1) => places.filter((i) => after[i]!.correct === correct).slice(0, shownExamples / 2);
  return [...some(1), ...some(0)].map((i) => ({
    question: after[i]!.question,
    expected: after[i]!.answer,
    before: saidAnswer(before[i]!),
    after: saidAnswer(after[i]!),
  }));
}

/**
 * The report of a run, as one self-contained HTML file.
 *
 * @param sections of the method's own
 */
export function writeReport(
  runDirectory: string,
  summary: ReinforcementSummary,
  sections: readonly string[] = [],
): string {
  const { recipe, model, engine, questions, rows, comparisons, tries, chosen, verdict } = summary;
  const folder = (name: string) => stageFolder({ runDirectory }, name);
  const before = readSaid(folder(stageNames.before), "test");
  const after = readSaid(folder(stageNames.after), "test");
  const world = recipe.questions.file === "world-facts";
  const trained = triesOf(recipe);
  const settings = differing(trained);
  const input: ReinforcementInput = {
    model: model.name.split("/").at(-1)!,
    subject: world ? "questions about the countries of the world" : "questions",
    evaluation: {
      questions: { test: questions.test, clusteredBy: world ? "country" : "group" },
      before: "before",
      after: "after",
      rows: titledRows(rows).map(([name, label, row]) => ({ name, label, ...row })),
      differences: comparisons.map(({ of, against, metric, difference }) => ({
        row: of,
        other: against,
        metric,
        value: difference,
      })),
      predictions: {
        before: statedPredictions(before, recipe.evaluation),
        after: statedPredictions(after, recipe.evaluation),
      },
      aims: verdict,
    },
    ...(tries.length > 1
      ? {
          tried: {
            how: `On ${questions.validation} questions of training ${world ? "countries" : "groups"} that nothing learnt from: the least Brier score among those that keep to the limits.`,
            tries: tries.map(({ name, brier, auroc, accuracy, kl }) => ({
              name,
              settings: settings.get(name) || "the recipe's own",
              values: { Brier: brier, AUROC: auroc, accuracy, "divergence, nats": kl },
              chosen: name === chosen,
            })),
          },
        }
      : {}),
    trainings: [
      ...trained.map(({ name, settings: { iterations } }) =>
        readTrainingRun(folder(stageNames.ppo(name)), name, iterations),
      ),
      ...(rows.ablation
        ? [
            readTrainingRun(
              folder(stageNames.ablation),
              ablation,
              trained.find(({ name }) => name === chosen)!.settings.iterations,
            ),
          ]
        : []),
    ],
    kl: { limit: recipe.limits.kl },
    examples: examplesOf(before, after),
    sections,
    ran: [
      ["model", `${model.name}, ${model.architecture}, ${model.storageType}`],
      ["SHA-256", model.sha256],
      ["found in", model.source],
      ["engine", `${engine.device}, ${engine.isa}, ${engine.dtype}, ${engine.threads} threads`],
      ["version", `credence ${summary.credence}`],
      ["learnt from", `${questions.train} questions; ${questions.validation} chose among settings`],
      ["questions left out", `${questions.leftOut}, because their answer stands in them`],
    ],
    settings: settingLines(recipe),
    stages: Object.entries(summary.stages).map(([name, { seconds, peakBytes }]) => ({ name, seconds, peakBytes })),
    notes: world
      ? ["Facts about countries come from the world-countries package, under the Open Database License."]
      : [],
  };
  return reinforcementReport(input);
}
