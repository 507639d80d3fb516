/** What a reinforcement training went through: curves over its iterations, the confidences it stated, its alarms. */
import { join, legend as keys, text } from "./markup.js";
import {
  type Curve,
  curveChart,
  keyOf,
  type Points,
  rightDashes,
  runStyle,
  shadeSteps,
  shortNumber,
  shortPercent,
  stripChart,
  windowOf,
} from "./training-charts.js";
import { count, duration, percent } from "./words.js";

/** One iteration: sampled, scored, learnt from. */
export interface TrainingLine {
  /** From 1. */
  iteration: number;
  /**
   * By the names that `trainPpo` writes: `reward`, `klOfCompletion` (nats), `entropy` (nats a token), `clipFraction`,
   * `confidence` (mean of those stated), `unstated` (share), `correct` (share, also as a part of a named reward). What is
   * not there, or not finite, is not drawn.
   */
  values: Readonly<Record<string, number>>;
  /** How many stated confidences lie in each bin of equal width over 0 to 1, a bin's upper edge within it. */
  confidences?: readonly number[];
  /** Seconds: `rolloutSeconds`, `scoringSeconds`, `updateSeconds`. */
  measured?: Readonly<Record<string, number>>;
}

/** A training, done or not. */
export interface TrainingRun {
  /** What tells it from the others. */
  name: string;
  lines: readonly TrainingLine[];
  /** How many iterations it was to take; absent: as many as there are. */
  iterations?: number;
  /** Sentences of what went wrong, in order. */
  alarms: readonly string[];
}

/** What the divergence from the reference is held to, in nats of a whole completion. */
export interface KlMarks {
  /** It must stay under this. */
  limit?: number;
  /** The controller aims at this. */
  target?: number;
}

/** A named number of each iteration that has it. */
export function seriesOf({ lines }: Pick<TrainingRun, "lines">, name: string): Points {
  return lines.flatMap(({ iteration, values }) => {
    const value = values[name];
    return value !== undefined && Number.isFinite(value) ? [[iteration, value] as const] : [];
  });
}

/** How often answers were right: `correct` itself, or that part of a named reward. */
function rightOf(run: Pick<TrainingRun, "lines">): Points {
  const names = new Set(run.lines.flatMap(({ values }) => Object.keys(values)));
  const name = names.has("correct") ? "correct" : [...names].find((one) => one.endsWith(".correct"));
  return name === undefined ? [] : seriesOf(run, name);
}

const mean = (points: Points): number => points.reduce((sum, [, y]) => sum + y, 0) / points.length;

/** Means at both ends of a series, over a tenth of it or ten iterations, whichever is less; null where it is too short. */
export function endsOf(points: Points): { first: number; last: number; over: number } | null {
  if (points.length < 2) return null;
  const over = Math.max(1, Math.min(10, Math.floor(points.length / 10)));
  return { first: mean(points.slice(0, over)), last: mean(points.slice(-over)), over };
}

const curves: readonly { name: string; title: string; metric: string; fromZero?: boolean; share?: boolean }[] = [
  { name: "reward", title: "Reward", metric: "mean reward" },
  {
    name: "klOfCompletion",
    title: "Divergence from where it began",
    metric: "KL, nats a completion",
    fromZero: true,
  },
  { name: "entropy", title: "Entropy", metric: "nats a token", fromZero: true },
  { name: "clipFraction", title: "Clipped ratios", metric: "of the tokens", fromZero: true, share: true },
];

/** A limit that lies so many times above the curve would flatten it: it is said in words. */
const farAbove = 3;

function curveFigure(
  { name, title, metric, fromZero, share = false }: (typeof curves)[number],
  runs: readonly TrainingRun[],
  kl: KlMarks,
): string {
  const drawn = runs
    .map((run, i) => ({ run, style: runStyle(i), points: seriesOf(run, name) }))
    .filter(({ points }) => points.length > 0);
  if (drawn.length === 0) return "";
  const marks = name === "klOfCompletion" ? klMarks(kl) : [];
  const most = Math.max(...drawn.flatMap(({ points }) => points.map(([, y]) => y)));
  const near = marks.filter(({ at }) => at <= most * farAbove);
  const far = marks.filter((mark) => !near.includes(mark));
  const said = drawn.map(({ run, points }) => {
    const ends = endsOf(points);
    const who = runs.length > 1 ? `${run.name}: ` : "";
    const shown = share ? shortPercent : shortNumber;
    return ends ? `${who}${shown(ends.first)} at first, ${shown(ends.last)} at last` : `${who}${shown(points[0]![1])}`;
  });
  const curve: Curve = { metric, runs: drawn, marks: near, fromZero, share };
  const notes = [
    ...(name === "klOfCompletion" ? [greatest(drawn.map(({ run, points }) => ({ run: run.name, points })))] : []),
    ...far.map(({ label }) => `Far above what is drawn: ${label}.`),
  ];
  const alt = [
    `${title} over iterations: ${metric}. ${said.join("; ")}.`,
    ...near.map(({ label }) => `A line marks the ${label}.`),
    ...notes,
  ];
  return `<figure><h3>${title}</h3>${curveChart(curve, alt.join(" "))}${notes.length ? `<p class="note">${text(notes.join(" "))}</p>` : ""}</figure>`;
}

