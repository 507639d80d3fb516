import { readFileSync } from "node:fs";
import { test } from "tap";
import { randomBelow } from "../src/evaluation/random.js";
import {
  meanTokenProbability,
  rateOfKind,
  selfConsistency,
  selfConsistencyPlatt,
  sequenceProbability,
} from "../src/methods/elical/baselines.js";
import { calibrate, type Elicited, elicit, elicitedAgreement, labelParts } from "../src/methods/elical/probe.js";
import { sigmoid } from "../src/model/calibrator.js";
import { fitLogistic as fit } from "./fixtures/fit-logistic.js";

interface Golden {
  labels: number[];
  depths: number[];
  width: number;
  kinds: string[];
  correct: number[];
  logp: number[];
  ntok: number[];
  agreement: number[];
  features: Record<string, number[]>;
  folds: { test: number[]; train: number[]; inner: number[]; order: number[]; parts: Record<string, number[][]>[] }[];
  chosen: [number, string, string, number][];
  expected: Record<string, number[]>;
}

const golden = JSON.parse(readFileSync(new URL("golden/probe/probe.json", import.meta.url), "utf8")) as Golden;

/** The largest difference from the reference's row over a fold's test rows. */
function worst(row: string, rows: readonly number[], got: Float64Array): number {
  const expected = golden.expected[row]!;
  return Math.max(...rows.map((r, i) => Math.abs(expected[r]! - got[i]!)));
}

test("every row is the reference's, with its own choices of rows", async (t) => {
  let same = 0;
  for (const [f, { test: rows, train, inner, order, parts }] of golden.folds.entries()) {
    for (const [k, family] of ["question", "answer"].entries()) {
      const features = golden.depths.map((depth) => ({
        depth,
        width: golden.width,
        data: Float64Array.from(golden.features[`${family}_${depth}`]!),
      }));
      const [, , name, penalty] = golden.chosen.find(([fold, of]) => fold === f && of === family)!;
      const free = await elicit({ features, agreement: golden.agreement, train, inner: [inner], fit });
      same += Number(`${family}_${free.depth}` === name && free.penalty === penalty);
      // The reference breaks ties of agreement by position where ours share a rank: follow its choice to compare the rest.
      const following = features.filter(({ depth }) => name === `${family}_${depth}`);
      const elicited = await elicit({
        features: following,
        penalties: [penalty],
        agreement: golden.agreement,
        train,
        inner: [inner],
        fit,
      });
      t.ok(
        worst(`elicited, ${family}`, rows, elicitedAgreement(elicited, rows)) < 1e-5,
        `elicited, ${family}, fold ${f}`,
      );
      for (const n of golden.labels) {
        const labels = order.slice(0, n);
        const got = await calibrate(elicited, {
          correct: golden.correct,
          labels,
          parts: parts[k]![n]!,
          test: rows,
          fit,
        });
        t.ok(worst(`elical, ${family}, n=${n}`, rows, got.elical.probabilities) < 1e-5, `elical, ${family}, ${n}`);
        t.ok(
          worst(`calibrated, ${family}, n=${n}`, rows, got.calibrationOnly.probabilities) < 1e-5,
          `calibrated, ${family}, ${n}`,
        );
        t.ok(
          worst(`elicited+platt, ${family}, n=${n}`, rows, got.elicitationOnly.probabilities) < 1e-5,
          `platt, ${family}, ${n}`,
        );
      }
    }
    for (const n of golden.labels) {
      const labels = order.slice(0, n);
      const platt = await selfConsistencyPlatt(fit, golden.agreement, golden.correct, labels, rows);
      t.ok(worst(`self-consistency+platt, n=${n}`, rows, platt) < 1e-5, `self-consistency-platt, ${n}`);
      t.ok(worst(`rate of the kind, n=${n}`, rows, rateOfKind(golden.kinds, golden.correct, labels, rows)) < 1e-9);
    }
    const tokens = Float64Array.from(rows, (r) =>
      meanTokenProbability(new Float64Array(golden.ntok[r]!).fill(golden.logp[r]! / golden.ntok[r]!)),
    );
    t.ok(worst("mean token probability", rows, tokens) < 1e-9);
  }
  t.ok(same >= 7, `depth and penalty are the reference's in ${same} of 10`);
});

/** Questions whose states show, at depth 2 alone, whether the model knows; agreement tells as much as `honest` says. */
function planted(n: number, honest: number, seed: number) {
  const below = randomBelow(seed);
  const uniform = () => (below(2 ** 31) + 0.5) / 2 ** 31;
  const normal = () => Math.sqrt(-2 * Math.log(uniform())) * Math.cos(2 * Math.PI * uniform());
  const width = 12;
  const features = [1, 2, 3].map((depth) => ({ depth, width, data: new Float32Array(n * width) }));
  const agreement = new Float64Array(n);
  const correct = new Uint8Array(n);
  for (let i = 0; i < n; i++) {
    const known = normal();
    for (const { depth, data } of features) {
      for (let j = 0; j < width; j++) data[i * width + j] = 40 + 7 * (normal() + (depth === 2 && j < 4 ? known : 0));
    }
    const shown = honest * known + (1 - honest) * normal();
    agreement[i] = Math.round(10 * sigmoid(2 * shown)) / 10;
    correct[i] = uniform() < sigmoid(3 * known) ? 1 : 0;
  }
  const rows = Array.from({ length: n }, (_, i) => i);
  const train = rows.slice(0, n / 2);
  return { features, agreement, correct, train, inner: [train.filter((i) => i % 5 === 0)], test: rows.slice(n / 2) };
}

