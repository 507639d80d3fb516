/** Correlations and their p-values; the numbers are SciPy 1.16's (pearsonr, spearmanr). */
import t, { type Test } from "tap";
import { NumpyRandom, roundHalfEven } from "../src/data/random.js";
import { correlationP, pearson, spearman } from "../src/evaluation/correlation.js";

function near(t: Test, found: number | null, want: number, what: string): void {
  t.ok(
    found !== null && Math.abs(found - want) <= 1e-10 * Math.max(Math.abs(want), 1e-300),
    `${what}: ${found}, ${want}`,
  );
}

async function both(t: Test, x: number[], y: number[], want: [r: number, p: number, rho: number, p: number]) {
  near(t, pearson(x, y), want[0], "Pearson");
  near(t, await correlationP(want[0], x.length), want[1], "its p");
  near(t, spearman(x, y), want[2], "Spearman");
  near(t, await correlationP(want[2], x.length), want[3], "its p");
}

t.test("a few rows with ties", async (t) => {
  const right = [1, 0, 0, 0, 1, 1, 0, 1];
  const sure = [0.9, 0.9, 0.2, 0, 1, 0, 0.3, 0.7];
  await both(t, right, sure, [0.38100038100057143, 0.3517467828078533, 0.3312945782245396, 0.422778075644361]);
});

t.test("many rows, and a p-value that is next to nothing", async (t) => {
  const random = new NumpyRandom(0);
  const confidences = Array.from({ length: 500 }, () => roundHalfEven(10 * random.random()) / 10);
  const right = confidences.map((confidence) => (random.random() < 0.2 + 0.6 * confidence ? 1 : 0));
  const want: [number, number, number, number] = [
    0.39348949538688294, 5.782557460341474e-20, 0.3946960945493358, 4.35582454493171e-20,
  ];
  await both(t, right, confidences, want);
});

t.test("what is undefined is null, and a straight line leaves nothing to chance", async (t) => {
  t.equal(pearson([1, 2, 3], [5, 5, 5]), null);
  t.equal(spearman([1, 2, 3], [5, 5, 5]), null);
  t.equal(pearson([], []), null);
  t.equal(await correlationP(0.5, 2), null);
  t.equal(await correlationP(1, 10), 0);
  t.equal(await correlationP(-1, 10), 0);
  t.equal(await correlationP(0, 10), 1);
  near(t, await correlationP(0.9819805060619655, 3), 0.12103771832367739, "three rows");
  t.equal(pearson([1, 2, 3, 4], [2, 4, 6, 8]), 1);
  t.equal(spearman([1, 2, 3], [2, 4, 9]), 1);
  t.ok(Math.abs(spearman([1, 2, 3, 4], [1, 1, 2, 2])! - 0.8944271909999159) < 1e-12);
});
