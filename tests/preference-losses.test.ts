/** Losses on preferences: golden values of the published losses, the formulas, and derivatives by finite differences. */
import fc from "fast-check";
import t, { type Test } from "tap";
import {
  comparedUntil,
  crossEntropyLoss,
  type DpoKind,
  dpoLoss,
  impliedReward,
  sequencePairLoss,
  squaredLoss,
  type Tail,
  tokenPairLoss,
} from "../src/training/reward-model/losses.js";

const close = (t: Test, got: number, wanted: number, within = 1e-6) =>
  t.ok(Math.abs(got - wanted) <= within, `${got}, expected ${wanted}`);

/** (f(x + e) - f(x - e)) / 2e for each number of x. */
function differences(x: readonly number[], f: (x: number[]) => number): number[] {
  const e = 1e-5;
  return x.map((value, i) => (f(x.with(i, value + e)) - f(x.with(i, value - e))) / (2 * e));
}

const number = fc.double({ min: -8, max: 8, noNaN: true });

t.test("token by token from where the sides differ: the published vector", async (t) => {
  const scores = {
    chosen: [0, 0.1, 0.4, 0.9, 1.1, 0],
    rejected: [0, 0.1, -0.2, 0.3, 0.2, 0.5],
    chosenLength: 5,
    rejectedLength: 4,
    from: 2,
  };
  close(t, tokenPairLoss({ ...scores, tail: "padded" }).loss, 0.405377);
  t.equal(scores.chosen[scores.chosenLength - 1], 1.1);
  t.equal(scores.rejected[scores.rejectedLength - 1], 0.3);
  const nll = (x: number) => Math.log(1 + Math.exp(-x));
  close(t, tokenPairLoss({ ...scores, tail: "cut" }).loss, nll(0.6));
  close(t, tokenPairLoss({ ...scores, tail: "held" }).loss, (2 * nll(0.6) + nll(0.8)) / 3);
  const none = { ...scores, chosenLength: 2, tail: "cut" as const };
  t.equal(comparedUntil(none), 2);
  t.ok(Number.isNaN(tokenPairLoss(none).loss), "a side that begins the other: nothing to compare");
});

t.test("token by token: derivatives, and nothing read that is not there", async (t) => {
  const row = fc.array(number, { minLength: 1, maxLength: 7 });
  const property = fc.property(
    row,
    row,
    fc.nat(6),
    fc.constantFrom<Tail>("held", "cut"),
    (chosen, rejected, at, tail) => {
      const lengths = { chosenLength: chosen.length, rejectedLength: rejected.length };
      const from = Math.min(at, chosen.length - 1, rejected.length - 1);
      const loss = (scores: number[]) =>
        tokenPairLoss({
          chosen: scores.slice(0, chosen.length),
          rejected: scores.slice(chosen.length),
          ...lengths,
          from,
          tail,
        });
      const both = [...chosen, ...rejected];
      const got = loss(both);
      const expected = differences(both, (x) => loss(x).loss);
      const derivatives = [...got.chosen, ...got.rejected];
      const sum = derivatives.reduce((all, d) => all + d, 0);
      return Math.abs(sum) < 1e-12 && expected.every((d, i) => Math.abs(d - derivatives[i]!) < 1e-6);
    },
  );
  t.doesNotThrow(() => fc.assert(property));
});

t.test("of whole answers: formulas, derivatives, extremes", async (t) => {
  close(t, sequencePairLoss(1.1, 0.3).loss, Math.log(1 + Math.exp(-0.8)));
  close(t, sequencePairLoss(1.1, 0.3, 0.5).loss, Math.log(1 + Math.exp(-0.3)));
  close(t, crossEntropyLoss(0.4, 0.7).loss, -(0.7 * Math.log(0.598687660112) + 0.3 * Math.log(0.401312339888)));
  close(t, crossEntropyLoss(0.4, 0.598687660112).score, 0);
  close(t, squaredLoss(2, 0.5).loss, 2.25);
  for (const far of [-1000, 1000]) {
    t.equal(sequencePairLoss(far, 0).loss, far < 0 ? 1000 : 0);
    t.equal(crossEntropyLoss(far, 0.25).loss, far < 0 ? 250 : 750);
  }
  const property = fc.property(number, number, fc.double({ min: 0, max: 1, noNaN: true }), (a, b, c) => {
    const pair = sequencePairLoss(a, b, c);
    const [da, db] = differences([a, b], ([x, y]) => sequencePairLoss(x!, y!, c).loss);
    const [dEntropy] = differences([a], ([x]) => crossEntropyLoss(x!, c).loss);
    const [dSquare] = differences([a], ([x]) => squaredLoss(x!, c).loss);
    const pairs: [number, number][] = [
      [pair.chosen, da!],
      [pair.rejected, db!],
      [crossEntropyLoss(a, c).score, dEntropy!],
      [squaredLoss(a, c).score, dSquare!],
    ];
    return pairs.every(([got, wanted]) => Math.abs(got - wanted) < 1e-6);
  });
  t.doesNotThrow(() => fc.assert(property));
});

t.test("DPO: formulas and derivatives", async (t) => {
  const chosen = { policy: -12, reference: -14 };
  const rejected = { policy: -9, reference: -8 };
  const settings = { kind: "sigmoid" as DpoKind, beta: 0.1, labelSmoothing: 0 };
  // h = 2 + 1 = 3
  close(t, dpoLoss(chosen, rejected, settings).loss, Math.log(1 + Math.exp(-0.3)));
  const smoothed = { ...settings, labelSmoothing: 0.2 };
  close(
    t,
    dpoLoss(chosen, rejected, smoothed).loss,
    0.8 * Math.log(1 + Math.exp(-0.3)) + 0.2 * Math.log(1 + Math.exp(0.3)),
  );
  close(t, dpoLoss(chosen, rejected, { ...settings, kind: "ipo" }).loss, (3 - 5) ** 2);
  close(t, impliedReward(chosen, 0.1) - impliedReward(rejected, 0.1), 0.3);
  const equal = { policy: -3, reference: -3 };
  close(t, dpoLoss(equal, equal, settings).loss, Math.LN2, 1e-15);
  const property = fc.property(
    fc.tuple(number, number, number, number),
    fc.constantFrom<DpoKind>("sigmoid", "ipo"),
    fc.double({ min: 0.05, max: 1, noNaN: true }),
    fc.double({ min: 0, max: 0.49, noNaN: true }),
    ([a, b, c, d], kind, beta, labelSmoothing) => {
      const loss = (x: number, y: number) =>
        dpoLoss({ policy: x, reference: c }, { policy: y, reference: d }, { kind, beta, labelSmoothing });
      const got = loss(a, b);
      const [da, db] = differences([a, b], ([x, y]) => loss(x!, y!).loss);
      const scale = 1e-6 * Math.max(1, Math.abs(got.chosen));
      return Math.abs(got.chosen - da!) < scale && Math.abs(got.rejected - db!) < scale;
    },
  );
  t.doesNotThrow(() => fc.assert(property));
});