/** The most that any iteration comes to. */
function greatest(series: readonly { run: string; points: Points }[]): string {
  const all = series.flatMap(({ run, points }) => points.map(([iteration, value]) => ({ run, iteration, value })));
  const most = all.reduce((best, one) => (one.value > best.value ? one : best));
  const where = `${series.length > 1 ? `${most.run}, ` : ""}iteration ${count(most.iteration)}`;
  return `At most ${shortNumber(most.value)} nats (${where}).`;
}

function klMarks({ limit, target }: KlMarks): { at: number; label: string }[] {
  const marks: { at: number; label: string }[] = [];
  if (limit !== undefined) marks.push({ at: limit, label: `limit, ${shortNumber(limit)} nats` });
  if (target !== undefined && target !== limit)
    marks.push({ at: target, label: `controller's target, ${shortNumber(target)} nats` });
  return marks;
}

/** Reward, divergence, entropy and clipping, iteration by iteration. */
export function curveSection(runs: readonly TrainingRun[], kl: KlMarks): string {
  const longest = Math.max(...runs.map(({ lines }) => lines.length));
  const figures = curves.map((curve) => curveFigure(curve, runs, kl)).filter(Boolean);
  if (figures.length === 0) return "";
  const window = windowOf(longest);
  const how =
    window === 1
      ? "Each iteration as it was."
      : `Thin lines are each iteration as it was, thick ones the mean of ${runs.length > 1 ? "about " : ""}${window} around it.`;
  const legend =
    runs.length > 1
      ? keys(runs.map(({ name }, i): [string, string, string] => [keyOf(runStyle(i)), name, "line"]))
      : "";
  return `<section><h2>How the training went</h2>
<p>${how} ${text(extent(runs))}${runs.some((run) => seriesOf(run, "klOfCompletion").length) ? "" : " There was no reference, so that the divergence from where it began is not known."}</p>
${legend}
<div class="pair">${join(figures)}</div></section>`;
}

/** How many iterations there were, of how many, and what they spent their time on. */
function extent(runs: readonly TrainingRun[]): string {
  const said = runs.map(({ name, lines, iterations = lines.length }) => {
    const who = runs.length > 1 ? `${name}: ` : "";
    const done = `${count(lines.length)}${lines.length < iterations ? ` of ${count(iterations)}` : ""} iterations`;
    const spent = (phase: string) => lines.reduce((sum, { measured }) => sum + (measured?.[phase] ?? 0), 0);
    const phases = [
      ["sampling and rewards", spent("rolloutSeconds")],
      ["scoring", spent("scoringSeconds")],
      ["learning", spent("updateSeconds")],
    ] as const;
    const all = phases.reduce((sum, [, seconds]) => sum + seconds, 0);
    if (all === 0) return `${who}${done}.`;
    return `${who}${done} in ${duration(all)}: ${phases.map(([phase, seconds]) => `${phase} ${percent(seconds / all)}`).join(", ")}.`;
  });
  return said.join(" ");
}

type Counts = { iteration: number; counts: readonly number[] }[];

/** Iterations with their counts; those in which no confidence was stated have none in any bin. */
function countsOf({ lines }: TrainingRun): Counts {
  const bins = lines.find(({ confidences }) => confidences)?.confidences?.length;
  if (bins === undefined) return [];
  return lines.map(({ iteration, confidences }) => ({ iteration, counts: confidences ?? Array<number>(bins).fill(0) }));
}

/** Upper edge of the bin in which so great a share of the counts is reached; null where nothing is counted. */
export function countedQuantile(counts: readonly number[], share: number): number | null {
  const all = counts.reduce((sum, n) => sum + n, 0);
  if (all === 0) return null;
  let below = 0;
  for (const [bin, n] of counts.entries()) {
    below += n;
    if (below >= share * all) return (bin + 1) / counts.length;
  }
  return 1;
}

