/** Requests whether a sampled answer means the same as the greedy one, for a judge: a line each, by question. */
import { writeRecords } from "../../../data/readers.js";
import { equivalenceRequest } from "../../../evaluation/judges/prompts.js";
import type { AnswersPaths } from "./paths.js";
import { eachAnswered } from "./verdicts.js";

export interface ConsistencyRequest {
  /** The request itself. */
  question: string;
  /** There is no right answer to it. */
  answer: "no answer";
  original_question: string;
}

/** One request for each sample; an answer that is missing is shown as an empty one. */
export const consistencyRequests = (
  question: string,
  greedy: string | null,
  samples: readonly (string | null)[],
): ConsistencyRequest[] =>
  samples.map((sample) => ({
    question: equivalenceRequest(question, greedy ?? "", sample ?? ""),
    answer: "no answer",
    original_question: question,
  }));

/**
 * Writes the requests from the files of greedy and sampled answers.
 *
 * @returns how many there are
 */
export async function writeConsistencyRequests(paths: AnswersPaths, samples: number): Promise<number> {
  async function* requests() {
    for await (const { greedy, sampled } of eachAnswered(paths, samples))
      yield* consistencyRequests(greedy.question, greedy.response[0]!, sampled.response);
  }
  return writeRecords(paths.consistencyRequests, requests());
}
