/**
 * The public sets that calibration-tuning is trained and evaluated on: what a record of each holds as published on the
 * Hugging Face hub, and how it is put, as a choice of letters or to be answered in words. Headings, options and their order
 * are the published ones; the directives (`directive`) are our own words, and can be replaced where a published text is to
 * be had again to the letter.
 */
import { CredenceError } from "../../errors.js";
import type { Style } from "./wire.js";

/** A record as it lies in its set. */
export type SetRecord = Record<string, unknown>;

/** A record made ready. */
export interface Item {
  /** What stands before the options where letters are chosen. */
  choice: string;
  options: readonly string[];
  /** Place of the right option. */
  right: number;
  /** What stands behind the directive where words are asked for. */
  words: string;
  /** What is said there for an option; default the option itself. */
  say?: (option: number) => string;
}

export interface QuestionSet {
  /** On the hub. */
  source: string;
  /** Its parts by their names there; what is missing has no answers. */
  splits: { train?: string; validation?: string; test?: string };
  /** Where few-shot examples are drawn. */
  pool: string;
  /** Sets that are evaluated on alone; no part of the mixture. */
  evaluationOnly?: true;
  /** Which records are asked; default all. */
  keep?: (record: SetRecord) => boolean;
  /** What fields are called in other files of the set. */
  otherNames?: Readonly<Record<string, string>>;
  /** @param random a permutation of the numbers below `count`, the record's own */
  read(record: Fields, random: (count: number) => number[]): Item;
  /** What the answer follows where words are asked for; default "\nAnswer:". */
  wordsPrompt?: string;
  /** An instruction before the question where words are asked for. */
  directive?: string;
  /** Before the question where words are asked for and no example is given; glued to what follows. */
  withoutExamples?: string;
  /** "The following are ...", by style. */
  header: Record<Style, string>;
  footer: string;
  /** Where words are asked for the question is glued to the footer. */
  gluedFooter?: true;
}

/** A record's fields, with errors that say where it lies. */
export class Fields {
  constructor(
    readonly record: SetRecord,
    readonly place: string,
  ) {}

  text(name: string): string {
    const value = this.record[name];
    if (typeof value !== "string") throw this.bad(name, "a text");
    return value;
  }

  /** A whole number, also as a text. */
  number(name: string): number {
    const value = this.record[name];
    const number = typeof value === "bigint" || typeof value === "string" ? Number(value) : value;
    if (typeof number !== "number" || !Number.isInteger(number) || value === "") throw this.bad(name, "a whole number");
    return number;
  }

  flag(name: string): boolean {
    const value = this.record[name];
    if (typeof value !== "boolean") throw this.bad(name, "true or false");
    return value;
  }

  texts(name: string): string[] {
    const value = this.record[name];
    if (!Array.isArray(value) || value.some((one) => typeof one !== "string")) throw this.bad(name, "a list of texts");
    return value as string[];
  }

  within(name: string): Fields {
    const value = this.record[name];
    if (typeof value !== "object" || value === null || Array.isArray(value)) throw this.bad(name, "an object");
    return new Fields(value as SetRecord, `${this.place}: "${name}"`);
  }

  /** The place of a key like "A" or "1". */
  key(name: string): number {
    const key = this.text(name).toLowerCase();
    const place = /^[a-z]$/.test(key) ? key.charCodeAt(0) - 97 : /^[1-9]$/.test(key) ? Number(key) - 1 : -1;
    if (place < 0) throw this.bad(name, "a letter or a number from 1");
    return place;
  }

  bad(name: string, expected: string): CredenceError {
    return new CredenceError("BAD_INPUT", `${this.place}: "${name}" is not ${expected}`);
  }
}

const heading = (name: string, text: string): string => `${name}:\n${text}`;
const question = (text: string): Pick<Item, "choice" | "words"> => ({
  choice: heading("Question", text),
  words: `Question: ${text}`,
});
const numbered = (option: number): string => String(option + 1);

