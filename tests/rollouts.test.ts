/** Rollouts: rows that end by their text, on their own; completions that are gone on with, and what is learnt from them. */
import { join } from "node:path";
import t from "tap";
import { Model } from "../src/policy/model.js";
import type { GenerateSettings } from "../src/policy/policy.js";
import { stopWhen } from "../src/rewards/retries.js";
import { advantagesOf, type Episode } from "../src/training/ppo/advantages.js";
import { scoreRollouts } from "../src/training/ppo/passes.js";
import { type PpoTraining, trainPpo } from "../src/training/ppo/ppo.js";
import { type Rollout, sampleRollouts } from "../src/training/ppo/rollouts.js";
import { type PpoOptions, ppoSchema } from "../src/training/ppo/settings.js";
import { metricsOf, runBytes } from "./fixtures/runs.js";
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

const retry = { complete: "(?:says|kai|cup) \\w+", retries: 2, cue: " says", newTokens: 3 };
const rollouts = (options: PpoOptions["rollout"], iteration = 0): Promise<Rollout[]> => {
  const settings = ppoSchema.parse({ seed: 4, rollout: { samples: 6, newTokens: 6, ...options } });
  return all(sampleRollouts(policy, prompts, settings, iteration)).then((list) =>
    list.sort((a, b) => a.group - b.group || a.sample - b.sample),
  );
};

t.test("a completion that lacks something is gone on with, and gets its cue at last", async (t) => {
  const found = await rollouts({ retry });
  t.equal(found.length, 24);
  const [says] = await model.tokenizer.encode("says");
  const plain = await rollouts({});
  const scored = await scoreRollouts(policy, groupsOf(found), { logprobs: true, budget: 500 });
  for (const [i, rollout] of found.entries()) {
    const { tokens, logprobs, sampled, text } = rollout;
    const { tries, complete } = rollout.retry!;
    t.equal(complete, /(?:says|kai|cup) \w+/.test(text), text);
    t.equal(text, model.text(tokens));
    t.equal(sampled !== undefined, tries === 3, "the cue comes after two tries");
    if (!complete) t.equal(tries, 3);
    const { tokens: first } = plain[i]!;
    const own = first.at(-1) === 2 && tries > 0 ? first.subarray(0, -1) : first;
    t.same(tokens.subarray(0, own.length), own, "it begins with what was sampled at first");
    const places = Array.from(tokens.keys()).filter((at) => sampled && !sampled[at]);
    t.same(
      places.map((at) => tokens[at]),
      sampled ? [says] : [],
    );
    const wanted = scored.get(rollout)!.logprobs!.map((value, at) => (places.includes(at) ? 0 : value));
    t.same(logprobs, wanted, "a later pass gives the log-probabilities it was sampled with");
  }
  const count = (tries: number) => found.filter((one) => one.retry!.tries === tries).length;
  t.ok(
    [0, 1, 3].every((tries) => count(tries) > 0),
    `${[0, 1, 2, 3].map(count)}`,
  );
  const third = found.filter(({ retry }) => retry!.tries === 3).map(({ tokens }) => tokens.join());
  t.equal(new Set(third).size, third.length, "each goes on in its own way");
  const drawn = (list: Rollout[]) => list.map((one) => [...one.tokens, ...one.logprobs].join()).join("\n");
  t.equal(drawn(await rollouts({ retry })), drawn(found), "again the same");
  t.not(drawn(await rollouts({ retry }, 1)), drawn(found));
});

t.test("the text a row ends by may begin in an earlier continuation", async (t) => {
  const found = await rollouts({ samples: 20, stopPattern: "says \\w+", retry });
  const written = (tokens: Int32Array) => tokens.filter((token) => !model.tokenizer.isSpecial(token)).length;
  let ended = 0;
  for (const { tokens, sampled, text } of found) {
    if (!sampled || !/says \w+ \S+$/.test(text) || /says says/.test(text)) continue;
    // Of the word behind the cue more may come, so that one token more says that none does.
    t.equal(written(tokens.subarray(sampled.indexOf(0))), 3, text);
    ended += 1;
  }
  t.ok(ended > 3, `${ended} rows`);
});

t.test("continuations that have no room are refused before anything is sampled", async (t) => {
  await t.rejects(rollouts({ newTokens: 100, retry: { ...retry, newTokens: null } }), {
    code: "TOO_LONG",
    message: /completion of up to 401, .* longer than the context \(256 tokens\)/,
  });
  t.throws(() => ppoSchema.parse({ rollout: { stopPattern: "(" } }), /Invalid regular expression/);
  t.throws(() => ppoSchema.parse({ rollout: { retry: { complete: "[" } } }), /Invalid regular expression/);
});

