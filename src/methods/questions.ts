/** The questions of a run: facts about the world or a file, without those that give their answer away, split by group. */
import { join } from "node:path";
import { NumpyRandom, permutation } from "../data/random.js";
import { fromJsonLines, readRecords, toJsonLines } from "../data/readers.js";
import { questionSchema } from "../data/records.js";
import { elicalReferenceSplit } from "../data/splits.js";
import { CredenceError } from "../errors.js";
import { hasAnswer } from "../evaluation/match.js";
import { readJson, readText, writeFileAtomic, writeJsonAtomic } from "../files.js";
import { worldFacts } from "./world-facts.js";

export interface AskedQuestion {
  id: string;
  question: string;
  /** Every wording that counts as right. */
  answer: string[];
  /** What a split keeps on one side. */
  group: string;
  /** What kind of question it is, for the rate of the kind. */
  kind: string;
  part: "train" | "test";
  /** The file it is from, where there are several. */
  set?: string;
}

/** Where a recipe's questions are from; what each is, the recipe's schema says. */
export interface QuestionSettings {
  /** "world-facts", a file of questions, or several files, each a set with a name of its own. */
  file: string | readonly { path: string; set: string; limit: number | null }[];
  seed: number;
  limit: number | null;
  keepGiven: boolean;
  testShare: number;
}

export const questionsFile = "questions.jsonl";

/** Fewest groups that a split and a choice among the training groups can work with. */
const fewestGroups = 5;

type Read = Omit<AskedQuestion, "part">;

/** The questions of one file. */
async function readFile(path: string, set?: string): Promise<Read[]> {
  const all: Read[] = [];
  for (const [place, record] of (await readRecords(path, questionSchema)).entries()) {
    const { id: own = String(place + 1), question, answer, kind } = record;
    if (question === undefined) {
      throw new CredenceError(
        "BAD_INPUT",
        `${path}: record ${place + 1} has "messages" only; this method asks a "question", a string`,
      );
    }
    const id = set === undefined ? own : `${set}-${own}`;
    const { group = id } = record;
    const named = { ...record, id, question, answer, group, kind: typeof kind === "string" ? kind : (set ?? "all") };
    all.push(set === undefined ? named : { ...named, set });
  }
  return all;
}

/** Without those whose answer stands in them, unless they are asked for. */
const without = (all: Read[], { keepGiven }: QuestionSettings): Read[] =>
  keepGiven ? all : all.filter(({ question, answer }) => !hasAnswer(answer, question));

/** What the recipe names, and how many questions were left out because their answer stands in them. */
async function readAll(settings: QuestionSettings): Promise<{ kept: Read[]; dropped: number }> {
  if (typeof settings.file === "string") {
    const all = settings.file === "world-facts" ? worldFacts({ keepGiven: true }) : await readFile(settings.file);
    const kept = without(all, settings);
    return { kept, dropped: all.length - kept.length };
  }
  const kept: Read[] = [];
  let dropped = 0;
  for (const [place, { path, set, limit }] of settings.file.entries()) {
    const all = await readFile(path, set);
    const own = without(all, settings);
    dropped += all.length - own.length;
    if (limit !== null && own.length < limit) {
      throw new CredenceError(
        "BAD_INPUT",
        `${path}: ${own.length} questions of the set ${set} can be used (${all.length - own.length} left out because their answer stands in them); ` +
          `its limit is ${limit}. Lower the limit, or leave it out to take all`,
      );
    }
    const places = own.map((_, i) => i);
    const taken =
      limit === null ? places : permutation(places, new NumpyRandom([settings.seed, place])).slice(0, limit);
    kept.push(...taken.sort((a, b) => a - b).map((i) => own[i]!));
  }
  return { kept, dropped };
}

/** All questions of a recipe, training ones first, each part in its shuffled order. */
export async function prepareQuestions({
  questions: settings,
}: {
  questions: QuestionSettings;
}): Promise<{ questions: AskedQuestion[]; dropped: number }> {
  const { kept, dropped } = await readAll(settings);
  const where = typeof settings.file === "string" ? settings.file : settings.file.map(({ path }) => path).join(", ");
  const groups = new Set(kept.map(({ group }) => group)).size;
  if (groups < fewestGroups) {
    throw new CredenceError(
      "BAD_INPUT",
      `${where}: ${kept.length} questions in ${groups} groups (${dropped} left out because their answer stands in them); ` +
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
      `${where}: ${train.length} training and ${test.length} test questions. Raise questions.limit, or change questions.testShare`,
    );
  }
  const part = (places: number[], name: AskedQuestion["part"]) =>
    places.map((place): AskedQuestion => ({ ...kept[place]!, part: name }));
  return { questions: [...part(train, "train"), ...part(test, "test")], dropped };
}

const droppedFile = "dropped.json";

/** The work of a recipe's first stage: its questions and how many were left out, written where later stages read them. */
export async function keepQuestions(
  directory: string,
  recipe: { questions: QuestionSettings },
): Promise<{ questions: AskedQuestion[]; dropped: number }> {
  const prepared = await prepareQuestions(recipe);
  writeJsonAtomic(join(directory, droppedFile), { answerInQuestion: prepared.dropped });
  writeQuestions(directory, prepared.questions);
  return prepared;
}

/** How many questions a stage left out because their answer stands in them. */
export const readDropped = (directory: string): number =>
  (readJson(join(directory, droppedFile)) as { answerInQuestion: number }).answerInQuestion;

export const writeQuestions = (directory: string, questions: AskedQuestion[]): void =>
  writeFileAtomic(join(directory, questionsFile), toJsonLines(questions));

export const readStageQuestions = (directory: string): AskedQuestion[] =>
  fromJsonLines<AskedQuestion>(readText(join(directory, questionsFile)));
