/** CONQORD's evaluation: metrics, files as published, what a judge sees and how its reply is read. */
import { readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import t from "tap";
import { readTable } from "../src/data/tables.js";
import type { Judge } from "../src/evaluation/judges/judge.js";
import type { Responder } from "../src/evaluation/judges/responder.js";
import type { ConqordCompat } from "../src/methods/conqord/compat.js";
import {
  type AnswerRow,
  answersPath,
  appendScores,
  ratingsPath,
  readAnswers,
  readRatings,
  scoreName,
  scoreRatings,
  scoresPaths,
  writeAnswers,
  writeRatings,
} from "../src/methods/conqord/files.js";
import {
  askedQuestion,
  judgedAnswer,
  type RatingItem,
  rateAnswers,
  ratingJudge,
  ratingRequest,
  ratingScales,
  readRating,
  stringRating,
} from "../src/methods/conqord/judging.js";
import { conqordMetrics, ratedError } from "../src/methods/conqord/metrics.js";
import { evaluationPrefix, evaluationPrompt } from "../src/methods/conqord/prompts.js";
import { referencesOf } from "../src/methods/conqord/references.js";

const none: ConqordCompat = new Set();
const asPublished = (...rows: `A9-${number}`[]): ConqordCompat => new Set(rows);
const rows = (confidences: number[], ratings: number[]) =>
  confidences.map((confidence, i) => ({ confidence, rating: ratings[i]! }));

t.test("calibration error with zeros binned, and dropped as published (A9-7)", async (t) => {
  const some = rows([0.9, 0.9, 0.2, 0, 1, 0], [1, 0, 0, 0, 1, 1]);
  t.equal(ratedError(some, "dropped")!.toFixed(6), "0.166667");
  t.equal(ratedError(some, "binned")!.toFixed(6), "0.333333");
  t.equal((await conqordMetrics(some, asPublished("A9-7"))).ece, ratedError(some, "dropped"));
  t.equal((await conqordMetrics(some, none)).ece, ratedError(some, "binned"));
  t.equal(ratedError([], "binned"), null);
  t.equal(ratedError(rows([0.3, 0.31], [1, 0]), "binned")!.toFixed(3), "0.505", "0.3 is in the third bin");
  t.equal(ratedError(rows([9.9], [1]), "dropped"), 0, "what A9-6 reads above 1 is in no bin either");
});

t.test("metrics of ratings", async (t) => {
  const { accuracy, pearson, pearsonP, spearman, spearmanP, auroc } = await conqordMetrics(
    rows([0.9, 0.9, 0.2, 0, 1, 0, 0.3, 0.7], [1, 0, 0, 0, 1, 1, 0, 1]),
    none,
  );
  t.equal(accuracy, 0.5);
  t.equal(pearson!.toFixed(10), "0.3810003810");
  t.equal(pearsonP!.toFixed(10), "0.3517467828");
  t.equal(spearman!.toFixed(10), "0.3312945782");
  t.equal(spearmanP!.toFixed(10), "0.4227780756");
  t.equal(auroc, 0.6875);
  const constant = await conqordMetrics(rows([0.5, 0.5], [1, 0]), none);
  t.same([constant.pearson, constant.pearsonP, constant.spearman], [null, null, null]);
  t.equal((await conqordMetrics(rows([0.5, 0.6], [0.5, 1]), none)).auroc, null, "ratings between");
});

const place = (root: string, more = {}) => ({
  root,
  data: "truthful_qa",
  mode: "llama2_7b",
  suffix: "conqord",
  step: "0",
  ...more,
});

t.test("files lie where the scripts have them", async (t) => {
  t.equal(answersPath(place("R")), join("R", "answer_csv/truthful_qa/llama2_7b/conqord_all.csv"));
  t.equal(ratingsPath(place("R")), join("R", "rating/truthful_qa/llama2_7b/conqord_gpt_outputs.csv"));
  t.same(scoresPaths(place("R", { step: "30" })), [
    join("R", "rating/truthful_qa/llama2_7b/conqordcorrect_final_score.csv"),
    join("R", "rating/truthful_qa/llama2_7b/correct_final_score.csv"),
  ]);
  t.match(ratingsPath(place("R", { step: "30" })), /conqordstep30_gpt_outputs\.csv$/);
  t.equal(scoreName(place("R", { step: "30" })), "conqordstep30llama2_7b");
});

const question = "Which planet is the largest?";
const prompt = evaluationPrompt("truthful_qa", "answer", question);
const answers: AnswerRow[] = [
  {
    prompt,
    output: "\n\n### Answer: Jupiter.\n\n### Confidence: 0.9.\n\n### Question: more",
    reference: "['Jupiter']",
  },
  {
    prompt: evaluationPrompt("nq", "answer", "who, if anyone?"),
    output: '"Nobody", I think.',
    reference: "['Al \"A\"']",
  },
  { prompt, output: "", reference: "Jupiter" },
];

t.test("answers and ratings have the published columns, and come back as they went", async (t) => {
  const root = t.testdir({});
  writeAnswers(answersPath(place(root)), answers);
  const text = readFileSync(answersPath(place(root)), "utf8");
  t.equal(text.split("\n")[0], "prompt,only_out,seq_conf_arr,gt_answer");
  t.same(await readAnswers(answersPath(place(root))), answers);
  t.equal((await readTable(answersPath(place(root)))).rows[0]![2], answers[0]!.prompt + answers[0]!.output);

  const {
    rows: rated,
    empty,
    unrated,
  } = await rateAnswers(answers, stringRating(), {
    asked: "answer",
    compat: none,
    unrated: "error",
    empty: 0,
  });
  t.same([empty, unrated], [1, 0]);
  t.same(
    rated.map(({ question, answer, rating, reply }) => [question, answer, rating, reply]),
    [
      [question, "\n\n### Answer: Jupiter.\n\n### Confidence: 0.9.", 1, "1"],
      ["who, if anyone?", '"Nobody", I think.', 0, "0"],
      [question, "", 0, ""],
    ],
  );
  writeRatings(ratingsPath(place(root)), rated);
  const written = readFileSync(ratingsPath(place(root)), "utf8");
  t.equal(written.split("\n")[0], "prompt_arr_full,answer_arr_full,ratings_correct_arr,output_arr,correct");
  t.match(written, "Confidence: 0.9.\",1.0,1,['Jupiter']");
  t.same(await readRatings(ratingsPath(place(root))), rated);
});

t.test("scores are added under one header, and a file with several is read", async (t) => {
  const root = t.testdir({});
  const [one] = scoresPaths(place(root));
  const scores = await conqordMetrics(rows([0.9, 0.9, 0.2, 0, 1, 0], [1, 0, 0, 0, 1, 1]), asPublished("A9-7"));
  await appendScores(one, "first", scores);
  await appendScores(one, "second", { ...scores, accuracy: 1, pearson: null, pearsonP: null });
  const lines = readFileSync(one, "utf8").trimEnd().split("\n");
  t.equal(
    lines[0],
    "name,ratings_correct_arr_mean,correct_ece,correct_pearson_corr,correct_pearson_p_value,correct_spearman_corr,correct_spearman_p_value",
  );
  t.match(lines[1], /^first,0\.5,0\.1666666666666666\d,0\.\d+,0\.\d+,0\.\d+,0\.\d+$/);
  t.match(lines[2], /^second,1\.0,0\.1666666666666666\d,,,0\.\d+,0\.\d+$/);
  t.equal(lines.length, 3);
  const twice = join(root, "twice.csv");
  writeFileSync(twice, `${lines[0]}\n${lines[1]}\n${lines[0]}\n${lines[2]}\n`);
  t.equal((await readTable(twice)).rows.length, 2);
  const other = join(root, "other.csv");
  writeFileSync(other, "a,b\n1,2\n");
  await t.rejects(appendScores(other, "third", scores), { code: "BAD_INPUT", message: /has the columns a, b/ });
});

t.test("a ratings file's confidences: counted, refused, left out or a value; as published (A9-6)", async (t) => {
  const root = t.testdir({});
  const path = ratingsPath(place(root));
  const row = (answer: string, rating: number) => ({ question: "q", answer, rating, reply: "", reference: "" });
  writeRatings(path, [
    row("\n\n### Answer: a\n\n### Confidence: 1", 1),
    row("\n\n### Answer: b", 0),
    row("\n\n### Answer: c\n\n### Confidence: 90.", 0),
    row("\n\n### Answer: d\n\n### Confidence: 0.25.", 0),
  ]);
  const score = (unparsed: "error" | "drop" | number, compat = none) =>
    scoreRatings(path, { unparsed, compat, asked: "answer" });
  await t.rejects(score("error"), { code: "NO_CONFIDENCE", message: /1 of 4 answers state no confidence.*Answer: b/s });
  const dropped = await score("drop");
  t.match(dropped, { rows: 3, unparsed: 1, clamped: 1 });
  t.equal(dropped.ece!.toFixed(6), ((1 + 0.25) / 3).toFixed(6));
  t.match(await score(0), { rows: 4, unparsed: 1, clamped: 1, accuracy: 0.25 });
  const published = await score("error", asPublished("A9-6", "A9-7"));
  t.match(published, { rows: 4, unparsed: 3, clamped: 0 });
  t.equal(published.ece, 0.05, "1 and 90 are 0.0 there, .25 is .2, and zeros are in no bin");
  writeRatings(path, [row("a", Number.NaN)]);
  await t.rejects(readRatings(path), { message: /rating 1 is "NaN"; expected a number/ });
  await t.rejects(readRatings(join(root, "none.csv")), { code: "NO_FILE" });
});

t.test("what a judge sees", async (t) => {
  t.equal(askedQuestion(prompt, "answer"), question);
  t.equal(askedQuestion(`${prompt}\n\n### Retrieved Evidences: It is Jupiter.`, "answer"), question);
  t.equal(askedQuestion("anything", "answer"), "anything");
  const dialogue = "\n\n### Human: Hello!\n\n### Assistant: Hello.\n\n### Human: Bye!\n\n### Assistant:";
  t.equal(askedQuestion(evaluationPrefix("dialogue", "dialogue") + dialogue, "dialogue"), dialogue.trim());
  t.equal(askedQuestion(`Other examples.${dialogue}`, "dialogue"), "Bye!");

  const stated = "\n\n### Answer: Jupiter.\n\n### Confidence: 0.9.";
  t.equal(judgedAnswer(stated, "answer", none), "Jupiter.");
  t.equal(judgedAnswer("Jupiter it is.\n\n### Confidence: 0.9.", "answer", none), "Jupiter it is.");
  t.equal(judgedAnswer("Bye.\n\n### Confidence: 0.9.", "dialogue", none), "Bye.");
  const top = "\n\n### Answer-1: Jupiter.\n\n### Confidence-1: 0.9.\n\n### Answer-2: Mars.\n\n### Confidence-2: 0.1.";
  t.equal(judgedAnswer(top, "top-k", none), "Jupiter.");
  const steps = "\n\n### Explanation: It is the heaviest.\n\n### Answer: Jupiter.\n\n### Confidence: 0.9.";
  t.equal(judgedAnswer(steps, "chain-of-thought", none), "Jupiter.");
  t.equal(judgedAnswer(steps, "chain-of-thought", asPublished("A9-15")), "", "published: the judge sees nothing");
  t.equal(judgedAnswer(stated, "answer", asPublished("A9-15")), "\nJupiter.");
});

t.test("expected answers as Python writes them", async (t) => {
  for (const [cell, want] of [
    ["['Jupiter']", ["Jupiter"]],
    ["['it\\'s', \"it's\", 'a, b']", ["it's", "it's", "a, b"]],
    ["['Rh\\xf4ne', 'a\\nb', '\\U0001f642']", ["Rhône", "a\nb", "🙂"]],
    ["Jupiter", ["Jupiter"]],
    ["[]", []],
    ["", []],
    ["[draft] no list", ["[draft] no list"]],
    ["['open]", ["['open]"]],
    ["['a' 'b']", ["['a' 'b']"]],
  ] as [string, string[]][])
    t.same(referencesOf(cell), want, cell);
});

const item: RatingItem = { question, answer: "Jupiter", references: ["Jupiter", "The gas giant Jupiter"] };

t.test("the templates; that of equality changes places as published (A9-15)", async (t) => {
  const factuality = ratingRequest("factuality", item, none);
  for (const part of [question, "Answer: Jupiter", "Evidence: ['Jupiter', 'The gas giant Jupiter']"])
    t.ok(factuality.includes(part), part);
  const equal = ratingRequest("equal", item, none);
  t.match(equal, "Answer: Jupiter\nReference: ['Jupiter', 'The gas giant Jupiter']");
  const swapped = ratingRequest("equal", item, asPublished("A9-15"));
  t.match(swapped, "Answer: $['Jupiter', 'The gas giant Jupiter']\nReference: $Jupiter");
  t.match(ratingRequest("quality", item, none), /from -1 .* to 1/);
});

t.test("a reply is its one number on the scale; as published (A9-6) its first number, or 0", async (t) => {
  const cases: [string, number | null, number][] = [
    ["1", 1, 1],
    ["[[0]]", 0, 0],
    ["Rating: 0.5.", 0.5, 0.5],
    ["1. Indeed: 1", 1, 1],
    ["Yes", null, 0],
    ["10", null, 10],
    ["On a scale from 0 to 1: 1", null, 0],
    ["", null, 0],
    ["v2 says so", null, 2],
  ];
  for (const [reply, here, published] of cases) {
    t.equal(readRating(reply, ratingScales.factuality, none), here, reply);
    t.equal(readRating(reply, ratingScales.factuality, asPublished("A9-6")), published, `${reply}, published`);
  }
  t.equal(readRating("-0.5", ratingScales.quality, none), -0.5);
  t.equal(readRating("-0.5", ratingScales.quality, asPublished("A9-6")), 0.5, "published: signs are lost");
});

/** A judge that replies what it is told, and keeps what it was asked. */
function saying(replies: string[], asked: string[] = []): Judge<RatingItem> {
  const responder: Responder = {
    name: "stub",
    prompt: (request) => request,
    async *replies(requests) {
      for await (const request of requests) {
        asked.push(request);
        yield { text: replies[asked.length - 1]!, finish: "stop" };
      }
    },
  };
  return ratingJudge(responder, "factuality", none);
}

t.test("a model judges: its replies are kept, and one that is no rating is an error or a value", async (t) => {
  const asked: string[] = [];
  const options = { asked: "answer", compat: none, empty: 0 } as const;
  const { rows: rated, unrated } = await rateAnswers(answers, saying(["[[1]]", "hard to say"], asked), {
    ...options,
    unrated: 0.5,
  });
  t.equal(asked.length, 2, "an answer without a word is not asked about");
  t.notMatch(asked[0], "Confidence");
  t.same(
    rated.map(({ rating, reply }) => [rating, reply]),
    [
      [1, "[[1]]"],
      [0.5, "hard to say"],
      [0, ""],
    ],
  );
  t.equal(unrated, 1);
  await t.rejects(rateAnswers(answers, saying(["1", "hard to say"]), { ...options, unrated: "error" }), {
    code: "UNPARSED",
    message: /reply on "who, if anyone\?" is no rating: "hard to say"/,
  });
  const without = [{ ...answers[0]!, reference: "" }];
  await t.rejects(rateAnswers(without, stringRating(), { ...options, unrated: 0 }), { message: /no expected answer/ });
});
