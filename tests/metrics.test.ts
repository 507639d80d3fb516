import { existsSync, readFileSync } from "node:fs";
import { test } from "tap";
import { spearman } from "../src/evaluation/correlation.js";
import { confidenceHistogram, reliabilityBins, riskCoverage, wilson } from "../src/evaluation/curves.js";
import { goldenMetrics, type MetricName, measure } from "../src/evaluation/metrics.js";
import { binOf, type Prediction } from "../src/evaluation/rows.js";

type Golden = Record<string, { scores: number[]; labels: number[]; expected: Record<string, number | null> }>;
const golden = new URL("golden/metrics/metrics.json", import.meta.url);
const shared = new URL("../../shared/fixtures/metrics/metrics.json", import.meta.url);

const rows = (...pairs: [number, 0 | 1][]): Prediction[] =>
  pairs.map(([confidence, correct]) => ({ confidence, correct }));

test("every metric is the reference's to 1e-9", async (t) => {
  const fixtures = JSON.parse(readFileSync(golden, "utf8")) as Golden;
  t.ok(Object.keys(fixtures).length >= 6);
  for (const [name, { scores, labels, expected }] of Object.entries(fixtures)) {
    const got = goldenMetrics(scores, labels);
    t.same(Object.keys(got).sort(), Object.keys(expected).sort(), `${name}: the same metrics`);
    for (const [metric, value] of Object.entries(expected)) {
      if (value === null) t.equal(got[metric], null, `${name} ${metric}`);
      else t.ok(Math.abs(got[metric]! - value) <= 1e-9, `${name} ${metric}: ${got[metric]} and ${value}`);
    }
  }
});

test("the copy here is the shared one", { skip: existsSync(shared) ? false : "../shared is absent" }, async (t) => {
  t.equal(readFileSync(golden, "utf8"), readFileSync(shared, "utf8"));
});

test("Spearman's correlation is that of the ranks, whatever weights and ties", async (t) => {
  let state = 7;
  const next = (below: number) => {
    state = (state * 48271) % 2147483647;
    return state % below;
  };
  for (let turn = 0; turn < 50; turn++) {
    const some = Array.from({ length: 2 + next(40) }, (): [number, 0 | 1] => [next(6) / 5, next(2) as 0 | 1]);
    const got = measure(rows(...some), "spearman");
    const expected = spearman(
      some.map(([confidence]) => confidence),
      some.map(([, correct]) => correct),
    );
    if (expected === null) t.equal(got, null);
    else t.ok(Math.abs(got! - expected) < 1e-12, `${got} and ${expected}`);
  }
});

test("by hand", async (t) => {
  const four = rows([0.9, 1], [0.8, 0], [0.3, 1], [0.2, 0]);
  const near = (metric: MetricName, expected: number) =>
    t.ok(Math.abs(measure(four, metric)! - expected) < 1e-12, `${metric} ${measure(four, metric)}`);
  near("accuracy", 0.5);
  near("auroc", 0.75);
  near("brier", (0.01 + 0.64 + 0.49 + 0.04) / 4);
  near("nll", -(Math.log(0.9) + Math.log(0.2) + Math.log(0.3) + Math.log(0.8)) / 4);
  near("ece", (0.1 + 0.8 + 0.7 + 0.2) / 4);
  near("aurc", (0 + 1 / 2 + 1 / 3 + 1 / 2) / 4);
});

test("a bin is open below and closed above, whatever the floating point says", async (t) => {
  for (const bins of [1, 3, 7, 10, 15, 20]) {
    t.equal(binOf(0, bins), 0);
    for (let k = 0; k < bins; k++) {
      t.equal(binOf((k + 1) / bins, bins), k, `upper edge ${k + 1}/${bins}`);
      if (k + 1 < bins) t.equal(binOf((k + 1) / bins + 1e-12, bins), k + 1);
    }
  }
});

test("nothing is 0 where it is undefined", async (t) => {
  for (const metric of ["accuracy", "auroc", "ece", "eceEqualMass", "brier", "nll", "aurc"] as const) {
    t.equal(measure([], metric), null, metric);
  }
  t.equal(measure(rows([0.5, 1], [0.7, 1]), "auroc"), null);
});

test("a bad row is named", async (t) => {
  t.throws(() => measure(rows([0.5, 1], [1.5, 0]), "brier"), { code: "BAD_INPUT", message: /prediction 1.*1\.5/ });
  t.throws(() => measure(rows([Number.NaN, 1]), "brier"), { code: "BAD_INPUT", message: /prediction 0/ });
  t.throws(() => measure([{ confidence: 0.5, correct: 2 as 1 }], "brier"), {
    code: "BAD_INPUT",
    message: /expected 0 or 1/,
  });
});

test("curves", async (t) => {
  const five = rows([0.95, 1], [0.95, 0], [0.45, 1], [0.45, 1], [0, 0]);
  const bins = reliabilityBins(five, 10);
  t.same(
    bins.map((b) => b.n),
    [1, 0, 0, 0, 2, 0, 0, 0, 0, 2],
  );
  t.equal(bins[9]!.accuracy, 0.5);
  t.equal(bins[1]!.accuracy, null);
  t.ok(bins[9]!.low! < 0.1 && bins[9]!.high! > 0.9, "two rows say little");
  const histogram = confidenceHistogram(five, 4);
  t.same(
    histogram.map((b) => [b.right, b.wrong]),
    [
      [0, 1],
      [2, 0],
      [0, 0],
      [1, 1],
    ],
  );
  t.same(riskCoverage(five), [
    { coverage: 0.4, risk: 0.5 },
    { coverage: 0.8, risk: 0.25 },
    { coverage: 1, risk: 0.4 },
  ]);
  t.ok(
    riskCoverage(Array.from({ length: 999 }, (_, i) => ({ confidence: i / 999, correct: 1 as const }))).length <= 200,
  );
  const { low, high } = wilson(8, 10); // Agresti & Coull's table
  t.ok(Math.abs(low - 0.4902) < 1e-4 && Math.abs(high - 0.9433) < 1e-4, `${low} ${high}`);
});
