import fc from "fast-check";
import t from "tap";
import type { Prediction } from "../src/evaluation/rows.js";
import { chosenLetter, likelihoods, matched } from "../src/methods/elical/published/confidences.js";
import {
  alignment,
  alignmentRows,
  auroc100,
  binnedError,
  binOf,
  publishedNumbers,
  questionWeighted,
  roundTo,
} from "../src/methods/elical/published/metrics.js";

const rows = (confidence: number[], correct: number[]): Prediction[] =>
  confidence.map((c, i) => ({ confidence: c, correct: correct[i] as 0 | 1 }));

t.test("calibration error: published edges lose 1.0, closed ones do not", (t) => {
  const some = rows([1, 1, 0.9, 0.55, 0.5, 0.2, 0.05, 0], [1, 0, 1, 0, 1, 0, 0, 0]);
  t.equal(binnedError(some, "published")!.toFixed(12), "0.050000000000");
  t.equal(binnedError(some, "closed")!.toFixed(12), "0.150000000000");
  t.equal(binnedError([], "closed"), null);
  t.end();
});

t.test("bins of k/20 are as the published code has them, and as arithmetic has them", (t) => {
  const twentieths = Array.from({ length: 21 }, (_, k) => k / 20);
  t.same(
    twentieths.map((c) => binOf(c, "published")),
    [0, 0, 1, 1, 2, 2, 2, 3, 4, 4, 5, 5, 5, 6, 6, 7, 8, 8, 9, 9, 10],
  );
  t.same(
    twentieths.map((c) => binOf(c, "closed")),
    [0, 0, 1, 1, 2, 2, 3, 3, 4, 4, 5, 5, 6, 6, 7, 7, 8, 8, 9, 9, 9],
  );
  t.end();
});

t.test("Alignment: the threshold of the first fifth is applied to the rest", (t) => {
  const some = rows([0.9, 0.3, 0.6, 0.1, 0.8, 0.4, 0.7, 0.2, 0.55, 0.35], [1, 0, 1, 0, 1, 0, 0, 0, 1, 1]);
  const parts = alignmentRows(10, "first");
  t.same(parts.choose, [0, 1]);
  t.same(alignment(some, parts), { value: 75, threshold: 0.31 });
  t.same(alignment(some.slice(0, 4), alignmentRows(4, "first")), { value: 100, threshold: 0.5 }, "no row chooses");
  const constant = rows([0.7, 0.7, 0.7, 0.7, 0.7], [1, 1, 0, 0, 1]);
  t.equal(alignment(constant, alignmentRows(5, "first"))!.threshold, 0.5, "all alike choose nothing");
  t.equal(alignment([], alignmentRows(0, "first")), null);
  t.end();
});

t.test("the three numbers, with each quirk and without", (t) => {
  const sure = rows([1, 1, 0.9, 0.55, 0.5, 0.2, 0.05, 0], [1, 0, 1, 0, 1, 0, 0, 0]);
  const b10 = new Set(["B9-10"] as const);
  t.equal(publishedNumbers(sure, b10, 42).ece, 0.05, "B9-10: the two confidences of 1 are in no bin");
  t.equal(publishedNumbers(sure, new Set(), 42).ece!.toFixed(12), "0.150000000000");
  const thirds = rows([0.5, 0.5, 0.5], [1, 0, 0]);
  t.equal(publishedNumbers(thirds, b10, 42).ece, 0.17, "B9-10: and it is rounded");
  t.equal(publishedNumbers(thirds, new Set(), 42).ece!.toFixed(12), "0.166666666667");
  const some = rows([0.9, 0.3, 0.6, 0.1, 0.8, 0.4, 0.7, 0.2, 0.55, 0.35], [1, 0, 1, 0, 1, 0, 0, 0, 1, 1]);
  t.match(
    publishedNumbers(some, new Set(["B9-9"]), 42),
    { align: 75, threshold: 0.31 },
    "B9-9: the first fifth chooses",
  );
  const drawn = alignment(some, alignmentRows(10, { seed: 42 }))!;
  t.match(publishedNumbers(some, new Set(), 42), { align: drawn.value, threshold: drawn.threshold });
  t.not(drawn.threshold, 0.31);
  t.end();
});

