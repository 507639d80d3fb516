/** One confidence beside another: their three numbers, their reliability, their paired differences, and what that says. */
import { confidenceHistogram, type HistogramBin, reliabilityBins } from "../evaluation/curves.js";
import type { MetricName } from "../evaluation/metrics.js";
import type { Prediction } from "../evaluation/rows.js";
import { histogramChart, reliabilityChart } from "./charts.js";
import type { Finding } from "./findings.js";
import type { Difference, Metrics } from "./input.js";
import { join, legend, text } from "./markup.js";
import { track } from "./page.js";
import { count, metricWords, number, percent, points, signed, verdict } from "./words.js";

/** The three numbers a report is about, of each voice; the last voice is what the report is about. */
export function cards(voices: readonly { who: string; colour: string; metrics: Metrics }[]): string {
  const about: [MetricName, string, (v: number) => string, string][] = [
    ["ece", "Off by, on average", points, "points between how sure it says it is and how often it is right"],
    ["brier", "Brier score", number, "mean squared error of the confidence; lower is better"],
    ["auroc", "Tells right from wrong", number, "share of pairs it ranks right (AUROC); 0.5 is chance, 1 is always"],
  ];
  return `<div class="cards">${join(
    about.map(([metric, title, show, meaning]) => {
      const values = voices.map(({ who, colour, metrics }) => ({ who, colour, value: metrics[metric] }));
      const now = values.at(-1)!.value;
      const numbers = values.flatMap(({ value }) =>
        value.value === null ? [] : [value.value, value.low ?? value.value, value.high ?? value.value],
      );
      const from = metric === "auroc" ? Math.min(0.5, ...numbers) : 0;
      const to = metric === "auroc" ? 1 : Math.max(...numbers, 0.01) * 1.02;
      const lines = values.map(({ who, colour, value }) => {
        const dot = value.value === null ? "" : track(value.low, value.value, value.high, from, to);
        const shown = value.value === null ? `<span title="${text(value.reason)}">\u2013</span>` : show(value.value);
        return `<dt><span>${text(who)}</span></dt><dd style="color:${colour}">${dot}</dd><dd>${shown}</dd>`;
      });
      const unit = metric === "ece" ? " <small>points</small>" : "";
      const big = now.value === null ? "\u2013" : `${show(now.value)}${unit}`;
      return `<div class="card"><h3>${title}</h3><p class="soft">${meaning}</p><p class="big">${big}</p><dl class="scale">${join(lines)}</dl></div>`;
    }),
  )}</div>`;
}

export function findingList(list: readonly Finding[]): string {
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

export interface ReliabilitySide {
  /** "Before", "Now". */
  title: string;
  label: string;
  /** Where the confidence comes from. */
  source: string;
  colour: string;
  predictions: readonly Prediction[];
}

/** Reliability over confidences, once before and once after, on the same scales. */
export function reliability(given: readonly ReliabilitySide[]): string {
  const sides = given.map((side) => ({
    ...side,
    bins: reliabilityBins(side.predictions),
    histogram: confidenceHistogram(side.predictions),
  }));
  const most = roomy(Math.max(...sides.flatMap(({ histogram }) => histogram.map((b) => b.right + b.wrong))));
  const panels = sides.map(({ title, label, source, colour, bins, histogram }) => {
    const told = bins
      .filter((b) => b.n > 0)
      .map((b) => `${percent(b.confidence!)} sure: ${percent(b.accuracy!)} right of ${count(b.n)}`);
    const alt = `Reliability of ${label}. ${told.join("; ")}.`;
    return `<figure><h3><span class="key" style="background:${colour}"></span>${title}</h3>
<p class="note">${text(label)}: ${text(source)}</p>
${reliabilityChart(bins, colour, alt)}
${histogramChart(histogram, most, histogramWords(label, histogram))}</figure>`;
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

function histogramWords(label: string, histogram: readonly HistogramBin[]): string {
  const sum = (side: "right" | "wrong", from: number) =>
    histogram.filter((b) => b.from >= from - 1e-9).reduce((total, b) => total + b[side], 0);
  return `Confidences of ${label}: above 80 % lie ${count(sum("right", 0.8))} right and ${count(sum("wrong", 0.8))} wrong answers, of ${count(sum("right", 0))} right and ${count(sum("wrong", 0))} wrong in all.`;
}

const legendWords = `<span class="v-better">Coloured</span>: better, and the interval leaves 0 out; <span class="v-level">grey</span>: not told apart; <span class="v-worse">red</span>: worse.`;

/**
 * Paired differences with their intervals, one line a comparison and number of labels.
 *
 * @param label a row's name in words
 * @param labels how many labels a row has where a difference does not say
 */
export function differenceTable(
  differences: readonly Difference[],
  shown: readonly MetricName[],
  label: (row: string) => string,
  labels: (row: string) => number | undefined = () => undefined,
): string {
  const lines = new Map<string, Difference[]>();
  for (const d of differences) {
    const key = `${d.row}\n${d.other}\n${d.labels ?? ""}`;
    lines.set(key, [...(lines.get(key) ?? []), d]);
  }
  if (lines.size === 0) return "";
  const extent = new Map(
    shown.map((metric) => [
      metric,
      Math.max(
        1e-6,
        ...differences
          .filter((d) => d.metric === metric)
          .flatMap(({ value: v }) => (v.value === null ? [] : [v.value, v.low ?? 0, v.high ?? 0].map(Math.abs))),
      ) * 1.04,
    ]),
  );
  const several = new Set(differences.map((d) => d.labels)).size > 1;
  const cell = (d: Difference | undefined): string => {
    if (!d || d.value.value === null) return "<td>\u2013</td>";
    const { value, low, high } = d.value;
    const to = extent.get(d.metric)!;
    const range = low === null || high === null ? "" : `<small>${signed(low)} to ${signed(high)}</small>`;
    return `<td><span class="v-${verdict(d.metric, d.value) ?? "level"}">${signed(value)}${track(low, value, high, -to, to, true)}</span>${range}</td>`;
  };
  const rows = [...lines.values()].map((group) => {
    const { row, other, labels: own } = group[0]!;
    const cells = shown.map((metric) => cell(group.find((d) => d.metric === metric)));
    return `<tr><th scope="row">${text(label(row))}<br><span class="soft">against ${text(label(other))}</span></th>${several ? `<td>${own ?? labels(row) ?? "\u2013"}</td>` : ""}${cells.join("")}</tr>`;
  });
  return `<section><h2>Differences on the same questions</h2>
<p>Both sides drawn together in each resample, so that luck with the questions cancels. ${legendWords}</p>
<div class="scroll" tabindex="0" role="region" aria-label="Paired differences"><table class="range"><thead><tr><th scope="col">Comparison</th>${several ? '<th scope="col">labels</th>' : ""}
${shown.map((m) => `<th scope="col">${metricWords[m].short}</th>`).join("")}</tr></thead><tbody>${join(rows)}</tbody></table></div></section>`;
}
