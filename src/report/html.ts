/** One self-contained page that says what came of a run: no script, nothing fetched. */
import { confidenceHistogram, type HistogramBin, reliabilityBins, riskCoverage } from "../evaluation/curves.js";
import { type MetricName, metricNames } from "../evaluation/metrics.js";
import type { Prediction } from "../evaluation/rows.js";
import { histogramChart, linesChart, reliabilityChart, riskChart } from "./charts.js";
import { findings, findRow, headline } from "./findings.js";
import type { Difference, ReportInput, ReportRow } from "./input.js";
import { join, legend, text } from "./markup.js";
import { depths, setTables } from "./sets.js";
import { styleSheet } from "./style.js";
import { bestOf } from "./table.js";
import {
  bytes,
  count,
  duration,
  metricWords,
  number,
  percent,
  points,
  rowLabel,
  rowSource,
  signed,
  verdict,
} from "./words.js";

/** A row's place in the story, as its colour. */
function colour(input: ReportInput, row: string): string {
  if (row === input.best) return "var(--after)";
  if (row === input.before) return "var(--before)";
  return row === input.asking ? "var(--asking)" : "var(--soft)";
}

const place = (value: number, top: number) => `${(100 * Math.min(1, Math.max(0, value / top))).toFixed(2)}%`;

/** A dot with its interval on a line from 0 (or `from`) to `to`. */
function track(low: number | null, value: number, high: number | null, from: number, to: number, zero = false): string {
  const at = (v: number) => place(v - from, to - from);
  const bar = low === null || high === null ? "" : `<i style="left:${at(low)};right:calc(100% - ${at(high)})"></i>`;
  return `<div class="track" aria-hidden="true">${zero ? "<u></u>" : ""}${bar}<b style="left:${at(value)}"></b></div>`;
}

/** The three numbers the report is about, each beside what the model said before and what asking again gives. */
function cards(input: ReportInput): string {
  const about: [MetricName, string, (v: number) => string, string][] = [
    ["ece", "Off by, on average", points, "points between how sure it says it is and how often it is right"],
    ["brier", "Brier score", number, "mean squared error of the confidence; lower is better"],
    ["auroc", "Tells right from wrong", number, "share of pairs it ranks right (AUROC); 0.5 is chance, 1 is always"],
  ];
  const names = [input.before, ...(input.asking ? [input.asking] : []), input.best];
  return `<div class="cards">${join(
    about.map(([metric, title, show, meaning]) => {
      const values = names.map((name) => ({ name, value: findRow(input, name).metrics[metric] }));
      const now = values.at(-1)!.value;
      const numbers = values.flatMap(({ value }) =>
        value.value === null ? [] : [value.value, value.low ?? value.value, value.high ?? value.value],
      );
      const from = metric === "auroc" ? Math.min(0.5, ...numbers) : 0;
      const to = metric === "auroc" ? 1 : Math.max(...numbers, 0.01) * 1.02;
      const lines = values.map(({ name, value }) => {
        const who = name === input.best ? "now" : name === input.before ? "before" : "asking again";
        const dot = value.value === null ? "" : track(value.low, value.value, value.high, from, to);
        const shown = value.value === null ? `<span title="${text(value.reason)}">\u2013</span>` : show(value.value);
        return `<dt><span>${who}</span></dt><dd style="color:${colour(input, name)}">${dot}</dd><dd>${shown}</dd>`;
      });
      const unit = metric === "ece" ? " <small>points</small>" : "";
      const big = now.value === null ? "\u2013" : `${show(now.value)}${unit}`;
      return `<div class="card"><h3>${title}</h3><p class="soft">${meaning}</p><p class="big">${big}</p><dl class="scale">${join(lines)}</dl></div>`;
    }),
  )}</div>`;
}

function findingList(input: ReportInput): string {
  const list = findings(input);
  if (list.length === 0) return "";
  const items = list.map(
    (f) => `<li class="${f.verdict}"><strong>${text(f.title)}</strong><span>${text(f.text)}</span></li>`,
  );
  return `<ul class="findings">${join(items)}</ul>`;
}

