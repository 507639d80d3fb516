/** What the numbers say, in sentences: what was not shown, or went wrong, first. */

import { CredenceError } from "../errors.js";
import type { MetricValue } from "../evaluation/bootstrap.js";
import { direction, type MetricName } from "../evaluation/metrics.js";
import type { ReportInput, ReportRow } from "./input.js";
import {
  count,
  metricWords,
  number,
  percent,
  points,
  rowLabel,
  rowSource,
  signed,
  type Verdict,
  verdict,
} from "./words.js";

export interface Headline {
  title: string;
  /** Whose numbers they are and where they come from. */
  lead: string;
  verdict: Verdict | "unknown";
}

export interface Finding {
  verdict: Verdict;
  title: string;
  text: string;
}

export function findRow(input: ReportInput, name: string): ReportRow {
  const row = input.rows.find((candidate) => candidate.name === name);
  if (!row)
    throw new CredenceError(
      "BAD_INPUT",
      `report: there is no row ${name} among ${input.rows.map((r) => r.name).join(", ")}`,
    );
  return row;
}

/** The difference best - other at the report's number of labels. */
function difference(input: ReportInput, other: string, metric: MetricName): MetricValue | undefined {
  const main = findRow(input, input.best).cost?.labels;
  return input.differences.find(
    (d) =>
      d.row === input.best && d.other === other && d.metric === metric && (d.labels === undefined || d.labels === main),
  )?.value;
}

const interval = (v: MetricValue): string =>
  v.value === null || v.low === null || v.high === null
    ? ""
    : ` (${signed(v.value)}; 95\u00a0% from ${signed(v.low)} to ${signed(v.high)})`;

const meanConfidence = (input: ReportInput, row: string): number => {
  const predictions = input.predictions[row];
  if (!predictions || predictions.length === 0)
    throw new CredenceError("BAD_INPUT", `report: no predictions of the row ${row}`);
  return predictions.reduce((sum, p) => sum + p.confidence, 0) / predictions.length;
};

/** The first lines: before and after, by the verdict of the paired Brier difference. */
export function headline(input: ReportInput): Headline {
  const before = findRow(input, input.before).metrics;
  const after = findRow(input, input.best).metrics;
  const paired = difference(input, input.before, "brier");
  const outcome = (paired && verdict("brier", paired)) ?? "unknown";
  const { model, questions, subject } = input;
  const unseen = `${count(questions.test)} ${subject} that nothing was fitted to`;
  let title: string;
  if (after.brier.value === null || before.brier.value === null) {
    title = "There is nothing to measure yet";
  } else if (outcome === "level") {
    title = `No improvement shown: Brier score ${number(before.brier.value)} before, ${number(after.brier.value)} now`;
  } else if (outcome === "worse") {
    title = `It got worse: Brier score ${number(before.brier.value)} before, ${number(after.brier.value)} now`;
  } else if (after.ece.value !== null && before.ece.value !== null && after.ece.value < before.ece.value) {
    title = `Off by ${points(before.ece.value)} points before, by ${points(after.ece.value)} now`;
  } else {
    title = `Brier score ${number(before.brier.value)} before, ${number(after.brier.value)} now`;
  }
  const accuracy = after.accuracy.value;
  const sentences = [
    title.startsWith("Off by")
      ? `How far the confidence of ${model} lies from how often it is right, on ${unseen}.`
      : `The confidence of ${model}, on ${unseen}.`,
  ];
  if (outcome === "unknown") sentences.push("No interval says whether the difference is more than chance.");
  if (paired && outcome === "level") sentences.push(`The difference's 95\u00a0% interval holds 0${interval(paired)}.`);
  if (accuracy !== null) {
    sentences.push(
      `Going by ${rowSource(input.before)}, it was ${percent(meanConfidence(input, input.before))} sure on average while ${percent(accuracy)} of its answers were right.`,
      `Going by ${rowSource(input.best)}, it is ${percent(meanConfidence(input, input.best))} sure. The answers are the same; only the confidence is new.`,
    );
  }
  return { title, lead: sentences.join(" "), verdict: outcome };
}