const brier = (p: Float64Array, y: Uint8Array, rows: readonly number[]) =>
  rows.reduce((sum, r, i) => sum + (p[i]! - y[r]!) ** 2 / rows.length, 0);

test("agreement finds the depth, and spares labels", async (t) => {
  const data = planted(800, 0.9, 1);
  const elicited = await elicit({ ...data, fit });
  t.equal(elicited.depth, 2);
  let gain = 0;
  for (let seed = 0; seed < 5; seed++) {
    const labels = data.train.slice(40 * seed, 40 * seed + 30);
    const got = await calibrate(elicited, { ...data, labels, parts: labelParts(labels, seed), fit });
    gain +=
      brier(got.calibrationOnly.probabilities, data.correct, data.test) -
      brier(got.elical.probabilities, data.correct, data.test);
  }
  t.ok(gain / 5 > 0.005, `Brier ${gain / 5} lower than without elicitation`);
});

test("agreement that tells nothing is left aside", async (t) => {
  const data = planted(800, 0, 2);
  const elicited = await elicit({ ...data, features: data.features.slice(1, 2), fit });
  const labels = data.train.slice(0, 300);
  const got = await calibrate(elicited, { ...data, labels, parts: labelParts(labels, 1), fit });
  const [elical, only, platt] = [got.elical, got.calibrationOnly, got.elicitationOnly].map((r) =>
    brier(r.probabilities, data.correct, data.test),
  );
  t.ok(elical! < only! + 0.01 && elical! < platt! - 0.03, `${elical} ${only} ${platt}`);
});

test("no label chooses, and nothing of the test rows is read", async (t) => {
  const data = planted(300, 0.8, 3);
  const agreement = data.agreement.map((a, i) => (i < 150 ? a : 1 - a));
  const elicited = await elicit({ ...data, fit });
  t.same((await elicit({ ...data, agreement, fit })).weights, elicited.weights);
  const labels = data.train.slice(0, 60);
  const options = { labels, parts: labelParts(labels, 4), test: data.test, fit };
  const one = await calibrate(elicited, { ...options, correct: data.correct });
  const other = await calibrate(elicited, {
    ...options,
    correct: data.correct.map((y, i) => (labels.includes(i) ? y : 1 - y)),
  });
  t.same(other.elical.probabilities, one.elical.probabilities);
  const moved = await calibrate(elicited, {
    ...options,
    correct: data.correct.map((y, i) => (i === labels[0] ? 1 - y : y)),
  });
  t.notSame(moved.elical.probabilities, one.elical.probabilities, "a labelled row does count");
});

test("the folded head reads raw states", async (t) => {
  const data = planted(300, 0.8, 5);
  const elicited = await elicit({ ...data, fit });
  const labels = data.train.slice(0, 50);
  const got = await calibrate(elicited, { ...data, labels, parts: labelParts(labels, 4), fit });
  for (const { head, probabilities } of [got.elical, got.calibrationOnly, got.elicitationOnly]) {
    const { data: states, width } = data.features.find(({ depth }) => depth === head.depth)!;
    data.test.forEach((row, i) => {
      const z = head.weights.reduce((sum, w, j) => sum + w * states[row * width + j]!, head.bias);
      if (Math.abs(sigmoid(z) - probabilities[i]!) > 1e-9) t.fail(`row ${row}: ${sigmoid(z)} and ${probabilities[i]}`);
    });
  }
  t.equal(got.elicitationOnly.chosen, null);
});

test("parts of the labels", async (t) => {
  const labels = [3, 14, 15, 92, 65, 35, 89];
  const parts = labelParts(labels, 7);
  t.same(
    parts.map((part) => part.length),
    [2, 2, 1, 1, 1],
  );
  t.same(parts.flat().sort(), [...labels].sort());
  t.same(labelParts(labels, 7), parts);
  t.notSame(labelParts(labels, 8), parts);
  t.equal(labelParts([1, 2], 0).length, 2);
});

test("few or one-sided labels still give probabilities", async (t) => {
  const data = planted(200, 0.8, 6);
  const elicited: Elicited = await elicit({ ...data, fit });
  for (const labels of [[0, 1], data.train.filter((i) => data.correct[i] === 1).slice(0, 20)]) {
    const got = await calibrate(elicited, { ...data, labels, parts: labelParts(labels, 1), fit });
    for (const { probabilities } of [got.elical, got.calibrationOnly, got.elicitationOnly])
      t.ok(probabilities.every((p) => p >= 0 && p <= 1));
  }
  await t.rejects(calibrate(elicited, { ...data, labels: [0], parts: [[0]], fit }), { code: "BAD_INPUT" });
  await t.rejects(elicit({ ...data, inner: [], fit }), { code: "BAD_INPUT", message: /more questions/ });
  await t.rejects(elicit({ ...data, fit, signal: AbortSignal.abort() }), { code: "ABORTED" });
});

test("what the answer tells by itself", async (t) => {
  t.ok(Math.abs(sequenceProbability([Math.log(0.5), Math.log(0.5)]) - 0.25) < 1e-12);
  t.ok(Math.abs(meanTokenProbability([Math.log(0.5), Math.log(0.5)]) - 0.5) < 1e-12);
  t.equal(meanTokenProbability([]), 1);
  t.equal(selfConsistency([1, 0.5, 0, 0.5]), 0.5);
  t.same(
    rateOfKind(["a", "a", "b", "c"], [1, 1, 0, 0], [0, 1, 2], [0, 2, 3]),
    Float64Array.of((2 + 2 / 3) / 3, 2 / 3 / 2, 2 / 3),
  );
});
