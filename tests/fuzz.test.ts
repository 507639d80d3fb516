/** Files as nobody writes them. `npm run fuzz` has many more, and native readers under sanitizers. */
import { readdirSync, readFileSync } from "node:fs";
import t from "tap";
import { CredenceError } from "../src/errors.js";
import { check, search } from "./fuzz/search.js";
import { type Target, targets } from "./fuzz/targets.js";

const corpus = new URL("fuzz/corpus/", import.meta.url);

t.test("what fuzzing found once is refused by name", async (t) => {
  for (const name of readdirSync(corpus)) {
    const target = targets.find((one) => one.name === name)!;
    for (const file of readdirSync(new URL(name, corpus)))
      await t.resolves(check(target, readFileSync(new URL(`${name}/${file}`, corpus))), `${name}/${file}`);
  }
});

t.test("seeds are read, and a few hundred inputs near each are read or refused by name", async (t) => {
  for (const target of targets) {
    for (const seed of target.seeds) await t.resolves(check(target, seed), `${target.name}: a seed`);
    await t.resolves(
      Promise.resolve(target.seeds[0]!).then((seed) => target.read(target.write(seed), seed)),
      `${target.name}: the first seed is accepted`,
    );
    const { executions, failure } = await search(target, 300, 1);
    t.equal(failure, undefined, `${target.name}: ${executions} inputs`);
  }
});

/** A reader with a fault in it, planted. */
const planted = (read: (input: Buffer) => unknown): Target => ({
  name: "planted",
  covers: [],
  seeds: [Buffer.from('{"shape":[3,4],"name":"x"}')],
  words: ["shape"],
  json: { take: (input) => [input.toString()], put: ([text]) => Buffer.from(text!) },
  write: () => "planted.bin",
  read: (_path, input) => read(Buffer.from(input)),
});

t.test("a planted fault is found", async (t) => {
  const refusal = (message: string) => new CredenceError("BAD_INPUT", message);
  const parsed = (input: Buffer): { shape: number[] } => {
    try {
      return JSON.parse(input.toString());
    } catch {
      throw refusal("planted.bin: no JSON");
    }
  };
  const faults: Record<string, [fault: (input: Buffer) => unknown, found: RegExp]> = {
    "a value of another kind": [(input) => parsed(input).shape.map((size) => size + 1), /map|null|undefined/],
    "memory that the file only claims": [
      (input) => Buffer.alloc(Number(parsed(input)?.shape?.[0]) || 0),
      /asked for \d+ bytes|size/,
    ],
    "a message without the file": [
      (input) => {
        if (input.length < 9) throw refusal("too short");
      },
      /does not name its file/,
    ],
  };
  for (const [name, [fault, found]] of Object.entries(faults)) {
    const { failure } = await search(planted(fault), 2000, 1);
    t.match(String((failure?.error as Error)?.message), found, name);
  }
});
