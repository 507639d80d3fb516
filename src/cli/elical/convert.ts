/** Published question sets as rows of a question and its answers; HonestyBench's records in and out. */
import { join } from "node:path";
import type { Argv } from "yargs";
import { type ElicalCompat, elicalRows } from "../../methods/elical/published/compat.js";
import type { SourceName } from "../../methods/elical/published/convert.js";
import { answersPaths, type QuestionType, type Split } from "../../methods/elical/published/paths.js";
import { modelOption, positiveInteger } from "../options.js";
import { note, printJson, UsageError } from "../output.js";
import { type PublishedScript, publishedOptions } from "../published.js";
import { answersPlace, placeOptions, unparsedOption } from "./places.js";

export const script: PublishedScript = {
  name: "convert",
  honoured: {},
  unneeded: {},
  dead: {},
  rows: elicalRows,
};

export const command = "convert";
export const describe = "Question sets as they were published, as questions and answers; HonestyBench's records";
export const builder = (line: Argv) =>
  line.options({
    ...publishedOptions(script),
    ...placeOptions,
    ...modelOption,
    ...unparsedOption,
    input: {
      type: "string",
      requiresArg: true,
      describe: "The published file; a folder for ParaRel (its data) and MMLU (a file a subject)",
    },
    output: {
      type: "string",
      requiresArg: true,
      describe: "Where the rows go, e.g. data/nq/test.jsonl; a folder for ParaRel, whose split is made",
    },
    "test-rows": {
      type: "number",
      describe: "ParaRel: rows drawn for testing [default: 3000]",
      coerce: positiveInteger("test-rows"),
    },
    honestybench: {
      choices: ["import", "export"] as const,
      describe: "Instead: a released file as files of answers and verdicts under --res_path, or those as one",
    },
  });

interface ConvertArguments {
  dataset?: string;
  input?: string;
  output?: string;
  testRows?: number;
  honestybench?: "import" | "export";
  resPath?: string;
  modelName?: string;
  dataType: Split;
  qaType: QuestionType;
  sampleNum: number;
  model?: string;
  unparsed: "error" | "negative";
  compat: ElicalCompat;
  json: boolean;
}

export async function handler(args: ConvertArguments): Promise<void> {
  if (args.honestybench === "import") return importRecords(args);
  if (args.honestybench === "export") return exportRecords(args);
  const { sourceNames } = await import("../../methods/elical/published/convert.js");
  const { dataset, input, output } = args;
  const name = sourceNames.find((known) => known === dataset);
  if (!name) throw new UsageError(`--dataset ${dataset ?? ""}: expected one of ${sourceNames.join(", ")}`);
  if (input === undefined || output === undefined) throw new UsageError("give --input and --output");
  await (name === "pararel_patterns"
    ? convertPararel(args, input, output)
    : convertOne(name, input, output, args.json));
}

async function convertOne(name: SourceName, input: string, output: string, json: boolean): Promise<void> {
  const { convertQuestions, publishedRows } = await import("../../methods/elical/published/convert.js");
  const { writeRecords } = await import("../../data/readers.js");
  const rows = await writeRecords(output, convertQuestions(name, input));
  const split = /(train|dev|test)\.jsonl$/.exec(output)?.[1] as "train" | "dev" | "test" | undefined;
  const published = split && publishedRows[name]?.[split];
  if (json) printJson({ rows });
  else
    note(`${rows} rows in ${output}${published && published !== rows ? `; the published file has ${published}` : ""}`);
}

async function convertPararel({ testRows, json }: ConvertArguments, input: string, output: string): Promise<void> {
  const { convertQuestions } = await import("../../methods/elical/published/convert.js");
  const { splitPararel } = await import("../../methods/elical/published/pararel.js");
  const { writeRecords } = await import("../../data/readers.js");
  const rows = [];
  for await (const row of convertQuestions("pararel_patterns", input)) rows.push(row);
  const { train, test } = splitPararel(rows, testRows);
  await writeRecords(join(output, "train.jsonl"), train);
  await writeRecords(join(output, "test.jsonl"), test);
  if (json) printJson({ rows: rows.length, train: train.length, test: test.length });
  else note(`${train.length} rows in ${join(output, "train.jsonl")}, ${test.length} in ${join(output, "test.jsonl")}`);
}

async function importRecords(args: ConvertArguments): Promise<void> {
  const { importHonestyBench } = await import("../../methods/elical/published/honestybench.js");
  const { questionPrompts } = await import("../../methods/elical/published/prompts.js");
  const { input, model, qaType, sampleNum: samples } = args;
  if (input === undefined) throw new UsageError("--honestybench import: which file? Give --input");
  if (model === undefined)
    throw new UsageError("--honestybench import: the records have no prompts; give --model, whose template makes them");
  if (qaType === "short_qa") throw new UsageError("--qa_type short_qa: nothing says how such questions were asked");
  const { Tokenizer } = await import("../../text/tokenizer.js");
  const { Chat } = await import("../../text/chat.js");
  const { resolveModel } = await import("../../model/resolve.js");
  const tokenizer = await Tokenizer.load((await resolveModel(model, { note })).path);
  const chat = new Chat(tokenizer);
  const ask = (question: string) => {
    const instruction = questionPrompts[qaType](question);
    return {
      instruction,
      prompt: chat.render([{ role: "user", content: instruction }], { addGenerationPrompt: true }),
    };
  };
  const paths = answersPaths(answersPlace(args));
  const rows = await importHonestyBench(input, paths, { samples, ask });
  if (args.json) printJson({ rows, folder: paths.folder });
  else note(`${rows} questions with their answers and verdicts in ${paths.folder}`);
}

async function exportRecords(args: ConvertArguments): Promise<void> {
  const { exportHonestyBench } = await import("../../methods/elical/published/honestybench.js");
  const { output, unparsed, compat, sampleNum: samples } = args;
  if (output === undefined) throw new UsageError("--honestybench export: where to? Give --output");
  const rows = await exportHonestyBench(answersPaths(answersPlace(args)), output, { samples, unparsed, compat });
  if (args.json) printJson({ rows });
  else note(`${rows} questions in ${output}`);
}
