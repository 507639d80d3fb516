/** What steers rewards from step to step: KL controllers, running moments, advantages of a group. */
import fc from "fast-check";
import t, { type Test } from "tap";
import { grpoAdvantages, rlooAdvantages } from "../src/rewards/advantages.js";
import { klController } from "../src/rewards/kl-control.js";
import { RunningMoments } from "../src/rewards/running-moments.js";

const near = (t: Test, got: number, expected: number, what: string, bound = 1e-12) =>
  t.ok(Math.abs(got - expected) <= bound, `${what}: ${got}, expected ${expected}`);

t.test("a fixed coefficient stays", async (t) => {
  const control = klController({ kind: "fixed", coefficient: 0.1 });
  control.update(50, 512);
  t.equal(control.coefficient, 0.1);
});

t.test("an adaptive one follows the divergence", async (t) => {
  const trl = klController({ kind: "adaptive", coefficient: 0.2, target: 6, horizon: 10_000 });
  trl.update(6.6, 64);
  near(t, trl.coefficient, 0.2 * (1 + 0.1 * 0.0064), "a tenth above the target");
  trl.update(600, 64);
  near(t, trl.coefficient, 0.2 * (1 + 0.1 * 0.0064) * (1 + 0.2 * 0.0064), "far above: clipped");
  const lc = klController({ kind: "adaptive", coefficient: 0.1, target: 6, gain: 0.1 });
  lc.update(0, 512);
  near(t, lc.coefficient, 0.1 * (1 - 0.02), "no divergence: clipped below");
  lc.update(6, 512);
  near(t, lc.coefficient, 0.098, "at the target nothing changes");

  const resumed = klController({ kind: "adaptive", coefficient: 0.2, target: 6, horizon: 10_000 });
  resumed.restore(JSON.parse(JSON.stringify(trl.state())));
  t.equal(resumed.coefficient, trl.coefficient, "goes on from a checkpoint");
});

t.test("settings that steer nowhere are refused", async (t) => {
  t.throws(() => klController({ kind: "fixed", coefficient: -1 }), { code: "USAGE", message: /-1/ });
  t.throws(() => klController({ kind: "adaptive", coefficient: 0, target: 6, gain: 0.1 }), { code: "USAGE" });
  t.throws(() => klController({ kind: "adaptive", coefficient: 1, target: 0, gain: 0.1 }), { message: /target 0/ });
  t.throws(() => klController({ kind: "adaptive", coefficient: 1, target: 6, horizon: 0 }), { message: /horizon 0/ });
  const control = klController({ kind: "fixed", coefficient: 0.1 });
  t.throws(() => control.update(Number.NaN, 8), { code: "BAD_INPUT", message: /NaN/ });
  t.throws(() => control.restore({ coefficient: Number.NaN }), { code: "BAD_CHECKPOINT" });
});

t.test("running moments are those of all scores", async (t) => {
  // Batches [1, 2, 4], [10], [-3, 0.5] by Python's statistics: mean, variance (n - 1) after each.
  const moments = new RunningMoments();
  const steps: [number[], number, number][] = [
    [[1, 2, 4], 7 / 3, 7 / 3],
    [[10], 4.25, 16.25],
    [[-3, 0.5], 14.5 / 6, 19.041666666666668],
  ];
  for (const [batch, mean, variance] of steps) {
    moments.update(batch);
    near(t, moments.mean, mean, "mean");
    near(t, moments.deviation, Math.sqrt(variance), "deviation");
  }
  const [scaled] = moments.scale([3]);
  near(t, scaled!, (3 - 14.5 / 6) / (Math.sqrt(19.041666666666668) + 2 ** -23), "scaled");
  near(t, moments.scale([3], { center: false })[0]!, 3 / (moments.deviation + 2 ** -23), "not centred");
  t.same(Array.from(moments.scale([1e6, -1e6], { clip: 2 })), [2, -2], "clipped");
});

