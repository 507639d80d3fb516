/** The report of reinforcement: what came out, plainly; curves; confidences over iterations; of a run, and of a bare training. */
import { readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import t, { type Test as Tap } from "tap";
import { main } from "../src/cli/main.js";
import { readTrainingRun } from "../src/report/ppo-training.js";
import { type ReinforcementInput, reinforcementHeadline, reinforcementReport } from "../src/report/reinforcement.js";
import { countedQuantile, endsOf } from "../src/report/training.js";
import { columnsOf, movingMean } from "../src/report/training-charts.js";
import { Metrics } from "../src/tracking/metrics.js";
import { confidenceCounts } from "../src/training/ppo/lines.js";
import { browser, layOut } from "./fixtures/browser.js";
import { madeUpReinforcement, madeUpTraining } from "./fixtures/reinforcement-input.js";

const input = madeUpReinforcement();
const html = reinforcementReport(input);

const alone: ReinforcementInput = {
  subject: "a training",
  trainings: [madeUpTraining("seed 0", 90, 1), madeUpTraining("seed 1", 90, 2)],
  kl: { limit: 25 },
  ran: [],
  settings: [],
  stages: [],
};

t.test("the page stands alone and is whole", async (t) => {
  for (const page of [html, reinforcementReport(alone)]) {
    t.equal(
      page.match(/<script|<link|<img|@import|url\(|javascript:|https?:\/\/(?!www\.w3\.org)/i)?.[0],
      undefined,
      "nothing is fetched, nothing runs",
    );
    for (const tag of ["main", "section", "table", "figure", "svg", "dl", "ul", "div"]) {
      const opened = page.match(new RegExp(`<${tag}[ >]`, "g"))?.length;
      t.equal(opened, page.match(new RegExp(`</${tag}>`, "g"))?.length, `${tag} is closed`);
    }
    t.equal(page.match(/NaN|undefined|null|Infinity/)?.[0], undefined, "no number fell through");
  }
  t.equal(html.match(/<svg role="img" aria-label="[^"]{40,}"/g)?.length, 9, "nine charts, each told in words");
  for (const word of ["After SFT, rate of the kind", "faster (chosen)", "Sydney", "kl.target", "iteration 71: 43 %"])
    t.ok(html.includes(word), word);
});

t.test("what a run brings is text, not markup", async (t) => {
  const evil = '<script>alert("x")</script>&';
  const said = { answer: evil, confidence: 0.5, right: true };
  const evaluation = input.evaluation!;
  const page = reinforcementReport({
    ...input,
    model: evil,
    subject: evil,
    lead: [evil],
    evaluation: {
      ...evaluation,
      rows: evaluation.rows.map((row) => ({ ...row, label: evil })),
      aims: [{ says: evil, found: evil, holds: true }],
    },
    tried: { how: evil, tries: [{ name: evil, settings: evil, values: { [evil]: 1 }, chosen: true }] },
    trainings: [{ ...madeUpTraining(evil, 5), alarms: [evil] }, madeUpTraining(evil, 5)],
    examples: [{ question: evil, expected: [evil], before: said, after: said }],
  });
  t.notOk(page.includes("<script"), "escaped everywhere");
  t.ok(page.includes("&lt;script&gt;"));
});

t.test("the first lines: before and after, or plainly that nothing was shown", async (t) => {
  const { evaluation } = input;
  const ece = (row: string) => (100 * evaluation!.rows.find(({ name }) => name === row)!.metrics.ece.value!).toFixed(1);
  t.equal(reinforcementHeadline(input).title, `Off by ${ece("before")} points before, by ${ece("after")} now`);
  t.ok(html.indexOf("<h1>") < html.indexOf("<svg"));
  t.ok(html.indexOf("Does not hold: accuracy") < html.indexOf("Holds: the Brier"), "what does not hold comes first");
  t.match(reinforcementHeadline(input).lead, /31 of them state no confidence\. Now it is/);
  const level = reinforcementHeadline(madeUpReinforcement({ better: 0, questions: 300 }));
  t.equal(level.verdict, "level");
  t.match(level.title, /^No improvement shown: Brier score 0\.\d+ before, 0\.\d+ now$/);
  t.match(level.lead, /interval holds 0 \(/);
  t.match(reinforcementHeadline(madeUpReinforcement({ better: -1 })).title, /^It got worse/);
});

t.test("what is won on one side and not on the other is in the title", async (t) => {
  const auroc = (low: number, high: number): ReinforcementInput => {
    const value = { value: (low + high) / 2, low, high, n: 9 };
    const evaluation = input.evaluation!;
    const differences = evaluation.differences.map((d) => (d.metric === "auroc" ? { ...d, value } : d));
    return { ...input, evaluation: { ...evaluation, differences } };
  };
  t.match(reinforcementHeadline(auroc(-0.1, 0.1)).title, /now; AUROC not shown to rise$/);
  t.match(reinforcementHeadline(auroc(-0.2, -0.1)).title, /now, but AUROC fell$/);
});

t.test("a row that is not there, or its predictions, is refused by name", async (t) => {
  const evaluation = input.evaluation!;
  t.throws(() => reinforcementReport({ ...input, evaluation: { ...evaluation, after: "afterwards" } }), {
    code: "BAD_INPUT",
    message: /no row afterwards among after, before/,
  });
  t.throws(() => reinforcementReport({ ...input, evaluation: { ...evaluation, predictions: {} } }), {
    code: "BAD_INPUT",
    message: /no predictions of the row before/,
  });
});

t.test("a limit far above the curve is said, not drawn", async (t) => {
  const near = reinforcementReport({ ...input, kl: { limit: 6 } });
  const far = reinforcementReport({ ...input, kl: { limit: 25 } });
  t.match(near, />limit, 6 nats<\/text>/);
  t.notMatch(far, />limit, 25 nats<\/text>/);
  t.ok(far.includes("Far above what is drawn: limit, 25 nats."));
  const free = madeUpTraining();
  for (const { values } of free.lines) delete (values as Record<string, number>).klOfCompletion;
  t.ok(reinforcementReport({ ...input, trainings: [free] }).includes("There was no reference"));
});

t.test("the numbers of curves and strips", async (t) => {
  const line = (n: number) => Array.from({ length: n }, (_, i) => [i + 1, i] as const);
  t.same(movingMean(line(6), 3), [
    [1, 0.5],
    [2, 1],
    [3, 2],
    [4, 3],
    [5, 4],
    [6, 4.5],
  ]);
  t.same(endsOf(line(40)), { first: 1.5, last: 37.5, over: 4 });
  t.equal(endsOf(line(1)), null);
  t.same(confidenceCounts([]), {}, "of none, no counts");
  const { confidences } = confidenceCounts([0, 0.05, 0.051, 0.3, 1]);
  t.same(
    confidences!.flatMap((n, bin) => (n ? [[bin, n]] : [])),
    [
      [0, 2],
      [1, 1],
      [5, 1],
      [19, 1],
    ],
  );
  t.same(
    [0, 0.4, 0.5, 0.7, 1].map((share) => countedQuantile([0, 2, 0, 3], share)),
    [0.25, 0.5, 1, 1, 1],
  );
  t.equal(countedQuantile([0, 0], 0.5), null);
  const counts = Array.from({ length: 5 }, (_, i) => ({ iteration: i + 1, counts: [i, 1] }));
  t.same(columnsOf(counts, 2), [
    { from: 1, to: 3, counts: [3, 3] },
    { from: 4, to: 5, counts: [7, 2] },
  ]);
});

async function command(t: Tap, stream: "stdout" | "stderr", line: string[]): Promise<{ code: number; said: string }> {
  const written: string[] = [];
  const { restore } = t.capture(process[stream], "write", (text: string) => written.push(text) > 0);
  const code = await main(line);
  restore();
  return { code, said: written.join("") };
}

t.test("a bare training's folder has a report, done or not", async (t) => {
  const folder = t.testdir();
  const metrics = new Metrics(folder);
  for (const { iteration, values, confidences, measured } of madeUpTraining("", 40).lines)
    metrics.add(2 * iteration, { iteration, ...values, gradientNorm: 1 }, measured, {
      confidences: confidences!,
    });
  metrics.add(82, { iteration: 41, reward: Number.NaN, gradientNorm: Number.NaN }, {}, {});
  writeFileSync(
    join(folder, "metrics.jsonl"),
    `${readFileSync(join(folder, "metrics.jsonl"), "utf8")}{"step":84,"iter`,
  );
  const run = readTrainingRun(folder, "seed 0", 50);
  t.equal(run.lines.length, 41, "the line that is being written is none yet");
  t.same(run.lines[3]!.confidences, madeUpTraining("", 40).lines[3]!.confidences);
  t.match(run.alarms, [/^iteration 41: (reward|gradientNorm) is NaN/]);
  const { code, said } = await command(t, "stdout", ["report", folder]);
  t.equal(code, 0);
  t.match(said, /41 iterations/);
  t.match(said, /reward +-0\.\d{4} +-?0\.\d{4}\n/);
  t.match(said, /Alarm: iteration 41/);
  const page = readFileSync(join(folder, "report.html"), "utf8");
  t.match(page, /<h1>Reward .* at first, .* at last<\/h1>/);
  t.match(page, /nothing was measured on questions held out/);
  t.match(page, /What confidences it stated/);
  t.match(page, /Alarms<\/h2>.*iteration 41: /s);
  t.equal(
    page.replace(/gradientNorm is NaN|reward is NaN/, "").match(/NaN|undefined|Infinity/)?.[0],
    undefined,
    "no number fell through",
  );
});

t.test("a training of another kind is told apart", async (t) => {
  const folder = t.testdir({ "metrics.jsonl": '{"step":1,"loss":2,"measured":{}}\n' });
  const { code, said } = await command(t, "stderr", ["report", folder]);
  t.equal(code, 1);
  t.match(said, /line 1 is damaged, or no iteration's of reinforcement/);
});

t.test(
  "in a browser nothing overflows and type stays readable",
  {
    skip: browser ? false : "no Chromium on the PATH",
  },
  async (t) => {
    for (const page of [html, reinforcementReport(alone)]) {
      const found = layOut(t.testdir(), page, [360, 768, 1280]);
      t.equal(found.length, 3);
      for (const { width, scroll, smallest, texts, cut, charts } of found) {
        t.ok(scroll <= width, `${width}: the page is ${scroll} wide`);
        t.ok(smallest >= 8.5, `${width}: the smallest type in a chart is ${smallest}`);
        t.ok(texts > 60 && charts, `${width}: the charts are there`);
        t.same(cut, [], `${width}: no label is cut`);
      }
    }
  },
);
