/** Requests whether a sampled answer means the same as the greedy one, for a judge: a line each, by question. */
import { writeRecords } from "../../../data/readers.js";
import { equivalenceRequest } from "../../../evaluation/judges/prompts.js";
import type { AnswersPaths } from "./paths.js";
import { checkSameQuestions, readAnswers } from "./verdicts.js";

export interface ConsistencyRequest {
  /** The request itself. */
  question: string;
  /** There is no right answer to it. */
  answer: "no answer";
  original_question: string;
}

/** One request for each sample; an answer that is missing is shown as an empty one. */
export function consistencyRequests(
  greedy: readonly { question: string; response: readonly (string | null)[] }[],
  sampled: readonly { response: readonly (string | null)[] }[],
): ConsistencyRequest[] {
  return greedy.flatMap(({ question, response: [first] }, i) =>
    sampled[i]!.response.map((sample) => ({
      question: equivalenceRequest(question, first ?? "", sample ?? ""),
      answer: "no answer" as const,
      original_question: question,
    })),
  );
}

/**
 * Writes the requests from the files of greedy and sampled answers.
 *
 * @returns how many there are
 */
export async function writeConsistencyRequests(paths: AnswersPaths, samples: number): Promise<number> {
  const greedy = await readAnswers(paths.greedy, 1);
  const sampled = await readAnswers(paths.sampled, samples);
  checkSameQuestions(paths, greedy, sampled);
  return writeRecords(paths.consistencyRequests, consistencyRequests(greedy, sampled));
}
