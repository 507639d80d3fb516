/**
 * Answers and a judge's replies on them, as the published scripts keep them, read a part at a time and checked against each
 * other.
 */
import { z } from "zod";
import { openRecords, type RecordFile } from "../../../data/readers.js";
import { CredenceError } from "../../../errors.js";
import { publishedVerdict } from "../../../evaluation/judges/published.js";
import { readVerdict } from "../../../evaluation/judges/verdict.js";
import type { ElicalCompat } from "./compat.js";

const listOf = <T extends z.ZodType>(what: string, item: T) => z.array(item, { error: () => `a list of ${what}` });
const text = z.string({ error: () => "a string" });
const replies = listOf("strings (null where there is none)", z.union([text, z.null()])).min(1, {
  error: () => "one reply or more",
});

/** What a pass of generation leaves of each question. */
export const answersSchema = z.looseObject({
  question: text,
  answer: listOf("strings", text),
  /** What the model read, whole; it is what is trained on. */
  prompt: text.optional(),
  response: replies,
  tokens: listOf("lists of tokens", listOf("tokens", text)).nullish(),
  cumulative_logprobs: listOf("numbers", z.number()).nullish(),
  logprobs: listOf("lists of numbers", listOf("numbers", z.number())).nullish(),
});

export type AnswersRow = z.infer<typeof answersSchema>;

const bad = (message: string): CredenceError => new CredenceError("BAD_INPUT", message);

/**
 * Opens a file of answers.
 *
 * @throws CredenceError "BAD_INPUT", when it is read, where a question has another number of answers than `samples`
 */
export async function openAnswers(path: string, samples: number): Promise<RecordFile<AnswersRow>> {
  const file = await openRecords(path, answersSchema);
  return {
    ...file,
    async *read(from, to) {
      let record = from;
      for await (const rows of file.read(from, to)) {
        for (const { response } of rows) {
          record += 1;
          if (response.length !== samples)
            throw bad(`${path}: record ${record} has ${response.length} answers in "response"; expected ${samples}`);
        }
        yield rows;
      }
    },
  };
}

/** Every record of a file of answers, one after the other. */
export async function* eachOf<T>(file: RecordFile<T>): AsyncGenerator<T, void, undefined> {
  for await (const rows of file.read(0, file.records)) yield* rows;
}

/** All of a file of answers, as `openAnswers` checks it. */
export async function readAnswers(path: string, samples: number): Promise<AnswersRow[]> {
  const rows: AnswersRow[] = [];
  for await (const row of eachOf(await openAnswers(path, samples))) rows.push(row);
  return rows;
}

/** Opens the greedy and the sampled answers of one set, and checks that they are to the same questions. */
export async function* eachAnswered(
  paths: { greedy: string; sampled: string },
  samples: number,
): AsyncGenerator<{ greedy: AnswersRow; sampled: AnswersRow }, void, undefined> {
  const greedy = await openAnswers(paths.greedy, 1);
  const sampled = await openAnswers(paths.sampled, samples);
  const differ = (how: string) =>
    bad(
      `${paths.sampled} (${sampled.records} questions) and ${paths.greedy} (${greedy.records}) are of different runs${how}`,
    );
  if (greedy.records !== sampled.records) throw differ("");
  const others = eachOf(sampled);
  let record = 0;
  for await (const row of eachOf(greedy)) {
    const { value: other } = await others.next();
    record += 1;
    if (!other || other.question !== row.question) throw differ(`: they differ from question ${record}`);
    yield { greedy: row, sampled: other };
  }
}

const verdictSchema = z.looseObject({
  question: text.optional(),
  /** Of a verdict on agreement, whose `question` is the request. */
  original_question: text.optional(),
  /** The answer that was judged, where it is said. */
  generated: text.optional(),
  response: replies.nullish(),
});

/** A judge's replies, a line each, those on one question's answers one after the other. */
export class VerdictFile {
  private readonly lines: AsyncGenerator<z.infer<typeof verdictSchema>, void, undefined>;
  private taken = 0;
  private questions = 0;

  private constructor(
    private readonly path: string,
    private readonly records: number,
    lines: VerdictFile["lines"],
  ) {
    this.lines = lines;
  }

  static async open(path: string): Promise<VerdictFile> {
    const file = await openRecords(path, verdictSchema);
    return new VerdictFile(path, file.records, eachOf(file));
  }

