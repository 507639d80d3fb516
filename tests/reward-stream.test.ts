/** Rewards that are slow, wrong or paid for, asked for while samples come in. */
import { setTimeout as sleep } from "node:timers/promises";
import t from "tap";
import { AnswerStore } from "../src/remote/answer-store.js";
import { batchedReward } from "../src/rewards/batched.js";
import { limitedReward, memoryCache, type RewardLimits } from "../src/rewards/limited.js";
import { confidenceReward, type Reward, type RewardFunction, type Scored, weightedSum } from "../src/rewards/reward.js";
import { type RewardSample, rewardStream } from "../src/rewards/stream.js";

interface Row {
  answer: string;
}

const sample = (question: number, number: number, completion = `c${question}.${number}`): RewardSample<Row> => ({
  question,
  sample: number,
  prompt: `q${question}`,
  completion,
  record: { answer: "Danube" },
});

/** Two questions of three samples, as they might finish. */
const shuffled = [sample(1, 2), sample(0, 1), sample(1, 0), sample(0, 0), sample(0, 2), sample(1, 1)];

async function collect(
  samples: Iterable<RewardSample<Row>> | AsyncIterable<RewardSample<Row>>,
  reward: Reward<Row>,
  options: { samples?: number; signal?: AbortSignal } = { samples: 3 },
) {
  const out: [number, number, number][] = [];
  for await (const { sample, scored } of rewardStream(samples, reward, options))
    out.push([sample.question, sample.sample, scored.reward]);
  return out;
}

const quick: RewardLimits = { backoff: { first: 0.001, longest: 0.01 } };
const length: RewardFunction<Row> = (_, completion) => completion.length;

t.test("in (question, sample) order, however they come and however long each takes", async (t) => {
  const slow: RewardFunction<Row> = async (_prompt, _completion, _record, { question, sample }) => {
    await sleep(Math.random() * 10);
    return 10 * question + sample;
  };
  t.same(await collect(shuffled, slow), [
    [0, 0, 0],
    [0, 1, 1],
    [0, 2, 2],
    [1, 0, 10],
    [1, 1, 11],
    [1, 2, 12],
  ]);
});

t.test("rewards begin, and are yielded, while samples still come", async (t) => {
  const events: string[] = [];
  async function* written() {
    for (const one of [sample(0, 1), sample(0, 0), sample(1, 0), sample(1, 1)]) {
      events.push(`written ${one.completion}`);
      yield one;
      await sleep(20);
    }
  }
  const reward: RewardFunction<Row> = (_, completion) => {
    events.push(`scored ${completion}`);
    return 1;
  };
  for await (const { sample } of rewardStream(written(), reward, { samples: 2 }))
    events.push(`yielded ${sample.completion}`);
  const order = (...wanted: string[]) => {
    const at = wanted.map((event) => events.indexOf(event));
    t.ok(
      at.every((place, i) => place >= 0 && (i === 0 || place > at[i - 1]!)),
      `${wanted.join(", ")} in ${events}`,
    );
  };
  order("scored c0.1", "written c0.0", "scored c0.0", "yielded c0.0", "yielded c0.1", "written c1.0");
});

t.test("at most so many at once", async (t) => {
  let running = 0;
  let most = 0;
  const reward: RewardFunction<Row> = async () => {
    most = Math.max(most, ++running);
    await sleep(2);
    running -= 1;
    return 0;
  };
  const many = Array.from({ length: 40 }, (_, i) => sample(i, 0));
  await collect(many, limitedReward(reward, { concurrency: 4 }), { samples: 1 });
  t.equal(most, 4);
});

t.test("a reward that throws", async (t) => {
  const bad: RewardFunction<Row> = (_prompt, _completion, _record, { question, sample }) => {
    if (question === 1 && sample === 1) throw new Error("no such table");
    return 0;
  };
  await t.rejects(collect(shuffled, limitedReward({ name: "judge", score: bad }, quick)), {
    code: "REWARD_FAILED",
    message: /reward judge, question 1, sample 1: threw "no such table", as in the 2 tries before\. .*onFailure/,
  });

  const counted = limitedReward(bad, { ...quick, onFailure: { value: -7 } });
  const got = await collect(shuffled, counted);
  t.same(got[4], [1, 1, -7]);
  t.equal(got.filter(([, , reward]) => reward === 0).length, 5);
  t.match(counted.tally, { threw: 1, retries: 2, calls: 8, notFinite: 0, timedOut: 0 });
});

