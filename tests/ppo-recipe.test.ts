/** The reinforcement recipe: what is refused, how its parts are read and chosen, and that stopping changes nothing. */
import { existsSync } from "node:fs";
import { basename, join } from "node:path";
import t from "tap";
import { chooseTry, evaluateReinforcement, type TryResult } from "../src/methods/ppo/evaluate.js";
import { type PpoRecipe, triesOf } from "../src/methods/ppo/recipe.js";
import { formRows, labelledForm, type Said, say } from "../src/methods/ppo/speaking.js";
import { partsOfQuestions, readSaid, stageNames } from "../src/methods/ppo/stages.js";
import { checkRecipe, loadRecipe, runRecipe, type Setting, summaryOf, summaryText } from "../src/methods/recipes.js";
import { Model } from "../src/policy/model.js";
import { silent } from "../src/tracking/progress.js";
import { bestCheckpoint, givenPolicy } from "../src/training/checkpoint.js";
import { stageFolder } from "../src/training/run.js";
import { runBytes, stopAfter, tinyReinforcement } from "./fixtures/runs.js";
import { writeTinyModel, writeTinyQuestions } from "./fixtures/tiny-model.js";

const folder = t.testdir();
const words = ["Confidence", ":", "Answer", ...Array.from({ length: 10 }, (_, digit) => String(digit))];
const model = writeTinyModel(join(folder, "model"), { words });
const questions = writeTinyQuestions(join(folder, "questions.jsonl"), 60);

const small: Setting[] = [...tinyReinforcement(model, questions), ["newTokens", 8]];

