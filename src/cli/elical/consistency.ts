/** Requests to a judge whether each sampled answer means the same as the greedy one. */
import type { Argv } from "yargs";
import { elicalRows } from "../../methods/elical/published/compat.js";
import { answersPaths } from "../../methods/elical/published/paths.js";
import { note, printJson } from "../output.js";
import { type PublishedScript, publishedOptions } from "../published.js";
import { answersPlace, type PlaceArguments, placeOptions } from "./places.js";

const { "sample-num": sampleNum, ...published } = placeOptions;

export const script: PublishedScript = {
  name: "consistency",
  honoured: published,
  unneeded: {},
  dead: {},
  rows: elicalRows,
};

export const command = "consistency";
export const describe = "Requests whether sampled answers mean the same as the greedy one, from the files of both";
export const builder = (line: Argv) => line.options({ ...publishedOptions(script), "sample-num": sampleNum });

export async function handler(args: PlaceArguments & { json: boolean }): Promise<void> {
  const { writeConsistencyRequests } = await import("../../methods/elical/published/consistency.js");
  const paths = answersPaths(answersPlace(args));
  const requests = await writeConsistencyRequests(paths, args.sampleNum);
  if (args.json) printJson({ requests, output: paths.consistencyRequests });
  else note(`${requests} requests in ${paths.consistencyRequests}; credence elical infer has a judge answer them`);
}
