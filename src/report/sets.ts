/** Sections of a report whose questions come from several sets, or whose rows read at several depths. */
import type { MetricValue } from "../evaluation/bootstrap.js";
import type { MetricName } from "../evaluation/metrics.js";
import { linesChart } from "./charts.js";
import type { Metrics, ReportInput, ReportRow } from "./input.js";
import { join, legend, text } from "./markup.js";
import { bestOf } from "./table.js";
import { count, metricWords, number, percent, rowLabel } from "./words.js";

const told: readonly MetricName[] = ["auroc", "ece", "brier"];

const cell = (value: MetricValue | undefined, strong: boolean): string => {
  if (value === undefined) return "<td></td>";
  if (value.value === null) return `<td title="${text(value.reason)}">\u2013</td>`;
  const shown = strong ? `<b>${number(value.value)}</b>` : number(value.value);
  const range =
    value.low === null || value.high === null ? "" : `<small>${number(value.low)}\u2013${number(value.high)}</small>`;
  return `<td>${shown}${range}</td>`;
};

/** Rows with their metrics, and beside them what the same rows are worth where the set was never learnt from. */
function table(rows: readonly ReportRow[], transfer: readonly ReportRow[], best: string, region: string): string {
  const unseen = new Map(transfer.map((row) => [row.name, row.metrics]));
  const top = bestOf(rows, told);
  const topUnseen = bestOf(transfer, told);
  const cells = (metrics: Metrics | undefined, marks: ReadonlyMap<MetricName, string>, name: string) =>
    told.map((metric) => cell(metrics?.[metric], marks.get(metric) === name)).join("");
  const lines = rows.map(
    ({ name, metrics }) =>
      `<tr${name === best ? ' class="chosen"' : ""}><th scope="row">${text(rowLabel(name))}</th>${cells(metrics, top, name)}${unseen.size ? cells(unseen.get(name), topUnseen, name) : ""}</tr>`,
  );
  const head = told.map((metric) => `<th scope="col">${metricWords[metric].short}</th>`).join("");
  const away = told.map((metric) => `<th scope="col">${metricWords[metric].short}, set unseen</th>`).join("");
  return `<div class="scroll" tabindex="0" role="region" aria-label="${text(region)}"><table><thead><tr><th scope="col">Confidence from</th>${head}${unseen.size ? away : ""}</tr></thead><tbody>${join(lines)}</tbody></table></div>`;
}

/** A table for each set of questions. */
export function setTables(input: ReportInput): string {
  const sets = input.sets ?? [];
  if (sets.length === 0) return "";
  const transfer = sets.some((set) => set.transfer.length);
  const tables = sets.map(
    ({ name, test, accuracy, rows, transfer: away }) => `<h3>${text(name)}</h3>
<p class="note">${count(test)} questions tested; ${percent(accuracy)} of the answers are right.</p>
${table(rows, away, input.best, `Metrics on ${name}`)}`,
  );
  const means = input.transfer?.length
    ? `<h3>All sets</h3>
${table(
  input.rows.filter(({ name }) => input.transfer!.some((row) => row.name === name)),
  input.transfer,
  input.best,
  "Metrics over all sets, seen and unseen",
)}`
    : "";
  return `<section><h2>Each set by itself</h2>
<p>One confidence for all sets, and what it is worth on each.${transfer ? " <em>Set unseen</em>: the same questions, by what learnt agreement and labels from the other sets alone." : ""} The best value of a column is bold.</p>
${means}
${join(tables)}</section>`;
}

const layerColours: readonly [row: string, colour: string][] = [
  ["probe-answer", "var(--after)"],
  ["probe-question", "var(--asking)"],
  ["lora-question", "var(--before)"],
  ["head-linear", "var(--twin)"],
  ["head-mlp", "var(--soft)"],
];

/** AUROC and Brier score by the depth that is read. */
export function depths(input: ReportInput): string {
  const all = (input.layers ?? []).filter(
    ({ metrics }) => metrics.brier.value !== null && metrics.auroc.value !== null,
  );
  const drawn = layerColours.filter(([row]) => all.some((one) => one.row === row));
  if (drawn.length === 0) return "";
  const charts = (["brier", "auroc"] as const).map((metric) => {
    const lines = drawn.map(([row, colour]) => ({
      row,
      colour,
      points: all
        .filter((one) => one.row === row)
        .sort((a, b) => a.layer - b.layer)
        .map(({ layer, metrics }) => [layer, metrics[metric].value!] as const),
    }));
    const said = lines.map(
      ({ row, points }) => `${rowLabel(row)}: ${points.map(([x, y]) => `${number(y)} at ${x}`).join(", ")}`,
    );
    const alt = `${metricWords[metric].short} by depth. ${said.join("; ")}.`;
    return `<figure><h3>${metric === "brier" ? "Brier score, lower is better" : "AUROC, higher is better"}</h3>${linesChart(lines, "blocks before the state that is read", metricWords[metric].short, alt)}</figure>`;
  });
  return `<section><h2>Which depth reads best</h2>
<p>The same labels and agreement, read after so many of the model's blocks.</p>
${legend(drawn.map(([row, colour]) => [colour, rowLabel(row), "line"]))}<div class="pair">${join(charts)}</div></section>`;
}
