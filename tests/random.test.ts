/** NumPy's and Python's generators against draws of theirs (tests/golden/random). */
import { readFileSync } from "node:fs";
import t from "tap";
import { NumpyRandom, NumpyRandomState, PythonRandom, shuffle } from "../src/data/random.js";

const golden = JSON.parse(readFileSync(new URL("golden/random/vectors.json", import.meta.url), "utf8"));
const upTo = (count: number) => Array.from({ length: count }, (_, i) => i);

t.test("PCG64 permutes as default_rng does", async (t) => {
  for (const { seed, n, head, sum } of golden.permutation) {
    const order = new NumpyRandom(seed).permutation(upTo(n));
    t.same(order.slice(0, 10), head, `${n} by ${seed}`);
    const own = order.reduce((total, value, i) => total + BigInt(i * value), 0n);
    t.equal(Number(own % 2n ** 31n), sum);
  }
});

t.test("PCG64 chooses as default_rng does, with and without replacement", async (t) => {
  for (const { seed, n, size, replace, head, sum } of golden.choice) {
    const drawn = new NumpyRandom(seed).choice(n, { size, replace });
    t.same(drawn.slice(0, 12), head, `${size} of ${n} by ${seed}${replace ? ", replaced" : ""}`);
    t.equal(
      drawn.reduce((total, value, i) => total + (i + 1) * value, 0),
      sum,
    );
  }
  t.throws(() => new NumpyRandom(1).choice(3, { size: 4, replace: false }), RangeError);
  t.throws(() => new NumpyRandom(1).choice(0, { size: 1, replace: true }), RangeError);
});

t.test("binomial draws are those of default_rng", async (t) => {
  for (const { seed, n, p, drawn } of golden.binomial) {
    const random = new NumpyRandom(seed);
    t.same(
      drawn.map(() => random.binomial(n, p)),
      drawn,
      `n ${n}, p ${p}`,
    );
  }
  t.throws(() => new NumpyRandom(1).binomial(100, 0.5), RangeError);
  t.throws(() => new NumpyRandom(1).binomial(1, 1.5), RangeError);
});

t.test("draws of several kinds follow each other", async (t) => {
  const random = new NumpyRandom(137);
  t.same(
    [
      random.choice(10, { size: 3, replace: true }),
      random.random(),
      random.permutation(upTo(6)),
      random.binomial(1, 0.5),
      random.random(),
      random.choice(9, { size: 3, replace: false }),
    ],
    golden.mixed,
  );
});

t.test("NumPy's older generator chooses as numpy.random.choice does", async (t) => {
  for (const { seed, n, size, replace, drawn } of golden["older choice"])
    t.same(new NumpyRandomState(seed).choice(n, { size, replace }), drawn, `${size} of ${n} by ${seed}`);
});

t.test("Python's sample and shuffle", async (t) => {
  for (const { seed, n, sample, shuffled } of golden["python draws"]) {
    const random = new PythonRandom(BigInt(seed));
    t.same(random.sample(upTo(n), sample.length), sample, `${sample.length} of ${n} by ${seed}`);
    t.same(shuffle(upTo(shuffled.length), random), shuffled);
  }
});
