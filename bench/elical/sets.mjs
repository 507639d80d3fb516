// Three sets of questions, every baseline and every reader, from questions to tables, in one command:
//   node bench/elical/sets.mjs --model M.gguf [--run-dir runs/sets] [--out docs/measurements] [--set path=value ...]
// Runs bench/elical/sets.yaml (again on the same folder it goes on), then writes elical-sets.md and its charts from the
// run's summary.json. The questions are read from ../shared/data/qa; without them it says so and does nothing.
import { spawnSync } from "node:child_process";
import { existsSync, mkdirSync, readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { parseArgs } from "node:util";

const root = fileURLToPath(new URL("../..", import.meta.url));
process.chdir(root);
const { values } = parseArgs({
  options: {
    model: { type: "string" },
    "run-dir": { type: "string", default: "runs/sets" },
    out: { type: "string", default: "docs/measurements" },
    threads: { type: "string" },
    set: { type: "string", multiple: true, default: [] },
  },
});
const data = "../shared/data/qa";
if (!existsSync(data)) {
  console.log(`skipped: the questions are not in ${data}`);
  process.exit(0);
}
const options = [
  ...(values.model ? ["--model", values.model] : []),
  ...(values.threads ? ["--threads", values.threads] : []),
  ...values.set.flatMap((setting) => ["--set", setting]),
];
const run = ["dist/cli/bin.js", "run", "bench/elical/sets.yaml", "--run-dir", values["run-dir"], ...options];
const { status } = spawnSync(process.execPath, run, { stdio: "inherit" });
if (status !== 0) process.exit(status ?? 1);

const { inOrder } = await import("../../dist/methods/elical/evaluate.js");
const { linesChart } = await import("../../dist/report/charts.js");
const { rowLabel } = await import("../../dist/report/words.js");
const summary = JSON.parse(readFileSync(join(values["run-dir"], "summary.json"), "utf8"));
const { main, counts } = summary.recipe.labels;
const sets = Object.keys(summary.sets);

const value = ({ value, low, high } = { value: null }) =>
  value === null || value === undefined
    ? "-"
    : `${value.toFixed(3)}${low === null || low === undefined ? "" : ` (${low.toFixed(3)} to ${high.toFixed(3)})`}`;
const short = (metric) => (metric?.value == null ? "-" : metric.value.toFixed(3));
const table = (head, rows) =>
  [head, head.map(() => "---"), ...rows].map((cells) => `| ${cells.join(" | ")} |`).join("\n");
const ofCount = (view, count) => (count === main ? view.metrics : (view.labels[count] ?? {}));
const learns = (row) => Object.values(summary.labels).some((rows) => row in rows);

const everything = () => {
  const rows = inOrder(summary.metrics).flatMap(([row, own]) =>
    (learns(row) ? counts.filter((count) => row in ofCount(summary, count)) : [main]).map((count) => {
      const metrics = learns(row) ? ofCount(summary, count)[row] : own;
      const labels = learns(row) ? `, ${count}` : "";
      return [`${row}${labels}`, ...["auroc", "ece", "brier"].map((metric) => value(metrics?.[metric]))];
    }),
  );
  return table(["row, labels", "AUROC", "ECE", "Brier"], rows);
};

const bySet = (metric) =>
  table(
    ["row", "all", ...sets],
    inOrder(summary.metrics).map(([row, own]) => [
      row,
      short(own[metric]),
      ...sets.map((set) => value(summary.sets[set].metrics[row]?.[metric])),
    ]),
  );

const transfer = (metric) =>
  table(
    ["row", "all, seen", "all, unseen", ...sets.flatMap((set) => [`${set}, seen`, `${set}, unseen`])],
    inOrder(summary.transfer[main] ?? {}).map(([row, away]) => [
      row,
      short(summary.metrics[row]?.[metric]),
      short(away[metric]),
      ...sets.flatMap((set) => [
        short(summary.sets[set].metrics[row]?.[metric]),
        value(summary.sets[set].transfer[main]?.[row]?.[metric]),
      ]),
    ]),
  );

const depths = () => {
  const all = [...new Set(Object.values(summary.layers).flatMap((rows) => Object.keys(rows).map(Number)))].sort(
    (a, b) => a - b,
  );
  return table(
    ["row", ...all.map((depth) => `after ${depth}`)],
    inOrder(summary.layers).map(([row, own]) => [
      row,
      ...all.map((depth) => (own[depth] ? `${short(own[depth].auroc)}, ${short(own[depth].brier)}` : "-")),
    ]),
  );
};

const differences = (view, of = counts) =>
  table(
    ["paired difference, labels", "AUROC", "ECE", "Brier"],
    of.flatMap((count) =>
      Object.entries(view.differences[count] ?? {}).map(([pair, of]) => [
        `${pair}, ${count}`,
        ...["auroc", "ece", "brier"].map((metric) => value(of[metric])),
      ]),
    ),
  );

/** A chart as a file of its own: the page's variables become colours that read on light and dark paper. */
const inks = { ink: "#3a3f4a", soft: "#7b828e", rule: "#c9ccd2", paper: "#ffffff" };
const palette = ["#0b7f93", "#b8522a", "#74629f", "#8a8f3a", "#a8324f", "#5d636e"];
function chart(name, lines, across, metric) {
  const drawn = lines.filter(({ points }) => points.length > 1);
  if (drawn.length === 0) return "";
  const coloured = drawn.map((line, i) => ({ ...line, colour: palette[i % palette.length] }));
  const alt = coloured.map(
    ({ row, points }) => `${rowLabel(row)}: ${points.map(([x, y]) => `${y.toFixed(3)} at ${x}`).join(", ")}`,
  );
  const width = 480;
  const height = 350 + 20 * coloured.length;
  const legend = coloured.map(
    ({ row, colour }, i) =>
      `<rect x="78" y="${358 + 20 * i}" width="22" height="4" rx="2" fill="${colour}"/><text x="108" y="${364 + 20 * i}" font-size="13" fill="${inks.soft}">${rowLabel(row)}</text>`,
  );
  const svg = linesChart(coloured, across, metric, alt.join("; "))
    .replace(/viewBox="[^"]*"/, `viewBox="0 0 ${width} ${height}" font-family="sans-serif"`)
    .replace("</svg>", `${legend.join("")}</svg>`)
    .replaceAll(/var\(--(\w+)\)/g, (_, ink) => inks[ink] ?? inks.soft);
  const file = `elical-sets-${name}.svg`;
  writeFileSync(join(values.out, file), `${svg}\n`);
  return `![${alt.join("; ")}](${file})`;
}

const sweep = (metric, rows) =>
  rows.map((row) => ({
    row,
    points: counts.flatMap((count) => {
      const own = ofCount(summary, count)[row]?.[metric];
      return own?.value == null ? [] : [[count, own.value]];
    }),
  }));
const byDepth = (metric) =>
  ["probe-answer", "probe-question", "head-linear", "head-mlp", "lora-question"].map((row) => ({
    row,
    points: Object.entries(summary.layers[row] ?? {})
      .map(([depth, own]) => [Number(depth), own[metric].value])
      .filter(([, y]) => y !== null)
      .sort(([a], [b]) => a - b),
  }));

/** Within a set, so that nothing is gained by telling sets apart: the mean over sets. */
const within = (metric, rows) =>
  rows.map((row) => {
    const mean = (of) => sets.reduce((sum, set) => sum + of(summary.sets[set]).value, 0) / sets.length;
    return {
      row,
      points: [
        ["a set that was learnt from", mean((set) => set.metrics[row][metric])],
        ["a set that was not", mean((set) => set.transfer[main][row][metric])],
      ],
    };
  });

mkdirSync(values.out, { recursive: true });
const compared = [
  "probe-answer",
  "probe-answer-calibration-only",
  "lora-question",
  "lora-question-calibration-only",
  "self-consistency-platt",
  "thermometer",
];
const transferred = compared.filter((row) => summary.transfer[main]?.[row]);
const seconds = Object.values(summary.stages).reduce((sum, stage) => sum + stage.seconds, 0);
const page = [
  `${summary.model.name} (SHA-256 ${summary.model.sha256.slice(0, 12)}...), ${summary.engine.isa}, ${summary.engine.dtype}. ${summary.questions.total} questions, ${summary.questions.train} to learn from and ${summary.questions.test} tested; ${(100 * summary.questions.accuracy).toFixed(1)} % of the answers are right (${sets.map((set) => `${set} ${(100 * summary.questions.sets[set].accuracy).toFixed(1)} %`).join(", ")}). Stages took ${Math.round(seconds / 60)} min in all.`,
  "## All rows",
  everything(),
  "## Number of labels",
  `${chart("labels-auroc", sweep("auroc", compared), "labelled questions", "AUROC")}\n${chart("labels-brier", sweep("brier", compared), "labelled questions", "Brier")}`,
  `## Each set, ${main} labels: AUROC`,
  bySet("auroc"),
  `## Each set, ${main} labels: Brier`,
  bySet("brier"),
  `## A set that was never learnt from, ${main} labels: AUROC`,
  ...(transferred.length > 0
    ? [chart("transfer-auroc", within("auroc", transferred), `mean of ${sets.length} sets`, "AUROC")]
    : []),
  transfer("auroc"),
  `## A set that was never learnt from, ${main} labels: Brier`,
  transfer("brier"),
  `## Depth, ${main} labels: AUROC, Brier`,
  `${chart("depth-auroc", byDepth("auroc"), "blocks before the state that is read", "AUROC")}\n${chart("depth-brier", byDepth("brier"), "blocks before the state that is read", "Brier")}`,
  depths(),
  "## Paired differences",
  differences(summary),
  ...sets.flatMap((set) => [`### ${set}`, differences(summary.sets[set], [main])]),
  "## What the rows that ask again did",
  `\`\`\`json\n${JSON.stringify(summary.asking, null, 1)}\n\`\`\``,
];
writeFileSync(
  join(values.out, "elical-sets-tables.md"),
  `# EliCal on three sets: tables\n\nWritten by bench/elical/sets.mjs from a run's summary.json; what they say is in elical-sets.md.\n\n${page.join("\n\n")}\n`,
);
console.log(`tables: ${join(values.out, "elical-sets-tables.md")}`);
