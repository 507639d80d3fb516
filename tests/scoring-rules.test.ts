/** Scoring rules: what they are, and whether honesty pays most. */
import fc from "fast-check";
import t, { type Test } from "tap";
import {
  brierRule,
  correctnessPaying,
  linearRule,
  logRule,
  quadraticRule,
  rewardingDoubtRule,
  rlcrRule,
  type ScoringRule,
  saySelfReward,
  scoringRules,
  sphericalRule,
} from "../src/rewards/scoring-rules.js";

const near = (t: Test, got: number, expected: number, what: string, bound = 1e-12) =>
  t.ok(Math.abs(got - expected) <= bound, `${what}: ${got}, expected ${expected}`);

const all: ScoringRule[] = [
  ...Object.values(scoringRules).map((make) => make()),
  correctnessPaying(sphericalRule()),
  correctnessPaying(logRule({ epsilon: 0.01 }), { weight: 5 }),
  correctnessPaying(logRule({ epsilon: 0.01 }), { weight: 1 }),
  rewardingDoubtRule({ bonus: 0.25, scale: 10 }),
];

const expected = (rule: ScoringRule, confidence: number, p: number) =>
  p * rule.score(confidence, 1) + (1 - p) * rule.score(confidence, 0);

/** The best of many confidences, and what it earns. */
function best(rule: ScoringRule, p: number): { confidence: number; value: number } {
  let found = { confidence: Number.NaN, value: Number.NEGATIVE_INFINITY };
  for (let i = 0; i <= 2000; i++) {
    const value = expected(rule, i / 2000, p);
    if (value > found.value) found = { confidence: i / 2000, value };
  }
  return found;
}

t.test("the expected reward of a proper rule peaks at the true probability, and no other rule's does", async (t) => {
  for (const rule of all) {
    const [least, most] = rule.within;
    const probability = fc.double({ min: least, max: most, noNaN: true });
    const elsewhere = fc.double({ min: 0, max: 1, noNaN: true });
    const honest = (p: number, c: number) => expected(rule, p, p) >= expected(rule, c, p) - 1e-12;
    const strictly = (p: number, c: number) =>
      Math.abs(Math.min(most, Math.max(least, c)) - p) < 1e-3 || expected(rule, p, p) > expected(rule, c, p);
    const run = (property: (p: number, c: number) => boolean) =>
      fc.check(fc.property(probability, elsewhere, property), { numRuns: 2000, seed: 1 }).failed;
    if (rule.properness === "improper") {
      t.equal(run(honest), true, `${rule.name} is not proper`);
      for (const p of [0.3, 0.6, 0.8]) {
        const { confidence } = best(rule, p);
        t.ok(confidence === 0 || confidence === 1, `${rule.name} pays most for ${confidence} at ${p}`);
      }
    } else {
      t.equal(run(honest), false, `${rule.name} is proper`);
      t.equal(run(strictly), rule.properness !== "strictly proper", `${rule.name} is ${rule.properness}`);
    }
  }
});

t.test("which rules pay for being right more often", async (t) => {
  for (const rule of all) {
    const curve = Array.from({ length: 51 }, (_, i) => best(rule, i / 50).value);
    const grows = curve.every((value, i) => i === 0 || value > curve[i - 1]!);
    t.equal(rule.paysCorrectness, grows, rule.name);
  }
  t.same(
    Object.entries(scoringRules)
      .filter(([, make]) => make().paysCorrectness)
      .map(([name]) => name),
    ["rlcr"],
  );
});

t.test("values by hand", async (t) => {
  near(t, brierRule().score(0.8, 1), -0.04, "brier");
  near(t, logRule().score(0.8, 1), Math.log(0.8), "log");
  near(t, logRule().score(0.8, 0.25), 0.25 * Math.log(0.8) + 0.75 * Math.log(0.2), "log, graded");
  near(t, logRule().score(1, 0), Math.log(1e-4), "log, clipped");
  near(t, logRule({ epsilon: 0 }).score(1, 1), 0, "log, not clipped");
  near(t, sphericalRule().score(0.6, 0), 0.4 / Math.hypot(0.6, 0.4), "spherical");
  near(t, linearRule().score(0.7, 0), -0.7, "linear");
  near(t, quadraticRule().score(0.9, 1), 0.98, "quadratic");
  near(t, rlcrRule().score(0.7, 1), 1 - 0.09, "rlcr");
  near(t, rlcrRule().score(0.7, 0), -0.49, "rlcr, wrong");
  near(t, correctnessPaying(brierRule(), { weight: 2 }).score(0.5, 1), 1.75, "twice the correctness");
});

t.test("Rewarding Doubt's reward is its authors'", async (t) => {
  // (ln c - ln(0.001)/2) / (ln 0.999 - ln(0.001)/2) + 0.25, times 10, by Python.
  const code = rewardingDoubtRule({ bonus: 0.25, scale: 10 });
  near(t, code.score(1, 1), 12.5, "sure and right");
  near(t, code.score(0.7, 1), 11.469918623597666, "0.7 and right");
  near(t, code.score(0, 0), 10, "sure to be wrong, and wrong");
  near(t, code.score(1, 0), -10.00289758451651, "sure and wrong");
  near(
    t,
    rewardingDoubtRule().score(0.5, 1),
    (Math.log(0.5) - Math.log(0.001) / 2) / (Math.log(0.999) - Math.log(0.001) / 2),
    "paper",
  );
});

t.test("SaySelf's table", async (t) => {
  const table: [number, [number, number][]][] = [
    [
      10,
      [
        [0, -1],
        [1, -0.62],
        [5, 0.5],
        [7, 0.82],
        [9, 0.98],
        [10, 1],
        [100, -0.62],
      ],
    ],
    [
      0,
      [
        [0, 1],
        [1, 0.98],
        [5, 0.5],
        [7, 0.02],
        [9, -0.62],
        [10, -1],
        [100, 0.98],
      ],
    ],
    [7, [[5, 0.92]]],
  ];
  for (const [correctness, row] of table)
    for (const [confidence, reward] of row)
      near(t, saySelfReward(correctness, confidence, { asPublished: true }), reward, `${correctness}, ${confidence}`);
  near(t, saySelfReward(10, 100), 1, "beyond the scale, corrected");
  near(t, saySelfReward(10, -3), -1, "below the scale, corrected");
  near(t, saySelfReward(10, -3, { asPublished: true }), -1, "below the scale, as published");
});

t.test("what is no share is refused", async (t) => {
  for (const rule of all) {
    t.throws(() => rule.score(1.5, 1), { code: "BAD_INPUT", message: /confidence of 1\.5/ }, rule.name);
    t.throws(() => rule.score(Number.NaN, 1), { code: "BAD_INPUT" }, rule.name);
    t.throws(() => rule.score(0.5, 10), { code: "BAD_INPUT", message: /correctness of 10/ }, rule.name);
  }
  t.throws(() => logRule({ epsilon: 0.5 }), { code: "USAGE" });
  t.throws(() => rewardingDoubtRule({ epsilon: 0 }), { code: "USAGE" });
  t.throws(() => correctnessPaying(brierRule(), { weight: Number.NaN }), { code: "USAGE" });
});
