/** Rollouts: rows that end by their text, on their own, and answers that are gone on with. */
import { join } from "node:path";
import t from "tap";
import { Model } from "../src/policy/model.js";
import type { GenerateSettings } from "../src/policy/policy.js";
import { stopWhen } from "../src/rewards/retries.js";
import { writeTinyModel } from "./fixtures/tiny-model.js";

const folder = t.testdir();
const model = await Model.load(writeTinyModel(join(folder, "model"), { sharpness: 3 }), { dtype: "f32", threads: 1 });
t.teardown(() => model.dispose());
const policy = await model.policy();
const words = "what colour is that hat of ada says loudly ?".split(" ");
const prompts = await Promise.all([3, 4, 6, 9].map((count) => model.promptTokens(words.slice(0, count).join(" "))));

async function all<T>(items: AsyncIterable<T>): Promise<T[]> {
  const out: T[] = [];
  for await (const item of items) out.push(item);
  return out;
}

t.test("a row ends behind what its text was to have, and the others go on", async (t) => {
  const settings: GenerateSettings = { samples: 8, temperature: 1, maxNewTokens: 60, seed: 5 };
  const whole = await all(policy.generate(prompts, settings));
  const done = stopWhen(/(?:red|blue|hat) \w+/);
  let made = 0;
  const onStats = ({ newTokens }: { newTokens: number }) => {
    made = newTokens;
  };
  const told = await all(policy.generate(prompts, { ...settings, stopWhen: done, onStats }));
  t.equal(told.length, 32);
  const decode = (tokens: Int32Array) => model.tokenizer.decode(tokens, { skipSpecials: true });
  let ended = 0;
  let kept = 0;
  for (const [i, sample] of told.entries()) {
    const { tokens, logprobs, ...rest } = whole[i]!;
    const end = tokens.findIndex((_, n) => done(decode(tokens.subarray(0, n + 1)))) + 1;
    kept += end > 0 ? end : tokens.length;
    if (end === 0) {
      t.same(sample, whole[i], `row ${i} has nothing that ends it`);
      continue;
    }
    ended += 1;
    t.same(sample.tokens, tokens.subarray(0, end), `row ${i} ends after ${end} of ${tokens.length} tokens`);
    t.same(sample.logprobs, logprobs.subarray(0, end));
    t.match(sample, { prompt: rest.prompt, sample: rest.sample, finish: "stop", stopToken: undefined });
    t.equal(sample.text, decode(sample.tokens).trim());
    t.match(sample.text, /(?:red|blue|hat) \w+/, "what ended it is in it");
  }
  t.ok(ended > 8 && ended < 32, `${ended} rows of 32 were ended`);
  const before = whole.reduce((sum, { tokens }) => sum + tokens.length, 0);
  t.ok(made >= kept && made < before, `${made} tokens were made for ${kept}, of ${before}`);
});

t.test("what a text is asked may fail, and heads are not read of it", async (t) => {
  const failing = () => {
    throw new RangeError("no such text");
  };
  await t.rejects(all(policy.generate(prompts, { stopWhen: failing, maxNewTokens: 90 })), { message: /no such text/ });
  await t.rejects(all(policy.generate(prompts, { stopWhen: () => true, collect: [1], maxNewTokens: 9 })), {
    message: /does not go with hidden states/,
  });
});

t.test("an answer is gone on with where it was left", async (t) => {
  const settings = { maxNewTokens: 12, stopTokens: [] };
  const whole = await all(policy.generate(prompts, settings));
  const begun = whole.map(({ tokens }, i) => tokens.slice(0, [0, 1, 5, 11][i]));
  const rest = await all(policy.generate(prompts, { ...settings, begun, maxNewTokens: 4 }));
  for (const [i, { tokens, logprobs, text }] of rest.entries()) {
    const { length } = begun[i]!;
    t.same(tokens.slice(0, 12 - length), whole[i]!.tokens.slice(length, length + 4));
    t.same(logprobs.slice(0, 12 - length), whole[i]!.logprobs.slice(length, length + 4));
    t.equal(text, model.text(Int32Array.of(...begun[i]!, ...tokens)));
  }
  const ids = await model.tokenizer.encode("red hat of red pen");
  t.equal(model.text(ids, ["red"]), "");
  t.equal(model.text(ids.subarray(2), ["red"], ids.subarray(0, 2)), "red hat of", "a stop text before is part of it");
});

t.test("samples of a number are the same whichever else there are", async (t) => {
  const settings = { temperature: 1, maxNewTokens: 5, seed: 3 };
  const four = await all(policy.generate(prompts, { ...settings, samples: 4 }));
  const firstSamples = [3, 0, 2, 1];
  const one = await all(policy.generate(prompts, { ...settings, firstSamples }));
  for (const [i, sample] of one.entries()) t.same(sample, four[4 * i + firstSamples[i]!]);
});
