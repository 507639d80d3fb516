/** The rows that SaySelf's first stage learns from, in its five published variants, from clustered questions. */
import { join } from "node:path";
import { toJsonLines } from "../../data/readers.js";
import { CredenceError } from "../../errors.js";
import { writeFileAtomic } from "../../files.js";
import { type ClusteredQuestion, learntParts } from "./building.js";
import { responseText } from "./wire.js";

/** One row of a published file, with exactly these two fields. */
export interface StageOneRow {
  question: string;
  response: string;
}

export interface Variant {
  /** Name of the published file, without its ending. */
  file: string;
  rationale: boolean;
  /**
   * "cluster": the share of the cluster that holds the right answer. "group": how often the samples of the question's group are right
   * (Lin et al. 2022). "words": "I am sure." or "I am unsure." (R-Tuning, Zhang et al. 2023).
   */
  confidence: "cluster" | "group" | "words" | "none";
}

export const variants = {
  standard: { file: "sft_reason_conf", rationale: true, confidence: "cluster" },
  "no-reflection": { file: "sft_without_reason_with_conf", rationale: false, confidence: "cluster" },
  "no-confidence": { file: "sft_without_reason_conf", rationale: false, confidence: "none" },
  "r-tuning": { file: "sft_reason_rtuning", rationale: false, confidence: "words" },
  "group-level": { file: "sft_reason_calimath", rationale: false, confidence: "group" },
} as const satisfies Record<string, Variant>;

export type VariantName = keyof typeof variants;

export interface RowOptions {
  variant: Variant;
  /** One a question, in their order. */
  rationales: readonly string[];
  /**
   * What becomes of a question no cluster of which is right. "keep": the largest cluster's response is learnt with a confidence of 0,
   * so that a model learns where it knows nothing. "drop": it is left out, as the confidences of the published file suggest.
   */
  unanswered: "keep" | "drop";
}

export interface StageOne {
  rows: StageOneRow[];
  /** Questions without a right cluster, whether kept or left out; and questions left out because no response says what it answers. */
  unanswered: number;
  unreadable: number;
}

/** Share of right samples x 10 over each group, as a whole number (halves up). */
function groupConfidences(clustered: readonly ClusteredQuestion[]): Map<string, number> {
  const sums = new Map<string, { right: number; samples: number }>();
  for (const { question, group, clusters, samples } of clustered) {
    if (group === undefined)
      throw new CredenceError(
        "BAD_INPUT",
        `${JSON.stringify(question.slice(0, 80))} has no "group"; the group-level variant needs one of every question. Add it, or leave the variant out`,
      );
    const sum = sums.get(group) ?? { right: 0, samples: 0 };
    sum.right += clusters.reduce((all, { right }) => all + right, 0);
    sum.samples += samples;
    sums.set(group, sum);
  }
  return new Map([...sums].map(([group, { right, samples }]) => [group, Math.round((10 * right) / samples)]));
}

/**
 * The rows of one variant.
 *
 * @throws CredenceError "BAD_INPUT" where the group-level variant meets a question without a group
 */
export function stageOneRows(
  clustered: readonly ClusteredQuestion[],
  { variant, rationales, unanswered }: RowOptions,
): StageOne {
  const groups = variant.confidence === "group" ? groupConfidences(clustered) : undefined;
  const out: StageOne = { rows: [], unanswered: 0, unreadable: 0 };
  clustered.forEach(({ question, group, clusters, chosen, right, confidence }, i) => {
    if (!right) out.unanswered += 1;
    if (!right && unanswered === "drop") return;
    const cluster = chosen === null ? undefined : clusters[chosen];
    const parts = cluster && learntParts(cluster.response);
    if (!parts) {
      out.unreadable += 1;
      return;
    }
    const largest = Math.max(...clusters.map(({ size }) => size));
    const stated = variant.confidence === "cluster" ? confidence : groups?.get(group!);
    const text = responseText({
      ...parts,
      ...(variant.rationale ? { rationale: rationales[i]! } : {}),
      ...(stated === undefined ? {} : { confidence: stated }),
    });
    // R-Tuning asks whether the model's own answer, which is the most frequent one, is right.
    const sure = right && cluster!.size === largest ? "I am sure." : "I am unsure.";
    out.rows.push({ question, response: variant.confidence === "words" ? `${text} ${sure}` : text });
  });
  return out;
}

/** Writes the file of one variant, whole. */
export function writeStageOne(folder: string, { file }: Variant, rows: readonly StageOneRow[]): string {
  const path = join(folder, `${file}.jsonl`);
  writeFileAtomic(path, toJsonLines(rows));
  return path;
}