t.test("one that throws now and then is tried again, after longer and longer pauses", async (t) => {
  const times: number[] = [];
  const flaky: RewardFunction<Row> = (_prompt, _completion, _record, { attempt }) => {
    times.push(performance.now());
    if (attempt < 3) throw new Error("busy");
    return 5;
  };
  const limited = limitedReward(flaky, { retries: 3, backoff: { first: 0.02, longest: 0.04 } });
  t.same(await collect([sample(0, 0)], limited, {}), [[0, 0, 5]]);
  t.match(limited.tally, { calls: 4, retries: 3, threw: 0 });
  const pauses = times.slice(1).map((time, i) => time - times[i]!);
  t.ok(pauses[0]! >= 19 && pauses[1]! >= 39 && pauses[2]! >= 39, `${pauses}`);
});

t.test("one that hangs", async (t) => {
  const stopped: number[] = [];
  const hanging: RewardFunction<Row> = (_prompt, _completion, _record, { question, signal }) => {
    if (question === 0) return 1;
    return new Promise((_, reject) => {
      signal.addEventListener("abort", () => {
        stopped.push(question);
        reject(new Error("stopped"));
      });
    });
  };
  const two = [sample(1, 0), sample(0, 0)];
  await t.rejects(collect(two, limitedReward(hanging, { timeout: 0.02, retries: 0 }), {}), {
    code: "REWARD_FAILED",
    message: /question 1, sample 0: gave no score within 0\.02 s\. Give it a longer time-out/,
  });
  t.same(stopped, [1], "it is told");

  const deaf: RewardFunction<Row> = (...[, , , { question }]) => (question === 0 ? 1 : new Promise(() => {}));
  const counted = limitedReward(deaf, { ...quick, timeout: 0.01, onFailure: { value: -1 } });
  t.same(await collect(two, counted, {}), [
    [0, 0, 1],
    [1, 0, -1],
  ]);
  t.match(counted.tally, { timedOut: 1, retries: 2 });
});

t.test("one that gives no finite number", async (t) => {
  for (const value of [Number.NaN, Number.POSITIVE_INFINITY, undefined, "3", null, {}, { reward: Number.NaN }]) {
    const bad = (() => value) as unknown as RewardFunction<Row>;
    await t.rejects(
      collect([sample(0, 0)], limitedReward({ name: "odd", score: bad }), {}),
      { code: "REWARD_FAILED", message: /reward odd, question 0, sample 0: gave .*no finite number\. Mend the reward/ },
      JSON.stringify(value),
    );
    const counted = limitedReward(bad, { onFailure: { value: 0 } });
    t.same(await collect([sample(0, 0)], counted, {}), [[0, 0, 0]]);
    t.match(counted.tally, { notFinite: 1, calls: 1 }, "what it gives is not asked for again");
  }
});

t.test("a failure ends what runs beside it", async (t) => {
  const seen: number[] = [];
  const reward: RewardFunction<Row> = async (_prompt, _completion, _record, { question, signal }) => {
    if (question === 3) throw new Error("three");
    await sleep(10_000, undefined, { signal });
    seen.push(question);
    return 0;
  };
  const started = performance.now();
  const many = Array.from({ length: 30 }, (_, i) => sample(i, 0));
  await t.rejects(collect(many, limitedReward(reward, { retries: 0 }), {}), { message: /question 3.*"three"/ });
  t.ok(performance.now() - started < 5000);
  t.same(seen, []);
});

t.test("an abort", async (t) => {
  const stop = new AbortController();
  const got: number[] = [];
  const reward: RewardFunction<Row> = (_prompt, _completion, _record, { question }) =>
    question === 0 ? 1 : new Promise(() => {});
  const stream = async () => {
    const two = [sample(0, 0), sample(1, 0)];
    for await (const { sample } of rewardStream(two, reward, { signal: stop.signal })) {
      got.push(sample.question);
      setTimeout(() => stop.abort(), 5);
    }
  };
  await t.rejects(stream(), { code: "ABORTED" });
  t.same(got, [0], "what was yielded stands");
  await t.rejects(collect(shuffled, length, { samples: 3, signal: AbortSignal.abort() }), { code: "ABORTED" });

  async function* never(): AsyncGenerator<RewardSample<Row>> {
    await new Promise(() => {});
  }
  const soon = new AbortController();
  setTimeout(() => soon.abort(), 10);
  await t.rejects(collect(never(), length, { signal: soon.signal }), { code: "ABORTED" }, "while none comes");
});

