/** Confidences that texts state: formats, failures, places in tokens; when a row is done and when it is tried again. */
import fc from "fast-check";
import t from "tap";
import {
  type ConfidenceFormatName,
  ConfidenceReader,
  confidenceFormats,
  labelledConfidence,
  withoutConfidence,
} from "../src/evaluation/stated.js";
import { nextTry, stopWhen } from "../src/rewards/retries.js";
import { spansOfTokens, tokensBetween } from "../src/text/spans.js";
import { Tokenizer } from "../src/text/tokenizer.js";

const value = (format: ConfidenceFormatName, text: string) => confidenceFormats[format].find(text)?.value ?? null;

t.test("CONQORD's wire format", async (t) => {
  const cases: [string, number | null, number | null][] = [
    ["Mercury.\n\n### Confidence: 0.9.", 0.9, 0.9],
    ["\n\n### Confidence: 1", 1, null],
    ["### Confidence: .85", 0.85, null],
    ["### Confidence: 0.85.", 0.85, 0.8],
    ["### Confidence: 90", 90, null],
    ["### Confidence: 1.", 1, null],
    ["### Confidence: 0.2.\n\n### Human: x\n\n### Confidence: 0.7.", 0.2, 0.2],
    ["Confidence: 0.9", null, null],
    ["### Confidence: high", null, null],
    ["", null, null],
  ];
  for (const [text, training, evaluation] of cases) {
    t.equal(value("conqord", text), training, text);
    t.equal(value("conqord-evaluation", text), evaluation, `${text}, as evaluated`);
  }
});

t.test("SaySelf's format, and as its authors parse it", async (t) => {
  const cases: [string, number | null, number | null][] = [
    ["Steps. Answer: Danube. Self-reflection: I am unsure. Confidence: 7", 0.7, 0.7],
    ["Answer: Danube. Self-reflection: I am sure. Confidence: 10", 1, 1],
    ["Answer: Danube. Self-reflection: I am sure. Confidence: 0.", 0, 0],
    ["Self-reflection: x Confidence: 7 of 10", 0.7, null],
    ["Self-reflection: x Confidence: 100", 10, 10],
    ["Self-reflection: x Confidence: high", null, null],
    ["Self-reflection: Confidence: 7", null, null],
    ["Answer: Danube. Confidence: 7", null, null],
    ["Answer: the Danube. Confidence: 7", null, 0.7],
    ["Self-reflection: x Confidence: 75.5", null, null],
    ["The year was 1804, I think", null, 180.4],
    ["Confidence: 7 Self-reflection: after it", null, null],
    ["Self-reflection: x Confidence: 7.5", null, null],
    ["7", null, null],
    ["", null, null],
  ];
  for (const [text, strict, published] of cases) {
    t.equal(value("sayself", text), strict, text);
    t.equal(value("sayself-published", text), published, `${text}, as published`);
  }
  t.equal(value("r-tuning", "Paris. I am unsure"), 0);
  t.equal(value("r-tuning", "Paris. I am sure"), 1);
  t.equal(value("r-tuning", "Paris."), null);
});

t.test("a label, a number and a unit or none", async (t) => {
  const cases: [string, number | null, number?, number?][] = [
    ["Confidence: 0.9", 0.9, 0.09, 0.009],
    ["I would say so. confidence is 80%", 0.8, 0.8, 0.8],
    ["**Confidence level:** 9/10", 0.9, 0.9, 0.9],
    ["Confidence = 9 out of 10.", 0.9, 0.9, 0.9],
    ["Confidence score: 35 per cent", 0.35, 0.35, 0.35],
    ["Confidence: 7", 7, 0.7, 0.07],
    ["Confidence: 0.3 no, confidence: .4", 0.4, 0.04, 0.004],
    ["Confidence: -0.5", null],
    ["Confidence: 1,5", null],
    ["Confidence: 1.2.3", null],
    ["Confidence: high", null],
    ["Confident: 0.7", null],
    ["0.7", null],
  ];
  const near = (got: number | null, expected: number | null) =>
    got === expected || (got !== null && expected !== null && Math.abs(got - expected) < 1e-12);
  for (const [text, one, ten = null, hundred = null] of cases) {
    for (const [scale, expected] of [
      [1, one],
      [10, ten],
      [100, hundred],
    ] as const) {
      const got = labelledConfidence({ scale }).find(text)?.value ?? null;
      t.ok(near(got, expected), `${text}, of ${scale}: ${got}, expected ${expected}`);
    }
  }
  const first = labelledConfidence({ label: "P(right)", which: "first" });
  t.equal(first.find("p(right): 0.2, p(right): 0.4")?.value, 0.2);
  t.throws(() => labelledConfidence({ scale: 0 }), { code: "USAGE" });
});