t.test("a token that was put in is none of the policy's", async (t) => {
  const settings = ppoSchema.parse({ advantage: { lambda: 0.9, gamma: 0.95 }, kl: { coefficient: 0.1 } });
  const list = (...numbers: number[]) => Float32Array.from(numbers);
  const plain: Episode[] = [
    {
      logprobs: list(-1, -2, -3),
      reference: list(-1.5, -1, -2),
      values: list(0.1, 0.2, 0.3),
      reward: 2,
      settled: [{ at: 1, reward: 0.5 }],
      group: 0,
      mask: Uint8Array.of(1, 1, 1),
    },
    { logprobs: list(-1, -1), reference: list(-2, -1), values: list(0.4, 0.5), reward: -1, group: 1 },
  ];
  const cued: Episode[] = [
    {
      ...plain[0]!,
      logprobs: list(-1, -2, 0, 0, -3),
      reference: list(-1.5, -1, -9, -9, -2),
      values: list(0.1, 0.2, 7, 7, 0.3),
      mask: Uint8Array.of(1, 1, 0, 0, 1),
      sampled: Uint8Array.of(1, 1, 0, 0, 1),
    },
    plain[1]!,
  ];
  const expected = await advantagesOf(model, plain, settings, 0.1);
  const found = await advantagesOf(model, cued, settings, 0.1);
  const [first] = expected.worth;
  const spread = ([a, b, c]: Float32Array) => list(a!, b!, 0, 0, c!);
  t.same(found.worth[0], { advantages: spread(first!.advantages), returns: spread(first!.returns) });
  t.same(found.worth[1], expected.worth[1]);
  t.same([found.kl, found.klOfCompletion], [expected.kl, expected.klOfCompletion]);
});

t.test("what a completion is worth behind its end is what the critic says before a token that follows", async (t) => {
  const heads = [{ name: "value", kind: "mlp" as const, widths: [8], seed: 2 }];
  const critic = await model.policy({ heads });
  const found = await rollouts({ newTokens: 9 });
  const longer = found.map((rollout) => ({ ...rollout, tokens: Int32Array.of(...rollout.tokens, 7) }));
  const asked = { head: "value", budget: 120 };
  const ends = await scoreRollouts(critic, groupsOf(found), { ...asked, after: true });
  const more = await scoreRollouts(critic, groupsOf(longer), asked);
  for (const [i, rollout] of found.entries()) {
    const { values, after } = ends.get(rollout)!;
    t.same([...values!, after], Array.from(more.get(longer[i]!)!.values!));
    t.not(after, values!.at(-1));
  }
});

t.test("a completion that was cut off earns what is to come, if asked for", async (t) => {
  const settings = ppoSchema.parse({ advantage: { lambda: 0.5, gamma: 0.5, whiten: false } });
  const values = Float32Array.of(1, 2);
  const episode = { logprobs: new Float32Array(2), values, reward: 3, group: 0 };
  const { worth } = await advantagesOf(model, [episode, { ...episode, bootstrap: 8 }], settings, 0);
  // delta = [0 + .5 2 - 1, 3 + .5 V - 2], A = [delta_0 + .25 A_1, delta_1]
  t.same(Array.from(worth[0]!.advantages), [0.25, 1]);
  t.same(Array.from(worth[1]!.advantages), [1.25, 5]);
  t.same(Array.from(worth[1]!.returns), [2.25, 7]);

  const train = async (name: string, options: PpoOptions, more: Partial<PpoTraining<null>> = {}) => {
    const base = await job(join(folder, name), more);
    const rollout = { ...options.rollout, prompts: 2 };
    const own = ppoSchema.parse({ ...options, iterations: 2, rollout, optimizer: { learningRate: 1e-2 }, seed: 1 });
    await (await trainPpo({ ...base, settings: own, reward: () => 1 })).dispose();
    return metricsOf(join(folder, name));
  };
  const cut = { newTokens: 4, stopTokens: [] };
  const ended = await train("ended", { rollout: cut });
  const bootstrapped = await train("bootstrapped", { rollout: cut, advantage: { cutOff: "bootstrap" } });
  t.equal(ended[0]!.cutOff, 1);
  t.not(ended[1]!.valueLoss, bootstrapped[1]!.valueLoss, "all were cut off");
  const whole = { newTokens: 1, stopTokens: [...Array(model.info.vocabularySize).keys()] };
  const terminated = await train("terminated", { rollout: whole });
  const none = await train("none", { rollout: whole, advantage: { cutOff: "bootstrap" } });
  t.equal(terminated[1]!.cutOff, 0);
  t.equal(terminated[1]!.valueLoss, none[1]!.valueLoss, "none was cut off");
  const grpo: PpoOptions = { rollout: cut, advantage: { cutOff: "bootstrap", estimator: "grpo" } };
  await t.rejects(train("refused", grpo, { valueHead: undefined }), { code: "BAD_RECIPE", message: /has none/ });
});

const groupsOf = (found: Rollout[]) =>
  prompts.map((prompt, group) => ({ prompt, rollouts: found.filter((one) => one.group === group) }));