t.test("leaving the loop stops the rest", async (t) => {
  let aborted = 0;
  const reward: RewardFunction<Row> = (_prompt, _completion, _record, { question, signal }) =>
    question === 0
      ? 1
      : new Promise((_, reject) =>
          signal.addEventListener("abort", () => {
            aborted += 1;
            reject(new Error("stopped"));
          }),
        );
  for await (const _ of rewardStream([sample(0, 0), sample(1, 0), sample(2, 0)], reward)) break;
  t.equal(aborted, 2);
});

t.test("samples that are not what was said", async (t) => {
  await t.rejects(collect([sample(0, 0), sample(0, 0)], length, {}), { message: /question 0, sample 0 came twice/ });
  await t.rejects(collect([sample(0, 1), sample(0, 2)], length), { message: /question 0, sample 0 never came/ });
  await t.rejects(collect([sample(0, 0), sample(2, 0)], length, {}), { message: /question 1, sample 0 never came/ });
  await t.rejects(collect([sample(0, 3)], length), { message: /question 0, sample 3: .*3 samples of each question/ });
  await t.rejects(collect([], length, { samples: 0 }), { code: "USAGE" });
  t.same(await collect([], length), []);
  async function* breaking() {
    yield sample(0, 0);
    throw new Error("the generator broke");
  }
  await t.rejects(collect(breaking(), length, {}), /the generator broke/);
});

t.test("what was scored once is kept by its content", async (t) => {
  for (const kind of ["memory", "disk"]) {
    let calls = 0;
    const reward: RewardFunction<Row> = async (_, completion, { answer }) => {
      calls += 1;
      await sleep(5);
      return { reward: completion.length + answer.length, confidence: null, parts: { length: 1 } };
    };
    const folder = t.testdir();
    await using disk = kind === "disk" ? await AnswerStore.open<Scored>(`${folder}/kept`) : undefined;
    const store = disk ?? memoryCache();
    const limited = () => limitedReward(reward, { cache: { store, version: "1" } });
    const equal = [sample(0, 0, "the same"), sample(0, 1, "the same"), sample(0, 2, "another")];
    const first = limited();
    const got = await collect(equal, first);
    t.same(
      got.map(([, , reward]) => reward),
      [14, 14, 13],
    );
    t.equal(calls, 2, "equal calls that run at once are one");
    t.equal(first.tally.kept, 1);
    const again = limited();
    for await (const { scored } of rewardStream(equal, again, { samples: 3 }))
      t.match(scored, { confidence: null, parts: { length: 1 } });
    t.equal(calls, 2);
    t.match(again.tally, { kept: 3, calls: 0 });
    await collect(equal, limitedReward(reward, { cache: { store, version: "2" } }));
    t.equal(calls, 4, "another version is asked for again");
    await collect([{ ...equal[0]!, record: { answer: "Rhine" } }], limited(), {});
    t.equal(calls, 5, "so is another record");
  }
});

t.test("failures are not kept", async (t) => {
  let calls = 0;
  const reward: RewardFunction<Row> = async () => {
    calls += 1;
    await sleep(2);
    return calls <= 2 ? Number.NaN : 4;
  };
  const limits = { cache: { store: memoryCache(), version: "1" }, onFailure: { value: -1 } };
  const equal = [sample(0, 0, "the same"), sample(0, 1, "the same")];
  t.same(
    (await collect(equal, limitedReward(reward, limits), { samples: 2 })).map(([, , reward]) => reward),
    [-1, -1],
  );
  t.same(await collect([equal[0]!], limitedReward(reward, limits), {}), [[0, 0, 4]]);
});