const roomy = (most: number): number => {
  const step = 10 ** Math.floor(Math.log10(Math.max(1, most)));
  return Math.ceil(most / (step / 2)) * (step / 2);
};

/** Reliability over confidences, once before and once after, on the same scales. */
function reliability(input: ReportInput): string {
  const sides = [
    { name: input.before, title: "Before" },
    { name: input.best, title: "Now" },
  ].map(({ name, title }) => {
    const predictions = input.predictions[name]!;
    return { name, title, bins: reliabilityBins(predictions), histogram: confidenceHistogram(predictions) };
  });
  const most = roomy(Math.max(...sides.flatMap(({ histogram }) => histogram.map((b) => b.right + b.wrong))));
  const panels = sides.map(({ name, title, bins, histogram }) => {
    const told = bins
      .filter((b) => b.n > 0)
      .map((b) => `${percent(b.confidence!)} sure: ${percent(b.accuracy!)} right of ${count(b.n)}`);
    const alt = `Reliability of ${rowLabel(name)}. ${told.join("; ")}.`;
    return `<figure><h3><span class="key" style="background:${colour(input, name)}"></span>${title}</h3>
<p class="note">${text(rowLabel(name))}: ${text(rowSource(name))}</p>
${reliabilityChart(bins, colour(input, name), alt)}
${histogramChart(histogram, most, histogramWords(name, histogram))}</figure>`;
  });
  return `<section><h2>When it says it is this sure, how often is it right?</h2>
<p>An honest confidence lies on the dashed line. A dot stands for all answers in a tenth of the scale, larger where there are more; its bar is
the 95 % interval. Below, how many answers have each confidence, right and wrong.</p>
${legend([
  ["var(--right)", "right answers", "square"],
  ["var(--wrong)", "wrong answers", "square"],
])}
<div class="pair">${join(panels)}</div></section>`;
}

function histogramWords(name: string, histogram: readonly HistogramBin[]): string {
  const sum = (side: "right" | "wrong", from: number) =>
    histogram.filter((b) => b.from >= from - 1e-9).reduce((total, b) => total + b[side], 0);
  return `Confidences of ${rowLabel(name)}: above 80 % lie ${count(sum("right", 0.8))} right and ${count(sum("wrong", 0.8))} wrong answers, of ${count(sum("right", 0))} right and ${count(sum("wrong", 0))} wrong in all.`;
}

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

/** Paired differences with their intervals, one line a comparison and number of labels. */
function differences(input: ReportInput): string {
  const shown: readonly MetricName[] = ["brier", "auroc", "ece"];
  const lines = new Map<string, Difference[]>();
  for (const d of input.differences) {
    const key = `${d.row}\n${d.other}\n${d.labels ?? ""}`;
    lines.set(key, [...(lines.get(key) ?? []), d]);
  }
  if (lines.size === 0) return "";
  const extent = new Map(
    shown.map((metric) => [
      metric,
      Math.max(
        1e-6,
        ...input.differences
          .filter((d) => d.metric === metric)
          .flatMap(({ value: v }) => (v.value === null ? [] : [v.value, v.low ?? 0, v.high ?? 0].map(Math.abs))),
      ) * 1.04,
    ]),
  );
  const several = new Set(input.differences.map(({ labels }) => labels)).size > 1;
  const cell = (d: Difference | undefined): string => {
    if (!d || d.value.value === null) return "<td>\u2013</td>";
    const { value, low, high } = d.value;
    const to = extent.get(d.metric)!;
    const range = low === null || high === null ? "" : `<small>${signed(low)} to ${signed(high)}</small>`;
    return `<td><span class="v-${verdict(d.metric, d.value) ?? "level"}">${signed(value)}${track(low, value, high, -to, to, true)}</span>${range}</td>`;
  };
  const rows = [...lines.values()].map((group) => {
    const { row, other, labels } = group[0]!;
    const cells = shown.map((metric) => cell(group.find((d) => d.metric === metric)));
    return `<tr><th scope="row">${text(rowLabel(row))}<br><span class="soft">against ${text(rowLabel(other))}</span></th>${several ? `<td>${labels ?? findRow(input, row).cost?.labels ?? "\u2013"}</td>` : ""}${cells.join("")}</tr>`;
  });
  return `<section><h2>Differences on the same questions</h2>
<p>Both sides drawn together in each resample, so that luck with the questions cancels. ${legendWords}</p>
<div class="scroll" tabindex="0" role="region" aria-label="Paired differences"><table class="range"><thead><tr><th scope="col">Comparison</th>${several ? '<th scope="col">labels</th>' : ""}
${shown.map((m) => `<th scope="col">${metricWords[m].short}</th>`).join("")}</tr></thead><tbody>${join(rows)}</tbody></table></div></section>`;
}

