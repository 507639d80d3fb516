import { type ChildProcess, spawn } from "node:child_process";
import { existsSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import fc from "fast-check";
import t from "tap";
import { PythonRandom } from "../src/data/random.js";
import { type JudgeItem, modelJudge, stringJudge } from "../src/evaluation/judges/judge.js";
import { correctnessRequest, equivalenceRequest, pythonList } from "../src/evaluation/judges/prompts.js";
import { publishedMatch, publishedTokens, publishedVerdict } from "../src/evaluation/judges/published.js";
import { localResponder, serverResponder } from "../src/evaluation/judges/responder.js";
import { readVerdict } from "../src/evaluation/judges/verdict.js";
import { labelRecords } from "../src/methods/elical/labels.js";
import { Model } from "../src/policy/model.js";
import { AnswerStore, answerKey } from "../src/remote/answer-store.js";
import { ChatServer, type ServerOptions } from "../src/remote/chat-server.js";
import { inOrder } from "../src/remote/in-order.js";
import { ended } from "./fixtures/child.js";
import { fakeEngine } from "./fixtures/fake-native.js";
import { type Behaviour, type Call, fakeServer } from "./fixtures/fake-server.js";
import { writeTinyModel } from "./fixtures/tiny-model.js";

const root = fileURLToPath(new URL("..", import.meta.url));
const folder = mkdtempSync(join(tmpdir(), "credence-judges-"));
t.teardown(() => rmSync(folder, { recursive: true, force: true }));

t.test("the published string match, to the bit", async (t) => {
  interface Case {
    answers: string[];
    text: string;
    match: 0 | 1;
    tokens: string[];
  }
  const path = new URL("golden/metrics/published-match.json", import.meta.url);
  const cases = JSON.parse(readFileSync(path, "utf8")) as Case[];
  t.ok(cases.filter(({ match }) => match).length > 20 && cases.filter(({ match }) => !match).length > 20);
  const wrong = cases.filter(
    ({ answers, text, match, tokens }) =>
      publishedMatch(answers, text) !== match || publishedTokens(text).join("\n") !== tokens.join("\n"),
  );
  t.same(wrong, []);
  t.equal(publishedMatch(["Rhone"], "The Rhône!"), 0, "an accent is a mark of its own");
  t.equal(publishedMatch(["new york"], "It is in New York City."), 1);
  t.equal(publishedMatch(["A"], "x"), 1, "an answer without tokens is in every text");
  t.equal(publishedMatch(["The"], ""), 1);
  t.equal(publishedMatch([], "x"), 0);
  t.same(publishedTokens("théâtre"), ["\u0301", "\u0302tre"], "articles between marks are deleted");
});

t.test("verdicts", async (t) => {
  t.same(["certain", "Uncertain.", "", null, "Yes, no doubt"].map(publishedVerdict), [1, 0, 1, 0, 0]);
  const replies = [
    "certain",
    "**Uncertain**.",
    "",
    "Yes, no doubt: certain",
    "not certain",
    "certain or uncertain?",
    "Yes",
  ];
  t.same(replies.map(readVerdict), [1, 0, null, 1, 0, null, null]);
  t.equal(readVerdict("Certain. Yes, certain!"), 1);
  t.equal(readVerdict("uncertainty"), null);
  fc.assert(
    fc.property(fc.string({ unit: "grapheme" }), (text) => {
      t.ok([0, 1].includes(publishedVerdict(text)));
      if (!/certain/i.test(text)) t.equal(readVerdict(text), null);
    }),
    { numRuns: 200, seed: 1 },
  );
});

t.test("what a judge is asked", async (t) => {
  t.equal(
    pythonList(["Rhône", "it's", 'say "it\'s"', "a\\b\n", "\u00a0\u200b\u{e0001}"]),
    "['Rhône', \"it's\", 'say \"it\\'s\"', 'a\\\\b\\n', '\\xa0\\u200b\\U000e0001']",
  );
  const asked = correctnessRequest("Which river?", ["Rhône", "Rhone"], "The Rhône.");
  for (const part of ["Which river?", "['Rhône', 'Rhone']", "The Rhône.", '"certain"', '"uncertain"'])
    t.ok(asked.includes(part), part);
  t.ok(equivalenceRequest("Q?", "one", "two").endsWith("Question: Q?\nAnswer: one\n\nQuestion: Q?\nAnswer: two"));
});

const correct = (given: string, question = "Q?"): JudgeItem => ({
  asks: "correct",
  question,
  expected: ["Nairobi"],
  given,
});

async function values(judged: AsyncIterable<{ value: number | null }>) {
  const out: (number | null)[] = [];
  for await (const { value } of judged) out.push(value);
  return out;
}

t.test("strings as judges", async (t) => {
  const items: JudgeItem[] = [
    correct("It is NAIRÒBI."),
    { asks: "correct", question: "Q?", expected: ["A"], given: "B" },
    { asks: "same", question: "What is the capital of Kenya?", first: "It is Nairobi", second: "Nairobi" },
  ];
  t.same(await values(stringJudge().judge(items)), [1, 0, 1]);
  t.same(await values(stringJudge("published").judge(items)), [0, 1, 1], "accents tell apart, a letter A does not");
});

t.test("work in order", async (t) => {
  const began: number[] = [];
  const work = async (item: number) => {
    began.push(item);
    await new Promise((resume) => setTimeout(resume, item % 2 ? 1 : 8));
    if (item === 5) throw new Error("five");
    return item;
  };
  const seen: number[] = [];
  await t.rejects(async () => {
    for await (const item of inOrder([...Array(40).keys()], 4, work)) seen.push(item);
  }, /five/);
  t.same(seen, [0, 1, 2, 3, 4]);
  t.ok(began.length < 12, "after a failure nothing new begins");
  const stopped = (item: number, signal: AbortSignal) =>
    new Promise<number>((_, reject) => {
      if (item === 2) setTimeout(() => reject(new Error("two")), 5);
      signal.addEventListener("abort", () => reject(new Error("stopped")));
    });
  await t.rejects(inOrder([0, 1, 2, 3], 4, stopped).next(), /two/, "the failure itself is thrown, not what it stopped");
});

const quick = { retries: 3, backoff: { first: 0.01, longest: 0.05 }, timeout: 5 } satisfies Partial<ServerOptions>;
const hello = [{ role: "user", content: "hello" }];

/** Runs `use` with a client of a server that behaves so. */
async function withServer<T>(
  behave: (call: Call) => Behaviour,
  use: (client: ChatServer, server: Awaited<ReturnType<typeof fakeServer>>, notes: string[]) => Promise<T>,
  options: Partial<ServerOptions> = {},
): Promise<T> {
  await using server = await fakeServer(behave);
  const notes: string[] = [];
  return await use(
    new ChatServer({ url: server.url, model: "judge-1", note: (line) => notes.push(line), ...quick, ...options }),
    server,
    notes,
  );
}

t.test("a server that misbehaves, and then does not", async (t) => {
  const passing: Record<string, Behaviour> = {
    "429": { status: 429, body: '{"error": {"message": "slow down"}}' },
    "500": { status: 500, body: "oops" },
    "503 in HTML": { status: 503, body: "<html>busy</html>" },
    "a lost connection": { how: "reset" },
    "half an answer": { how: "cut" },
    hanging: { how: "hang" },
    "HTML instead of JSON": { body: "<html>login</html>" },
    "JSON null": { body: "null" },
    "no choices": { body: '{"choices": []}' },
    "no message": { body: '{"choices": [{}]}' },
    "choices that are none": { body: '{"choices": 7}' },
    empty: { text: "  " },
    "null content": { text: null },
  };
  for (const [name, wrong] of Object.entries(passing)) {
    const behave = ({ before }: Call) => (before < 2 ? wrong : { text: "certain" });
    await withServer(
      behave,
      async (client, server, notes) => {
        t.match(
          await client.complete(hello),
          { text: "certain", finish: "stop", usage: { input: 10, output: 2 } },
          name,
        );
        t.equal(server.calls.length, 3, `${name}: two further tries`);
        t.equal(notes.length, 2, `${name}: told`);
        t.match(client.usage, { calls: 3, retries: 2, paid: { requests: 1, inputTokens: 10 } }, name);
      },
      name === "hanging" ? { timeout: 0.15 } : {},
    );
  }
});

t.test("a server that never does right", async (t) => {
  const rejected = (
    behave: Behaviour,
    error: { code: string; message?: RegExp },
    calls: number,
    options?: Partial<ServerOptions>,
  ) =>
    withServer(
      () => behave,
      async (client, server) => {
        await t.rejects(client.complete(hello), error);
        t.equal(server.calls.length, calls, error.code);
      },
      options,
    );
  await rejected({ status: 500 }, { code: "SERVER_FAILED", message: /HTTP 500.*4 tries/ }, 4);
  await rejected({ how: "reset" }, { code: "SERVER_FAILED", message: /connection failed/ }, 4);
  await rejected({ how: "hang" }, { code: "SERVER_FAILED", message: /no answer within 0\.1 s/ }, 2, {
    timeout: 0.1,
    retries: 1,
  });
  await rejected({ body: "<html>" }, { code: "BAD_REPLY", message: /not JSON \(<html>\), 3 tries/ }, 3);
  await rejected({ text: "" }, { code: "BAD_REPLY", message: /empty/ }, 3);
  await rejected({ text: "", finish: "length" }, { code: "BAD_REPLY", message: /more tokens/ }, 3);
  for (const status of [400, 401, 403, 404, 422])
    await rejected(
      { status, body: '{"error": {"message": "no such thing"}}' },
      { code: "SERVER_REFUSED", message: new RegExp(`HTTP ${status} \\(no such thing\\)`) },
      1,
    );
  await rejected({ status: 302, headers: { location: "http://127.0.0.1:1/" } }, { code: "SERVER_FAILED" }, 4);
  await rejected(
    { status: 429, headers: { "retry-after": "4000" } },
    { code: "SERVER_FAILED", message: /wait 4000 s/ },
    1,
  );
  const nowhere = new ChatServer({ url: "http://127.0.0.1:9/v1", model: "m", ...quick, retries: 0 });
  await t.rejects(nowhere.complete(hello), { code: "SERVER_FAILED" });
  t.throws(() => new ChatServer({ url: "localhost:8000", model: "m" }), { code: "USAGE" });
  t.throws(() => new ChatServer({ url: "http://x", model: "m", timeout: 1000 }), { code: "USAGE" });
});

t.test("whatever a server says is a reply or a named error", async (t) => {
  const part = fc.oneof(fc.jsonValue({ maxDepth: 2 }), fc.string());
  const often = <T>(arbitrary: fc.Arbitrary<T>) => fc.oneof({ weight: 4, arbitrary }, { weight: 1, arbitrary: part });
  const message = fc.record({ content: often(fc.string()) });
  const choice = fc.record({ message: often(message), finish_reason: part }, { requiredKeys: ["message"] });
  const completion = fc.record({ choices: often(fc.array(often(choice), { minLength: 1 })), usage: part });
  const bodies = fc.sample(
    fc.oneof(
      fc.string(),
      fc.json(),
      completion.map((one) => JSON.stringify(one)),
    ),
    {
      seed: 3,
      numRuns: 150,
    },
  );
  await withServer(
    ({ body }) => ({ body: bodies[Number(body.messages[0]!.content)]! }),
    async (client) => {
      const outcomes = new Set<string>();
      for (const i of bodies.keys()) {
        const settings = { mayBeEmpty: i % 2 === 0 };
        await client.complete([{ role: "user", content: String(i) }], settings).then(
          ({ text }) => t.equal(typeof text, "string") && outcomes.add("reply"),
          ({ code }) => outcomes.add(code),
        );
      }
      t.same([...outcomes].sort(), ["BAD_REPLY", "reply"]);
    },
    { badReplies: 0 },
  );
});

t.test("Retry-After is kept to, by all calls", async (t) => {
  // A date has whole seconds: two from now are more than one.
  for (const header of [() => "1", () => new Date(Date.now() + 2000).toUTCString()]) {
    await withServer(
      ({ before, body }) =>
        body.messages[0]!.content === "a" && before === 0 ? { status: 429, headers: { "retry-after": header() } } : {},
      async (client, server) => {
        const ask = (content: string) => client.complete([{ role: "user", content }]);
        await Promise.all([ask("a"), ask("b")]);
        const [first, again] = server.calls.filter(({ body }) => body.messages[0]!.content === "a");
        t.ok(again!.at - first!.at >= 950, "the call itself waits");
        const b = server.calls.find(({ body }) => body.messages[0]!.content === "b")!;
        t.ok(b.at - first!.at >= 950, "and so does the next");
      },
      { concurrency: 1 },
    );
  }
});

t.test("what is sent, what it costs, and how many at a time", async (t) => {
  process.env.CREDENCE_TEST_KEY = "sk-secret";
  t.teardown(() => delete process.env.CREDENCE_TEST_KEY);
  await withServer(
    ({ body }) => ({
      after: 5,
      text: body.messages[0]!.content,
      usage: body.messages[0]!.content === "7" ? null : undefined,
    }),
    async (client, server) => {
      const ask = (content: string, draw?: number) =>
        client.complete([{ role: "user", content }], { temperature: 0, maxTokens: 8, draw });
      const replies = await Promise.all([...Array(20).keys()].map((i) => ask(String(i % 10))));
      t.same(
        replies.map(({ text }) => Number(text)),
        [...Array(20).keys()].map((i) => i % 10),
      );
      t.equal(server.calls.length, 10, "equal requests in flight are one call");
      t.equal(server.together, 3);
      t.match(server.calls[0], {
        authorization: "Bearer sk-secret",
        body: { model: "judge-1", temperature: 0, max_tokens: 8, messages: [{ role: "user", content: "0" }] },
      });
      t.match(client.usage, { paid: { requests: 10, inputTokens: 90, outputTokens: 18 }, uncounted: 1, retries: 0 });
      t.equal(client.usage.paid.cost, (90 * 2 + 18 * 8) / 1e6);
      await Promise.all([ask("x", 0), ask("x", 1)]);
      t.equal(server.calls.length, 12, "two draws are two calls");
    },
    { concurrency: 3, keyVariable: "CREDENCE_TEST_KEY", price: { input: 2, output: 8 } },
  );
  await withServer(
    () => ({ status: 401, body: '{"error": {"message": "wrong key sk-secret"}}' }),
    async (client) => {
      await t.rejects(client.complete(hello), { message: /wrong key \*\*\*/ }, "a key is not repeated");
    },
    { keyVariable: "CREDENCE_TEST_KEY" },
  );
  t.throws(() => new ChatServer({ url: "http://x", model: "m", keyVariable: "CREDENCE_NO_KEY" }), {
    message: /CREDENCE_NO_KEY/,
  });
});

t.test("answers are kept", async (t) => {
  const path = join(folder, "kept");
  await withServer(
    ({ body }) => ({ text: body.messages[0]!.content === "empty" ? "" : "certain" }),
    async (_, server) => {
      const open = async (use: (client: ChatServer) => Promise<void>) => {
        await using answers = await AnswerStore.open(path);
        await use(new ChatServer({ url: server.url, model: "judge-1", answers, ...quick }));
      };
      await open(async (client) => {
        await client.complete(hello);
        await t.rejects(AnswerStore.open(path), { code: "STORE", message: /another process/ });
      });
      await open(async (client) => {
        t.match(await client.complete(hello), { text: "certain", usage: { input: 10, output: 2 } });
        t.match(client.usage, { paid: { requests: 0 }, kept: { requests: 1, inputTokens: 10 }, calls: 0 });
        t.equal(server.calls.length, 1, "and not paid for again");
        await client.complete(hello, { temperature: 0.5 });
        t.equal(server.calls.length, 2, "another setting is another request");
        const empty = [{ role: "user", content: "empty" }];
        t.equal((await client.complete(empty, { mayBeEmpty: true })).text, "");
        await t.rejects(client.complete(empty), { code: "BAD_REPLY" }, "a kept empty reply is no reply either");
      });
    },
  );
  writeFileSync(join(folder, "file"), "");
  await t.rejects(AnswerStore.open(folder), { code: "STORE", message: /other files/ });
  t.not(answerKey("a", { b: 1 }), answerKey("a", { b: 2 }));
});

t.test("when it is stopped, calls in flight are waited for and kept", async (t) => {
  const stop = new AbortController();
  const path = join(folder, "stopped");
  const items = Array.from({ length: 30 }, (_, i) => correct("Nairobi", String(i)));
  await withServer(
    ({ body }) => {
      if (body.messages[0]!.content.includes("Question: 3\n")) stop.abort();
      return { after: 20 };
    },
    async (_, server) => {
      const judged = async (signal?: AbortSignal) => {
        await using answers = await AnswerStore.open(path);
        const client = new ChatServer({ url: server.url, model: "m", answers, ...quick, concurrency: 2 });
        return await values(modelJudge(serverResponder(client)).judge(items, { signal }));
      };
      await t.rejects(judged(stop.signal), { code: "ABORTED" });
      t.ok(server.calls.length < 10);
      t.equal((await judged()).length, 30);
      t.equal(server.calls.length, 30, "none is made twice");
    },
  );
});

t.test("a server as judge", async (t) => {
  await withServer(
    ({ body }) => ({ text: body.messages[0]!.content.includes("answer: Nairobi") ? "Certain." : "hm" }),
    async (client) => {
      const judge = modelJudge(serverResponder(client));
      t.equal(judge.name, "judge-1");
      t.same(await values(judge.judge([correct("Nairobi"), correct("Mombasa"), correct("Nairobi")])), [1, null, 1]);
      const published = modelJudge(serverResponder(client), "published");
      t.same(
        await values(published.judge([correct("Nairobi"), correct("Mombasa")])),
        [1, 1],
        "what is no refusal is a yes",
      );
      const record = {
        question: "Q?",
        answer: ["Nairobi"],
        given: { text: "Nairobi" },
        responses: [{ text: "Mombasa" }],
      };
      const labelled = async () => {
        for await (const _ of labelRecords([record], { judge }));
      };
      await t.rejects(labelled(), { code: "UNPARSED", message: /2 replies of judge-1.*"hm"/ });
      let unparsed = 0;
      const onUnparsed = (count: number) => {
        unparsed = count;
      };
      const labels = labelRecords([record], { judge, unparsed: "negative", onUnparsed });
      t.match((await labels.next()).value, { given_correct: 1, correct: [0], agrees: [0], target: 0 });
      t.ok((await labels.next()).done);
      t.equal(unparsed, 2);
    },
  );
});

t.test("a model of this machine as judge", async (t) => {
  await using model = await Model.load(writeTinyModel(join(folder, "model")), { engine: fakeEngine() });
  const policy = await model.policy();
  let generated = 0;
  const generate = policy.generate.bind(policy);
  policy.generate = (prompts, settings) => {
    generated += prompts.length;
    return generate(prompts, settings);
  };
  const requests = ["what colour ?", "is that of ada", "what colour ?", "says loudly", "a book of ben"];
  const collect = async (answers?: AnswerStore, batch?: number) => {
    const replies: string[] = [];
    const responder = localResponder(policy, { maxTokens: 6, batch, answers });
    for await (const { text } of responder.replies(requests)) replies.push(text);
    return replies;
  };
  const replies = await collect();
  t.equal(generated, 4, "equal requests are answered once");
  t.equal(replies[0], replies[2]);
  t.ok(new Set(replies).size > 1);
  t.same(await collect(undefined, 2), replies, "batches do not matter");
  await using answers = await AnswerStore.open(join(folder, "local"));
  t.same(await collect(answers), replies);
  generated = 0;
  t.same(await collect(answers, 2), replies);
  t.equal(generated, 0, "kept replies are not generated again");
  const judge = modelJudge(localResponder(policy, { maxTokens: 6 }), "published");
  t.same(await values(judge.judge([correct("Nairobi")])), [1]);
});

t.test(
  "killed at any moment and started again, no kept answer is paid for twice and the labels are the same",
  async (t) => {
    const samples = join(folder, "samples.jsonl");
    const answer = (text: string) => ({ text, tokens: [1], logprobs: [-1], finish: "stop" });
    const rows = Array.from({ length: 12 }, (_, i) => ({
      question: `Question ${i}?`,
      answer: [`answer ${i}`],
      given: answer(`given ${i}`),
      responses: [0, 1, 2].map((k) => answer(`sample ${i} ${(i * k) % 5}`)),
    }));
    writeFileSync(samples, rows.map((row) => `${JSON.stringify(row)}\n`).join(""));
    const concurrency = 4;
    let kill: { after: number; child: ChildProcess } | undefined;
    const behave = ({ raw }: Call): Behaviour => {
      if (kill && --kill.after === 0) kill.child.kill("SIGKILL");
      const number = Number.parseInt(answerKey(raw).slice(0, 6), 16);
      return { text: number % 3 ? "certain" : "uncertain", after: number % 15 };
    };
    await using server = await fakeServer(behave);
    const label = (out: string) =>
      spawn(
        process.execPath,
        [
          ...[join(root, "dist", "cli", "bin.js"), "label", samples, "--judge", "server", "--url", server.url],
          ...[
            "--model",
            "judge-1",
            "--out",
            out,
            "--concurrency",
            String(concurrency),
            "--price-in",
            "1",
            "--price-out",
            "4",
          ],
        ],
        { stdio: ["ignore", "ignore", "pipe"] },
      );
    const whole = join(folder, "whole.jsonl");
    const first = await ended(label(whole));
    t.equal(first.code, 0, first.told);
    t.match(first.told, /\d+ requests paid \(.* tokens in, .* out, cost 0\.00/);
    const distinct = server.answered.size;
    t.equal(server.calls.length, distinct, "equal requests are paid for once");
    server.calls.length = 0;
    server.answered.clear();

    const out = join(folder, "killed.jsonl");
    const random = new PythonRandom(7);
    let kills = 0;
    for (;;) {
      const child = label(out);
      kill = kills < 5 ? { after: 5 + random.below(10), child } : undefined;
      const { code, told } = await ended(child);
      if (code === 0) {
        t.match(told, /answered before/);
        break;
      }
      if (!t.equal(child.signalCode, "SIGKILL", told)) return;
      t.notOk(existsSync(out), "no half of an output");
      kills += 1;
    }
    t.equal(kills, 5);
    t.same(readFileSync(out), readFileSync(whole));
    t.same(
      readFileSync(`${out}.judge.json`),
      readFileSync(`${whole}.judge.json`),
      "nor does the cost that is recorded differ",
    );
    t.equal(server.answered.size, distinct);
    const repeated = [...server.answered.values()].reduce((sum, count) => sum + count - 1, 0);
    t.ok(repeated <= kills * concurrency, `${repeated} answers of calls in flight were lost to ${kills} kills`);
    t.ok(server.calls.length <= distinct + kills * concurrency);
  },
);
