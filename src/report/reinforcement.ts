/** The report of a reinforcement run: what the stated confidence was worth before and after, and how the training went. */
import { CredenceError } from "../errors.js";
import type { MetricValue } from "../evaluation/bootstrap.js";
import type { MetricName } from "../evaluation/metrics.js";
import type { Prediction } from "../evaluation/rows.js";
import { cards, differenceTable, findingList, reliability } from "./comparison.js";
import type { Finding, Headline } from "./findings.js";
import type { Difference, Metrics, ReportInput } from "./input.js";
import { join, text } from "./markup.js";
import { page, whatRan } from "./page.js";
import { bestOf } from "./table.js";
import {
  alarmSection,
  confidenceSection,
  curveSection,
  endsOf,
  type KlMarks,
  seriesOf,
  type TrainingRun,
} from "./training.js";
import { shortNumber } from "./training-charts.js";
import { count, metricWords, number, percent, points, signed, verdict } from "./words.js";

export type { KlMarks, TrainingLine, TrainingRun } from "./training.js";

/** Confidences that were measured: stated ones, or other ones of the same answers. */
export interface MeasuredRow {
  /** As differences and predictions call it. */
  name: string;
  /** In words: "After PPO, as stated". Default: the name. */
  label?: string;
  metrics: Metrics;
  /** How many answers state no confidence; absent where confidences are not stated. */
  unstated?: number;
}

/** What was asked of a run, and whether it came out. */
export interface Aim {
  /** "the Brier score falls". */
  says: string;
  /** The numbers: "-0.021 (-0.030 to -0.012)". */
  found: string;
  holds: boolean;
}

/** Settings that were tried on questions held out for choosing among them. */
export interface TriedSettings {
  /** A sentence: on which questions, and what the choice went by. */
  how: string;
  tries: readonly {
    name: string;
    /** What is different in it: "learning rate 1e-5, KL coefficient 0.05". */
    settings: string;
    /** By the columns' titles, e.g. { Brier: 0.21, AUROC: 0.7, KL: 3.1 }; null where it is undefined. */
    values: Readonly<Record<string, number | null>>;
    chosen: boolean;
  }[];
}

/** What a policy said to a question. */
export interface SaidAnswer {
  answer: string;
  /** null: it stated none. */
  confidence: number | null;
  right: boolean;
}

export interface ReinforcementEvaluation {
  /** Held-out questions, and what resamples are drawn by, e.g. "country". */
  questions: { test: number; clusteredBy?: string };
  /** Names of the rows that the report is about. */
  before: string;
  after: string;
  /** In the order to show. */
  rows: readonly MeasuredRow[];
  /** Paired, on the same questions; of those between `after` and `before` the first lines tell. */
  differences: readonly Difference[];
  /** Of `before` and `after` at least. */
  predictions: Readonly<Record<string, readonly Prediction[]>>;
  aims: readonly Aim[];
}

export interface ReinforcementInput {
  /** Short name of the model; absent: not known. */
  model?: string;
  /** What it was asked, for a sentence: "questions about the countries of the world". */
  subject: string;
  /** Sentences that follow what the numbers say. */
  lead?: readonly string[];
  /** Absent: a training that nothing was measured before and after. */
  evaluation?: ReinforcementEvaluation;
  tried?: TriedSettings;
  trainings: readonly TrainingRun[];
  kl?: KlMarks;
  examples?: readonly { question: string; expected: readonly string[]; before: SaidAnswer; after: SaidAnswer }[];
  /** Sections of a method's own, as markup, behind the examples. */
  sections?: readonly string[];
  ran: ReportInput["ran"];
  settings: ReportInput["settings"];
  stages: ReportInput["stages"];
  notes?: readonly string[];
}

function rowOf({ rows }: ReinforcementEvaluation, name: string): MeasuredRow {
  const row = rows.find((one) => one.name === name);
  if (row) return row;
  throw new CredenceError("BAD_INPUT", `report: there is no row ${name} among ${rows.map((r) => r.name).join(", ")}`);
}

const labelOf = ({ rows }: ReinforcementEvaluation, name: string): string =>
  rows.find((row) => row.name === name)?.label ?? name;

/** Of after - before. */
const differenceOf = (evaluation: ReinforcementEvaluation, metric: MetricName): MetricValue | undefined =>
  evaluation.differences.find(
    ({ row, other, metric: of }) => row === evaluation.after && other === evaluation.before && of === metric,
  )?.value;

