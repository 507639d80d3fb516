/** Records read where they lie: the same ones from anywhere in every kind of file, and shuffled a window at a time. */
import { readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { gzipSync } from "node:zlib";
import fc from "fast-check";
import t from "tap";
import { z } from "zod";
import { NumpyRandom } from "../src/data/random.js";
import { firstRecords, openRecords, type RecordFile, readRecords, recordsOf } from "../src/data/readers.js";
import { predictionSchema } from "../src/data/records.js";
import { shuffledWindows, windowsOf } from "../src/data/windows.js";

const schema = z.looseObject({ n: z.coerce.number() });
const count = 2500;
// Lines of many lengths, some longer than what is read at a time, blank ones between, and characters of several bytes.
const lines = Array.from({ length: count }, (_, n) => {
  const text = (n % 700 === 3 ? "日本é" : "é").repeat(n % 700 === 3 ? 50_000 : n % 97);
  return `${n % 11 === 0 ? " \r\n" : ""}${JSON.stringify({ n, text })}\r\n`;
});
const jsonl = `\ufeff${lines.join("")}`;
const csv = `n,text\n${Array.from({ length: count }, (_, n) => `${n},"a\n${"é".repeat(n % 97)}"\n`).join("")}`;
const numbers = (records: { n: number }[]) => records.map(({ n }) => n);
const upTo = (from: number, to: number) => Array.from({ length: to - from }, (_, i) => from + i);

async function readAll<T>(batches: AsyncIterable<T[]>): Promise<T[]> {
  const out: T[] = [];
  for await (const batch of batches) out.push(...batch);
  return out;
}

t.test("any stretch of any kind of file", async (t) => {
  const folder = t.testdir();
  const write = (name: string, data: string | Uint8Array) => {
    writeFileSync(join(folder, name), data);
    return join(folder, name);
  };
  const files = [
    [write("a.jsonl", jsonl), [0, 1024, 2048]],
    [write("a.jsonl.gz", gzipSync(jsonl)), [0]],
    [write("a.csv", csv), [0]],
    [write("a.csv.gz", gzipSync(csv)), [0]],
    [write("a.json", `[${lines.join(",")}]`), [0, 1024, 2048]],
  ] as const;
  for (const [path, blocks] of files) {
    const file = await openRecords(path, schema);
    t.equal(file.records, count, path);
    t.same(file.blocks, blocks, path);
    for (const [from, to] of [
      [0, count],
      [0, 1],
      [1023, 1026],
      [2048, count],
      [2499, 2500],
      [7, 7],
    ] as const) {
      t.same(numbers(await readAll(file.read(from, to))), upTo(from, to), `${path} ${from} to ${to}`);
    }
    t.same(await readAll(file.read(0, count)), await readRecords(path, schema), `${path}: as when read whole`);
    t.same(firstRecords(file, 1024).blocks, [0]);
  }
  const few = new URL("golden/text/questions.parquet", import.meta.url).pathname;
  const parquet = await openRecords(few, predictionSchema);
  t.same([parquet.records, parquet.blocks], [3, [0]]);
  t.same(await readAll(parquet.read(1, 3)), (await readRecords(few, predictionSchema)).slice(1));
  const zipped = await openRecords(write("a.parquet.gz", gzipSync(readFileSync(few))), predictionSchema);
  t.same(await readAll(zipped.read(2, 3)), (await readRecords(few, predictionSchema)).slice(2));
});

t.test("a wrong line deep in a file is named when it is read", async (t) => {
  const path = join(t.testdir(), "wrong.jsonl");
  const good = '{"n":1}\n'.repeat(1500);
  writeFileSync(path, `${good}{"n":\n`);
  const file = await openRecords(path, schema);
  t.same((await readAll(file.read(1100, 1500))).length, 400);
  await t.rejects(readAll(file.read(1100, 1501)), { code: "BAD_INPUT", message: /wrong\.jsonl:1501: not valid JSON/ });
  writeFileSync(path, Buffer.concat([Buffer.from(good), Buffer.from([0xff, 10])]));
  await t.rejects(openRecords(path, schema), { message: /wrong\.jsonl:1501: not UTF-8/ });
  writeFileSync(path, good);
  const shorter = await openRecords(path, schema);
  writeFileSync(path, '{"n":1}\n'.repeat(1400));
  await t.rejects(readAll(shorter.read(1100, 1500)), { message: /1500 records when it was opened and has fewer now/ });
  await t.rejects(openRecords(join(t.testdirName, "none.jsonl"), schema), { code: "NO_FILE" });
});

/** A file of which only numbers are known. */
function made(records: number, blocks: number[]): RecordFile<number> {
  return { ...recordsOf(upTo(0, records)), blocks };
}

t.test("windows: every record once, in memory no more than asked for, the same for the same seed", async (t) => {
  const sizes = fc.array(fc.integer({ min: 1, max: 9 }), { minLength: 1, maxLength: 30 });
  const property = fc.asyncProperty(
    sizes,
    fc.integer({ min: 1, max: 40 }),
    fc.nat(1000),
    fc.nat(3),
    async (blockSizes, windowRecords, seed, epoch) => {
      const blocks = blockSizes.map((_, i) => blockSizes.slice(0, i).reduce((sum, size) => sum + size, 0));
      const records = blockSizes.reduce((sum, size) => sum + size, 0);
      const plan = { seed, epoch, windowRecords };
      const file = made(records, blocks);
      const windows: number[][] = [];
      for await (const { records } of shuffledWindows(file, plan)) windows.push(records);
      const largest = blocks.length === 1 ? windowRecords : Math.max(windowRecords, ...blockSizes);
      const sorted = windows.flat().sort((a, b) => a - b);
      const first = Math.min(2, windows.length);
      const later: number[][] = [];
      for await (const { records } of shuffledWindows(file, plan, first)) later.push(records);
      return (
        JSON.stringify(sorted) === JSON.stringify(upTo(0, records)) &&
        windows.every((window) => window.length <= largest) &&
        JSON.stringify(later) === JSON.stringify(windows.slice(first))
      );
    },
  );
  await t.resolves(fc.assert(property, { numRuns: 200 }));
  const file = made(
    5000,
    upTo(0, 5).map((block) => 1000 * block),
  );
  const order = (seed: number, epoch: number) => windowsOf(file, { seed, epoch, windowRecords: 1000 }).flat();
  t.same(
    order(3, 0).map(([from]) => from / 1000),
    new NumpyRandom([3, 0]).permutation(upTo(0, 5)),
    "as documented",
  );
  t.strictNotSame(order(3, 0), order(3, 1));
  t.strictNotSame(order(3, 0), order(4, 0));
  await t.rejects(shuffledWindows(file, { seed: -1, epoch: 0, windowRecords: 1 }).next(), { code: "BAD_OPTION" });
});
