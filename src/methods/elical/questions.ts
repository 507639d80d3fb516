/** The questions of a run: facts about the world or a file, without those that give their answer away, split by group. */
import { join } from "node:path";
import { readRecords, toJsonLines } from "../../data/readers.js";
import { questionSchema } from "../../data/records.js";
import { elicalReferenceSplit } from "../../data/splits.js";
import { CredenceError } from "../../errors.js";
import { hasAnswer } from "../../evaluation/match.js";
import { readText, writeFileAtomic } from "../../files.js";
import type { ElicalRecipe } from "./recipe.js";
import { worldFacts } from "./world-facts.js";

export interface ElicalQuestion {
  id: string;
  question: string;
  /** Every wording that counts as right. */
  answer: string[];
  /** What a split keeps on one side. */
  group: string;
  /** What kind of question it is, for the rate of the kind. */
  kind: string;
  part: "train" | "test";
}

export const questionsFile = "questions.jsonl";

/** Fewest groups that a split and a choice among the training groups can work with. */
const fewestGroups = 5;

/** All questions of a recipe, training ones first, each part in its shuffled order. */
export async function prepareQuestions({
  questions: settings,
}: ElicalRecipe): Promise<{ questions: ElicalQuestion[]; dropped: number }> {
  const all: Omit<ElicalQuestion, "part">[] = [];
  if (settings.file === "world-facts") all.push(...worldFacts({ keepGiven: true }));
  else {
    for (const [place, record] of (await readRecords(settings.file, questionSchema)).entries()) {
      const { id = String(place + 1), question, answer, group = id, kind } = record;
      if (question === undefined) {
        throw new CredenceError(
          "BAD_INPUT",
          `${settings.file}: record ${place + 1} has "messages" only; this method asks a "question", a string`,
        );
      }
      all.push({ ...record, id, question, answer, group, kind: typeof kind === "string" ? kind : "all" });
    }
  }
  const kept = settings.keepGiven ? all : all.filter(({ question, answer }) => !hasAnswer(answer, question));
  const groups = new Set(kept.map(({ group }) => group)).size;
  if (groups < fewestGroups) {
    throw new CredenceError(
      "BAD_INPUT",
      `${settings.file}: ${kept.length} questions in ${groups} groups (${all.length - kept.length} left out because their answer stands in them); ` +
        `expected at least ${fewestGroups} groups, so that some can be held out`,
    );
  }
  const { train, test } = elicalReferenceSplit(kept, {
    limit: settings.limit ?? undefined,
    trainShare: 1 - settings.testShare,
  });
  if (!train.length || !test.length) {
    throw new CredenceError(
      "BAD_INPUT",
      `${settings.file}: ${train.length} training and ${test.length} test questions. Raise questions.limit, or change questions.testShare`,
    );
  }
  const part = (places: number[], name: ElicalQuestion["part"]) =>
    places.map((place): ElicalQuestion => ({ ...kept[place]!, part: name }));
  return { questions: [...part(train, "train"), ...part(test, "test")], dropped: all.length - kept.length };
}

export const writeQuestions = (directory: string, questions: ElicalQuestion[]): void =>
  writeFileAtomic(join(directory, questionsFile), toJsonLines(questions));

export const readStageQuestions = (directory: string): ElicalQuestion[] =>
  readText(join(directory, questionsFile))
    .trim()
    .split("\n")
    .map((line) => JSON.parse(line) as ElicalQuestion);
