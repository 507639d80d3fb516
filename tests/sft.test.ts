/** Supervised fine-tuning: weights, packing, exact resume, and what is told when rows cannot be used. */
import { spawnSync } from "node:child_process";
import { existsSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { gzipSync } from "node:zlib";
import fc from "fast-check";
import t from "tap";
import { openRecords, recordsOf } from "../src/data/readers.js";
import { chatSchema } from "../src/data/records.js";
import { Model } from "../src/policy/model.js";
import type { Message } from "../src/text/chat.js";
import { silent } from "../src/tracking/progress.js";
import { type SftTraining, trainSft } from "../src/training/sft.js";
import { type Pack, type Position, packs, type SftData } from "../src/training/sft-data.js";
import { metricsOf, runBytes } from "./fixtures/runs.js";
import { writeTinyModel } from "./fixtures/tiny-model.js";

const folder = t.testdir();
const modelPath = writeTinyModel(join(folder, "model"));
const model = await Model.load(modelPath, { threads: 1 });
t.teardown(() => model.dispose());

const adapter = { rank: 4, alpha: 8, targets: ["q", "v", "gate", "down"] as ("q" | "v" | "gate" | "down")[], seed: 1 };
const people = ["ada", "ben", "cleo", "dan", "eve", "finn", "gus"];
const colours = ["red", "green", "blue"];
const chat = (i: number, words = 1): { messages: Message[] } => ({
  messages: [
    { role: "user", content: `what colour is that hat of ${people[i % 7]} ?` },
    { role: "assistant", content: Array.from({ length: words }, () => colours[i % 3]).join(" ") },
  ],
});
const chats = Array.from({ length: 60 }, (_, i) => chat(i, 1 + (i % 5)));

const job = (directory: string, more: Partial<SftTraining> = {}): SftTraining => ({
  model,
  directory,
  records: recordsOf(chats),
  policy: (checkpoint) => model.policy({ adapter: checkpoint ?? adapter }),
  batchTokens: 128,
  windowRecords: 25,
  epochs: 2,
  learningRate: 1e-2,
  weightDecay: 0.01,
  warmup: 0.1,
  seed: 3,
  checkpointEvery: 3,
  microBatchTokens: 128,
  label: "training",
  progress: silent,
  ...more,
});

t.test("the loss is divided once, by the sum of weights", async (t) => {
  const rows = await Promise.all(chats.slice(0, 4).map(({ messages }) => model.supervise(messages)));
  rows[1]!.weights.forEach((w, i, all) => {
    all[i] = 3 * w;
  });
  const sequences = rows.map((row) => row.ids);
  const weights = rows.map((row) => row.weights);
  const policy = await model.policy({ adapter });
  const { logprobs } = await policy.forward(sequences, { logprobs: true });
  let [sum, total, at] = [0, 0, 0];
  for (const row of weights) for (const w of row) [sum, total] = [sum - w * logprobs![at++]!, total + w];
  const norms: number[] = [];
  for (const microBatchTokens of [1000, 1]) {
    const fresh = await model.policy({ adapter });
    const trainer = fresh.trainer({ schedule: 1e-3 });
    const { loss, gradientNorm } = await trainer.step({ sequences, loss: { kind: "nll", weights }, microBatchTokens });
    t.ok(Math.abs(loss - sum / total) < 1e-5 * loss, `${loss} ${sum / total}`);
    norms.push(gradientNorm);
    if (microBatchTokens === 1) continue;
    const twice = weights.map((row) => row.map((w) => 2 * w));
    const again = await (await model.policy({ adapter })).trainer({ schedule: 1e-3 }).step({
      sequences,
      loss: { kind: "nll", weights: twice },
    });
    t.ok(Math.abs(again.gradientNorm - gradientNorm) < 1e-5 * gradientNorm, "twice the weights are the same step");
  }
  t.ok(Math.abs(norms[0]! - norms[1]!) < 1e-5 * norms[0]!);
  const trainer = policy.trainer({ schedule: 1e-3 });
  for (const wrong of [-1, Number.NaN, Number.POSITIVE_INFINITY]) {
    const loss = { kind: "nll" as const, weights: [weights[0]!.with(3, wrong)] };
    await t.rejects(trainer.step({ sequences: [sequences[0]!], loss }), {
      code: "BAD_INPUT",
      message: /row 0, token 3/,
    });
  }
  const onlyFirst = weights[0]!.map((_, i) => (i === 0 ? 1 : 0));
  await t.rejects(trainer.step({ sequences: [sequences[0]!], loss: { kind: "nll", weights: [onlyFirst] } }), {
    code: "NOTHING_SUPERVISED",
  });
});

t.test("packs: every row once an epoch, the budget kept, the same from any position on", async (t) => {
  const records = fc.array(fc.integer({ min: 2, max: 30 }), { minLength: 1, maxLength: 60 });
  const property = fc.asyncProperty(
    records,
    fc.integer({ min: 1, max: 40 }),
    fc.nat(99),
    async (lengths, window, seed) => {
      const data: SftData = {
        records: recordsOf(lengths.map((length, i) => ({ messages: [{ role: "user", content: "", length, i }] }))),
        supervise: async ([message]) => {
          const { length, i } = message as unknown as { length: number; i: number };
          const ones = new Uint8Array(length).fill(1);
          return { text: "", ids: new Int32Array(length).fill(i), supervised: ones, weights: Float32Array.from(ones) };
        },
        batchTokens: 30,
        fit: { contextLength: 30 },
        seed,
        epochs: 2,
        windowRecords: window,
      };
      const all = async (from: Position) => {
        const out: Pack[] = [];
        for await (const pack of packs(data, from)) out.push(pack);
        return out;
      };
      const start = { epoch: 0, window: 0, pack: 0, rows: 0, tokens: 0 };
      const whole = await all(start);
      const total = lengths.reduce((sum, length) => sum + length, 0);
      for (const epoch of [0, 1]) {
        const seen = whole
          .filter((pack) => pack.epoch === epoch)
          .flatMap((pack) => pack.sequences.map((ids) => ids[0]!));
        if (JSON.stringify(seen.sort((a, b) => a - b)) !== JSON.stringify(lengths.map((_, i) => i))) return false;
      }
      if (
        !whole.every(({ tokens, sequences }) => tokens <= 30 && sequences.flatMap((ids) => [...ids]).length === tokens)
      )
        return false;
      const { rows, tokens } = whole.at(-1)!.position;
      if (rows !== 2 * lengths.length || tokens !== 2 * total) return false;
      const cut = seed % whole.length;
      return JSON.stringify(await all(whole[cut]!.position)) === JSON.stringify(whole.slice(cut + 1));
    },
  );
  await t.resolves(fc.assert(property, { numRuns: 80 }));
});

t.test("a training that is stopped anywhere ends with the same bytes", async (t) => {
  const path = join(folder, "chats.jsonl");
  writeFileSync(path, chats.map((record) => `${JSON.stringify(record)}\n`).join(""));
  const records = await openRecords(path, chatSchema);
  const whole = join(folder, "whole");
  const { policy, steps, utilisation, data } = await trainSft(job(whole, { records }));
  await policy.dispose();
  const told = metricsOf(whole);
  t.equal(told.length, steps);
  t.same([data.records, data.rows, data.dropped], [60, 60, 0]);
  t.equal(
    told.reduce((sum, { rows }) => sum + rows!, 0),
    120,
  );
  const used = told.reduce((sum, line) => sum + line.utilisation!, 0) / steps;
  t.ok(Math.abs(used - utilisation) < 1e-9 && utilisation > 0.75, `${utilisation}`);
  t.ok(told.at(-1)!.loss! < told[0]!.loss! / 2, `${told[0]!.loss} to ${told.at(-1)!.loss}`);
  const rates = told.map((line) => line.learningRate!);
  t.ok(Math.max(...rates) <= 1e-2 && rates.at(-1)! < rates[3]! && rates.at(-1)! > 0);
  // An abort leaves a checkpoint more behind; neither the newest nor the metrics may show it.
  const bytes = (directory: string) =>
    Object.fromEntries(
      Object.entries(runBytes(directory)).filter(([path]) => !/step-/.test(path) || path.includes(`-0000${steps}/`)),
    );
  const expected = bytes(whole);
  t.ok(Object.keys(expected).length > 5);
  for (const stops of [[1], [4, 5], [8], [steps - 1]]) {
    const directory = join(folder, `stopped-${stops}`);
    for (const stop of stops) {
      const controller = new AbortController();
      const progress = {
        note() {},
        task: (label: string) => ({
          advance() {
            const taken =
              label === "training" && existsSync(join(directory, "metrics.jsonl")) ? metricsOf(directory).length : 0;
            if (taken >= stop) controller.abort();
          },
          end() {},
        }),
      };
      await t.rejects(trainSft(job(directory, { records, progress, signal: controller.signal })), { code: "ABORTED" });
    }
    // As if it had been killed after step 8: the metrics are ahead of the newest checkpoint.
    if (stops[0] === 8) rmSync(join(directory, "checkpoints", "step-000008"), { recursive: true });
    const { policy, ...end } = await trainSft(job(directory, { records: await openRecords(path, chatSchema) }));
    await policy.dispose();
    t.same(end, { steps, utilisation, data });
    t.same(bytes(directory), expected, `stopped after ${stops}`);
  }
  const { policy: again, ...end } = await trainSft(job(whole, { records }));
  await again.dispose();
  t.same(end, { steps, utilisation, data }, "a training that is done is left as it is");
  t.same(bytes(whole), expected);
  await t.rejects(trainSft(job(whole, { records, batchTokens: 200, seed: 4 })), {
    code: "OTHER_RECIPE",
    message: /seed: 3 then, 4 now; batchTokens: 128 then, 200 now/,
  });
  await t.rejects(
    trainSft(job(whole)).then(() => trainSft(job(whole, { records: recordsOf(chats.slice(1)) }))),
    {
      code: "OTHER_RECIPE",
      message: /records: 60 then, 59 now/,
    },
  );
});

t.test("what is wrong with rows is told before anything is learnt, with counts", async (t) => {
  const directory = join(folder, "wrong");
  const rejects = async (
    records: { messages: Message[] }[],
    more: Partial<SftTraining>,
    expected: { code?: string; message: RegExp },
  ) => {
    await t.rejects(trainSft(job(directory, { records: recordsOf(records), ...more })), expected);
    t.notOk(existsSync(join(directory, "metrics.jsonl")));
  };
  const long = [chat(0), chat(1, 150), chat(2), chat(3, 130)];
  await rejects(long, {}, { code: "ROW_TOO_LONG", message: /^2 of 4 rows are longer than the batch \(128 tokens/ });
  await rejects(
    [chat(0), chat(1, 300)],
    { batchTokens: 1000 },
    { message: /^1 of 2 rows is longer than the context \(256/ },
  );
  await rejects([chat(1, 150)], { truncate: "drop" }, { code: "ROW_TOO_LONG", message: /all 1 rows .*none is left/ });
  const bare = { messages: [{ role: "user", content: "that ?" }] };
  const silenced = { messages: chat(1).messages.map((message) => ({ ...message, weight: 0 })) };
  await rejects([chat(0), bare, silenced], {}, { code: "NOTHING_SUPERVISED", message: /^2 of 3 rows .*row 2/ });
  await rejects([bare], { unsupervised: "drop" }, { message: /at least one assistant turn/ });
  const twice = { messages: [{ role: "system", content: "<s>" }, ...chat(0).messages] };
  const configPath = join(writeTinyModel(join(folder, "odd")), "tokenizer_config.json");
  const config = JSON.parse(readFileSync(configPath, "utf8"));
  config.chat_template = "{{ bos_token }}{% for m in messages %}{{ m.content }} </s> {% endfor %}";
  writeFileSync(configPath, JSON.stringify(config));
  const odd = await Model.load(join(folder, "odd"), { threads: 1 });
  t.teardown(() => odd.dispose());
  await rejects([chat(0), twice, twice], { model: odd }, { code: "DOUBLED_BOS", message: /^2 of 3 rows of .*twice/ });
  const empty = { messages: [] as Message[] };
  await rejects([chat(0), empty], {}, { code: "BAD_INPUT", message: /^the records given: record 2: / });

  const kept = await trainSft(
    job(join(folder, "kept"), { records: recordsOf([...long, bare]), truncate: "left", unsupervised: "drop" }),
  );
  await kept.policy.dispose();
  t.match(kept.data, { records: 5, rows: 4, cut: 2, dropped: 0, unsupervised: 1, longest: 168 });
  const dropped = await trainSft(job(join(folder, "dropped"), { records: recordsOf(long), truncate: "drop" }));
  await dropped.policy.dispose();
  t.match(dropped.data, { rows: 2, cut: 0, dropped: 2 });
});

t.test("on the command line, from a compressed file", async (t) => {
  const path = join(folder, "chats.jsonl.gz");
  writeFileSync(path, gzipSync(chats.map((record) => `${JSON.stringify(record)}\n`).join("")));
  const out = join(folder, "cli");
  const bin = fileURLToPath(new URL("../dist/cli/bin.js", import.meta.url));
  const train = (...args: string[]) =>
    spawnSync(process.execPath, [bin, "train", path, "--model", modelPath, "--out", out, "--threads", "1", ...args], {
      encoding: "utf8",
    });
  const sft = ["--loss", "sft", "--batch-tokens", "100", "--limit", "40", "--epochs", "1", "--json"];
  const { status, stdout, stderr } = train(...sft);
  t.equal(status, 0, stderr);
  const result = JSON.parse(stdout);
  t.match(result, { data: { records: 40, rows: 40 } });
  t.match(stderr, /40 rows, 40 of them learnt from/);
  t.match(stderr, new RegExp(`${result.steps} steps, .* % of 100 tokens used`));
  const policy = await model.policy({ adapter: join(out, "best") });
  t.equal((await policy.answer("what colour is that hat of ada ?", { maxNewTokens: 3 })).confidence, null);
  t.same(train(...sft).stdout, stdout, "again on the same folder: it is done");
  const wrong = train("--loss", "sft", "--batch", "3");
  t.equal(wrong.status, 2);
  t.match(wrong.stderr, /--batch belongs to --loss confidence/);
  t.match(train("--window", "3").stderr, /--window belongs to --loss sft/);
});
