/** SaySelf's evaluation: sets in each layout, how models are asked and read, judges, and what is written, from end to end. */
import { existsSync, readdirSync, readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import t, { type Test } from "tap";
import type { Responder } from "../src/evaluation/judges/responder.js";
import {
  type Asking,
  evaluationPrompt,
  largestGroup,
  publishedResponses,
  readResponses,
  withoutSureness,
} from "../src/methods/sayself/asking.js";
import { saySelfRows } from "../src/methods/sayself/compat.js";
import { type EvaluationSettings, evaluateSaySelf, evaluationFiles } from "../src/methods/sayself/evaluate.js";
import { publishedServer, readScore, scoreRequest, scoringJudge, stringScore } from "../src/methods/sayself/judging.js";
import { saySelfMetrics } from "../src/methods/sayself/metrics.js";
import { asksDirectly } from "../src/methods/sayself/prompts.js";
import { readSaySelfQuestions, refuseTrained, type SaySelfQuestion } from "../src/methods/sayself/questions.js";
import { Model } from "../src/policy/model.js";
import type { Policy, Sample } from "../src/policy/policy.js";
import { ChatServer } from "../src/remote/chat-server.js";
import { silent } from "../src/tracking/progress.js";
import { credence } from "./fixtures/command-line.js";
import { fakeEngine } from "./fixtures/fake-native.js";
import { fakeServer } from "./fixtures/fake-server.js";
import { tinyQuestions, writeTinyModel } from "./fixtures/tiny-model.js";

const published = new URL("../../shared/data/qa/", import.meta.url).pathname;
const notThere = (name: string) =>
  existsSync(join(published, `sayself_${name}.json`)) ? false : `no ../shared/data/qa/sayself_${name}.json`;
const setOf = (name: string) => join(published, `sayself_${name}.json`);

const asked = (question: string, answer: string, more: Partial<SaySelfQuestion> = {}): SaySelfQuestion => ({
  question,
  turns: [{ role: "user", content: question }],
  best: answer,
  answers: [answer],
  layout: "pair",
  ...more,
});
const values = async <T>(all: AsyncIterable<{ value: T }>): Promise<T[]> => {
  const found: T[] = [];
  for await (const { value } of all) found.push(value);
  return found;
};

// ---- sets

t.test("each layout of the published sets", async (t) => {
  const turn = (role: string, content: string) => ({ role, content });
  const long = [turn("user", `${"word ".repeat(199)}`), turn("assistant", "two words")];
  const short = [turn("user", "Which river? "), turn("assistant", "Danube. I am unsure")];
  const talk = [
    turn("user", "Hello."),
    turn("assistant", "Hi."),
    turn("user", "Which river?"),
    turn("assistant", "Danube"),
  ];
  const folder = t.testdir({
    "pairs.json": JSON.stringify([
      { question: " Which river? ", answer: " Danube", negative_answer: "Rhine/Elbe" },
      { question: "Which hill?", answer: ["Kahlenberg", "Calvenberg"] },
    ]),
    "columns.json": JSON.stringify({ messages: [long, short, talk] }),
    "rows.jsonl": `${JSON.stringify({ messages: short })}\n`,
    "uneven.json": JSON.stringify({ question: ["a", "b"], answer: ["c"] }),
    "strategy.jsonl":
      '{"question":"Is it?","answer":true,"facts":["It is."],"term":"it"}\n{"question":"Was it?","answer":false,"facts":[],"term":"it"}\n',
    "truthful.jsonl":
      '{"question":"Why?","best_answer":"So.","correct_answers":["So.","Just so."],"incorrect_answers":["No"]}\n',
    saved: { "validation.jsonl": '{"question":"v?","answer":"1"}\n', "test.jsonl": '{"question":"t?","answer":"2"}\n' },
    tested: { "test.jsonl": '{"question":"t?","answer":"2"}\n' },
    "empty.json": '[{"question":"Which?","answer":" "}]',
    "unanswered.json": '[{"messages":[{"role":"user","content":"a"},{"role":"user","content":"b"}]}]',
    "other.json": '[{"question":"Why?"}]',
  });
  const read = (name: string, range?: { start?: number; count?: number }) =>
    readSaySelfQuestions(join(folder, name), range);
  t.same(await read("pairs.json"), {
    questions: [
      {
        question: "Which river?",
        turns: [{ role: "user", content: " Which river? " }],
        best: "Danube",
        answers: ["Danube"],
        negatives: ["Rhine", "Elbe"],
        layout: "pair",
      },
      {
        question: "Which hill?",
        turns: [{ role: "user", content: "Which hill?" }],
        best: "Kahlenberg",
        answers: ["Kahlenberg", "Calvenberg"],
        negatives: [],
        layout: "pair",
      },
    ],
    rows: 2,
    wordy: 0,
  });
  const columns = await read("columns.json");
  t.match(columns, { rows: 3, wordy: 1 }, "201 words and more are left out, and counted");
  t.match(columns.questions, [
    { question: "Which river?", best: "Danube.", layout: "messages" },
    { question: "Which river?", turns: talk.slice(0, 3), best: "Danube" },
  ]);
  t.same((await read("rows.jsonl")).questions[0]!.answers, ["Danube."]);
  const strategy = (await read("strategy.jsonl")).questions;
  t.same(
    strategy.map(({ best, layout }) => [best, layout]),
    [
      ["True", "columns"],
      ["False", "columns"],
    ],
  );
  t.match((await read("truthful.jsonl")).questions, [{ best: "So.", answers: ["So.", "Just so."], layout: "columns" }]);
  t.same((await read("saved")).questions[0]!.question, "v?");
  t.same((await read("tested")).questions[0]!.question, "t?");
  const second = await read("pairs.json", { start: 1, count: 1 });
  t.same([second.questions.map(({ best }) => best), second.rows], [["Kahlenberg"], 2]);
  await t.rejects(read("pairs.json", { start: 2 }), {
    code: "BAD_INPUT",
    message: /has 2 rows; none is left from row 2/,
  });
  await t.rejects(read("empty.json"), { message: /record 1: "answer" is .*expected a string/ });
  await t.rejects(read("unanswered.json"), { message: /record 1: "messages".*of which the last is the answer/ });
  await t.rejects(read("other.json"), { message: /"best_answer" is missing/ });
  await t.rejects(read("uneven.json"), { message: /its column "answer" has 1 rows, and "question" has 2/ });
  await t.rejects(read("none.json"), { code: "NO_FILE" });

  const { questions } = await read("pairs.json");
  await refuseTrained(questions, "pairs.json", [join(folder, "strategy.jsonl")]);
  await t.rejects(refuseTrained(questions, "pairs.json", [join(folder, "columns.json")]), {
    code: "OVERLAP",
    message: /questions of .*columns\.json are asked in pairs\.json too, the first of them "Which river\?".*B9-5/,
  });
});

// ---- asking and reading

t.test("a question is put as fine-tuning writes it, or as published by the layout", async (t) => {
  const put = (question: SaySelfQuestion, asking: Asking, compat: "B9-12"[] = [], template: "inst" | "chat" = "inst") =>
    evaluationPrompt(question, { asking, template, compat: new Set(compat) }, "</s>");
  const pair = asked("Why?", "So.");
  const columns = asked("Why?", "So.", { layout: "columns" });
  for (const question of [pair, columns]) t.equal(put(question, "reflection"), "[INST]\nWhy?[/INST]\n");
  t.equal(put(pair, "reflection", ["B9-12"]), "[INST]Why?[/INST]\n");
  t.equal(put(columns, "r-tuning", ["B9-12"]), "[INST]\nWhy?\n[/INST]\n");
  t.equal(put(pair, "direct"), `[INST]\n${asksDirectly}\nWhy?\n[/INST]\n`);
  t.equal(put(pair, "direct", ["B9-12"]), `[INST]\n${asksDirectly}\n[INST]Why?[/INST]\n\n[/INST]\n`);
  t.match(put(pair, "consistency"), /^\[INST\]\n[^\n]*"Answer: "[^\n]*\nWhy\?\[\/INST\]\n$/);
  const turns = [
    { role: "user", content: "Hello." },
    { role: "assistant", content: "Hi." },
    { role: "user", content: "Why?" },
  ];
  const talk = asked("Why?", "So.", { turns, layout: "messages" });
  t.equal(put(talk, "reflection"), "[INST]\nHello.[/INST]\n\nHi.</s>\n[INST]\nWhy?[/INST]\n");
  t.match(put(talk, "direct"), /^\[INST\]\nPlease [^\n]*\nHello\.\[\/INST\]/);
  t.same(put(talk, "reflection", [], "chat"), turns);
  t.match(put(pair, "direct", [], "chat"), [{ role: "user", content: `${asksDirectly}\nWhy?` }]);
});

t.test("how sure a response is, by how it was asked", async (t) => {
  const none = new Set<never>();
  const confidence = (asking: Asking, text: string, compat: ReadonlySet<"B9-8"> = none) =>
    readResponses(asking, [text], compat).confidence;
  const whole = "So. Answer: Danube. Self-reflection: I am torn. Confidence: 10";
  t.equal(confidence("reflection", whole), 1);
  t.equal(confidence("reflection", "Answer: Danube. Confidence: 7"), null, "without a reflection");
  t.equal(confidence("bare", "Answer: Danube. Confidence: 7"), 0.7);
  t.equal(confidence("bare", "Answer: Danube. Confidence: 7.5"), null);
  t.same(
    ["7", "7/10", "70 %", "70"].map((n) => confidence("direct", `Answer: Danube.\nConfidence: ${n}`)),
    [0.7, 0.7, 0.7, null],
  );
  t.equal(confidence("r-tuning", "It measures so. Answer: Danube. I am unsure"), 0);
  t.equal(confidence("r-tuning", "Answer: Danube. I am sure."), 1);
  t.equal(confidence("r-tuning", "It measures so. Surely."), null);
  const compat = new Set(["B9-8"] as const);
  t.same(
    ["no number", "I believe that there are 3", whole, "Self-reflection: x Confidence: 85"].map((text) =>
      confidence("reflection", text, compat),
    ),
    [0, 0.3, 1, 8.5],
    "as published anything is a confidence",
  );
  t.same(
    ["Unlikely", "I am unsure"].map((text) => confidence("r-tuning", text, compat)),
    [1, 0],
  );
  t.equal(withoutSureness("reflection", whole), "So. Answer: Danube.");
  t.equal(withoutSureness("r-tuning", "Answer: Danube. I am unsure"), "Answer: Danube.");
});

t.test("self-consistency: the largest group of answers by their words, and its share of all samples", async (t) => {
  const samples = ["Answer: Rhône.", "x\nAnswer: Arve\n", "I think.\nAnswer: the rhone", "no idea", "Answer: arve."];
  t.same(largestGroup(samples), { response: "Answer: Rhône.", confidence: 0.4 });
  t.same(largestGroup([...samples, "Answer: ARVE"]), { response: "x\nAnswer: Arve\n", confidence: 0.5 });
  t.same(largestGroup(["a", "b"]), { response: "a", confidence: null });
});

// ---- judging

t.test("a judge's score is the one number from 1 to 10 that its reply says", async (t) => {
  for (const [reply, score] of [
    ["Score: 7", 7],
    ["**Score:** 10/10", 10],
    ["The response agrees.\nscore = 8 out of 10.", 8],
    ["Score: 3\nSince 2 of 5 facts are wrong.", 3],
    ["9", 9],
    ["Score: 7.5", 7.5],
    ["Score: 0", null],
    ["Score: 11", null],
    ["Score: -3", null],
    ["Score: 7 or 8", null],
    ["Score: 70%", null],
    ["I give it a 7", null],
    ["underscore: 4", null],
    ["Score:", null],
    ["", null],
  ] as const)
    t.equal(readScore(reply), score, reply);
});

t.test(
  "a model that gives no score is asked three times, each time more plainly, and the failure is told",
  async (t) => {
    const calls: string[][] = [];
    const responder: Responder = {
      name: "planted",
      prompt: (request) => request,
      async *replies(requests) {
        const some: string[] = [];
        for await (const request of requests) some.push(request);
        calls.push(some);
        for (const request of some) {
          const plain = request.endsWith('Write nothing but "Score: " and a whole number from 1 to 10.');
          const text = request.includes("never") ? "hm" : request.includes("late") && !plain ? "well" : "Score: 9";
          yield { text, finish: "stop" };
        }
      },
    };
    const item = (response: string) => ({ question: "Which?", answers: ["Danube", "Donau"], response });
    const judge = scoringJudge(responder);
    t.same(await values(judge.judge([item("once"), item("late"), item("never")])), [9, 9, null]);
    t.same(
      calls.map(({ length }) => length),
      [3, 2, 2],
    );
    const [request] = calls[0]!;
    for (const part of ["Which?", "once", "Danube", "gets 1", "Score: "]) t.match(request, part);
    t.notMatch(request, "Donau", "the best answer alone, as published");
    t.notMatch(scoreRequest(item("x"), "answer"), "gets 1");
  },
);

t.test("a server by the published variables, on Azure or not", async (t) => {
  const all = { OPENAI_API_KEY: "k", OPENAI_DEPLOYMENT_NAME: "judge" };
  t.same(publishedServer(all), { url: "https://api.openai.com/v1", model: "judge", keyVariable: "OPENAI_API_KEY" });
  for (const name of Object.keys(all))
    t.throws(() => publishedServer({ ...all, [name]: undefined }), { code: "USAGE", message: new RegExp(name) });
  t.throws(() => publishedServer({ ...all, OPENAI_API_VERSION: "1" }), { message: /OPENAI_AZURE_ENDPOINT is not set/ });
  await using server = await fakeServer(() => ({ text: "Score: 4" }));
  const endpoint = new URL(server.url).origin;
  const azure = { ...all, OPENAI_AZURE_ENDPOINT: `${endpoint}/`, OPENAI_API_VERSION: "2024-02-01" };
  t.throws(() => publishedServer({ ...azure, OPENAI_API_VERSION: "" }), { message: /OPENAI_API_VERSION is not set/ });
  process.env.OPENAI_API_KEY = "secret";
  t.teardown(() => delete process.env.OPENAI_API_KEY);
  const client = new ChatServer(publishedServer(azure));
  t.equal((await client.complete([{ role: "user", content: "?" }])).text, "Score: 4");
  t.match(server.calls, [
    {
      path: "/openai/deployments/judge/chat/completions?api-version=2024-02-01",
      apiKey: "secret",
      authorization: undefined,
    },
  ]);
});

for (const name of ["fever_data", "strategyqa"])
  t.test(`${name}: a response that only repeats the question is not right`, { skip: notThere(name) }, async (t) => {
    const { questions } = await readSaySelfQuestions(setOf(name), { count: 200 });
    t.equal(questions.length, 200);
    const items = (say: (question: SaySelfQuestion) => string) =>
      questions.map((question) => ({ ...question, response: say(question) }));
    const scores = (say: (question: SaySelfQuestion) => string, compat: "B9-4"[] = []) =>
      values(stringScore(new Set(compat)).judge(items(say)));
    const repeats = ({ question }: SaySelfQuestion) => question;
    t.ok((await scores(repeats)).every((score) => score === 0));
    t.ok(
      (await scores(({ question }) => `Answer: ${question}`)).every((score) => score === 0),
      "nor as its answer",
    );
    t.ok(
      (await scores(repeats, ["B9-4"])).every((score) => score === 10),
      "as published each of them is right",
    );
    t.ok((await scores(({ question, best }) => `${question} Answer: ${best}.`)).every((score) => score === 10));
  });

t.test("as published (B9-8) a confidence may be above 1, and the absolute error too", async (t) => {
  const rows = [
    { confidence: 8.5, score: 10 },
    { confidence: 0.2, score: 0 },
    { confidence: 0.9, score: 10 },
  ];
  t.throws(() => saySelfMetrics(rows), { message: /row 0: a confidence of 8\.5/ });
  const { absoluteError, auroc, parseFailures } = saySelfMetrics(rows, { beyond: "taken" });
  t.ok(Math.abs(absoluteError! - (7.5 + 0.2 + 0.1) / 3) < 1e-12);
  t.same([auroc, parseFailures], [1, 0]);
});

// ---- from end to end

/** A policy that says what is planted: to each question its lines, one after another where it is asked to go on. */
async function planted(t: Test, folder: string, says: Record<string, string[]>) {
  const words = Object.keys(says);
  const model = await Model.load(writeTinyModel(folder, { words }), { engine: fakeEngine() });
  t.teardown(() => model.dispose());
  const policy = await model.policy();
  const told = { asked: 0 };
  const said = new Map<string, number>();
  policy.generate = async function* (prompts, settings) {
    for (const [prompt, tokens] of prompts.entries()) {
      if (settings?.signal?.aborted) return;
      const key = words.find((word) => (tokens as Int32Array).includes(model.tokenizer.idOf(word)!))!;
      const begun = settings?.begun?.[prompt]?.length ?? 0;
      const line = begun === 0 ? 0 : (said.get(key) ?? 0) + 1;
      said.set(key, line);
      told.asked += 1;
      const text = says[key]!.slice(0, line + 1).join("");
      const sample = { prompt, sample: settings?.firstSamples?.[prompt] ?? 0, text, finish: "stop" } as Sample;
      yield { ...sample, tokens: Int32Array.of(5), logprobs: Float32Array.of(-1) };
    }
  } as Policy["generate"];
  return { policy, told };
}

const settings: EvaluationSettings = {
  ...publishedResponses,
  asking: "reflection",
  compat: new Set(),
  maxPromptTokens: 512,
};

t.test("an evaluation that is stopped goes on, and leaves the same bytes; files as published", async (t) => {
  const says = {
    q0: ["Austria. Answer: Danube. Self-reflection: I am at home there. Confidence: 10"],
    q1: ["Answer: Rhine. Self-reflection: I guess. Confidence: 2"],
    q2: ["Answer: Elbe", " or so. Self-reflection: hm.", " Confidence: 3"],
    q3: ["no", " and", " no", " again", ". Confidence: 4"],
    q4: ["Answer: Danube. Self-reflection: I know. Confidence: 9"],
  };
  const questions = Object.keys(says).map((word) => asked(`Which river is ${word}`, "Danube"));
  const root = t.testdir({});
  const model = join(root, "model");
  const context = (name: string, signal?: AbortSignal) => ({ folder: join(root, name), progress: silent, signal });
  const { policy } = await planted(t, model, says);
  const whole = await evaluateSaySelf(policy, questions, stringScore(), settings, context("whole"), 2);
  t.match(whole.result, {
    judge: "string match",
    rows: 5,
    accuracy: 0.4,
    parseFailures: 1,
    retried: 2,
    incomplete: 0,
    tooLong: 0,
    unscored: 0,
    auroc: 1,
    confidenceRight: 0.95,
    confidenceWrong: 0.25,
  });
  t.ok(Math.abs(whole.result.absoluteError! - (0 + 0.2 + 0.3 + 0.1) / 4) < 1e-12);
  t.same(
    whole.rows.map(({ confidence, score }) => [confidence, score]),
    [
      [1, 10],
      [0.2, 0],
      [0.3, 0],
      [null, 0],
      [0.9, 10],
    ],
  );

  const reasons = JSON.parse(readFileSync(join(root, "whole", evaluationFiles.reasons), "utf8"));
  t.equal(evaluationFiles.reasons, "output_reasons.json");
  for (const row of reasons)
    t.same(Object.keys(row), ["question", "best_answer", "correct_answers", "response", "correctness"]);
  t.same(reasons[0], {
    question: "Which river is q0",
    best_answer: "Danube",
    correct_answers: ["Danube"],
    response: `[/INST]\n${says.q0[0]}`,
    correctness: 10,
  });
  const scored = await credence("evaluate", join(root, "whole", evaluationFiles.predictions), "--json");
  t.equal(scored.status, 0, scored.told);
  t.match(JSON.parse(readFileSync(join(root, "whole", "metrics.json"), "utf8")), { rows: 5, judge: "string match" });

  const stop = new AbortController();
  const second = await planted(t, model, says);
  const generate = second.policy.generate;
  second.policy.generate = async function* (...args) {
    if (second.told.asked >= 2) stop.abort();
    yield* generate(...args);
  };
  const judge = stringScore();
  await t.rejects(evaluateSaySelf(second.policy, questions, judge, settings, context("folder", stop.signal), 2), {
    code: "ABORTED",
  });
  t.same(readdirSync(join(root, "folder")).sort(), ["responses.jsonl.parts", "responses.jsonl.pass.json"]);
  const third = await planted(t, model, says);
  await evaluateSaySelf(third.policy, questions, judge, settings, context("folder"), 2);
  t.equal(third.told.asked, 3 + 2 + 4, "what was answered is not asked again");
  for (const name of readdirSync(join(root, "whole")))
    t.same(readFileSync(join(root, "folder", name)), readFileSync(join(root, "whole", name)), name);

  const other = { ...settings, temperature: 1 };
  await t.rejects(evaluateSaySelf(third.policy, questions, judge, other, context("folder"), 2), { code: "OTHER_RUN" });
  const short = { ...settings, maxPromptTokens: 1 };
  await t.rejects(evaluateSaySelf(third.policy, questions, judge, short, context("none")), { code: "TOO_LONG" });
});

t.test("the baselines R-Tuning, group-level confidence and self-consistency", async (t) => {
  const root = t.testdir({});
  const model = join(root, "model");
  const says = { q0: ["Answer: Danube. I am sure"], q1: ["Answer: Rhine. ", "I am unsure"] };
  const questions = Object.keys(says).map((word) => asked(`Which river is ${word}`, "Danube"));
  const rtuning = await planted(t, model, says);
  const evaluated = await evaluateSaySelf(
    rtuning.policy,
    questions,
    stringScore(),
    { ...settings, asking: "r-tuning" },
    { folder: join(root, "r"), progress: silent },
  );
  t.match(evaluated.result, { accuracy: 0.5, absoluteError: 0, auroc: 1, retried: 1, parseFailures: 0 });
  const groups = await planted(t, model, {
    q0: ["Answer: Danube. Confidence: 6"],
    q1: ["Answer: Rhine. Confidence: 6"],
  });
  const level = await evaluateSaySelf(
    groups.policy,
    questions,
    stringScore(),
    { ...settings, asking: "bare" },
    { folder: join(root, "g"), progress: silent },
  );
  t.match(level.result, { accuracy: 0.5, auroc: 0.5, parseFailures: 0 });
  t.ok(Math.abs(level.result.ece! - 0.1) < 1e-12, "binned");
  t.ok(Math.abs(level.result.absoluteError! - 0.5) < 1e-12, "and what is published under that name");
});

t.test("credence sayself evaluate on a tiny model: stub, model and server judge", async (t) => {
  const root = t.testdir({});
  const model = writeTinyModel(join(root, "tiny"), { words: ["Answer", "Confidence", "INST"] });
  const file = join(root, "set.json");
  const rows = tinyQuestions(3).map(({ question, answer }) => ({ question, answer: answer[0], negative_answer: "" }));
  writeFileSync(file, JSON.stringify(rows));
  const run = async (folder: string, ...more: string[]) => {
    const base = ["--model_name_or_path", model, "--output_dir", join(root, folder), "--max_new_tokens", "4"];
    const engine = ["--dtype", "f32", "--threads", "1", "--device", "cpu", "--log-level", "error", "--json"];
    const ended = await credence("sayself", "evaluate", ...base, ...engine, ...more);
    if (ended.status !== 0) throw new Error(ended.told);
    return JSON.parse(ended.out);
  };
  const here = ["--train_file", file];
  t.match(await run("stub", ...here, "--num_eval_examples", "2"), {
    rows: 2,
    judge: "string match",
    parseFailures: 2,
    retried: 2,
  });
  const texts = readFileSync(join(root, "stub", "responses.jsonl"), "utf8")
    .trim()
    .split("\n");
  t.equal(JSON.parse(texts[0]!).prompt, `[INST]\n${rows[0]!.question}[/INST]\n`);
  const again = await run("again", ...here, "--start_index", "2", "--num_retries", "0");
  t.match(again, { rows: 1, retried: 1 });
  t.equal(JSON.parse(readFileSync(join(root, "again", "output_reasons.json"), "utf8"))[0].question, rows[2]!.question);
  t.match(await run("direct", ...here, "--explicitly_state_confidence", "--prompt", "chat"), { rows: 3 });
  t.match(await run("share", ...here, "--self_consistency", "3"), { rows: 3, parseFailures: 3, retried: 0 });
  const judged = await run("local", ...here, "--check-model", model, "--criterion", "answer");
  t.match(judged, { judge: "tiny", unscored: 3, rows: 0, accuracy: null });
  t.match(await run("zero", ...here, "--check-model", model, "--compat", "B9-8"), {
    unscored: 0,
    rows: 3,
    accuracy: 0,
  });
  await using server = await fakeServer(() => ({ text: "Score: 8" }));
  const paid = await run("paid", ...here, "--check-model", "judge", "--url", server.url);
  t.match(paid, { judge: "judge", rows: 3, unscored: 0 });
  t.ok(Math.abs(paid.accuracy - 0.8) < 1e-12);
  const calls = server.calls.length;
  await run("paid", ...here, "--check-model", "judge", "--url", server.url);
  t.equal(server.calls.length, calls, "kept replies are not paid for again");
  for (const name of ["fever_data", "strategyqa", "pararel_data"])
    await t.test(`first rows of ${name}`, { skip: notThere(name) }, async (t) => {
      const result = await run(name, "--dataset_name", setOf(name), "--num_eval_examples", "2", "--num_retries", "1");
      t.equal(result.rows, 2);
      t.equal(JSON.parse(readFileSync(join(root, name, "output_reasons.json"), "utf8")).length, 2);
    });
});

t.test("flags are of their class, and what is missing is said", async (t) => {
  const folder = t.testdir({ "set.json": '[{"question":"Why?","answer":"So."}]' });
  const set = join(folder, "set.json");
  const refused = async (args: string[], message: RegExp, code = 2) => {
    const { status, told } = await credence("sayself", "evaluate", ...args);
    t.equal(status, code, args.join(" "));
    t.match(told, message);
  };
  const here = ["--train_file", set, "--model_name_or_path", "none", "--output_dir", join(folder, "out")];
  await refused([], /which questions\?/);
  await refused(["--train_file", set], /which model\?/);
  await refused(["--train_file", set, "--model_name_or_path", "m"], /where do the responses go\?/);
  await refused([...here, "--dataset_name", set], /both name the questions/);
  await refused([...here, "--r_tuning", "--bare"], /--r_tuning and --bare: a model is asked in one way/);
  await refused([...here, "--judge", "model"], /which model judges\?/);
  await refused([...here, "--url", "http://x"], /--judge string has no use for --url/);
  await refused([...here, "--judge", "openai"], /OPENAI_DEPLOYMENT_NAME is not set/);
  await refused(
    [...here, "--config_name", "x"],
    /--config_name did nothing in the published script: the model's folder/,
  );
  await refused([...here, "--gradient_checkpointing"], /nothing is trained here/);
  await refused([...here, "--compat", "B9-2"], /B9-2: it has no switch; here each row stops on its own/);
  await refused([...here, "--trained-on", set], /evaluate on others, or with --compat B9-5/, 1);
  const switched = saySelfRows.filter(({ commands }) => commands.includes("evaluate")).map(({ id }) => id);
  t.same(switched, ["B9-1", "B9-4", "B9-5", "B9-8", "B9-12"]);
  const { told } = await credence("sayself", "evaluate", ...here, "--timeout", "9", "--use_flash_attn=True");
  t.match(told, /not needed here: --use_flash_attn \(the engine does it by itself\), --timeout \(one process/);
});
