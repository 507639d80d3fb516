import { spawnSync } from "node:child_process";
import { mkdirSync, mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { isDeepStrictEqual } from "node:util";
import { gunzipSync, gzipSync } from "node:zlib";
import t from "tap";
import { readRecords, toJsonLines, writeRecords } from "../src/data/readers.js";
import {
  chatSchema,
  labelSchema,
  pairSchema,
  predictionSchema,
  promptSchema,
  questionSchema,
  sampleSchema,
} from "../src/data/records.js";

const golden = new URL("golden/text/", import.meta.url).pathname;
const folder = mkdtempSync(join(tmpdir(), "credence-readers-"));
const home = process.cwd();
t.before(() => process.chdir(folder));
t.teardown(() => {
  process.chdir(home);
  rmSync(folder, { recursive: true, force: true });
});
const write = (name: string, data: string | Uint8Array): string => {
  writeFileSync(join(folder, name), data);
  return name;
};
const rhone = { id: "1", question: "Which river leaves Lake Geneva?", answer: ["Rhone", "Rhône"], source: { page: 3 } };
const sums = { question: "1 + 1?", answer: ["2"], group: "sums" };

t.test("the same records from every kind of file, unknown fields and order kept", async (t) => {
  const lines = toJsonLines([rhone, sums]);
  t.same(await readRecords(write("q.jsonl", lines), questionSchema), [rhone, sums]);
  t.same(await readRecords(write("windows.jsonl", `\ufeff${lines.replaceAll("\n", "\r\n")}\n\n`), questionSchema), [
    rhone,
    sums,
  ]);
  t.same(await readRecords(write("cut.jsonl", lines.trimEnd()), questionSchema), [rhone, sums]);
  t.same(await readRecords(write("q.JSONL.GZ", gzipSync(lines)), questionSchema), [rhone, sums]);
  t.same(await readRecords(write("q.json", JSON.stringify([rhone, sums])), questionSchema), [rhone, sums]);
  const csv =
    'id,question,answer,group,source\n1,Which river leaves Lake Geneva?,"[""Rhone"", ""Rhône""]",,"{""page"":3}"\n,1 + 1?,2,sums,\n';
  t.same(await readRecords(write("q.csv", csv), questionSchema), [rhone, sums]);
  const columns = [
    {
      id: "7",
      question: "Where does the Rhone rise?",
      answer: ["Furka", "Switzerland"],
      confidence: 0.5,
      group: "a",
      from: { page: 1 },
    },
    { id: "8", question: "1 + 1?", answer: ["2"], confidence: 0.25, from: { page: 2 } },
    { id: "9", question: "日本?", answer: ["Japan"], confidence: 1, group: "b" },
  ];
  for (const name of ["questions.parquet", "questions.arrow", "questions-stream.arrow"]) {
    t.same(await readRecords(join(golden, name), predictionSchema), columns, name);
  }
});

t.test("standard input", async (t) => {
  const reader = new URL("../src/data/readers.ts", import.meta.url).href;
  const records = new URL("../src/data/records.ts", import.meta.url).href;
  const program = `const { readRecords, writeRecords } = await import(${JSON.stringify(reader)});
    const { questionSchema } = await import(${JSON.stringify(records)});
    try { await writeRecords("-", await readRecords("-", questionSchema)); } catch (e) { console.log(e.message); }`;
  const run = (input: string) =>
    spawnSync(process.execPath, [...process.execArgv, "--input-type=module", "-e", program], {
      input,
      cwd: home,
      encoding: "utf8",
    });
  t.equal(run(toJsonLines([sums])).stdout, toJsonLines([sums]));
  t.match(run("{}").stdout, /^standard input:1: "answer" is missing/);
});

t.test("what a person reads when a record is wrong", async (t) => {
  const questions: [line: unknown, message: string][] = [
    [{ question: "a?", answer: "Rhone" }, '"answer" is a string; expected a list of strings, e.g. ["Rhone", "Rhône"]'],
    [{ question: "a?" }, '"answer" is missing; expected a list of strings, e.g. ["Rhone", "Rhône"]'],
    [{ question: "a?", answer: [] }, '"answer" is an empty list; expected a list of strings, e.g. ["Rhone", "Rhône"]'],
    [{ question: "a?", answer: ["x", 3] }, '"answer[1]" is 3; expected a string'],
    [{ question: "a?", answer: ["x", " "] }, '"answer[1]" is an empty string; expected a string'],
    [{ question: " ", answer: ["x"] }, '"question" is an empty string; expected a string'],
    [{ answer: ["x"] }, '"question" is missing; expected a string (or "messages", a list of messages)'],
    [
      { messages: [], answer: ["x"] },
      '"messages" is an empty list; expected a list of messages, e.g. [{"role": "user", "content": "Hello"}]',
    ],
    [{ messages: [{ role: "user" }], answer: ["x"] }, '"messages[0].content" is missing; expected a string'],
    [{ id: {}, question: "a?", answer: ["x"] }, '"id" is an object; expected a string or a whole number'],
    [["a?"], 'a list where a record is expected, e.g. {"question": "...", "answer": ["..."]}'],
    [null, 'null where a record is expected, e.g. {"question": "...", "answer": ["..."]}'],
  ];
  for (const [line, message] of questions) {
    const path = write("wrong.jsonl", `${toJsonLines([sums, sums])}\n${JSON.stringify(line)}\n`);
    await t.rejects(readRecords(path, questionSchema), { code: "BAD_INPUT", message: `wrong.jsonl:4: ${message}` });
  }
  const given = { text: "x", tokens: [1], logprobs: [-0.5], finish: "stop" };
  const sample = { ...sums, given, responses: [given, given] };
  const others: [schema: typeof predictionSchema, record: object, message: string][] = [
    [predictionSchema, { confidence: 1.7 }, '"confidence" is 1.7; expected a number from 0 to 1'],
    [predictionSchema, { confidence: "high" }, '"confidence" is a string; expected a number from 0 to 1'],
    [predictionSchema, { confidence: null }, '"confidence" is null; expected a number from 0 to 1'],
    [predictionSchema, {}, '"confidence" is missing; expected a number from 0 to 1'],
    [labelSchema as never, { ...sample, given_correct: 2 }, '"given_correct" is 2; expected 0 or 1'],
    [labelSchema as never, { ...sample, correct: [0, true] }, '"correct[1]" is true; expected 0 or 1'],
    [
      sampleSchema as never,
      { ...sums, responses: [] },
      '"given" is missing; expected an object with text, tokens, logprobs and finish',
    ],
    [
      sampleSchema as never,
      { ...sample, given: { ...given, finish: "eos" } },
      '"given.finish" is "eos"; expected "stop" or "length"',
    ],
    [
      sampleSchema as never,
      { ...sample, responses: [given, { ...given, tokens: [0.5] }] },
      '"responses[1].tokens[0]" is 0.5; expected a token id',
    ],
    [
      chatSchema as never,
      { messages: [{ role: "user", content: "x", weight: -1 }] },
      '"messages[0].weight" is -1; expected a number from 0',
    ],
    [pairSchema as never, { prompt: "x", chosen: "a" }, '"rejected" is missing; expected a string'],
    [
      pairSchema as never,
      { chosen: "a", rejected: "b" },
      '"prompt" is missing; expected a string (or "messages", a list of messages)',
    ],
  ];
  for (const [schema, record, message] of others) {
    await t.rejects(readRecords(write("wrong.jsonl", toJsonLines([record])), schema), {
      message: `wrong.jsonl:1: ${message}`,
    });
  }
  t.same(await readRecords(write("right.jsonl", toJsonLines([sample])), sampleSchema), [sample]);
  t.same(await readRecords("right.jsonl", labelSchema), [sample], "labels may still be missing");
  t.same(await readRecords(write("ask.jsonl", '{"question":"a?"}'), promptSchema), [{ question: "a?" }]);
});

t.test("what a person reads when a file is wrong", async (t) => {
  const rejects = (name: string, data: string | Uint8Array, message: RegExp, code = "BAD_INPUT") =>
    t.rejects(readRecords(write(name, data), questionSchema), { code, message });
  const good = toJsonLines([sums]);
  await rejects(
    "broken.jsonl",
    `${good}{"question": "a?", "answer": ["x"\n`,
    /^broken\.jsonl:2: not valid JSON \(.*\); each line holds one JSON object$/,
  );
  await rejects("empty.jsonl", "\n \n", /^empty\.jsonl: holds no records$/);
  await rejects("empty.csv", "question,answer\n", /^empty\.csv: holds no records$/);
  await rejects("empty.json", "", /^empty\.json: holds no records$/);
  await rejects("one.json", "{}", /^one\.json: holds a single object; expected a list of records$/);
  await rejects(
    "list.json",
    '[{"question": 3, "answer": ["x"]}]',
    /^list\.json: record 1: "question" is 3; expected a string$/,
  );
  await rejects(
    "twice.jsonl",
    '{"id":3,"question":"a","answer":["b"]}\n{"id":"3","question":"c","answer":["d"]}',
    /^twice\.jsonl:2: "id" is "3", which twice\.jsonl:1 has already/,
  );
  await rejects(
    "latin.jsonl",
    Buffer.concat([Buffer.from(good), Buffer.from('{"question": "Rh\xf4ne?"}', "latin1")]),
    /^latin\.jsonl:2: not UTF-8/,
  );
  await rejects("cut.jsonl.gz", gzipSync(good.repeat(50)).subarray(0, 40), /^cut\.jsonl\.gz: cannot be decompressed/);
  await rejects("q.txt", good, /^q\.txt: its ending "\.txt" does not say what it holds; known are \.jsonl/);
  await rejects("ragged.csv", "question,answer\na,b\nc,d,e\n", /^ragged\.csv:3: not valid CSV/);
  await rejects("lines.csv", 'question,answer\n"a\nb?",x\nc?,\n', /^lines\.csv:4: "answer" is missing/);
  await rejects("list.csv", "question,answer\na?,[x\n", /^list\.csv:2: "answer" is not valid JSON.*\["one", "two"\]/);
  await rejects(
    "cut.parquet",
    readFileSync(join(golden, "questions.parquet")).subarray(0, 500),
    /^cut\.parquet: cannot be read as Parquet/,
  );
  await rejects(
    "cut.arrow",
    readFileSync(join(golden, "questions.arrow")).subarray(0, 100),
    /^cut\.arrow: (cannot be read as Arrow|holds no records)/,
  );
  await t.rejects(readRecords("nowhere.jsonl", questionSchema), {
    code: "NO_FILE",
    message: "nowhere.jsonl: there is no such file",
  });
  mkdirSync("folder.jsonl");
  await t.rejects(readRecords("folder.jsonl", questionSchema), {
    code: "NO_FILE",
    message: "folder.jsonl: is a folder, not a file",
  });
});

t.test("writing is whole or not at all", async (t) => {
  async function* some() {
    yield rhone;
    yield sums;
  }
  t.equal(await writeRecords("out.jsonl", some()), 2);
  t.same(await readRecords("out.jsonl", questionSchema), [rhone, sums]);
  await writeRecords("out.jsonl.gz", [sums]);
  t.equal(gunzipSync(readFileSync("out.jsonl.gz")).toString(), toJsonLines([sums]));
  async function* failing() {
    yield rhone;
    throw new Error("half way");
  }
  await t.rejects(writeRecords("out.jsonl", failing()), /half way/);
  t.equal((await readRecords("out.jsonl", questionSchema)).length, 2, "the old file is still there");
  t.notOk(readdirSync(".").some((name) => name.startsWith(".writing")));
  const many = Array.from({ length: 30_000 }, (_, i) => ({ ...sums, id: String(i) }));
  t.equal(await writeRecords("many.jsonl", many), 30_000);
  t.ok(isDeepStrictEqual(await readRecords("many.jsonl", questionSchema), many));
});
