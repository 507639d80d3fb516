/** Everything that is inferred of question sets: answers, then a judge's verdicts on them, under the published names. */
import { z } from "zod";
import { openRecords, type RecordFile } from "../../../data/readers.js";
import { CredenceError } from "../../../errors.js";
import type { Responder } from "../../../evaluation/judges/responder.js";
import { sha256File } from "../../../files.js";
import type { Policy } from "../../../policy/policy.js";
import type { PassContext } from "../../passes.js";
import { publishedShots, verbalRequest } from "../asking.js";
import { writeConsistencyRequests } from "./consistency.js";
import { type GenerationSettings, generationPass, judgePass, type PassRow, type PassRows } from "./infer.js";
import { type AnswersPlace, answersPaths, type Split, statedPath } from "./paths.js";
import { judgePrompts, questionPrompts } from "./prompts.js";
import { openAnswers, readAnswers, readVerdicts, type VerdictOptions } from "./verdicts.js";

/** A question set's file of questions, and where its answers go. */
export interface InferSet {
  questions: string;
  place: AnswersPlace & { questionType: keyof typeof questionPrompts & ("long_qa" | "long_mc_qa"); samples: number };
}

export type InferContext = Pick<PassContext, "progress" | "signal" | "notNeeded">;

/** Sets whose published evaluation file is their split dev. */
const testedOnDev = new Set(["2wikimultihopqa", "hq", "tq", "musique", "squad", "complex_web_questions"]);

/** Name of the file that a set is trained or evaluated on. */
export const questionsSplit = (dataset: string, split: Split): "train" | "dev" | "test" =>
  split === "test" && testedOnDev.has(dataset) ? "dev" : split;

const questionSchema = z.looseObject({
  question: z.string({ error: () => "a string" }),
  answer: z.array(z.string({ error: () => "a string" }), { error: () => 'a list of strings, e.g. ["Rhone", "Rhône"]' }),
});

/** What a pass goes over: `each` rows a record of a file, as `expand` makes them. */
const passRows = <T>(path: string, file: RecordFile<T>, each: number, expand: (record: T) => PassRow[]): PassRows => ({
  count: file.records * each,
  digest: sha256File(path),
  async *read(from, to) {
    let place = Math.floor(from / each) * each;
    for await (const records of file.read(place / each, Math.ceil(to / each))) {
      for (const row of records.flatMap(expand)) {
        if (place >= from && place < to) yield row;
        place += 1;
      }
    }
  },
});

/** A file of questions, asked as `ask` says. */
export async function questionRows(path: string, ask: (question: string) => string): Promise<PassRows> {
  const expand = (input: z.infer<typeof questionSchema>) => [{ input, instruction: ask(input.question) }];
  return passRows(path, await openRecords(path, questionSchema), 1, expand);
}

/** A file of requests whether two answers mean the same. */
export async function agreementRows(path: string): Promise<PassRows> {
  const schema = z.looseObject({ question: z.string({ error: () => "a string" }) });
  const expand = (input: z.infer<typeof schema>) => [{ input, instruction: judgePrompts.consistency(input.question) }];
  return passRows(path, await openRecords(path, schema), 1, expand);
}

/** A row for each answer in a file of answers: whether it is one of those expected. */
export async function correctnessRows(path: string, samples: number): Promise<PassRows> {
  return passRows(path, await openAnswers(path, samples), samples, ({ question, answer, response }) =>
    response.map((text) => {
      const generated = text ?? "";
      const instruction = judgePrompts.llm_judge_gold(question, answer, generated);
      return { input: { question, answer, generated }, instruction };
    }),
  );
}

/** The greedy answer of every question, then the sampled ones. */
export async function answerSets(
  policy: Policy,
  sets: readonly InferSet[],
  settings: Omit<GenerationSettings, "samples" | "tokens" | "logprobs">,
  context: InferContext,
  chunk?: number,
): Promise<void> {
  for (const { questions, place } of sets) {
    const paths = answersPaths(place);
    const rows = await questionRows(questions, questionPrompts[place.questionType]);
    const pass = (output: string, what: string) => ({ ...context, output, label: `${place.dataset}: ${what}` });
    const greedy = { ...settings, temperature: 0, samples: 1, tokens: true, logprobs: true };
    await generationPass(policy, rows, greedy, pass(paths.greedy, "answering"), chunk);
    const sampled = { ...settings, samples: place.samples, tokens: false, logprobs: false };
    await generationPass(policy, rows, sampled, pass(paths.sampled, "sampling"), chunk);
  }
}

/** A judge's verdicts on agreement, on the greedy answers and on the sampled ones. */
export async function judgeSets(
  responder: Responder,
  sets: readonly InferSet[],
  settings: Record<string, unknown>,
  context: InferContext,
): Promise<void> {
  for (const { place } of sets) {
    const paths = answersPaths(place);
    const judged = (rows: PassRows, output: string, what: string) =>
      judgePass(responder, rows, settings, { ...context, output, label: `${place.dataset}: judging ${what}` });
    await writeConsistencyRequests(paths, place.samples);
    await judged(await agreementRows(paths.consistencyRequests), paths.consistency, "agreement");
    await judged(await correctnessRows(paths.greedy, 1), paths.greedyJudged, "answers");
    await judged(await correctnessRows(paths.sampled, place.samples), paths.sampledJudged, "samples");
  }
}

/**
 * How sure the model says it is of each question, before it answers: a pass a set. Solved examples are questions of the set
 * itself, the same ones before each question, with the share of their samples that were judged right (Verbal-10; published,
 * and so is that ten questions are asked with their own solution in sight).
 *
 * @throws CredenceError "BAD_INPUT" where a set has fewer questions than examples
 */
export async function askHowSure(
  policy: Policy,
  sets: readonly InferSet[],
  { shots, ...settings }: Omit<GenerationSettings, "samples" | "tokens" | "logprobs"> & { shots: number },
  verdicts: VerdictOptions,
  context: InferContext,
  chunk?: number,
): Promise<void> {
  const plain = questionPrompts.prior_conf("{question}");
  for (const { questions, place } of sets) {
    const examples = shots ? await solvedExamples(place, shots, verdicts) : [];
    const asked = await questionRows(questions, (question) => verbalRequest(plain, question, examples));
    const digest = shots ? `${asked.digest} after ${JSON.stringify(examples)}` : asked.digest;
    const told = { ...settings, temperature: 0, samples: 1, tokens: true, logprobs: true };
    const label = `${place.dataset}: asking how sure it is`;
    await generationPass(
      policy,
      { ...asked, digest },
      told,
      { ...context, output: statedPath(place, shots), label },
      chunk,
    );
  }
}

async function solvedExamples(place: InferSet["place"], shots: number, verdicts: VerdictOptions) {
  const { sampled, sampledJudged } = answersPaths(place);
  const answers = await readAnswers(sampled, place.samples);
  if (answers.length < shots)
    throw new CredenceError("BAD_INPUT", `${sampled}: ${shots} examples are more than its ${answers.length} questions`);
  const asked = answers.map(({ question }) => question);
  const given = answers.map(({ response }) => response);
  const { values } = await readVerdicts(sampledJudged, asked, { ...verdicts, group: place.samples, answers: given });
  const scored = values.map((right, i) => ({
    question: asked[i]!,
    score: right.reduce<number>((sum, one) => sum + one, 0) / right.length,
  }));
  return publishedShots(scored, shots);
}