t.test("a weighted sum", async (t) => {
  const honest = confidenceReward<Row>({
    rule: "brier",
    confidence: (completion) => (completion.includes("?") ? null : Number(completion.split(" ")[1])),
    correct: (_, completion, { answer }) => completion.startsWith(answer),
    unparsed: -2,
  });
  const sum = weightedSum<Row>([
    { weight: 2, reward: honest },
    { weight: -0.1, reward: { name: "length", score: length } },
  ]);
  const context = { question: 0, sample: 0, attempt: 0, signal: new AbortController().signal };
  const scored = await sum.score("q", "Danube 0.8", { answer: "Danube" }, context);
  const { reward, ...rest } = scored as Scored;
  t.ok(Math.abs(reward - (2 * -0.04 - 1)) < 1e-12, `${reward}`);
  t.match(rest, { confidence: 0.8, parts: { "brier.correct": 1, length: 10 } });
  t.match(await sum.score("q", "Elbe ?", { answer: "Danube" }, context), {
    reward: 2 * -2 - 0.1 * 6,
    confidence: null,
    parts: { brier: -2, "brier.correct": 0 },
  });
  t.notMatch(scored, { settled: Array }, "a brier score is settled at the end");
  const paying = confidenceReward<Row>({
    rule: "rlcr",
    confidence: (completion) => (completion.includes("?") ? null : Number(completion.split(" ")[1])),
    correct: (_, completion, { answer }) => completion.startsWith(answer),
    unparsed: -2,
    answerEnd: (completion) => completion.indexOf(" "),
  });
  const twice = weightedSum<Row>([{ weight: 2, reward: paying }]);
  t.match(await twice.score("q", "Danube 0.8", { answer: "Danube" }, context), { settled: [{ reward: 2, end: 6 }] });
  t.match(await twice.score("q", "Elbe 0.8", { answer: "Danube" }, context), { settled: [{ reward: 0, end: 4 }] });
  t.notMatch(await twice.score("q", "Elbe ?", { answer: "Danube" }, context), { settled: Array });
  t.throws(() => weightedSum([]), { code: "USAGE" });
  t.throws(() => weightedSum([{ weight: Number.NaN, reward: honest }]), { message: /brier has the weight NaN/ });
  t.throws(() => weightedSum([1, 1].map((weight) => ({ weight, reward: honest }))), { message: /called "brier"/ });
  const unknown = { rule: "bier" as "brier", confidence: () => 0, correct: () => 1, unparsed: 0 };
  t.throws(() => confidenceReward(unknown), { code: "USAGE", message: /"bier"; there are log, brier/ });

  const within = weightedSum<Row>([
    { weight: 1, reward: limitedReward({ name: "judge", score: () => Number.NaN }, quick) },
  ]);
  await t.rejects(
    collect([sample(0, 0)], limitedReward(within, quick), {}),
    { code: "REWARD_FAILED", message: /^reward judge, question 0, sample 0: gave NaN/ },
    "a term under limits of its own tells its own failure",
  );
});

t.test("a model that scores many at once", async (t) => {
  const sizes: number[] = [];
  const model = batchedReward<Row>(
    "model",
    async (items) => {
      sizes.push(items.length);
      await sleep(1);
      return items.map(({ completion }) => Number(completion));
    },
    { size: 4 },
  );
  const many = Array.from({ length: 10 }, (_, i) => sample(i, 0, `${i}`));
  const got = await collect(many, limitedReward(model, { concurrency: 16 }), {});
  t.same(
    got.map(([, , reward]) => reward),
    [0, 1, 2, 3, 4, 5, 6, 7, 8, 9],
  );
  t.same(sizes, [4, 4, 2]);
  const short = batchedReward<Row>("short", async () => [1]);
  await t.rejects(collect(many, limitedReward(short, { ...quick, retries: 0 }), {}), {
    message: /threw "1 scores of 8 completions"/,
  });
});

t.test("limits that are none", async (t) => {
  const cases: [RewardLimits, RegExp][] = [
    [{ timeout: 0 }, /time-out of 0 s/],
    [{ timeout: 1e9 }, /time-out/],
    [{ retries: -1 }, /-1 retries/],
    [{ concurrency: 0 }, /0 calls at once/],
    [{ backoff: { first: 2, longest: 1 } }, /back-off of 2 to 1 s/],
    [{ onFailure: { value: Number.NaN } }, /NaN as the value/],
  ];
  for (const [limits, message] of cases) t.throws(() => limitedReward(length, limits), { code: "USAGE", message });
});