async function job(directory: string, more: Partial<PpoTraining<null>> = {}): Promise<PpoTraining<null>> {
  const adapter = { rank: 4, alpha: 8, targets: ["q", "v", "down"] as ("q" | "v" | "down")[], seed: 3 };
  const heads = [{ name: "value", kind: "linear" as const }];
  return {
    directory,
    policy: (checkpoint) => model.policy({ adapter: checkpoint ?? adapter, heads }),
    reference: "base",
    prompts: prompts.map((tokens) => ({ tokens, text: "", data: null })),
    reward: (_prompt, completion) => completion.split(" ").filter((word) => word === "red").length,
    settings: ppoSchema.parse({
      iterations: 4,
      rollout: { prompts: 3, samples: 4, newTokens: 6, stopPattern: "says \\w+", retry },
      miniBatches: 2,
      microBatchTokens: 80,
      checkpointEvery: 2,
      optimizer: { learningRate: 1e-2 },
      seed: 11,
    }),
    valueHead: "value",
    ...more,
  };
}

t.test("what is trained may be the distribution at the temperature that is sampled at", async (t) => {
  const hot = { temperature: 0.7, scoreTemperature: 0.7, samples: 3, maxNewTokens: 9, seed: 2 };
  const sampled = await all(policy.generate(prompts, hot));
  const plain = await all(policy.generate(prompts, { ...hot, scoreTemperature: undefined }));
  t.same(
    sampled.map(({ tokens }) => tokens),
    plain.map(({ tokens }) => tokens),
    "the same is sampled",
  );
  const sequences = sampled.map(({ prompt, tokens, stopToken }) =>
    Int32Array.of(...prompts[prompt]!, ...tokens, ...(stopToken === undefined ? [] : [stopToken])),
  );
  const scored = await policy.forward(sequences, { logprobs: true, temperature: 0.7 });
  let at = 0;
  for (const [i, { prompt, logprobs }] of sampled.entries()) {
    at += prompts[prompt]!.length;
    t.same(scored.logprobs!.subarray(at, at + logprobs.length), logprobs);
    t.notSame(logprobs, plain[i]!.logprobs);
    at += logprobs.length;
  }
  await t.rejects(all(policy.generate(prompts, { scoreTemperature: 0, maxNewTokens: 9 })), {
    message: /expected above 0/,
  });

  const train = async (name: string, more: PpoOptions) => {
    const base = await job(join(folder, name));
    const rollout = { prompts: 3, samples: 4, newTokens: 6, temperature: 0.7 };
    const settings = ppoSchema.parse({ iterations: 3, optimizer: { learningRate: 1e-2 }, seed: 1, rollout, ...more });
    await (await trainPpo({ ...base, settings })).dispose();
    return metricsOf(join(folder, name));
  };
  const cool = await train("cool", { trainedTemperature: 0.7 });
  const warm = await train("warm", {});
  t.same([cool[0]!.reward, cool[0]!.kl, cool[0]!.firstRatioChange], [warm[0]!.reward, 0, 0]);
  t.ok(cool[0]!.entropy! < warm[0]!.entropy!, "a cooler distribution has less entropy");
  t.ok(cool.every(({ firstRatioChange }) => firstRatioChange === 0));
});

t.test("a training counts continuations, learns nothing from cues, and goes on to the same bytes", async (t) => {
  const whole = join(folder, "whole");
  const training = await job(whole);
  const [says] = await model.tokenizer.encode("says");
  let cues = 0;
  const trained = await trainPpo({
    ...training,
    mask: ({ tokens, sampled }) => {
      if (sampled) cues += 1;
      return new Uint8Array(tokens.length).fill(1);
    },
    policy: async (checkpoint) => {
      const own = await training.policy(checkpoint);
      const make = own.trainer.bind(own);
      own.trainer = (options) => {
        const trainer = make(options);
        const step = trainer.step.bind(trainer);
        trainer.step = (batch) => {
          if (!("sequences" in batch) || batch.loss.kind !== "ppo") throw new Error("another loss");
          const { weights, advantages, value } = batch.loss;
          for (const [row, tokens] of batch.sequences.entries()) {
            if (batch.prefixOf![row]! < 0) continue;
            for (const [at, weight] of weights[row]!.entries()) {
              if (weight === 0) t.equal(tokens[at], says, "the cue alone is not learnt from");
              t.equal(value!.weights[row]![at], weight);
              if (weight === 0) t.equal(advantages[row]![at], 0);
            }
          }
          cues -= 0.5 * weights.filter((row, i) => batch.prefixOf![i]! >= 0 && row.includes(0)).length;
          return step(batch);
        };
        return trainer;
      };
      return own;
    },
  });
  await trained.dispose();
  t.equal(cues, 0, "in each of two epochs each cue was passed over");
  const lines = metricsOf(whole);
  t.ok(lines.every(({ firstRatioChange }) => firstRatioChange === 0));
  t.equal(lines[0]!.kl, 0, "the reference is where it begins");
  for (const { retried, cued, incomplete } of lines)
    t.ok(retried! >= cued! && cued! >= incomplete! && cued! > 0, `${retried} ${cued} ${incomplete}`);
  const controller = new AbortController();
  const stopped = join(folder, "stopped");
  const told = (iteration: number) => iteration === 2 && controller.abort();
  await t.rejects(job(stopped, { told, signal: controller.signal }).then(trainPpo), { code: "ABORTED" });
  await (await trainPpo(await job(stopped))).dispose();
  t.same(runBytes(stopped), runBytes(whole));
});
