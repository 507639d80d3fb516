/** Everything that is inferred of question sets: answers, then a judge's verdicts on them, under the published names. */
import { z } from "zod";
import { readRecords } from "../../../data/readers.js";
import type { Responder } from "../../../evaluation/judges/responder.js";
import type { Policy } from "../../../policy/policy.js";
import type { Progress } from "../../../tracking/progress.js";
import { writeConsistencyRequests } from "./consistency.js";
import { type GenerationSettings, generationPass, judgePass, type PassRow } from "./infer.js";
import { type AnswersPlace, answersPaths, type Split } from "./paths.js";
import { judgePrompts, questionPrompts } from "./prompts.js";
import { readAnswers } from "./verdicts.js";

/** A question set's file of questions, and where its answers go. */
export interface InferSet {
  questions: string;
  place: AnswersPlace & { questionType: keyof typeof questionPrompts & ("long_qa" | "long_mc_qa"); samples: number };
}

export interface InferContext {
  progress: Progress;
  signal?: AbortSignal;
}

/** Sets whose published evaluation file is their split dev. */
const testedOnDev = new Set(["2wikimultihopqa", "hq", "tq", "musique", "squad", "complex_web_questions"]);

/** Name of the file that a set is trained or evaluated on. */
export const questionsSplit = (dataset: string, split: Split): "train" | "dev" | "test" =>
  split === "test" && testedOnDev.has(dataset) ? "dev" : split;

const questionSchema = z.looseObject({
  question: z.string({ error: () => "a string" }),
  answer: z.array(z.string({ error: () => "a string" }), { error: () => 'a list of strings, e.g. ["Rhone", "Rhône"]' }),
});

/** Rows of a file of questions, asked as `ask` says. */
export async function questionRows(path: string, ask: (question: string) => string): Promise<PassRow[]> {
  const rows = await readRecords(path, questionSchema);
  return rows.map((input) => ({ input, instruction: ask(input.question) }));
}

/** Rows of a file of requests whether two answers mean the same. */
export async function agreementRows(path: string): Promise<PassRow[]> {
  const rows = await readRecords(path, z.looseObject({ question: z.string({ error: () => "a string" }) }));
  return rows.map((input) => ({ input, instruction: judgePrompts.consistency(input.question) }));
}

/** A row for each answer in a file of answers: whether it is one of those expected. */
export async function correctnessRows(path: string, samples: number): Promise<PassRow[]> {
  const rows = await readAnswers(path, samples);
  return rows.flatMap(({ question, answer, response }) =>
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
    const judged = (rows: PassRow[], output: string, what: string) =>
      judgePass(responder, rows, settings, { ...context, output, label: `${place.dataset}: judging ${what}` });
    await writeConsistencyRequests(paths, place.samples);
    await judged(await agreementRows(paths.consistencyRequests), paths.consistency, "agreement");
    await judged(await correctnessRows(paths.greedy, 1), paths.greedyJudged, "answers");
    await judged(await correctnessRows(paths.sampled, place.samples), paths.sampledJudged, "samples");
  }
}