const spread = (v: MetricValue | undefined): string =>
  !v || v.value === null || v.low === null || v.high === null
    ? ""
    : ` (${signed(v.value)}; 95\u00a0% from ${signed(v.low)} to ${signed(v.high)})`;

/** What the first lines say: of the paired Brier difference, and where it is won, of AUROC's too. */
export function reinforcementHeadline(input: ReinforcementInput): Headline {
  const { evaluation } = input;
  if (!evaluation) return trainingHeadline(input);
  const [before, after] = [rowOf(evaluation, evaluation.before), rowOf(evaluation, evaluation.after)];
  const [was, is] = [before.metrics, after.metrics];
  const outcomes = { brier: outcomeOf(evaluation, "brier"), auroc: outcomeOf(evaluation, "auroc") };
  const outcome = outcomes.brier ?? "unknown";
  const { model = "the model", subject } = input;
  const sentences = [
    `The confidence that ${model} states, on ${count(evaluation.questions.test)} ${subject} that nothing was learnt from.`,
  ];
  if (outcome === "unknown") sentences.push("No interval says whether the difference is more than chance.");
  if (outcome === "level")
    sentences.push(`The difference's 95\u00a0% interval holds 0${spread(differenceOf(evaluation, "brier"))}.`);
  sentences.push(surest(evaluation, before, "Before, it was"), surest(evaluation, after, "Now it is"));
  return {
    title: titleOf(was, is, outcome, outcomes.auroc),
    lead: [...sentences, ...(input.lead ?? [])].filter(Boolean).join(" "),
    verdict: outcome,
  };
}

const outcomeOf = (evaluation: ReinforcementEvaluation, metric: MetricName) => {
  const value = differenceOf(evaluation, metric);
  return value && verdict(metric, value);
};

function titleOf(
  was: Metrics,
  is: Metrics,
  brier: Headline["verdict"],
  auroc: Finding["verdict"] | null | undefined,
): string {
  if (was.brier.value === null || is.brier.value === null) return "There is nothing to measure yet";
  const both = `Brier score ${number(was.brier.value)} before, ${number(is.brier.value)} now`;
  if (brier === "worse") return `It got worse: ${both}`;
  if (brier === "level") return `No improvement shown: ${both}${auroc === "better" ? ", though AUROC rose" : ""}`;
  if (auroc === "worse") return `${both}, but AUROC fell`;
  if (brier === "better" && auroc === "level") return `${both}; AUROC not shown to rise`;
  if (was.ece.value !== null && is.ece.value !== null && is.ece.value < was.ece.value)
    return `Off by ${points(was.ece.value)} points before, by ${points(is.ece.value)} now`;
  return both;
}

function surest(evaluation: ReinforcementEvaluation, row: MeasuredRow, be: string): string {
  const accuracy = row.metrics.accuracy.value;
  const sure = meanConfidence(evaluation, row.name);
  if (accuracy === null || sure === undefined) return "";
  const none = row.unstated ? `; ${count(row.unstated)} of them state no confidence` : "";
  return `${be} ${percent(sure)} sure on average, and ${percent(accuracy)} of its answers are right${none}.`;
}

/** Of a row whose predictions are here. */
function meanConfidence({ predictions }: ReinforcementEvaluation, row: string): number | undefined {
  const own = predictions[row];
  return own?.length ? own.reduce((sum, { confidence }) => sum + confidence, 0) / own.length : undefined;
}

/** Of a training alone: its reward at both ends. */
function trainingHeadline({ trainings, lead = [] }: ReinforcementInput): Headline {
  const told = trainings.flatMap((run) => {
    const ends = endsOf(seriesOf(run, "reward"));
    return ends ? [{ run, ...ends }] : [];
  });
  const only = told.length === 1 ? told[0]! : undefined;
  const iterations = trainings.reduce((sum, { lines }) => sum + lines.length, 0);
  const title = only
    ? `Reward ${shortNumber(only.first)} at first, ${shortNumber(only.last)} at last`
    : told.length
      ? `Rewards of ${told.length} trainings`
      : `${count(iterations)} ${iterations === 1 ? "iteration" : "iterations"}, too few to compare`;
  const sentences = told.map(({ run, first, last, over }) => {
    const ends = only ? "" : `${run.name}: ${shortNumber(first)} at first, ${shortNumber(last)} at last. `;
    return `${ends}${over > 1 ? `Means over the first and the last ${over} iterations.` : "The first and the last iteration."}`;
  });
  const without =
    "A reward says what was learnt from these prompts, not whether it holds for others: nothing was measured on questions held out.";
  return { title, lead: [...sentences, without, ...lead].join(" "), verdict: "unknown" };
}

