import { readFileSync } from "node:fs";
import fc from "fast-check";
import t from "tap";
import {
  flatten,
  flattenValues,
  lengthGroupedBatches,
  microBatches,
  packBestFit,
  shuffledBatches,
} from "../src/data/packing.js";
import { NumpyRandom, PythonRandom, permutation, roundHalfEven, shuffle } from "../src/data/random.js";
import { elicalReferenceSplit, foldsByGroup, labelOrder, parts, splitByGroup } from "../src/data/splits.js";

const golden = (name: string) => JSON.parse(readFileSync(new URL(`golden/text/${name}`, import.meta.url), "utf8"));
const upTo = (n: number) => Array.from({ length: n }, (_, i) => i);
const times = <T>(n: number, f: () => T): T[] => Array.from({ length: n }, f);
const random = golden("random-cases.json");

t.test("NumPy's generator, bit for bit", async (t) => {
  for (const c of random.numpy) {
    const words = new NumpyRandom(c.seed);
    t.same(
      times(4, () => String(words.uint64())),
      c.words,
      `seed ${c.seed}`,
    );
    const numbers = new NumpyRandom(c.seed);
    t.same(
      times(3, () => numbers.random()),
      c.random,
    );
    t.same(new NumpyRandom(c.seed).permutation(upTo(50)), c.permutation);
    const twice = new NumpyRandom(c.seed);
    t.same(
      [permutation(upTo(7), twice), permutation(upTo(9), twice)],
      c.twice,
      "a kept half word is used by the next draw",
    );
  }
  const large = new NumpyRandom(random.numpy_5000.seed).permutation(upTo(5000));
  t.same([large.slice(0, 20), large.slice(-20)], [random.numpy_5000.head, random.numpy_5000.tail]);
  t.throws(() => new NumpyRandom(-1), RangeError);
});

t.test("Python's generator, bit for bit", async (t) => {
  for (const c of random.python) {
    const r = new PythonRandom(c.seed);
    t.same(
      times(3, () => r.random()),
      c.random,
      `seed ${c.seed}`,
    );
    t.same(
      times(3, () => r.uint32()),
      c.words,
    );
    t.same(
      [1, 7, 33, 40].map((count) => r.bits(count)),
      c.bits,
    );
    t.same(shuffle(upTo(40), new PythonRandom(c.seed)), c.shuffle);
    t.same([new PythonRandom(c.seed).sample(upTo(30), 8), new PythonRandom(c.seed).sample(upTo(10000), 5)], c.sample);
    const below = new PythonRandom(c.seed);
    t.same([below.below(10), below.below(1000), 5 + below.below(5)], c.choice);
  }
  t.same([0.5, 1.5, 2.5, 2.4, 2.6].map(roundHalfEven), [0, 2, 2, 2, 3]);
});

const rows = upTo(200).map((i) => ({ group: `g${i % 41}` }));

t.test("no group is on both sides", async (t) => {
  const { train, test } = splitByGroup(rows, { testShare: 0.3, seed: 1 });
  const trained = new Set(train.map((i) => rows[i]!.group));
  t.equal(train.length + test.length, rows.length);
  t.notOk(test.some((i) => trained.has(rows[i]!.group)));
  t.equal(new Set(test.map((i) => rows[i]!.group)).size, 12);
  t.same(splitByGroup(rows, { testShare: 0.3, seed: 1 }), { train, test });
  t.strictNotSame(splitByGroup(rows, { testShare: 0.3, seed: 2 }).test, test);
  t.same(
    splitByGroup(
      upTo(10).map(() => ({})),
      { testShare: 0.2, seed: 0 },
    ).test.length,
    2,
    "rows without a group are groups of one",
  );
  t.throws(() => splitByGroup([{ group: "a" }, { group: "a" }], { testShare: 0.5, seed: 0 }), { code: "BAD_INPUT" });
});

