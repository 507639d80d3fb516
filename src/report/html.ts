/** One self-contained page that says what came of a run: no script, nothing fetched. */
import { riskCoverage } from "../evaluation/curves.js";
import type { MetricName } from "../evaluation/metrics.js";
import type { Prediction } from "../evaluation/rows.js";
import { linesChart, riskChart } from "./charts.js";
import { cards, differenceTable, findingList, type ReliabilitySide, reliability } from "./comparison.js";
import { findings, findRow, headline } from "./findings.js";
import type { ReportInput, ReportRow } from "./input.js";
import { join, legend, text } from "./markup.js";
import { page, whatRan } from "./page.js";
import { depths, setTables } from "./sets.js";
import { bestOf } from "./table.js";
import { count, metricWords, number, percent, rowLabel, rowSource } from "./words.js";

/** A row's place in the story, as its colour. */
function colour(input: ReportInput, row: string): string {
  if (row === input.best) return "var(--after)";
  if (row === input.before) return "var(--before)";
  return row === input.asking ? "var(--asking)" : "var(--soft)";
}

/** Voices of the story in its order: the last is what the report is about. */
function voices(input: ReportInput) {
  const told = [
    [input.before, "before"],
    ...(input.asking ? [[input.asking, "asking again"]] : []),
    [input.best, "now"],
  ] as [name: string, who: string][];
  return told.map(([name, who]) => ({ who, colour: colour(input, name), metrics: findRow(input, name).metrics }));
}

const side = (input: ReportInput, title: string, row: string): ReliabilitySide => ({
  title,
  label: rowLabel(row),
  source: rowSource(row),
  colour: colour(input, row),
  predictions: input.predictions[row]!,
});

/** Error rate among the surest `share` of the answers. */
function riskAt(predictions: readonly Prediction[], share: number): number {
  const points = riskCoverage(predictions, Number.POSITIVE_INFINITY);
  return (points.find((p) => p.coverage >= share - 1e-9) ?? points.at(-1)!).risk;
}

function risk(input: ReportInput): string {
  const names = [input.best, input.before, ...(input.asking ? [input.asking] : [])].filter(
    (name) => input.predictions[name],
  );
  const rows = [0.25, 0.5, 0.75, 1].map((share) => {
    const cells = names.map((name) => `<td>${percent(riskAt(input.predictions[name]!, share))}</td>`);
    return `<tr><td>${share === 1 ? "all" : percent(share)}</td>${cells.join("")}</tr>`;
  });
  const alt = names.map(
    (name) =>
      `${rowLabel(name)}: ${percent(riskAt(input.predictions[name]!, 0.25))} wrong among the surest quarter, ${percent(riskAt(input.predictions[name]!, 0.5))} among the surest half`,
  );
  const chart = riskChart(
    names.map((name) => ({ colour: colour(input, name), points: riskCoverage(input.predictions[name]!) })),
    `Share of wrong answers against the share answered. ${alt.join("; ")}; ${percent(riskAt(input.predictions[input.best]!, 1))} among all.`,
  );
  return `<section><h2>If it may stay silent</h2>
<p>Let it answer only the questions it is surest of, and pass on the rest. A useful confidence makes the answers it does give more often right.</p>
${legend(names.map((name) => [colour(input, name), rowLabel(name), "line"]))}
<div class="pair"><figure>${chart}</figure>
<div class="scroll"><table><thead><tr><th>Answers the surest</th>${names.map((name) => `<th>${text(rowLabel(name))}</th>`).join("")}</tr></thead>
<tbody>${join(rows)}</tbody></table><p class="note">Share of wrong answers among those given.</p></div></div></section>`;
}

/** What labels buy: Brier score and AUROC against their number. */
function byLabels(input: ReportInput): string {
  const all = input.byLabels ?? [];
  const colours: [string, string][] = [
    [input.best, "var(--after)"],
    [`${input.best}-calibration-only`, "var(--twin)"],
    [`${input.best}-elicitation-only`, "var(--soft)"],
    ["self-consistency-platt", "var(--asking)"],
  ];
  const drawn = colours.filter(
    ([name]) => new Set(all.filter(({ row }) => row === name).map(({ labels }) => labels)).size > 1,
  );
  if (drawn.length === 0) return "";
  const charts = (["brier", "auroc"] as const).map((metric) => {
    const lines = drawn.map(([name, c]) => ({
      name,
      colour: c,
      points: all
        .filter(({ row, metrics }) => row === name && metrics[metric].value !== null)
        .sort((a, b) => a.labels - b.labels)
        .map(({ labels, metrics }) => [labels, metrics[metric].value!] as const),
    }));
    const told = lines.map(
      ({ name, points: p }) => `${rowLabel(name)}: ${p.map(([x, y]) => `${number(y)} with ${x}`).join(", ")}`,
    );
    return `<figure><h3>${metric === "brier" ? "Brier score, lower is better" : "AUROC, higher is better"}</h3>${linesChart(lines, "labelled questions", metricWords[metric].short, `${metricWords[metric].short} by number of labels. ${told.join("; ")}.`)}</figure>`;
  });
  return `<section><h2>What labels buy</h2><p>Learning from its own agreement first needs no labels; what it saves is seen where labels are few.</p>
${legend(drawn.map(([name, c]) => [c, rowLabel(name), "line"]))}<div class="pair">${join(charts)}</div></section>`;
}

