/** CONQORD's data: which records a path names, which rows a phase learns from, and sets built from judged answers. */
import { readFileSync } from "node:fs";
import { join } from "node:path";
import t from "tap";
import { z } from "zod";
import { NumpyRandomState, shuffle } from "../src/data/random.js";
import { readSplit, splitFiles } from "../src/data/saved-sets.js";
import { npyBytes } from "../src/data/vectors.js";
import { formatRows, learntText, type PhaseData, phaseTexts, preApproachPairs } from "../src/methods/conqord/data.js";
import { sourceOf } from "../src/methods/conqord/sources.js";
import { boundaries, dealt, indexPath, parseShares, writeIndices } from "../src/methods/conqord/splits.js";
import { dialoguePrefix } from "../src/methods/conqord/wire.js";

const half = new URL("golden/conqord/Anthropic/hh-rlhf/helpful-base_conf_half", import.meta.url).pathname;
const upTo = (count: number) => Array.from({ length: count }, (_, i) => i);

t.test("NumPy's older generator shuffles as it does there", async (t) => {
  // python3 -c "import numpy as np; a = np.arange(20); np.random.RandomState(1234).shuffle(a); print(a)"
  const order = [3, 13, 2, 16, 14, 5, 4, 0, 8, 18, 17, 11, 10, 9, 7, 1, 19, 12, 6, 15];
  t.same(shuffle(upTo(20), new NumpyRandomState(1234)), order);
  const many = shuffle(upTo(1000), new NumpyRandomState(7));
  t.same(many.slice(0, 8), [778, 334, 271, 802, 216, 408, 812, 94]);
  t.equal(
    many.reduce((sum, value, i) => sum + value * i, 0),
    246202311,
  );
  for (const seed of [-1, 0.5, 2 ** 32]) t.throws(() => new NumpyRandomState(seed), RangeError);
});

t.test("shares are cut where the published code cuts them", async (t) => {
  const cases: [string, number, number[]][] = [
    ["2,4,4", 17, [0, 3, 10, 17]],
    ["2,4,4", 103, [0, 21, 62, 103]],
    ["10,0,0", 9, [0, 9, 9, 9]],
    ["1,1,1", 2, [0, 0, 1, 2]],
    ["1,1,1", 4, [0, 2, 3, 4]],
    ["9,1", 15, [0, 13, 15]],
    ["0,1,1", 3, [0, 0, 1, 3]], // there -1, 1, 3
  ];
  for (const [shares, count, want] of cases)
    t.same(boundaries(parseShares(shares), count), want, `${shares} of ${count}`);
  const parts = dealt([2, 4, 4], 20, 1234);
  t.same(parts[0], [3, 13, 2, 16]);
  t.same(
    parts.flat().toSorted((a, b) => a - b),
    upTo(20),
  );
  for (const wrong of ["", "1,,2", "a", "-1,2", "0,0"]) t.throws(() => parseShares(wrong), { code: "USAGE" }, wrong);
});

t.test("files of rows are NumPy's, byte for byte", async (t) => {
  const want = Buffer.concat([
    Buffer.from("\x93NUMPY\x01\x00v\x00{'descr': '<u4', 'fortran_order': False, 'shape': (5,), }", "latin1"),
    Buffer.from(`${" ".repeat(60)}\n`),
    Buffer.from(Uint32Array.of(0, 1, 2, 3, 4).buffer),
  ]);
  t.ok(want.equals(npyBytes(upTo(5))));
  const folder = t.testdir({});
  const dealing = { name: "mkqa", seed: 1234, use: "train", shares: "2,4,4" } as const;
  writeIndices(folder, dealing, 20);
  t.equal(indexPath("d", dealing, 2), join("d", "mkqa_seed1234_train_2,4,4_2.npy"));
  t.ok(Buffer.from(npyBytes([3, 13, 2, 16])).equals(readFileSync(indexPath(folder, dealing, 0))));
});