t.test("where it stands", async (t) => {
  const text = "Mercury.\n\n### Confidence: 0.9.\n";
  const stated = confidenceFormats.conqord.find(text)!;
  t.equal(text.slice(stated.start, stated.end), "0.9");
  t.equal(text.slice(stated.from, stated.to), "### Confidence: 0.9");
  t.equal(withoutConfidence(text, stated), "Mercury.\n\n.\n");
  const percent = confidenceFormats.labelled.find("Yes. Confidence: 80 % I think")!;
  t.equal("Yes. Confidence: 80 % I think".slice(percent.from, percent.to), "Confidence: 80 %");
  const published = confidenceFormats["sayself-published"].find("Self-reflection: x Confidence: 7")!;
  t.same([published.start, published.end, published.from], [31, 32, 19]);
});

t.test("of any text a number at its place, or nothing, in time that grows with the text alone", async (t) => {
  const words = [
    "Confidence: ",
    "### ",
    "Self-reflection: ",
    "unsure",
    "0.",
    "9",
    "10",
    "%",
    "/",
    " out of ",
    " ",
    "x",
    "\n",
  ];
  const texts = fc.oneof(
    fc.string(),
    fc.array(fc.constantFrom(...words), { maxLength: 30 }).map((all) => all.join("")),
  );
  for (const { name, find } of Object.values(confidenceFormats)) {
    const stands = (text: string) => {
      const stated = find(text);
      if (!stated) return true;
      const { value, start, end, from, to } = stated;
      const inside = 0 <= from && from <= start && start < end && end <= to && to <= text.length;
      return (
        inside && Number.isFinite(value) && (name === "r-tuning" || Number.isFinite(Number(text.slice(start, end))))
      );
    };
    t.equal(fc.check(fc.property(texts, stands), { numRuns: 500 }).failed, false, name);
    const started = performance.now();
    for (const part of ["Confidence: ", "confidence ", "Self-reflection: a", "Confidence:\t\t\t", "0.", "8/"])
      find(part.repeat(5000) + " ".repeat(20_000));
    t.ok(performance.now() - started < 5000, `${name}: ${Math.round(performance.now() - started)} ms`);
  }
});

t.test("what a reader does where there is none", async (t) => {
  const texts = ["Confidence: 0.5", "none", "Confidence: 3", "Confidence: 40%"];
  const drop = new ConfidenceReader("labelled", { onFailure: "drop" });
  t.same(texts.map(drop.read), [0.5, null, null, 0.4]);
  t.same(drop.counts, { texts: 4, failed: 2, clamped: 0 });
  const fixed = new ConfidenceReader("labelled", { onFailure: 0.25, clamp: true });
  t.same(texts.map(fixed.read), [0.5, 0.25, 1, 0.4]);
  t.same(fixed.counts, { texts: 4, failed: 1, clamped: 1 });
  const strict = new ConfidenceReader(confidenceFormats.conqord, { onFailure: "error" });
  t.throws(() => strict.read("Paris it is"), { code: "NO_CONFIDENCE", message: /conqord.*"Paris it is"/ });
  t.throws(() => new ConfidenceReader("labelled", { onFailure: 7 }), { code: "USAGE", message: /7 where/ });
  t.throws(() => new ConfidenceReader("conquord" as "conqord", { onFailure: 0 }), { message: /there are labelled/ });
});