const columns: readonly MetricName[] = ["auroc", "ece", "eceEqualMass", "brier", "nll", "aurc"];

function table(input: ReportInput): string {
  const best = bestOf(input.rows, columns);
  const reasons = new Set<string>();
  const cell = (row: ReportRow, metric: MetricName): string => {
    const v = row.metrics[metric];
    if (v.value === null) {
      reasons.add(`${metricWords[metric].short} of ${rowLabel(row.name)}: ${v.reason}.`);
      return "<td>\u2013</td>";
    }
    const shown = best.get(metric) === row.name ? `<b>${number(v.value)}</b>` : number(v.value);
    return `<td>${shown}${v.low === null || v.high === null ? "" : `<small>${number(v.low)}\u2013${number(v.high)}</small>`}</td>`;
  };
  const costs = input.rows.some(({ cost }) => cost);
  const price = ({ cost }: ReportRow): string =>
    cost
      ? `<td>${count(cost.passes)}</td><td>${cost.tokens === null ? "\u2013" : count(cost.tokens)}</td><td>${cost.labels === 0 ? "none" : count(cost.labels)}</td>`
      : "<td>\u2013</td><td>\u2013</td><td>\u2013</td>";
  const rows = input.rows.map((row) => {
    const c = colour(input, row.name);
    const key = c === "var(--soft)" ? "" : `<span class="key" style="background:${c}"></span>`;
    return `<tr${row.name === input.best ? ' class="chosen"' : ""}><th scope="row">${key}${text(rowLabel(row.name))}</th>${columns.map((m) => cell(row, m)).join("")}${costs ? price(row) : ""}</tr>`;
  });
  const { questions } = input;
  const accuracy = findRow(input, input.best).metrics.accuracy;
  const how = [
    questions.test === questions.total
      ? `${count(questions.test)} questions`
      : `${count(questions.test)} of ${count(questions.total)} questions`,
    questions.folds ? `${questions.folds} folds, every question tested once a seed` : "held out from everything",
    ...(questions.seeds && questions.seeds > 1 ? [`mean of ${questions.seeds} seeds`] : []),
    `95\u00a0% bootstrap intervals${questions.clusteredBy ? `, drawn by ${questions.clusteredBy}` : ""}`,
  ];
  return `<section><h2>Every row</h2>
<p>${text(how.join("; "))}.${accuracy.value === null ? "" : ` ${percent(accuracy.value)} of the answers are right, the same ones in every row.`} The best value of a column is bold.</p>
<div class="scroll" tabindex="0" role="region" aria-label="Metrics of every row"><table><thead><tr><th scope="col">Confidence from</th>
${columns.map((m) => `<th scope="col">${metricWords[m].short}</th>`).join("")}${costs ? '<th scope="col">passes a question</th><th scope="col">tokens a question</th><th scope="col">labels</th>' : ""}</tr></thead>
<tbody>${join(rows)}</tbody></table></div>
${join([...reasons].map((reason) => `<p class="note">${text(reason)}</p>`))}</section>`;
}

function mistakes(input: ReportInput): string {
  if (input.mistakes.length === 0) return "";
  const before = input.mistakes.some((m) => m.before !== undefined);
  const rows = input.mistakes.map(
    (
      m,
    ) => `<tr><td class="text">${text(m.question)}</td><td class="text" data-name="said">${text(m.said)}</td><td class="text" data-name="right">${text(m.expected.slice(0, 3).join(" / "))}</td>
<td data-name="now">${percent(m.confidence)}</td>${before ? `<td data-name="before">${m.before === undefined ? "\u2013" : percent(m.before)}</td>` : ""}</tr>`,
  );
  return `<section><h2>Its most confident mistakes</h2>
<p>Wrong answers it is still surest of. Some are matching errors rather than wrong answers: read before you trust a label.</p>
<div class="scroll"><table class="mistakes"><thead><tr><th class="text">Question</th><th class="text">It said</th><th class="text">Right would be</th><th>now</th>${before ? "<th>before</th>" : ""}</tr></thead>
<tbody>${join(rows)}</tbody></table></div></section>`;
}

/**
 * The whole report.
 *
 * @throws CredenceError "BAD_INPUT" where a row the report is about, or its predictions, are missing
 */
export function renderReport(input: ReportInput): string {
  const top = headline(input);
  const explained = (["accuracy", ...columns] as const).map(
    (m) => `<strong>${metricWords[m].short}</strong>: ${metricWords[m].meaning}.`,
  );
  return page(`${top.title} \u00b7 ${input.model}`, [
    `<header>
<p class="eyebrow">Credence report \u00b7 ${text(input.model)} \u00b7 ${text(input.subject)}</p>
<h1>${text(top.title)}</h1>
<p class="lead">${text(top.lead)}</p>
${cards(voices(input))}
${findingList(findings(input))}
</header>`,
    reliability([side(input, "Before", input.before), side(input, "Now", input.best)]),
    risk(input),
    byLabels(input),
    depths(input),
    table(input),
    setTables(input),
    differenceTable(input.differences, ["brier", "auroc", "ece"], rowLabel, (row) => findRow(input, row).cost?.labels),
    mistakes(input),
    whatRan(input),
    `<footer><p>${explained.join(" ")} The bootstrap interval of a calibration error lies a little high: a resample looks less calibrated than its source.</p>
${join((input.notes ?? []).map((note) => `<p>${text(note)}</p>`))}</footer>`,
  ]);
}
