/** The data half of EliCal's published pipeline: converters, answers, verdicts, HonestyBench. */
import { spawnSync } from "node:child_process";
import { createHash } from "node:crypto";
import { existsSync, mkdirSync, mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { dirname, join } from "node:path";
import { fileURLToPath } from "node:url";
import t from "tap";
import type { Responder } from "../src/evaluation/judges/responder.js";
import {
  convertQuestions,
  type QaRecord,
  type SourceName,
  sourceNames,
} from "../src/methods/elical/published/convert.js";
import { exportHonestyBench, importHonestyBench } from "../src/methods/elical/published/honestybench.js";
import { generationPass, judgePass } from "../src/methods/elical/published/infer.js";
import {
  answerSets,
  correctnessRows,
  judgeSets,
  questionRows,
  questionsSplit,
} from "../src/methods/elical/published/infer-sets.js";
import { patternQuestion, splitPararel } from "../src/methods/elical/published/pararel.js";
import { answersPaths } from "../src/methods/elical/published/paths.js";
import { judgePrompts, questionPrompts } from "../src/methods/elical/published/prompts.js";
import { readAnswers, readVerdicts } from "../src/methods/elical/published/verdicts.js";
import { Model } from "../src/policy/model.js";
import { silent } from "../src/tracking/progress.js";
import { fakeEngine } from "./fixtures/fake-native.js";
import { tinyQuestions, writeTinyModel } from "./fixtures/tiny-model.js";

const root = fileURLToPath(new URL("..", import.meta.url));
const folder = mkdtempSync(join(tmpdir(), "credence-published-"));
t.teardown(() => rmSync(folder, { recursive: true, force: true }));

const put = (name: string, content: string): string => {
  const path = join(folder, name);
  mkdirSync(dirname(path), { recursive: true });
  writeFileSync(path, content);
  return path;
};
const lines = (rows: unknown[]): string => rows.map((row) => `${JSON.stringify(row)}\n`).join("");
const read = <T = Record<string, unknown>>(path: string): T[] =>
  readFileSync(path, "utf8")
    .trim()
    .split("\n")
    .map((line) => JSON.parse(line) as T);

async function converted(name: SourceName, path: string): Promise<QaRecord[]> {
  const rows: QaRecord[] = [];
  for await (const row of convertQuestions(name, path)) rows.push(row);
  return rows;
}

t.test("every source in the form it is published in", async (t) => {
  const hop = [{ _id: "1", question: "Which is older?", answer: "yes", context: [["A", ["b", '{[\\"', "é"]]] }];
  const cells = [
    "7",
    "Rhône",
    "flows to",
    "Mediterranean Sea",
    "1",
    "2",
    "3",
    "[]",
    '["the Med"]',
    "u",
    "v",
    "t",
    "w",
    "9",
    "10",
  ];
  const popqa = (row: string[]) =>
    row.map((cell) => (/["\t]/.test(cell) ? `"${cell.replaceAll('"', '""')}"` : cell)).join("\t");
  const files: Record<SourceName, [string, string, QaRecord[]]> = {
    nq: ["nq.jsonl", lines([{ question: "who?", answer: ["a", "b"] }]), [{ question: "who?", answer: ["a", "b"] }]],
    tq: [
      "tq.json",
      JSON.stringify({ Data: [{ Answer: { Aliases: ["B", "A", "B"], Value: "A" }, Question: "Q?" }], Version: 1 }),
      [{ question: "Q?", answer: ["B", "A"] }],
    ],
    hq: ["hq.json", JSON.stringify(hop), [{ question: "Which is older?", answer: ["yes"] }]],
    "2wikimultihopqa": ["2w.json", JSON.stringify(hop, null, 1), [{ question: "Which is older?", answer: ["yes"] }]],
    pararel_patterns: [
      "pararel.jsonl",
      lines([
        { pattern: "[X] was born in [Y] .", subject: "Ada", object: "London" },
        { patterns: ["[X] died in [Y].", "..."], sub_label: "Max $& [X]", obj_label: "Bonn" },
      ]),
      [
        { question: "Where was Ada born?", answer: ["London"] },
        { question: "Max $& [X] died in what?", answer: ["Bonn"] },
      ],
    ],
    squad: [
      "squad.json",
      JSON.stringify({
        version: "1.1",
        data: [
          {
            title: "x",
            paragraphs: [
              {
                context: "c",
                qas: [{ id: "1", question: "Q?", answers: [{ text: "a" }, { text: "b" }, { text: "a" }] }],
              },
            ],
          },
        ],
      }),
      [{ question: "Q?", answer: ["a", "b"] }],
    ],
    web_questions: [
      "wq.json",
      JSON.stringify([
        { question: "q1?", answers: ["x", "y"] },
        { utterance: "q2?", targetValue: '(list (description "Lima, \\"Peru\\"") (description Peru))' },
      ]),
      [
        { question: "q1?", answer: ["x", "y"] },
        { question: "q2?", answer: ['Lima, "Peru"', "Peru"] },
      ],
    ],
    complex_web_questions: [
      "cwq.json",
      JSON.stringify([
        {
          question: "q?",
          answers: [
            { answer: "A", aliases: ["a1", "a2"] },
            { answer: "B", aliases: [] },
          ],
        },
      ]),
      [{ question: "q?", answer: ["a1", "a2", "A"] }],
    ],
    musique: [
      "musique.jsonl",
      lines([{ question: "q?", answer: "A", answer_aliases: ["a1"], paragraphs: [] }]),
      [{ question: "q?", answer: ["a1", "A"] }],
    ],
    popqa: [
      "popqa.tsv",
      [
        "id\tsubj\tprop\tobj\tsubj_id\tprop_id\tobj_id\ts_aliases\to_aliases\ts_uri\to_uri\ts_wiki_title\to_wiki_title\ts_pop\to_pop\tquestion\tpossible_answers",
        popqa([...cells, "Where does it end?", '["Mediterranean Sea", "Med"]']),
        [...cells, "And again?", '["Med"]'].join("\t"),
      ].join("\n"),
      [
        { question: "Where does it end?", answer: ["the Med", "Mediterranean Sea", "Med"] },
        { question: "And again?", answer: ["the Med", "Mediterranean Sea", "Med"] },
      ],
    ],
    mmlu: [
      "mmlu/abstract_algebra_test.csv",
      '"What, then?",1,"a ""b""",x y,4,C\n',
      [{ question: 'What, then?\nA.1\nB.a "b"\nC.x y\nD.4\n', answer: ["C"], subject: "abstract algebra" }],
    ],
    strategyqa: [
      "strategy.json",
      JSON.stringify([
        { question: "q?", answer: true },
        { question: "r?", answer: false },
      ]),
      [
        { question: "q?", answer: ["Yes"] },
        { question: "r?", answer: ["No"] },
      ],
    ],
    gsm8k: [
      "gsm.jsonl",
      lines([{ question: "q?", answer: "2+2=4\n#### 1,004 " }]),
      [{ question: "q?", answer: ["1,004"], solution: "2+2=4\n#### 1,004 " }],
    ],
    math500: [
      "math.jsonl",
      lines([{ problem: "p", solution: "s", answer: "\\frac12", level: 3 }]),
      [{ question: "p", answer: ["\\frac12"], solution: "s" }],
    ],
    aime24: [
      "aime.jsonl",
      lines([{ ID: "1", Problem: "p", Solution: "s", Answer: 204 }]),
      [{ question: "p", answer: ["204"], solution: "s" }],
    ],
  };
  t.same(Object.keys(files).sort(), [...sourceNames].sort(), "none is left out");
  for (const [name, [file, content, expected]] of Object.entries(files) as [SourceName, [string, string, QaRecord[]]][])
    t.same(await converted(name, put(`raw/${file}`, content)), expected, name);
  t.same(await converted("mmlu", join(folder, "raw", "mmlu")), files.mmlu[2], "a folder of subjects");
  put(
    "data/pattern_data/graphs_json/P19.jsonl",
    lines([{ pattern: "[X] was born in [Y]." }, { pattern: "[X] is originally from [Y]." }]),
  );
  put("data/pattern_data/graphs_json/P101.jsonl", lines([{ pattern: "[X] works in the field of [Y]." }]));
  put("data/trex_lms_vocab/P19.jsonl", lines([{ sub_label: "Ada", obj_label: "London" }]));
  put("data/trex_lms_vocab/P101.jsonl", lines([{ sub_label: "Emmy Noether", obj_label: "algebra" }]));
  t.same(await converted("pararel_patterns", join(folder, "data")), [
    { question: "Where was Ada born?", answer: ["London"] },
    { question: "Emmy Noether works in the field of what?", answer: ["algebra"] },
  ]);
});

t.test("what cannot be converted is named", async (t) => {
  const refused = async (name: SourceName, file: string, content: string, message: RegExp) =>
    t.rejects(converted(name, put(`bad/${file}`, content)), { code: "BAD_INPUT", message }, String(message));
  await refused("hq", "a.json", '[{"question": "q?"}]', /a\.json: record 1: "answer" is missing/);
  await refused(
    "hq",
    "b.json",
    '[{"question": "q?", "answer": "a"}, {"question"',
    /b\.json: ends in the middle.*record 1/,
  );
  await refused("hq", "c.json", '[{"question": "q?", "answer": nope}]', /c\.json: not valid JSON/);
  await refused("tq", "d.json", '{"data": []}', /holds no questions of tq/);
  await refused("nq", "e.jsonl", lines([{ question: "q?", answer: [] }]), /e\.jsonl:1: "answer" is an empty list/);
  await refused(
    "squad",
    "f.json",
    '{"data": [{"paragraphs": [{"qas": [{"question": "q?", "answers": []}]}]}]}',
    /question 1: "answers".*SQuAD 1\.1/,
  );
  await refused("popqa", "g.tsv", "1\t2\t3\n", /g\.tsv:1: 3 columns; PopQA has 17/);
  await refused("popqa", "h.tsv", `${[...Array(15).fill("x"), "q?", '["a"]'].join("\t")}\n`, /column 9/);
  await refused("mmlu", "i.csv", "q,1,2,3,4,E\n", /"answer" is .*a letter from A to D/);
  await refused("gsm8k", "j.jsonl", lines([{ question: "q?", answer: "4" }]), /####/);
  await refused(
    "pararel_patterns",
    "k.jsonl",
    lines([{ pattern: "[X] only", subject: "a", object: "b" }]),
    /k\.jsonl:1: "pattern" is "\[X\] only"; expected a pattern with/,
  );
  await t.rejects(converted("hq", join(folder, "none.json")), { code: "NO_FILE" });
});

t.test("ParaRel's patterns as questions", async (t) => {
  for (const [pattern, question] of [
    ["[X] was born in [Y].", "Where was [X] born?"],
    ["[X] is located in [Y] .", "Where is [X] located?"],
    ["[X] is produced by [Y]", "Who is [X] produced by?"],
    ["[X] is named after [Y].", "What is [X] named after?"],
    ["[X] is a subclass of [Y].", "What is [X] a subclass of?"],
    ["[X] is [Y].", "What is [X]?"],
    ["The capital of [X] is [Y].", "What is the capital of [X]?"],
    ["[Y] is the capital of [X].", "What is the capital of [X]?"],
    ["[X] plays [Y].", "[X] plays what?"],
  ])
    t.equal(patternQuestion(pattern!), question);
});

t.test("ParaRel's split is Python's", async (t) => {
  const rows = Array.from({ length: 50 }, (_, i) => ({ question: `q${i === 3 ? 24 : i}?`, answer: ["a"] }));
  const { train, test } = splitPararel(rows, 10);
  // python3 -c "import random; random.seed(0); print(random.sample(range(50), 10))"
  t.same(
    test.map(({ question }) => question),
    [24, 48, 26, 2, 16, 32, 31, 25, 19, 30].map((i) => `q${i}?`),
  );
  t.equal(train.length, 39, "the twin of a test row is not trained on");
  t.notOk(train.some((row) => test.some(({ question }) => question === row.question)));
  t.throws(() => splitPararel(rows, 51), { code: "BAD_INPUT", message: /51 rows.*the 50 there are/ });
});

const engine = fakeEngine();
const model = await Model.load(writeTinyModel(join(folder, "model")), { engine });
t.teardown(() => model.dispose());

const settings = {
  temperature: 1,
  topP: 0.95,
  topK: 50,
  maxTokens: 8,
  repetitionPenalty: 1.05,
  seed: 42,
  system: "default" as const,
};
const place = { model: "tiny", dataset: "nq", split: "test" as const, questionType: "long_qa" as const, samples: 4 };
const questions = put(
  "data/nq/test.jsonl",
  lines(tinyQuestions(7).map(({ question, answer }) => ({ question, answer }))),
);
const setIn = (results: string) => ({ questions, place: { ...place, results: join(folder, results) } });

/** A judge that depends on its request alone. */
const judge: Responder = {
  name: "judge-1",
  async *replies(requests) {
    for await (const request of requests) {
      const uncertain = createHash("sha256").update(request).digest()[0]! % 3 === 0;
      yield { text: uncertain ? "Uncertain." : "certain", finish: "stop" };
    }
  },
  prompt: (request) => `<${request}>`,
};
const context = { progress: silent };

async function inferred(results: string) {
  const policy = await model.policy();
  await answerSets(policy, [setIn(results)], settings, context, 2);
  await judgeSets(judge, [setIn(results)], { maxTokens: 64 }, context);
  return answersPaths(setIn(results).place);
}

t.test("answers and verdicts under the published names", async (t) => {
  const paths = await inferred("R");
  const names = readdirSync(paths.folder).filter((name) => !name.endsWith(".pass.json"));
  t.same(names.sort(), [
    "nq_test_tiny_long_qa_0.0_0.95_50_sample_1.jsonl",
    "nq_test_tiny_long_qa_0.0_0.95_50_sample_1_long_qa_judge.jsonl",
    "nq_test_tiny_long_qa_1.0_0.95_50_sample_4.jsonl",
    "nq_test_tiny_long_qa_1.0_0.95_50_sample_4_for_greedy_consistency_check.jsonl",
    "nq_test_tiny_long_qa_1.0_0.95_50_sample_4_for_greedy_consistency_res.jsonl",
    "nq_test_tiny_long_qa_1.0_0.95_50_sample_4_long_qa_judge.jsonl",
  ]);
  const asked = read<{ question: string; answer: string[] }>(questions);
  const greedy = await readAnswers(paths.greedy, 1);
  t.same(
    greedy.map(({ question, answer }) => ({ question, answer })),
    asked,
    "in the order of the questions",
  );
  for (const row of greedy) {
    const instruction = `Answer the following question.\nQuestion: ${row.question}`;
    t.equal(row.instruction, instruction);
    t.equal(row.prompt, `<s><|system|> You are helpful </s> <|user|> ${instruction} </s> <|assistant|>`);
    t.equal(row.tokens![0]!.length, row.logprobs![0]!.length);
    t.ok(Math.abs(row.cumulative_logprobs![0]! - row.logprobs![0]!.reduce((sum, one) => sum + one, 0)) < 1e-9);
    const words = row.tokens![0]!.filter((token) => !token.startsWith("<"));
    t.equal(words.join(" "), row.response[0], "special tokens are no part of the text");
  }
  const madeBy = (path: string) => JSON.parse(readFileSync(`${path}.pass.json`, "utf8"));
  t.match(madeBy(paths.greedy), { temperature: 0, samples: 1 }, "the likeliest answer");
  t.match(madeBy(paths.sampled), { temperature: 1, samples: 4 });
  const sampled = await readAnswers(paths.sampled, 4);
  t.ok(sampled.some(({ response }) => new Set(response).size > 1));
  const requests = read<{ question: string; answer: string; original_question: string }>(paths.consistencyRequests);
  t.equal(requests.length, 28);
  t.match(requests[5], { answer: "no answer", original_question: asked[1]!.question });
  t.ok(
    requests[5]!.question.includes(`Answer: ${greedy[1]!.response[0]}\n\n`) &&
      requests[5]!.question.endsWith(`Answer: ${sampled[1]!.response[1]}`),
  );
  const verdict = read<{ question: string; instruction: string; prompt: string }>(paths.consistency)[5]!;
  t.equal(verdict.instruction, `${requests[5]!.question}.`, "with the published period");
  t.equal(verdict.prompt, `<${verdict.instruction}>`);
  t.match(read(paths.sampledJudged)[5], { question: asked[1]!.question, generated: sampled[1]!.response[1] });
  await t.rejects(readAnswers(paths.sampled, 20), { message: /record 1 has 4 answers in "response"; expected 20/ });
  const rows = await correctnessRows(paths.sampled, 4);
  const instructions = async (from: number, to: number) => {
    const all: string[] = [];
    for await (const { instruction } of rows.read(from, to)) all.push(instruction);
    return all;
  };
  t.equal(rows.count, 28);
  t.same(await instructions(5, 11), (await instructions(0, 28)).slice(5, 11), "a part is cut where it is asked for");
  t.equal(questionsSplit("hq", "test"), "dev");
  t.equal(questionsSplit("hq", "train"), "train");
  t.equal(questionsSplit("nq", "test"), "test");
  t.equal(
    questionPrompts.long_mc_qa("Q?"),
    "Select the correct answer to the following question based on your internal knowledge.\nQuestion: Q?",
  );
  t.equal(judgePrompts.consistency("ask"), "ask.");
});

t.test("the token that ends an answer is no part of it", async (t) => {
  const policy = await model.policy();
  policy.generate = async function* () {
    const sample = { prompt: 0, sample: 0, text: "red", finish: "stop" as const };
    yield { ...sample, tokens: Int32Array.of(30), logprobs: Float32Array.of(-1, -2) };
  };
  const output = join(folder, "ended.jsonl");
  const one = put("one-question.jsonl", lines([{ question: "q?", answer: ["a"] }]));
  const pass = { ...context, output, label: "x" };
  const rows = await questionRows(one, questionPrompts.long_qa);
  await generationPass(policy, rows, { ...settings, samples: 1, tokens: true, logprobs: true }, pass);
  t.match(read(output)[0], { logprobs: [[-1]], cumulative_logprobs: [-1], tokens: [[/./]] });
  t.same(read<{ logprobs: number[][] }>(output)[0]!.logprobs, [[-1]]);
});

t.test("a pass that was stopped goes on to the same bytes; one by other settings is refused", async (t) => {
  const whole = await inferred("whole");
  const policy = await model.policy();
  const stopped = setIn("stopped");
  const paths = answersPaths(stopped.place);
  for (let round = 0; round < 20 && !existsSync(paths.sampled); round++) {
    const stop = new AbortController();
    let parts = 0;
    const advance = () => ++parts === 1 + (round % 2) && round < 6 && stop.abort();
    const progress = { note() {}, task: () => ({ advance, end() {} }) };
    await answerSets(policy, [stopped], settings, { progress, signal: stop.signal }, 2).catch((error) => {
      t.equal(error.code, "ABORTED");
    });
  }
  t.same(readFileSync(paths.greedy), readFileSync(whole.greedy));
  t.same(readFileSync(paths.sampled), readFileSync(whole.sampled));
  t.notOk(existsSync(`${paths.sampled}.parts`));
  const failing: Responder = {
    ...judge,
    // biome-ignore lint/correctness/useYield: it fails before it replies
    async *replies() {
      throw new Error("gone");
    },
  };
  await t.rejects(judgeSets(failing, [stopped], { maxTokens: 64 }, context), /gone/);
  t.notOk(existsSync(paths.consistency), "no half of an output");
  await judgeSets(judge, [stopped], { maxTokens: 64 }, context);
  t.same(readFileSync(paths.sampledJudged), readFileSync(whole.sampledJudged));
  await judgeSets(failing, [stopped], { maxTokens: 64 }, context);
  t.pass("what is done is not done again");
  await t.rejects(answerSets(policy, [stopped], { ...settings, maxTokens: 9 }, context), {
    code: "OTHER_RUN",
    message: /maxTokens was 8 and is 9/,
  });
  await t.rejects(judgeSets({ ...judge, name: "judge-2" }, [stopped], { maxTokens: 64 }, context), {
    code: "OTHER_RUN",
    message: /judge was "judge-1" and is "judge-2"/,
  });
  await t.rejects(judgeSets(judge, [stopped], { maxTokens: 64, url: "there" }, context), {
    message: /: url was not given and is "there"\. Remove /,
  });
  const output = put("R2/there.jsonl", "");
  const pass = { ...context, output, label: "x" };
  const none = await questionRows(questions, questionPrompts.long_qa);
  await t.rejects(judgePass(judge, none, {}, pass), { code: "EXISTS", message: /nothing beside it/ });
  await t.rejects(generationPass(policy, none, { ...settings, samples: 1, tokens: true, logprobs: true }, pass), {
    code: "EXISTS",
  });
});

t.test("verdicts are read in groups, and of the right run", async (t) => {
  const asked = ["one?", "two?"];
  const verdicts = (replies: (string | null)[], questions = ["one?", "one?", "two?", "two?"]) =>
    put(
      "verdicts.jsonl",
      lines(
        replies.map((reply, i) => ({
          question: "request",
          original_question: questions[i],
          response: reply === null ? null : [reply],
        })),
      ),
    );
  const good = verdicts(["certain", "Uncertain.", "not certain", "certain"]);
  t.same(await readVerdicts(good, asked, { group: 2 }), {
    values: [
      [1, 0],
      [0, 1],
    ],
    unparsed: 0,
  });
  const odd = verdicts(["certain", "", "Yes, no doubt", null]);
  await t.rejects(readVerdicts(odd, asked, { group: 2 }), {
    code: "UNPARSED",
    message: /3 verdicts say neither.*e\.g\. ""/,
  });
  t.same(await readVerdicts(odd, asked, { group: 2, unparsed: "negative" }), {
    values: [
      [1, 0],
      [0, 0],
    ],
    unparsed: 3,
  });
  t.same(
    await readVerdicts(odd, asked, { group: 2, compat: new Set(["B9-15"] as const) }),
    {
      values: [
        [1, 1],
        [0, 0],
      ],
      unparsed: 0,
    },
    "B9-15: silence is a yes, a no anywhere is a no",
  );
  await t.rejects(readVerdicts(verdicts(["certain", "certain", "certain"]), asked, { group: 2 }), {
    code: "BAD_INPUT",
    message: /its 3 lines do not come in groups.*: they end within question 2, which has 2 answers/,
  });
  const six = ["one?", "one?", "two?", "two?", "three?", "three?"];
  await t.rejects(readVerdicts(verdicts(Array(6).fill("certain"), six), asked, { group: 2 }), {
    message: /its 6 lines do not come in groups.*go on after question 2/,
  });
  const mixed = verdicts(Array(4).fill("certain"), ["one?", "two?", "two?", "two?"]);
  await t.rejects(readVerdicts(mixed, asked, { group: 2 }), {
    code: "BAD_INPUT",
    message: /record 2 judges an answer to "two\?", where question 1 is "one\?". It is of another run/,
  });
  const line = (generated: string) => ({ question: "one?", generated, response: ["certain"] });
  const judged = put("judged.jsonl", lines([line("a"), line("b")]));
  t.same((await readVerdicts(judged, ["one?"], { group: 2, answers: [["a", "b"]] })).values, [[1, 1]]);
  await t.rejects(readVerdicts(judged, ["one?"], { group: 2, answers: [["a", "c"]] }), {
    code: "BAD_INPUT",
    message: /record 2 judges another answer to question 1 than "c". It is of another run/,
  });
  const request = { question: "Are a and b the same?", original_question: "one?", response: ["certain"] };
  const agreement = put("agreement.jsonl", lines([request]));
  t.same((await readVerdicts(agreement, ["one?"], { group: 1, answers: [["b"]] })).values, [[1]]);
  await t.rejects(readVerdicts(agreement, ["one?"], { group: 1, answers: [["xyz"]] }), { message: /another answer/ });
});

t.test("HonestyBench's records, in and out", async (t) => {
  const row = (i: number) => ({
    question: `q${i}?`,
    answer: ["Rhône", "Rhone"],
    greedy_response: ["The Rhône."],
    greedy_correctness: i % 2,
    greedy_tokens: [["The", " Rh", "ône", "."]],
    greedy_cumulative_logprobs: [-0.52],
    greedy_logprobs: [[-0.1, -0.3, -0.02, -0.1]],
    sampling_response: Array.from({ length: 20 }, (_, k) => `answer ${(k * i) % 7}`),
    sampling_correctness: Array.from({ length: 20 }, (_, k) => Number(k < i)),
    consistency_judgement: Array.from({ length: 20 }, (_, k) => Number(k % (i + 2) === 0)),
  });
  const rows = [0, 1, 2, 3].map(row);
  const released = put("honesty.jsonl", lines(rows));
  const paths = answersPaths({ ...place, samples: 20, results: join(folder, "H") });
  const ask = (question: string) => ({ instruction: `ask ${question}`, prompt: `<${question}>` });
  t.equal(await importHonestyBench(released, paths, { samples: 20, ask }), 4);
  const questions = rows.map(({ question }) => question);
  const given = rows.map(({ sampling_response }) => sampling_response);
  t.same(
    (await readVerdicts(paths.consistency, questions, { group: 20, answers: given })).values,
    rows.map((one) => one.consistency_judgement),
  );
  t.same(
    (
      await readVerdicts(paths.sampledJudged, questions, {
        group: 20,
        answers: given,
        compat: new Set(["B9-15"] as const),
      })
    ).values,
    rows.map((one) => one.sampling_correctness),
  );
  t.match((await readAnswers(paths.sampled, 20))[2], { prompt: "<q2?>", response: rows[2]!.sampling_response });
  const back = join(folder, "back.jsonl");
  t.equal(await exportHonestyBench(paths, back, { samples: 20 }), 4);
  t.same(readFileSync(back), readFileSync(released), "the same bytes");

  const refused = async (change: object, message: RegExp) =>
    t.rejects(
      importHonestyBench(put("bad.jsonl", lines([rows[0], { ...rows[1], ...change }])), paths, { samples: 20, ask }),
      {
        code: "BAD_INPUT",
        message,
      },
    );
  await refused(
    { sampling_response: rows[1]!.sampling_response.slice(1) },
    /:2: "sampling_response" is a list of 19; expected a list of 20 strings/,
  );
  await refused({ consistency_judgement: undefined }, /"consistency_judgement" is missing; expected a list of 20/);
  await refused({ sampling_correctness: Array(20).fill(0.5) }, /"sampling_correctness\[0\]" is 0\.5; expected 0 or 1/);
  await refused({ greedy_tokens: [] }, /"greedy_tokens" is an empty list; expected a list of 1/);
  const other = answersPaths({ ...place, samples: 20, results: join(folder, "H2") });
  await importHonestyBench(put("fewer.jsonl", lines(rows.slice(0, 3))), other, { samples: 20, ask });
  await t.rejects(exportHonestyBench({ ...paths, sampled: other.sampled }, back, { samples: 20 }), {
    message: /of different runs/,
  });
  await t.rejects(exportHonestyBench({ ...paths, consistency: other.consistency }, back, { samples: 20 }), {
    message: /its 60 lines do not come in groups/,
  });
  writeFileSync(paths.greedy, lines(read(paths.greedy).map((one) => ({ ...one, tokens: null }))));
  await t.rejects(exportHonestyBench(paths, back, { samples: 20 }), { message: /no tokens.*--get_tokens 1/ });
});

t.test("from the command line", async (t) => {
  const credence = (...args: string[]) => {
    const { status, stderr, stdout } = spawnSync(
      process.execPath,
      [join(root, "dist", "cli", "bin.js"), "elical", ...args],
      {
        encoding: "utf8",
      },
    );
    return { status, told: stderr + stdout };
  };
  const done = (...args: string[]) => {
    const { status, told } = credence(...args);
    t.equal(status, 0, told);
    return told;
  };
  const base = join(folder, "base");
  const raw = put("raw/nq-open.jsonl", lines(tinyQuestions(3).map(({ question, answer }) => ({ question, answer }))));
  t.match(
    done("convert", "--dataset", "nq", "--input", raw, "--output", join(base, "data/nq/test.jsonl")),
    /3 rows.*published file has 3610/,
  );
  const R = join(folder, "R3");
  const passes = [
    "infer",
    "--dataset",
    "nq",
    "--base_path",
    base,
    "--res_path",
    R,
    "--model_path",
    join(folder, "model"),
    "--model_name",
    "tiny",
    "--sample_num",
    "2",
    "--max_tokens",
    "4",
  ];
  t.match(
    done(...passes, "--tp_size", "4", "--compat", "B9-3"),
    /--tp_size \(one engine computes\)[\s\S]*answered and judged/,
  );
  const paths = answersPaths({ ...place, results: R, samples: 2 });
  t.equal(read(paths.sampledJudged).length, 6);
  t.match(JSON.parse(readFileSync(`${paths.greedy}.pass.json`, "utf8")), { notNeeded: { tp_size: 4 } });
  t.match(done(...passes, "--compat", "B9-3"), /answered and judged/, "done already, and the flag makes no difference");
  rmSync(paths.consistencyRequests);
  done(
    "consistency",
    "--dataset",
    "nq",
    "--data_type",
    "test",
    "--qa_type",
    "long_qa",
    "--model_name",
    "tiny",
    "--res_path",
    R,
    "--sample-num",
    "2",
  );
  t.equal(read(paths.consistencyRequests).length, 6);
  const one = join(folder, "one.jsonl");
  done(
    "infer",
    "--model_path",
    join(folder, "model"),
    "--input_path",
    paths.greedy,
    "--output_path",
    one,
    "--prompt_type",
    "llm_judge_gold",
    "--max_tokens",
    "4",
  );
  t.match(read(one)[0], { generated: /./, response: [/.*/] });
  const bench = [
    "convert",
    "--honestybench",
    "export",
    "--res_path",
    R,
    "--model_name",
    "tiny",
    "--dataset",
    "nq",
    "--sample_num",
    "2",
    "--output",
    join(folder, "exported.jsonl"),
  ];
  const unclear = credence(...bench);
  t.equal(unclear.status, 1);
  t.match(unclear.told, /verdicts say neither "certain" nor "uncertain"/);
  done(...bench, "--compat", "B9-15");
  t.equal(read(join(folder, "exported.jsonl")).length, 3);
  const imported = join(folder, "R4");
  done(
    "convert",
    "--honestybench",
    "import",
    "--input",
    join(folder, "exported.jsonl"),
    "--model",
    join(folder, "model"),
    "--res_path",
    imported,
    "--model_name",
    "tiny",
    "--dataset",
    "nq",
    "--sample_num",
    "2",
  );
  const again = answersPaths({ ...place, results: imported, samples: 2 });
  t.same(
    (await readAnswers(again.greedy, 1)).map(({ prompt }) => prompt),
    (await readAnswers(paths.greedy, 1)).map(({ prompt }) => prompt),
    "prompts are made again",
  );
  t.match(credence("convert", "--dataset", "trivia").told, /expected one of nq, tq/);
});