t.test("which tokens hold it", async (t) => {
  const tokenizer = await Tokenizer.load(new URL("golden/text/tokenizer", import.meta.url).pathname);
  const text = "Größe 🦜 is it. ### Confidence: 0.9.";
  const ids = await tokenizer.encode(text);
  const spans = spansOfTokens(tokenizer, ids, tokenizer.decode(ids))!;
  t.same(spans, (await tokenizer.encodeAligned(text)).spans, "as it says of a text that is encoded");
  const { start, end } = confidenceFormats.conqord.find(text)!;
  const { from, to } = tokensBetween(spans, start, end);
  t.match(tokenizer.decode(ids.subarray(from, to)).trim(), /^0\.9\.?$/);
  t.equal(tokenizer.decode(ids.subarray(0, from)).trimEnd(), text.slice(0, start).trimEnd());
  t.same(tokensBetween(spans, 1000, 1001), { from: ids.length, to: ids.length }, "none");

  const special = tokenizer.eosIds[0]!;
  const ended = [...ids, special];
  const silent = spansOfTokens(tokenizer, ended, tokenizer.decode(ended, { skipSpecials: true }))!;
  t.same(Array.from(silent.slice(0, -2)), Array.from(spans), "a special token that is left out");
  t.same(Array.from(silent.slice(-2)), [text.length, text.length]);
  t.equal(spansOfTokens(tokenizer, ended, tokenizer.decode(ended))!.at(-1), tokenizer.decode(ended).length);
  t.equal(spansOfTokens(tokenizer, ids, "another text"), null);

  fc.assert(
    fc.property(fc.array(fc.integer({ min: 0, max: tokenizer.vocabularySize - 1 }), { maxLength: 30 }), (ids) => {
      const text = tokenizer.decode(ids);
      const spans = spansOfTokens(tokenizer, ids, text);
      if (!spans) return false;
      for (let i = 0; i < ids.length; i++) {
        if (spans[2 * i]! > spans[2 * i + 1]!) return false;
        if (i > 0 && spans[2 * i]! > spans[2 * i - 1]!) return false;
      }
      return ids.length === 0 || (spans[0] === 0 && spans.at(-1) === text.length);
    }),
  );
});

t.test("a row stops where nothing to come would change the match", async (t) => {
  const digits = stopWhen(/Confidence: \d+/);
  const decimal = stopWhen(/### Confidence: ([0-9]*\.?[0-9]+)/g);
  const bounded = stopWhen(/Confidence: (?:10|\d)/);
  const cases: [(text: string) => boolean, string, boolean][] = [
    [digits, "Self-reflection: none. Confidence:", false],
    [digits, "Confidence: 1", false],
    [digits, "Confidence: 10", false],
    [digits, "Confidence: 10.", true],
    [digits, "Confidence: 7\n", true],
    [digits, "Confidence: 7 and", true],
    [bounded, "Confidence: 1", false],
    [bounded, "Confidence: 10", true],
    [bounded, "Confidence: 7", true],
    [stopWhen(/Confidence: \d(?:\.\d)?/), "Confidence: 0", false],
    [decimal, "### Confidence: 0", false],
    [decimal, "### Confidence: 0.", false],
    [decimal, "### Confidence: 0.9", false],
    [decimal, "### Confidence: 0.9.", true],
    [decimal, "### Confidence: 1\n", true],
    [stopWhen(/Answer: \w+/), "Answer: Danu", false],
    [stopWhen(/Answer: \w+/), "Answer: Danube.", true],
  ];
  for (const [stops, text, expected] of cases) t.equal(stops(text), expected, JSON.stringify(text));
  t.equal(decimal("### Confidence: 0.9."), true, "asked again it says the same");
  t.equal(stopWhen(/x(?:!)?/)("x"), true);
  t.equal(stopWhen(/x(?:!)?/, { probes: ["!"] })("x"), false, "a pattern that grows by something else");
});

t.test("a completion that is not complete is tried again, then given a cue", async (t) => {
  const settings = { complete: /Confidence: \d/g, cue: ". Confidence:", retries: 2 };
  t.same(nextTry("It is. Confidence: 7", 0, settings), { kind: "done", complete: true });
  t.same(nextTry("It is. Confidence: 7", 0, settings), { kind: "done", complete: true }, "asked again");
  t.same(nextTry("It is", 0, settings), { kind: "continue", text: "It is", forced: false });
  t.same(nextTry("It is", 1, settings), { kind: "continue", text: "It is", forced: false });
  t.same(nextTry("It is", 2, settings), { kind: "continue", text: "It is. Confidence:", forced: true });
  t.same(nextTry("It is. Confidence: x", 3, settings), { kind: "done", complete: false });
  t.same(nextTry("It is", 3, { complete: settings.complete }), { kind: "done", complete: false }, "no cue");
  t.same(nextTry("It is", 0, { complete: settings.complete, retries: 0 }), { kind: "done", complete: false });
  t.throws(() => nextTry("", 0, { ...settings, retries: -1 }), { code: "USAGE" });
});
