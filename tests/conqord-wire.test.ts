/** CONQORD's text: written, read back, cut for a reward model, and marked for learning. */
import t from "tap";
import { type ConqordCompat, conqordRows } from "../src/methods/conqord/compat.js";
import {
  confidenceLine,
  confidenceReading,
  confidenceTokens,
  dialoguePrefix,
  dialogueText,
  fieldsOf,
  labelledRow,
  publishedEnd,
  runOn,
  scoredText,
} from "../src/methods/conqord/wire.js";
import { Tokenizer } from "../src/text/tokenizer.js";

const none: ConqordCompat = new Set();
const asPublished = (...rows: `A9-${number}`[]): ConqordCompat => new Set(rows);
const tokenizer = () => Tokenizer.load(new URL("golden/text/tokenizer", import.meta.url).pathname);

t.test("CONQORD's rows are the specification's 18, in order", async (t) => {
  t.same(
    conqordRows.map(({ id }) => id),
    Array.from({ length: 18 }, (_, i) => `A9-${i + 1}`),
  );
});

t.test("a confidence has a decimal and ends in a full stop, and is read back", async (t) => {
  const { read } = confidenceReading("evaluation", { compat: none, onFailure: "error" });
  for (const [value, text] of [
    [0.9, "0.9."],
    [1, "1.0."],
    [0, "0.0."],
    [0.85, "0.85."],
  ] as const) {
    t.equal(confidenceLine(value), `\n\n### Confidence: ${text}`);
    t.equal(read(`Mercury.${confidenceLine(value)}`), value);
  }
  for (const value of [-0.1, 1.01, Number.NaN]) t.throws(() => confidenceLine(value), { code: "BAD_INPUT" });
});