/** What each outcome is called, by what the other row is to the best one. */
function titleOf(input: ReportInput, other: string, outcome: Verdict): string {
  const labels = findRow(input, input.best).cost?.labels;
  const at = labels ? ` at ${count(labels)} labels` : "";
  const say = (better: string, level: string, worse: string) => ({ better, level, worse })[outcome];
  if (other === input.before)
    return say("Better than its own voice", "Not told apart from its own voice", "Worse than its own voice");
  if (other === `${input.best}-calibration-only`) {
    const what = "Learning from its own agreement first";
    return say(`${what} helps${at}`, `${what} was not shown to help${at}`, `${what} hurts${at}`);
  }
  if (other === `${input.best}-elicitation-only`) {
    const what = "Letting labels move more than a slope and an offset";
    return say(`${what} helps${at}`, `${what} was not shown to help${at}`, `${what} hurts${at}`);
  }
  const label = inSentence(rowLabel(other));
  return say(`Better than ${label}`, `Not told apart from ${label}`, `Worse than ${label}`);
}

/**
 * The best row against the model's own voice, against asking again and against its twins, by Brier score and AUROC: worse
 * first, then what was not shown, then better. Other comparisons are the table's.
 */
export function findings(input: ReportInput): Finding[] {
  const best = findRow(input, input.best).metrics;
  const out: Finding[] = [];
  const told = [input.before, input.asking, `${input.best}-calibration-only`, `${input.best}-elicitation-only`];
  for (const other of told) {
    const row = input.rows.find(({ name }) => name === other);
    const paired = row && difference(input, row.name, "brier");
    const outcome = paired && verdict("brier", paired);
    if (!row || !paired || !outcome) continue;
    const parts: string[] = [];
    for (const metric of ["brier", "auroc"] as const) {
      const [ours, theirs, d] = [best[metric].value, row.metrics[metric].value, difference(input, row.name, metric)];
      if (ours === null || theirs === null || !d) continue;
      parts.push(`${metricWords[metric].short} ${number(ours)} against ${number(theirs)}${interval(d)}`);
    }
    out.push({
      verdict: outcome,
      title: titleOf(input, row.name, outcome),
      text: `${parts.join("; ")}.${costOf(input, row)}`,
    });
  }
  const beaten = nominallyBetter(input, best);
  if (beaten) out.push(beaten);
  const order: Verdict[] = ["worse", "level", "better"];
  return out.sort((a, b) => order.indexOf(a.verdict) - order.indexOf(b.verdict));
}

const inSentence = (label: string): string =>
  /^[A-Z][a-z]/.test(label) ? label[0]!.toLowerCase() + label.slice(1) : label;

function costOf(input: ReportInput, other: ReportRow): string {
  const ours = findRow(input, input.best).cost;
  const theirs = other.cost;
  if (!ours || !theirs || ours.passes === theirs.passes) return "";
  const tokens = (n: number | null) => (n === null ? "" : ` (${count(n)} tokens)`);
  return ` It takes ${count(theirs.passes)} ${theirs.passes === 1 ? "pass" : "passes"} over the model a question${tokens(theirs.tokens)}, ours ${count(ours.passes)}${tokens(ours.tokens)}.`;
}

/** What other rows do better than the best one by their values, whatever the intervals say. */
function nominallyBetter(input: ReportInput, best: ReportRow["metrics"]): Finding | undefined {
  const parts: string[] = [];
  for (const metric of ["auroc", "ece", "brier", "nll", "aurc"] as const) {
    const ours = best[metric].value;
    if (ours === null) continue;
    const ahead = input.rows
      .filter(
        ({ metrics }) => metrics[metric].value !== null && (metrics[metric].value - ours) * direction[metric] > 0.0005,
      )
      .map(({ name, metrics }) => `${inSentence(rowLabel(name))} ${number(metrics[metric].value!)}`);
    if (ahead.length > 0) parts.push(`${metricWords[metric].short} ${number(ours)}, but ${ahead.join(" and ")}`);
  }
  if (parts.length === 0) return undefined;
  return {
    verdict: "level",
    title: "What other rows do better",
    text: `${parts.join("; ")}. Values alone; whether a difference is more than chance is in the paired table.`,
  };
}
