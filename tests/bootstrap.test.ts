import { test } from "tap";
import { evaluate, pairedBootstrap } from "../src/evaluation/bootstrap.js";
import { type MetricName, measure, metricNames } from "../src/evaluation/metrics.js";
import type { Prediction } from "../src/evaluation/rows.js";

/** Calibrated confidences from a fixed sequence; `sharpness` moves them off 1/2. */
function calibrated(n: number, sharpness: number, seed: number, group?: (i: number) => string): Prediction[] {
  let state = seed;
  const uniform = () => {
    state = (Math.imul(state, 1664525) + 1013904223) >>> 0;
    return state / 2 ** 32;
  };
  return Array.from({ length: n }, (_, i) => {
    const confidence = 0.5 + sharpness * (uniform() - 0.5);
    return { confidence, correct: uniform() < confidence ? 1 : 0, ...(group && { group: group(i) }) };
  });
}

const width = (v: ReturnType<typeof pairedBootstrap>) => (v.value === null ? Number.NaN : v.high! - v.low!);

test("values are the metrics themselves, intervals hold them, the seed decides", async (t) => {
  const predictions = calibrated(400, 0.9, 1);
  const options = { bootstrap: { samples: 400, seed: 3 } };
  const got = evaluate(predictions, options);
  t.same(Object.keys(got).sort(), [...metricNames].sort());
  for (const [name, v] of Object.entries(got) as [MetricName, (typeof got)["ece"]][]) {
    t.equal(v.value, measure(predictions, name), name);
    // Both calibration errors are biased upwards on a resample: their interval need not hold the value.
    if (v.value !== null && !name.startsWith("ece")) t.ok(v.low! <= v.value && v.value <= v.high!, name);
    if (v.value !== null) t.equal(v.n, 400);
  }
  t.same(evaluate(predictions, options), got, "the same seed, the same intervals");
  t.notSame(evaluate(predictions, { bootstrap: { samples: 400, seed: 4 } }), got);
});

test("the interval of a mean is the normal one", async (t) => {
  const n = 900;
  const predictions = calibrated(n, 1, 2);
  const { accuracy } = evaluate(predictions, { bootstrap: { samples: 4000, seed: 1 } });
  const p = accuracy.value!;
  const half = 1.96 * Math.sqrt((p * (1 - p)) / n);
  const { low, high } = accuracy as { low: number; high: number };
  t.ok(Math.abs((high - low) / (2 * half) - 1) < 0.06, `${high - low} and ${2 * half}`);
});

test("rows that stand together are drawn together", async (t) => {
  const few = calibrated(30, 1, 3).flatMap((p, i) => Array.from({ length: 10 }, () => ({ ...p, group: `g${i}` })));
  const alone = few.map(({ confidence, correct }) => ({ confidence, correct }));
  const options = { bootstrap: { samples: 1500, seed: 1 } };
  const ratio = width(evaluate(few, options).brier) / width(evaluate(alone, options).brier);
  t.ok(ratio > 2.6 && ratio < 3.8, `sqrt(10) wider, got ${ratio}`);
});

test("undefined says why", async (t) => {
  const right = calibrated(20, 0.5, 1).map((p) => ({ ...p, correct: 1 as const }));
  t.same(evaluate(right).auroc, { value: null, reason: "every answer is right" });
  t.same(evaluate([]).brier, { value: null, reason: "there are no predictions" });
  t.same(pairedBootstrap(right, right, "auroc"), { value: null, reason: "every answer is right" });
  const { auroc } = evaluate(
    [
      { confidence: 0.3, correct: 1 },
      { confidence: 0.3, correct: 0 },
    ],
    { bootstrap: { samples: 50, seed: 1 } },
  );
  t.match(auroc, { value: 0.5, low: 0.5, high: 0.5, n: 2 });
  t.match(evaluate(right, { bootstrap: { samples: 0, seed: 0 } }).brier, { low: null, high: null });
});

test("several seeds: the mean of their values", async (t) => {
  const group = (i: number) => `g${i % 40}`;
  const seeds = [calibrated(200, 0.8, 1, group), calibrated(200, 0.8, 2, group), calibrated(200, 0.8, 3, group)];
  const got = evaluate(seeds, { bootstrap: { samples: 300, seed: 1 } }).brier;
  const mean = seeds.reduce((sum, s) => sum + measure(s, "brier")!, 0) / 3;
  t.ok(Math.abs(got.value! - mean) < 1e-12);
  t.match(got, { n: 200 });
});

test("a paired difference sees what two intervals cannot", async (t) => {
  const a = calibrated(600, 1, 5, (i) => `g${i % 60}`);
  const b = a.map((p) => ({ ...p, confidence: 0.5 + 0.85 * (p.confidence - 0.5) })); // the same, a little shy
  const options = { samples: 1000, seed: 2 };
  const difference = pairedBootstrap(a, b, "brier", options);
  const expected = measure(a, "brier")! - measure(b, "brier")!;
  t.ok(Math.abs(difference.value! - expected) < 1e-12);
  t.ok(width(difference) < width(evaluate(a, { bootstrap: options }).brier) / 3);
  t.match(pairedBootstrap(a, a, "auroc", options), { value: 0, low: 0, high: 0 });
  const back = pairedBootstrap(b, a, "brier", options);
  t.ok(difference.value !== null && back.value !== null && Math.abs(back.low! + difference.high!) < 1e-12, "mirrored");
  t.throws(() => pairedBootstrap(a, b.slice(0, 30), "brier", options), {
    code: "BAD_INPUT",
    message: /different questions/,
  });
});

test("five seeds of 1,235 questions, 2,000 resamples: seconds, not minutes", async (t) => {
  const seeds = [1, 2, 3, 4, 5].map((seed) => calibrated(1235, 0.9, seed, (i) => `g${i % 250}`));
  const started = performance.now();
  evaluate(seeds);
  pairedBootstrap(seeds, seeds, "brier");
  pairedBootstrap(seeds, seeds, "auroc");
  const seconds = (performance.now() - started) / 1000;
  t.comment(`${seconds.toFixed(2)} s`);
  t.ok(seconds < 15);
});

test("bad options are named", async (t) => {
  t.throws(() => evaluate([], { bins: 0 }), { code: "BAD_INPUT", message: /bins is 0/ });
  t.throws(() => evaluate([], { bootstrap: { samples: -1, seed: 0 } }), { code: "BAD_INPUT", message: /samples/ });
});
