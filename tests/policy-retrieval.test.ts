/** A policy that looks up what it is not sure of, and confidences that are read from an answer's text. */
import { join } from "node:path";
import t from "tap";
import { ConfidenceReader } from "../src/evaluation/stated.js";
import type { Card } from "../src/model/card.js";
import { Model } from "../src/policy/model.js";
import { fakeEngine } from "./fixtures/fake-native.js";
import { writeTinyModel } from "./fixtures/tiny-model.js";

t.test("a policy looks up what it is not sure of", async (t) => {
  const path = writeTinyModel(join(t.testdir(), "model"));
  await using model = await Model.load(path, { engine: fakeEngine() });
  const policy = await model.policy();
  const asked: string[] = [];
  const question = "what colour is that hat ?";
  const found = "that hat of ada is red";
  const retrieve = async (text: string) => {
    asked.push(text);
    return found;
  };
  /** What the text of the first answer and of any later one state. */
  const stating = (...values: (number | null)[]) => {
    let calls = 0;
    return () => values[Math.min(calls++, values.length - 1)]!;
  };
  const unsure = await policy.answer(question, { retrieveBelow: 0.7, retrieve, readConfidence: stating(0.69, 0.9) });
  t.same(asked, [question]);
  t.equal(unsure.confidence, 0.9);
  t.equal(unsure.retrieved!.evidence, found);
  t.equal(unsure.retrieved!.before.confidence, 0.69);
  const again = await policy.answer(`${question}\n\n### Retrieved Evidences: ${found}`);
  t.equal(unsure.text, again.text, "the second answer is to the question with its evidence");
  const plain = await policy.answer(question);
  t.equal(unsure.retrieved!.before.text, plain.text);
  t.not(plain.text, again.text);
  t.equal(plain.retrieved, undefined);

  const sure = await policy.answer(question, { retrieveBelow: 0.7, retrieve, readConfidence: stating(0.7) });
  t.equal(asked.length, 1, "a confidence that is the threshold is sure enough");
  t.equal(sure.retrieved, undefined);
  const silent = await policy.answer(question, { retrieveBelow: 0, retrieve, readConfidence: stating(null, 0.5) });
  t.equal(silent.confidence, 0.5, "an answer that states none is looked up");
  const nothing = await policy.answer(question, {
    retrieveBelow: 1,
    retrieve: () => null,
    readConfidence: stating(0.2),
  });
  t.match(nothing, { text: plain.text, confidence: 0.2, retrieved: undefined });
  const own = await policy.answer(question, {
    retrieveBelow: 1,
    retrieve,
    withEvidence: (text, evidence) => `${evidence} ${text}`,
    readConfidence: stating(0.2),
  });
  t.equal(own.text, (await policy.answer(`${found} ${question}`)).text);

  await t.rejects(policy.answer(question, { retrieveBelow: 0.5, retrieve }), { code: "NO_CARD" });
  for (const wrong of [
    { retrieveBelow: 1.5, retrieve },
    { retrieveBelow: Number.NaN, retrieve },
    { retrieve },
    { retrieveBelow: 0.5 },
  ])
    await t.rejects(policy.answer(question, wrong as never), { code: "BAD_OPTION" });
  await t.rejects(
    policy.answer(question, {
      retrieveBelow: 1,
      retrieve: () => Promise.reject(new Error("offline")),
      readConfidence: stating(0),
    }),
    /offline/,
  );
});

t.test("a confidence that a head reads decides as well; texts are read by a reader of theirs", async (t) => {
  const path = writeTinyModel(join(t.testdir(), "model"));
  await using model = await Model.load(path, { engine: fakeEngine() });
  const card: Card = {
    version: 1,
    method: "elical",
    prompt: { user: "{question}", system: "default" },
    answers: "base",
    answer: { newTokens: 3 },
    heads: [{ name: "confidence", layer: 2, kind: "linear", outputs: 1 }],
    confidence: { head: "confidence", at: "prompt-last", slope: 1, offset: 0 },
    base: model.cardBase,
  };
  const policy = await model.policy({ heads: [{ name: "confidence", kind: "linear", seed: 3 }], card });
  const { confidence } = await policy.answer("what is that ?");
  const above = await policy.answer("what is that ?", { retrieveBelow: 0, retrieve: () => "a hat" });
  t.equal(above.confidence, confidence);
  t.equal(above.retrieved, undefined);
  const below = await policy.answer("what is that ?", { retrieveBelow: 1, retrieve: () => "a hat" });
  t.equal(below.retrieved!.before.confidence, confidence);
  const reader = new ConfidenceReader("conqord", { onFailure: "drop", clamp: true });
  const stated = await policy.answer("what is that ?", { readConfidence: reader.read });
  t.equal(stated.confidence, null, "the reader reads, whatever the card says");
  t.equal(reader.counts.failed, 1);
});
