/** What the report of a run shows of the first stage: rationales beside the clusters that they tell of. */
import { join } from "node:path";
import { fromJsonLines } from "../../data/readers.js";
import { readText } from "../../files.js";
import { type RationaleExample, rationaleSection } from "../../report/rationales.js";
import { stageFolder } from "../../training/run.js";
import type { ClusteredQuestion, QuestionRationale } from "./building.js";

/** The stage's folder, and its files. */
export const sampled = "02-sampled";
export const clustersFile = "clusters.jsonl";
export const rationalesFile = "rationales.jsonl";

/** How many are shown. */
const most = 10;

/** Rationales that fine-tuning learnt: of training questions all over the file, half of them with a right answer where there are such. */
export function rationaleSections(runDirectory: string): string[] {
  const folder = stageFolder({ runDirectory }, sampled);
  const lines = <T>(file: string) => fromJsonLines<T>(readText(join(folder, file)));
  const rationales = lines<QuestionRationale>(rationalesFile);
  const examples = lines<ClusteredQuestion>(clustersFile).map((one, i): RationaleExample => {
    const learnt = one.chosen === null ? undefined : one.clusters[one.chosen];
    return {
      question: one.question,
      expected: one.answers,
      answer: learnt?.answer ?? null,
      right: one.right,
      rationale: rationales[i]!.rationale,
      confidence: one.confidence / 10,
      clusters: one.clusters,
    };
  });
  const spread = (from: readonly RationaleExample[]) => {
    const step = Math.max(1, from.length / (most / 2));
    return from.filter((_, i) => Math.floor(i / step) > Math.floor((i - 1) / step)).slice(0, most / 2);
  };
  const of = (right: boolean) => spread(examples.filter((one) => one.right === right && one.clusters.length > 1));
  return [rationaleSection([...of(true), ...of(false)], most)];
}
