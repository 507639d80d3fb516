/** Whether answers are right, or say the same as others, as generate.py labels has it judged. */
import { createHash } from "node:crypto";
import { join } from "node:path";
import type { Argv } from "yargs";
import { CredenceError } from "../../errors.js";
import { calibrationRows } from "../../methods/calibration-tuning/compat.js";
import type { GradingItem } from "../../methods/calibration-tuning/labels.js";
import { interruptible } from "../interrupt.js";
import { type ServerArguments, serverOptions, usageLine } from "../judge.js";
import { baseOptions, type EngineArguments, engineOptions } from "../options.js";
import { logs, note, print, printJson, UsageError } from "../output.js";
import { type PublishedScript, publishedOptions, publishedUnneeded } from "../published.js";
import { openGrader } from "./grading.js";
import {
  batchUnneeded,
  cacheUnneeded,
  type DatasetArguments,
  datasetFlags,
  datasetOf,
  datasetOptions,
  kshotFlag,
  logFolder,
} from "./places.js";

export const script: PublishedScript = {
  name: "label",
  honoured: {
    ...datasetFlags,
    kshot: { ...kshotFlag.kshot, describe: "0: examples before the questions are left out; else they stay" },
    strategy: {
      type: "string",
      requiresArg: true,
      describe: "substring, or fuzzy_<model>: a judge, here or with --url on a server",
    },
  },
  unneeded: {
    ...cacheUnneeded,
    ...batchUnneeded,
    "model-name": { type: "string", why: "the strategy names the judge, and nothing is generated" },
  },
  dead: {},
  rows: calibrationRows,
};

export const command = "label";
export const describe = "Whether the answers that generate wrote are right: by letters, a model here, or a server's";
export const builder = (line: Argv) =>
  line.options({
    ...publishedOptions(script),
    against: {
      type: "string",
      requiresArg: true,
      describe:
        "Another answered set of the same rows: instead of whether an answer is right, whether both say the same",
    },
    ...serverOptions,
    ...engineOptions,
  });

interface LabelArguments extends DatasetArguments, ServerArguments, EngineArguments {
  strategy?: string;
  against?: string;
}

export async function handler(args: LabelArguments): Promise<void> {
  const notNeeded = publishedUnneeded(script, args);
  const id = datasetOf(args);
  if (args.strategy === undefined) throw new UsageError("who judges? Give --strategy substring, or fuzzy_<model>");
  const { openDataset, answeredRows } = await import("../../methods/calibration-tuning/datasets.js");
  const { grades, strategyOf } = await import("../../methods/calibration-tuning/labels.js");
  const { writeOffline } = await import("../../methods/calibration-tuning/offline.js");
  const { isDone } = await import("../../methods/passes.js");
  const { progressOn, silent } = await import("../../tracking/progress.js");
  const strategy = strategyOf(args.strategy);
  const folder = logFolder(args);
  const options = datasetOptions(args);
  const { splits } = await openDataset(id, options);
  const others = args.against === undefined ? undefined : await openDataset(args.against, options);
  const progress = logs("info") ? progressOn() : silent;
  await interruptible(async (signal) => {
    const answers = args.answers ?? join(folder, "judge.answers");
    await using grader = await openGrader(strategy, { ...args, answers, engine: baseOptions(args), signal });
    const written: { split: string; rows: number; right: number; unread: number; output: string }[] = [];
    for (const [split, found] of Object.entries(splits)) {
      const rows = answeredRows(found, id);
      const items = rows.map((row): GradingItem => ({ ...row, answer: row.output }));
      const other = others?.splits[split as keyof typeof splits];
      if (others) {
        if (other?.length !== rows.length)
          throw new CredenceError(
            "BAD_INPUT",
            `--against ${args.against}: has ${other?.length ?? "no"} rows of ${split}, ${id} ${rows.length}; expected answers to the same questions`,
          );
        for (const [i, row] of answeredRows(other, args.against!).entries()) items[i]!.other = row.output;
      }
      const output = join(folder, "labels", split, "0.csv");
      const context = { output, progress, label: `judging ${split}`, notNeeded, signal };
      const made = { strategy: args.strategy, compat: [...args.compat], input: digest(items) };
      if (isDone(context, made)) {
        note(`${output}: is there, labelled so`);
        continue;
      }
      const task = progress.task(context.label, rows.length, "answers");
      const { labels, unread } = await grades(items, grader.judge, {
        signal,
        onJudged: () => task.advance(1),
      }).finally(() => task.end());
      const labelled = rows.map((row, i) => ({ ...row, label: labels[i]! }));
      writeOffline(join(folder, "labels"), split as "train", "0", labelled, { examples: (args.kshot ?? 0) > 0 });
      if (unread > 0)
        note(`${split}: ${unread} of ${rows.length} replies are no verdict; those rows are labelled -1`, "warn");
      written.push({ split, rows: rows.length, right: labels.filter((label) => label === 1).length, unread, output });
    }
    if (grader.server) note(usageLine(grader.server.usage));
    if (args.json) printJson({ dataset: id, judge: grader.judge.name, splits: written });
    else
      for (const { split, rows, right, output } of written)
        print(`${split}: ${right} of ${rows} ${others ? "say the same" : "are right"}: ${output}`);
  });
}

const digest = (value: unknown): string => createHash("sha256").update(JSON.stringify(value)).digest("hex");
