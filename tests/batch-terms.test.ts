/** Rewards over a batch: CONQORD's order-preserving term and PPO-C's calibrated reward; Linguistic Calibration's. */
import fc from "fast-check";
import t, { type Test } from "tap";
import {
  amongStated,
  type BatchTerm,
  type ConqordOptions,
  conqordTerm,
  inBlocks,
  orderPreserving,
  orderPreservingGathered,
  ppoCTerm,
} from "../src/rewards/batch-terms.js";
import { decisionReward, extractedAnswers, factualityReward, forecastOf } from "../src/rewards/decision.js";

const close = (t: Test, got: ArrayLike<number>, expected: readonly number[], what: string, bound = 1e-9) =>
  t.ok(
    got.length === expected.length && expected.every((value, i) => Math.abs(got[i]! - value) <= bound),
    `${what}: ${Array.from(got)}, expected ${expected}`,
  );

const r = [1.2, -0.3, 0.5, -2];
const c = [0.9, 0.9, 0.2, 0.1];

t.test("CONQORD's vectors", async (t) => {
  close(t, orderPreserving(r, c), [3.05, 0.8, 0.18, 4.17], "R_A");
  close(t, orderPreserving(r, c, { form: "sign" }), [1.5, 0.1, 0.1, 1.7], "with signs");
  const apply = (options: ConqordOptions) => conqordTerm(options).apply(r, c);
  close(t, apply({}), [2.42, 0.02, 0.572, -0.332], "alpha 0.4");
  close(t, apply({ alpha: 5, clamp: 5 }), [5, 3.7, 1.4, 5], "alpha 5, clamped");
  close(t, apply({ alpha: 0 }), r, "alpha 0");
  close(t, apply({ form: "absolute", alpha: 1 }), [1.068525, -0.774443, 0.077541, -2.019203], "absolute", 5e-7);
  close(t, apply({ form: "exponential" }), [1.052161, -0.18667, 0.327716, -1.961961], "exponential", 5e-7);
  close(t, apply({ form: "product" }), [0.48, -0.12, -0.15, 0.8], "product");
});

const batch = fc.integer({ min: 2, max: 40 }).chain((n) =>
  fc.tuple(
    fc.array(fc.oneof(fc.integer({ min: -3, max: 3 }), fc.double({ min: -5, max: 5, noNaN: true })), {
      minLength: n,
      maxLength: n,
    }),
    fc.array(fc.double({ min: 0, max: 1, noNaN: true }), { minLength: n, maxLength: n }),
  ),
);

t.test("the fast forms are the sums over pairs", async () => {
  const slow = (r: number[], c: number[], f: (x: number) => number) =>
    r.map((own, i) => r.reduce((sum, other, j) => sum + f(own - other) * (c[i]! - c[j]!), 0));
  fc.assert(
    fc.property(batch, ([r, c]) => {
      const bound = 1e-9 * (1 + r.length);
      const same = (got: Float64Array, want: number[]) => want.every((value, i) => Math.abs(got[i]! - value) < bound);
      return (
        same(
          orderPreserving(r, c),
          slow(r, c, (x) => x),
        ) &&
        same(orderPreserving(r, c, { form: "sign" }), slow(r, c, Math.sign)) &&
        same(
          orderPreserving(r, c, { reduce: "mean" }),
          slow(r, c, (x) => x / (r.length - 1)),
        )
      );
    }),
  );
});

t.test("the normalised term knows neither scale nor batch size", async (t) => {
  const term = (r: number[], c: number[]) => orderPreserving(r, c, { reduce: "normalised" });
  close(
    t,
    term(
      r.map((x) => 7 * x + 3),
      c,
    ),
    Array.from(term(r, c)),
    "another scale",
  );
  const twice = term([...r, ...r], [...c, ...c]);
  close(t, twice.slice(0, 4), Array.from(term(r, c)), "twice the batch");
  const correlation = term(r, c).reduce((sum, x) => sum + x, 0) / 8;
  t.ok(Math.abs(correlation - 0.570406937940938) < 1e-12, `half its mean is Pearson's correlation: ${correlation}`);
  close(t, term([0.1, 0.1, 0.1], [0.1, 0.5, 0.9]), [0, 0, 0], "all qualities equal");
  close(t, term([1, 2, 3], [0.7, 0.7, 0.7]), [0, 0, 0], "all confidences equal");
});

