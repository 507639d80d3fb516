/** A judge's rating of every answer, as gpt_evaluation.py has them made. */
import type { Argv } from "yargs";
import { type ConqordCompat, conqordRows } from "../../methods/conqord/compat.js";
import type { JudgeTemplate } from "../../methods/conqord/judging.js";
import { interruptible } from "../interrupt.js";
import { openResponder, type ServerArguments, serverOptions, usageLine } from "../judge.js";
import { baseOptions, type EngineArguments, engineOptions } from "../options.js";
import { logs, note, print, printJson, UsageError } from "../output.js";
import { type PublishedScript, publishedOptions, publishedUnneeded } from "../published.js";
import { type PlaceArguments, placeFlags, placeOf, placeOptions, unratedOption } from "./places.js";

const templates = ["factuality", "equal", "quality"] as const satisfies JudgeTemplate[];

export const script: PublishedScript = {
  name: "rate",
  honoured: placeFlags,
  unneeded: { gpu: { type: "string", why: "--device says where a judge of this machine runs" } },
  dead: {},
  rows: conqordRows,
};

export const command = "rate";
export const describe = "A judge's rating of every answer that infer wrote: by strings, a model here, or a server's";
export const builder = (line: Argv) =>
  line.options({
    ...publishedOptions(script),
    ...placeOptions,
    "check-model": {
      type: "string",
      requiresArg: true,
      describe:
        "The model that judges, here or with --url on a server; without one an answer is looked for by its words",
    },
    template: {
      choices: templates,
      describe:
        "What the model is asked [default: quality of dialogues, equal with that word in --mode, else factuality]",
    },
    ...unratedOption,
    ...serverOptions,
    ...engineOptions,
  });

interface RateArguments extends PlaceArguments, ServerArguments, EngineArguments {
  checkModel?: string;
  template?: JudgeTemplate;
  unrated: "error" | number;
  compat: ConqordCompat;
  json: boolean;
}

/** Longest reply of a judge, in tokens. */
const replyTokens = 64;

export async function handler(args: RateArguments): Promise<void> {
  publishedUnneeded(script, args);
  const { answersPath, ratingsPath, readAnswers, writeRatings } = await import("../../methods/conqord/files.js");
  const { rateAnswers, ratingJudge, ratingScales, stringRating } = await import("../../methods/conqord/judging.js");
  const { askedFor, dataNameOf } = await import("../../methods/conqord/prompts.js");
  const { progressOn, silent } = await import("../../tracking/progress.js");
  const { compat, unrated, checkModel, url } = args;
  const place = placeOf(args);
  const data = dataNameOf(args.dataName);
  const asked = askedFor(data, args.mode);
  const template =
    args.template ?? (data === "dialogue" ? "quality" : args.mode.includes("equal") ? "equal" : "factuality");
  if (checkModel === undefined && (url !== undefined || args.template !== undefined))
    throw new UsageError(`${url === undefined ? "--template" : "--url"}: which model judges? Give --check-model`);
  if (checkModel === undefined && template === "quality")
    throw new UsageError("dialogues have no expected answers to look for; give --check-model");
  const answers = await readAnswers(answersPath(place));
  const output = ratingsPath(place);
  const progress = logs("info") ? progressOn() : silent;
  await interruptible(async (signal) => {
    await using opened =
      checkModel === undefined
        ? undefined
        : await openResponder({
            ...args,
            model: checkModel,
            engine: baseOptions(args),
            maxTokens: replyTokens,
            mayBeEmpty: true,
            answers: args.answers ?? `${output}.answers`,
            signal,
          });
    const judge = opened ? ratingJudge(opened.responder, template, compat) : stringRating();
    const task = progress.task("rating", answers.length, "answers");
    const empty = ratingScales[template].from;
    const options = { asked, compat, unrated, empty, signal, onRated: () => task.advance(1) };
    const rated = await rateAnswers(answers, judge, options).finally(() => task.end());
    writeRatings(output, rated.rows);
    if (opened?.server) note(usageLine(opened.server.usage));
    if (rated.empty > 0) note(`${rated.empty} answers without a word, rated ${empty}`, "warn");
    if (rated.unrated > 0) note(`${rated.unrated} replies without a rating, taken as ${unrated}`, "warn");
    const mean = rated.rows.reduce((sum, { rating }) => sum + rating, 0) / rated.rows.length;
    const { empty: wordless, unrated: unread } = rated;
    const told = { judge: judge.name, answers: rated.rows.length, mean, empty: wordless, unrated: unread, output };
    if (args.json) printJson(told);
    else print(`${rated.rows.length} answers rated by ${judge.name}, ${mean.toFixed(4)} in the mean: ${output}`);
  });
}