t.test("dialogues as they are published: separators, and prefixes with confidences and without", async (t) => {
  const turns = [{ human: "Which metal is liquid?", assistant: "Mercury.", confidence: 0.9 }];
  t.equal(
    dialogueText(turns),
    "\n\n### Human: Which metal is liquid?\n\n### Assistant: Mercury.\n\n### Confidence: 0.9.",
  );
  t.equal(
    dialogueText(turns, { confidences: false }),
    "\n\n### Human: Which metal is liquid?\n\n### Assistant: Mercury.",
  );
  const stating = dialoguePrefix({ confidences: true });
  t.match(stating, /^Please provide the Assistant's answer and the Confidence \(0\.0 to 1\.0\)/);
  const { lead, fields } = fieldsOf(stating);
  t.notMatch(lead, "###");
  t.same(
    fields.map(({ name }) => name),
    [1, 2, 3].flatMap(() => ["Human", "Assistant", "Confidence"]),
  );
  t.same(
    fields.filter(({ name }) => name === "Confidence").map(({ value }) => value),
    ["0.9.", "0.9.", "0.1."],
  );
  const plain = dialoguePrefix({ confidences: false });
  t.notMatch(plain, "Confidence");
  t.equal(fieldsOf(plain).fields.length, 6);
});

t.test("parts of a text", async (t) => {
  const text = "\n\n ### Answer: Jupiter.\n### Steps:\none\n\n### Confidence: 0.9.\n\n### Question: Next?";
  const { lead, fields } = fieldsOf(text);
  t.equal(lead, "");
  t.same(
    fields.map(({ name, value }) => [name, value]),
    [
      ["Answer", "Jupiter.\n### Steps:\none"],
      ["Confidence", "0.9."],
      ["Question", "Next?"],
    ],
  );
  t.equal(fields.map(({ from, to }) => text.slice(from, to)).join(""), text);
  t.equal(text.slice(runOn(text)), "\n\n### Question: Next?");
  t.equal(runOn("no heading"), 10);
  t.same(fieldsOf(" Mercury. ### Human: is text"), { lead: "Mercury. ### Human: is text", fields: [] });
});

t.test("reading a confidence: one parser with a policy, or A9-6 as published", async (t) => {
  const texts: [string, number | null, number, number][] = [
    // here, published in training, published in evaluation
    ["x\n\n### Confidence: 0.9.", 0.9, 0.9, 0.9],
    ["x\n\n### Confidence: 1", 1, 1, 0],
    ["x\n\n### Confidence: .85", 0.85, 0.85, 0],
    ["x\n\n### Confidence: 0.85.", 0.85, 0.85, 0.8],
    ["x\n\n### Confidence: 90", 1, 90, 0],
    ["x\n\n### Confidence: high", null, 1, 0],
    ["", null, 1, 0],
  ];
  const here = confidenceReading("training", { compat: none, onFailure: "drop" });
  const training = confidenceReading("training", { compat: asPublished("A9-6"), onFailure: "drop" });
  const evaluation = confidenceReading("evaluation", { compat: asPublished("A9-6"), onFailure: "drop" });
  for (const [text, corrected, trained, evaluated] of texts) {
    t.equal(here.read(text), corrected, text);
    t.equal(training.read(text), trained, `${text}, published in training`);
    t.equal(evaluation.read(text), evaluated, `${text}, published in evaluation`);
  }
  t.same(here.counts, { texts: 7, failed: 2, clamped: 1 });
  t.same(training.counts, { texts: 7, failed: 2, clamped: 0 });
  t.same(evaluation.counts, { texts: 7, failed: 5, clamped: 0 });
  t.equal(confidenceReading("training", { compat: none, onFailure: 0.25 }).read("none"), 0.25);
  t.throws(() => confidenceReading("training", { compat: none, onFailure: "error" }).read("none"), {
    code: "NO_CONFIDENCE",
  });
  const top = "### Answer-1: A\n\n### Confidence-1: 0.7.\n\n### Answer-2: B\n\n### Confidence-2: 0.2.";
  const several = confidenceReading("evaluation", { compat: none, onFailure: "error", asked: "top-k" });
  t.equal(several.read(top), 0.7);
});

t.test("A9-5: a reward model reads the answer alone, or also confidences and invented turns", async (t) => {
  const written =
    "Mercury.\n\n### Confidence: 0.9.\n\n### Human: And gold?\n\n### Assistant: No.\n\n### Confidence: 0.2.";
  t.equal(scoredText(written, none), "Mercury.");
  t.equal(scoredText(written, asPublished("A9-5")), written);
  t.equal(scoredText("Mercury.\n\n### Confidence: high", none), "Mercury.", "one that cannot be read is cut as well");
  t.equal(scoredText("Mercury, 0.9.", none), "Mercury, 0.9.");
  const after = "A\n\n### Confidence: 0.9.\n\n### Answer: B";
  t.equal(scoredText(after, none), "A\n\n### Answer: B");
});

t.test("the tokens of a confidence", async (t) => {
  const tokens = await tokenizer();
  const text = "Mercury.\n\n### Confidence: 0.9.";
  const ids = await tokens.encode(text);
  const found = confidenceTokens(tokens, ids, tokens.decode(ids))!;
  t.equal(found.stated.value, 0.9);
  t.equal(tokens.decode(ids.subarray(found.number.from, found.number.to)).trim(), "0.9");
  t.match(tokens.decode(ids.subarray(found.line.from, found.line.to)), /### Confidence: 0\.9/);
  t.notMatch(tokens.decode(ids.subarray(found.line.from, found.line.to)), "Mercury");
  t.equal(confidenceTokens(tokens, await tokens.encode("Mercury."), "Mercury."), null);
});

t.test("labels: the answer alone, or everything with its padding as published", async (t) => {
  const tokens = await tokenizer();
  const prompt = "\n\n### Human: Which metal?\n\n### Assistant:";
  const answer = ` Mercury.${confidenceLine(0.9)}`;
  const learnt = { text: prompt + answer + publishedEnd, from: prompt.length };
  const { ids, weights } = await labelledRow(tokens, learnt, "answer");
  t.equal(tokens.decode(ids.filter((_, i) => weights[i] === 1)), answer + publishedEnd);
  t.equal(tokens.decode(ids.filter((_, i) => weights[i] === 0)), prompt);
  const padded = await labelledRow(tokens, learnt, { padded: { length: ids.length + 3, pad: 7 } });
  t.same([...padded.ids], [...ids, 7, 7, 7]);
  t.same(
    [...padded.weights],
    [0, ...Array.from({ length: ids.length + 2 }, () => 1)],
    "all but the first, PAD included",
  );
  const cut = await labelledRow(tokens, learnt, { padded: { length: 5, pad: 7 } });
  t.same([...cut.ids], [...ids.subarray(0, 5)]);
});
