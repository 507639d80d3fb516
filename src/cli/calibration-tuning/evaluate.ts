/** Answers, verdicts and P(correct) of validation and test, and how good it is, as evaluate.py has them. */
import { join } from "node:path";
import type { Argv } from "yargs";
import { calibrationRows } from "../../methods/calibration-tuning/compat.js";
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
  logFolder,
} from "./places.js";

const scales = ["None", "logits", "query", "probe"] as const;

export const script: PublishedScript = {
  name: "evaluate",
  honoured: {
    ...datasetFlags,
    "eval-kshot": {
      type: "number",
      describe: "Few-shot examples before each question",
      defaultDescription: "5 for MMLU and MMLU-Pro, 8 for GSM8K, else 0",
    },
    "model-name": {
      type: "string",
      requiresArg: true,
      describe: "The base: a folder, a .gguf file, a hub id, or a published kind such as llama2:7b-chat",
    },
    "peft-dir": { type: "string", requiresArg: true, describe: "The adapter that answers; without one the base does" },
    "query-peft-dir": {
      type: "string",
      requiresArg: true,
      describe: "The adapter that is asked, in any layout; without one the base is (the zero-shot classifier)",
    },
    "scale-temp": {
      choices: scales,
      default: "None" as const,
      describe:
        "Whose temperature divides the logits: of the query or the head (probe) in --query-peft-dir, of letters in --peft-dir",
    },
    "with-classifier": {
      type: "boolean",
      default: false,
      describe: "Read classifier_model.bin of --query-peft-dir, for the modes class and class_choice",
    },
    mode: {
      type: "string",
      requiresArg: true,
      describe: "query, query_choice, class, class_choice, us_oe (also us_oe_<strategy>) or verbal",
    },
  },
  unneeded: { ...cacheUnneeded, ...batchUnneeded },
  dead: { "embedding-model-name": "embed writes embeddings, and a trained probe reads them" },
  rows: calibrationRows,
};

export const command = "evaluate";
export const describe = "How good P(correct) is on validation and test: metrics, tables and the numbers behind them";
export const builder = (line: Argv) =>
  line.options({
    ...publishedOptions(script),
    strategy: {
      type: "string",
      requiresArg: true,
      describe: "Who judges answers without labels: substring, or fuzzy_<model>, here or with --url on a server",
      defaultDescription: "substring for letters",
    },
    ...serverOptions,
    ...engineOptions,
  });

interface EvaluateArguments extends DatasetArguments, ServerArguments, EngineArguments {
  evalKshot?: number;
  modelName?: string;
  peftDir?: string;
  queryPeftDir?: string;
  scaleTemp: (typeof scales)[number];
  withClassifier: boolean;
  mode?: string;
  strategy?: string;
}

