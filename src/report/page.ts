/** What every report's page has: the document around it, a mark on a scale, facts by name, and the time of each stage. */
import type { ReportInput } from "./input.js";
import { join, text } from "./markup.js";
import { styleSheet } from "./style.js";
import { bytes, duration } from "./words.js";

/** A document that needs nothing but itself: no script, nothing fetched. */
export function page(title: string, main: readonly string[]): string {
  return `<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>${text(title)}</title>
<style>${styleSheet}</style>
</head>
<body>
<main>
${join(main)}
</main>
</body>
</html>
`;
}

const place = (value: number, top: number) => `${(100 * Math.min(1, Math.max(0, value / top))).toFixed(2)}%`;

/** A dot with its interval on a line from `from` to `to`; `zero` marks the line's middle. */
export function track(
  low: number | null,
  value: number,
  high: number | null,
  from: number,
  to: number,
  zero = false,
): string {
  const at = (v: number) => place(v - from, to - from);
  const bar = low === null || high === null ? "" : `<i style="left:${at(low)};right:calc(100% - ${at(high)})"></i>`;
  return `<div class="track" aria-hidden="true">${zero ? "<u></u>" : ""}${bar}<b style="left:${at(value)}"></b></div>`;
}

const facts = (pairs: ReportInput["ran"], kind = ""): string =>
  `<dl class="facts ${kind}">${join(pairs.map(([name, value]) => `<div><dt>${text(name)}</dt><dd>${text(value)}</dd></div>`))}</dl>`;

function stageTimes(stages: ReportInput["stages"]): string {
  if (stages.length === 0) return "";
  const longest = Math.max(...stages.map(({ seconds }) => seconds), 1e-9);
  const total = stages.reduce((sum, { seconds }) => sum + seconds, 0);
  const memory = stages.some(({ peakBytes }) => peakBytes !== undefined);
  const rows = stages.map(
    ({ name, seconds, peakBytes }) =>
      `<tr><td>${text(name)}</td><td class="bar" aria-hidden="true"><span style="width:${place(seconds, longest)}"></span></td><td>${duration(seconds)}</td>${memory ? `<td>${peakBytes === undefined ? "\u2013" : bytes(peakBytes)}</td>` : ""}</tr>`,
  );
  return `<h3>Time a stage: ${duration(total)} in all</h3>
<div class="scroll"><table class="bars"><thead><tr><th>Stage</th><th></th><th>time</th>${memory ? "<th>peak memory</th>" : ""}</tr></thead><tbody>${join(rows)}</tbody></table></div>`;
}

/** Settings as their paths and values, e.g. ["samples.count", "10"]. */
export function settingLines(value: unknown, path = ""): [string, string][] {
  if (typeof value !== "object" || value === null || Array.isArray(value))
    return [[path, typeof value === "string" ? value : JSON.stringify(value)]];
  return Object.entries(value).flatMap(([name, inner]) => settingLines(inner, path ? `${path}.${name}` : name));
}

/** What ran, how long it took, and with which settings. */
export function whatRan({ ran, stages, settings }: Pick<ReportInput, "ran" | "stages" | "settings">): string {
  return `<section><h2>What ran</h2>
<div class="pair"><div>${facts(ran)}</div><div>${stageTimes(stages)}</div></div>
${settings.length > 0 ? `<details open><summary>All settings</summary>${facts(settings, "many")}</details>` : ""}
</section>`;
}