t.test("ranks that share a batch", async (t) => {
  const parts = orderPreservingGathered([
    { qualities: r.slice(0, 1), confidences: c.slice(0, 1) },
    { qualities: [], confidences: [] },
    { qualities: r.slice(1), confidences: c.slice(1) },
  ]);
  t.same(
    parts.map((part) => part.length),
    [1, 0, 3],
  );
  close(t, [...parts[0]!, ...parts[2]!], [3.05, 0.8, 0.18, 4.17], "as one batch");
});

t.test("in blocks each is compared within itself", async (t) => {
  const blocks = inBlocks(conqordTerm(), 4);
  const alone = conqordTerm().apply(r, c);
  close(
    t,
    blocks.apply([...r, ...r, 5, -5], [...c, ...c, 1, 0]),
    [...alone, ...alone, 5 + 0.4 * 10, -5 + 0.4 * 10],
    "a short one last",
  );
  t.same([blocks.name, blocks.properness, blocks.state()], ["conqord-difference", "improper", null]);
  t.throws(() => inBlocks(conqordTerm(), 0), { code: "USAGE" });
  t.throws(() => blocks.apply([1, 2, 3, 4, Number.NaN], [0, 0, 0, 0, 0]), { message: /sample 4/ });
});

t.test("samples without a confidence are compared with nothing", async (t) => {
  const term = amongStated(conqordTerm({ reduce: "mean" }));
  t.equal(term.takesUnstated, true);
  const alone = conqordTerm({ reduce: "mean" }).apply(r, c);
  const beside = term.apply([-5, ...r, -5], [Number.NaN, ...c, Number.NaN]);
  t.same(beside.subarray(1, r.length + 1), alone, "the others earn what they earn among themselves");
  t.same([beside[0], beside.at(-1)], [-5, -5]);
  t.same(term.apply([1, 2], [Number.NaN, 0.5]), [1, 2], "one alone is compared with nothing either");
  t.throws(() => conqordTerm().apply([1, 2], [Number.NaN, 0.5]), { code: "BAD_INPUT" });
});

t.test("a batch of one is refused where the term would always be 0", async (t) => {
  t.throws(() => conqordTerm().apply([1], [0.5]), { code: "USAGE", message: /batch of one.*alpha to 0/s });
  close(t, conqordTerm({ alpha: 0 }).apply([1], [0.5]), [1], "alpha 0");
  close(t, conqordTerm({ form: "product" }).apply([2], [1]), [1], "a form of one sample");
  t.throws(() => conqordTerm().apply([1, 2], [0.5]), { code: "BAD_INPUT" });
  t.throws(() => conqordTerm().apply([1, Number.NaN], [0.5, 1]), { code: "BAD_INPUT", message: /sample 1/ });
});

t.test("PPO-C", async (t) => {
  const term = ppoCTerm({ weight: 2, average: 1 });
  close(t, term.apply([2, 0], [1, 0.5]), [2 + 2 * (2 - 1) * 0.5, 0], "the average stays 1: 0.1 of 1 and 0.9 of 1");
  close(t, term.apply([3, 3], [1, 0]), [3 + 2 * 1.8 * 0.5, 3 - 2 * 1.8 * 0.5], "the average is 1.2");
  t.ok(Math.abs(term.state()!.average - 1.2) < 1e-12);
  const resumed = ppoCTerm({ weight: 2 });
  resumed.restore(term.state());
  t.same(resumed.apply([1, 5], [0.2, 0.4]), term.apply([1, 5], [0.2, 0.4]), "goes on from a checkpoint");
  t.throws(() => resumed.restore(null), { code: "BAD_CHECKPOINT" });

  const threshold = ppoCTerm({ adjust: "threshold", average: 0 });
  close(t, threshold.apply([2, -2], [1, 1]), [2 + 0.5 * 2 * 0.5, -2 - 0.5 * 2 * 0.5], "about the average");
  close(t, ppoCTerm().apply([30], [0.5]), [10], "scores are clamped first");
  t.throws(() => ppoCTerm({ rate: 0 }), { code: "USAGE" });
});

