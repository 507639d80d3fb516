/** Calibrators: what they keep, what they better, which predictions determine none, and the way through a card. */
import { spawnSync } from "node:child_process";
import { cpSync, existsSync, readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import fc from "fast-check";
import t from "tap";
import { type CalibratorKind, fitCalibrator } from "../src/evaluation/calibrators.js";
import { measure } from "../src/evaluation/metrics.js";
import type { Prediction } from "../src/evaluation/rows.js";
import { applyCalibrator, type Calibrator, calibratorSchema, logit, sigmoid } from "../src/model/calibrator.js";
import type { Card } from "../src/model/card.js";
import { Model } from "../src/policy/model.js";
import { fitLogistic } from "./fixtures/fit-logistic.js";
import { writeTinyModel } from "./fixtures/tiny-model.js";

const kinds: CalibratorKind[] = ["temperature", "platt", "isotonic"];
const share = fc.oneof(fc.constantFrom(0, 0.25, 0.5, 1), fc.double({ min: 0, max: 1, noNaN: true }));
const someRows = (size: number) =>
  fc.array(fc.record({ confidence: share, correct: fc.constantFrom(0 as const, 1 as const) }), { maxLength: size });

/** A fitted calibrator, or undefined where these predictions determine none. */
async function fitted(kind: CalibratorKind, rows: Prediction[]): Promise<Calibrator | undefined> {
  try {
    return await fitCalibrator(kind, rows, fitLogistic);
  } catch (error) {
    if ((error as { code?: string }).code === "CANNOT_CALIBRATE") return undefined;
    throw error;
  }
}

const calibrated = (calibrator: Calibrator, rows: Prediction[]) =>
  rows.map((row) => ({ ...row, confidence: applyCalibrator(calibrator, row.confidence) }));

t.test("every calibrator rises, stays in [0, 1], and is the same after JSON", async (t) => {
  const seen = { temperature: 0, platt: 0, isotonic: 0 };
  await fc.assert(
    fc.asyncProperty(someRows(30), fc.array(share, { minLength: 2, maxLength: 40 }), async (rows, at) => {
      for (const kind of kinds) {
        const calibrator = await fitted(kind, rows);
        if (!calibrator) continue;
        seen[kind]++;
        const again = calibratorSchema.parse(JSON.parse(JSON.stringify(calibrator)));
        let last = 0;
        for (const p of at.toSorted((a, b) => a - b)) {
          const q = applyCalibrator(calibrator, p);
          if (!(q >= last && q <= 1)) return false;
          if (applyCalibrator(again, p) !== q) return false;
          last = q;
        }
      }
      return true;
    }),
    { numRuns: 300 },
  );
  t.ok(
    Object.values(seen).every((count) => count > 50),
    JSON.stringify(seen),
  );
});

t.test("isotonic is the best rising map, and no worse than leaving the confidences as they are", async (t) => {
  const held = fc.assert(
    fc.asyncProperty(someRows(40), async (rows) => {
      const calibrator = await fitted("isotonic", rows);
      if (!calibrator) return true;
      // Ayer et al. 1955: the greatest over j <= i of the least over k >= i of the mean of j..k.
      const points = [...new Set(rows.map(({ confidence }) => confidence))].sort((a, b) => a - b);
      const of = (p: number) => rows.filter(({ confidence }) => confidence === p);
      const mean = (j: number, k: number) => {
        const among = points.slice(j, k + 1).flatMap(of);
        return among.reduce((sum, { correct }) => sum + correct, 0) / among.length;
      };
      const best = points.map((_, i) =>
        Math.max(...points.slice(0, i + 1).map((_, j) => Math.min(...points.slice(i).map((_, k) => mean(j, i + k))))),
      );
      const near = points.every((p, i) => Math.abs(applyCalibrator(calibrator, p) - best[i]!) < 1e-12);
      return near && measure(calibrated(calibrator, rows), "brier")! <= measure(rows, "brier")! + 1e-12;
    }),
    { numRuns: 150 },
  );
  await t.resolves(held);
});

t.test("between and beyond its points isotonic goes straight", async (t) => {
  const curve: Calibrator = { kind: "isotonic", from: [0.2, 0.4, 0.4, 0.8], to: [0, 0.5, 0.6, 1] };
  for (const [p, q] of [
    [0, 0],
    [0.2, 0],
    [0.3, 0.25],
    [0.4, 0.5],
    [0.6, 0.8],
    [0.8, 1],
    [1, 1],
  ]) {
    t.ok(Math.abs(applyCalibrator(curve, p!) - q!) < 1e-12, `${p}`);
  }
  t.notOk(calibratorSchema.safeParse({ ...curve, to: [0, 0.5, 0.4, 1] }).success, "a curve that falls is refused");
  t.notOk(calibratorSchema.safeParse({ ...curve, to: [0, 0.5, 1] }).success);
  t.notOk(calibratorSchema.safeParse({ kind: "temperature", temperature: 0 }).success);
  t.notOk(calibratorSchema.safeParse({ kind: "platt", slope: -1, offset: 0 }).success);
});

t.test("temperature keeps the ranking, and finds the temperature that was put in", async (t) => {
  await fc.assert(
    fc.asyncProperty(someRows(40), async (rows) => {
      const calibrator = await fitted("temperature", rows);
      if (!calibrator) return true;
      const after = calibrated(calibrator, rows);
      if (measure(after, "nll")! > measure(rows, "nll")! + 1e-9) return false;
      return rows.every((a, i) =>
        rows.every((b, j) => !(a.confidence < b.confidence) || after[i]!.confidence <= after[j]!.confidence),
      );
    }),
    { numRuns: 100 },
  );
  // Of each confidence, exactly as many are right as sigmoid(logit / 2.5) says, to one in 1,000.
  const rows = [0.02, 0.1, 0.35, 0.7, 0.9, 0.99].flatMap((confidence) =>
    Array.from({ length: 1000 }, (_, i) => ({
      confidence,
      correct: (i < Math.round(1000 * sigmoid(logit(confidence) / 2.5)) ? 1 : 0) as 0 | 1,
    })),
  );
  const found = (await fitCalibrator("temperature", rows, fitLogistic)) as { temperature: number };
  t.ok(Math.abs(found.temperature - 2.5) < 0.01, `${found.temperature}`);
  const spread = calibrated(found as Calibrator, rows).map(({ confidence }) => confidence);
  t.equal(new Set(spread).size, 6);
  t.equal(measure(calibrated(found as Calibrator, rows), "auroc"), measure(rows, "auroc"));
  const platt = (await fitCalibrator("platt", rows, fitLogistic)) as { slope: number; offset: number };
  t.ok(Math.abs(platt.slope - 0.4) < 0.01 && Math.abs(platt.offset) < 0.01, JSON.stringify(platt));
});

t.test("what determines no calibrator is refused with the reason", async (t) => {
  const rows = (...pairs: [confidence: number, correct: 0 | 1][]) =>
    pairs.map(([confidence, correct]) => ({ confidence, correct }));
  for (const kind of kinds) {
    const refused = (given: Prediction[], message: RegExp) =>
      t.rejects(fitCalibrator(kind, given, fitLogistic), { code: "CANNOT_CALIBRATE", message }, kind);
    await refused([], /no predictions/);
    await refused(rows([0.5, 1]), /1 prediction .*at least 2/);
    await refused(rows([0.5, 1], [0.7, 1]), /all 2 answers are right/);
    await refused(rows([0.5, 0], [0.7, 0], [0.1, 0]), /all 3 answers are wrong/);
    await refused(rows([0.7, 1], [0.7, 0]), /all 2 confidences are 0\.7/);
    await t.rejects(fitCalibrator(kind, rows([1.5, 1], [0, 0]), fitLogistic), { code: "BAD_INPUT" });
  }
  const backwards = rows([0.1, 1], [0.2, 1], [0.8, 0], [0.9, 0]);
  await t.rejects(fitCalibrator("temperature", backwards, fitLogistic), { message: /wrong side of 0\.5/ });
  await t.rejects(fitCalibrator("platt", backwards, fitLogistic), { message: /turn them round/ });
  t.same(await fitCalibrator("isotonic", backwards, fitLogistic), {
    kind: "isotonic",
    from: [0.1, 0.9],
    to: [0.5, 0.5],
  });
  await t.rejects(fitCalibrator("temperature", rows([0.1, 0], [0.9, 1]), fitLogistic), { message: /without end/ });
});

t.test("from predictions into a card and back", async (t) => {
  const folder = t.testdir();
  const path = writeTinyModel(join(folder, "model"));
  const questions = ["what colour is that hat ?", "what is that ?", "what colour is that cup of ada ?"];
  const plain = join(folder, "plain");
  await using model = await Model.load(path, { threads: 1 });
  const card: Card = {
    version: 1,
    method: "elical",
    prompt: { user: "{question}", system: "default" },
    answers: "base",
    answer: { newTokens: 3 },
    heads: [{ name: "confidence", layer: 2, kind: "linear", outputs: 1 }],
    confidence: { head: "confidence", at: "prompt-last", slope: 0.7, offset: 0.1 },
    base: model.cardBase,
  };
  const policy = await model.policy({ heads: [{ name: "confidence", kind: "linear", seed: 3 }], card });
  policy.save(plain);
  const raw = await policy.score(questions);
  const predictions = join(folder, "predictions.jsonl");
  const top = Math.max(...raw);
  const lines = raw.flatMap((confidence) => [0, 1, +(confidence === top)].map((correct) => ({ confidence, correct })));
  writeFileSync(predictions, lines.map((line) => `${JSON.stringify(line)}\n`).join(""));
  const bin = fileURLToPath(new URL("../dist/cli/bin.js", import.meta.url));
  const credence = (...args: string[]) => spawnSync(process.execPath, [bin, ...args], { encoding: "utf8" });

  const out = join(folder, "isotonic");
  const made = credence("calibrate", predictions, "--adapter", plain, "--out", out, "--kind", "isotonic", "--json");
  t.equal(made.status, 0, made.stderr);
  const { calibrator, n } = JSON.parse(made.stdout);
  t.equal(n, 9);
  const better = await model.policy({ adapter: out });
  const expected = raw.map((confidence) => applyCalibrator(calibrator, confidence));
  t.same(await better.score(questions), expected);
  t.strictNotSame(expected, raw);
  t.equal((await better.answer(questions[1]!)).confidence, expected[1]);
  better.save(join(folder, "again"));
  t.same(JSON.parse(readFileSync(join(folder, "again", "credence.json"), "utf8")).confidence.calibrator, calibrator);
  const asked = credence("ask", questions[1]!, "--adapter", out, "--model", path, "--threads", "1", "--json");
  t.equal(asked.status, 0, asked.stderr);
  t.equal(JSON.parse(asked.stdout).confidence, expected[1]);

  for (const [args, message] of [
    [[predictions, "--adapter", out, "--out", join(folder, "twice")], /has a calibrator already \(isotonic\)/],
    [[predictions, "--adapter", plain, "--out", out], /is there already/],
    [[predictions, "--adapter", path, "--out", join(folder, "no")], /holds neither adapter_config\.json/],
  ] as [string[], RegExp][]) {
    const { status, stderr } = credence("calibrate", ...args);
    t.equal(status, 1);
    t.match(stderr, message);
  }
  cpSync(plain, join(folder, "odd"), { recursive: true });
  const odd = { ...card, confidence: { ...card.confidence, calibrator: { kind: "temperature", temperature: -1 } } };
  writeFileSync(join(folder, "odd", "credence.json"), JSON.stringify(odd));
  await t.rejects(model.policy({ adapter: join(folder, "odd") }), { code: "BAD_INPUT", message: /temperature/ });
  t.notOk(existsSync(join(folder, "twice")));
});