const legendWords = `<span class="v-better">Coloured</span>: better, and the interval leaves 0 out; <span class="v-level">grey</span>: not told apart; <span class="v-worse">red</span>: worse.`;

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

const facts = (pairs: ReportInput["ran"], kind = ""): string =>
  `<dl class="facts ${kind}">${join(pairs.map(([name, value]) => `<div><dt>${text(name)}</dt><dd>${text(value)}</dd></div>`))}</dl>`;

function stages(input: ReportInput): string {
  if (input.stages.length === 0) return "";
  const longest = Math.max(...input.stages.map(({ seconds }) => seconds), 1e-9);
  const total = input.stages.reduce((sum, { seconds }) => sum + seconds, 0);
  const memory = input.stages.some(({ peakBytes }) => peakBytes !== undefined);
  const rows = input.stages.map(
    ({ name, seconds, peakBytes }) =>
      `<tr><td>${text(name)}</td><td class="bar" aria-hidden="true"><span style="width:${place(seconds, longest)}"></span></td><td>${duration(seconds)}</td>${memory ? `<td>${peakBytes === undefined ? "\u2013" : bytes(peakBytes)}</td>` : ""}</tr>`,
  );
  return `<h3>Time a stage: ${duration(total)} in all</h3>
<div class="scroll"><table class="bars"><thead><tr><th>Stage</th><th></th><th>time</th>${memory ? "<th>peak memory</th>" : ""}</tr></thead><tbody>${join(rows)}</tbody></table></div>`;
}

/**
 * The whole report.
 *
 * @throws CredenceError "BAD_INPUT" where a row the report is about, or its predictions, are missing
 */
export function renderReport(input: ReportInput): string {
  const top = headline(input);
  const explained = metricNames.map((m) => `<strong>${metricWords[m].short}</strong>: ${metricWords[m].meaning}.`);
  return `<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>${text(top.title)} \u00b7 ${text(input.model)}</title>
<style>${styleSheet}</style>
</head>
<body>
<main>
<header>
<p class="eyebrow">Credence report \u00b7 ${text(input.model)} \u00b7 ${text(input.subject)}</p>
<h1>${text(top.title)}</h1>
<p class="lead">${text(top.lead)}</p>
${cards(input)}
${findingList(input)}
</header>
${reliability(input)}
${risk(input)}
${byLabels(input)}
${depths(input)}
${table(input)}
${setTables(input)}
${differences(input)}
${mistakes(input)}
<section><h2>What ran</h2>
<div class="pair"><div>${facts(input.ran)}</div><div>${stages(input)}</div></div>
${input.settings.length > 0 ? `<details open><summary>All settings</summary>${facts(input.settings, "many")}</details>` : ""}
</section>
<footer><p>${explained.join(" ")} The bootstrap interval of a calibration error lies a little high: a resample looks less calibrated than its source.</p>
${join((input.notes ?? []).map((note) => `<p>${text(note)}</p>`))}</footer>
</main>
</body>
</html>
`;
}