t.test("recipes", async (t) => {
  const recipe = loadRecipe("ppo/quickstart");
  t.match(recipe.reward, { rule: "rlcr", unparsed: -1.5 });
  t.same(
    triesOf(recipe).map(({ name, settings }) => [name, settings.rollout.newTokens]),
    [["ppo", recipe.newTokens]],
  );
  const tries = (...list: object[]): Setting => ["tries", list];
  const two = loadRecipe("ppo/quickstart", [
    tries({ name: "slow", ppo: { optimizer: { learningRate: 1e-5 } } }, { name: "as-is" }),
  ]);
  t.same(
    triesOf(two).map(({ settings }) => settings.optimizer.learningRate),
    [1e-5, recipe.ppo.optimizer.learningRate],
  );
  t.same(
    triesOf(two)[0]!.settings.optimizer,
    { ...recipe.ppo.optimizer, learningRate: 1e-5 },
    "what a try does not say is the recipe's",
  );
  const refused = (settings: Setting[], message: RegExp) =>
    t.throws(() => loadRecipe("ppo/quickstart", settings), { code: "BAD_RECIPE", message });
  refused([tries({ name: "a" }, { name: "a" })], /the name a stands there twice/);
  refused([tries({ name: "a", ppo: { epoch: 1 } })], /tries a: .*epoch/);
  refused([tries({ name: "a", ppo: { ptx: {} } })], /tries a: ptx: this recipe has no rows/);
  refused([["ppo.criticOptimizer", { learningRate: 1e-3 }]], /ppo.criticOptimizer: this recipe's critic is a head/);
  refused([["prompt.system", "none"]], /prompt: fine-tuning reads a conversation/);
  refused([["ppo.rollout.newTokens", 5]], /newTokens says it/);
  refused([["reward.rule", "linar"]], /reward\.rule/);
  t.throws(() => checkRecipe({ method: "ppo" }), { message: /model/ });
});

t.test("answer and confidence are told apart", (t) => {
  const { partsOf } = labelledForm;
  t.same(partsOf("Paris\nConfidence: 0.7"), { answer: "Paris", end: 5, confidence: 0.7 });
  t.same(partsOf("Paris"), { answer: "Paris", end: 5, confidence: null });
  t.match(partsOf("Paris\nConfidence: 7"), { answer: "Paris\nConfidence: 7", confidence: null }, "beyond 1 is none");
  const asked = [...Array(200).keys()].map((i) => ({
    id: `${i}`,
    question: `Question ${i}?`,
    answer: [`right ${i}`, "other"],
    group: `${i}`,
    kind: "a",
    part: "train" as const,
  }));
  const form = { prompt: { user: "Q: {question}", system: { text: "S" } }, seed: 3, form: labelledForm };
  const rows = formRows(asked, form);
  t.same(rows[7]!.messages.slice(0, 2), [
    { role: "system", content: "S" },
    { role: "user", content: "Q: Question 7?" },
  ]);
  const said = rows.map(({ messages }) => partsOf(messages[2]!.content));
  t.equal(said[7]!.answer, "right 7");
  t.equal(new Set(said.map(({ confidence }) => confidence)).size, 11, "all eleven confidences");
  t.same(formRows(asked, form), rows);
  t.end();
});

t.test("rows, differences and the choice", (t) => {
  const kinds = [0.2, 0.8];
  const make = (confidence: (right: number, kind: number) => number | null): Said[] =>
    [...Array(400).keys()].map((i) => {
      const kind = i % 2;
      const correct = (i * 37) % 100 < 100 * kinds[kind]! ? 1 : 0;
      const common = { id: `${i}`, question: "", answer: [], part: "test" as const, finish: "stop" as const };
      const group = `${Math.floor(i / 4)}`;
      const own = { group, kind: `${kind}`, text: "", said: "", probability: 0.5, correct: correct as 0 | 1 };
      return { ...common, ...own, confidence: confidence(correct, kind) };
    });
  const settings = { bins: 10, resamples: 200, seed: 0, unstated: 0.5 };
  const before = make(() => null);
  const after = make((_, kind) => kinds[kind]!);
  const { rows, comparisons } = evaluateReinforcement({ before, after, labelled: before }, settings, []);
  t.equal(rows.before.unstated, 400);
  t.equal(rows.before.metrics.brier.value, 0.25);
  t.ok(Math.abs(rows["rate-of-kind"].metrics.brier.value! - rows.after.metrics.brier.value!) < 0.01);
  const brier = comparisons.find(({ against, metric }) => against === "before" && metric === "brier")!;
  t.equal(brier.outcome, "better");
  t.ok(brier.difference.value! < -0.05);
  t.equal(comparisons.find(({ against, metric }) => against === "before" && metric === "accuracy")!.outcome, "level");

  const one = (name: string, more: Partial<TryResult>): TryResult => ({
    name,
    accuracy: 0.5,
    accuracyBefore: 0.5,
    brier: 0.2,
    brierBefore: 0.3,
    auroc: 0.7,
    unstated: 0,
    kl: 1,
    iterations: 10,
    ...more,
  });
  const limits: PpoRecipe["limits"] = { accuracyLoss: 0.02, kl: 10 };
  const best = one("best", { brier: 0.15 });
  t.equal(chooseTry([one("a", {}), best, one("far", { brier: 0.1, kl: 11 })], limits), "best");
  t.equal(chooseTry([one("a", {}), one("worse", { brier: 0.1, accuracy: 0.47 })], limits), "a");
  t.equal(chooseTry([one("a", { accuracy: 0.4 }), one("b", { accuracy: 0.45, brier: 0.9 })], limits), "b");
  t.end();
});

t.test("a run", { timeout: 120_000 }, async (t) => {
  const engine = { threads: 1 };
  const tries: Setting = [
    "tries",
    [
      { name: "gae", ppo: { ema: { decay: 0.5 } } },
      { name: "rloo", ppo: { advantage: { estimator: "rloo" } } },
    ],
  ];
  const recipe = loadRecipe("ppo/quickstart", [...small, tries]);
  const whole = join(folder, "whole");
  const summary = await runRecipe(recipe, { directory: whole, engine });
  t.same(
    summary.tries.map(({ name, iterations }) => [name, iterations]),
    [
      ["gae", 3],
      ["rloo", 3],
    ],
  );
  const { train, validation, test } = summary.questions;
  t.equal(train + validation + test, 60);
  t.equal(summary.rows.before.metrics.brier.value !== null, true);
  t.equal(summary.verdict.length, 4);
  t.same(summaryOf(whole), JSON.parse(JSON.stringify(summary)));
  t.match(await summaryText(summary, whole), /On the validation questions, which choose:\n {2}gae/);
  t.ok(existsSync(join(whole, "report.html")));

  t.test("stopped and gone on with, it ends with the same bytes", async (t) => {
    for (const [after, task] of [
      [30, "fine-tuning to the form"],
      [5, "asking the test questions before"],
      [2, "reinforcing, gae"],
      [1, "reinforcing, rloo"],
    ] as const) {
      const directory = join(folder, `stopped-${after}`);
      await t.rejects(runRecipe(recipe, { directory, engine, ...stopAfter(after, task) }), { code: "ABORTED" });
      await runRecipe(recipe, { directory, engine });
      t.same(runBytes(directory), runBytes(whole), task);
    }
  });

  t.test("what is asked after is the running average, where one is kept", async (t) => {
    const stage = (name: string) => stageFolder({ runDirectory: whole }, name);
    const trained = stage(stageNames.ppo("gae"));
    const from = givenPolicy(trained);
    t.equal(basename(from), "average");
    t.equal(givenPolicy(stage(stageNames.ppo("rloo"))), bestCheckpoint(stage(stageNames.ppo("rloo"))));
    await using opened = await Model.load(model, engine);
    await using policy = await opened.policy({ adapter: from, heads: [{ name: "value", kind: "linear" }] });
    const said = readSaid(trained, "validation");
    const again = await say(policy, said, { ...recipe, form: labelledForm }, { progress: silent, label: "" });
    t.same(
      again.map(({ text }) => text),
      said.map(({ text }) => text),
    );
  });

  t.test("the conversation that is learnt begins as the prompt that is asked", async (t) => {
    await using opened = await Model.load(model, engine);
    const asked = {
      id: "1",
      question: "what colour ?",
      answer: ["red"],
      group: "g",
      kind: "k",
      part: "train" as const,
    };
    for (const prompt of [recipe.prompt, { user: "{question}", system: { text: "You are quietly helpful" } }]) {
      const { messages } = formRows([asked], { prompt, seed: 0, form: labelledForm })[0]!;
      const { ids } = await opened.supervise(messages);
      const tokens = await opened.promptTokens(asked.question, prompt);
      t.same([...ids.slice(0, tokens.length)], [...tokens]);
    }
  });

  t.test("groups stay on one side", (t) => {
    const rows = [...Array(60).keys()].map((i) => ({
      id: `${i}`,
      question: "",
      answer: [],
      group: `${i % 12}`,
      kind: "",
      part: i % 12 < 4 ? ("test" as const) : ("train" as const),
    }));
    const parts = partsOfQuestions(rows, recipe.questions);
    const groups = Object.values(parts).map((part) => new Set(part.map(({ group }) => group)));
    t.equal(
      groups.reduce((sum, { size }) => sum + size, 0),
      12,
    );
    t.equal(parts.train.length + parts.validation.length, 40);
    t.end();
  });
});
