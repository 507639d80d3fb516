/** AUROC, calibration error and Alignment of every method, as eval.py and run_eval.sh have them. */
import type { Argv } from "yargs";
import { elicalRows } from "../../methods/elical/published/compat.js";
import type { QuestionType } from "../../methods/elical/published/paths.js";
import { note, print, printJson } from "../output.js";
import { type PublishedScript, publishedOptions } from "../published.js";
import {
  type EvaluationArguments,
  evaluationFlags,
  evaluationOptions,
  evaluationSettings,
  evaluationText,
  namesOf,
  runFolderFlags,
} from "./evaluating.js";

export const script: PublishedScript = {
  name: "evaluate",
  honoured: {
    ...evaluationFlags,
    qa_type: {
      choices: ["long_qa", "long_mc_qa", "short_qa", "long", "short"],
      demandOption: true,
      describe: "How the answers were asked for; long and short stand for long_qa and short_qa",
    },
    ...runFolderFlags,
  },
  unneeded: {},
  dead: {},
  rows: elicalRows,
};

export const command = "evaluate";
export const describe =
  "AUROC, ECE and Alignment of every method, as three workbooks a set, and everything as JSON and CSV";
export const builder = (line: Argv) => line.options({ ...publishedOptions(script), ...evaluationOptions });

export async function handler(args: EvaluationArguments & { qaType: string }): Promise<void> {
  const { evaluateSet, gatherSets } = await import("../../methods/elical/published/evaluate.js");
  const settings = { ...evaluationSettings(args), questionType: questionTypeOf(args.qaType) };
  for (const set of namesOf(args.evalDataset)) {
    const { unparsed } = await evaluateSet(set, settings);
    if (unparsed > 0) note(`${set}: ${unparsed} verdicts say neither, and count as no`, "warn");
  }
  const { evaluation, others, path } = gatherSets(settings);
  for (const other of others) note(`left out: ${other} was evaluated with other settings`, "warn");
  if (args.json) printJson(evaluation);
  else print(evaluationText(evaluation));
  note(`everything is in ${path}`);
}

const questionTypeOf = (name: string): QuestionType =>
  name === "long" || name === "short" ? `${name}_qa` : (name as QuestionType);
