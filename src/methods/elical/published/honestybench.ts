/** HonestyBench's records, one a question, and the files of answers and verdicts that hold the same. */
import { z } from "zod";
import { openRecords, type RecordFile, writeRecords } from "../../../data/readers.js";
import { CredenceError } from "../../../errors.js";
import { consistencyRequests } from "./consistency.js";
import type { AnswersPaths } from "./paths.js";
import { eachAnswered, eachOf, VerdictFile, type VerdictOptions, VerdictReader } from "./verdicts.js";

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
    greedy_correctness: z.union([verdict, exactly(1, "number, 0 or 1", verdict).transform(([value]) => value!)], {
      error: () => "0 or 1",
    }),
    greedy_tokens: exactly(1, "list of tokens", z.array(text, { error: () => "a list of tokens" })),
    greedy_cumulative_logprobs: exactly(1, "number", z.number({ error: () => "a number" })),
    greedy_logprobs: exactly(1, "list of numbers", z.array(z.number(), { error: () => "a list of numbers" })),
    sampling_response: exactly(samples, "strings", text),
    sampling_correctness: exactly(samples, "numbers, each 0 or 1", verdict),
    consistency_judgement: exactly(samples, "numbers, each 0 or 1", verdict),
  });

export type HonestyBenchRow = z.infer<ReturnType<typeof recordSchema>>;

/** Opens a released file; a row with a list that is missing or short is told when it is read. */
export const openHonestyBench = (path: string, samples: number): Promise<RecordFile<HonestyBenchRow>> =>
  openRecords(path, recordSchema(samples));

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
  const file = await openHonestyBench(path, samples);
  const write = (output: string, records: (row: HonestyBenchRow) => unknown[]) => {
    async function* all() {
      for await (const row of eachOf(file)) yield* records(row);
    }
    return writeRecords(output, all());
  };
  const asked = ({ question, answer }: HonestyBenchRow) => ({ question, answer, ...ask(question) });
  await write(paths.greedy, (row) => [
    {
      ...asked(row),
      response: row.greedy_response,
      tokens: row.greedy_tokens,
      cumulative_logprobs: row.greedy_cumulative_logprobs,
      logprobs: row.greedy_logprobs,
    },
  ]);
  await write(paths.sampled, (row) => [{ ...asked(row), response: row.sampling_response }]);
  const requests = (row: HonestyBenchRow) =>
    consistencyRequests(row.question, row.greedy_response[0]!, row.sampling_response);
  await write(paths.consistencyRequests, requests);
  await write(paths.consistency, (row) =>
    requests(row).map((request, k) => ({ ...request, response: reply(row.consistency_judgement[k]!) })),
  );
  const judged = ({ question, answer }: HonestyBenchRow, generated: string, value: number) => ({
    question,
    answer,
    generated,
    response: reply(value),
  });
  await write(paths.greedyJudged, (row) => [judged(row, row.greedy_response[0]!, row.greedy_correctness)]);
  await write(paths.sampledJudged, (row) =>
    row.sampling_response.map((given, k) => judged(row, given, row.sampling_correctness[k]!)),
  );
  return file.records;
}

/**
 * Files of answers and verdicts as one released file.
 *
 * @throws CredenceError "BAD_INPUT" where a list is missing or short, or files do not belong together
 */
export async function exportHonestyBench(
  paths: AnswersPaths,
  path: string,
  { samples, ...reading }: { samples: number } & VerdictOptions,
): Promise<number> {
  const [greedyJudged, sampledJudged, consistency] = await Promise.all(
    [paths.greedyJudged, paths.sampledJudged, paths.consistency].map((file) => VerdictFile.open(file)),
  );
  const reader = new VerdictReader(reading);
  async function* rows() {
    let record = 0;
    for await (const { greedy, sampled } of eachAnswered(paths, samples)) {
      record += 1;
      const { question, answer, response, tokens, cumulative_logprobs, logprobs } = greedy;
      if (!tokens || !cumulative_logprobs || !logprobs)
        throw new CredenceError(
          "BAD_INPUT",
          `${paths.greedy}: record ${record} has no tokens with their log-probabilities; answer again with --get_tokens 1 --logprobs 1`,
        );
      yield {
        question,
        answer,
        greedy_response: response,
        greedy_correctness: reader.read(await greedyJudged!.next(question, response))[0],
        greedy_tokens: tokens,
        greedy_cumulative_logprobs: cumulative_logprobs,
        greedy_logprobs: logprobs,
        sampling_response: sampled.response,
        sampling_correctness: reader.read(await sampledJudged!.next(question, sampled.response)),
        consistency_judgement: reader.read(await consistency!.next(question, sampled.response)),
      };
    }
    for (const file of [greedyJudged!, sampledJudged!, consistency!]) await file.end();
    reader.end();
  }
  return writeRecords(path, rows());
}