export async function handler(args: EvaluateArguments): Promise<void> {
  const notNeeded = publishedUnneeded(script, args);
  const id = datasetOf(args);
  if (args.mode === undefined) throw new UsageError("which mode? Give --mode, e.g. query");
  const { baseOfTuned, checkpointOf, openTuned, temperatureIn } = await import(
    "../../methods/calibration-tuning/adapters.js"
  );
  const { readClassifier } = await import("../../methods/calibration-tuning/released-head.js");
  const { idsOf, openDataset } = await import("../../methods/calibration-tuning/datasets.js");
  const { evaluateSplit, modeOf, writeEvaluation } = await import("../../methods/calibration-tuning/evaluation.js");
  const { modelOfKind } = await import("../../methods/calibration-tuning/kinds.js");
  const { strategyOf } = await import("../../methods/calibration-tuning/labels.js");
  const { isDone } = await import("../../methods/passes.js");
  const { readJson, writeJsonAtomic } = await import("../../files.js");
  const { Model } = await import("../../policy/model.js");
  const { progressOn, silent } = await import("../../tracking/progress.js");
  const { tableText, writeTables } = await import("./tables.js");
  const sampling = /^us_oe_(.+)$/.exec(args.mode)?.[1];
  const mode = modeOf(sampling === undefined ? args.mode : "us_oe");
  const classes = mode === "class" || mode === "class_choice";
  if (classes !== args.withClassifier)
    throw new UsageError(
      classes
        ? `--mode ${args.mode} reads a head: give --with-classifier`
        : "--with-classifier is of the modes class and class_choice",
    );
  const { queryPeftDir, peftDir } = args;
  if (classes && queryPeftDir === undefined)
    throw new UsageError("--with-classifier: whose head? Give --query-peft-dir");
  const base = args.modelName ?? (queryPeftDir === undefined ? undefined : baseOfTuned(queryPeftDir));
  if (base === undefined) throw new UsageError("which model? Give --model-name");
  const strategy = sampling ?? args.strategy ?? (mode.endsWith("choice") ? "substring" : undefined);
  const kshot = args.compat.has("A9-3") ? undefined : args.evalKshot;
  const style = args.promptStyle ?? (mode.endsWith("choice") ? "choice" : "oe");
  const options = { ...datasetOptions(args), style, ...(kshot === undefined ? {} : { kshot }) };
  const folder = logFolder(args);
  const { ids, missing } = idsOf(id, options);
  if (missing.length > 0) note(`${id}: ${missing.length} of its parts are not there: ${missing.join(", ")}`, "warn");
  const progress = logs("info") ? progressOn() : silent;
  await interruptible(async (signal) => {
    await using model = await Model.load(modelOfKind(base), { ...baseOptions(args), note, signal });
    const answers = args.answers ?? join(folder, "judge.answers");
    await using grader =
      strategy === undefined
        ? undefined
        : await openGrader(strategyOf(strategy), { ...args, answers, engine: baseOptions(args), signal });
    // A probe may stand beside no adapter at all: the base's states are read then.
    const headAlone = classes && !(await hasAdapter(checkpointOf(queryPeftDir!)));
    const tuned = await openTuned(model, headAlone ? undefined : queryPeftDir);
    const answering = (await openTuned(model, peftDir)).policy;
    if (tuned.dropped.matrices > 0)
      note(
        `${queryPeftDir}: ${tuned.dropped.matrices} matrices of the base, the same as ${model.name}'s, are left out`,
      );
    const classifier = classes ? readClassifier(checkpointOf(queryPeftDir!)) : undefined;
    const scale = args.scaleTemp;
    const letters = scale === "logits" && peftDir !== undefined ? temperatureIn(checkpointOf(peftDir), "logits") : null;
    if (scale === "logits" && letters === null)
      throw new UsageError("--scale-temp logits: --peft-dir has no temperature_head.bin");
    const temperature = scale === "query" ? tuned.temperature : scale === "probe" ? (classifier?.temperature ?? 1) : 1;
    const rows: import("../../methods/calibration-tuning/metrics.js").MetricRow[] = [];
    for (const one of ids) {
      const { splits } = await openDataset(one, options);
      for (const split of ["validation", "test"] as const) {
        const found = splits[split];
        if (!found) continue;
        const place = join(folder, "metrics", one.replaceAll("/", "_"), split);
        const output = join(place, "metrics.json");
        const made = {
          mode: args.mode,
          model: base,
          peftDir,
          queryPeftDir,
          scale,
          strategy,
          kshot,
          style,
          compat: [...args.compat],
        };
        const context = { output, progress, label: `${one} ${split}`, notNeeded, signal };
        if (!isDone(context, made)) {
          const from = performance.now();
          const evaluation = await evaluateSplit(found, {
            mode,
            answering,
            asked: tuned.policy,
            temperature,
            ...(letters === null ? {} : { letterTemperature: letters }),
            ...(classifier ? { classifier } : {}),
            ...(grader ? { judge: grader.judge } : {}),
            compat: args.compat,
            progress,
            signal,
          });
          if (evaluation.unread > 0)
            note(`${one} ${split}: ${evaluation.unread} replies are no verdict; those rows are left out`, "warn");
          if (evaluation.unparsed > 0)
            note(`${one} ${split}: ${evaluation.unparsed} probabilities cannot be read, taken as 0.5`, "warn");
          writeEvaluation(place, evaluation);
          const ts = (performance.now() - from) / 1000;
          writeJsonAtomic(output, { ...evaluation.metrics, dataset: one, split, ts });
        }
        rows.push(readJson(output) as (typeof rows)[number]);
      }
    }
    if (rows.length === 0) throw new UsageError(`${id}: has neither validation nor test to evaluate on`);
    const tables = writeTables(folder, rows);
    if (grader?.server) note(usageLine(grader.server.usage));
    if (args.json) printJson({ dataset: id, mode, rows, aggregated: tables.aggregated });
    else print(tableText(rows.length > 6 ? tables.aggregated : rows));
    note(`written: ${tables.paths.join(", ")}`);
  });
}

async function hasAdapter(folder: string): Promise<boolean> {
  const { existsSync } = await import("node:fs");
  return existsSync(join(folder, "adapter_config.json"));
}
