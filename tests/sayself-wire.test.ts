/** SaySelf's text: prompts to the byte, responses written and read back, when a row stops, and what is reinforced. */
import { existsSync, readFileSync } from "node:fs";
import t from "tap";
import { labelledRow } from "../src/methods/conqord/wire.js";
import { isRight, isRightAsPublished, negativesOf } from "../src/methods/sayself/correctness.js";
import { directPrompt, learntResponse, questionPrompt } from "../src/methods/sayself/prompts.js";
import { confidenceMask, partsOf, responseText, statedInFull } from "../src/methods/sayself/wire.js";
import { nextTry } from "../src/rewards/retries.js";
import { Tokenizer } from "../src/text/tokenizer.js";

const tokenizer = () => Tokenizer.load(new URL("golden/text/tokenizer", import.meta.url).pathname);

t.test("a question is wrapped to the byte, otherwise at every place", async (t) => {
  const question = " Which river crosses Vienna?\n";
  for (const [place, expected] of [
    ["training", "[INST]\nWhich river crosses Vienna?[/INST]"],
    ["rollout", "[INST]\nWhich river crosses Vienna?[/INST]\n\n"],
    ["pair", "[INST]Which river crosses Vienna?[/INST]\n"],
    ["messages", "[INST]\nWhich river crosses Vienna?[/INST]\n"],
    ["columns", "[INST]\nWhich river crosses Vienna?\n[/INST]\n"],
  ] as const)
    t.equal(questionPrompt(question, place), expected, place);
  const direct = directPrompt(question, "messages");
  t.match(direct, /^\[INST\]\n\S[^\n]*\S {12}\S[^\n]*\nWhich river crosses Vienna\?\n\[\/INST\]\n$/);
  t.match(directPrompt(question, "pair"), "\n[INST]Which river crosses Vienna?[/INST]\n\n[/INST]\n");
});

t.test("the first stage learns the response, the line break before it and its end", async (t) => {
  const { text, from } = learntResponse("Which river?", " Answer: Danube. ");
  t.equal(text, "[INST]\nWhich river?[/INST]\nAnswer: Danube.</s>");
  t.equal(text.slice(from), "\nAnswer: Danube.</s>");
  const { ids, weights } = await labelledRow(await tokenizer(), { text, from }, "answer");
  t.equal(ids.length, weights.length);
  t.equal(weights[0], 0);
  t.equal(weights.at(-1), 1);
});

t.test("a response is written on one line and read back", async (t) => {
  const parts = {
    reasoning: "Vienna lies\non the Danube.",
    answer: "Danube.",
    rationale: "I am unsure whether she was born in Vienna or Graz.",
    confidence: 7,
  };
  const text = responseText(parts);
  t.equal(
    text,
    "Vienna lies on the Danube. Answer: Danube. Self-reflection: I am unsure whether she was born in Vienna or Graz. Confidence: 7",
  );
  t.same(partsOf(text), { answer: "Danube", rationale: parts.rationale });
  t.equal(responseText({ answer: "Danube" }), "Answer: Danube.");
  t.equal(responseText({ answer: "Danube", confidence: 10 }), "Answer: Danube. Confidence: 10");
  for (const confidence of [-1, 11, 7.5, Number.NaN])
    t.throws(() => responseText({ answer: "Danube", confidence }), { code: "BAD_INPUT" });
  t.throws(() => responseText({ answer: " . " }), { code: "BAD_INPUT" });
  t.throws(() => responseText({ answer: "x", rationale: "Confidence: 3" }), { code: "BAD_INPUT" });
});

t.test("parts of a text that a model wrote", async (t) => {
  for (const [text, answer, rationale] of [
    ["Steps. Answer: Rhine. No. Answer: Danube. Self-reflection: x Confidence: 7", "Danube", "x"],
    ["Answer: Danube. Confidence: 7", "Danube", null],
    ["Answer: Danube", "Danube", null],
    ["Answer: . Self-reflection: Confidence: 7", null, null],
    ["Self-reflection: x Answer: Danube", null, "x Answer: Danube"],
    ["", null, null],
  ] as const)
    t.same(partsOf(text), { answer, rationale }, text);
});

