/** Rationales in the first person that say over what a model's own responses disagree: by a model, or by a template. */
import { CredenceError } from "../../errors.js";
import type { Responder } from "../../evaluation/judges/responder.js";
import { norm } from "../../evaluation/match.js";

/** A group of responses that say the same. */
export interface DisagreeingCluster {
  /** The one that stands for them. */
  response: string;
  /** What it answers; null where it does not say. */
  answer: string | null;
  size: number;
}

/** What a rationale is written from. */
export interface Disagreement {
  question: string;
  /** Responses in all. */
  samples: number;
  clusters: readonly DisagreeingCluster[];
}

/** Writes rationales. */
export interface Summariser {
  /** As records name it. */
  readonly name: string;
  /** One rationale for each, in their order; null where none that can be used came. */
  rationales(
    disagreements: readonly Disagreement[],
    signal?: AbortSignal,
  ): AsyncGenerator<string | null, void, undefined>;
}

/** The rationale where all samples agree, and are right. */
export const agreedRationale =
  "I am totally confident: however often I think about this question, I come to the same answer.";

const percent = (size: number, samples: number): string => `${Math.round((100 * size) / samples)}%`;

function listed(parts: readonly string[]): string {
  return parts.length < 2 ? (parts[0] ?? "") : `${parts.slice(0, -1).join(", ")} and ${parts.at(-1)}`;
}

/** Answers that a template names; the others are counted together. */
const mostNamed = 4;

/** The answers with how many samples gave each, the most frequent first; clusters whose answers are the same words are one. */
function answersOf({ clusters }: Disagreement): { answer: string | null; size: number }[] {
  const found = new Map<string | null, { answer: string | null; size: number }>();
  for (const { answer, size } of clusters) {
    const words = answer === null ? null : norm(answer).join(" ");
    const same = found.get(words) ?? { answer, size: 0 };
    same.size += size;
    found.set(words, same);
  }
  return [...found.values()].sort((a, b) => b.size - a.size);
}

/** States which answers the samples gave and the share of each; needs no model. */
export function templateRationale(disagreement: Disagreement): string {
  const { samples } = disagreement;
  const answers = answersOf(disagreement);
  const spoken = answers.filter(({ answer }) => answer !== null);
  const named = spoken.slice(0, mostNamed);
  const rest = spoken.slice(mostNamed).reduce((sum, { size }) => sum + size, 0);
  const silent = answers.filter(({ answer }) => answer === null).reduce((sum, { size }) => sum + size, 0);
  const parts = [
    ...named.map(({ answer, size }) => `"${answer}" in ${percent(size, samples)} of my attempts`),
    ...(rest > 0 ? [`something else in ${percent(rest, samples)}`] : []),
    ...(silent > 0 ? [`no answer at all in ${percent(silent, samples)}`] : []),
  ];
  if (parts.length === 1)
    return `I come to ${parts[0]}, though the ways in which I get there differ, and I know of nothing else to check it by.`;
  return `I come to ${listed(parts)}, so I am not sure which of them is right.`;
}

export const templateSummariser = (): Summariser => ({
  name: "template",
  async *rationales(disagreements) {
    for (const disagreement of disagreements) yield templateRationale(disagreement);
  },
});

/** Clusters that a model is shown, the largest. */
const mostShown = 10;

/** What a model that summarises is asked. Its wording is our own. */
export function rationaleRequest({ question, samples, clusters }: Disagreement): string {
  const largest = clusters.toSorted((a, b) => b.size - a.size);
  const shown = largest.slice(0, mostShown);
  const others = largest.slice(mostShown).reduce((sum, { size }) => sum + size, 0);
  return [
    "One person answered the same question several times, and the answers below differ. A share says how often each came.",
    `Question: ${question}`,
    ...shown.map(({ response, size }, i) => `Answer ${i + 1} (${percent(size, samples)}): ${response}`),
    ...(others > 0 ? [`(${percent(others, samples)} of the answers are others.)`] : []),
    "Speak as that person. In one to three sentences that begin with I, say which pieces of knowledge you are unsure of, as far as the answers contradict each other there. Do not mention that there were several answers, and do not answer the question again.",
    "Reply with those sentences alone.",
  ].join("\n");
}

/** A rationale may be so many words; the first stage's rows are limited too. */
const mostWords = 80;
const labels = /Answer:|Self-reflection:|Confidence:/;

/** A model's reply as a rationale on one line; null where it is empty, far too long, or holds a label of the response's format. */
export function readRationale(reply: string): string | null {
  const text = reply
    .trim()
    .replace(/^(?:reason|rationale|self-reflection)\s*:\s*/i, "")
    .replace(/\s+/g, " ")
    .replace(/^"(.*)"$/, "$1");
  return text === "" || labels.test(text) || text.split(" ").length > mostWords ? null : text;
}

/** A server's model, or one of this machine. */
export const modelSummariser = (responder: Responder): Summariser => ({
  name: responder.name,
  async *rationales(disagreements, signal) {
    let count = 0;
    for await (const { text } of responder.replies(disagreements.map(rationaleRequest), signal)) {
      count += 1;
      yield readRationale(text);
    }
    if (count < disagreements.length)
      throw new CredenceError("ABORTED", "stopped while rationales were written; what was paid for is kept");
  },
});
