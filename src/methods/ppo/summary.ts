/** The summary of a run of reinforcement: everything the report and other programs read, and what a terminal shows. */
import { join } from "node:path";
import type { MetricValue } from "../../evaluation/bootstrap.js";
import type { MetricName } from "../../evaluation/metrics.js";
import { readJson } from "../../files.js";
import { metricWords } from "../../report/words.js";
import { type RunState, stageFolder } from "../../training/run.js";
import { version } from "../../version.js";
import { readDropped, readStageQuestions } from "../questions.js";
import { type Comparison, type Evaluated, type RowName, type TryResult, titledRows } from "./evaluate.js";
import type { PpoRecipe, ReinforcementRecipe } from "./recipe.js";
import { partsOfQuestions, type ReinforcementJob, readChoice, stageNames } from "./stages.js";

export interface ReinforcementSummary<R extends ReinforcementRecipe = ReinforcementRecipe & { method: string }>
  extends Evaluated {
  credence: string;
  recipe: R;
  model: { name: string; source: string; sha256: string; storageType: string; architecture: string };
  engine: { device: string; isa: string; dtype: string; threads: number };
  questions: { train: number; validation: number; test: number; groups: number; leftOut: number };
  tries: TryResult[];
  chosen: string;
  /** What was asked of the run, and whether it came out. */
  verdict: { says: string; found: string; holds: boolean }[];
  stages: RunState["stages"];
}

export type PpoSummary = ReinforcementSummary<PpoRecipe>;

export function summarize(runDirectory: string, { recipe, model, aims }: ReinforcementJob): ReinforcementSummary {
  const folder = (name: string) => stageFolder({ runDirectory }, name);
  const questions = readStageQuestions(folder(stageNames.questions));
  const { train, validation, test } = partsOfQuestions(questions, recipe.questions);
  const evaluated = readJson(join(folder(stageNames.evaluate), "evaluated.json")) as Evaluated;
  const { chosen, results } = readChoice(runDirectory);
  const { device, isa, dtype, threads, storageType, architecture } = model.info;
  return {
    credence: version,
    recipe,
    model: { name: model.name, source: model.source, sha256: model.sha256, storageType, architecture },
    engine: { device, isa, dtype, threads },
    questions: {
      train: train.length,
      validation: validation.length,
      test: test.length,
      groups: new Set(questions.map(({ group }) => group)).size,
      leftOut: readDropped(folder(stageNames.questions)),
    },
    ...evaluated,
    tries: results,
    chosen,
    verdict: verdictOf(evaluated, aims, results.find(({ name }) => name === chosen)!, recipe.limits),
    stages: (readJson(join(runDirectory, "state.json")) as RunState).stages,
  };
}

function verdictOf(
  { comparisons }: Evaluated,
  aims: ReinforcementJob["aims"],
  { kl }: TryResult,
  limits: ReinforcementRecipe["limits"],
): ReinforcementSummary["verdict"] {
  const of = (metric: MetricName, row: RowName = "before") =>
    comparisons.find(({ against, metric: one }) => against === row && one === metric)!;
  const better = (says: string, { outcome, difference }: Comparison) => ({
    says,
    found: shownDifference(difference),
    holds: outcome === "better",
  });
  const accuracy = of("accuracy").difference;
  return [
    ...aims.map(({ metric, says, against }) => better(says, of(metric, against))),
    {
      says: `accuracy loses at most ${points(limits.accuracyLoss)}`,
      found: shownDifference(accuracy),
      holds: accuracy.value !== null && accuracy.value >= -limits.accuracyLoss,
    },
    {
      says: `the divergence stays under ${limits.kl} nats a completion`,
      found: kl.toFixed(2),
      holds: kl <= limits.kl,
    },
  ];
}

const points = (value: number): string => `${(100 * value).toFixed(0)} points`;

const shown = (value: MetricValue): string =>
  value.value === null
    ? "-"
    : value.low === null || value.high === null
      ? value.value.toFixed(3)
      : `${value.value.toFixed(3)} (${value.low.toFixed(3)} to ${value.high.toFixed(3)})`;

const signed = (value: number): string => `${value < 0 ? "-" : "+"}${Math.abs(value).toFixed(3)}`;

export const shownDifference = (value: MetricValue): string =>
  value.value === null
    ? `not defined (${value.reason})`
    : value.low === null || value.high === null
      ? signed(value.value)
      : `${signed(value.value)} (${signed(value.low)} to ${signed(value.high)})`;

/** The table a terminal shows at the end of a run. */
export function reinforcementText(summary: ReinforcementSummary, directory: string): string {
  const { rows, comparisons, verdict, questions, tries, chosen, model } = summary;
  const columns = comparisons.filter(({ against }) => against === "before").map(({ metric }) => metric);
  const width = Math.max(...titledRows(rows).map(([, title]) => title.length));
  const line = (title: string, cells: string[]) =>
    `${title.padEnd(width)}  ${cells.map((text) => text.padEnd(25)).join("")}`.trimEnd();
  const unstated = rows.after.unstated! + rows.before.unstated!;
  return [
    verdict.every(({ holds }) => holds)
      ? "Came out: confidence is better after reinforcement, and nothing else was lost."
      : "Did NOT come out as hoped; what holds and what does not:",
    ...verdict.map(({ says, found, holds }) => `  ${holds ? "yes" : "NO "}  ${says}: ${found}`),
    "",
    `${model.name}: ${questions.test} held-out questions, ${questions.train} learnt from`,
    line(
      "",
      columns.map((metric) => metricWords[metric].short),
    ),
    ...titledRows(rows).map(([, title, { metrics }]) =>
      line(
        title,
        columns.map((metric) => shown(metrics[metric])),
      ),
    ),
    ...(unstated
      ? [`Without a stated confidence: ${rows.before.unstated} answers before, ${rows.after.unstated} after.`]
      : []),
    ...(tries.length > 1
      ? [
          "",
          "On the validation questions, which choose:",
          ...tries.map(
            ({ name, brier, auroc, accuracy, kl }) =>
              `  ${name}${name === chosen ? " (chosen)" : ""}: Brier ${brier.toFixed(3)}, AUROC ${auroc?.toFixed(3) ?? "-"}, accuracy ${accuracy.toFixed(3)}, divergence ${kl.toFixed(2)}`,
          ),
        ]
      : []),
    "",
    `Report: ${join(directory, "report.html")}   Numbers: ${join(directory, "summary.json")}`,
  ].join("\n");
}
