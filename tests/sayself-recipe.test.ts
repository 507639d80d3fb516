/** The recipe of SaySelf: what is refused, its form, and that stopping changes nothing. */
import { readFileSync } from "node:fs";
import { join } from "node:path";
import t from "tap";
import { loadRecipe, reportOf, runRecipe, type Setting, summaryOf, summaryText } from "../src/methods/recipes.js";
import { saySelfForm } from "../src/methods/sayself/stages.js";
import { responseText } from "../src/methods/sayself/wire.js";
import { runBytes, stopAfter, tinyReinforcement } from "./fixtures/runs.js";
import { writeTinyModel, writeTinyQuestions } from "./fixtures/tiny-model.js";

const folder = t.testdir();
const words = ["Answer", "Self-reflection", "Confidence", ":", ".", ..."0123456789"];
const model = writeTinyModel(join(folder, "model"), { words });
const questions = writeTinyQuestions(join(folder, "questions.jsonl"), 60);
const small: Setting[] = [
  ...tinyReinforcement(model, questions),
  ["newTokens", 24],
  ["sampling.samples", 3],
  ["sampling.prompt.system", "default"],
  ["beside.direct.system", "default"],
  ["beside.depths", 2],
];

t.test("recipes", async (t) => {
  const recipe = loadRecipe("sayself/quickstart");
  t.match(recipe.sampling, { samples: 16, threshold: 0.9 });
  t.equal(loadRecipe({ method: "sayself", model: "m" }).sampling.samples, 100);
  const refused = (settings: Setting[], message: RegExp) =>
    t.throws(() => loadRecipe("sayself/quickstart", settings), { code: "BAD_RECIPE", message });
  refused([["rationale", false]], /ablation: it has no rationales/);
  t.ok(
    loadRecipe("sayself/quickstart", [
      ["rationale", false],
      ["ablation", false],
    ]),
  );
  refused([["sampling.samples", 1]], /one answer does not tell/);
  refused([["reward.rule", "order"]], /reward.rule/);
});

t.test("a response is told apart, with and without a reflection", async (t) => {
  const { partsOf } = saySelfForm;
  const parts = { reasoning: "Paris lies there.", answer: "Paris", confidence: 7 };
  const bare = responseText(parts);
  t.same(partsOf(bare), { answer: "Paris", end: bare.indexOf(". Confidence"), confidence: 0.7 });
  const whole = responseText({ ...parts, rationale: "I mix it up with Lyon." });
  t.same(partsOf(whole), {
    ...{ answer: "Paris", end: whole.indexOf(". Self"), rationale: "I mix it up with Lyon.", confidence: 0.7 },
  });
  t.same(partsOf("Paris"), { answer: "", end: 5, confidence: null });
  t.equal(partsOf(responseText({ ...parts, confidence: 10 })).confidence, 1);
  t.equal(partsOf("Answer: Paris. Confidence: 11").confidence, null);
});

t.test("a run", { timeout: 120_000 }, async (t) => {
  const engine = { threads: 1 };
  const recipe = loadRecipe("sayself/quickstart", small);
  const whole = join(folder, "whole");
  const summary = await runRecipe(recipe, { directory: whole, engine });
  t.same(Object.keys(summary.rows).sort(), [
    ...["ablation", "after", "answer-probe", "before", "constant", "direct", "rate-of-kind", "sequence-probability"],
  ]);
  t.equal(summary.rows.ablation!.title, "Without rationales, after PPO, as stated");
  for (const row of ["before", "direct"])
    t.same(
      summary.comparisons.filter(({ against }) => against === row).map(({ metric }) => metric),
      ["brier", "auroc", "ece", "accuracy", "absoluteError"],
      row,
    );
  t.equal(summary.verdict.length, 8);
  t.same(summaryOf(whole), JSON.parse(JSON.stringify(summary)));
  t.match(await summaryText(summary, whole), /Absolute error[\s\S]*Without rationales[\s\S]*Untrained, asked how sure/);
  const report = readFileSync(join(whole, "report.html"), "utf8");
  t.match(report, /Of 3 samples/, "rationales beside their clusters");
  t.equal(await reportOf(whole, summary), report, "made again it is the same");
  const sft = (stage: string) =>
    JSON.parse(readFileSync(join(whole, "stages", stage, "best", "adapter_config.json"), "utf8"));
  t.same(sft("02-sft").r, sft("02-sft-ablation").r);
  for (const [after, task] of [
    [10, "sampling the untrained model"],
    [1, "fine-tuning to the form, ablation"],
    [2, "reinforcing"],
    [1, "reinforcing, ablation"],
  ] as const) {
    const directory = join(folder, `stopped-${task.replaceAll(/\W+/g, "-")}`);
    await t.rejects(runRecipe(recipe, { directory, engine, ...stopAfter(after, task) }), { code: "ABORTED" }, task);
    await runRecipe(recipe, { directory, engine });
    t.same(runBytes(directory), runBytes(whole), task);
  }
});
