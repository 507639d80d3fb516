import { spawnSync } from "node:child_process";
import { readdirSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import t from "tap";
import { rougeL } from "../src/evaluation/rouge.js";
import {
  type EvaluationSettings,
  evaluateSet,
  gatherSets,
  workbookColumns,
} from "../src/methods/elical/published/evaluate.js";
import { answersPaths, findPredictions, workbookPath } from "../src/methods/elical/published/paths.js";
import { readAnswers } from "../src/methods/elical/published/verdicts.js";
import { readZipEntry } from "../src/model/zip.js";
import { madeUpSets, makeUpResults } from "./fixtures/published-results.js";

/** The first sheet's numbers, read from the XML itself; empty cells are null. */
function sheet(path: string): (number | null)[][] {
  const { data } = readZipEntry(path, (name) => /worksheets\/sheet1\.xml$/.test(name));
  return [...data.toString("utf8").matchAll(/<row [^>]*>(.*?)<\/row>/gs)].map(([, row]) => {
    const cells: (number | null)[] = [];
    for (const [, name, , value] of row!.matchAll(/<c r="([A-Z])\d+"[^>]*?(\/>|>(?:<v>(.*?)<\/v>)?<\/c>)/g))
      cells[name!.charCodeAt(0) - 65] = value === undefined ? null : Number(value);
    return Array.from({ length: workbookColumns.length }, (_, i) => cells[i] ?? null);
  });
}

const settings = (results: string, more: Partial<EvaluationSettings> = {}): EvaluationSettings => ({
  results,
  model: "M",
  trainSet: "nq-hq",
  questionType: "long_qa",
  part: "lora",
  sizes: [300, 1000, 0],
  elicitationRows: 0,
  batch: 16,
  accumulation: 8,
  weightDecay: 0.1,
  rank: 8,
  alpha: 16,
  dropout: 0,
  samples: 20,
  unparsed: "error",
  seed: 42,
  compat: new Set(),
  out: join(results, "res"),
  ...more,
});

t.test("three workbooks without a header hold what evaluation.json and the CSV say", async (t) => {
  const results = t.testdir();
  makeUpResults({ results });
  const of = settings(results);
  for (const [set, , questionType] of madeUpSets) await evaluateSet(set, { ...of, questionType });
  const { evaluation, others, path } = gatherSets(of);
  t.same(others, []);
  t.same(
    evaluation.sets.map(({ set, group, questions }) => [set, group, questions]),
    [
      ["hq", "in-domain", 25],
      ["mmlu", "other-format", 30],
      ["nq", "in-domain", 60],
      ["squad", "out-of-domain", 40],
    ],
  );
  const nq = evaluation.sets.find(({ set }) => set === "nq")!;
  const value = (method: string, rows: number | null, metric: "auroc" | "ece" | "align") =>
    nq.methods.find((one) => one.method === method && one.rows === rows)![metric]!;
  for (const metric of ["auroc", "ece", "align"] as const) {
    const book = workbookPath(of.out, { ...of, evalSet: "nq" }, metric);
    t.match(book, `res/M/nq-hq/nq/long_qa_alignment_${metric}.xlsx`);
    const rows = sheet(book);
    t.equal(rows.length, 3, "a row a size, and no header");
    for (const [i, size] of of.sizes.entries()) {
      for (const [column, method] of workbookColumns.entries()) {
        const want = value(method, column < 3 ? null : size, metric);
        const got = rows[i]![column]!;
        if (metric === "ece") t.equal(got, want);
        else t.ok(Math.abs(got - want) <= 0.005 + 1e-9 && Math.abs(got * 100 - Math.round(got * 100)) < 1e-6);
      }
    }
    t.same(
      rows.map((row) => row.slice(0, 3)),
      [rows[0], rows[0], rows[0]].map((row) => row!.slice(0, 3)),
      "what needs no labels is the same down the rows",
    );
  }
  const inDomain = evaluation.averages.find(({ group }) => group === "in-domain")!;
  t.same([inDomain.sets, inDomain.questions], [["hq", "nq"], 85]);
  const hq = evaluation.sets.find(({ set }) => set === "hq")!;
  const weighted = (25 * hq.methods[2]!.auroc! + 60 * nq.methods[2]!.auroc!) / 85;
  t.equal(inDomain.methods[2]!.auroc!.toFixed(9), weighted.toFixed(9));
  const scores = readFileSync(join(of.out, "M", "nq-hq", "nq", "long_qa_confidences.jsonl"), "utf8").split("\n");
  t.match(JSON.parse(scores[0]!), { index: 0, confidences: { "Verbal-0": 0 } }, "a reply without a score");
  t.ok(JSON.parse(scores[1]!).confidences["Verbal-0"] > 0);
  const files = answersPaths({ results, model: "M", dataset: "nq", split: "test" });
  const [greedy, sampled] = [await readAnswers(files.greedy, 1), await readAnswers(files.sampled, 20)];
  for (const [i, { response, tokens, cumulative_logprobs }] of greedy.entries()) {
    const sum = cumulative_logprobs![0]!;
    const words = sampled[i]!.response.map((text) => rougeL(text!, response[0]!));
    t.match(
      JSON.parse(scores[i]!).confidences,
      {
        Prob: Math.exp(sum),
        "N-Prob": Math.exp(sum / tokens![0]!.length),
        "Consis-Lex": words.reduce((all, one) => all + one, 0) / 20,
      },
      `question ${i}`,
    );
  }
  const csv = readFileSync(path.replace(/json$/, "csv"), "utf8").trim().split("\n");
  t.equal(csv.length, 1 + (4 + 3) * 12, "a line a method, a set and an average");
  t.ok(
    csv.includes(
      `in-domain,nq,60,EliCal,1k,${["auroc", "ece", "align"].map((m) => value("EliCal", 1000, m as "ece")).join(",")},${nq.methods.find(({ method, rows }) => method === "EliCal" && rows === 1000)!.threshold}`,
    ),
  );
});

const openpyxl = spawnSync("python3", ["-c", "import openpyxl"]).status === 0;

t.test(
  "openpyxl opens the workbooks and reads the same numbers",
  { skip: openpyxl ? false : "python3 has no openpyxl to open workbooks with" },
  async (t) => {
    const results = t.testdir();
    makeUpResults({ results });
    const of = settings(results);
    await evaluateSet("nq", of);
    for (const metric of ["auroc", "ece", "align"] as const) {
      const book = workbookPath(of.out, { ...of, evalSet: "nq" }, metric);
      const read = spawnSync(
        "python3",
        [
          "-W",
          "ignore",
          "-c",
          "import json, openpyxl, sys; print(json.dumps(list(openpyxl.load_workbook(sys.argv[1]).active.values)))",
          book,
        ],
        { encoding: "utf8" },
      );
      t.equal(read.status, 0, read.stderr);
      t.same(JSON.parse(read.stdout), sheet(book), metric);
    }
  },
);

t.test("each quirk of the published numbers, with and without", async (t) => {
  const results = t.testdir();
  makeUpResults({ results, sizes: [300] });
  const one = (compat: string[], more: Partial<EvaluationSettings> = {}, set = "nq") =>
    evaluateSet(
      set,
      settings(results, { sizes: [300], compat: new Set(compat) as EvaluationSettings["compat"], ...more }),
    );
  const plain = await one([]);
  const rounded = await one(["B9-10"]);
  const consistency = (of: typeof plain) => of.methods.find(({ method }) => method === "Cons-Sem")!;
  t.equal(consistency(rounded).ece, Number(consistency(rounded).ece!.toFixed(2)), "B9-10 rounds");
  t.not(consistency(plain).ece, consistency(rounded).ece);
  const first = await one(["B9-9"]);
  t.notSame(
    first.methods.map(({ align }) => align),
    plain.methods.map(({ align }) => align),
    "B9-9: other rows choose the threshold",
  );
  t.same(
    first.methods.map(({ auroc }) => auroc),
    plain.methods.map(({ auroc }) => auroc),
  );
  t.same(await one([]), plain, "the random rows are the seed's");
  const letters = await one([], { questionType: "long_mc_qa" }, "mmlu");
  const published = await one(["B9-16"], { questionType: "long_mc_qa" }, "mmlu");
  t.ok(published.accuracy > letters.accuracy, "B9-16: every A counts as right");
  const verdicts = answersPaths({ results, model: "M", dataset: "nq", split: "test" }).greedyJudged;
  const lines = readFileSync(verdicts, "utf8").trim().split("\n");
  writeFileSync(
    verdicts,
    lines.map((line, i) => (i === 0 ? line.replace(/\["[^"]*"\]/, '["Maybe?"]') : line)).join("\n"),
  );
  await t.rejects(one([]), { code: "UNPARSED" }, "a verdict that says neither is not guessed");
  t.equal((await one([], { unparsed: "negative" })).unparsed, 1, "unless it is told to");
  t.equal((await one(["B9-15"])).unparsed, 0, "B9-15: it is a yes");
  const mixed = gatherSets(settings(results, { sizes: [300] }));
  t.equal(mixed.others.length, 2, "sets evaluated with other settings are not averaged with these");
});

t.test("what does not belong together is refused by name", async (t) => {
  const results = t.testdir();
  makeUpResults({ results, sizes: [300] });
  const of = settings(results, { sizes: [300] });
  const place = { ...of, type: "right" as const, rows: 300 };
  const path = findPredictions(place, "nq", "test");
  const good = readFileSync(path, "utf8");
  for (const [change, sentence] of [
    [(lines: string[]) => lines.slice(1), /holds 59 predictions of 60 questions/],
    [(lines: string[]) => [lines[0]!, ...lines.slice(0, -1)], /index 0 stands twice/],
    [(lines: string[]) => [...lines, '{"index":60,"predicted":0.5}'], /index 60 is beyond the 60 questions/],
    [
      (lines: string[]) => [lines[0]!.replace(/"predicted":[\d.e-]+/, '"predicted":1.5'), ...lines.slice(1)],
      /predicted/,
    ],
  ] as [(lines: string[]) => string[], RegExp][]) {
    writeFileSync(path, change(good.trim().split("\n")).join("\n"));
    await t.rejects(evaluateSet("nq", of), { code: "BAD_INPUT", message: sentence });
  }
  writeFileSync(path, good.trim().split("\n").reverse().join("\n"));
  await t.resolves(evaluateSet("nq", of), "the order of the lines does not matter");
  rmSync(path);
  await t.rejects(evaluateSet("nq", of), { code: "NO_FILE", message: /credence elical predict/ });
  writeFileSync(path, good);
  const paths = answersPaths({ results, model: "M", dataset: "nq", split: "test" });
  const verdicts = readFileSync(paths.consistency, "utf8").trim().split("\n");
  writeFileSync(paths.consistency, verdicts.slice(0, -3).join("\n"));
  await t.rejects(evaluateSet("nq", of), { code: "BAD_INPUT" }, "verdicts that do not come in groups");
  await t.rejects(evaluateSet("tq", of), { message: /tq_test_M_long_qa_0\.0_0\.95_50_sample_1\.jsonl/ });
  t.same(readdirSync(join(of.out, "M", "nq-hq")), ["nq"], "nothing is written for a set that failed");
});
