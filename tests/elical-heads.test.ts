/** Heads that are trained alone, on states collected before: as PyTorch trains them, and able to learn. */
import { readFileSync } from "node:fs";
import t from "tap";
import { headWidths } from "../src/methods/elical/heads.js";
import { sigmoid } from "../src/model/calibrator.js";
import { newFeatureHead, readFeatureHead, trainFeatureHead } from "../src/training/feature-head.js";

interface Golden {
  features: number[];
  targets: number[];
  cases: { widths: number[]; start: { weight: number[]; bias: number[] }[]; logits: number[] }[];
}

const settings = { epochs: 12, batch: 7, learningRate: 0.05, weightDecay: 0.1, warmup: 0.25, seed: 3 };

t.test("after twelve steps a head says what PyTorch's says", async (t) => {
  const path = new URL("golden/feature-head/heads.json", import.meta.url);
  const golden = JSON.parse(readFileSync(path, "utf8")) as Golden;
  const features = Float64Array.from(golden.features);
  const width = 5;
  const rows = golden.targets.map((_, row) => row);
  for (const { widths, start, logits } of golden.cases) {
    const sizes = [width, ...widths, 1];
    const head = start.map(({ weight, bias }, i) => ({
      inputs: sizes[i]!,
      outputs: sizes[i + 1]!,
      weight: Float64Array.from(weight),
      bias: Float64Array.from(bias),
    }));
    const before = Array.from(readFeatureHead(head, features, rows));
    const job = { ...settings, features, width, rows, targets: golden.targets };
    const got = readFeatureHead(trainFeatureHead(head, job), features, rows);
    const off = Math.max(...logits.map((want, row) => Math.abs(got[row]! - want)));
    t.ok(off < 1e-9, `hidden ${JSON.stringify(widths)}: ${off}`);
    t.same(Array.from(readFeatureHead(head, features, rows)), before, "the head it started from is as it was");
  }
});

t.test("hidden layers learn what a line cannot", async (t) => {
  const rows = Array.from({ length: 64 }, (_, row) => row);
  const features = Float64Array.from(rows.flatMap((row) => [row % 2 ? 1 : -1, (row >> 1) % 2 ? 1 : -1]));
  const targets = rows.map((row) => (row % 2 === (row >> 1) % 2 ? 1 : 0));
  const wrong = (widths: number[]) => {
    const job = { ...settings, epochs: 60, batch: 16, weightDecay: 0, features, width: 2, rows, targets };
    const logits = readFeatureHead(trainFeatureHead(newFeatureHead(2, widths, 1), job), features, rows);
    return rows.reduce((sum, row) => sum + (sigmoid(logits[row]!) - targets[row]!) ** 2, 0) / rows.length;
  };
  t.ok(wrong([]) > 0.24);
  t.ok(wrong([8, 4]) < 0.05);
  t.same(headWidths("mlp", 3584), [1792, 896]);
  const parameters = newFeatureHead(3584, headWidths("mlp", 3584), 0).reduce(
    (sum, { weight, bias }) => sum + weight.length + bias.length,
    0,
  );
  t.equal(parameters, 8_031_745);
});

t.test("only the rows named are learnt from, and a signal stops", async (t) => {
  const features = Float64Array.of(1, 2, 3, 4);
  const job = { ...settings, features, width: 1, rows: [0, 1], targets: [1, 0, 0, 0] };
  const [a, b] = [job, { ...job, targets: [1, 0, 1, 1] }].map((one) =>
    trainFeatureHead(newFeatureHead(1, [], 0), one).map(({ weight, bias }) => [...weight, ...bias]),
  );
  t.same(a, b);
  t.throws(() => trainFeatureHead(newFeatureHead(1, [], 0), { ...job, rows: [] }), { code: "NOTHING_SUPERVISED" });
  const controller = new AbortController();
  controller.abort();
  t.throws(() => trainFeatureHead(newFeatureHead(1, [], 0), { ...job, signal: controller.signal }), {
    code: "ABORTED",
  });
});
