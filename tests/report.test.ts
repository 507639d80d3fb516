import { mkdtempSync, readFileSync, rmSync, statSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { test } from "tap";
import { findings, headline } from "../src/report/findings.js";
import { renderReport } from "../src/report/html.js";
import type { Metrics, ReportInput } from "../src/report/input.js";
import { renderTable } from "../src/report/table.js";
import { duration, rowLabel, signed, verdict } from "../src/report/words.js";
import { browser, layOut, photograph } from "./fixtures/browser.js";
import { madeUpReport } from "./fixtures/report-input.js";

const input = madeUpReport();
const html = renderReport(input);
const plain = (s: string) => s.replaceAll("\u00a0", " ").replaceAll("\u2212", "-");

test("the page stands alone and is whole", async (t) => {
  t.equal(
    html.match(/<script|<link|<img|@import|url\(|javascript:|https?:\/\/(?!www\.w3\.org)/i)?.[0],
    undefined,
    "nothing is fetched, nothing runs",
  );
  t.ok(html.startsWith('<!doctype html>\n<html lang="en">'));
  for (const tag of ["main", "section", "table", "figure", "svg", "dl", "details"]) {
    const opened = html.match(new RegExp(`<${tag}[ >]`, "g"))?.length;
    t.equal(opened, html.match(new RegExp(`</${tag}>`, "g"))?.length, `${tag} is closed`);
  }
  for (const word of [
    "SHA-256",
    "Most confident".slice(5),
    "Every row",
    "02-answers",
    "samples.temperature",
    "Sydney",
  ]) {
    t.ok(html.includes(word), word);
  }
  t.equal(html.match(/<svg role="img" aria-label="[^"]{40,}"/g)?.length, 7, "seven charts, each told in words");
  t.equal(html.match(/NaN|undefined|null|Infinity/)?.[0], undefined, "no number fell through");
});

test("what a run brings is text, not markup", async (t) => {
  const evil = '<script>alert("x")</script>&';
  const page = renderReport({
    ...input,
    model: evil,
    mistakes: [{ question: evil, said: evil, expected: [evil], confidence: 0.5 }],
    settings: [[evil, evil]],
    stages: [{ name: evil, seconds: 1 }],
    notes: [evil],
  });
  t.notOk(page.includes("<script"), "escaped everywhere");
  t.ok(page.includes("&lt;script&gt;"));
});

test("the first lines: before and after, or plainly that nothing was shown", async (t) => {
  const ece = (row: string) => (100 * input.rows.find(({ name }) => name === row)!.metrics.ece.value!).toFixed(1);
  t.equal(
    headline(input).title,
    `Off by ${ece("mean-token-probability")} points before, by ${ece("probe-answer")} now`,
  );
  t.ok(html.indexOf("<h1>") < html.indexOf("<svg"));
  const level = headline(madeUpReport({ better: 0, questions: 300 }));
  t.equal(level.verdict, "level");
  t.match(level.title, /^No improvement shown/);
  t.match(plain(level.lead), /interval holds 0 \([+-]?0\.\d+; 95 % from -0\.\d+ to \+0\.\d+\)/);
  const swapped: ReportInput = {
    ...input,
    differences: input.differences.map((d) =>
      d.value.value === null
        ? d
        : { ...d, value: { ...d.value, value: -d.value.value, low: -d.value.high!, high: -d.value.low! } },
    ),
  };
  t.match(headline(swapped).title, /^It got worse/);
});

test("what was not shown, and what others do better, stands before what was won", async (t) => {
  const list = findings(input);
  const order = list.map((f) => ["worse", "level", "better"].indexOf(f.verdict));
  t.same(order, [...order].sort());
  t.ok(list.some((f) => f.title === "Better than its own voice"));
  t.ok(list.some((f) => f.title.startsWith("Learning from its own agreement first was not shown to help")));
  t.match(
    list.find((f) => f.title.includes("asking again"))!.text,
    /It takes 11 passes over the model a question \(528 tokens\), ours 1 \(48 tokens\)/,
  );
  const better = structuredClone(input);
  Object.assign(better.rows[3]!.metrics, { auroc: { value: 0.99, low: 0.98, high: 1, n: 10 } });
  t.match(
    findings(better).find((f) => f.title === "What other rows do better")!.text,
    /AUROC 0\.\d+, but probe on the question 0\.990/,
  );
});

test("differences at other numbers of labels are in the table, not in the first lines", async (t) => {
  const other = input.differences.map((d) => ({ ...d, labels: 30, value: { value: 0.5, low: 0.4, high: 0.6, n: 9 } }));
  const main = input.differences.map((d) => ({ ...d, labels: 100 }));
  const several = { ...input, differences: [...other, ...main] };
  t.same(headline(several), headline(input));
  t.same(findings(several), findings(input));
  t.ok(renderReport(several).includes("+0.400 to +0.600"));
});

test("undefined values are a dash and a reason", async (t) => {
  const odd = structuredClone(input);
  Object.assign(odd.rows[9]!.metrics, { auroc: { value: null, reason: "every answer is right" } });
  t.ok(renderReport(odd).includes("AUROC of Rate of the question&#39;s kind: every answer is right."));
  t.match(
    renderTable(odd.rows),
    /Rate of the question's kind +\u2013 .*\n[\s\S]*AUROC of Rate of the question's kind: every answer is right/,
  );
});

test("a report about a row that is not there is refused by name", async (t) => {
  t.throws(() => renderReport({ ...input, best: "probe-answers" }), {
    code: "BAD_INPUT",
    message: /no row probe-answers among probe-answer,/,
  });
  t.throws(() => renderReport({ ...input, predictions: {} }), {
    code: "BAD_INPUT",
    message: /no predictions of the row/,
  });
});

test("with the least that a run can bring", async (t) => {
  const { best, before } = input;
  const little = renderReport({
    ...input,
    asking: undefined,
    rows: input.rows
      .filter(({ name }) => name === best || name === before)
      .map(({ name, metrics }) => ({ name, metrics })),
    differences: [],
    byLabels: undefined,
    mistakes: [],
    stages: [],
    settings: [],
    notes: undefined,
  });
  t.ok(little.includes("No interval says"));
  t.equal(little.match(/NaN|undefined|What labels buy|most confident mistakes/)?.[0], undefined);
});

test("the table for a terminal", async (t) => {
  const lines = renderTable(input.rows).trimEnd().split("\n");
  t.equal(lines.length, input.rows.length + 2);
  t.match(lines[0], /^ +AUROC +ECE +Brier$/);
  t.match(lines[2], /^Probe on the answer +0\.\d{3}[* ] +0\.\d{3} to 0\.\d{3}/);
  for (const column of [0, 1, 2]) {
    const stars = lines
      .slice(2)
      .filter((line) => /\d\*/.test(line.slice(30).match(/0\.\d{3}[* ](?: {2}0\.\d{3} to 0\.\d{3})?/g)![column]!));
    t.equal(stars.length, 1, "one best value a column");
  }
  t.ok(
    Math.max(
      ...renderTable(input.rows, { intervals: false })
        .split("\n")
        .map((l) => l.length),
    ) < 80,
  );
});

test("words", async (t) => {
  t.equal(rowLabel("probe-question-calibration-only"), "Probe on the question, labels only");
  t.equal(rowLabel("self-consistency-platt"), "Asking again, Platt-scaled");
  t.equal(rowLabel("something-new"), "something-new");
  t.same([0.0312, -0.0312, -0.0002, 0].map(signed).map(plain), ["+0.031", "-0.031", "-0.0002", "0.000"]);
  t.equal(duration(247), "4 min 7 s");
  const value = (low: number, high: number) => ({ value: (low + high) / 2, low, high, n: 9 });
  t.equal(verdict("brier", value(-0.02, -0.01)), "better");
  t.equal(verdict("auroc", value(-0.02, -0.01)), "worse");
  t.equal(verdict("ece", value(-0.02, 0.01)), "level");
  t.equal(verdict("ece", { value: 1, low: null, high: null, n: 3 } as Metrics["ece"]), null);
});

test("in a browser nothing overflows and type stays readable", {
  skip: browser ? false : "no Chromium on the PATH",
}, async (t) => {
  const folder = mkdtempSync(join(tmpdir(), "credence-report-"));
  t.teardown(() => rmSync(folder, { recursive: true, force: true }));
  const found = layOut(folder, html, [360, 768, 1280]);
  t.equal(found.length, 3);
  for (const { width, scroll, smallest, texts, cut, charts } of found) {
    t.ok(scroll <= width, `${width}: the page is ${scroll} wide`);
    t.ok(smallest >= 8.5, `${width}: the smallest type in a chart is ${smallest}`);
    t.ok(texts > 60 && charts, `${width}: the charts are there`);
    t.same(cut, [], `${width}: no label is cut`);
  }
  const picture = photograph(folder, html);
  t.ok(statSync(picture).size > 100_000, "a picture with something on it");
  t.equal(readFileSync(picture).subarray(1, 4).toString(), "PNG");
});