t.test("in whatever batches scores come", async () => {
  fc.assert(
    fc.property(
      fc.array(fc.array(fc.double({ min: -100, max: 100, noNaN: true }), { maxLength: 6 }), { minLength: 1 }),
      (batches) => {
        const moments = new RunningMoments();
        for (const batch of batches) moments.update(batch);
        const all = batches.flat();
        if (all.length < 2) return moments.deviation === 1;
        const mean = all.reduce((a, b) => a + b, 0) / all.length;
        const variance = all.reduce((sum, x) => sum + (x - mean) ** 2, 0) / (all.length - 1);
        return Math.abs(moments.mean - mean) < 1e-9 && Math.abs(moments.deviation - Math.sqrt(variance)) < 1e-9;
      },
    ),
  );
});

t.test("moments go on from a checkpoint, and take in no bad batch", async (t) => {
  const moments = new RunningMoments();
  moments.update([1, 5, 2]);
  const resumed = new RunningMoments();
  resumed.restore(JSON.parse(JSON.stringify(moments.state())));
  moments.update([0.1, 7]);
  resumed.update([0.1, 7]);
  t.same(resumed.state(), moments.state(), "the same bits");
  t.throws(() => moments.update([1, Number.NaN]), { code: "BAD_INPUT", message: /score 1/ });
  t.same(moments.state(), resumed.state(), "nothing of it was taken in");
  t.throws(() => resumed.restore({ count: 0, mean: 0, variance: 1 }), { code: "BAD_CHECKPOINT" });
});

t.test("RLOO", async (t) => {
  const got = rlooAdvantages([0, 1, 0, 1, 0], [1, 10, 2, 20, 6]);
  t.same(
    Array.from(got, (x) => Math.round(x * 1e9) / 1e9),
    [-3, -10, -1.5, 10, 4.5],
  );
  t.throws(() => rlooAdvantages([0, 0, 7], [1, 2, 3]), { code: "USAGE", message: /question 7 has one sample/ });
  t.throws(() => rlooAdvantages([0, 0], [1, Number.POSITIVE_INFINITY]), { code: "BAD_INPUT", message: /score 1/ });
});

t.test("GRPO", async (t) => {
  const scores = [1, 10, 2, 20, 6];
  const groups = ["a", "b", "a", "b", "a"];
  const deviation = Math.sqrt(7); // of 1, 2, 6
  const got = grpoAdvantages(groups, scores);
  near(t, got[0]!, -2 / (deviation + 1e-4), "of its group");
  near(t, got[3]!, 5 / (Math.sqrt(50) + 1e-4), "of the other");
  near(t, grpoAdvantages(groups, scores, { scale: "none" })[4]!, 3, "not scaled");
  const all = Math.sqrt(scores.reduce((sum, x) => sum + (x - 7.8) ** 2, 0) / 4);
  near(t, grpoAdvantages(groups, scores, { scale: "batch", epsilon: 0 })[4]!, 3 / all, "by the batch's deviation");
  const equal = grpoAdvantages([0, 0, 0], [0.1, 0.1, 0.1], { epsilon: 0 });
  t.same(Array.from(equal), [0, 0, 0], "equal scores say nothing");
});

t.test("advantages of a group sum to 0", async () => {
  const cases = fc.array(fc.tuple(fc.integer({ min: 0, max: 4 }), fc.double({ min: -9, max: 9, noNaN: true })));
  fc.assert(
    fc.property(cases, (drawn) => {
      const rows = [...drawn, ...drawn];
      const groups = rows.map(([group]) => group);
      const scores = rows.map(([, score]) => score);
      const sums = new Map<number, number>();
      for (const values of [rlooAdvantages(groups, scores), grpoAdvantages(groups, scores)])
        for (const [i, value] of values.entries()) sums.set(groups[i]!, (sums.get(groups[i]!) ?? 0) + value);
      return [...sums.values()].every((sum) => Math.abs(sum) < 1e-6);
    }),
  );
});
