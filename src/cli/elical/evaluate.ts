/** AUROC, calibration error and Alignment of every method, as eval.py and run_eval.sh have them. */
import type { Argv } from "yargs";
import { type ElicalCompat, elicalRows } from "../../methods/elical/published/compat.js";
import type { Average, Evaluation } from "../../methods/elical/published/evaluate.js";
import { type QuestionType, sizeName } from "../../methods/elical/published/paths.js";
import type { Compat } from "../../methods/published.js";
import { positiveInteger, seedOption } from "../options.js";
import { note, print, printJson, table } from "../output.js";
import { type PublishedScript, publishedOptions } from "../published.js";
import { unparsedOption } from "./places.js";

export const script: PublishedScript = {
  name: "evaluate",
  honoured: {
    model_name: { type: "string", demandOption: true, requiresArg: true, describe: "The answering model's name: M" },
    train_dataset: {
      type: "string",
      demandOption: true,
      requiresArg: true,
      describe: "What was trained on; several sets joined by hyphens",
    },
    eval_dataset: {
      type: "string",
      array: true,
      demandOption: true,
      requiresArg: true,
      describe: "Sets to evaluate: one, or several, apart or joined by commas",
    },
    qa_type: {
      choices: ["long_qa", "long_mc_qa", "short_qa", "long", "short"],
      demandOption: true,
      describe: "How the answers were asked for; long and short stand for long_qa and short_qa",
    },
    training_samples: {
      type: "string",
      demandOption: true,
      requiresArg: true,
      describe: "Numbers of annotated questions, joined by commas: 1k,2k,300,all",
    },
    greedy_samples: {
      type: "string",
      demandOption: true,
      requiresArg: true,
      describe: "Number of questions that were elicited from: all, 10k, ...",
    },
    base_path: { type: "string", demandOption: true, requiresArg: true, describe: "Folder of the results: R" },
    batch_size: {
      type: "number",
      demandOption: true,
      requiresArg: true,
      describe: "Of training, as the folders' names have it",
    },
    accumulation_steps: {
      type: "number",
      demandOption: true,
      requiresArg: true,
      describe: "Of training, as the folders' names have it",
    },
  },
  unneeded: {},
  dead: {},
  rows: elicalRows,
};

export const command = "evaluate";
export const describe =
  "AUROC, ECE and Alignment of every method, as three workbooks a set, and everything as JSON and CSV";
export const builder = (line: Argv) =>
  line.options({
    ...publishedOptions(script),
    part: {
      choices: ["lora", "mlp"] as const,
      default: "lora" as const,
      describe: "What was trained: LoRA and a head, or a head alone",
    },
    "sample-num": {
      type: "number",
      default: 20,
      describe: "Answers sampled a question, as the files' names have it",
      coerce: positiveInteger("sample-num"),
    },
    ...unparsedOption,
    seed: { ...seedOption.seed, default: 42, describe: "Of the rows that choose Alignment's threshold" },
    out: { type: "string", default: "res", requiresArg: true, describe: "Folder of the workbooks" },
  });

interface EvaluateArguments {
  modelName: string;
  trainDataset: string;
  evalDataset: string[];
  qaType: string;
  trainingSamples: string;
  greedySamples: string;
  basePath: string;
  batchSize: number;
  accumulationSteps: number;
  part: "lora" | "mlp";
  sampleNum: number;
  unparsed: "error" | "negative";
  seed: number;
  out: string;
  compat: Compat;
  json: boolean;
}

export async function handler(args: EvaluateArguments): Promise<void> {
  const { evaluateSet, gatherSets } = await import("../../methods/elical/published/evaluate.js");
  const { parseSize } = await import("../../methods/elical/published/paths.js");
  const settings = {
    results: args.basePath,
    model: args.modelName,
    trainSet: args.trainDataset,
    questionType: questionTypeOf(args.qaType),
    part: args.part,
    sizes: args.trainingSamples.split(",").map(parseSize),
    elicitationRows: parseSize(args.greedySamples),
    batch: args.batchSize,
    accumulation: args.accumulationSteps,
    samples: args.sampleNum,
    unparsed: args.unparsed,
    seed: args.seed,
    compat: args.compat as ElicalCompat,
    out: args.out,
  };
  for (const set of args.evalDataset.flatMap((names) => names.split(","))) {
    const { unparsed } = await evaluateSet(set, settings);
    if (unparsed > 0) note(`${set}: ${unparsed} verdicts say neither, and count as no`, "warn");
  }
  const { evaluation, others, path } = gatherSets(settings);
  for (const other of others) note(`left out: ${other} was evaluated with other settings`, "warn");
  if (args.json) printJson(evaluation);
  else print(evaluationText(evaluation));
  note(`everything is in ${path}`);
}

/** AUROC, ECE and Alignment of every method, a block a set and a block an average. */
function evaluationText({ sets, averages }: Evaluation): string {
  const block = (title: string, methods: Average["methods"]) =>
    `${title}\n${table([
      ["method", "annotated", "AUROC", "ECE", "Alignment"],
      ...methods.map(({ method, rows, auroc, ece, align }) => [
        method,
        rows === null ? "" : sizeName(rows),
        shown(auroc, 2),
        shown(ece, 4),
        shown(align, 2),
      ]),
    ])}`;
  return [
    ...sets.map(({ set, questions, accuracy, methods }) =>
      block(`${set}: ${questions} questions, ${(100 * accuracy).toFixed(2)} % right`, methods),
    ),
    ...averages.map(({ group, questions, methods, sets: of }) =>
      block(`average, ${group} (${of.join(", ")}; ${questions} questions, each counted once)`, methods),
    ),
  ].join("\n\n");
}

const shown = (value: number | null, decimals: number): string => value?.toFixed(decimals) ?? "-";

const questionTypeOf = (name: string): QuestionType =>
  name === "long" || name === "short" ? `${name}_qa` : (name as QuestionType);