  /**
   * The replies on the answers to the next question, null where there is none.
   *
   * @param answers one an answer; undefined where it is not known which
   * @throws CredenceError "BAD_INPUT" where lines do not come in such groups, or are on other questions or answers
   */
  async next(
    question: string | undefined,
    answers: readonly (string | null | undefined)[],
  ): Promise<(string | null)[]> {
    this.questions += 1;
    const found: (string | null)[] = [];
    for (const answer of answers) {
      const { value: line } = await this.lines.next();
      if (!line) throw this.ungrouped(`end within question ${this.questions}, which has ${answers.length} answers`);
      this.taken += 1;
      this.check(line, question, answer === null ? "" : answer);
      found.push(line.response?.[0] ?? null);
    }
    return found;
  }

  /** @throws CredenceError "BAD_INPUT" where lines are left */
  async end(): Promise<void> {
    if (this.taken < this.records) throw this.ungrouped(`go on after question ${this.questions}, the last one`);
  }

  private ungrouped(how: string): CredenceError {
    return bad(
      `${this.path}: its ${this.records} lines do not come in groups, one line for each answer of each question in their order: they ${how}. Is it of another run, or not finished? Give the verdicts on these answers, whole`,
    );
  }

  private check(line: z.infer<typeof verdictSchema>, question?: string, answer?: string): void {
    const asked = line.original_question ?? line.question;
    const other = (what: string) =>
      bad(
        `${this.path}: record ${this.taken} judges ${what}. It is of another run: give the verdicts on these answers`,
      );
    if (question !== undefined && asked !== undefined && asked !== question)
      throw other(`an answer to ${shown(asked)}, where question ${this.questions} is ${shown(question)}`);
    if (answer === undefined) return;
    const judged = line.generated ?? answer;
    const holds = line.original_question === undefined || line.question === undefined || line.question.includes(answer);
    if (judged !== answer || !holds) throw other(`another answer to question ${this.questions} than ${shown(answer)}`);
  }
}

/** A judge's reply as 0 or 1, null where it says neither. B9-15: never null. */
export const replyVerdict = (reply: string | null, compat: ElicalCompat): 0 | 1 | null =>
  compat.has("B9-15") ? publishedVerdict(reply) : readVerdict(reply ?? "");

export interface VerdictOptions {
  compat?: ElicalCompat;
  /** A reply that says neither is an error (default), or a no. */
  unparsed?: "error" | "negative";
}

/** Reads verdicts as 0 and 1 and counts those that say neither. */
export class VerdictReader {
  unparsed = 0;
  private example = "";

  constructor(private readonly options: VerdictOptions) {}

  read(replies: readonly (string | null)[]): (0 | 1)[] {
    return replies.map((reply) => {
      const value = replyVerdict(reply, this.options.compat ?? new Set());
      if (value !== null) return value;
      this.unparsed += 1;
      this.example ||= shown(reply ?? "");
      return 0;
    });
  }

  /** @throws CredenceError "UNPARSED" for replies that said neither, if they are an error */
  end(): void {
    if (this.unparsed === 0 || this.options.unparsed === "negative") return;
    throw new CredenceError(
      "UNPARSED",
      `${this.unparsed} verdicts say neither "certain" nor "uncertain", e.g. ${this.example}. ` +
        "Take another judge, count them as uncertain (--unparsed negative), or read all as published (--compat B9-15)",
    );
  }
}

/**
 * All verdicts of a file, a list for each question.
 *
 * @param options.group answers of each question, and `answers`, where they are known, the answers themselves
 * @throws CredenceError as VerdictFile and VerdictReader
 */
export async function readVerdicts(
  path: string,
  questions: readonly string[],
  { group, answers, ...options }: VerdictOptions & { group: number; answers?: readonly (readonly (string | null)[])[] },
): Promise<{ values: (0 | 1)[][]; unparsed: number }> {
  const file = await VerdictFile.open(path);
  const reader = new VerdictReader(options);
  const values: (0 | 1)[][] = [];
  for (const [i, question] of questions.entries())
    values.push(reader.read(await file.next(question, answers?.[i] ?? Array(group).fill(undefined))));
  await file.end();
  reader.end();
  return { values, unparsed: reader.unparsed };
}

const shown = (value: string): string => JSON.stringify(value.length > 80 ? `${value.slice(0, 77)}...` : value);