t.test("neither is a proper rule: what pays most is not the truth", async (t) => {
  // A model's score of 2 for a right answer and -1 for a wrong one, beside three neighbours; the probability is 0.7.
  const earns = (term: BatchTerm, confidence: number) => {
    const of = (quality: number) => term.apply([quality, 1, 0.5, -1], [confidence, 0.8, 0.5, 0.3])[0]!;
    return 0.7 * of(2) + 0.3 * of(-1);
  };
  const grid = Array.from({ length: 101 }, (_, i) => i / 100);
  const make: [string, () => BatchTerm][] = [
    ["difference", () => conqordTerm()],
    ["sign", () => conqordTerm({ form: "sign" })],
    ["product", () => conqordTerm({ form: "product" })],
    ["absolute", () => conqordTerm({ form: "absolute", alpha: 1 })],
    ["exponential", () => conqordTerm({ form: "exponential" })],
    ["ppo-c", () => ppoCTerm()],
    ["ppo-c, threshold", () => ppoCTerm({ adjust: "threshold" })],
  ];
  for (const [name, term] of make) {
    t.equal(term().properness, "improper", name);
    const values = grid.map((confidence) => earns(term(), confidence));
    const peak = grid[values.indexOf(Math.max(...values))]!;
    t.ok(Math.abs(peak - 0.7) > 0.05, `${name} pays most for ${peak}`);
  }
});

t.test("Linguistic Calibration's vectors", async (t) => {
  const cases: [number, number[], number, number, number][] = [
    [0.5, [0.2, 0.3], Math.log(0.5), -2.5, 1.806853],
    [0.4, [0.9], -0.916291, -0.5, 3.583709],
    [0.6, [], -0.510826, -5, -0.510826],
    [1.2, [], 0, -5, 0],
    [forecastOf(2), [forecastOf(1.5), forecastOf(-2), forecastOf(-3)], -0.126928, -0.078984, 4.794088],
    [forecastOf(-12), [forecastOf(0.2)], -9.21034, -2.25083, -6.46117],
    [forecastOf(0), [], Math.log(0.5), -5, Math.log(0.5)],
  ];
  for (const [truth, given, log, normalisation, reward] of cases) {
    const got = decisionReward(truth, given);
    close(t, [got.log, got.normalisation, got.reward], [log, normalisation, reward], `${truth}`, 1e-6);
  }
  t.same([0, 1e-6, -1, 3].map(factualityReward), [0, 1, 0, 1]);
  t.throws(() => factualityReward(Number.NaN), { code: "BAD_INPUT" });
  t.throws(() => decisionReward(Number.NaN, []), { code: "BAD_INPUT" });
});

t.test("the decision-based reward is strictly proper with lambda above 1, and not below", async (t) => {
  const simplex = fc
    .array(fc.double({ min: 0.05, max: 1, noNaN: true }), { minLength: 3, maxLength: 3 })
    .map((weights) => weights.map((weight) => weight / weights.reduce((a, b) => a + b, 0)));
  const forecasts = fc.array(fc.double({ min: 0.001, max: 1, noNaN: true }), { minLength: 3, maxLength: 3 });
  const earns = (truth: number[], told: number[], lambda: number) =>
    truth.reduce((sum, q, j) => sum + q * decisionReward(told[j]!, told, { lambda }).reward, 0);
  fc.assert(
    fc.property(simplex, forecasts, fc.double({ min: 1.01, max: 10, noNaN: true }), (truth, told, lambda) => {
      const same = told.every((p, j) => Math.abs(p - truth[j]!) < 1e-3);
      return same || earns(truth, truth, lambda) > earns(truth, told, lambda);
    }),
    { numRuns: 1000, seed: 1 },
  );
  const truth = [0.2, 0.3, 0.4];
  t.ok(
    earns(
      truth,
      truth.map((p) => 2 * p),
      0.5,
    ) > earns(truth, truth, 0.5),
    "with 0.5 twice the truth earns more",
  );
});

t.test("extracted answers", async (t) => {
  const cases: [string, string[], string[]?][] = [
    ["No Answer", []],
    ["no answer", ["no answer"]],
    ["No Answer ", ["No Answer"]],
    ["Paris; Lyon;Paris", ["Paris", "Lyon"]],
    ["Paris;", ["Paris"], ["Paris", ""]],
    ["", [], [""]],
    ["A ; ;B", ["A", "B"], ["A", "", "B"]],
  ];
  for (const [reply, corrected, published = corrected] of cases) {
    t.same(extractedAnswers(reply), corrected, JSON.stringify(reply));
    t.same(extractedAnswers(reply, { keepEmpty: true }), published, `${JSON.stringify(reply)}, as published`);
  }
});