t.test("a row stops at a confidence that is complete, and 10 is not cut to 1", async (t) => {
  const written = "Answer: Danube. Self-reflection: I know it. Confidence: ";
  const stopsAt = (text: string): string => {
    for (let end = 1; end <= text.length; end++)
      if (statedInFull(text.slice(0, end))) return text.slice(written.length, end);
    return "never";
  };
  t.equal(stopsAt(`${written}10 and more`), "10 ");
  t.equal(stopsAt(`${written}7 and more`), "7 ");
  t.equal(stopsAt(`${written}1 and more`), "1 ");
  t.equal(stopsAt(`${written}7.\n`), "7.\n");
  t.equal(stopsAt(`${written}7.5 of 10`), "7.5 ", "no confidence, and not cut to one");
  t.equal(stopsAt("I am sure. Confidence: 7, she said."), "never");
  t.equal(nextTry("Answer: Danube.", 3, { complete: /Confidence: \d/, cue: ". Confidence:" }).kind, "continue");
});

t.test("reinforced are the tokens behind the label alone", async (t) => {
  const tokens = await tokenizer();
  for (const number of ["7", "10"]) {
    const text = `Confidence: 3 is no part. Answer: Danube. Self-reflection: I know it. Confidence: ${number}`;
    const { ids } = await tokens.encodeAligned(text);
    const mask = confidenceMask(tokens, ids, text)!;
    const first = mask.indexOf(1);
    t.same([...mask.subarray(first)], Array(ids.length - first).fill(1));
    t.equal(tokens.decode(ids.slice(first)).trim(), number);
    t.match(tokens.decode(ids.slice(0, first)), /I know it\. Confidence:$/);
    const end = Int32Array.from([...ids, 2]);
    const whole = confidenceMask(tokens, end, tokens.decode(end))!;
    t.equal(whole.at(-1), 1, "the end is reinforced too");
    t.equal(whole.indexOf(1), first);
  }
  const { ids } = await tokens.encodeAligned("Answer: Danube.");
  t.equal(confidenceMask(tokens, ids, "Answer: Danube."), null);
});

t.test("a right label in the question does not make the response right", async (t) => {
  const question = 'Is it true? If it is true, reply "true". If it is false, reply "false".';
  const fever = { answers: ["true"], negatives: negativesOf("false/unknown") };
  const restated = `${question} Answer: false. Self-reflection: x Confidence: 9`;
  t.equal(isRight(restated, fever), false);
  t.equal(isRightAsPublished(restated, "True "), true, "as published it does");
  for (const [answer, right] of [
    ["true", true],
    ["It is True", true],
    ["true or false", false],
    ["not true", false],
    ["unknown", false],
  ] as const) {
    const response = responseText({ answer, rationale: "x", confidence: 5 });
    t.equal(isRight(response, fever), right, answer);
  }
  t.equal(isRight("Answer: true or false.", { answers: ["True"] }), false, "labels know their opposites");
  t.equal(isRight("It is true.", fever), false, "without the label it is wrong");
  t.same(negativesOf(" "), []);
});

const shared = new URL("../../shared/data/qa/", import.meta.url);
const sets = ["sayself_fever_data.json", "sayself_strategyqa.json"].map((name) => new URL(name, shared));
t.test(
  "the published sets, every answer wrong",
  { skip: !sets.every((set) => existsSync(set)) && "sets absent" },
  async (t) => {
    for (const set of sets) {
      const rows = JSON.parse(readFileSync(set, "utf8")) as Record<"question" | "answer" | "negative_answer", string>[];
      const counts = { fell: 0, right: 0, published: 0 };
      for (const { question, answer, negative_answer } of rows) {
        const gold = { answers: [answer], negatives: negativesOf(negative_answer) };
        const wrong = answer.toLowerCase() === "true" ? "false" : "true";
        const said = (short: string) => `${question} ${responseText({ answer: short, rationale: "x", confidence: 5 })}`;
        if (isRight(said(wrong), gold)) counts.fell += 1;
        if (isRight(said(answer), gold)) counts.right += 1;
        if (isRightAsPublished(said(wrong), answer)) counts.published += 1;
      }
      t.same(counts, { fell: 0, right: rows.length, published: rows.length }, set.pathname.split("/").at(-1)!);
    }
  },
);
