/** Accuracy, calibration error and correlations of rated answers, as metric.py has them. */
import type { Argv } from "yargs";
import { type ConqordCompat, conqordRows } from "../../methods/conqord/compat.js";
import type { Unparsed } from "../../methods/conqord/files.js";
import { note, print, printJson } from "../output.js";
import { type PublishedScript, publishedOptions, publishedUnneeded } from "../published.js";
import {
  gpuUnneeded,
  metricsText,
  type PlaceArguments,
  placeFlags,
  placeOf,
  placeOptions,
  tellUnread,
  unparsedOption,
} from "./places.js";

export const script: PublishedScript = {
  name: "metrics",
  honoured: placeFlags,
  unneeded: gpuUnneeded,
  dead: {},
  rows: conqordRows,
};

export const command = "metrics";
export const describe = "Accuracy, ECE, Pearson and Spearman of rated answers, added to the published files of scores";
export const builder = (line: Argv) =>
  line.options({
    ...publishedOptions(script),
    ...placeOptions,
    ratings: { type: "string", requiresArg: true, describe: "A file of ratings, instead of the one that rate wrote" },
    ...unparsedOption,
  });

interface MetricsArguments extends PlaceArguments {
  ratings?: string;
  unparsed: Unparsed;
  compat: ConqordCompat;
  json: boolean;
}

export async function handler(args: MetricsArguments): Promise<void> {
  publishedUnneeded(script, args);
  const { appendScores, ratingsPath, scoreName, scoreRatings, scoresPaths } = await import(
    "../../methods/conqord/files.js"
  );
  const { askedFor, dataNameOf } = await import("../../methods/conqord/prompts.js");
  const place = placeOf(args);
  const path = args.ratings ?? ratingsPath(place);
  const asked = askedFor(dataNameOf(args.dataName), args.mode);
  const scores = await scoreRatings(path, { compat: args.compat, unparsed: args.unparsed, asked });
  tellUnread(scores, "answers");
  const name = scoreName(place);
  for (const file of scoresPaths(place)) {
    await appendScores(file, name, scores);
    note(`added to ${file}`);
  }
  if (args.json) printJson({ name, ...scores });
  else print(metricsText(name || path, scores));
}