/** What was asked of the run: what does not hold first. */
function aims({ evaluation }: ReinforcementInput): Finding[] {
  const told = (evaluation?.aims ?? []).map(
    ({ says, found, holds }): Finding => ({
      verdict: holds ? "better" : "worse",
      title: `${holds ? "Holds" : "Does not hold"}: ${says}`,
      text: found,
    }),
  );
  return [...told.filter(({ verdict }) => verdict === "worse"), ...told.filter(({ verdict }) => verdict === "better")];
}

/** Metrics that are shown where the run is about them. */
const columnsOf = ({ differences }: ReinforcementEvaluation): readonly MetricName[] => {
  const about = (metric: MetricName) => (differences.some((one) => one.metric === metric) ? [metric] : []);
  return ["accuracy", "auroc", ...about("spearman"), "ece", "brier", ...about("absoluteError")];
};

function rowTable(evaluation: ReinforcementEvaluation): string {
  const columns = columnsOf(evaluation);
  const { rows, questions } = evaluation;
  const best = bestOf(rows, columns);
  const states = rows.some(({ unstated }) => unstated !== undefined);
  const reasons = new Set<string>();
  const cell = (row: MeasuredRow, metric: MetricName): string => {
    const v = row.metrics[metric];
    if (v.value === null) {
      reasons.add(`${metricWords[metric].short} of ${labelOf(evaluation, row.name)}: ${v.reason}.`);
      return "<td>\u2013</td>";
    }
    const shown = best.get(metric) === row.name ? `<b>${number(v.value)}</b>` : number(v.value);
    return `<td>${shown}${v.low === null || v.high === null ? "" : `<small>${number(v.low)}\u2013${number(v.high)}</small>`}</td>`;
  };
  const lines = rows.map((row) => {
    const c = colourOf(evaluation, row.name);
    const key = c ? `<span class="key" style="background:${c}"></span>` : "";
    const sure = meanConfidence(evaluation, row.name);
    const own = [
      sure === undefined ? "\u2013" : percent(sure),
      ...(states ? [row.unstated === undefined ? "\u2013" : count(row.unstated)] : []),
    ];
    return `<tr${row.name === evaluation.after ? ' class="chosen"' : ""}><th scope="row">${key}${text(labelOf(evaluation, row.name))}</th>${columns.map((m) => cell(row, m)).join("")}${own.map((one) => `<td>${one}</td>`).join("")}</tr>`;
  });
  const how = `${count(questions.test)} questions held out; 95\u00a0% bootstrap intervals${questions.clusteredBy ? `, drawn by ${questions.clusteredBy}` : ""}`;
  return `<section><h2>Every row</h2>
<p>${text(how)}. The best value of a column is bold.</p>
<div class="scroll" tabindex="0" role="region" aria-label="Metrics of every row"><table><thead><tr><th scope="col">Confidence</th>
${columns.map((m) => `<th scope="col">${metricWords[m].short}</th>`).join("")}<th scope="col">mean</th>${states ? '<th scope="col">state none</th>' : ""}</tr></thead>
<tbody>${join(lines)}</tbody></table></div>
${join([...reasons].map((reason) => `<p class="note">${text(reason)}</p>`))}</section>`;
}

function colourOf({ before, after }: ReinforcementEvaluation, name: string): string | undefined {
  if (name === after) return "var(--after)";
  return name === before ? "var(--before)" : undefined;
}

function measured(input: ReinforcementInput): string[] {
  const { evaluation } = input;
  if (!evaluation) return [];
  const sides = [
    [evaluation.before, "Before", "var(--before)"],
    [evaluation.after, "Now", "var(--after)"],
  ] as const;
  return [
    reliability(
      sides.map(([name, title, colour]) => {
        const predictions = evaluation.predictions[name];
        if (!predictions?.length) throw new CredenceError("BAD_INPUT", `report: no predictions of the row ${name}`);
        return { title, label: labelOf(evaluation, name), source: "the confidence it states", colour, predictions };
      }),
    ),
    rowTable(evaluation),
    differenceTable(evaluation.differences, columnsOf(evaluation).toReversed(), (row) => labelOf(evaluation, row)),
  ];
}