/** The confidences stated in each iteration, drawn and in numbers. */
export function confidenceSection(runs: readonly TrainingRun[]): string {
  const told = runs.map((run) => ({ run, counts: countsOf(run) })).filter(({ counts }) => counts.length > 0);
  if (told.length === 0) return "";
  const opaque = (opacity: number) => `color-mix(in srgb,var(--after) ${100 * opacity}%,transparent)`;
  const shades = shadeSteps.map(({ from, opacity }, i): [string, string, string] => {
    const next = shadeSteps[i + 1];
    const label =
      i === 0 ? `under ${percent(next!.from)}` : next ? `from ${percent(from)}` : `${percent(from)} and more`;
    return [opaque(opacity), label, "square"];
  });
  const panels = told.map(({ run, counts }) => {
    const stated = seriesOf(run, "confidence");
    const right = rightOf(run);
    const title = told.length > 1 ? `<h3>${text(run.name)}</h3>` : "";
    return `<figure>${title}${stripChart({ counts, stated, right }, stripWords(run, counts, stated, right))}</figure>
<figure>${title ? `<h3>${text(run.name)}, in numbers</h3>` : ""}${quantileTable(run, counts, right)}</figure>`;
  });
  return `<section><h2>What confidences it stated</h2>
<p>A column is an iteration, or some neighbouring ones; the stronger a cell's colour, the more of their stated confidences lie there. The solid line is
their mean, the dashed one how often the answers were right: where the two meet, the confidence is honest on average.</p>
${keys([...shades, [ink("solid"), "mean stated", "line"], [ink("dashed"), "right answers", "line"]])}
<div class="pair">${join(panels)}</div></section>`;
}

const ink = (kind: "solid" | "dashed"): string =>
  keyOf({ colour: "var(--ink)", ...(kind === "dashed" ? { dashes: rightDashes } : {}) });

/** Iterations to tell in numbers: the first, the last, and some between. */
function toldOf(counts: Counts): number[] {
  const shown = Math.min(5, counts.length);
  if (shown < 2) return [0];
  return Array.from({ length: shown }, (_, i) => Math.round((i * (counts.length - 1)) / (shown - 1)));
}

const share = (value: number | null | undefined): string =>
  value === null || value === undefined || !Number.isFinite(value) ? "\u2013" : percent(value);

function quantileTable(run: TrainingRun, counts: Counts, right: Points): string {
  const rights = new Map(right);
  const unstated = run.lines.some(({ values }) => values.unstated !== undefined);
  const rows = toldOf(counts).map((i) => {
    const { iteration, counts: own } = counts[i]!;
    const { confidence, unstated: none } = run.lines[i]!.values;
    const quantiles = [0.1, 0.5, 0.9].map((q) => `<td>${share(countedQuantile(own, q))}</td>`).join("");
    return `<tr><td>${iteration}</td>${quantiles}<td>${share(confidence)}</td><td>${share(rights.get(iteration))}</td>${unstated ? `<td>${share(none)}</td>` : ""}</tr>`;
  });
  return `<div class="scroll" tabindex="0" role="region" aria-label="Stated confidences of some iterations"><table><thead><tr><th scope="col">iteration</th>
<th scope="col">10 %</th><th scope="col">50 %</th><th scope="col">90 %</th><th scope="col">mean stated</th><th scope="col">right</th>${unstated ? '<th scope="col">state none</th>' : ""}</tr></thead>
<tbody>${join(rows)}</tbody></table></div>
<p class="note">10, 50 and 90 % of the confidences that an iteration states are at most this, to the edges of bins ${percent(1 / counts[0]!.counts.length)} wide.</p>`;
}

function stripWords(run: TrainingRun, counts: Counts, stated: Points, right: Points): string {
  const parts = [counts[0]!, counts.at(-1)!].map(({ iteration, counts: own }) => {
    const [low, middle, high] = [0.1, 0.5, 0.9].map((q) => countedQuantile(own, q));
    return middle === null
      ? `In iteration ${iteration} none was stated.`
      : `In iteration ${iteration} half of them are at most ${share(middle)}, a tenth at most ${share(low)}, a tenth above ${share(high)}.`;
  });
  const both = [
    ["stated on average", endsOf(stated)],
    ["right", endsOf(right)],
  ] as const;
  const ends = both.flatMap(([what, one]) =>
    one ? [`${what}: ${percent(one.first)} at first, ${percent(one.last)} at last`] : [],
  );
  return [`Stated confidences of ${run.name} over iterations.`, ...parts, ends.length ? `${ends.join("; ")}.` : ""]
    .filter(Boolean)
    .join(" ");
}

/** What went wrong while it trained, or that nothing did. */
export function alarmSection(runs: readonly TrainingRun[]): string {
  const all = runs.flatMap(({ name, alarms }) =>
    alarms.map((alarm) => (runs.length > 1 ? `${name}, ${alarm}` : alarm)),
  );
  const watched =
    "Watched at every iteration: ratios, divergence, clipping, falling reward, completions that state no confidence, collapsing entropy, gradients, numbers that are not finite.";
  if (all.length === 0)
    return `<section><h2>Alarms</h2><p>There were none.</p><p class="note">${watched}</p></section>`;
  const items = all.map((alarm) => `<li class="worse"><span>${text(alarm)}</span></li>`);
  return `<section><h2>Alarms</h2><p class="note">${watched}</p><ul class="findings one">${join(items)}</ul></section>`;
}
