/** How sure a model is of its answers to questions that have none, as ambiguous_generate.py asks. */
import type { Argv } from "yargs";
import { calibrationRows } from "../../methods/calibration-tuning/compat.js";
import { interruptible } from "../interrupt.js";
import { type ServerArguments, serverOptions, usageLine } from "../judge.js";
import { baseOptions, type EngineArguments, engineOptions, positiveInteger } from "../options.js";
import { logs, note, print, printJson, UsageError } from "../output.js";
import { type PublishedScript, publishedOptions, publishedUnneeded } from "../published.js";
import { openGrader } from "./grading.js";

export const script: PublishedScript = {
  name: "ambiguous",
  honoured: {
    "model-name": {
      type: "string",
      requiresArg: true,
      describe: "The base",
      defaultDescription: "what the adapter names",
    },
    "max-new-tokens": {
      type: "number",
      default: 100,
      describe: "Longest answer",
      coerce: positiveInteger("max-new-tokens"),
    },
    "output-path": { type: "string", requiresArg: true, describe: "The table of answers, a CSV file" },
    "use-temp": { type: "boolean", default: false, describe: "Divide the query's logits by the adapter's temperature" },
  },
  unneeded: {},
  dead: {},
  rows: calibrationRows,
};

export const command = "ambiguous";
export const describe =
  "How sure a model is, with its adapter and without, of answers to questions that have none (SelfAware)";
export const builder = (line: Argv) =>
  line.options({
    ...publishedOptions(script),
    "query-peft-dir": { type: "string", requiresArg: true, describe: "The adapter that is asked, in any layout" },
    questions: { type: "string", default: "SelfAware.json", requiresArg: true, describe: "The file of questions" },
    strategy: {
      type: "string",
      requiresArg: true,
      describe: "Who judges whether an answer says that there is none: fuzzy_<model>; without one nothing is judged",
    },
    ...serverOptions,
    ...engineOptions,
  });

interface AmbiguousArguments extends ServerArguments, EngineArguments {
  modelName?: string;
  maxNewTokens: number;
  outputPath?: string;
  useTemp: boolean;
  queryPeftDir?: string;
  questions: string;
  strategy?: string;
  compat: import("../../methods/calibration-tuning/compat.js").CalibrationCompat;
  json: boolean;
}

export async function handler(args: AmbiguousArguments): Promise<void> {
  publishedUnneeded(script, args);
  const { outputPath: output, queryPeftDir, maxNewTokens: maxTokens } = args;
  if (output === undefined) throw new UsageError("where do the answers go? Give --output-path");
  if (queryPeftDir === undefined) throw new UsageError("which adapter is asked? Give --query-peft-dir");
  const { baseOfTuned, openTuned } = await import("../../methods/calibration-tuning/adapters.js");
  const { modelOfKind } = await import("../../methods/calibration-tuning/kinds.js");
  const { strategyOf } = await import("../../methods/calibration-tuning/labels.js");
  const { askUnanswerable, unanswerable, writeSelfAware } = await import(
    "../../methods/calibration-tuning/self-aware.js"
  );
  const { Model } = await import("../../policy/model.js");
  const { progressOn, silent } = await import("../../tracking/progress.js");
  const base = args.modelName ?? baseOfTuned(queryPeftDir);
  if (base === undefined) throw new UsageError("which model? Give --model-name");
  const questions = unanswerable(args.questions);
  const progress = logs("info") ? progressOn() : silent;
  await interruptible(async (signal) => {
    await using model = await Model.load(modelOfKind(base), { ...baseOptions(args), note, signal });
    const answers = args.answers ?? `${output}.answers`;
    await using grader =
      args.strategy === undefined
        ? undefined
        : await openGrader(strategyOf(args.strategy), { ...args, answers, engine: baseOptions(args), signal });
    const { policy, temperature: found } = await openTuned(model, queryPeftDir);
    const options = { maxTokens, progress, signal, ...(grader ? { judge: grader.judge } : {}) };
    const plain = await askUnanswerable(policy, questions, { ...options, adapter: "off", temperature: 1 });
    const temperature = args.useTemp ? found : 1;
    const tuned = await askUnanswerable(policy, questions, { ...options, adapter: "on", temperature });
    writeSelfAware(output, plain, tuned);
    if (grader?.server) note(usageLine(grader.server.usage));
    const mean = (rows: typeof plain) => rows.reduce((sum, { p }) => sum + p, 0) / rows.length;
    const told = { questions: questions.length, base: mean(plain), tuned: mean(tuned), output };
    if (args.json) printJson(told);
    else
      print(
        `${told.questions} questions without an answer: ${told.base.toFixed(4)} sure in the mean without the adapter, ${told.tuned.toFixed(4)} with it: ${output}`,
      );
  });
}
