/** The report's style sheet: one measure, one scale, a colour a meaning. Light, dark, narrow and printed. */

const light = `
  --paper: #fcfbf8; --card: #ffffff; --ink: #1b1e24; --soft: #5d636e; --rule: #e2dfd8; --tint: #f3f1eb;
  --after: #0b6b7c; --before: #b8522a; --asking: #74629f; --twin: #8a8f3a; --right: #9db4bd; --wrong: #a8324f;
  --after-tint: #e3f0f1;`;

const dark = `
  --paper: #13161b; --card: #1a1e25; --ink: #eceae5; --soft: #a3a9b3; --rule: #2e343d; --tint: #1f242c;
  --after: #56c1d2; --before: #ee966c; --asking: #b4a4e0; --twin: #c6cb6e; --right: #57707b; --wrong: #ea7090;
  --after-tint: #16323a;`;

/** Colours by their names, for what is drawn on white paper. */
export const lightColours: ReadonlyMap<string, string> = new Map(
  Array.from(light.matchAll(/--([\w-]+): (#\w+)/g), ([, name, value]) => [name!, value!]),
);

export const styleSheet = `
:root { color-scheme: light dark; ${light} }
@media (prefers-color-scheme: dark) { :root { ${dark} } }
* { box-sizing: border-box; }
html { -webkit-text-size-adjust: 100%; }
body {
  margin: 0; background: var(--paper); color: var(--ink); line-height: 1.55; font-size: 17px;
  font-family: "Inter", ui-sans-serif, system-ui, -apple-system, "Segoe UI", Roboto, "Helvetica Neue", sans-serif;
  font-feature-settings: "tnum", "cv11"; font-variant-numeric: tabular-nums;
}
main { max-width: 1080px; margin: 0 auto; padding: 56px 32px 72px; }
h1, h2, h3, .big {
  font-family: "Iowan Old Style", "Palatino Linotype", Palatino, "Source Serif 4", Georgia, serif; font-weight: 600; text-wrap: balance;
}
h1 { font-size: clamp(34px, 5.4vw, 58px); line-height: 1.08; letter-spacing: -0.015em; margin: 10px 0 22px; max-width: 20ch; }
h2 { font-size: 27px; line-height: 1.2; letter-spacing: -0.005em; margin: 0 0 10px; }
h3 { font-size: 19px; line-height: 1.3; margin: 0 0 2px; }
p { margin: 0 0 14px; max-width: 68ch; text-wrap: pretty; }
section { margin-top: 64px; }
.eyebrow { color: var(--soft); font-size: 14px; margin: 0; }
.lead { font-size: 20px; line-height: 1.5; max-width: 62ch; }
.soft, .note { color: var(--soft); }
.note { font-size: 14.5px; }
.key { display: inline-block; width: 0.72em; height: 0.72em; border-radius: 50%; margin-right: 0.4em; }
.key.line { width: 1.5em; height: 3px; border-radius: 2px; vertical-align: middle; }
.key.square { border-radius: 2px; }
.legend { display: flex; flex-wrap: wrap; gap: 4px 22px; font-size: 14.5px; color: var(--soft); margin: 0 0 10px; padding: 0; list-style: none; }
.cards { display: grid; grid-template-columns: repeat(3, 1fr); gap: 18px; margin-top: 36px; }
.card { background: var(--card); border: 1px solid var(--rule); border-radius: 10px; padding: 20px 22px 16px; break-inside: avoid; }
.card .soft { font-size: 14.5px; line-height: 1.4; margin: 2px 0 14px; min-height: 2.8em; }
.big { font-size: 42px; line-height: 1; letter-spacing: -0.01em; color: var(--after); margin: 0 0 14px; }
.big small { font-size: 16px; letter-spacing: 0; color: var(--soft); font-weight: 400; font-family: "Inter", ui-sans-serif, system-ui, sans-serif; }
.scale { display: grid; grid-template-columns: auto 1fr auto; gap: 5px 10px; align-items: center; font-size: 13.5px; margin: 0; }
.scale dt { display: contents; }
.scale dd { margin: 0; }
.track { position: relative; height: 14px; }
.track::before { content: ""; position: absolute; inset: 6.5px 0 auto; height: 1px; background: var(--rule); }
.track i { position: absolute; top: 5px; height: 4px; border-radius: 2px; opacity: 0.35; background: currentColor; }
.track b { position: absolute; top: 2px; width: 10px; height: 10px; margin-left: -5px; border-radius: 50%; background: currentColor; }
.track u { position: absolute; top: 0; bottom: 0; left: 50%; width: 1px; background: var(--soft); opacity: 0.55; }
.findings { list-style: none; padding: 0; margin: 30px 0 0; display: grid; grid-template-columns: 1fr 1fr; gap: 18px 36px; }
.findings li { border-left: 3px solid var(--rule); padding: 1px 0 1px 16px; break-inside: avoid; }
.findings.one { grid-template-columns: minmax(0, 1fr); margin-top: 14px; }
.findings .better { border-color: var(--after); }
.findings .level { border-color: var(--soft); }
.findings .worse { border-color: var(--wrong); }
.findings strong { display: block; font-weight: 600; }
.findings span { color: var(--soft); font-size: 15.5px; }
.pair { display: grid; grid-template-columns: 1fr 1fr; gap: 28px 36px; align-items: start; }
.pair > * { min-width: 0; }
figure { margin: 18px 0 0; break-inside: avoid; }
figure svg { display: block; width: 100%; height: auto; font-family: inherit; }
.scroll { overflow-x: auto; margin: 18px 0 8px; }
.scroll:focus-visible { outline: 2px solid var(--after); outline-offset: 3px; }
table { border-collapse: collapse; width: 100%; font-size: 14.5px; line-height: 1.35; }
th, td { text-align: right; padding: 8px 10px; border-bottom: 1px solid var(--rule); vertical-align: top; white-space: nowrap; }
th:first-child, td:first-child { text-align: left; padding-left: 8px; }
thead th { color: var(--soft); font-weight: 500; border-bottom: 1.5px solid var(--soft); vertical-align: bottom; white-space: normal; }
tbody th { font-weight: 500; white-space: normal; min-width: 190px; }
td small { display: block; color: var(--soft); font-size: 12px; letter-spacing: -0.01em; }
td b { font-weight: 650; }
tr.chosen > * { background: var(--after-tint); }
.range td { min-width: 150px; }
td.text, th.text { text-align: left; white-space: normal; }
.mistakes td:first-child { min-width: 220px; }
.v-better { color: var(--after); } .v-level { color: var(--soft); } .v-worse { color: var(--wrong); }
dl.facts { font-size: 14.5px; margin: 12px 0 0; }
dl.facts div { display: grid; grid-template-columns: 96px minmax(0, 1fr); gap: 0 16px; padding: 4px 0; border-bottom: 1px solid var(--rule); break-inside: avoid; }
dl.facts dt { color: var(--soft); }
dl.facts dd { margin: 0; overflow-wrap: anywhere; }
dl.many { columns: 3 250px; column-gap: 36px; font-size: 13.5px; }
dl.many div { grid-template-columns: minmax(0, 1fr) auto; }
dl.many dt { overflow-wrap: anywhere; }
.pair h3 { margin-top: 8px; }
.bars { font-size: 14.5px; }
.bars td { white-space: nowrap; }
.bars td.bar { width: 45%; min-width: 90px; }
.bar span { display: block; height: 10px; margin-top: 5px; border-radius: 2px; background: var(--after); opacity: 0.75; min-width: 2px; }
.rationale { border-top: 1px solid var(--rule); margin-top: 22px; padding-top: 16px; break-inside: avoid; }
.rationale h4 { font-size: 14.5px; font-weight: 500; color: var(--soft); margin: 0 0 6px; }
.rationale h3, .rationale p, .rationale blockquote, .clusters span { overflow-wrap: anywhere; white-space: pre-line; }
.rationale blockquote { margin: 0 0 14px; padding-left: 14px; border-left: 3px solid var(--after); }
.stated { display: grid; grid-template-columns: auto minmax(0, 1fr) auto; gap: 0 10px; align-items: center; font-size: 13.5px; color: var(--after); }
.clusters { list-style: none; margin: 0; padding: 0; font-size: 14.5px; line-height: 1.4; }
.clusters li { display: grid; grid-template-columns: 3.2em 64px minmax(0, 1fr); gap: 0 12px; padding: 5px 0; border-bottom: 1px solid var(--rule); }
.clusters b { font-weight: 500; text-align: right; }
.clusters i span { display: block; height: 10px; margin-top: 5px; border-radius: 2px; background: var(--after); opacity: 0.75; min-width: 2px; }
details { margin-top: 34px; }
details summary { cursor: pointer; color: var(--soft); font-size: 14.5px; }
footer { margin-top: 64px; border-top: 1px solid var(--rule); padding-top: 18px; color: var(--soft); font-size: 14px; }
footer p { max-width: 90ch; }
@media screen and (max-width: 760px) {
  body { font-size: 16px; }
  main { padding: 30px 18px 48px; }
  section { margin-top: 46px; }
  .lead { font-size: 18px; }
  .cards, .pair, .findings { grid-template-columns: minmax(0, 1fr); }
  .card .soft { min-height: 0; }
  .mistakes thead { display: none; }
  .mistakes tr { display: block; padding: 10px 0; border-bottom: 1px solid var(--rule); }
  .mistakes td { display: block; border: 0; padding: 1px 0; text-align: left; white-space: normal; }
  .mistakes td:first-child { padding-left: 0; font-weight: 500; }
  .mistakes td[data-name]::before { content: attr(data-name) " "; color: var(--soft); }
}
@media screen and (max-width: 480px) {
  figure svg text { font-size: 14px !important; }
}
@media print {
  :root { ${light} --paper: #ffffff; }
  * { print-color-adjust: exact; -webkit-print-color-adjust: exact; }
  body { font-size: 10.5pt; }
  main { max-width: none; padding: 0; }
  section { margin-top: 26pt; }
  h2 { break-after: avoid; }
  tr { break-inside: avoid; }
  .scroll { overflow: visible; }
  table { font-size: 8.5pt; }
  th, td { padding: 3pt 4pt; }
  .lead { font-size: 12.5pt; }
  h2 { font-size: 16pt; }
  .findings span, .card .soft, .note, .legend, dl.facts, .bars { font-size: 8.5pt; }
  .findings { gap: 9pt 18pt; margin-top: 14pt; }
  h1 { font-size: 30pt; }
  .card { padding: 10pt 12pt; }
  .big { font-size: 24pt; }
  tbody th { min-width: 0; }
  .range td { min-width: 0; }
  td small { font-size: 7pt; }
  @page { margin: 16mm 14mm; }
}
`;
