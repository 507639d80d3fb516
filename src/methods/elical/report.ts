/** What the report of an EliCal run shows, from the run's own files. */
import { join } from "node:path";
import type { MetricName } from "../../evaluation/metrics.js";
import { renderReport } from "../../report/html.js";
import type { Difference, Mistake, ReportInput, RowCost } from "../../report/input.js";
import { asPredictions, comparisons, type RowPrediction, readRow, rowNames } from "./evaluate.js";
import { type LabelledRecord, readLabels } from "./labels.js";
import { stageNames } from "./plan.js";
import type { ElicalSummary } from "./summary.js";

const best = "probe-answer";
const before = "sequence-probability";
const asking = "self-consistency-platt";

/** How many of the most confident mistakes are shown. */
const shownMistakes = 12;

/** Passes through the model and tokens that one confidence costs, the answer included. */
function costs(labels: LabelledRecord[], { recipe }: ElicalSummary): (row: string) => RowCost {
  const mean = (of: (label: LabelledRecord) => number) =>
    labels.reduce((sum, label) => sum + of(label), 0) / labels.length;
  const prompt = mean((label) => label.prompt_tokens);
  const answer = mean((label) => label.given.tokens.length);
  const sampled = mean((label) => label.responses.reduce((sum, response) => sum + response.tokens.length, 0));
  const once = Math.round(prompt + answer);
  return (row) => {
    const fitted =
      row === "self-consistency" || row.endsWith("-probability") || row === "lora-question-elicitation-only"
        ? 0
        : recipe.labels.main;
    if (row.startsWith("self-consistency")) {
      return {
        passes: 1 + recipe.samples.count,
        tokens: Math.round(once + prompt * recipe.samples.count + sampled),
        labels: fitted,
      };
    }
    if (row.startsWith("lora")) return { passes: 2, tokens: Math.round(once + prompt), labels: fitted };
    return { passes: 1, tokens: once, labels: fitted };
  };
}

function mistakesOf(predictions: RowPrediction[], earlier: RowPrediction[]): Mistake[] {
  const earlierSaid = new Map(
    earlier.map((prediction) => [`${prediction.id} ${prediction.seed}`, prediction.confidence]),
  );
  const seen = new Set<string>();
  return predictions
    .filter(({ given_correct }) => given_correct === 0)
    .sort((a, b) => b.confidence - a.confidence)
    .filter(({ id }) => !seen.has(id) && seen.add(id))
    .slice(0, shownMistakes)
    .map(({ id, seed, question, said, answer, confidence }) => ({
      question,
      said,
      expected: answer,
      confidence,
      before: earlierSaid.get(`${id} ${seed}`),
    }));
}

/** Settings of a recipe as "path: value" lines. */
function settingLines(value: unknown, path = ""): [string, string][] {
  if (typeof value !== "object" || value === null || Array.isArray(value))
    return [[path, typeof value === "string" ? value : JSON.stringify(value)]];
  return Object.entries(value).flatMap(([name, inner]) => settingLines(inner, path ? `${path}.${name}` : name));
}

/** The report of a run, as one self-contained HTML file. */
export async function writeElicalReport(runDirectory: string, summary: ElicalSummary): Promise<string> {
  const { recipe, model, engine, questions, metrics, differences } = summary;
  const labels = readLabels(join(runDirectory, "stages", stageNames.labels));
  const cost = costs(labels, summary);
  const rows = rowNames.filter((row) => metrics[row]);
  const predictions = Object.fromEntries(
    [best, before, asking].map((row) => [row, readRow(runDirectory, row, recipe)]),
  );
  const told = Object.entries(differences).flatMap(([count, pairs]) =>
    comparisons.flatMap(([row, other]) =>
      Object.entries(pairs[`${row} - ${other}`] ?? {}).map(
        ([metric, value]): Difference => ({ row, other, metric: metric as MetricName, value, labels: Number(count) }),
      ),
    ),
  );
  const world = recipe.questions.file === "world-facts";
  const input: ReportInput = {
    model: model.name.split("/").at(-1)!,
    subject: world ? "questions about the countries of the world" : "questions",
    questions: {
      total: questions.total,
      test: recipe.folds ? questions.total : questions.test,
      clusteredBy: world ? "country" : "group",
      seeds: recipe.seeds,
      ...(recipe.folds ? { folds: recipe.folds } : {}),
    },
    best,
    before,
    asking,
    rows: rows.map((name) => ({ name, metrics: metrics[name]!, cost: cost(name) })),
    differences: told,
    predictions: Object.fromEntries(Object.entries(predictions).map(([row, lines]) => [row, asPredictions(lines)])),
    byLabels: [
      ...Object.entries(summary.labels).flatMap(([count, values]) =>
        Object.entries(values).map(([row, value]) => ({ row, labels: Number(count), metrics: value })),
      ),
      ...rows.map((row) => ({ row, labels: recipe.labels.main, metrics: metrics[row]! })),
    ],
    mistakes: mistakesOf(predictions[best]!, predictions[before]!),
    ran: [
      [
        "model",
        `${model.name}, ${model.architecture}, ${(model.parameters / 1e6).toFixed(0)} million parameters, ${model.storageType}`,
      ],
      ...model.files.map(({ name, sha256 }): [string, string] => ["file", `${name}, SHA-256 ${sha256}`]),
      ["found in", model.source],
      ["engine", `${engine.device}, ${engine.isa}, ${engine.dtype}, ${engine.threads} threads`],
      ["version", `credence ${summary.credence}`],
      ["questions left out", `${questions.leftOut}, because their answer stands in them`],
    ],
    settings: settingLines(recipe),
    stages: Object.entries(summary.stages).map(([name, { seconds, peakBytes }]) => ({ name, seconds, peakBytes })),
    notes: world
      ? ["Facts about countries come from the world-countries package, under the Open Database License."]
      : [],
  };
  return renderReport(input);
}
