import { mkdirSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { test } from "tap";
import { randomBelow } from "../src/evaluation/random.js";
import { calibrateJoint, elicitJoint, type JointPart } from "../src/methods/elical/joint.js";
import { answerStatisticNames, answerStatistics } from "../src/model/answer-statistics.js";
import { sigmoid } from "../src/model/calibrator.js";
import { type Card, readCard } from "../src/model/card.js";
import { fitLogistic as fit } from "./fixtures/fit-logistic.js";

/** Questions whose states show whether the model knows, the answer's better than the prompt's; agreement tells `honest` of it. */
function planted(n: number, honest: number, seed: number) {
  const below = randomBelow(seed);
  const uniform = () => (below(2 ** 31) + 0.5) / 2 ** 31;
  const normal = () => Math.sqrt(-2 * Math.log(uniform())) * Math.cos(2 * Math.PI * uniform());
  const width = 10;
  const part = (family: JointPart["family"], depth: number, own = width): JointPart => ({
    family,
    depth,
    width: own,
    data: new Float64Array(n * own),
  });
  const parts = [
    part("answer", 1),
    part("question", 1),
    part("answer", 2),
    part("question", 2),
    part("statistics", 0, 3),
  ];
  const agreement = new Float64Array(n);
  const correct = new Uint8Array(n);
  for (let i = 0; i < n; i++) {
    const known = normal();
    for (const { family, width: own, data } of parts) {
      const shown = { answer: 0.6, question: 0.3, statistics: 0.2 }[family];
      for (let j = 0; j < own; j++) data[i * own + j] = 300 + 7 * (normal() + (j < 3 ? shown * known : 0));
    }
    agreement[i] = sigmoid(2 * (honest * known + (1 - honest) * normal()));
    correct[i] = uniform() < sigmoid(3 * known) ? 1 : 0;
  }
  const rows = Array.from({ length: n }, (_, i) => i);
  const targets = [
    { values: agreement, deviation: 0.7 },
    { values: agreement.map((a) => a * a), deviation: 0.4 },
  ];
  return { parts, targets, correct, train: rows.slice(0, n / 2), test: rows.slice(n / 2) };
}

const brier = (p: Float64Array, y: Uint8Array, rows: readonly number[]) =>
  rows.reduce((sum, r, i) => sum + (p[i]! - y[r]!) ** 2 / rows.length, 0);

const worst = (a: Float64Array, b: Float64Array) => Math.max(...a.map((p, i) => Math.abs(p - b[i]!)));

type Planted = ReturnType<typeof planted>;

async function joint(data: Planted, labels: readonly number[]) {
  return calibrateJoint(await elicitJoint(data.parts, { ...data, depth: 2, fit }), { ...data, labels, fit });
}

test("agreement spares labels, and labels add to it", async (t) => {
  const data = planted(800, 0.9, 1);
  const few = { elical: 0, only: 0 };
  for (let seed = 0; seed < 5; seed++) {
    const got = await joint(data, data.train.slice(40 * seed, 40 * seed + 30));
    few.elical += brier(got.elical.probabilities, data.correct, data.test) / 5;
    few.only += brier(got.calibrationOnly.probabilities, data.correct, data.test) / 5;
  }
  t.ok(few.elical < few.only - 0.01, `with 30 labels ${few.elical}, without agreement ${few.only}`);
  const noise = planted(800, 0, 2);
  const got = await joint(noise, noise.train.slice(0, 300));
  const [elical, directions] = [got.elical, got.elicitationOnly].map((row) =>
    brier(row.probabilities, noise.correct, noise.test),
  );
  t.ok(elical! < directions! - 0.03, `agreement that tells nothing: ${elical}, going by it alone ${directions}`);
});

test("units, the number of depths and the width change nothing", async (t) => {
  const data = planted(300, 0.8, 3);
  const labels = data.train.slice(0, 60);
  const got = await joint(data, labels);
  const moved = data.parts.map((part, p) => ({
    ...part,
    data: part.data.map((value: number, i: number) => value * (1 + ((i % part.width) + p) / 5) - 40 * (i % part.width)),
  }));
  const twice = data.parts.flatMap((part) =>
    part.family === "statistics" ? [part] : [part, { ...part, depth: part.depth + 10 }],
  );
  for (const [name, parts] of [
    ["other units", moved],
    ["each depth twice", twice],
  ] as const) {
    const other = await joint({ ...data, parts }, labels);
    for (const row of ["elical", "calibrationOnly", "elicitationOnly"] as const)
      t.ok(worst(other[row].probabilities, got[row].probabilities) < 1e-5, `${name}, ${row}`);
  }
});

test("the head is the prior's: a strength by columns that all moves at once", async (t) => {
  // One state, no agreement to learn from: a logistic fit in one number, whose optimum is where its derivative is zero.
  const n = 40;
  const x = Float64Array.from({ length: n }, (_, i) => Math.sin(3 * i) + (i % 2));
  const zeros = (family: JointPart["family"]): JointPart => ({ family, depth: 0, width: 1, data: new Float64Array(n) });
  const parts: JointPart[] = [
    { family: "answer", depth: 4, width: 1, data: x },
    zeros("question"),
    zeros("statistics"),
  ];
  const rows = Array.from(x.keys());
  const correct = rows.map((i) => i % 2);
  const elicited = await elicitJoint(parts, { targets: [], train: rows, depth: 4, fit });
  const { calibrationOnly } = await calibrateJoint(elicited, { correct, labels: rows, test: rows, fit });
  const deviation = Math.sqrt(x.reduce((sum, v) => sum + (v - x.reduce((a, b) => a + b) / n) ** 2, 0) / n);
  const weight = calibrationOnly.head.parts[0]!.weights[0]! * deviation;
  let derivative = weight / 3.5 ** 2;
  const mean = x.reduce((a, b) => a + b) / n;
  for (const i of rows) derivative += (calibrationOnly.probabilities[i]! - correct[i]!) * ((x[i]! - mean) / deviation);
  t.ok(Math.abs(derivative) < 1e-3, `derivative ${derivative} at weight ${weight}`);
});

test("on its labels, the mean confidence is the share that is right", async (t) => {
  // The offset has no prior: at the optimum the derivative by it is zero, on the folded head as on the columns.
  const data = planted(300, 0.8, 6);
  const labels = data.train.slice(0, 60);
  const got = await joint({ ...data, test: labels }, labels);
  const right = labels.reduce((sum, row) => sum + data.correct[row]!, 0) / labels.length;
  for (const row of ["elical", "calibrationOnly", "elicitationOnly"] as const) {
    const mean = got[row].probabilities.reduce((sum, p) => sum + p, 0) / labels.length;
    t.ok(Math.abs(mean - right) < 1e-5, `${row}: ${mean} of ${right}`);
  }
});

test("no other label and no other test row is read", async (t) => {
  const data = planted(300, 0.8, 4);
  const labels = data.train.slice(0, 60);
  const got = await joint(data, labels);
  const flipped = data.correct.map((y, i) => (labels.includes(i) ? y : 1 - y));
  t.same((await joint({ ...data, correct: flipped }, labels)).elical.probabilities, got.elical.probabilities);
  const parts = data.parts.map((part) => ({
    ...part,
    data: part.data.map((value: number, i: number) => (i >= (part.data.length * 3) / 4 ? -value : value)),
  }));
  const targets = data.targets.map((target) => ({
    ...target,
    values: target.values.map((value, i) => (i < 150 ? value : 1 - value)),
  }));
  const other = await joint({ ...data, parts, targets }, labels);
  t.same(other.elical.probabilities.slice(0, 75), got.elical.probabilities.slice(0, 75));
  t.notSame(other.elical.probabilities, got.elical.probabilities);
  const moved = data.correct.map((y, i) => (i === labels[0] ? 1 - y : y));
  t.notSame((await joint({ ...data, correct: moved }, labels)).elical.probabilities, got.elical.probabilities);
});

test("few or one-sided labels still give probabilities; none is refused", async (t) => {
  const data = planted(200, 0.8, 5);
  for (const labels of [[0, 1], data.train.filter((i) => data.correct[i] === 1).slice(0, 20)]) {
    const { elical, calibrationOnly, elicitationOnly } = await joint(data, labels);
    for (const { probabilities } of [elical, calibrationOnly, elicitationOnly])
      t.ok(probabilities.every((p) => p >= 0 && p <= 1));
  }
  await t.rejects(joint(data, [0]), { code: "BAD_INPUT", message: /1 labels/ });
  await t.rejects(elicitJoint(data.parts.slice(2), { ...data, train: [0], depth: 2, fit }), { code: "BAD_INPUT" });
  await t.rejects(elicitJoint(data.parts.slice(0, 4), { ...data, depth: 2, fit }), {
    code: "BAD_INPUT",
    message: /statistics/,
  });
});

test("statistics of an answer's log-probabilities", async (t) => {
  const got = answerStatistics(Float32Array.of(-1, -4, -0.5, -2));
  t.same(Object.fromEntries(answerStatisticNames.map((name, i) => [name, got[i]])), {
    sum: -7.5,
    mean: -1.875,
    least: -4,
    leastThree: -7 / 3,
    first: -1,
    last: -2,
    tokens: 4,
  });
  t.same(Array.from(answerStatistics([-3])), [-3, -3, -3, -3, -3, -3, 1]);
  t.same(Array.from(answerStatistics([])), [0, 0, 0, 0, 0, 0, 0]);
});

test("a card adds what stands beside its head only where the head reads the answer", async (t) => {
  const folder = t.testdir();
  const card = {
    version: 1,
    method: "elical",
    prompt: { user: "{question}" },
    answers: "base",
    answer: { newTokens: 4 },
    heads: [{ name: "confidence", layer: 2, kind: "linear" }],
    confidence: { head: "confidence", at: "answer-mean", beside: { statistics: { mean: 0.5 } } },
    base: { name: "m", sha256: "0", storageType: "F32", architecture: "llama", hiddenSize: 8, layers: 2 },
  };
  const write = (name: string, value: unknown) => {
    mkdirSync(join(folder, name));
    writeFileSync(join(folder, name, "credence.json"), JSON.stringify(value));
    return join(folder, name);
  };
  t.same((readCard(write("good", card)) as Card).confidence.beside, { heads: [], statistics: { mean: 0.5 } });
  const prompt = { ...card, confidence: { ...card.confidence, at: "prompt-last" } };
  t.throws(() => readCard(write("prompt", prompt)), { code: "BAD_INPUT", message: /beside needs a head/ });
  const unknown = { ...card, confidence: { ...card.confidence, beside: { statistics: { median: 1 } } } };
  t.throws(() => readCard(write("unknown", unknown)), { code: "BAD_INPUT", message: /beside/ });
});
