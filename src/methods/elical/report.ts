/** What the report of an EliCal run shows, from the run's own files. */
import { join } from "node:path";
import type { MetricName } from "../../evaluation/metrics.js";
import { renderReport } from "../../report/html.js";
import type { Difference, Mistake, ReportInput, RowCost } from "../../report/input.js";
import { settingLines } from "../../report/page.js";
import { asPredictions, bestRow, inOrder, type RowPrediction, readRow } from "./evaluate.js";
import { type LabelledRecord, readLabels } from "./labels.js";
import { stageNames } from "./plan.js";
import { type ElicalSummary, judgeText } from "./summary.js";

const best = bestRow;
const before = "sequence-probability";
const asking = "self-consistency-platt";

/** How many of the most confident mistakes are shown. */
const shownMistakes = 12;

/** Passes through the model and tokens that one confidence costs, the answer included. */
function costs(labels: LabelledRecord[], summary: ElicalSummary): (row: string) => RowCost {
  const { recipe } = summary;
  const mean = (of: (label: LabelledRecord) => number) =>
    labels.reduce((sum, label) => sum + of(label), 0) / labels.length;
  const prompt = mean((label) => label.prompt_tokens);
  const answer = mean((label) => label.given.tokens.length);
  const sampled = mean((label) => label.responses.reduce((sum, response) => sum + response.tokens.length, 0));
  const once = Math.round(prompt + answer);
  const asked = (row: string): RowCost | undefined => {
    const note = summary.asking[row === "p-true" ? "thermometer" : row];
    if (!note) return undefined;
    const labels = row === "thermometer" ? recipe.labels.main : (note.labels ?? 0);
    // Comparing meanings needs the samples, too.
    const samples = row === "consistency-semantic" ? recipe.samples.count : 0;
    return {
      passes: 1 + note.passes + samples,
      tokens: Math.round(once + note.tokens + (samples ? prompt * samples + sampled : 0)),
      labels,
    };
  };
  return (row) => {
    const again = asked(row);
    if (again) return again;
    const free = ["self-consistency", "consistency-lexical", "lora-question-elicitation-only"];
    const untouched = /^head-\w+-elicitation-only$/.test(row);
    const fitted = free.includes(row) || untouched || row.endsWith("-probability") ? 0 : recipe.labels.main;
    if (row.startsWith("self-consistency") || row.startsWith("consistency-")) {
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

/** What the rows that ask again leave open, in sentences. */
function askingNotes({ asking, recipe }: ElicalSummary): string[] {
  return Object.entries(asking).flatMap(([row, { unparsed, threshold, temperatures }]) => {
    const said: string[] = [];
    if (unparsed?.count)
      said.push(
        `${row}: ${unparsed.count} of ${unparsed.of} replies hold no score from 0 to 1; their confidence is ${recipe.baselines.verbal.unparsed}.`,
      );
    if (threshold)
      said.push(
        `${row}: two answers are the same from a cosine of ${threshold.cosine.toFixed(3)} after block ${threshold.layer}, which ${(100 * recipe.baselines.semantic.falseMatches).toFixed(1)} % of ${threshold.pairs} pairs of answers to different questions reach.`,
      );
    const bound = temperatures?.filter((one) => one.bound).length;
    if (bound)
      said.push(
        `${row}: ${bound} of ${temperatures!.length} temperatures stand at the end of what was looked at, since no temperature makes these confidences likelier than 0.5 for every answer.`,
      );
    return said;
  });
}

/** The report of a run, as one self-contained HTML file. */
export async function writeElicalReport(runDirectory: string, summary: ElicalSummary): Promise<string> {
  const { recipe, model, engine, questions, metrics, differences } = summary;
  const labels = readLabels(join(runDirectory, "stages", stageNames.labels));
  const cost = costs(labels, summary);
  const rows = inOrder(metrics).map(([row]) => row);
  const predictions = Object.fromEntries(
    [best, before, asking].map((row) => [row, readRow(runDirectory, row, recipe)]),
  );
  const told = Object.entries(differences).flatMap(([count, pairs]) =>
    Object.entries(pairs).flatMap(([pair, values]) => {
      const [row, other] = pair.split(" - ") as [string, string];
      return Object.entries(values).map(
        ([metric, value]): Difference => ({ row, other, metric: metric as MetricName, value, labels: Number(count) }),
      );
    }),
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
    sets: Object.entries(summary.sets).map(([name, own]) => ({
      name,
      test: questions.sets[name]!.test,
      accuracy: questions.sets[name]!.accuracy,
      rows: inOrder(own.metrics).map(([row, values]) => ({ name: row, metrics: values, cost: cost(row) })),
      transfer: inOrder(own.transfer[recipe.labels.main] ?? {}).map(([row, values]) => ({
        name: row,
        metrics: values,
      })),
    })),
    transfer: inOrder(summary.transfer[recipe.labels.main] ?? {}).map(([row, values]) => ({
      name: row,
      metrics: values,
    })),
    layers: Object.entries(summary.layers).flatMap(([row, depths]) =>
      Object.entries(depths).map(([layer, values]) => ({ row, layer: Number(layer), metrics: values })),
    ),
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
      ["judged by", judgeText(summary.judge)],
      ["questions left out", `${questions.leftOut}, because their answer stands in them`],
    ],
    settings: settingLines(recipe),
    stages: Object.entries(summary.stages).map(([name, { seconds, peakBytes }]) => ({ name, seconds, peakBytes })),
    notes: [
      ...(world
        ? ["Facts about countries come from the world-countries package, under the Open Database License."]
        : []),
      ...askingNotes(summary),
    ],
  };
  return renderReport(input);
}
