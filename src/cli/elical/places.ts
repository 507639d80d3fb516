/** Options that name one data set's answers and verdicts among the results, by their published names. */
import type { Options } from "yargs";
import type { AnswersPlace, QuestionType, Split } from "../../methods/elical/published/paths.js";
import { positiveInteger } from "../options.js";
import { UsageError } from "../output.js";

export const placeOptions = {
  "res-path": { type: "string", requiresArg: true, describe: "R, the folder of results" },
  "model-name": { type: "string", requiresArg: true, describe: "M, the answering model's name in folders and files" },
  dataset: { type: "string", requiresArg: true, describe: "D, the question set's name" },
  "data-type": { choices: ["test", "train"] as const, default: "test" as const, describe: "Its split" },
  "qa-type": {
    choices: ["long_qa", "long_mc_qa", "short_qa"] as const,
    default: "long_qa" as const,
    describe: "How it is asked; long_mc_qa for MMLU",
  },
  "sample-num": {
    type: "number",
    default: 20,
    describe: "Sampled answers of a question",
    coerce: positiveInteger("sample-num"),
  },
} satisfies Record<string, Options>;

export const unparsedOption = {
  unparsed: {
    choices: ["error", "negative"] as const,
    default: "error" as const,
    describe: "A verdict that says neither certain nor uncertain",
  },
} satisfies Record<string, Options>;

export interface PlaceArguments {
  resPath?: string;
  modelName?: string;
  dataset?: string;
  dataType: Split;
  qaType: QuestionType;
  sampleNum: number;
}

/** @throws UsageError for what is missing */
export function answersPlace(args: PlaceArguments): AnswersPlace {
  const {
    resPath: results,
    modelName: model,
    dataset,
    dataType: split,
    qaType: questionType,
    sampleNum: samples,
  } = args;
  if (results === undefined || model === undefined || dataset === undefined)
    throw new UsageError("which answers? Give --res_path, --model_name and --dataset");
  return { results, model, dataset, split, questionType, samples };
}
