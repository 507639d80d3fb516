/** SaySelf's reward: the published table, what a missing confidence earns, when an answer is right; and which tokens are reinforced. */
import t, { type Test } from "tap";
import type { SaySelfCompat } from "../src/methods/sayself/compat.js";
import { judgedCorrectness, responseReward, type SaySelfRule, textCorrectness } from "../src/methods/sayself/reward.js";
import { bareConfidence, reinforcedTokens } from "../src/methods/sayself/wire.js";
import type { Scored } from "../src/rewards/reward.js";
import { Tokenizer } from "../src/text/tokenizer.js";

const asPublished = (...ids: string[]) => new Set(ids) as unknown as SaySelfCompat;
const context = { question: 0, sample: 0, attempt: 0, signal: new AbortController().signal };
const said = (confidence: string | number) => `Answer: Danube. Self-reflection: I know it. Confidence: ${confidence}`;
const row = { question: "Which river?", answers: ["Danube"] };

const near = (t: Test, got: number, expected: number, what: string) =>
  t.ok(Math.abs(got - expected) < 1e-12, `${what}: ${got}, expected ${expected}`);

/** What a response earns whose answer has a correctness. */
async function earned(
  correctness: number,
  completion: string,
  { rule = "quadratic" as SaySelfRule, compat = asPublished(), missing = undefined as number | undefined } = {},
): Promise<Scored> {
  const options = { rule, compat, correctness: () => correctness, ...(missing === undefined ? {} : { missing }) };
  return (await responseReward(options).reward.score("", completion, row, context)) as Scored;
}

t.test("the published table", async (t) => {
  const published = asPublished("B9-7");
  const confidences = [0, 1, 5, 7, 9, 10, 100];
  for (const [correctness, rewards] of [
    [10, [-1, -0.62, 0.5, 0.82, 0.98, 1, -0.62]],
    [0, [1, 0.98, 0.5, 0.02, -0.62, -1, 0.98]],
  ] as const)
    for (const [i, confidence] of confidences.entries()) {
      const { reward } = await earned(correctness, said(confidence), { compat: published });
      near(t, reward, rewards[i]!, `${correctness}, ${confidence}`);
    }
  near(t, (await earned(7, said(5))).reward, 0.92, "graded");
  near(t, (await earned(10, said(100))).reward, 1, "B9-7: beyond 10 is 10 here");
  near(t, (await earned(0, said(100))).reward, -1, "and is as wrong as 10");
});

t.test("other rules", async (t) => {
  const of = async (rule: SaySelfRule, correctness: number, confidence: number | string) =>
    (await earned(correctness, said(confidence), { rule })).reward;
  near(t, await of("linear", 10, 7), 0.7, "linear, right");
  near(t, await of("linear", 0, 7), -0.7, "linear, wrong");
  near(t, await of("brier", 0, 7), -0.49, "brier");
  near(t, await of("log", 10, 5), Math.log(0.5), "log");
  near(t, await of("correctness", 10, 10), 1, "right and sure");
  near(t, await of("correctness", 0, 0), 0, "wrong and unsure: 0, where the quadratic pays 1");
});

t.test("a response without a confidence earns the least", async (t) => {
  for (const text of ["Answer: Danube.", said("high"), said("7.5"), "Answer: Danube. Confidence: 7"]) {
    const { reward, confidence, parts } = await earned(10, text);
    t.same([reward, confidence, parts], [-1, null, { correct: 1 }], text);
  }
  t.ok((await earned(10, "x", { rule: "log" })).reward < -9, "below -1 where the rule pays less");
  t.equal((await earned(10, "x", { rule: "brier" })).reward, -1);
  t.equal((await earned(10, "x", { missing: -3 })).reward, -3);
  const { reward, counts } = responseReward({ correctness: () => 10 });
  for (const text of [said(7), said(100), "x"]) await reward.score("", text, row, context);
  t.same(counts, { texts: 3, failed: 1, clamped: 1 });
  const bare = responseReward({ correctness: () => 10, format: bareConfidence });
  t.match(await bare.reward.score("", "Answer: Danube. Confidence: 10", row, context), { reward: 1, confidence: 1 });
});

t.test("B9-8: as published what cannot be read is a 0", async (t) => {
  const compat = asPublished("B9-8");
  const of = (correctness: number, text: string) => earned(correctness, text, { compat });
  t.equal((await of(0, said("high"))).reward, 1, "which pays where the answer is wrong");
  t.equal((await of(10, said("high"))).reward, -1);
  t.equal((await of(10, "Answer: Danube.")).reward, -1, "without the label it is -1");
  t.equal((await of(0, "Answer: Danube. Self-reflection: x Confidence:")).reward, -1, "and with nothing behind it");
  near(t, (await of(10, "It is this. Answer: Danube. Confidence: 7")).reward, 0.82, "a reflection is not asked for");
});

t.test("B9-4: what is right", async (t) => {
  const fever = { question: "", answers: ["true"], negatives: ["false"] };
  const prompt = "[INST]\nIs it true or false?[/INST]\n";
  const wrong = "Answer: false. Self-reflection: x Confidence: 9";
  const here = textCorrectness();
  const published = textCorrectness(asPublished("B9-4"));
  t.equal(here(prompt, wrong, fever, context), 0);
  t.equal(here(prompt, wrong.replace("false", "true"), fever, context), 10);
  t.equal(published(prompt, wrong, fever, context), 10, "as published the question makes it right");
  t.equal(published("", wrong, fever, context), 0);
});

t.test("a judge's score is the correctness, and a reply without one is a failure", async (t) => {
  const judge = {
    name: "stub",
    async *judge(items: Iterable<{ response: string }>) {
      for (const { response } of items) yield { value: response === "none" ? null : response.length, reply: "?" };
    },
  };
  const correctness = judgedCorrectness(judge);
  t.same(await Promise.all([correctness("", "abc", row, context), correctness("", "abcdefg", row, context)]), [3, 7]);
  await t.rejects(Promise.resolve(correctness("", "none", row, context)), /stub gave no score from 1 to 10 but "\?"/);
});

t.test("what is reinforced of any response", async (t) => {
  const tokenizer = await Tokenizer.load(new URL("golden/text/tokenizer", import.meta.url).pathname);
  const learnt = async (text: string, put?: string) => {
    const own = await tokenizer.encode(text);
    const cue = put === undefined ? new Int32Array() : await tokenizer.encode(put);
    const more = put === undefined ? new Int32Array() : await tokenizer.encode(" 8");
    const tokens = Int32Array.of(...own, ...cue, ...more);
    const sampled = new Uint8Array(tokens.length).fill(1).fill(0, own.length, own.length + cue.length);
    const mask = reinforcedTokens(tokenizer, { tokens, ...(put === undefined ? {} : { sampled }) });
    t.equal(mask.length, tokens.length);
    return tokenizer.decode(tokens.filter((_, i) => mask[i])).trim();
  };
  t.equal(await learnt(said(10)), "10");
  t.equal(await learnt("Answer: Danube. Confidence: 7"), "7", "the label is enough");
  t.equal(await learnt("Answer: Danube. Self-reflection: x", ". Confidence:"), "8", "behind the cue, which was put in");
  t.equal(await learnt("Answer: Danube.", ". Hm"), "8", "from the retried prefix on");
  t.equal(await learnt("Answer: Danube."), "Answer: Danube.", "else all of it");
  t.equal(
    await learnt("Answer: Danube. Confidence:"),
    "Answer: Danube. Confidence:",
    "and where nothing is behind the label",
  );
});
