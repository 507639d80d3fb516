/** Calibration-tuning's texts, sets, mixture, files and labels, beside what the published code makes of the same records. */
import { mkdirSync, readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import t from "tap";
import { NumpyRandomState } from "../src/data/random.js";
import type { Responder } from "../src/evaluation/judges/responder.js";
import {
  gradingJudge,
  gradingRequest,
  readGrade,
  strategyOf,
  substringJudge,
  substringLabel,
} from "../src/methods/calibration-tuning/labels.js";
import { evenShares, mixed, proportionalShares } from "../src/methods/calibration-tuning/mixture.js";
import { judged, readOffline, splitsOf, writeOffline } from "../src/methods/calibration-tuning/offline.js";
import { inventedRowsOf, rowsOf } from "../src/methods/calibration-tuning/rows.js";
import {
  mixtureNames,
  mmluProSet,
  mmluSet,
  type QuestionSet,
  questionSets,
  type SetName,
} from "../src/methods/calibration-tuning/sets.js";
import {
  type AnsweredRow,
  choiceTokens,
  choiceWords,
  queryText,
  type Style,
  sanitised,
  textOf,
  textTokens,
} from "../src/methods/calibration-tuning/wire.js";
import { Tokenizer } from "../src/text/tokenizer.js";
import { writeTinyModel } from "./fixtures/tiny-model.js";

const golden = JSON.parse(readFileSync(new URL("golden/calibration-tuning/sets.json", import.meta.url), "utf8"));
const none = new Set<never>();
const all = new Set(["A9-10", "A9-11", "A9-20"] as const);
const lines = (records: unknown[]) => records.map((record) => `${JSON.stringify(record)}\n`).join("");

/** A set's records in a file for every split that it has, and for its pool. */
function written(folder: string, set: QuestionSet, records: object[]): string {
  mkdirSync(folder, { recursive: true });
  const names = new Set([...Object.values(set.splits), set.pool]);
  for (const name of names) writeFileSync(join(folder, `${name}.jsonl`), lines(records));
  return folder;
}

t.test("the texts", async (t) => {
  const parts = { prompt: "P ", context: "Q?", targetPrompt: "\nAnswer:" };
  t.equal(textOf(parts), "P Q?\nAnswer:");
  t.equal(textOf(parts, "yes"), "P Q?\nAnswer: yes");
  t.equal(
    queryText(parts, "yes"),
    "P Q?\nAnswer: yes\n\nIs the proposed answer correct?\nChoices:\n(i): no\n(ii): yes\nAnswer:",
  );
  const cases: [string, string][] = [
    [" Carbon dioxide\n\nThe question is", "Carbon dioxide"],
    ["Sure:\nit is salt\nmore", "Sure:it is salt"],
    ["\n\n\n x \ny", "x "],
    ["\n\n", ""],
  ];
  for (const [raw, want] of cases) t.equal(sanitised(raw), want);
});

t.test("the two choices are tokens of their own, by SentencePiece and by byte-level BPE", async (t) => {
  const unknown = { id: 0, content: "<unk>", special: true };
  const plain = { single_word: false, lstrip: false, rstrip: false, normalized: false };
  const document = (vocab: Record<string, number>, merges: string[], more: object) => ({
    version: "1.0",
    added_tokens: [{ ...unknown, ...plain }],
    normalizer: null,
    post_processor: null,
    ...more,
    model: { type: "BPE", vocab, merges, unk_token: "<unk>" },
  });
  const made = async (name: string, file: object): Promise<Tokenizer> => {
    const folder = t.testdir({ [name]: {} });
    writeFileSync(join(folder, name, "tokenizer.json"), JSON.stringify(file));
    return Tokenizer.load(join(folder, name));
  };
  const marked = { type: "Metaspace", replacement: "\u2581", prepend_scheme: "always", split: true };
  const pieces = await made(
    "pieces",
    document({ "<unk>": 0, i: 1, "\u2581": 2, "\u2581i": 3, ii: 4, "\u2581ii": 5 }, ["\u2581 i", "\u2581i i"], {
      pre_tokenizer: marked,
      decoder: marked,
    }),
  );
  t.same(await choiceTokens(pieces), [3, 5], "with the mark of a word's beginning");
  const level = { type: "ByteLevel", add_prefix_space: false, trim_offsets: true, use_regex: true };
  const byteLevel = { pre_tokenizer: level, decoder: level };
  const bytes = await made(
    "bytes",
    document({ "<unk>": 0, i: 1, "\u0120": 2, "\u0120i": 3, ii: 4 }, ["\u0120 i", "i i"], byteLevel),
  );
  t.same(await choiceTokens(bytes), [1, 4], "without a space");
  const small = await made("small", document({ "<unk>": 0, i: 1 }, [], byteLevel));
  await t.rejects(choiceTokens(small), { code: "BAD_TOKENIZER", message: /"ii" is no token of its own.*choose/ });
  await t.rejects(choiceTokens(bytes, ["i", "i"]), { code: "BAD_TOKENIZER", message: /are one token/ });
  await t.rejects(choiceTokens(bytes, choiceWords.bool), { code: "BAD_TOKENIZER", message: /"no" is no token/ });

  const tiny = await Tokenizer.load(writeTinyModel(t.testdir()));
  t.same(Array.from(await textTokens({ tokenizer: tiny }, "red")).length, 1, "no token is put before it");
});

t.test("records of every set are put as published", async (t) => {
  for (const [name, { records, styles }] of Object.entries<{
    records: object[];
    styles: Record<Style, { rows: Record<string, unknown>[]; "prompt of row 1": string }>;
  }>(golden)) {
    const set: QuestionSet = name === "mmlu" ? mmluSet("high_school_US_history") : questionSets[name as SetName];
    const folder = written(join(t.testdir(), name), set, records);
    const split = (["train", "validation", "test"] as const).find((one) => set.splits[one])!;
    for (const [style, { rows, "prompt of row 1": prompt }] of Object.entries(styles) as [Style, never][]) {
      const options = { style, seed: 137, directive: "" };
      // Two of the sets' questions are followed by words of our own, too.
      const own = (text: string) => text.replace(/\nThe categories are .*$/m, "");
      const answered = name !== "mmlu" && name !== "gsm8k";
      const plain = (await rowsOf(set, folder, split, options))!;
      const found: Partial<AnsweredRow>[] = answered ? (await inventedRowsOf(set, folder, split, options))! : plain;
      (rows as Record<string, unknown>[]).forEach((row, i) => {
        const one = found[i]!;
        t.same(
          [own(one.context!), one.targetPrompt, one.target, one.output, one.label],
          [row.context, row.target_prompt, row.target, row.output, row.query_label],
          `${name}, ${style}, record ${i}`,
        );
      });
      const shot = (await rowsOf(set, folder, split, { ...options, kshot: 2 }))!;
      t.equal(own(own(shot[1]!.prompt)), prompt, `${name}, ${style}: examples`);
      t.same(plain[1]!.prompt === "", style === "choice" || !set.withoutExamples, "none without them");
    }
  }
});

t.test("what is not in a set, or not as it is published, is named", async (t) => {
  const set = questionSets.boolq;
  const folder = t.testdir({
    missing: { "train.jsonl": lines([{ question: "q", passage: "p" }]) },
    other: { "train.jsonl": lines([{ question: "q", answer: true }]) },
    arc: { "train.jsonl": lines([{ question: "q", choices: { text: ["a"], label: ["A"] }, answerKey: "C" }]) },
  });
  const options = { style: "oe", seed: 137 } as const;
  const at = (name: string) => join(folder, name);
  await t.rejects(rowsOf(set, at("missing"), "train", options), { message: /record 1: "answer" is not true or false/ });
  await t.rejects(rowsOf(set, at("other"), "train", options), { message: /record 1: "passage" is not a text/ });
  await t.rejects(rowsOf(questionSets.arc, at("arc"), "train", options), { message: /option 3 is to be right.*are 1/ });
  await t.rejects(rowsOf(set, at("nowhere"), "train", options), { code: "NO_FILE" });
  t.equal(await rowsOf(set, at("other"), "test", options), null, "its test split has no answers");
  const few = { ...options, kshot: 3 };
  await t.rejects(rowsOf(questionSets.arc, at("arc"), "train", few), { message: /3 examples.*has 1 records/ });
  await t.rejects(rowsOf(questionSets.gsm8k, at("arc"), "train", { ...options, style: "choice" }), {
    code: "BAD_OPTION",
  });
});

t.test("files by other names: a single split, Story Cloze's own columns, MMLU-Pro by category", async (t) => {
  const header = "InputStoryid,InputSentence1,InputSentence2,InputSentence3,InputSentence4,";
  const folder = t.testdir({
    "cloze.csv": `${header}RandomFifthSentenceQuiz1,RandomFifthSentenceQuiz2,AnswerRightEnding\nx,A.,B.,C.,D.,no,yes,2\n`,
    pro: {
      "test.jsonl": lines([
        { question: "q1", options: ["a", "b"], answer: "B", answer_index: 1, category: "law" },
        { question: "q2", options: ["a", "b"], answer: "A", answer_index: 0, category: "computer science" },
      ]),
    },
  });
  const options = { style: "choice", seed: 137 } as const;
  const story = await rowsOf(questionSets.story_cloze, join(folder, "cloze.csv"), "validation", options);
  t.match(story, [{ context: "Story:\nA. B. C. D.\n\nChoices:\n  (a): no\n  (b): yes", target: "b" }]);
  const pro = await rowsOf(mmluProSet("computer_science"), join(folder, "pro"), "test", options);
  t.match(pro, [{ context: /q2/, target: "a" }]);
});

t.test("the mixture takes as many of each set, and samples what it validates on", async (t) => {
  t.equal(mixtureNames("choice").length, 23);
  t.equal(mixtureNames("oe").length, 22);
  t.same(mixtureNames("oe").slice(0, 4), ["anli_r1", "anli_r2", "anli_r3", "arc"]);
  t.same(evenShares([5000, 250, 400], 3000), [1000, 250, 400]);
  t.same(proportionalShares([3, 3, 4], 5), [1, 1, 2]);
  t.same(proportionalShares([3, 3, 4], 50), [3, 3, 4]);
  const rows = (name: string, count: number) => Array.from({ length: count }, (_, i) => `${name}${i}`);
  const parts = [
    { train: rows("a", 9), validation: rows("A", 30) },
    { train: null, validation: rows("B", 10) },
    { train: rows("c", 2), validation: null },
  ];
  const options = { size: 8, validation: 4, seed: 137 };
  // python3 -c "import numpy as np; np.random.seed(137); print(np.random.choice(range(4), 4, replace=False))"
  const order = [0, 1, 3, 2];
  const published = mixed(parts, { ...options, compat: all });
  t.same(published, {
    train: ["a0", "a1", "a2", "a3", "c0", "c1"],
    validation: order.map((place) => `A${place}`),
  });
  const wide = new NumpyRandomState(137).choice(8, { size: 4, replace: false });
  const pooled = [...rows("A", 6), ...rows("B", 2)];
  t.same(
    mixed(parts, { ...options, compat: none }).validation,
    wide.map((place) => pooled[place]),
  );
  t.throws(() => mixed([{ train: null, validation: null }], { compat: none }), { code: "BAD_INPUT" });
});

const answered: AnsweredRow[] = [0, 1, null, 1, 0, 1].map((label, i) => ({
  prompt: "shots\n\n",
  context: `Question: "${i}", a\nb`,
  targetPrompt: "\nAnswer:",
  target: "x",
  output: `o${i}`,
  label: label as 0 | 1 | null,
}));

t.test("answers in files of six columns", async (t) => {
  const folder = t.testdir();
  writeOffline(folder, "train", "rows_10", answered.slice(3), { examples: true });
  writeOffline(folder, "train", "rows_2", answered.slice(0, 3), { examples: true });
  t.equal(
    readFileSync(join(folder, "train", "rows_2.csv"), "utf8").split("\n")[0],
    "context,prompt,target_prompt,target,output,query_label",
  );
  t.same(splitsOf(folder), ["train"]);
  t.same(await readOffline(folder, "train", { examples: true, compat: none }), answered);
  const without = await readOffline(folder, "train", { examples: false, compat: none });
  t.ok(without.every(({ prompt }) => prompt === ""));
  t.throws(() => judged(without, "there"), { message: /there: 1 of 6 rows are not judged/ });
  t.equal(judged(without.slice(0, 2), "there").length, 2);

  const half = await readOffline(folder, "train", { examples: false, ratio: 0.5, compat: none });
  t.equal(new Set(half.map(({ output }) => output)).size, 3, "nothing twice");
  // python3 -c "import numpy as np; print(np.random.default_rng(137).choice(range(6), 5))"
  const drawn = await readOffline(folder, "train", { examples: false, ratio: 5 / 6, compat: all });
  t.same(
    drawn.map(({ output }) => output),
    [2, 5, 1, 1, 5].map((i) => `o${i}`),
    "A9-10: some twice",
  );
  writeOffline(folder, "test", "0", answered, { examples: false });
  const ratio = { examples: false, ratio: 0.5 };
  t.equal((await readOffline(folder, "test", { ...ratio, compat: none })).length, 6);
  t.equal((await readOffline(folder, "test", { ...ratio, compat: all })).length, 3);
  await t.rejects(readOffline(folder, "validation", { examples: false, compat: none }), {
    message: /has no validation\/\*\.csv; its splits are train, test/,
  });
  await t.rejects(readOffline(folder, "train", { examples: false, ratio: 0.1, compat: none }), /less than one/);
  writeFileSync(join(folder, "test", "0.csv"), "context,target_prompt,target,output,query_label\na,b,c,d,2\n");
  await t.rejects(readOffline(folder, "test", { examples: false, compat: none }), {
    message: /row 1: query_label is "2"/,
  });
  writeFileSync(join(folder, "test", "0.csv"), "question,answer\na,b\n");
  await t.rejects(readOffline(folder, "test", { examples: false, compat: none }), { message: /has no column context/ });
});

t.test("labels: by letters, and by a judge", async (t) => {
  t.equal(substringLabel("Rhone", "The Rhone\nrhone"), 1);
  t.equal(substringLabel("rhone", "The Rhone\nrhone"), 0, "of the first line, as written");
  t.throws(() => substringLabel("", "x"), { code: "BAD_INPUT" });
  t.same(strategyOf("fuzzy_gpt-3.5-turbo_x"), { kind: "fuzzy", model: "gpt-3.5-turbo_x" });
  t.throws(() => strategyOf("guess"), { code: "BAD_OPTION" });

  const item = { ...answered[0]!, answer: "o0" };
  const asked = gradingRequest(item, none);
  t.match(asked, /Right answer: x\n\nStudent's answer: o0/);
  t.notMatch(asked, /shots/);
  t.match(gradingRequest(item, all), /Problem: shots/);
  t.match(gradingRequest({ ...item, other: "o9" }, none), /student A: o9\n\nAnswer of student B: o0/);
  const replies: [string, 0 | 1 | null, 0 | 1][] = [
    ["Yes.", 1, 1],
    ["**no**", 0, 0],
    ["Keep your eyes open", null, 1],
    ["Yesterday", null, 1],
    ["", null, 0],
  ];
  for (const [reply, own, published] of replies) {
    t.equal(readGrade(reply, none), own, reply);
    t.equal(readGrade(reply, all), published, reply);
  }
  const responder = {
    name: "fake",
    prompt: (request: string) => request,
    async *replies(requests: Iterable<string>) {
      for (const request of requests) yield { text: request.includes("o0") ? "yes" : "no" };
    },
  } as unknown as Responder;
  const verdicts = [];
  for await (const verdict of gradingJudge(responder, none).judge([item, { ...item, answer: "z" }]))
    verdicts.push(verdict.value);
  t.same(verdicts, [1, 0]);
  const letters = [];
  for await (const { value } of substringJudge().judge([
    { ...item, answer: "an x" },
    { ...item, other: "y", answer: "x" },
  ]))
    letters.push(value);
  t.same(letters, [1, 0]);
});