function tried({ tried: given }: ReinforcementInput): string {
  if (!given?.tries.length) return "";
  const titles = [...new Set(given.tries.flatMap(({ values }) => Object.keys(values)))];
  const value = (of: number | null | undefined) => (of === null || of === undefined ? "\u2013" : number(of));
  const rows = given.tries.map(
    ({ name, settings, values, chosen }) =>
      `<tr${chosen ? ' class="chosen"' : ""}><th scope="row">${text(name)}${chosen ? " (chosen)" : ""}<br><span class="soft">${text(settings)}</span></th>${titles.map((title) => `<td>${value(values[title])}</td>`).join("")}</tr>`,
  );
  return `<section><h2>Settings that were tried</h2>
<p>${text(given.how)}</p>
<div class="scroll" tabindex="0" role="region" aria-label="Settings that were tried"><table><thead><tr><th scope="col">Settings</th>${titles.map((title) => `<th scope="col">${text(title)}</th>`).join("")}</tr></thead>
<tbody>${join(rows)}</tbody></table></div></section>`;
}

function examples({ examples: given = [] }: ReinforcementInput): string {
  if (given.length === 0) return "";
  const said = ({ answer, confidence, right }: SaidAnswer, when: string) =>
    `<td class="text" data-name="${when}">${text(answer)} <span class="${right ? "v-better" : "v-worse"}">${right ? "right" : "wrong"}, ${confidence === null ? "states none" : `${percent(confidence)} sure`}</span></td>`;
  const rows = given.map(
    ({ question, expected, before, after }) =>
      `<tr><td class="text">${text(question)}</td><td class="text" data-name="expected">${text(expected.slice(0, 3).join(" / "))}</td>${said(before, "before")}${said(after, "now")}</tr>`,
  );
  return `<section><h2>What it says</h2>
<div class="scroll"><table class="mistakes"><thead><tr><th class="text">Question</th><th class="text">Right would be</th><th class="text">It said before</th><th class="text">It says now</th></tr></thead>
<tbody>${join(rows)}</tbody></table></div></section>`;
}

/**
 * The whole report, as one self-contained page.
 *
 * @throws CredenceError "BAD_INPUT" where a row the report is about, or its predictions, are missing
 */
export function reinforcementReport(input: ReinforcementInput): string {
  const { evaluation, trainings, kl = {}, model, subject } = input;
  const top = reinforcementHeadline(input);
  const explained = evaluation
    ? columnsOf(evaluation).map((m) => `<strong>${metricWords[m].short}</strong>: ${meaningOf(m)}.`)
    : [];
  const about = ["Credence report", model, subject].filter((one) => one !== undefined);
  const both = evaluation && [rowOf(evaluation, evaluation.before), rowOf(evaluation, evaluation.after)];
  return page([top.title, model].filter(Boolean).join(" \u00b7 "), [
    `<header>
<p class="eyebrow">${text(about.join(" \u00b7 "))}</p>
<h1>${text(top.title)}</h1>
<p class="lead">${text(top.lead)}</p>
${both ? cards(both.map(({ name, metrics }, i) => ({ who: i === 0 ? "before" : "now", colour: colourOf(evaluation, name)!, metrics }))) : ""}
${findingList(aims(input))}
</header>`,
    ...measured(input),
    curveSection(trainings, kl),
    confidenceSection(trainings),
    tried(input),
    ...(trainings.length ? [alarmSection(trainings)] : []),
    examples(input),
    ...(input.sections ?? []),
    whatRan(input),
    `<footer><p>${explained.join(" ")} <strong>KL</strong>: log-probability of a completion under the policy less that under the reference, on average, in nats. <strong>Clipped ratios</strong>: tokens whose probability had moved so far that they taught nothing more.</p>
${join((input.notes ?? []).map((note) => `<p>${text(note)}</p>`))}</footer>`,
  ]);
}

/** Here the answers themselves change. */
const meaningOf = (metric: MetricName): string =>
  metric === "accuracy" ? "share of right answers" : metricWords[metric].meaning;
