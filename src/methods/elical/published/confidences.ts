/** One confidence a question for every method of the published evaluation, read from the files of a set. */
import { z } from "zod";
import { readRecords } from "../../../data/readers.js";
import { CredenceError } from "../../../errors.js";
import { publishedMatch } from "../../../evaluation/judges/published.js";
import { hasAnswer } from "../../../evaluation/match.js";
import type { ElicalCompat } from "./compat.js";
import type { QuestionType } from "./paths.js";
import type { AnswersRow } from "./verdicts.js";

const bad = (message: string): CredenceError => new CredenceError("BAD_INPUT", message);

/**
 * Prob and N-Prob: the probability of the greedy answer, and its geometric mean over the answer's tokens. An answer that
 * ended before its first token is taken as one token long.
 */
export function likelihoods(path: string, greedy: readonly AnswersRow[]): { prob: number[]; nProb: number[] } {
  const columns = { prob: [] as number[], nProb: [] as number[] };
  for (const [i, { tokens, cumulative_logprobs }] of greedy.entries()) {
    const sum = cumulative_logprobs?.[0];
    const length = tokens?.[0]?.length;
    if (sum === undefined || length === undefined || sum > 0)
      throw bad(
        `${path}: record ${i + 1} ${sum !== undefined && sum > 0 ? `has a log-probability of ${sum}, above 0` : 'lacks "tokens" or "cumulative_logprobs"'}; credence elical infer --logprobs 1 --get_tokens 1 writes them`,
      );
    columns.prob.push(Math.exp(sum));
    columns.nProb.push(Math.exp(sum / Math.max(1, length)));
  }
  return columns;
}

/** The letter that a reply chooses: the first capital that stands alone, unless it is an article before another word. */
export function chosenLetter(reply: string): string | undefined {
  for (const [, letter, after] of reply.matchAll(/(?<![\p{L}\p{N}])([A-Z])(?![\p{L}\p{N}'’])(\s+\p{Ll})?/gu)) {
    if (!((letter === "A" || letter === "I") && after)) return letter;
  }
  return undefined;
}

/** Whether the greedy answers are right where no judge was asked: by string match, or by letter for multiple choice. */
export function matched(greedy: readonly AnswersRow[], questionType: QuestionType, compat: ElicalCompat): (0 | 1)[] {
  return greedy.map(({ answer, response }) => {
    const reply = response[0] ?? "";
    if (compat.has("B9-16")) return publishedMatch(answer, reply);
    if (questionType === "long_mc_qa") return answer.includes(chosenLetter(reply) ?? "") ? 1 : 0;
    return hasAnswer(answer, reply) ? 1 : 0;
  });
}

const predictionSchema = z.looseObject({
  index: z.int().min(0),
  predicted: z.number().min(0).max(1),
});

/** `predicted` of each of so many questions, wherever in the file its line stands. */
export async function readPredicted(path: string, questions: number): Promise<number[]> {
  const records = await readRecords(path, predictionSchema);
  const values = new Array<number>(questions);
  const seen = new Uint8Array(questions);
  for (const { index, predicted } of records) {
    if (index >= questions || seen[index])
      throw bad(
        `${path}: index ${index} ${index >= questions ? `is beyond the ${questions} questions of the set` : "stands twice"}; predict this set again`,
      );
    seen[index] = 1;
    values[index] = predicted;
  }
  if (records.length < questions)
    throw bad(`${path}: holds ${records.length} predictions of ${questions} questions; predict this set again`);
  return values;
}
