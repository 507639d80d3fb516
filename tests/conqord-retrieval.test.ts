/** What it is worth to look things up where a model is not sure: the study over thresholds. */
import { existsSync, readFileSync } from "node:fs";
import { join } from "node:path";
import t from "tap";
import { type RatingRow, writeRatings } from "../src/methods/conqord/files.js";
import {
  type RetrievalRow,
  readRetrieval,
  retrievalCsv,
  retrievalFigure,
  retrievalSweep,
  thresholds,
} from "../src/methods/conqord/retrieval.js";
import { credence } from "./fixtures/command-line.js";

const rows: RetrievalRow[] = [
  { confidence: 0.9, without: 1, with: 1 },
  { confidence: 0.7, without: 1, with: 0 },
  { confidence: 0.3, without: 0, with: 1 },
  { confidence: 0, without: 0, with: 1 },
];

t.test("a threshold decides question by question", async (t) => {
  const points = retrievalSweep(rows);
  t.same(
    points.map(({ threshold }) => threshold),
    thresholds,
  );
  t.same(
    points.map(({ adaptive }) => adaptive),
    [0.5, 0.75, 0.75, 0.75, 1, 1, 1, 1, 0.75, 0.75, 0.75],
  );
  t.same(points[7], {
    threshold: 0.7,
    adaptive: 1,
    retrieved: 0.5,
    sure: { questions: 2, without: 1, with: 0.5 },
    unsure: { questions: 2, without: 0, with: 1 },
  });
  t.same(points[0]!.unsure, { questions: 0, without: null, with: null });
  t.equal(retrievalSweep([], [0.5])[0]!.adaptive, null);
  const lines = retrievalCsv(points).trimEnd().split("\n");
  t.equal(lines[0], "threshold,adaptive,retrieved,sure,sure_without,sure_with,unsure,unsure_without,unsure_with");
  t.equal(lines[1], "0,0.5,0,4,0.5,0.75,0,,");
  t.equal(lines[8], "0.7,1,0.5,2,1,0.5,2,0,1");
  const svg = retrievalFigure(points, rows);
  for (const text of ["adaptive", "never looked up", "always looked up", "4 questions"]) t.match(svg, text);
});

const rated = (question: string, rating: number, confidence?: number): RatingRow => ({
  question,
  answer: `\n\n### Answer: a${confidence === undefined ? "" : `\n\n### Confidence: ${confidence}.`}`,
  rating,
  reply: "",
  reference: "",
});

t.test("two files of ratings, of the same questions or refused", async (t) => {
  const folder = t.testdir({});
  const paths = { without: join(folder, "without.csv"), with: join(folder, "with.csv") };
  const options = { compat: new Set<never>(), unparsed: "error", asked: "answer" } as const;
  writeRatings(paths.without, [rated("a?", 1, 0.9), rated("b?", 0, 0.3), rated("c?", 0)]);
  writeRatings(paths.with, [
    rated("a?\n\n### Retrieved Evidences: It is a.", 0),
    rated("b?", 1),
    rated("c?\n\n### Retrieved Evidences: c", 1),
  ]);
  await t.rejects(readRetrieval(paths, options), { code: "NO_CONFIDENCE", message: /1 of 3/ });
  const left = await readRetrieval(paths, { ...options, unparsed: "drop" });
  t.same(left, {
    rows: [
      { confidence: 0.9, without: 1, with: 0 },
      { confidence: 0.3, without: 0, with: 1 },
    ],
    unparsed: 1,
    clamped: 0,
  });
  const published = await readRetrieval(paths, { ...options, compat: new Set(["A9-6"]) });
  t.equal(published.rows[2]!.confidence, 0);

  const plot = join(folder, "plot.svg");
  const csv = join(folder, "table.csv");
  const asked = ["conqord", "retrieval", paths.without, paths.with, "--unparsed", "0.5", "--log-level", "error"];
  const ended = await credence(...asked, "--thresholds", "0.5,0.95", "--plot", plot, "--csv", csv);
  t.equal(ended.status, 0, ended.told);
  t.match(ended.out, /threshold +adaptive +looked up/);
  t.match(ended.out, /0\.5 +0\.6667 +0\.3333/);
  t.ok(existsSync(plot));
  t.equal(readFileSync(csv, "utf8").split("\n").length, 4);
  const { points } = JSON.parse((await credence(...asked, "--json")).out);
  t.equal(points.length, 11);

  writeRatings(paths.with, [rated("a?", 0), rated("other?", 1), rated("c?", 1)]);
  await t.rejects(readRetrieval(paths, options), {
    code: "BAD_INPUT",
    message: /row 2 of .*without\.csv asks "b\?", of .*with\.csv "other\?".*same questions/,
  });
  writeRatings(paths.with, [rated("a?", 0)]);
  await t.rejects(readRetrieval(paths, options), { message: /without\.csv has 3 questions, .*with\.csv 1/ });
  for (const wrong of [
    ["--thresholds", "2"],
    ["--unparsed", "maybe"],
    ["--compat", "A9-7"],
    ["--compat", "A9-1"],
  ])
    t.equal((await credence(...asked, ...wrong)).status, 2, wrong.join(" "));
});