t.test("a random fifth is a fifth, follows the seed, and is not the first", (t) => {
  fc.assert(
    fc.property(fc.integer({ min: 0, max: 300 }), fc.integer(), (n, seed) => {
      const { choose, score } = alignmentRows(n, { seed });
      t.equal(choose.length, Math.floor(0.2 * n));
      t.same(
        [...choose, ...score].sort((a, b) => a - b),
        Array.from({ length: n }, (_, i) => i),
      );
      t.same(alignmentRows(n, { seed }), { choose, score });
    }),
    { numRuns: 20 },
  );
  t.ok(alignmentRows(100, { seed: 1 }).choose.some((row, i) => row !== i));
  t.notSame(alignmentRows(100, { seed: 1 }), alignmentRows(100, { seed: 2 }));
  t.end();
});

t.test("AUROC is in hundredths, ties a half; a set that is all right has none", (t) => {
  t.equal(auroc100(rows([0.9, 0.8, 0.8, 0.1], [1, 1, 0, 0])), 87.5);
  t.equal(auroc100(rows([0.9, 0.8], [1, 1])), null);
  t.end();
});

t.test("numbers are rounded as NumPy rounds them", (t) => {
  for (const [value, decimals, want] of [
    [62.125, 2, 62.12],
    [62.375, 2, 62.38],
    [0.005, 2, 0],
    [0.015, 2, 0.02],
    [84.3651, 2, 84.37],
    [0.15, 2, 0.15],
  ] as const)
    t.equal(roundTo(value, decimals), want, String(value));
  t.end();
});

t.test(
  "averages count a set as often as it has questions: the published averages follow from the published tables",
  (t) => {
    const inDomain = [3610, 11_313, 7405, 12_576, 3000];
    const outOfDomain = [10_570, 2032, 3519, 2417, 14_267];
    const average = (questions: number[], values: number[]) =>
      questionWeighted(values.map((value, i) => ({ questions: questions[i]!, value })))!.toFixed(2);
    t.equal(average(inDomain, [82.38, 87.51, 84.48, 82.05, 84.31]), "84.36", "EliCal (1k), Qwen2.5-7B");
    t.equal(average(outOfDomain, [78.48, 80.11, 79.85, 78.09, 91.74]), "84.47");
    t.equal(average(inDomain, [80.68, 90.2, 80.12, 55.4, 62.93]), "73.62", "Consis-Sem");
    t.equal(average(inDomain, [69.62, 72.45, 75.35, 76.77, 76.5]), "74.50", "Cal-Only (1k), Qwen2.5-14B");
    t.equal(questionWeighted([]), null);
    t.end();
  },
);

const answer = (response: string, gold: string[], more: object = {}) => ({
  question: "?",
  answer: gold,
  response: [response],
  ...more,
});

t.test("Prob and N-Prob", (t) => {
  const tokens = [["a", "b", "c", "d", "e", "f"]];
  const { prob, nProb } = likelihoods("greedy.jsonl", [
    answer("x", [], { tokens, cumulative_logprobs: [-2.4] }),
    answer("", [], { tokens: [[]], cumulative_logprobs: [-0.5] }),
  ]);
  t.equal(prob[0]!.toFixed(6), "0.090718");
  t.equal(nProb[0]!.toFixed(6), "0.670320");
  t.equal(nProb[1], Math.exp(-0.5), "an empty answer");
  t.throws(() => likelihoods("greedy.jsonl", [answer("x", [])]), {
    code: "BAD_INPUT",
    message: /greedy\.jsonl: record 1 lacks "tokens" or "cumulative_logprobs".*--get_tokens/,
  });
  t.throws(() => likelihoods("g", [answer("x", [], { tokens, cumulative_logprobs: [0.1] })]), /above 0/);
  t.end();
});

t.test("multiple choice: every A counted as right in the published code, and no longer", (t) => {
  const replies = ["A. Paris", "B", "The answer is C.", "A river, so (D)", "", "I think B"].map((reply) =>
    answer(reply, ["A"]),
  );
  const published = new Set(["B9-16"] as const);
  t.same(matched(replies, "long_mc_qa", published), [1, 1, 1, 1, 1, 1]);
  t.same(matched(replies, "long_mc_qa", new Set()), [1, 0, 0, 0, 0, 0]);
  t.same(
    ["A. Paris", "B", "The answer is C.", "A river, so (D)", "", "I think B", "Answer: A", "A", "A because so"].map(
      chosenLetter,
    ),
    ["A", "B", "C", "D", undefined, "B", "A", "A", undefined],
  );
  t.same(matched([answer("It is B.", ["B"])], "long_mc_qa", published), [1]);
  t.same(matched([answer("The Rhône", ["Rhone"])], "short_qa", new Set()), [1]);
  t.same(matched([answer("The Rhône", ["Rhone"])], "short_qa", published), [0]);
  t.same(matched([answer("x", [])], "short_qa", new Set()), [0]);
  t.end();
});