t.test("what a path names, and what is made of its records", async (t) => {
  t.equal(sourceOf("../datasets/Dahoas/rm-static_conf_both/").name, "Dahoas/rm-static");
  t.equal(sourceOf("x/Anthropic/hh-rlhf/helpful-base_conf_half_sharp").name, "Anthropic/hh-rlhf/helpful-base_conf");
  t.equal(sourceOf("x/Anthropic/hh-rlhf/helpful-base").name, "Anthropic/hh-rlhf/helpful-base");
  t.equal(sourceOf("anything", "local/jsonfile").clean, "jsonfile");
  t.throws(() => sourceOf("datasets/conqord_step1_data"), { code: "USAGE", message: /nothing in the path.*rm-static/ });
  t.throws(() => sourceOf("x", "nothing"), { code: "USAGE" });

  const plain = dialoguePrefix({ confidences: false });
  const turn = "\n\n### Human: q\n\n### Assistant:";
  const texts = (path: string, record: object) => Object.values(sourceOf(path).texts(record as never, "here"));
  const answers = { prompt: "q", chosen: "a", rejected: "b" };
  const human = (...answers: (string | null)[]) => [
    " Human: q Assistant:",
    ...answers.map((one) => (one === null ? null : ` Human: q Assistant: ${one}`)),
  ];
  for (const [path, record, want] of [
    ["Dahoas/rm-static", answers, ["q", "qa", "qb"]],
    ["Dahoas/full-hh-rlhf", answers, ["q", "qa", "qb"]],
    [
      "Anthropic/hh-rlhf/helpful-base",
      { prompt: turn, chosen: `${turn} a`, rejected: `${turn} b` },
      [plain + turn, `${plain}${turn} a`, `${plain}${turn} b`],
    ],
    ["Dahoas/synthetic-instruct-gptj-pairwise", answers, human("a", "b")],
    ["yitingxie/rlhf-reward-datasets", answers, ["qAssistant:", "qa", "qb"]],
    [
      "openai/webgpt_comparisons",
      { question: { full_text: "q" }, answer_0: "b [1].", answer_1: "a (x) [2, 3].", score_0: -1, score_1: 1 },
      human("a.", "b."),
    ],
    ["stanfordnlp/SHP", { history: "q", labels: 0, human_ref_A: "b", human_ref_B: "a" }, human("a", "b")],
    [
      "pvduy/sharegpt_alpaca_oa_vicuna_format",
      { prompt: "USER: q ASSISTANT:", label: "a" },
      ["Human: q Assistant:", "Human: q Assistant: a", null],
    ],
    ["wangrui6/Zhihu-KOL", { INSTRUCTION: "q", RESPONSE: "a" }, human("a", null)],
    [
      "Cohere/miracl-zh-queries-22-12",
      { query: "q", positive_passages: [{ text: "a" }], negative_passages: [{ text: "b" }] },
      human("a", "b"),
    ],
    ["mkqa-Japanese", { queries: { ja: "q" }, answers: { ja: [{ text: "a" }] } }, human("a", null)],
    ["lmqg/qag_jaquad", { questions: ["q", "r"], paragraph: "a" }, human("a", null)],
    ["local/jsonfile", { prompt: "q", chosen: "a", rejected: null }, [" q", " q a", null]],
  ] as [string, object, unknown[]][])
    t.same(texts(path, record), want, path);
  t.throws(() => texts("Anthropic/hh-rlhf/helpful-base", { prompt: "Human: q", chosen: "c" }), {
    code: "BAD_INPUT",
    message: /here: "prompt" does not begin with/,
  });
  t.throws(() => texts("mkqa-Chinese", { queries: {} }), { message: /here: "queries\.zh_cn" is no text/ });
});

const phase = (path: string, more: Partial<PhaseData> = {}) =>
  phaseTexts({ paths: [path], phase: 1, part: "train", shares: "10,0,0", seed: 1234, ...more });

