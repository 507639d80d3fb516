/** What samples say of themselves: which answers are right, and how far the samples agree, by strings or by a model. */
import type { Argv } from "yargs";
import { interruptible } from "./interrupt.js";
import { type ServerArguments, serverOptions } from "./judge.js";
import { baseOptions, type EngineArguments, modelOptions, positiveInteger } from "./options.js";
import { logs, note, printJson, UsageError } from "./output.js";

export const command = "label <samples>";
export const describe = "Mark which answers are right, and how far the samples agree with the first answer";
const { adapter: _, ...judgeModelOptions } = modelOptions;
export const builder = (line: Argv) =>
  line
    .positional("samples", {
      type: "string",
      demandOption: true,
      describe: "What credence generate wrote; - for standard input",
    })
    .options({
      out: { type: "string", default: "-", requiresArg: true, describe: "Where the labels go" },
      judge: {
        choices: ["string", "published", "local", "server"] as const,
        default: "string" as const,
        describe: "String match; string match as EliCal published it; --model here; --model on the server at --url",
      },
      ...judgeModelOptions,
      ...serverOptions,
      "max-new-tokens": {
        type: "number",
        default: 64,
        describe: "Longest reply of a model that judges",
        coerce: positiveInteger("max-new-tokens"),
      },
      verdicts: {
        choices: ["corrected", "published"] as const,
        default: "corrected" as const,
        describe: "How replies are read; published: a yes unless a refusal stands there",
      },
      unparsed: {
        choices: ["error", "negative"] as const,
        default: "error" as const,
        describe: "A reply that says neither certain nor uncertain",
      },
    });

interface LabelArguments extends EngineArguments, ServerArguments {
  samples: string;
  out: string;
  judge: "string" | "published" | "local" | "server";
  model?: string;
  maxNewTokens: number;
  verdicts: "corrected" | "published";
  unparsed: "error" | "negative";
  json: boolean;
}

/** The judge that was asked for, opened. */
async function openJudge(args: LabelArguments, signal: AbortSignal) {
  const { modelJudge, stringJudge } = await import("../evaluation/judges/judge.js");
  const { judge: kind, model, url, verdicts } = args;
  if (kind === "string" || kind === "published") {
    if (model !== undefined || url !== undefined)
      throw new UsageError(`--judge ${kind} asks no model; for --model or --url take --judge local or server`);
    const judge = stringJudge(kind === "published" ? "published" : "corrected");
    return { judge, server: undefined, [Symbol.asyncDispose]: async () => {} };
  }
  if (model === undefined) throw new UsageError(`--judge ${kind}: which model? Give --model`);
  if ((url !== undefined) !== (kind === "server"))
    throw new UsageError(
      kind === "server" ? "--judge server: where? Give --url" : "--judge local: --url is for a server",
    );
  const { openResponder } = await import("./judge.js");
  const answers = args.answers ?? (args.out === "-" ? undefined : `${args.out}.answers`);
  if (answers === undefined) note("answers are not kept: give --out, or --answers a folder", "warn");
  const mayBeEmpty = verdicts === "published";
  const open = await openResponder({
    ...args,
    model,
    maxTokens: args.maxNewTokens,
    mayBeEmpty,
    answers,
    engine: baseOptions(args),
    signal,
  });
  return { ...open, judge: modelJudge(open.responder, verdicts) };
}

export async function handler(args: LabelArguments): Promise<void> {
  const { samples, out, json } = args;
  const { readRecords, writeRecords } = await import("../data/readers.js");
  const { sampleSchema } = await import("../data/records.js");
  const { labelRecords } = await import("../methods/elical/labels.js");
  const { writeJsonAtomic } = await import("../files.js");
  const { progressOn, silent } = await import("../tracking/progress.js");
  const { CredenceError } = await import("../errors.js");
  const { judgeRecord } = await import("../evaluation/judges/open.js");
  const { usageLine } = await import("./judge.js");
  const read = await readRecords(samples, sampleSchema);
  const records = read.map((record, i) => {
    const { answer, question = record.messages?.at(-1)?.content ?? "" } = record;
    if (!answer)
      throw new CredenceError("BAD_INPUT", `${samples}: record ${i + 1} has no "answer"; what is right cannot be told`);
    return { ...record, question, answer };
  });
  let right = 0;
  let unparsed = 0;
  await interruptible(async (signal) => {
    await using open = await openJudge(args, signal);
    const { judge, server } = open;
    const asks = args.judge === "local" || args.judge === "server";
    const task = (asks && logs("info") ? progressOn() : silent).task("judging", records.length, "questions");
    const onUnparsed = (count: number) => {
      unparsed = count;
    };
    async function* labelled() {
      let i = 0;
      for await (const label of labelRecords(records, { judge, unparsed: args.unparsed, signal, onUnparsed })) {
        right += label.given_correct;
        task.advance(1);
        const { given_correct, correct, agrees, target } = label;
        yield { ...read[i++], given_correct, correct, agrees, target };
      }
    }
    try {
      await writeRecords(out, labelled());
    } finally {
      task.end();
      if (server) note(usageLine(server.usage));
    }
    if (asks && out !== "-")
      writeJsonAtomic(`${out}.judge.json`, {
        ...judgeRecord(judge, server),
        questions: records.length,
        right,
        unparsed,
      });
  });
  if (unparsed > 0) note(`${unparsed} replies say neither certain nor uncertain; they count as uncertain`, "warn");
  if (json && out !== "-") printJson({ records: records.length, right, ...(unparsed ? { unparsed } : {}) });
  else note(`${right} of ${records.length} answers are right (${((100 * right) / records.length).toFixed(1)} %)`);
}
