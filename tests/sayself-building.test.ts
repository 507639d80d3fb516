/** What the first stage learns from, from bare questions: which cluster is right, rationales, the five variants, going on. */
import { existsSync, readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import t from "tap";
import { fromJsonLines, toJsonLines } from "../src/data/readers.js";
import {
  agrees,
  type ClusteredQuestion,
  clusterQuestions,
  judgedClusters,
  learntParts,
  type QuestionRationale,
  readBuildQuestions,
  readSampled,
  type SampledQuestion,
  sampleQuestions,
  sampleSettings,
  writeRationales,
} from "../src/methods/sayself/building.js";
import { refuseOverlap, sharedQuestions } from "../src/methods/sayself/overlap.js";
import {
  agreedRationale,
  rationaleRequest,
  readRationale,
  type Summariser,
  templateRationale,
} from "../src/methods/sayself/rationales.js";
import type { ResponseVectors } from "../src/methods/sayself/response-vectors.js";
import { stageOneRows, variants } from "../src/methods/sayself/stage-one.js";
import { partsOf } from "../src/methods/sayself/wire.js";
import { Model } from "../src/policy/model.js";
import { silent } from "../src/tracking/progress.js";
import { credence } from "./fixtures/command-line.js";
import { fakeServer } from "./fixtures/fake-server.js";
import { tinyQuestions, writeTinyModel } from "./fixtures/tiny-model.js";

const river = { question: "Which river crosses Vienna?", answers: ["Danube"], negatives: ["Rhine"] };
const says = (answer: string) => `It flows there. Answer: ${answer}.`;
const sampled = (...answers: string[]): SampledQuestion => ({ ...river, responses: answers.map(says) });

t.test("the cluster that holds the right answer, its share, and who stands for it", async (t) => {
  const question = sampled(
    "Rhine",
    "Danube",
    "Danube",
    "Rhine",
    "Danube",
    "the Danube",
    "Danube",
    "Danube",
    "Danube",
    "Elbe",
  );
  const clustered = judgedClusters(question, [[0, 3], [1, 2, 4, 5, 6, 7, 8], [9]]);
  t.match(clustered, { samples: 10, chosen: 1, right: true, confidence: 7 });
  t.same(
    clustered.clusters.map(({ answer, size, right }) => [answer, size, right]),
    [
      ["Rhine", 2, 0],
      ["Danube", 7, 7],
      ["Elbe", 1, 0],
    ],
  );
  // A wrong response that was put among right ones does not stand for them.
  const mixed = judgedClusters(sampled("Rhine", "Danube", "Danube"), [[0, 1, 2]]);
  t.match(mixed, { chosen: 0, right: true, confidence: 10 });
  t.equal(mixed.clusters[0]!.response, says("Danube"));
  // Half is enough and less is not: the others would be taught a confidence that is not theirs.
  t.match(judgedClusters(sampled("Rhine", "Danube"), [[0, 1]]), { right: true });
  t.match(judgedClusters(sampled("Rhine", "Danube", "Elbe"), [[0, 1, 2]]), { right: false, chosen: 0, confidence: 0 });
  t.match(judgedClusters(sampled("Danube", "Rhine", "Danube", "Danube"), [[0], [1], [2, 3]]), {
    chosen: 2,
    confidence: 5,
  });
  t.match(judgedClusters(sampled("Danube", "Rhine", "Danube", "Rhine"), [[0], [1, 3], [2]]), {
    chosen: 0,
    confidence: 3,
  });
  // No cluster is right: the largest that says what it answers.
  const none: SampledQuestion = { ...river, responses: ["so", "so", "so", says("Rhine"), says("Elbe"), says("Elbe")] };
  const wrong = judgedClusters(none, [[0, 1, 2], [3], [4, 5]]);
  t.match(wrong, { chosen: 2, right: false, confidence: 0 });
  t.equal(wrong.clusters[0]!.answer, null);
  t.match(judgedClusters({ ...river, responses: ["so"] }, [[0]]), { chosen: null, right: false, confidence: 0 });
  // The question's own words are no answer, and neither is a wrong one beside the right one.
  t.match(judgedClusters({ ...river, responses: ["Danube, the Danube", says("Danube or Rhine")] }, [[0], [1]]), {
    right: false,
  });
  t.ok(agrees(judgedClusters(sampled("Danube", "Danube"), [[0, 1]])));
  t.notOk(agrees(judgedClusters(sampled("Rhine", "Rhine"), [[0, 1]])));
});

t.test("shares x 10 are rounded, halves up", async (t) => {
  for (const [size, samples, confidence] of [
    [1, 100, 0],
    [4, 100, 0],
    [5, 100, 1],
    [45, 100, 5],
    [94, 100, 9],
    [95, 100, 10],
    [16, 16, 10],
    [8, 16, 5],
    [11, 16, 7],
  ] as const) {
    const answers = [...Array<string>(size).fill("Danube"), ...Array<string>(samples - size).fill("Rhine")];
    const groups = [[...answers.keys()].slice(0, size), [...answers.keys()].slice(size)].filter(
      ({ length }) => length > 0,
    );
    t.equal(judgedClusters(sampled(...answers), groups).confidence, confidence, `${size} of ${samples}`);
  }
});

t.test("a response's parts, where they can be read back", async (t) => {
  t.same(learntParts(says("Danube")), { reasoning: "It flows there. ", answer: "Danube" });
  t.same(learntParts("Answer: Danube"), { reasoning: "", answer: "Danube" });
  for (const text of ["Danube", "Answer: .", "Answer: a. Answer: b", "Confidence: 3 Answer: b"])
    t.equal(learntParts(text), null, text);
});

const clustered = judgedClusters({ ...sampled("Danube", "Danube", "Rhine", "Elbe"), group: "rivers" }, [
  [0, 1],
  [2],
  [3],
]);
const lone = judgedClusters({ ...sampled("Danube", "Danube", "Danube", "Danube"), group: "rivers" }, [[0, 1, 2, 3]]);
const wrong = judgedClusters({ ...sampled("Rhine", "Rhine", "Elbe", "Rhine"), group: "rivers" }, [[0, 1, 3], [2]]);
const silentOne = judgedClusters({ ...river, responses: ["so", "so"], group: "rivers" }, [[0, 1]]);

t.test("the five variants", async (t) => {
  const rationales = ["I mix them up.", agreedRationale, "I do not know.", "I say nothing."];
  const all = [clustered, lone, wrong, silentOne];
  const rows = (name: keyof typeof variants, unanswered: "keep" | "drop" = "keep") =>
    stageOneRows(all, { variant: variants[name], rationales, unanswered });
  t.same(rows("standard"), {
    rows: [
      "It flows there. Answer: Danube. Self-reflection: I mix them up. Confidence: 5",
      `It flows there. Answer: Danube. Self-reflection: ${agreedRationale} Confidence: 10`,
      "It flows there. Answer: Rhine. Self-reflection: I do not know. Confidence: 0",
    ].map((response) => ({ question: river.question, response })),
    unanswered: 2,
    unreadable: 1,
  });
  const texts = (name: keyof typeof variants) =>
    rows(name).rows.map(({ response }) => response.slice("It flows there. ".length));
  t.same(
    texts("no-reflection"),
    ["Danube. Confidence: 5", "Danube. Confidence: 10", "Rhine. Confidence: 0"].map((end) => `Answer: ${end}`),
  );
  t.same(texts("no-confidence"), ["Answer: Danube.", "Answer: Danube.", "Answer: Rhine."]);
  t.same(
    texts("r-tuning"),
    ["Danube. I am sure.", "Danube. I am sure.", "Rhine. I am unsure."].map((end) => `Answer: ${end}`),
  );
  // 2 + 4 + 0 + 0 right of 4 + 4 + 4 + 2.
  t.same(
    texts("group-level"),
    ["Danube. Confidence: 4", "Danube. Confidence: 4", "Rhine. Confidence: 4"].map((end) => `Answer: ${end}`),
  );
  t.match(rows("standard", "drop"), { rows: { length: 2 }, unanswered: 2, unreadable: 0 });
  const few = judgedClusters(sampled("Danube", "Rhine", "Rhine"), [[0], [1, 2]]);
  const unsure = stageOneRows([few], { variant: variants["r-tuning"], rationales: [], unanswered: "keep" });
  t.match(unsure.rows[0]!.response, /Answer: Danube\. I am unsure\.$/, "right, but not what it mostly says");
  t.throws(() => stageOneRows([few], { variant: variants["group-level"], rationales: [], unanswered: "keep" }), {
    code: "BAD_INPUT",
    message: /has no "group"/,
  });
  t.same(
    Object.values(variants).map(({ file }) => file),
    [
      "sft_reason_conf",
      "sft_without_reason_with_conf",
      "sft_without_reason_conf",
      "sft_reason_rtuning",
      "sft_reason_calimath",
    ],
  );
});

t.test("the template states answers and shares, and a model's reply is checked", async (t) => {
  t.equal(
    templateRationale(clustered),
    'I come to "Danube" in 50% of my attempts, "Rhine" in 25% of my attempts and "Elbe" in 25% of my attempts, so I am not sure which of them is right.',
  );
  t.match(templateRationale(lone), /^I come to "Danube" in 100% of my attempts, though/);
  t.match(templateRationale(silentOne), /no answer at all in 100%/);
  const many = judgedClusters(sampled("a1", "b1", "c1", "d1", "e1", "A1!", "f1", "g1"), [
    [0],
    [1],
    [2],
    [3],
    [4],
    [5],
    [6],
    [7],
  ]);
  t.match(templateRationale(many), /^I come to "a1" in 25% of my attempts, .*and something else in 38%, so/);
  const request = rationaleRequest(clustered);
  t.match(request, `Question: ${river.question}\nAnswer 1 (50%): ${says("Danube")}\nAnswer 2 (25%): ${says("Rhine")}`);
  t.match(
    rationaleRequest({ ...many, clusters: Array.from({ length: 16 }, () => many.clusters[0]!), samples: 16 }),
    /\(38% of the answers are others\.\)/,
  );
  for (const [reply, text] of [
    [" I mix\n them up. ", "I mix them up."],
    ['Reason: "I mix them up."', "I mix them up."],
    ["", null],
    ["I am. Confidence: 3", null],
    ["so ".repeat(81), null],
  ] as const)
    t.equal(readRationale(reply), text, JSON.stringify(reply));
});

t.test("questions that stand on both sides are refused, however they are written", async (t) => {
  t.same(sharedQuestions(["A river?", "b", "a  RIVER"], ["The river", "c"]), ["A river?", "a  RIVER"]);
  const trained = { name: "train.jsonl", questions: ["Which river?", "What?"] };
  t.throws(() => refuseOverlap(trained, { name: "test.jsonl", questions: ["which river"] }, "or give --anyway"), {
    code: "OVERLAP",
    message:
      '1 of 2 questions of train.jsonl are asked in test.jsonl too, the first of them "Which river?": train on others, or give --anyway',
  });
  refuseOverlap(trained, { name: "test.jsonl", questions: ["Which rivers?"] }, "");
});

t.test("questions and samples from files", async (t) => {
  const folder = t.testdir({
    "q.jsonl": toJsonLines([
      { question: " Which river? ", answer: "Danube", negative_answer: "Rhine/Elbe", group: 3 },
      { question: "What?", answer: ["a", "b"], id: "x" },
    ]),
    "m.json": JSON.stringify([
      {
        messages: [
          { role: "user", content: "Which?" },
          { role: "assistant", content: " Danube " },
        ],
      },
    ]),
    "bare.jsonl": '{"question":"Which?"}\n',
    "s.jsonl": toJsonLines([
      { question: "Which river?", responses: ["a"], answers: ["no"] },
      { question: "What?", responses: ["b", "c"] },
    ]),
  });
  const questions = await readBuildQuestions(join(folder, "q.jsonl"));
  t.same(questions, [
    { question: "Which river?", answers: ["Danube"], negatives: ["Rhine", "Elbe"], group: "3" },
    { question: "What?", answers: ["a", "b"] },
  ]);
  t.same(await readBuildQuestions(join(folder, "m.json")), [{ question: "Which?", answers: ["Danube"] }]);
  await t.rejects(readBuildQuestions(join(folder, "bare.jsonl")), {
    message: /"answer" is missing; expected a string/,
  });
  t.same(await readBuildQuestions(join(folder, "bare.jsonl"), { answers: "optional" }), [
    { question: "Which?", answers: [] },
  ]);
  t.same(
    (await readSampled(join(folder, "s.jsonl"), questions)).map(({ answers, responses }) => [answers, responses]),
    [
      [["Danube"], ["a"]],
      [
        ["a", "b"],
        ["b", "c"],
      ],
    ],
  );
  await t.rejects(readSampled(join(folder, "s.jsonl"), questions.slice(1)), {
    message: /samples of 2 questions, and there are 1/,
  });
  await t.rejects(readSampled(join(folder, "s.jsonl"), questions.toReversed()), {
    message: /record 1 has samples of "Which river\?"/,
  });
});

t.test("steps that are stopped go on, and end with the same bytes", async (t) => {
  const folder = t.testdir({});
  await using model = await Model.load(writeTinyModel(join(folder, "tiny")), {
    device: "cpu",
    dtype: "f32",
    threads: 2,
  });
  await using policy = await model.policy();
  const questions = tinyQuestions(40).map(({ question, answer }) => ({ question, answers: answer }));
  const settings = {
    ...sampleSettings,
    samples: 3,
    newTokens: 3,
    answer: "whole" as const,
    prompt: { user: "{question}", system: "none" as const },
  };
  const stop = new AbortController();
  const pass = (name: string, signal?: AbortSignal) => ({
    output: join(folder, name),
    label: "t",
    progress: silent,
    signal,
  });
  const whole = await sampleQuestions(policy, questions, settings, pass("whole.jsonl"));
  t.equal(whole.length, 40);
  t.ok(
    whole.every(
      ({ responses }) => responses.length === 3 && responses.every((text) => /^(?:Answer: \S.*)?$/.test(text)),
    ),
  );
  t.ok(new Set(whole.flatMap(({ responses }) => responses)).size > 20, "samples differ");

  // Stopped once the first part is there.
  const cut = pass("cut.jsonl", stop.signal);
  const progress = { ...silent, task: () => ({ advance: () => stop.abort(), end() {} }) };
  await t.rejects(sampleQuestions(policy, questions, settings, { ...cut, progress } as never), /stopped|abort/i);
  t.ok(existsSync(join(folder, "cut.jsonl.parts")) && !existsSync(join(folder, "cut.jsonl")));
  await t.rejects(sampleQuestions(policy, questions, { ...settings, seed: 1 }, pass("cut.jsonl")), {
    code: "OTHER_RUN",
  });
  t.same(await sampleQuestions(policy, questions, settings, pass("cut.jsonl")), whole);
  t.equal(readFileSync(join(folder, "cut.jsonl"), "utf8"), readFileSync(join(folder, "whole.jsonl"), "utf8"));
  t.notOk(existsSync(join(folder, "cut.jsonl.parts")));

  let asked = 0;
  const vectors: ResponseVectors = {
    name: "first letters",
    identity: "letters",
    async of(some) {
      asked += 1;
      if (asked === 2) throw new Error("the power failed");
      return some.map(({ texts }) => ({
        data: Float32Array.from(texts.flatMap((text) => ["r", "g", "b"].map((letter) => text.split(letter).length))),
        count: texts.length,
        width: 3,
      }));
    },
  };
  const chosen = { threshold: 0.95, compared: "answer" as const };
  await t.rejects(clusterQuestions(vectors, whole, chosen, pass("clusters.jsonl")), /the power failed/);
  const clusters = await clusterQuestions(vectors, whole, chosen, pass("clusters.jsonl"));
  t.equal(asked, 3, "the first part is not made again");
  t.same(clusters, await clusterQuestions(vectors, whole, chosen, pass("again.jsonl")));
  for (const { clusters: own, samples } of clusters)
    t.same(own.flatMap(({ members }) => members).sort(), [0, 1, 2].slice(0, samples));

  const summariser: Summariser = {
    name: "a model",
    async *rationales(some) {
      for (const [i] of some.entries()) yield i % 2 ? null : "I wonder.";
    },
  };
  const written = await writeRationales(summariser, clusters, pass("rationales.jsonl"));
  t.equal(written.length, 40);
  written.forEach(({ by, rationale }, i) => {
    if (by === "fixed") t.ok(agrees(clusters[i]!));
    else t.equal(rationale, by === "model" ? "I wonder." : templateRationale(clusters[i]!));
  });
  t.same(fromJsonLines<QuestionRationale>(readFileSync(join(folder, "rationales.jsonl"), "utf8")), written);
});

t.test("credence sayself build: from questions to files that can be learnt from", async (t) => {
  const folder = t.testdir({});
  const model = writeTinyModel(join(folder, "tiny"));
  const path = (name: string) => join(folder, name);
  writeFileSync(path("q.jsonl"), toJsonLines(tinyQuestions(20)));
  writeFileSync(
    path("held.jsonl"),
    toJsonLines([{ question: "What colour is THAT hat of ada says quietly?" }, ...tinyQuestions(3).slice(2)]),
  );
  const run = (...args: string[]) =>
    credence("sayself", "build", "--questions", path("q.jsonl"), ...args, "--log-level", "warn");
  const engine = [
    "--model",
    model,
    "--device",
    "cpu",
    "--dtype",
    "f32",
    "--threads",
    "2",
    "--samples",
    "4",
    "--max-new-tokens",
    "2",
  ];
  const prompted = [
    "--prompt",
    "Question : {question}",
    "--reads",
    "whole",
    "--compared",
    "answer",
    "--threshold",
    "0.6",
  ];
  const all = ["standard", "no-reflection", "no-confidence", "r-tuning", "group-level"];
  const built = await run("--out", path("a"), ...engine, ...prompted, "--json", "--variants", ...all);
  t.equal(built.status, 0, built.told);
  const told = JSON.parse(built.out);
  t.match(told, { questions: 20, vectors: /hidden states of tiny after block 1/, rationales: { model: 0 } });
  t.equal(told.files.length, 5);
  const rows = fromJsonLines<{ question: string; response: string }>(
    readFileSync(path("a/sft_reason_conf.jsonl"), "utf8"),
  );
  t.equal(rows.length, 20);
  const clusters = fromJsonLines<ClusteredQuestion>(readFileSync(path("a/clusters.jsonl"), "utf8"));
  rows.forEach((row, i) => {
    t.same(Object.keys(row), ["question", "response"]);
    t.match(row.response, new RegExp(`Self-reflection: .* Confidence: ${clusters[i]!.confidence}$`));
    t.ok(partsOf(row.response).answer);
  });
  t.ok(clusters.some(({ right }) => right) && clusters.some(({ right }) => !right) && told.clusters > 20);

  // Again: nothing is made anew; then from the samples, without a model that samples, by a server's vectors and words.
  const before = readFileSync(path("a/clusters.jsonl"), "utf8");
  t.equal((await run("--out", path("a"), ...engine, ...prompted)).status, 0);
  t.equal(readFileSync(path("a/clusters.jsonl"), "utf8"), before);
  await using server = await fakeServer(({ body }) => {
    const { input } = body as unknown as { input?: string[] };
    if (!input) return { text: "I mix up colours." };
    const data = input.map((text, index) => ({ index, embedding: [text.length % 3, text.length % 2, 1] }));
    return { body: JSON.stringify({ data }) };
  });
  const asServer = [
    "--embedding-url",
    server.url,
    "--embedding-model",
    "e",
    "--summariser",
    "chat",
    "--url",
    server.url,
  ];
  const served = await run(
    "--out",
    path("b"),
    "--responses",
    path("a/samples.jsonl"),
    ...asServer,
    "--unanswered",
    "drop",
    "--json",
  );
  t.equal(served.status, 0, served.told);
  const [file] = JSON.parse(served.out).files;
  t.equal(file.rows + file.unanswered + file.unreadable, 20);
  const kept = readFileSync(path("b/sft_reason_conf.jsonl"), "utf8");
  t.ok(kept === "" || /I mix up colours\.|totally confident/.test(kept));
  t.ok(JSON.parse(served.out).rationales.model > 0);

  for (const [why, args] of [
    [
      /2 of 20 questions of .*q\.jsonl are asked in .*held\.jsonl too/,
      ["--out", path("c"), ...engine, "--held-out", path("held.jsonl")],
    ],
    [/which model is sampled\? Give --model/, ["--out", path("c")]],
    [/--prompt: where does the question stand/, ["--out", path("c"), ...engine, "--prompt", "x"]],
    [
      /--vectors: they are computed already/,
      ["--out", path("c"), ...engine, "--vectors", "x.npy", "--embedding-model", "e"],
    ],
    [/--url: which of its models writes rationales/, ["--out", path("c"), ...engine, "--url", server.url]],
    [/--layer 9: tiny has 2 blocks/, ["--out", path("c"), ...engine, ...prompted, "--layer", "9"]],
    [/--threshold: expected a number from -1 to below 1/, ["--out", path("c"), ...engine, "--threshold", "1"]],
  ] as const) {
    const refused = await run(...args);
    t.not(refused.status, 0, String(why));
    t.match(refused.told, why);
  }
});
