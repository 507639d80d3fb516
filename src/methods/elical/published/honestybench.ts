/** HonestyBench's records, one a question, and the files of answers and verdicts that hold the same. */
import { z } from "zod";
import { readRecords, writeRecords } from "../../../data/readers.js";
import { CredenceError } from "../../../errors.js";
import { consistencyRequests } from "./consistency.js";
import type { AnswersPaths } from "./paths.js";
import { checkSameQuestions, readAnswers, readVerdicts, type VerdictOptions } from "./verdicts.js";

const text = z.string({ error: () => "a string" });
const verdict = z.union([z.literal(0), z.literal(1)], { error: () => "0 or 1" });
const exactly = <T extends z.ZodType>(length: number, what: string, item: T) => {
  const error = () => `a list of ${length} ${what}`;
  return z.array(item, { error }).length(length, { error });
};

/** One row of a released file, with so many sampled answers. */
const recordSchema = (samples: number) =>
  z.looseObject({
    question: text,
    answer: z.array(text, { error: () => "a list of strings" }).min(1, { error: () => "one answer or more" }),
    greedy_response: exactly(1, "string", text),
    greedy_correctness: z.union([verdict, exactly(1, "of 0 or 1", verdict).transform(([value]) => value!)], {
      error: () => "0 or 1",
    }),
    greedy_tokens: exactly(1, "list of tokens", z.array(text, { error: () => "a list of tokens" })),
    greedy_cumulative_logprobs: exactly(1, "number", z.number({ error: () => "a number" })),
    greedy_logprobs: exactly(1, "list of numbers", z.array(z.number(), { error: () => "a list of numbers" })),
    sampling_response: exactly(samples, "strings", text),
    sampling_correctness: exactly(samples, "of 0 or 1", verdict),
    consistency_judgement: exactly(samples, "of 0 or 1", verdict),
  });

export type HonestyBenchRow = z.infer<ReturnType<typeof recordSchema>>;

/** Rows of a released file. */
export const readHonestyBench = (path: string, samples: number): Promise<HonestyBenchRow[]> =>
  readRecords(path, recordSchema(samples));

/** A question as it was asked: its request, and the whole text that the model read. */
export interface AskedQuestion {
  instruction: string;
  prompt: string;
}

const reply = (value: number) => [value ? "certain" : "uncertain"];

/**
 * Writes the files of answers and verdicts that a released file stands for. It has no prompts: `ask` makes them again.
 *
 * @returns how many questions there are
 */
export async function importHonestyBench(
  path: string,
  paths: AnswersPaths,
  { samples, ask }: { samples: number; ask: (question: string) => AskedQuestion },
): Promise<number> {
  const rows = await readHonestyBench(path, samples);
  const asked = rows.map(({ question, answer }) => ({ question, answer, ...ask(question) }));
  const greedy = rows.map((row, i) => ({
    ...asked[i]!,
    response: row.greedy_response,
    tokens: row.greedy_tokens,
    cumulative_logprobs: row.greedy_cumulative_logprobs,
    logprobs: row.greedy_logprobs,
  }));
  const sampled = rows.map((row, i) => ({ ...asked[i]!, response: row.sampling_response }));
  const requests = consistencyRequests(greedy, sampled);
  const consistency = rows.flatMap((row) => row.consistency_judgement);
  await writeRecords(paths.greedy, greedy);
  await writeRecords(paths.sampled, sampled);
  await writeRecords(paths.consistencyRequests, requests);
  await writeRecords(
    paths.consistency,
    requests.map((request, i) => ({ ...request, response: reply(consistency[i]!) })),
  );
  const judged = (row: HonestyBenchRow, given: string, value: number) => ({
    question: row.question,
    answer: row.answer,
    generated: given,
    response: reply(value),
  });
  await writeRecords(
    paths.greedyJudged,
    rows.map((row) => judged(row, row.greedy_response[0]!, row.greedy_correctness)),
  );
  await writeRecords(
    paths.sampledJudged,
    rows.flatMap((row) => row.sampling_response.map((given, k) => judged(row, given, row.sampling_correctness[k]!))),
  );
  return rows.length;
}

/**
 * Files of answers and verdicts as one released file.
 *
 * @throws CredenceError "BAD_INPUT" where a list is missing or short, or files do not belong together
 */
export async function exportHonestyBench(
  paths: AnswersPaths,
  path: string,
  { samples, ...reading }: { samples: number } & Omit<VerdictOptions, "group">,
): Promise<number> {
  const greedy = await readAnswers(paths.greedy, 1);
  const sampled = await readAnswers(paths.sampled, samples);
  checkSameQuestions(paths, greedy, sampled);
  const questions = greedy.map(({ question }) => question);
  const read = (file: string, group: number) => readVerdicts(file, questions, { group, ...reading });
  const greedyJudged = await read(paths.greedyJudged, 1);
  const sampledJudged = await read(paths.sampledJudged, samples);
  const consistency = await read(paths.consistency, samples);
  const rows = greedy.map((row, i) => {
    const { tokens, cumulative_logprobs, logprobs } = row;
    if (!tokens || !cumulative_logprobs || !logprobs)
      throw new CredenceError(
        "BAD_INPUT",
        `${paths.greedy}:${i + 1}: has no tokens with their log-probabilities; answer again with --get_tokens 1 --logprobs 1`,
      );
    return {
      question: row.question,
      answer: row.answer,
      greedy_response: row.response,
      greedy_correctness: greedyJudged.values[i]![0]!,
      greedy_tokens: tokens,
      greedy_cumulative_logprobs: cumulative_logprobs,
      greedy_logprobs: logprobs,
      sampling_response: sampled[i]!.response,
      sampling_correctness: sampledJudged.values[i]!,
      consistency_judgement: consistency.values[i]!,
    };
  });
  return writeRecords(path, rows);
}
