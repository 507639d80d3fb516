/** SaySelf's metrics beside values made by hand. */
import t, { type Test } from "tap";
import { saySelfMetrics } from "../src/methods/sayself/metrics.js";

const near = (t: Test, got: number | null, expected: number) =>
  t.ok(got !== null && Math.abs(got - expected) < 1e-12, `${got}, expected ${expected}`);

t.test("the binned error and the absolute one are two things", async (t) => {
  const accuracies = [0.2, 0.5, 0.8];
  for (const a of accuracies) {
    const rows = Array.from({ length: 10 }, (_, i) => ({ confidence: a, score: i < a * 10 ? 10 : 0 }));
    const { ece, absoluteError, accuracy } = saySelfMetrics(rows);
    near(t, accuracy, a);
    near(t, ece, 0);
    near(t, absoluteError, 2 * a * (1 - a));
  }
});

t.test("graded scores, thresholds, and rows without a confidence", async (t) => {
  const metrics = saySelfMetrics([
    { confidence: 0.9, score: 7 },
    { confidence: 0.4, score: 3 },
    { confidence: 0.6, score: 5 },
    { confidence: null, score: 10 },
  ]);
  t.equal(metrics.rows, 4);
  t.equal(metrics.parseFailures, 1);
  near(t, metrics.accuracy, 0.625);
  near(t, metrics.absoluteError, 0.4 / 3);
  near(t, metrics.ece, 0.4 / 3);
  near(t, metrics.auroc, 1);
  near(t, metrics.confidenceRight, 0.9);
  near(t, metrics.confidenceWrong, 0.4);
});

t.test("nothing measured is null, and what is out of range is refused", async (t) => {
  const none = saySelfMetrics([{ confidence: null, score: 0 }]);
  for (const name of ["absoluteError", "ece", "auroc", "confidenceRight", "confidenceWrong"] as const)
    t.equal(none[name], null, name);
  t.equal(none.accuracy, 0);
  t.equal(saySelfMetrics([]).accuracy, null);
  t.throws(() => saySelfMetrics([{ confidence: 10, score: 5 }]), {
    code: "BAD_INPUT",
    message: /row 0.*confidence of 10/,
  });
  t.throws(() => saySelfMetrics([{ confidence: 1, score: 11 }]), { code: "BAD_INPUT", message: /row 0.*score of 11/ });
});
