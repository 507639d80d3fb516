/** Questions to a calibration-tuned model, as play.py takes them: the base answers, the adapter says how likely that is right. */
import { createInterface } from "node:readline/promises";
import type { Argv } from "yargs";
import { calibrationRows } from "../../methods/calibration-tuning/compat.js";
import { answerLine } from "../ask.js";
import { interruptible } from "../interrupt.js";
import { baseOptions, type EngineArguments, engineOptions, positiveInteger } from "../options.js";
import { note, print, printJson, UsageError } from "../output.js";
import { type PublishedScript, publishedOptions, publishedUnneeded } from "../published.js";

export const script: PublishedScript = {
  name: "play",
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
    "use-query-only": { type: "boolean", default: false, describe: "Ask the base, without the adapter" },
    "use-temp": { type: "boolean", default: false, describe: "Divide the query's logits by the adapter's temperature" },
  },
  unneeded: {},
  dead: {},
  rows: calibrationRows,
};

export const command = "play [question]";
export const describe = "Ask a calibration-tuned model: it answers without its adapter, and is asked with it";
export const builder = (line: Argv) =>
  line
    .positional("question", { type: "string", describe: "The question; without one they are asked for, one a line" })
    .options({
      ...publishedOptions(script),
      "query-peft-dir": {
        type: "string",
        requiresArg: true,
        describe: "The adapter that is asked: of a run here, of PEFT, or as released",
      },
      save: {
        type: "string",
        requiresArg: true,
        describe: "Also write the adapter with its card, as credence ask --adapter reads it",
      },
      ...engineOptions,
    });

interface PlayArguments extends EngineArguments {
  question?: string;
  modelName?: string;
  maxNewTokens: number;
  useQueryOnly: boolean;
  useTemp: boolean;
  queryPeftDir?: string;
  save?: string;
  json: boolean;
}

export async function handler(args: PlayArguments): Promise<void> {
  publishedUnneeded(script, args);
  const { baseOfTuned, openTuned } = await import("../../methods/calibration-tuning/adapters.js");
  const { modelOfKind } = await import("../../methods/calibration-tuning/kinds.js");
  const { Model } = await import("../../policy/model.js");
  const { queryPeftDir, useQueryOnly, maxNewTokens } = args;
  if (queryPeftDir === undefined && !useQueryOnly)
    throw new UsageError("which adapter is asked? Give --query-peft-dir, or --use-query-only for the base");
  const base = args.modelName ?? (queryPeftDir === undefined ? undefined : baseOfTuned(queryPeftDir));
  if (base === undefined) throw new UsageError("which model? Give --model-name");
  await interruptible(async (signal) => {
    await using model = await Model.load(modelOfKind(base), { ...baseOptions(args), note, signal });
    const tuned = await openTuned(model, useQueryOnly ? undefined : queryPeftDir, {
      tempered: args.useTemp,
      newTokens: maxNewTokens,
    });
    const { matrices, doubled } = tuned.dropped;
    if (matrices + doubled > 0)
      note(
        `${queryPeftDir}: left out ${matrices} matrices of the base, the same as ${model.name}'s, and ${doubled} tensors in a second spelling`,
      );
    const { policy } = tuned;
    if (args.save !== undefined) {
      policy.save(args.save);
      note(`written: credence ask --adapter ${args.save}`);
    }
    const ask = async (question: string) => {
      const answer = await policy.answer(question, { maxNewTokens, signal });
      if (args.json) printJson({ question, ...answer });
      else print(answerLine(answer.text, answer.confidence));
    };
    if (args.question !== undefined) {
      await ask(args.question);
      return;
    }
    if (process.stdin.isTTY) note("ask away; an empty line ends it. Each question stands alone");
    const lines = createInterface({
      input: process.stdin,
      output: process.stderr,
      prompt: "> ",
      terminal: Boolean(process.stdin.isTTY),
    });
    signal.addEventListener("abort", () => lines.close());
    lines.prompt();
    for await (const line of lines) {
      if (!line.trim()) break;
      await ask(line.trim());
      lines.prompt();
    }
    lines.close();
  });
}