const answers = { choice: "questions (with multiple-choice answers)", oe: "questions (with answers)" };
const plainAnswers = { choice: "questions with multiple-choice answers", oe: "questions with answers" };
const entailment = "questions (with premise, hypothesis, and answers) about entailment";
const [following, next] = ["Now, answer the following.", "Now, answer the next question."];
const all = { train: "train", validation: "validation", test: "test" };
const twoParts = { train: "train", validation: "validation" };

const distinct = (options: readonly unknown[]): boolean => new Set(options).size === options.length;
const choicesOf = (record: SetRecord): unknown[] =>
  ((record.choices as { text?: unknown[] } | undefined)?.text as unknown[]) ?? [];
const labelled = ({ label }: SetRecord): boolean => [0, 1, 2].includes(Number(label));

const arc = (source: string): QuestionSet => ({
  source,
  splits: all,
  pool: "train",
  read: (record) => ({
    choice: heading("Question", record.text("question")),
    words: `The question is: ${record.text("question")}`,
    options: record.within("choices").texts("text"),
    right: record.key("answerKey"),
  }),
  header: answers,
  footer: following,
});

const entails = (
  options: readonly string[],
  {
    point,
    ...rest
  }: Pick<QuestionSet, "source" | "splits" | "pool" | "keep"> & {
    point: string;
    header: QuestionSet["header"];
  },
): QuestionSet => ({
  ...rest,
  directive:
    'Does the hypothesis follow from the premise? Say "Yes", "No" or "It\'s impossible to say", and nothing else.',
  read: (record) => {
    const [premise, hypothesis] = [record.text("premise"), record.text("hypothesis")];
    return {
      choice: `${heading("Premise", premise)}\n\n${heading("Hypothesis", hypothesis)}`,
      words: `${premise}\nHypothesis: ${hypothesis}${point}`,
      options,
      right: record.number("label"),
    };
  },
  footer: following,
});

const undecided = ["Yes", "It's impossible to say", "No"];
const entailmentHeaders = { choice: "questions (with multiple-choice answers) about entailment", oe: entailment };
const anli = (round: number): QuestionSet =>
  entails(undecided, {
    source: "facebook/anli",
    splits: { train: `train_r${round}`, test: `test_r${round}` },
    pool: `dev_r${round}`,
    keep: labelled,
    point: "",
    header: entailmentHeaders,
  });

/** "a ) 24 , b ) 120": what follows the last parenthesis of each part. */
const mathOptions = (text: string): string[] => text.split(",").map((part) => part.split(")").at(-1)!.trim());

const trecClasses = [
  "Abbreviation",
  "Entity",
  "Description and abstract concept",
  "Human being",
  "Location",
  "Numeric value",
];

const shortAnswer =
  "Give the answer alone, as short as can be, with no explanation.\nAn example:\nAnswer: <the answer>.";

const paragraph = (text: string, asked: string): Pick<Item, "choice" | "words"> => ({
  choice: `${heading("Context", text)}\n\n${heading("Question", asked)}`,
  words: `Paragraph: ${text}\nQuestion: ${asked}`,
});
const readAndAnswer = "Answer the question about what stands here.";

