/** summary.json: what ran, on what, and what came of it. */
import { join } from "node:path";
import type { MetricValue } from "../../evaluation/bootstrap.js";
import { readJson } from "../../files.js";
import type { RunState } from "../../training/run.js";
import { version } from "../../version.js";
import { readDropped } from "../questions.js";
import { type AskingNote, noteFile } from "./asking.js";
import { bestRow, type Evaluated, inOrder } from "./evaluate.js";
import { type JudgeNote, judgeFile } from "./judging.js";
import { type LabelledRecord, readLabels } from "./labels.js";
import { askingStages, stageNames } from "./plan.js";
import { type ElicalRecipe, setsOf } from "./recipe.js";
import type { ElicalJob } from "./stages.js";

export interface QuestionCounts {
  total: number;
  train: number;
  test: number;
  /** Share of right answers. */
  accuracy: number;
}

export interface ElicalSummary extends Evaluated {
  credence: string;
  recipe: ElicalRecipe;
  model: {
    name: string;
    source: string;
    files: { name: string; sha256: string }[];
    sha256: string;
    storageType: string;
    architecture: string;
    layers: number;
    hiddenSize: number;
    parameters: number;
  };
  engine: { device: string; isa: string; dtype: string; threads: number };
  questions: QuestionCounts & {
    groups: number;
    leftOut: number;
    /** The same of each set, where there are several. */
    sets: Record<string, QuestionCounts>;
  };
  /** Who labelled the answers, and what that cost whenever it was paid for. */
  judge: JudgeNote;
  /** What the rows that ask the model again did and took, by row. */
  asking: Record<string, AskingNote>;
  best: { row: string; directory: string };
  /** Seconds and largest memory of the process at the end of each stage. */
  stages: RunState["stages"];
}

/** The summary of a run whose stages are done. */
export function summarize(runDirectory: string, { recipe, model }: Pick<ElicalJob, "recipe" | "model">): ElicalSummary {
  const stage = (name: string) => join(runDirectory, "stages", name);
  const evaluated = readJson(join(stage(stageNames.evaluate), "evaluated.json")) as Evaluated;
  const labels = readLabels(stage(stageNames.labels));
  const { storageType, architecture, layers, hiddenSize, parameters, device, isa, dtype, threads } = model.info;
  const count = (of: LabelledRecord[]): QuestionCounts => {
    const train = of.filter(({ part }) => part === "train").length;
    const right = of.filter((label) => label.given_correct).length;
    return { total: of.length, train, test: of.length - train, accuracy: right / of.length };
  };
  const { semantic, verbal, thermometer } = stageNames;
  const notes: Record<string, string> = {
    "consistency-semantic": semantic,
    ...Object.fromEntries(recipe.baselines.verbal.shots.map((shots) => [`verbal-${shots}`, verbal(shots)])),
    thermometer,
  };
  const asked = Object.entries(notes).filter(([, name]) => askingStages(recipe).includes(name));
  return {
    credence: version,
    recipe,
    model: {
      name: model.name,
      source: model.source,
      files: model.files,
      sha256: model.sha256,
      storageType,
      architecture,
      layers,
      hiddenSize,
      parameters,
    },
    engine: { device, isa, dtype, threads },
    questions: {
      ...count(labels),
      groups: new Set(labels.map(({ group }) => group)).size,
      leftOut: readDropped(stage(stageNames.questions)),
      sets: Object.fromEntries(setsOf(recipe).map((set) => [set, count(labels.filter((label) => label.set === set))])),
    },
    judge: readJson(join(stage(stageNames.labels), judgeFile)) as JudgeNote,
    asking: Object.fromEntries(asked.map(([row, name]) => [row, readJson(join(stage(name), noteFile)) as AskingNote])),
    best: { row: bestRow, directory: "best" },
    stages: (readJson(join(runDirectory, "state.json")) as RunState).stages,
    ...evaluated,
  };
}

