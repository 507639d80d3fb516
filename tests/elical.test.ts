/**
 * EliCal whole, on a model and questions that are nobody's: nothing is made for one model or one file. What is planted is
 * found, and what is changed shows.
 */
import { readFileSync, rmSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import t from "tap";
import { probeDepths } from "../src/methods/elical/answers.js";
import { labelRecords } from "../src/methods/elical/labels.js";
import { tooManyLabels } from "../src/methods/elical/plan.js";
import { prepareQuestions } from "../src/methods/questions.js";
import { loadRecipe, runRecipe, type Setting } from "../src/methods/recipes.js";
import { Model } from "../src/policy/model.js";
import { tinySettings } from "./fixtures/runs.js";
import { writeTinyModel, writeTinyQuestions } from "./fixtures/tiny-model.js";

const engine = { threads: 2 };
const rowOf = (directory: string, row: string) => readFileSync(join(directory, "predictions", `${row}.jsonl`), "utf8");

/** Rewrites the labels of a run that is done, and forgets the stages after them. */
function relabel(
  directory: string,
  change: (record: { question: string; given_correct: number; target: number }) => void,
): void {
  const path = join(directory, "stages", "03-labels", "labels.jsonl");
  const records = readFileSync(path, "utf8")
    .trim()
    .split("\n")
    .map((line) => JSON.parse(line));
  for (const record of records) change(record);
  writeFileSync(path, records.map((record) => `${JSON.stringify(record)}\n`).join(""));
  const state = JSON.parse(readFileSync(join(directory, "state.json"), "utf8"));
  for (const name of Object.keys(state.stages).filter((stage) => stage > "04")) {
    delete state.stages[name];
    rmSync(join(directory, "stages", name), { recursive: true, force: true });
  }
  writeFileSync(join(directory, "state.json"), JSON.stringify(state));
}

t.test("a model and questions of one's own", async (t) => {
  const folder = t.testdir();
  const model = writeTinyModel(join(folder, "model"));
  const questions = writeTinyQuestions(join(folder, "questions.jsonl"));
  const settings = tinySettings(model, questions);
  const recipe = loadRecipe("elical/quickstart", settings);
  const directory = join(folder, "run");
  const summary = await runRecipe(recipe, { directory, engine });
  const first = {
    joint: rowOf(directory, "probe-joint"),
    answer: rowOf(directory, "probe-answer"),
    lora: rowOf(directory, "lora-question"),
  };

  t.test("every row is there, with intervals", async (t) => {
    for (const row of ["probe-joint", "probe-answer", "probe-question", "lora-question"]) {
      for (const twin of ["", "-calibration-only", "-elicitation-only"])
        t.ok(summary.metrics[`${row}${twin}`], `${row}${twin}`);
    }
    for (const row of [
      "self-consistency",
      "self-consistency-platt",
      "sequence-probability",
      "mean-token-probability",
      "rate-of-kind",
    ]) {
      t.match(summary.metrics[row]?.brier, { value: Number, low: Number, high: Number }, row);
    }
    t.match(summary.labels["10"]?.["probe-answer"]?.ece, { value: Number });
    t.match(summary.differences["30"]?.["probe-answer - self-consistency-platt"]?.brier, { value: Number });
    t.match(readFileSync(join(directory, "report.html"), "utf8"), /<svg/);
  });

  t.test("ask answers as the run did, with the confidence it gave", async (t) => {
    await using base = await Model.load(model, engine);
    const policy = await base.policy({ adapter: join(directory, "best") });
    const other = await base.policy({ adapter: join(directory, "stages", "04-probes", "probe-answer") });
    for (const [asked, lines] of [
      [policy, first.joint],
      [other, first.answer],
    ] as const) {
      for (const line of lines
        .trim()
        .split("\n")
        .slice(0, 5)
        .map((text) => JSON.parse(text))) {
        const { text, confidence } = await asked.answer(line.question);
        t.equal(text, line.said);
        t.ok(Math.abs(confidence! - line.confidence) < 1e-5, `${confidence} ${line.confidence}`);
        t.ok(Math.abs((await asked.score([line.question]))[0]! - confidence!) < 1e-6);
      }
    }
    const [scored] = await policy.score(["what colour is that hat of ada says loudly ?"]);
    t.ok(scored! > 0 && scored! < 1);
  });

  t.test("a changed label changes the result", async (t) => {
    relabel(directory, (record) => {
      record.given_correct = 1 - record.given_correct;
    });
    await runRecipe(recipe, { directory, engine });
    t.not(rowOf(directory, "probe-joint"), first.joint);
    t.not(rowOf(directory, "probe-answer"), first.answer);
    t.not(rowOf(directory, "lora-question"), first.lora);
  });

  t.test("a changed weight changes the result, and is no resumption", async (t) => {
    const other = join(folder, "other-run");
    writeTinyModel(model, { seed: 2 });
    await t.rejects(runRecipe(recipe, { directory, engine }), { code: "OTHER_MACHINE", message: /model: / });
    await runRecipe(recipe, { directory: other, engine });
    t.not(rowOf(other, "probe-answer"), first.answer);
    writeTinyModel(model);
  });

  t.test("labels planted by a word of the question are found", async (t) => {
    const extra: Setting[] = [
      ["labels.counts", [60]],
      ["labels.main", 60],
      ["lora.learningRate", 5e-3],
      ["lora.elicitEpochs", 12],
    ];
    const planted = loadRecipe("elical/quickstart", [...settings, ...extra]);
    const planting = join(folder, "planted");
    await runRecipe(planted, { directory: planting, engine });
    relabel(planting, (record) => {
      record.given_correct = record.question.includes("loudly") ? 1 : 0;
      record.target = record.given_correct;
    });
    const { metrics } = await runRecipe(planted, { directory: planting, engine });
    for (const row of ["probe-joint", "probe-question", "lora-question"]) {
      const { value } = metrics[row]!.auroc;
      t.ok(value !== null && value >= 0.95, `${row}: held-out AUROC ${value}`);
    }
  });

  t.test("questions that cannot be used are named", async (t) => {
    const bad = async (name: string, lines: string[]) => {
      const path = join(folder, name);
      writeFileSync(path, lines.join("\n"));
      return prepareQuestions(loadRecipe("elical/quickstart", [["questions.file", path]]));
    };
    await t.rejects(bad("no-answer.jsonl", ['{"question": "Why?"}']), /no-answer\.jsonl:1.*answer/);
    await t.rejects(bad("cut.jsonl", ['{"question": "Why?", "answer": ["so"]}', '{"question": ']), /cut\.jsonl:2/);
    await t.rejects(
      bad("twice.jsonl", [
        '{"id": "a", "question": "Why?", "answer": ["so"]}',
        '{"id": "a", "question": "Who?", "answer": ["me"]}',
      ]),
      /"a"/,
    );
    await t.rejects(bad("few.jsonl", ['{"question": "Why?", "answer": ["so"]}']), /1 questions in 1 groups/);
  });
});

t.test("the quickstart's questions", async (t) => {
  const all = await prepareQuestions(loadRecipe("elical/quickstart", [["questions.keepGiven", true]]));
  t.equal(all.questions.length, 1235);
  t.equal(all.questions.filter(({ part }) => part === "test").length, 366);
  const { questions, dropped } = await prepareQuestions(loadRecipe("elical/quickstart"));
  t.equal(questions.length + dropped, 1235);
  const sides = new Map<string, string>();
  t.ok(
    questions.every(({ group, part }) => sides.set(group, sides.get(group) ?? part).get(group) === part),
    "no country is on both sides",
  );
  const short = await prepareQuestions(loadRecipe("elical/quickstart", [["questions.limit", 120]]));
  t.equal(short.questions.length, 120);
});

t.test("depths and labels", async (t) => {
  t.same(probeDepths(30, 5), [6, 12, 18, 24, 30]);
  t.same(probeDepths(2, 5), [1, 2]);
  const said = (text: string) => ({ text, tokens: [1], logprobs: [-1], finish: "stop" as const });
  const samples = {
    question: "What is the capital of Kenya?",
    answer: ["Nairobi"],
    given: said("It is Nairobi."),
    responses: [said("Nairobi"), said("Mombasa")],
  };
  const { value: record } = await labelRecords([samples]).next();
  t.match(record, { given_correct: 1, correct: [1, 0], agrees: [1, 0], target: 0.5 });
  const few = Array.from({ length: 12 }, (_, i) => ({
    part: i < 9 ? ("train" as const) : ("test" as const),
    group: `${i}`,
  }));
  const asked = (folds: number, ...counts: number[]) =>
    tooManyLabels(few, { folds, labels: { counts, main: 4, of: "answer" } });
  t.equal(asked(0, 4, 9), undefined);
  t.match(asked(0, 4, 10, 30), /only 9 questions to learn from: rows with 10 and 30 labels use all of them/);
  t.equal(asked(3, 4, 8), undefined);
  t.match(asked(3, 4, 9), /only 8 questions/, "of three folds two are learnt from");
});
