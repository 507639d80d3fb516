import { readFileSync } from "node:fs";
import { join } from "node:path";
import t from "tap";
import { type DrawSettings, drawFigures, fitLogarithm } from "../src/methods/elical/published/draw.js";
import { evaluateSet, gatherSets } from "../src/methods/elical/published/evaluate.js";
import { madeUpSets, makeUpResults } from "./fixtures/published-results.js";

t.test("every published figure is drawn from the files that evaluate wrote, and what cannot be is told", async (t) => {
  const results = t.testdir();
  const models = ["One", "Two"];
  const sizes = [300, 1000, 10_000, 0];
  const elicited = [0, 1000, 5000, 20_000];
  const out = join(results, "res");
  for (const [seed, model] of models.entries())
    makeUpResults({ results, model, sizes, elicitationRows: elicited, parts: ["lora", "mlp"], seed: seed + 1 });
  const evaluate = async (model: string, part: "lora" | "mlp", elicitationRows: number, sets: string[]) => {
    const settings = {
      results,
      model,
      trainSet: "nq-hq",
      questionType: "long_qa" as const,
      part,
      sizes,
      elicitationRows,
      batch: 16,
      accumulation: 8,
      weightDecay: 0.1,
      rank: 8,
      alpha: 16,
      dropout: 0,
      samples: 20,
      unparsed: "error" as const,
      seed: 42,
      compat: new Set<never>(),
      out,
    };
    for (const [set, , questionType] of madeUpSets) {
      if (sets.includes(set)) await evaluateSet(set, { ...settings, questionType });
    }
    gatherSets(settings);
  };
  const draw = (more: Partial<DrawSettings> = {}) =>
    drawFigures({
      results: out,
      models,
      trainSet: "nq-hq",
      elicitationRows: 0,
      allRows: 580_000,
      out: join(results, "figures"),
      ...more,
    });
  await t.rejects(draw(), { code: "NO_FILE", message: /credence elical evaluate/ });

  await evaluate("One", "lora", 0, ["nq"]);
  const few = await draw({ models: ["One"] });
  t.same(
    few.flatMap((figure) => ("missing" in figure ? [figure.name] : [])),
    ["ood_only", "effects_of_training_size_for_elicitation", "in_and_ood_mlp"],
  );
  for (const model of models) {
    await evaluate(model, "lora", 0, ["nq", "hq", "squad", "mmlu"]);
    await evaluate(model, "mlp", 0, ["nq", "squad"]);
  }
  for (const rows of elicited.slice(1)) await evaluate("One", "lora", rows, ["nq"]);
  const drawn = await draw();
  t.same(
    drawn.map(({ name }) => name),
    [
      "long_qa_baselines",
      "in_domain_and_mmlu_auroc",
      "in_domain_and_mmlu_align",
      "ood_only",
      "effects_of_training_size_for_elicitation",
      "in_and_ood_mlp",
      "in_and_ood_ece",
      "confidence_values",
    ],
  );
  const panels = [1, 3, 3, 2, 1, 4, 4, 2];
  for (const [i, figure] of drawn.entries()) {
    if ("missing" in figure) {
      t.fail(`${figure.name}: ${figure.missing}`);
      continue;
    }
    const svg = readFileSync(figure.path, "utf8");
    t.match(svg, /^<svg width="\d+" height="\d+" [^>]*role="img" aria-label="[^"]{20,}"/, figure.name);
    t.equal(svg.match(/NaN|undefined|Infinity|var\(|<script|https?:\/\/(?!www\.w3\.org)/)?.[0], undefined);
    const bold = svg.match(/font-weight:\s*600|font-weight="600"/g)?.length;
    t.equal(bold, panels[i], "a title a panel");
  }
  const text = (name: string) => readFileSync(join(results, "figures", `${name}.svg`), "utf8");
  for (const word of ["One, in-domain", "Two, in-domain", "One, MMLU", "EliCal", "Cal-Only", "300", "10k", "all"])
    t.ok(text("in_domain_and_mmlu_auroc").includes(`>${word}</text>`), word);
  t.match(text("effects_of_training_size_for_elicitation"), /ln\(x \+ .*, x in thousands/);
  t.match(text("confidence_values"), /Spearman ρ = 0\.[5-9]/);
  const again = await draw({ set: "nope" });
  t.match(again.at(-1), { missing: "nope was not evaluated" });
});

t.test("a logarithm is found again", (t) => {
  const points = [10, 20, 50, 100, 200, 580].map((x) => [x, 3 * Math.log(x + 25) + 60] as const);
  const { a, b, c } = fitLogarithm(points)!;
  t.ok(Math.abs(a - 3) < 0.05 && Math.abs(b - 25) < 1 && Math.abs(c - 60) < 0.3, JSON.stringify({ a, b, c }));
  t.equal(fitLogarithm(points.slice(0, 3)), undefined);
  t.end();
});
