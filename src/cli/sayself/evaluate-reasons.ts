/** How well a model's rationales explain its own disagreement, as evaluate_reason.py has it judged. */
import type { Argv } from "yargs";
import { type SaySelfCompat, saySelfRows } from "../../methods/sayself/compat.js";
import { interruptible } from "../interrupt.js";
import { openResponder, type ServerArguments, serverOptions, usageLine } from "../judge.js";
import { baseOptions, type EngineArguments, engineOptions, positiveInteger } from "../options.js";
import { logs, note, print, printJson } from "../output.js";
import { type PublishedScript, publishedOptions, publishedUnneeded } from "../published.js";
import { checkEmbedding, type EmbeddingArguments, embeddingOptions, openVectors } from "./embedding.js";

export const script: PublishedScript = {
  name: "evaluate-reasons",
  honoured: {
    data_path: {
      type: "string",
      demandOption: true,
      requiresArg: true,
      describe: "What generate-reasons wrote; beside it comes a file of its name with _eval_output2",
    },
  },
  unneeded: {},
  dead: {},
  rows: saySelfRows,
};

export const command = "evaluate-reasons";
export const describe =
  "A judge's score of how well the rationales explain the differences between a model's responses";
export const builder = (line: Argv) =>
  line.options({
    ...publishedOptions(script),
    "check-model": {
      type: "string",
      demandOption: true,
      requiresArg: true,
      describe: "The model that summarises and judges, here or with --url on a server",
    },
    limit: {
      type: "number",
      default: 100,
      describe: "Questions with a rationale that are judged, the first of the file",
      coerce: positiveInteger("limit"),
    },
    ...embeddingOptions,
    ...serverOptions,
    ...engineOptions,
  });

interface EvaluateArguments extends EmbeddingArguments, ServerArguments, EngineArguments {
  dataPath: string;
  checkModel: string;
  limit: number;
  compat: SaySelfCompat;
  json: boolean;
}

/** Longest reply of the model that summarises and judges, in tokens. */
const replyTokens = 256;

export async function handler(args: EvaluateArguments): Promise<void> {
  publishedUnneeded(script, args);
  checkEmbedding(args);
  const { readRecords, writeRecords } = await import("../../data/readers.js");
  const { evaluatedPath, evaluateReasons, reasonSchema } = await import("../../methods/sayself/reasons.js");
  const { progressOn, silent } = await import("../../tracking/progress.js");
  const progress = logs("info") ? progressOn() : silent;
  const { dataPath, threshold, limit, compat } = args;
  const records = await readRecords(dataPath, reasonSchema);
  const texts = records.map(({ responses }, place) => ({ place, texts: responses }));
  const output = evaluatedPath(dataPath);
  await interruptible(async (signal) => {
    const engine = baseOptions(args);
    await using opened = await openResponder({
      ...args,
      model: args.checkModel,
      engine,
      maxTokens: replyTokens,
      mayBeEmpty: true,
      answers: args.answers ?? `${output}.answers`,
      signal,
    });
    await using vectors = await openVectors(args, texts, { engine, signal });
    const task = progress.task("judging rationales", records.length, "questions");
    const options = { vectors: vectors.vectors, responder: opened.responder, threshold, limit, compat, signal };
    const onDone = (count: number) => task.advance(count);
    const result = await evaluateReasons(records, { ...options, onDone }).finally(() => task.end());
    await writeRecords(output, result.records);
    if (opened.server) note(usageLine(opened.server.usage));
    const { mean, scored, without, unread } = result;
    if (without > 0) note(`${without} questions have no cluster of two responses with a rationale`, "warn");
    if (unread > 0) note(`${unread} questions have no score: a summary or a score could not be read`, "warn");
    const told = {
      judge: opened.responder.name,
      looked_at: result.records.length,
      scored,
      without,
      unread,
      mean,
      output,
    };
    if (args.json) printJson(told);
    else
      print(
        `${scored} questions scored by ${opened.responder.name}, ${mean?.toFixed(4) ?? "none"} of 10 in the mean: ${output}`,
      );
  });
}