t.test("an Arrow folder as datasets saves it: splits, shards, prefix, order", async (t) => {
  t.same(splitFiles(half, "validation"), null);
  const rows = await readSplit(half, "train", z.looseObject({ prompt: z.string() }));
  t.equal(rows.length, 5);
  t.match(rows[0]!.prompt, "Which river runs through Geneva?");
  const texts = await phase(half);
  const order = shuffle(upTo(5), new NumpyRandomState(1234));
  const prefix = dialoguePrefix({ confidences: true });
  t.same(
    texts.map(({ prompt }) => prompt),
    order.map((row) => prefix + rows[row]!.prompt),
  );
  t.match(texts[order.indexOf(0)]!.chosen, /Rhône\.\n\n### Confidence: 0\.9\.$/);
  t.equal((await phase(half, { part: "eval" })).length, 1);
  const learnt = learntText(texts[0]!, "<|endoftext|>");
  t.match(learnt.text.slice(learnt.from), /^ .*\.\n\n### Confidence: 0\.9\.<\|endoftext\|>$/s);
  t.throws(() => learntText({ prompt: "a", chosen: "b", rejected: null }, ""), { code: "BAD_INPUT" });
  const [first, third] = [await phase(half, { shares: "2,4,4" }), await phase(half, { shares: "2,4,4", phase: 3 })];
  t.equal(first.length + third.length, 3);
});

t.test("several sets are joined and shuffled again; further ones are of phase 1 alone", async (t) => {
  const folder = t.testdir({
    Dahoas: { "rm-static": { "train.jsonl": '{"prompt":"q","chosen":"a","rejected":"b"}\n' } },
  });
  const other = join(folder, "Dahoas", "rm-static");
  const joined = await phase(half, { sftOnly: [other] });
  t.equal(joined.length, 6);
  t.not(joined.at(-1)!.prompt, "q", "shuffled");
  t.equal((await phase(half, { sftOnly: [other], phase: 2, shares: "0,10,0" })).length, 5);
});

t.test("a set without a split of its own to evaluate on holds out a tenth", async (t) => {
  const rows = upTo(20).map((i) => ({ prompt: `q${i}`, chosen: "a", rejected: "b" }));
  const folder = t.testdir({ data: { "train.json": JSON.stringify(rows) } });
  const kind = "Dahoas/synthetic-instruct-gptj-pairwise";
  const train = await phase(folder, { kind });
  const held = await phase(folder, { kind, part: "eval" });
  t.same([train.length, held.length], [18, 2]);
  t.equal(new Set([...train, ...held].map(({ prompt }) => prompt)).size, 20);
});

t.test("what cannot be learnt from is refused, with how much of it there is", async (t) => {
  const folder = t.testdir({
    equal: {
      "train.jsonl": '{"prompt":"p","chosen":"a","rejected":"a"}\n{"prompt":"p","chosen":"a","rejected":"b"}\n',
    },
    "one-sided": { "train.jsonl": '{"prompt":"p","chosen":"a"}\n' },
    broken: { "dataset_dict.json": "{}" },
    old: { "state.json": '{"_data_files":[],"_indices_data_files":[{"filename":"i.arrow"}]}' },
  });
  const kind = "Dahoas/rm-static";
  const equal = join(folder, "equal");
  await t.rejects(phase(equal, { kind, phase: 2, shares: "0,1,0" }), {
    code: "BAD_INPUT",
    message: /1 of 2 records have equal sides.*record 1 the first/,
  });
  t.equal((await phase(equal, { kind })).length, 2, "phase 1 learns from one side alone");
  await t.rejects(phase(half, { shares: "0,10,0" }), { message: /leave phase 1 none of the 5 records/ });
  await t.rejects(phase(half, { shares: "1,1", phase: 3 }), { code: "USAGE" });
  await t.rejects(phase("no/such/Dahoas/rm-static"), { code: "NO_FILE", message: /nothing is downloaded/ });
  await t.rejects(phase(equal, { kind, part: "eval" }), { message: /has no split test/ });
  await t.rejects(phase(join(folder, "one-sided"), { kind: "local/jsonfile", phase: 2, shares: "0,1,0" }), {
    message: /no rejected answer/,
  });
  t.throws(() => splitFiles(join(folder, "broken"), "train"), {
    code: "BAD_INPUT",
    message: /not what save_to_disk writes/,
  });
  t.throws(() => splitFiles(join(folder, "old"), "train"), { message: /flatten_indices/ });
});

t.test("PreApproach: the same answer with both confidences, good ones first", async (t) => {
  const pairs = preApproachPairs([1, 2, 3].map((i) => ({ prompt: `q${i}:`, chosen: " good", rejected: " bad" })));
  t.same(pairs, [
    { prompt: "q1:", chosen: "q1: good\n\n### Confidence: 0.9.", rejected: "q1: good\n\n### Confidence: 0.1." },
    { prompt: "q2:", chosen: "q2: good\n\n### Confidence: 0.9.", rejected: "q2: good\n\n### Confidence: 0.1." },
    { prompt: "q3:", chosen: "q3: bad\n\n### Confidence: 0.1.", rejected: "q3: bad\n\n### Confidence: 0.9." },
  ]);
  t.throws(() => preApproachPairs([], { high: 0.1, low: 0.9 }), { code: "USAGE" });
});

t.test("the format is taught with confidences drawn by the seed, in tenths", async (t) => {
  const rows = upTo(200).map((i) => ({ prompt: `q${i}:`, answer: " a" }));
  const made = formatRows(rows, 3);
  t.same(made, formatRows(rows, 3));
  const drawn = new Set(made.map(({ chosen }) => /### Confidence: (.*)\.$/.exec(chosen)![1]));
  t.same([...drawn].sort(), ["0.0", "0.1", "0.2", "0.3", "0.4", "0.5", "0.6", "0.7", "0.8", "0.9", "1.0"]);
});