/** What a row is called where people read. */
export const rowTitles: Record<string, string> = {
  "probe-joint": "Probe on prompt and answer, EliCal",
  "probe-joint-calibration-only": "  calibration only",
  "probe-joint-elicitation-only": "  elicitation only, Platt-scaled",
  "probe-answer": "Probe on the answer, EliCal",
  "probe-answer-calibration-only": "  calibration only",
  "probe-answer-elicitation-only": "  elicitation only, Platt-scaled",
  "probe-question": "Probe on the question, EliCal",
  "probe-question-calibration-only": "  calibration only",
  "probe-question-elicitation-only": "  elicitation only, Platt-scaled",
  "head-linear": "Linear head on the question, EliCal",
  "head-linear-calibration-only": "  calibration only",
  "head-linear-elicitation-only": "  elicitation only",
  "head-mlp": "Three-layer head on the question, EliCal",
  "head-mlp-calibration-only": "  calibration only",
  "head-mlp-elicitation-only": "  elicitation only",
  "lora-question": "LoRA on the question, EliCal",
  "lora-question-calibration-only": "  calibration only",
  "lora-question-elicitation-only": "  elicitation only",
  "lora-question-elicitation-only-platt": "  elicitation only, Platt-scaled",
  "self-consistency-platt": "Self-consistency, Platt-scaled",
  "self-consistency": "Self-consistency",
  "consistency-lexical": "Consistency, ROUGE-L",
  "consistency-semantic": "Consistency, by meaning",
  thermometer: "Calls its answer right, with a temperature",
  "p-true": "Calls its answer right",
  "mean-token-probability": "Mean token probability",
  "sequence-probability": "Sequence probability",
  "rate-of-kind": "Rate of the kind of question",
};

/** A row's title; "verbal-10" says how many examples it was shown. */
const titleOf = (row: string): string =>
  row.startsWith("verbal-") ? `Says how sure it is, ${row.slice("verbal-".length)} examples` : (rowTitles[row] ?? row);

const shown = (value: MetricValue | undefined): string =>
  value?.value == null
    ? "-"
    : `${value.value.toFixed(3)}${value.low === null || value.high === null ? "" : ` (${value.low.toFixed(3)} to ${value.high.toFixed(3)})`}`;

/** A judge, and what it was asked and cost, in words. */
export function judgeText({ judge, url, verdicts, requests, input_tokens, output_tokens, cost, unparsed }: JudgeNote) {
  const grouped = (value: number) => value.toLocaleString("en-US");
  return [
    `${judge}${url === undefined ? "" : ` at ${url}`}: ${grouped(verdicts)} verdicts`,
    ...(requests === undefined
      ? []
      : [`${grouped(requests)} requests, ${grouped(input_tokens!)} tokens in, ${grouped(output_tokens!)} out`]),
    ...(cost == null ? [] : [`cost ${cost.toFixed(4)}`]),
    ...(unparsed ? [`${grouped(unparsed)} replies said neither and count as no`] : []),
  ].join("; ");
}

/** The table a terminal shows at the end of a run: how honest the model was before, and is now. */
export function summaryText(summary: ElicalSummary, directory: string): string {
  const { metrics, questions, recipe } = summary;
  const width = Math.max(...Object.keys(metrics).map((row) => titleOf(row).length));
  const cell = 26;
  const line = (title: string, cells: string[]) =>
    `${title.padEnd(width)}  ${cells.map((text) => text.padEnd(cell)).join("")}`.trimEnd();
  const before = metrics["sequence-probability"];
  const after = metrics[bestRow];
  return [
    `${summary.model.name}: ${questions.total} questions, ${(100 * questions.accuracy).toFixed(1)} % answered right, ${recipe.labels.main} labels`,
    "",
    line("", ["AUROC", "ECE", "Brier"]),
    ...inOrder(metrics).map(([row, values]) => line(titleOf(row), [values.auroc, values.ece, values.brier].map(shown))),
    "",
    ...(recipe.judge.by === "string" ? [] : [`Judged by ${judgeText(summary.judge)}.`]),
    before && after
      ? `Before: the model's own probability of its answer is off by ${percent(before.ece)} on average. Now: by ${percent(after.ece)}, from one pass and ${recipe.labels.main} labels.`
      : "",
    `Report: ${join(directory, "report.html")}   Numbers: ${join(directory, "summary.json")}`,
    `Ask it: npx credence ask --run ${directory} "What is the capital of Kenya?"`,
  ].join("\n");
}

const percent = (value: MetricValue): string =>
  value.value === null ? "an unknown amount" : `${(100 * value.value).toFixed(0)} points`;