/** Every set by its published name. */
export const questionSets = {
  anli_r1: anli(1),
  anli_r2: anli(2),
  anli_r3: anli(3),
  arc: arc("allenai/ai2_arc: ARC-Easy"),
  arc_challenge: arc("allenai/ai2_arc: ARC-Challenge"),
  boolq: {
    source: "google/boolq",
    splits: twoParts,
    pool: "train",
    directive: 'Answer the question about the passage. Say "True" or "False", and nothing else.',
    read: (record) => ({
      choice: `${heading("Passage", record.text("passage"))}\n\n${heading("Question", record.text("question"))}`,
      words: `Passage: ${record.text("passage")}\nQuestion: ${record.text("question")}?`,
      options: ["False", "True"],
      right: record.flag("answer") ? 1 : 0,
    }),
    header: {
      choice: "comprehension passages (with multiple-choice answers)",
      oe: "comprehension passages (with answers)",
    },
    footer: following,
  },
  cb: entails(["Yes", "No", "It's impossible to say"], {
    source: "aps/super_glue: cb",
    splits: twoParts,
    pool: "train",
    point: ".",
    header: { choice: entailment, oe: entailment },
  }),
  commonsense_qa: {
    source: "tau/commonsense_qa",
    splits: twoParts,
    pool: "train",
    keep: (record) => distinct(choicesOf(record)),
    read: (record) => ({
      ...question(record.text("question")),
      options: record.within("choices").texts("text"),
      right: record.key("answerKey"),
    }),
    header: answers,
    footer: following,
  },
  copa: {
    source: "aps/super_glue: copa",
    splits: twoParts,
    pool: "train",
    directive: 'Which choice goes with the premise? Say "1" or "2", and nothing else.',
    read: (record) => {
      const [premise, first, second] = [record.text("premise"), record.text("choice1"), record.text("choice2")];
      return {
        choice: heading("Premise", premise),
        words: `Premise: ${premise}\n  Choice 1: ${first}\n  Choice 2: ${second}`,
        options: [first, second],
        right: record.number("label"),
        say: numbered,
      };
    },
    header: answers,
    footer: following,
  },
  cosmos_qa: {
    source: "allenai/cosmos_qa",
    splits: twoParts,
    pool: "train",
    directive: readAndAnswer,
    read: (record) => ({
      ...paragraph(record.text("context"), record.text("question")),
      options: [0, 1, 2, 3].map((i) => record.text(`answer${i}`)),
      right: record.number("label"),
    }),
    header: {
      choice: "some contexts and questions (with multiple-choice answers)",
      oe: "some contexts and questions (with answers)",
    },
    footer: following,
  },
  hellaswag: {
    source: "Rowan/hellaswag",
    splits: twoParts,
    pool: "train",
    directive: "How does this paragraph go on?",
    wordsPrompt: "\nEnding:",
    read: (record) => {
      const context = ["ctx", "ctx_a", "ctx_b"].map((name) => record.text(name)).join(" ");
      return {
        choice: heading("Context", context),
        words: context,
        options: record.texts("endings"),
        right: record.number("label"),
      };
    },
    header: {
      choice: "some context completions (with multiple-choice answers)",
      oe: "some context completions (with answers)",
    },
    footer: following,
  },
  math_qa: {
    source: "allenai/math_qa",
    splits: all,
    pool: "train",
    keep: ({ options }) => distinct(mathOptions(String(options))),
    directive: "Solve this problem as well as you can.",
    read: (record) => ({
      choice: heading("Problem", record.text("Problem")),
      words: `Problem: ${record.text("Problem")}`,
      options: mathOptions(record.text("options")),
      right: record.key("correct"),
    }),
    header: { choice: "math questions (with multiple-choice answers)", oe: "math questions (with answers)" },
    footer: next,
  },
  multirc: {
    source: "aps/super_glue: multirc",
    splits: twoParts,
    pool: "train",
    directive:
      'A passage, a question about it and an answer follow. Is the answer right? Say "Yes" or "No", and nothing else.',
    wordsPrompt: "\nResponse:",
    read: (record) => {
      const [text, asked, answer] = [record.text("paragraph"), record.text("question"), record.text("answer")];
      return {
        choice: `${heading("Paragraph", text)}\n\nQ: ${asked}\n\nA: ${answer}`,
        words: `Passage: ${text}\nQuestion: ${asked}\nAnswer: ${answer}. Is the answer correct?`,
        options: ["No", "Yes"],
        right: record.number("label"),
      };
    },
    header: {
      choice: "reading comprehensions (with multiple-choice answers)",
      oe: "reading comprehensions (with answers)",
    },
    footer: following,
  },
  obqa: {
    source: "allenai/openbookqa",
    splits: all,
    pool: "train",
    directive: "Answer this question as well as you can.",
    read: (record) => ({
      ...question(record.text("question_stem")),
      options: record.within("choices").texts("text"),
      right: record.key("answerKey"),
    }),
    header: plainAnswers,
    footer: next,
  },
  piqa: {
    source: "ybisk/piqa",
    splits: twoParts,
    pool: "train",
    keep: labelled,
    directive: "How is this goal reached?",
    withoutExamples: "Give the advice alone, in one short sentence.\nAn example:\nAnswer: <the advice>.",
    read: (record) => ({
      choice: heading("Goal", record.text("goal")),
      words: `Goal: ${record.text("goal")}`,
      options: [record.text("sol1"), record.text("sol2")],
      right: record.number("label"),
    }),
    header: plainAnswers,
    footer: next,
  },
  sciq: {
    source: "allenai/sciq",
    splits: all,
    pool: "train",
    keep: (record) => distinct([record.distractor1, record.distractor2, record.distractor3, record.correct_answer]),
    directive: readAndAnswer,
    withoutExamples: shortAnswer,
    read: (record, random) => {
      const names = ["distractor1", "distractor2", "distractor3", "correct_answer"];
      const order = random(4);
      const [support, asked] = [record.text("support"), record.text("question")];
      return {
        choice: `${support === "" ? "" : `Support:\n${support}\n`}\nQuestion:\n${asked}`,
        words: `${support === "" ? "" : `${support}\n`}Question: ${asked}`,
        options: order.map((i) => record.text(names[i]!)),
        right: order.indexOf(3),
      };
    },
    header: {
      choice: "science exam questions with multiple-choice answers",
      oe: "science exam questions with answers",
    },
    footer: next,
  },
  siqa: {
    source: "allenai/social_i_qa",
    splits: twoParts,
    pool: "train",
    keep: ({ answerA, answerB, answerC }) => distinct([answerA, answerB, answerC]),
    directive: readAndAnswer,
    withoutExamples: shortAnswer,
    read: (record) => ({
      ...paragraph(record.text("context"), record.text("question")),
      options: ["A", "B", "C"].map((letter) => record.text(`answer${letter}`)),
      right: record.number("label") - 1,
    }),
    header: {
      choice: "social interaction questions with multiple-choice answers",
      oe: "social interaction questions with answers",
    },
    footer: next,
  },
  snli: entails(undecided, {
    source: "stanfordnlp/snli",
    splits: all,
    pool: "train",
    keep: labelled,
    point: "",
    header: entailmentHeaders,
  }),
  story_cloze: {
    source: "LSDSem/story_cloze: 2018",
    splits: { validation: "validation" },
    pool: "validation",
    otherNames: {
      ...Object.fromEntries([1, 2, 3, 4].map((i) => [`InputSentence${i}`, `input_sentence_${i}`])),
      RandomFifthSentenceQuiz1: "sentence_quiz1",
      RandomFifthSentenceQuiz2: "sentence_quiz2",
      AnswerRightEnding: "answer_right_ending",
    },
    directive: "How does this story end?",
    wordsPrompt: "\nEnding:",
    read: (record) => {
      const story = [1, 2, 3, 4].map((i) => record.text(`input_sentence_${i}`)).join(" ");
      return {
        choice: heading("Story", story),
        words: story,
        options: [record.text("sentence_quiz1"), record.text("sentence_quiz2")],
        right: record.number("answer_right_ending") - 1,
      };
    },
    header: { choice: "stories with endings (multiple-choice)", oe: "stories (with endings)" },
    footer: "Now, complete the next story.",
  },
  trec: {
    source: "CogComp/trec",
    splits: { train: "train", test: "test" },
    pool: "train",
    directive: "To which category does this question belong?",
    read: (record) => ({
      choice: heading("Question", record.text("text")),
      words: `Question: ${record.text("text")}\nThe categories are ${trecClasses.join(", ")}. Say one of them, and nothing else.`,
      options: trecClasses,
      right: record.number("coarse_label"),
    }),
    header: plainAnswers,
    footer: next,
    gluedFooter: true,
  },
  truthful_qa: {
    source: "truthfulqa/truthful_qa: multiple_choice",
    splits: { validation: "validation" },
    pool: "validation",
    read: (record) => {
      const targets = record.within("mc1_targets");
      const labels = targets.record.labels;
      if (!Array.isArray(labels)) throw targets.bad("labels", "a list of numbers");
      const right = labels.findIndex((label) => Number(label) === 1);
      return { ...question(record.text("question")), options: targets.texts("choices"), right };
    },
    header: plainAnswers,
    footer: next,
  },
  winogrande: {
    source: "allenai/winogrande: winogrande_xl",
    splits: twoParts,
    pool: "train",
    keep: ({ answer }) => answer === "1" || answer === "2",
    directive: 'Which choice has the right words in the place of "_"? Say "1" or "2", and nothing else.',
    read: (record) => {
      const [sentence, first, second] = [record.text("sentence"), record.text("option1"), record.text("option2")];
      const filled = (words: string) => sentence.replace("_", () => words);
      return {
        choice: heading("Sentence", sentence),
        words: `Sentence: ${sentence}\n  Choice 1: ${filled(first)}\n  Choice 2: ${filled(second)}`,
        options: [first, second],
        right: record.number("answer") - 1,
        say: numbered,
      };
    },
    header: { choice: "ambiguous sentences (with answer choices)", oe: "ambiguous sentences (with answers)" },
    footer: "Now, resolve the next ambiguity.",
  },
  wsc: {
    source: "ErnestSDavis/winograd_wsc: wsc285",
    splits: { test: "test" },
    pool: "test",
    directive: "Whom or what does the pronoun in this sentence mean?",
    read: (record) => ({
      choice: heading("Sentence", record.text("text")),
      words: record.text("text"),
      options: record.texts("options"),
      right: record.number("label"),
    }),
    header: { choice: "ambiguous sentences (with answer choices)", oe: "ambiguous sentences (with answers)" },
    footer: "Now, resolve the next ambiguity.",
  },
  gsm8k: {
    source: "openai/gsm8k: main",
    splits: { train: "train", test: "test" },
    pool: "train",
    evaluationOnly: true,
    read: (record) => ({ ...question(record.text("question")), options: [record.text("answer")], right: 0 }),
    header: { choice: "", oe: "math questions (with answers)" },
    footer: next,
  },
} satisfies Record<string, QuestionSet>;