t.test("folds test every row once, and choose on groups of their own", async (t) => {
  const folds = foldsByGroup(rows);
  t.same(
    folds.flatMap((fold) => fold.test).sort((a, b) => a - b),
    upTo(200),
  );
  for (const { train, test, inner: parts } of folds) {
    const inner = parts[0]!;
    t.same(
      parts.flat().sort((a, b) => a - b),
      train,
    );
    t.equal(train.length + test.length, 200);
    t.ok(inner.length > 0 && inner.every((i) => train.includes(i)));
    const chosen = new Set(inner.map((i) => rows[i]!.group));
    t.notOk(train.some((i) => !inner.includes(i) && chosen.has(rows[i]!.group)));
  }
  t.same(
    labelOrder(folds[0]!.train, 3, 0).toSorted((a, b) => a - b),
    folds[0]!.train,
  );
  t.throws(() => foldsByGroup(rows, { folds: 42 }), { code: "BAD_INPUT", message: /41 groups cannot make 42 folds/ });
  t.same(parts(upTo(7), 3), [
    [0, 1, 2],
    [3, 4],
    [5, 6],
  ]);
  const reference = elicalReferenceSplit(rows, { limit: 100 });
  t.equal(reference.train.length + reference.test.length, 100);
});

t.test("training batches are the reference's", async (t) => {
  const { lengths, size, seed, epochs } = golden("batch-cases.json");
  const r = new PythonRandom(seed);
  for (const epoch of epochs) t.same(lengthGroupedBatches(lengths, size, r), epoch);
  const planned = shuffledBatches({ lengths, batch: size, epochs: 2, seed });
  t.same(
    planned.filter((b) => b.epoch === 1).map((b) => b.rows),
    epochs[1],
  );
  t.same(
    planned
      .filter((b) => b.epoch === 0)
      .flatMap((b) => b.rows)
      .sort((a, b) => a - b),
    upTo(lengths.length),
  );
});

t.test("flat rows", async (t) => {
  const { tokens, offsets } = flatten([[1, 2], Int32Array.of(), Int32Array.of(3)]);
  t.same(
    [[...tokens], [...offsets]],
    [
      [1, 2, 3],
      [0, 2, 2, 3],
    ],
  );
  t.same([...flatten([]).offsets], [0]);
  t.same([...flattenValues([[0.5], [1, 2]])], [0.5, 1, 2]);
});

t.test("packing into a budget of tokens", async (t) => {
  t.same(packBestFit([5, 3, 7, 2, 4, 3], 10), [
    [2, 1],
    [0, 4],
    [5, 3],
  ]);
  t.same(packBestFit([12, 3], 10), [[0], [1]], "a row longer than the budget stands alone");
  t.same(packBestFit([], 10), []);
  const r = new PythonRandom(1);
  const lengths = times(2000, () => 1 + r.below(300));
  const packed = packBestFit(lengths, 1024);
  t.same(
    packed.flat().sort((a, b) => a - b),
    upTo(2000),
  );
  t.ok(packed.every((batch) => batch.reduce((sum, i) => sum + lengths[i]!, 0) <= 1024));
  const least = Math.ceil(lengths.reduce((a, b) => a + b) / 1024);
  t.ok(packed.length <= least + 2, `${packed.length} batches; at least ${least}`);
  t.same(microBatches([4, 4, 4, 20, 1], 10), [[0, 1], [2], [3], [4]]);
});

t.test("best fit: every row once, the budget kept, no two packs that would go into one", async (t) => {
  fc.assert(
    fc.property(
      fc.array(fc.integer({ min: 1, max: 40 }), { maxLength: 80 }),
      fc.integer({ min: 1, max: 60 }),
      (lengths, budget) => {
        const packs = packBestFit(lengths, budget);
        const size = (pack: number[]) => pack.reduce((sum, row) => sum + lengths[row]!, 0);
        t.same(
          packs.flat().sort((a, b) => a - b),
          upTo(lengths.length),
        );
        t.ok(packs.every((pack) => pack.length === 1 || size(pack) <= budget));
        const sizes = packs.map(size).sort((a, b) => a - b);
        t.ok(sizes.length < 2 || sizes[0]! + sizes[1]! > budget);
        t.same(packBestFit(lengths, budget), packs);
      },
    ),
    { numRuns: 200 },
  );
});
