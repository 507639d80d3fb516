/** Whether rationales are faithful: sampled, clustered, paired, summarised and judged, as published and corrected. */
import { readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import t from "tap";
import { fromJsonLines, toJsonLines } from "../src/data/readers.js";
import {
  evaluatedPath,
  noReason,
  type ReasonRecord,
  readScore,
  reasonedClusters,
  reasonOf,
  type ScoredReasons,
  scoreRequest,
  shuffledRows,
  summaryRequest,
} from "../src/methods/sayself/reasons.js";
import { credence } from "./fixtures/command-line.js";
import { fakeServer } from "./fixtures/fake-server.js";
import { tinyQuestions, writeTinyModel } from "./fixtures/tiny-model.js";

const corrected = new Set<`B9-${number}`>();
const published = new Set<`B9-${number}`>(["B9-15"]);

t.test("a response is kept up to its reflection, and the reflection beside it", async (t) => {
  t.same(reasonOf("On the Danube. Answer: Danube. Self-reflection: I mix them up. Confidence: 7"), {
    reason: "I mix them up.",
    response: "On the Danube. Answer: Danube.",
  });
  t.same(reasonOf(" Answer: Danube. "), { reason: noReason, response: "Answer: Danube." });
  t.same(reasonOf("Answer: a. Self-reflection: Confidence: 3"), { reason: noReason, response: "Answer: a." });
  t.same(shuffledRows([..."abcdef"], 1, 4, 42).toSorted(), [..."bcde"]);
  t.same(shuffledRows([..."abcdef"], 1, 4, 42), shuffledRows([..."abcdef"], 1, 4, 42));
});

const record: ReasonRecord = {
  question: "Which river?",
  reason: ["alone", noReason, "of the pair", "of three", "", "of three too"],
  responses: ["A", "B", "B!", "C", "C!", "C?"],
};
const groups = [[0], [1, 2], [3, 4, 5]];

t.test(
  "clusters of one are left out, and each of the others has a rationale of its own; as published another's",
  async (t) => {
    t.same(reasonedClusters(record, groups, corrected), [
      { response: "B", size: 2, reason: "of the pair" },
      { response: "C", size: 3, reason: "of three" },
    ]);
    t.same(reasonedClusters(record, groups, published), [
      { response: "B", size: 2, reason: "alone" },
      { response: "C", size: 3, reason: null },
    ]);
    t.same(
      reasonedClusters({ ...record, reason: record.reason.map(() => noReason) }, groups, corrected).map(
        ({ reason }) => reason,
      ),
      [null, null],
    );
  },
);

t.test("a cluster's share is told; as published its size, as if of a hundred", async (t) => {
  const clusters = reasonedClusters(record, groups, corrected);
  const told = { summary: "They mix them up.", samples: 6 };
  const request = scoreRequest(record.question, clusters, told, corrected);
  t.match(request, "Answer 1 (33%): B\nAnswer 2 (50%): C\nWhat the person says: They mix them up.\n");
  t.match(scoreRequest(record.question, clusters, told, published), "Answer 1 (2%): B\nAnswer 2 (3%): C\n");
  t.match(summaryRequest(record.question, clusters), "Question: Which river?\n- of the pair\n- of three\nSummarise");
});

t.test("a judge's score", async (t) => {
  for (const [reply, score] of [
    ["reason: it fits. score: 7", 7],
    ["Reason: it fits.\nScore: 10/10", 10],
    ["score: 3 ... no, score: 0", 0],
    ["**Score:** 8", 8],
    ["score: 7.5", null],
    ["score: 11", null],
    ["score: none", null],
    ["7", null],
    ["", null],
  ] as const)
    t.equal(readScore(reply), score, reply);
});

t.test("the published loop on a toy, from questions to scores", async (t) => {
  const folder = t.testdir({});
  const path = (name: string) => join(folder, name);
  const model = writeTinyModel(path("tiny"));
  writeFileSync(path("q.jsonl"), toJsonLines(tinyQuestions(9).map(({ question }) => ({ question }))));
  const run = (...args: string[]) => credence("sayself", ...args, "--log-level", "warn");
  const engine = ["--device", "cpu", "--dtype", "f32", "--threads", "2"];
  const sampling = [
    "generate-reasons",
    "--dataset_path",
    path("q.jsonl"),
    "--num_try",
    "3",
    "--num_examples=5",
    "--start_index=2",
    "--max-new-tokens=4",
  ];
  const made = await run(
    ...sampling,
    "--output_path",
    path("r.jsonl"),
    "--model",
    model,
    ...engine,
    "--tensor_parallel_size=2",
    "--tokenizer",
    "x",
    "--json",
  );
  t.equal(made.status, 0, made.told);
  t.match(JSON.parse(made.out), { questions: 5, samples: 15, without: 15 });
  const records = fromJsonLines<ReasonRecord>(readFileSync(path("r.jsonl"), "utf8"));
  t.same(
    records.map(({ question }) => question).toSorted(),
    tinyQuestions(7)
      .slice(2)
      .map(({ question }) => question)
      .toSorted(),
  );
  t.ok(records.every(({ reason, responses }) => reason.length === 3 && responses.length === 3));
  t.match(JSON.parse(readFileSync(path("r.jsonl.pass.json"), "utf8")).notNeeded, {
    tensor_parallel_size: 2,
    tokenizer: "x",
  });
  const untrained = await run(
    ...sampling,
    "--output_path",
    path("u.jsonl"),
    "--model",
    model,
    ...engine,
    "--enable_unsfted_model",
  );
  t.equal(untrained.status, 0, untrained.told);
  t.not(readFileSync(path("u.jsonl"), "utf8"), readFileSync(path("r.jsonl"), "utf8"), "asked in another way");

  const rows: ReasonRecord[] = [
    record,
    { question: "None?", reason: [noReason, noReason], responses: ["A", "A"] },
    { question: "Odd?", reason: ["x", "y"], responses: ["A", "B"] },
    { question: "Last?", reason: ["I", "I"], responses: ["A", "A"] },
  ];
  writeFileSync(path("f.jsonl"), toJsonLines(rows));
  await using server = await fakeServer(({ body }) => {
    const { input } = body as unknown as { input?: string[] };
    if (input) {
      const data = input.map((text, index) => ({
        index,
        embedding: ["A", "B", "C"].map((letter) => (text[0] === letter ? 1 : 0)),
      }));
      return { body: JSON.stringify({ data }) };
    }
    const asked = body.messages[0]!.content;
    if (asked.includes("Summarise"))
      return { text: `Reason: They say ${asked.includes("of three") ? "three" : "one"}.` };
    return {
      text: asked.includes("Last?")
        ? "reason: hm"
        : asked.includes("(50%)")
          ? "reason: it fits. score: 8"
          : "reason: no. score: 2",
    };
  });
  const judge = ["--check-model", "chat", "--url", server.url, "--embedding-url", server.url, "--embedding-model", "e"];
  const judged = await run("evaluate-reasons", "--data_path", path("f.jsonl"), ...judge, "--json");
  t.equal(judged.status, 0, judged.told);
  t.match(JSON.parse(judged.out), { judge: "chat", looked_at: 4, scored: 1, without: 2, unread: 1, mean: 8 });
  t.match(judged.told, /2 questions have no cluster of two responses with a rationale/);
  t.match(judged.told, /1 questions have no score/);
  const output = evaluatedPath(path("f.jsonl"));
  t.equal(output, path("f_eval_output2.jsonl"));
  const scored = fromJsonLines<ScoredReasons>(readFileSync(output, "utf8"));
  t.same(Object.keys(scored[0]!), [
    "question",
    "reason",
    "responses",
    "cluster",
    "sizes",
    "summary",
    "score",
    "numerical_score",
  ]);
  t.match(scored[0], {
    cluster: [
      { response: "B", size: 2 },
      { response: "C", size: 3 },
    ],
    sizes: [2, 3],
    summary: "They say three.",
    score: "reason: it fits. score: 8",
    numerical_score: 8,
  });
  t.match(
    scored.slice(1).map(({ sizes, score, numerical_score: number }) => [sizes, score, number]),
    [
      [[2], null, null],
      [[], null, null],
      [[2], "reason: hm", null],
    ],
  );
  const asked = server.calls.length;
  t.equal((await run("evaluate-reasons", "--data_path", path("f.jsonl"), ...judge)).status, 0);
  t.ok(
    server.calls.slice(asked).every(({ body }) => "input" in body),
    "what was paid for is not asked again",
  );

  const limited = await run("evaluate-reasons", "--data_path", path("f.jsonl"), ...judge, "--limit", "1", "--json");
  t.match(JSON.parse(limited.out), { looked_at: 1, scored: 1 });
  const asPublished = await run(
    "evaluate-reasons",
    "--data_path",
    path("f.jsonl"),
    ...judge,
    "--compat",
    "B9-15",
    "--json",
  );
  t.match(JSON.parse(asPublished.out), { mean: 2 }, "the shares are not told, and the summary is of another cluster");

  for (const [why, args] of [
    [
      /by which vectors are responses clustered/,
      ["evaluate-reasons", "--data_path", path("f.jsonl"), "--check-model", "c", "--url", server.url],
    ],
    [
      /--compat B9-1: it makes no difference to evaluate-reasons/,
      ["evaluate-reasons", "--data_path", path("f.jsonl"), ...judge, "--compat", "B9-1"],
    ],
    [/which model is asked\? Give --model/, [...sampling, "--output_path", path("n.jsonl")]],
    [
      /"reason" is a list of 1; expected as many as there are responses/,
      ["evaluate-reasons", "--data_path", path("bad.jsonl"), ...judge],
    ],
  ] as const) {
    writeFileSync(path("bad.jsonl"), toJsonLines([{ ...record, reason: ["x"] }]));
    const refused = await run(...args);
    t.not(refused.status, 0, String(why));
    t.match(refused.told, why);
  }
});