export type SetName = keyof typeof questionSets;

/** The sets of a mixture, in the order in which they are mixed. Words cannot be judged where a paragraph is gone on with. */
export const mixtureNames = (style: Style): SetName[] =>
  (Object.keys(questionSets) as SetName[])
    .filter((name) => !("evaluationOnly" in questionSets[name]) && !(style === "oe" && name === "hellaswag"))
    .sort();

const title = (task: string): string => {
  const words = task.replaceAll("_", " ").toLowerCase();
  return words.charAt(0).toUpperCase() + words.slice(1);
};

const about = (task: string): Record<Style, string> => ({
  choice: `multiple-choice questions (with answers) about ${title(task)}`,
  oe: `questions (with answers) about ${title(task)}`,
});

/** One of MMLU's 57 tasks, from a file or folder of that task's records. */
export const mmluSet = (task: string): QuestionSet => ({
  source: `cais/mmlu: ${task}`,
  splits: { validation: "validation", test: "test" },
  pool: "dev",
  evaluationOnly: true,
  read: (record) => ({
    ...question(record.text("question")),
    options: record.texts("choices"),
    right: record.number("answer"),
  }),
  header: about(task),
  footer: next,
});

/** One of MMLU-Pro's 14 categories, of the whole set's records. */
export const mmluProSet = (category: string): QuestionSet => ({
  source: "TIGER-Lab/MMLU-Pro",
  splits: { test: "test" },
  pool: "validation",
  evaluationOnly: true,
  keep: (record) => record.category === category.replaceAll("_", " "),
  read: (record) => ({
    ...question(record.text("question")),
    options: record.texts("options"),
    right: record.number("answer_index"),
  }),
  header: about(category),
  footer: next,
});
