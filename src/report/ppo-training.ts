/** The report of a folder of `trainPpo` by itself: from its metrics and its newest checkpoint, done or not. */
import { existsSync } from "node:fs";
import { basename, join, resolve } from "node:path";
import { readJson } from "../files.js";
import { cardName, readCard } from "../model/card.js";
import { alarmThresholds } from "../rewards/alarms.js";
import { type CheckpointState, checkpoints } from "../training/checkpoint.js";
import { readPpoLines } from "../training/ppo/lines.js";
import { ppoAlarms } from "../training/ppo/watch.js";
import { version } from "../version.js";
import { settingLines } from "./page.js";
import { reinforcementReport } from "./reinforcement.js";
import { endsOf, seriesOf, type TrainingRun } from "./training.js";
import { count } from "./words.js";

/**
 * A training as reports draw it.
 *
 * @param iterations how many it was to take
 * @throws CredenceError "FILE_NOT_FOUND" where nothing was trained there, "BAD_INPUT" for a line that is damaged
 */
export function readTrainingRun(directory: string, name: string, iterations?: number): TrainingRun {
  return {
    name,
    lines: [...readPpoLines(directory)],
    alarms: ppoAlarms(directory).map(({ message }) => message),
    ...(iterations === undefined ? {} : { iterations }),
  };
}

/** The settings of the newest checkpoint; none before the first. */
function settingsOf(checkpoint: string | undefined): Record<string, unknown> {
  if (checkpoint === undefined) return {};
  const { settings = {} } = readJson(join(checkpoint, "state.json")) as CheckpointState;
  // A training writes each of its settings as JSON.
  return Object.fromEntries(Object.entries(settings).map(([name, value]) => [name, JSON.parse(String(value))]));
}

/** Where the divergence's controller aims, if it does. */
function targetOf(settings: Record<string, unknown>): { target?: number } {
  const { controller, target } = (settings.kl ?? {}) as { controller?: string; target?: number };
  return controller === "adaptive" && target !== undefined ? { target } : {};
}

/** report.html of a `trainPpo` folder, and the training it shows. */
export function ppoTrainingReport(directory: string): { html: string; run: TrainingRun } {
  const checkpoint = checkpoints(directory).at(-1);
  const settings = settingsOf(checkpoint);
  const name = basename(resolve(directory));
  const run = readTrainingRun(directory, name, settings.iterations as number | undefined);
  const base = checkpoint && existsSync(join(checkpoint, cardName)) ? readCard(checkpoint).base : undefined;
  const html = reinforcementReport({
    ...(base ? { model: base.name.split("/").at(-1)! } : {}),
    subject: name,
    trainings: [run],
    kl: { limit: alarmThresholds.klMost, ...targetOf(settings) },
    ran: [
      ...(base ? [["model", `${base.name}, ${base.architecture}, ${base.storageType}`] as const] : []),
      ["iterations", count(run.lines.length)],
      ["checkpoint", checkpoint ? basename(checkpoint) : "none yet"],
      ["version", `credence ${version}`],
    ],
    settings: settingLines(settings),
    stages: [],
    notes: ["The divergence's limit is that of its alarm."],
  });
  return { html, run };
}

const columns: readonly [name: string, title: string][] = [
  ["reward", "reward"],
  ["klOfCompletion", "KL, nats"],
  ["entropy", "entropy, nats"],
  ["clipFraction", "clipped"],
  ["confidence", "mean stated"],
  ["unstated", "state none"],
];

/** What a terminal shows of a training: its numbers at both ends, and its alarms. */
export function trainingText(run: TrainingRun): string {
  const done = `${count(run.lines.length)}${run.iterations && run.lines.length < run.iterations ? ` of ${count(run.iterations)}` : ""} iterations`;
  const rows = columns.flatMap(([name, title]) => {
    const ends = endsOf(seriesOf(run, name));
    return ends ? [{ title, ...ends }] : [];
  });
  const width = Math.max(0, ...rows.map(({ title }) => title.length));
  const cells = (title: string, first: string, last: string) =>
    `${title.padEnd(width)}  ${first.padStart(10)}  ${last.padStart(10)}`;
  return [
    `${run.name}: ${done}`,
    ...(rows.length ? ["", cells("", "at first", "at last")] : []),
    ...rows.map(({ title, first, last }) => cells(title, first.toFixed(4), last.toFixed(4))),
    "",
    ...(run.alarms.length ? run.alarms.map((alarm) => `Alarm: ${alarm}`) : ["No alarms."]),
  ].join("\n");
}
