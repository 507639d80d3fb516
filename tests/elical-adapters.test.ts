/**
 * Adapters and heads in the published layout: the padded and appended readings of PyTorch and PEFT, loading and scoring
 * what was released and what is trained here, files of torch.save.
 */
import { cpSync, readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import t from "tap";
import { loadTrained } from "../src/methods/elical/published/adapters.js";
import { runPaths } from "../src/methods/elical/published/paths.js";
import { predictPublished } from "../src/methods/elical/published/predict.js";
import { bfloat16, paddedRows, promptTokens } from "../src/methods/elical/published/reading.js";
import type { PublishedTraining } from "../src/methods/elical/published/settings.js";
import { trainPublished } from "../src/methods/elical/published/train.js";
import { encodeTorchFile } from "../src/model/torch-file.js";
import { readZipEntry } from "../src/model/zip.js";
import { native } from "../src/native.js";
import { Model } from "../src/policy/model.js";
import { stepBatch } from "../src/training/confidence-head.js";
import { small, toyQuestions, writeToySet } from "./fixtures/published-training.js";
import { writeTinyModel } from "./fixtures/tiny-model.js";

const golden = fileURLToPath(new URL("golden/elical-padding", import.meta.url));
const goldenRun = "batchsize16_accumulation8_epochs10_weightdecay0.1_r8_alpha16_loradropout0.0";

type Assertions = Pick<typeof t, "ok">;

interface Expected {
  pad: number;
  eos: number;
  group: number;
  rows: number[][];
  targets: number[];
  learningRate: number;
  weightDecay: number;
  logits: Record<string, number[]>;
  steps: Record<string, { loss: number; gradientNorm: number; after: number }>;
}

/** The golden model with a tokenizer whose word "w7" is token 7. */
function goldenModel(folder: string): string {
  cpSync(join(golden, "model"), folder, { recursive: true });
  const words = Array.from({ length: 61 }, (_, id) => (id === 2 ? "<pad>" : id === 3 ? "</s>" : `w${id}`));
  const special = (id: number) => ({
    id,
    content: words[id],
    special: true,
    single_word: false,
    lstrip: false,
    rstrip: false,
    normalized: false,
  });
  const json = (name: string, value: unknown) => writeFileSync(join(folder, name), JSON.stringify(value));
  json("tokenizer.json", {
    version: "1.0",
    added_tokens: [special(2), special(3)],
    normalizer: null,
    pre_tokenizer: { type: "WhitespaceSplit" },
    post_processor: null,
    decoder: null,
    model: { type: "WordLevel", vocab: Object.fromEntries(words.map((word, id) => [word, id])), unk_token: "w0" },
  });
  json("tokenizer_config.json", { pad_token: "<pad>", eos_token: "</s>", unk_token: "w0" });
  return folder;
}

t.test("PyTorch and PEFT on padded rows", async (t) => {
  const expected = JSON.parse(readFileSync(join(golden, "expected.json"), "utf8")) as Expected;
  const folder = t.testdir();
  await using model = await Model.load(goldenModel(join(folder, "model")), { dtype: "f32", threads: 1 });
  // The released adapter's folder, named in the spelling that the training script has.
  const named = join(golden, goldenRun.replace("loradropout", "loradrpout"), "best-checkpoint");
  const from = { adapter: join(named, "lora_epoch_best"), head: join(named, "vector_head_epoch_best.pt") };
  const close = (t: Assertions, got: ArrayLike<number>, wanted: number[], what: string) => {
    const worst = Math.max(...wanted.map((value, i) => Math.abs(got[i]! - value)));
    t.ok(got.length === wanted.length && worst < 1e-5, `${what}: differs by ${worst}`);
  };
  const rowsOf = (eos: boolean) => expected.rows.map((row) => Int32Array.from(eos ? [...row, expected.eos] : row));

  for (const eos of [false, true]) {
    const tail = eos ? "+eos" : "";
    const tokens = rowsOf(eos);
    await using policy = await loadTrained(model, from);
    const read = async (padding?: { token: number; group: number }) => {
      const { rows, paddedTo } = paddedRows(tokens, padding);
      return policy.logits(rows, "confidence", { ...(paddedTo ? { paddedTo } : {}) });
    };
    const padding = { token: expected.pad, group: expected.group };
    const padded = await read(padding);
    close(t, padded, expected.logits[`right,-1${tail}`]!, `index -1, padded on the right${tail}`);
    close(t, await read({ ...padding, group: 1 }), expected.logits[`right,-1,alone${tail}`]!, `one row a batch${tail}`);
    const last = await read();
    close(t, last, expected.logits[`left,-1${tail}`]!, `index -1, padded on the left${tail}`);
    close(t, last, expected.logits[`last_real${tail}`]!, `the last real token${tail}`);
    const apart = [...padded].filter((value, i) => Math.abs(value - last[i]!) > 0.01).length;
    t.ok(apart >= 5, `${apart} rows read otherwise when padded`);

    for (const index of ["minus_one", "last_real"]) {
      await using learning = await loadTrained(model, from);
      const trainer = learning.trainer({
        optimizer: { weightDecay: expected.weightDecay, maxGradientNorm: 1 },
        schedule: expected.learningRate,
      });
      const rows = tokens.map((row, i) => ({ tokens: row, target: expected.targets[i]! }));
      const job = { rows, head: "confidence", microBatchTokens: 100, ...(index === "minus_one" ? { padding } : {}) };
      const batch = stepBatch(job, [...rows.keys()]);
      const first = await trainer.step(batch);
      const second = await trainer.step(batch);
      const { loss, gradientNorm, after } = expected.steps[index + tail]!;
      close(t, [first.loss, first.gradientNorm, second.loss], [loss, gradientNorm, after], `a step, ${index}${tail}`);
    }
  }

  await t.test("the released layout is loaded and scored", async (t) => {
    const text = (row: number[]) => row.map((id) => `w${id}`).join(" ");
    const file = join(folder, "sampled.jsonl");
    const lines = expected.rows.map((row, i) => ({
      question: text(row),
      prompt: text(row),
      answer: ["w9"],
      response: i % 2 ? ["w9 w10", "w1"] : ["w4"],
    }));
    writeFileSync(file, lines.map((line) => `${JSON.stringify(line)}\n`).join(""));
    await using policy = await loadTrained(model, from);
    const job = { data: file, output: join(folder, "out"), split: "test" as const, batch: expected.group };
    await t.rejects(predictPublished(policy, { ...job, compat: new Set() }), {
      code: "OTHER_PROMPT",
      message: /10 of 10 prompts .*--other-prompt/,
    });
    const told = { ...job, otherPrompt: true };
    const sigmoid = (logit: number) => 1 / (1 + Math.exp(-logit));
    const here = await predictPublished(policy, { ...told, compat: new Set() });
    close(
      t,
      here.map((row) => row.predicted),
      expected.logits.last_real!.map(sigmoid),
      "corrected",
    );
    const published = await predictPublished(policy, { ...told, compat: new Set(["B9-11"]) });
    close(
      t,
      published.map((row) => row.predicted),
      expected.logits["right,-1"]!.map(sigmoid),
      "B9-11",
    );
    const left = await predictPublished(policy, { ...told, paddingSide: "left", compat: new Set(["B9-11"]) });
    t.same(left, here);
    const coarse = await predictPublished(policy, { ...told, compat: new Set(["B9-13"]) });
    for (const [i, { predicted }] of coarse.entries()) {
      t.equal(predicted, bfloat16(predicted));
      t.ok(Math.abs(predicted - here[i]!.predicted) < 2 ** -8);
    }
    const written = readFileSync(join(folder, "out", "evaluation_results_test.jsonl"), "utf8")
      .trim()
      .split("\n");
    t.same(
      written.map((line) => JSON.parse(line)),
      coarse,
    );
    t.same(Object.keys(coarse[0]!), ["index", "predicted", "true_label"]);
    t.same(
      coarse.map((row) => row.true_label),
      expected.rows.map((_, i) => (i % 2 ? 0.5 : 0)),
    );
  });
});

t.test("bfloat16 rounds to even", async (t) => {
  t.same([1, 1 + 2 ** -8, 1 + 3 * 2 ** -8, 1 + 2 ** -8 + 2 ** -20, -0.3].map(bfloat16), [
    1,
    1,
    1 + 2 ** -6,
    1 + 2 ** -7,
    -0.30078125,
  ]);
});

t.test("what stands before and after a prompt, with B9-12 and without", async (t) => {
  const ids = new Map(["<s>", "</s>", "Why", "?"].map((word, id) => [word, id]));
  const tokenizer = {
    ...{ bosId: 0, addsBos: true, specialTokens: { eos_token: "</s>" } },
    encodeBatch: async (texts: string[]) =>
      texts.map((text) => Int32Array.from(text.split(/(?<=>)|(?=<)| /), (word) => ids.get(word)!)),
  };
  const model = { tokenizer, info: { contextLength: 8 }, name: "m" } as unknown as Model;
  const rows = ["<s>Why ?", "<s>Why</s>"].map((prompt, index) => ({ prompt, index, question: "Why", target: 0 }));
  const read = async (eos: boolean, compat: PublishedTraining["compat"]) =>
    (await promptTokens(model, rows, { eos, compat })).map((row) => [...row]);
  const plain = [
    [0, 2, 3],
    [0, 2, 1],
  ];
  t.same(await read(false, new Set()), plain);
  t.same(await read(true, new Set()), [[0, 2, 3, 1], plain[1]], "an end that is there is not doubled");
  const twice = plain.map((row) => [0, ...row]);
  t.same(await read(false, new Set(["B9-12"])), twice, "B9-12: a first token that is there is");
  tokenizer.addsBos = false;
  t.same(await read(false, new Set(["B9-12"])), plain, "unless the tokenizer adds none");
});

t.test("what is trained here", async (t) => {
  const folder = t.testdir();
  await using model = await Model.load(writeTinyModel(join(folder, "model")), { dtype: "f32", threads: 1 });
  const files = await writeToySet(join(folder, "nq"));
  const job = { ...small(join(folder, "trained"), files), epochs: 2 };
  await trainPublished(job, { model });
  const paths = runPaths(job.output);

  await t.test("is loaded, scored and asked", async (t) => {
    await using policy = await loadTrained(model, { adapter: paths.adapter, head: paths.head });
    const job = { data: files.data, output: join(folder, "predicted"), split: "train" as const, batch: 16 };
    const predicted = await predictPublished(policy, { ...job, compat: new Set() });
    t.equal(predicted.length, 40);
    const one = await predictPublished(policy, { ...job, batch: 1, compat: new Set() });
    t.same(one, predicted, "whatever shares a batch");
    const questions = toyQuestions(40).map(({ question }) => question);
    t.same(
      await policy.score(questions),
      predicted.map((row) => row.predicted),
      "the card says how",
    );
    await t.rejects(policy.answer("what colour ?", { history: [{ role: "user", content: "of" }] }), {
      message: /ask one question/,
    });
    const other = await writeToySet(join(folder, "other"), { end: " of" });
    await t.rejects(predictPublished(policy, { ...job, data: other.data, compat: new Set() }), {
      code: "OTHER_PROMPT",
      message: /40 of 40 prompts are put otherwise than in training \(the card says .*record 1 is/,
    });
  });

  await t.test("what does not fit is refused", async (t) => {
    const wider = join(folder, "wider.pt");
    cpSync(join(golden, goldenRun, "best_checkpoints", "vector_head_epoch_best.pt"), wider);
    await t.rejects(loadTrained(model, { head: wider }), { code: "WRONG_BASE", message: /reads 36 numbers.*40 wide/ });
    await t.rejects(loadTrained(model, { head: join(folder, "best-checkpoint", "no.pt") }), {
      code: "NO_FILE",
      message: /nor in another spelling \(.*best_checkpoints/,
    });
  });
});

t.test("files of torch.save", async (t) => {
  const path = join(t.testdir(), "head.pt");
  const tensor = (name: string, shape: number[]) => {
    const count = shape.reduce((all, size) => all * size, 1);
    return {
      name,
      shape,
      data: Float32Array.from({ length: count }, (_, i) => Math.fround(Math.sin(i + shape.length))),
    };
  };
  const tensors = [
    tensor("0.weight", [3, 5]),
    tensor("0.bias", [3]),
    tensor("Grüße.weight", [2, 1, 4]),
    tensor("one", [1]),
  ];
  writeFileSync(path, Buffer.concat(encodeTorchFile(tensors, "head")));
  t.same(native().readTensors(path), tensors);
  t.equal(readZipEntry(path, (name) => name.endsWith("/version")).data.toString(), "3\n");
  t.throws(() => encodeTorchFile([{ name: "w", shape: [2, 2], data: new Float32Array(3) }], "w"), {
    message: /3 numbers do not fill the shape \[2, 2\]/,
  });
});
