/** The recipe of CONQORD: what is refused, its form and pairs, and that stopping changes nothing. */
import { existsSync } from "node:fs";
import { join } from "node:path";
import t from "tap";
import { NumpyRandom } from "../src/data/random.js";
import { alphaOf } from "../src/methods/conqord/recipe.js";
import { conqordForm, pairsOf } from "../src/methods/conqord/stages.js";
import { loadRecipe, runRecipe, type Setting, summaryOf, summaryText } from "../src/methods/recipes.js";
import { runBytes, stopAfter, tinyReinforcement } from "./fixtures/runs.js";
import { writeTinyModel, writeTinyQuestions } from "./fixtures/tiny-model.js";

const folder = t.testdir();
const words = ["###", "Confidence", ":", "Answer", ".", ...Array.from({ length: 10 }, (_, digit) => String(digit))];
const model = writeTinyModel(join(folder, "model"), { words });
const questions = writeTinyQuestions(join(folder, "questions.jsonl"), 60);
const small: Setting[] = [
  ...tinyReinforcement(model, questions),
  ["newTokens", 12],
  ["rewardModel.samples", 3],
  ["rewardModel.checkpointEvery", 1],
];

t.test("recipes", async (t) => {
  const recipe = loadRecipe("conqord/quickstart");
  t.match(recipe.term, { alpha: 0.4, form: "difference" });
  const tries: Setting = ["tries", [{ name: "weak", alpha: 0.1 }, { name: "as-is" }]];
  const two = loadRecipe("conqord/quickstart", [tries]);
  t.same([alphaOf(two, "weak"), alphaOf(two, "as-is"), alphaOf(two, "ppo")], [0.1, 0.4, 0.4]);
  const refused = (settings: Setting[], message: RegExp) =>
    t.throws(() => loadRecipe("conqord/quickstart", settings), { code: "BAD_RECIPE", message });
  refused(
    [
      ["ppo.rollout.prompts", 1],
      ["ppo.rollout.samples", 1],
    ],
    /one completion an iteration has no order/,
  );
  refused([["term.alpha", 0]], /ablation: with term.alpha 0 it is the same training/);
  refused([["reward", { rule: "rlcr" }]], /reward/);
});

t.test("answer and confidence are told apart", async (t) => {
  const { written, partsOf } = conqordForm;
  t.equal(written("Paris", 0.7), "Paris\n\n### Confidence: 0.7.");
  t.same(partsOf(written("Paris", 1)), { answer: "Paris", end: 5, confidence: 1 });
  t.same(partsOf("Paris"), { answer: "Paris", end: 5, confidence: null });
});

t.test("pairs are of the wrong answers that were given most, or of another question's", async (t) => {
  const one = (id: string, kind: string, ...answer: string[]) => ({
    ...{ id, kind, answer, question: `${id}?`, group: id, part: "train" as const },
  });
  const [asked, other, unlike] = [
    one("a", "city", "Paris", "Paree"),
    one("b", "city", "Rome"),
    one("c", "sea", "Baltic"),
  ];
  const recipe = loadRecipe("conqord/quickstart", [["rewardModel.pairs", 2]]);
  const pairs = (sampled: string[], strange = 0) => {
    const rewardModel = { ...recipe.rewardModel, strange };
    return pairsOf(asked, sampled, [asked, other, unlike], { ...recipe, rewardModel }, new NumpyRandom([0]));
  };
  t.same(
    pairs(["Bonn", "Oslo", "paris", "Oslo", "", "Wien"]).map(({ rejected }) => rejected),
    ["Oslo", "Bonn"],
  );
  t.same(pairs(["Paree", "Paris"]), [{ chosen: "Paris", rejected: "Rome" }]);
  t.same(
    pairs(["Bonn"], 3).map(({ rejected }) => rejected),
    ["Bonn", "Baltic"],
    "and of another kind's, each once",
  );
});

t.test("a run", { timeout: 120_000 }, async (t) => {
  const engine = { threads: 1 };
  const recipe = loadRecipe("conqord/quickstart", small);
  const whole = join(folder, "whole");
  const summary = await runRecipe(recipe, { directory: whole, engine });
  t.ok(summary.rows.ablation);
  t.same(
    summary.comparisons.filter(({ against }) => against === "ablation").map(({ metric }) => metric),
    ["brier", "auroc", "ece", "accuracy", "spearman"],
  );
  t.equal(summary.verdict.length, 4);
  t.same(summaryOf(whole), JSON.parse(JSON.stringify(summary)));
  t.match(await summaryText(summary, whole), /Spearman[\s\S]*After PPO without the term/);
  t.ok(existsSync(join(whole, "report.html")));
  for (const [after, task] of [
    [10, "sampling answers to compare"],
    [1, "learning quality"],
    [2, "reinforcing"],
    [1, "reinforcing, ablation"],
  ] as const) {
    const directory = join(folder, `stopped-${task.replaceAll(/\W+/g, "-")}`);
    await t.rejects(runRecipe(recipe, { directory, engine, ...stopAfter(after, task) }), { code: "ABORTED" }, task);
    await runRecipe(recipe, { directory, engine });
    t.same(runBytes(directory), runBytes(whole), task);
  }
});
