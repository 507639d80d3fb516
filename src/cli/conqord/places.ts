/** Options of CONQORD's evaluation that say whose answers to what, by their published names, and how confidences are read. */
import type { Options } from "yargs";
import type { EvaluationPlace, Unparsed } from "../../methods/conqord/files.js";
import type { ConqordMetrics } from "../../methods/conqord/metrics.js";
import { note, table, UsageError } from "../output.js";
import type { Unneeded } from "../published.js";

/** Flags that name a file of answers. */
export const placeFlags = {
  data_name: {
    type: "string",
    requiresArg: true,
    default: "Anthropic/hh-rlhf/helpful-base_conf_half_sharp",
    describe: "The data set, and a folder's name: truthful_qa, nq, strategy_qa; anything else is dialogues",
  },
  mode: {
    type: "string",
    default: "",
    describe: "A folder's name; with topk or cot in it two answers, or an explanation first, are asked for",
  },
  suffix: { type: "string", default: "", describe: "What the files' names begin with" },
  step: { type: "string", default: "0", describe: "The checkpoint's step, behind the suffix; 0: none" },
} satisfies Record<string, Options>;

export const placeOptions = {
  root: { type: "string", default: ".", requiresArg: true, describe: "The folder that holds answer_csv/ and rating/" },
} satisfies Record<string, Options>;

/** Where nothing is computed but numbers. */
export const gpuUnneeded = {
  gpu: { type: "string", why: "no model is run" },
} satisfies Record<string, Unneeded>;

export interface PlaceArguments {
  root: string;
  dataName: string;
  mode: string;
  suffix: string;
  step: string;
}

export const placeOf = ({ root, dataName, mode, suffix, step }: PlaceArguments): EvaluationPlace => ({
  root,
  data: dataName,
  mode,
  suffix,
  step,
});

/** "error", "drop" where that is a choice, or a number. */
function policy(name: string, drop: boolean, least: number) {
  return (value: string): Unparsed => {
    if (value === "error" || (drop && value === "drop")) return value;
    const number = value.trim() === "" ? Number.NaN : Number(value);
    if (!(number >= least && number <= 1))
      throw new UsageError(`--${name} ${value}: expected error${drop ? ", drop" : ""} or a number from ${least} to 1`);
    return number;
  };
}

export const unparsedOption = {
  unparsed: {
    type: "string",
    default: "error",
    requiresArg: true,
    describe: "An answer whose confidence cannot be read: error, drop (left out, and counted), or its confidence",
    coerce: policy("unparsed", true, 0),
  },
} satisfies Record<string, Options>;

export const unratedOption = {
  unrated: {
    type: "string",
    default: "error",
    requiresArg: true,
    describe: "A judge's reply without a rating: error, or its rating",
    coerce: policy("unrated", false, -1),
  },
} satisfies Record<string, Options>;

/** What could not be read, where anything could not. */
export function tellUnread({ unparsed, clamped }: { unparsed: number; clamped: number }, rows: string): void {
  if (unparsed > 0) note(`${unparsed} ${rows} state no confidence that can be read`, "warn");
  if (clamped > 0) note(`${clamped} ${rows} state a confidence beyond 0 to 1, taken as the nearer of them`, "warn");
}

const shown = (value: number | null, digits = 4): string => (value === null ? "-" : value.toFixed(digits));
const pShown = (value: number | null): string => (value === null ? "-" : value.toPrecision(2));

/** The metrics of a file in a table. */
export function metricsText(name: string, { rows, ...scores }: ConqordMetrics): string {
  return table([
    ["name", "rows", "accuracy", "ECE", "Pearson", "p", "Spearman", "p", "AUROC"],
    [
      name,
      rows,
      shown(scores.accuracy),
      shown(scores.ece),
      shown(scores.pearson),
      pShown(scores.pearsonP),
      shown(scores.spearman),
      pShown(scores.spearmanP),
      shown(scores.auroc),
    ],
  ]);
}
