/**
 * Training and predicting as EliCal was published: the padded and appended readings of PyTorch and PEFT, the released
 * layout, the best epoch, patience, and that stopping changes nothing.
 */
import { spawnSync } from "node:child_process";
import {
  cpSync,
  existsSync,
  mkdirSync,
  readdirSync,
  readFileSync,
  renameSync,
  truncateSync,
  writeFileSync,
} from "node:fs";
import { dirname, join } from "node:path";
import { fileURLToPath } from "node:url";
import t from "tap";
import { PythonRandom } from "../src/data/random.js";
import { loadTrained } from "../src/methods/elical/published/adapters.js";
import { runPaths } from "../src/methods/elical/published/paths.js";
import { predictPublished } from "../src/methods/elical/published/predict.js";
import { bfloat16, paddedRows, promptTokens } from "../src/methods/elical/published/reading.js";
import { promptTemplate, readSampledRows } from "../src/methods/elical/published/rows.js";
import {
  chosenRows,
  type PublishedTraining,
  pathsOfSets,
  trainingDefaults,
  trainPublished,
} from "../src/methods/elical/published/train.js";
import { loadRecipe, runRecipe, type Setting } from "../src/methods/recipes.js";
import { readSafetensors } from "../src/model/safetensors.js";
import { encodeTorchFile } from "../src/model/torch-file.js";
import { readZipEntry } from "../src/model/zip.js";
import { native } from "../src/native.js";
import { Model } from "../src/policy/model.js";
import { stepBatch } from "../src/training/confidence-head.js";
import { fakeEngine } from "./fixtures/fake-native.js";
import { fitLogistic } from "./fixtures/fit-logistic.js";
import { runBytes, tinySettings } from "./fixtures/runs.js";
import { tinyQuestions, writeTinyModel, writeTinyQuestions } from "./fixtures/tiny-model.js";

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

/** The tiny model's questions, every third one longer. */
const toyQuestions = (count: number) =>
  tinyQuestions(count).map((one, i) => (i % 3 ? one : { ...one, question: `is that what ${one.question}` }));

/** Sampled answers and verdicts to them, as the published files hold them. */
async function writeToySet(folder: string, { count = 40, samples = 4, end = "" } = {}) {
  mkdirSync(folder, { recursive: true });
  const random = new PythonRandom(3);
  const sampled: string[] = [];
  const verdicts: string[] = [];
  for (const { question, answer } of toyQuestions(count)) {
    const prompt = `<s><|user|> Answer the following question . Question : ${question} </s> <|assistant|>${end}`;
    const response = Array.from({ length: samples }, () => (random.random() < 0.5 ? answer[0]! : "of"));
    sampled.push(JSON.stringify({ question, answer, instruction: "", prompt, response }));
    // What is learnt follows from a word at the end.
    for (let i = 0; i < samples; i++) {
      const yes = question.includes("loudly") ? random.random() < 0.9 : random.random() < 0.1;
      verdicts.push(JSON.stringify({ original_question: question, response: [yes ? "certain" : "Uncertain."] }));
    }
  }
  const paths = { data: join(folder, "sampled.jsonl"), verdicts: join(folder, "verdicts.jsonl") };
  writeFileSync(paths.data, `${sampled.join("\n")}\n`);
  writeFileSync(paths.verdicts, `${verdicts.join("\n")}\n`);
  return paths;
}

/** Mean loss of each epoch of a head's training. */
function stepLosses(output: string): number[] {
  const lines = readFileSync(join(output, "stages", "02-train", "metrics.jsonl"), "utf8")
    .trim()
    .split("\n");
  const sums = new Map<number, number[]>();
  for (const { epoch, loss } of lines.map((line) => JSON.parse(line) as { epoch: number; loss?: number }))
    if (loss !== undefined) sums.set(epoch, [...(sums.get(epoch) ?? []), loss]);
  return [...sums.values()].map((all) => all.reduce((sum, loss) => sum + loss, 0) / all.length);
}

const small = (output: string, train: PublishedTraining["train"]): PublishedTraining => ({
  ...trainingDefaults,
  part: "lora",
  train,
  output,
  batch: 4,
  accumulation: 2,
  epochs: 6,
  learningRate: 5e-3,
  weightDecay: 0.1,
  validationShare: 0.25,
  compat: new Set(),
});

t.test("training as published", async (t) => {
  const folder = t.testdir();
  const path = writeTinyModel(join(folder, "model"));
  await using model = await Model.load(path, { dtype: "f32", threads: 1 });
  const files = await writeToySet(join(folder, "nq"));
  const output = join(folder, "whole");
  const report = await trainPublished(small(output, files), { model });
  const paths = runPaths(output);

  await t.test("leaves the published files", async (t) => {
    t.match(report, { rows: 30, validationRows: 10, unparsed: 0 });
    const losses = readFileSync(paths.losses, "utf8").trim().split("\n");
    t.same(
      losses.map((line) => JSON.parse(line)),
      report.losses.map((loss, i) => ({ epoch: i + 1, test_loss: loss })),
    );
    t.ok(Math.min(...report.losses) < report.losses[0]!, `something was learnt: ${report.losses}`);
    const config = JSON.parse(readFileSync(join(paths.adapter, "adapter_config.json"), "utf8"));
    t.match(config, { task_type: null, r: 8, lora_alpha: 16, bias: "none" });
    const adapter = readSafetensors(join(paths.adapter, "adapter_model.safetensors"));
    t.ok(adapter.every(({ name }) => /^base_model\.model\.layers\.\d\.\S+\.lora_[AB]\.weight$/.test(name)));
    const head = native().readTensors(paths.head);
    t.same(
      head.map(({ name, shape }) => [name, shape]),
      [
        ["weight", [1, 40]],
        ["bias", [1]],
      ],
    );
    const own = readSafetensors(join(paths.adapter, "heads.safetensors"));
    for (const { name, data } of head) t.same(data, own.find((tensor) => tensor.name === `confidence.${name}`)!.data);
    const card = JSON.parse(readFileSync(join(paths.adapter, "credence.json"), "utf8"));
    t.match(card.confidence.prompt, {
      user: "<s><|user|> Answer the following question . Question : {question} </s> <|assistant|>",
      template: "none",
    });
    t.ok(existsSync(join(output, "stages", "01-train", "metrics.jsonl")));
  });

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

  await t.test("goes on from its adapter and head, with an optimiser of its own", async (t) => {
    const second = join(folder, "second");
    const from = { adapter: paths.adapter, head: paths.head };
    await trainPublished({ ...small(second, files), from, epochs: 1 }, { model });
    const tensors = (run: string) => readSafetensors(join(runPaths(run).adapter, "adapter_model.safetensors"));
    const before = new Map(tensors(output).map(({ name, data }) => [name, data]));
    for (const { name, data } of tensors(second)) {
      t.notSame(data, before.get(name), `${name} has learnt`);
      const moved = Math.max(...data.map((value, i) => Math.abs(value - before.get(name)![i]!)));
      t.ok(moved < 0.05, `${name} has begun where the first stage ended: moved by ${moved}`);
    }
    await t.rejects(trainPublished({ ...small(join(folder, "r4"), files), from, rank: 4 }, { model }), {
      message: /has r 8 and alpha 16; r 4 and alpha 16 are asked for/,
    });
  });

  await t.test("stops when an epoch no longer helps, and keeps the best", async (t) => {
    const job = { ...small(join(folder, "patient"), files), epochs: 30, learningRate: 0.05, patience: 2 };
    const { losses, bestEpoch, steps } = await trainPublished(job, { model });
    t.equal(losses.length, bestEpoch + 2);
    t.ok(losses.length < 30, `${losses.length} epochs`);
    t.equal(steps, 4 * losses.length);
    const kept = runPaths(job.output);
    await using policy = await loadTrained(model, { adapter: kept.adapter, head: kept.head });
    const held = JSON.parse(readFileSync(join(job.output, "stages", "01-train", "best", "state.json"), "utf8"));
    t.equal(held.step, 4 * bestEpoch);
    t.equal(held.validation.losses.length, bestEpoch);
    const best = readSafetensors(join(job.output, "stages", "01-train", "best", "heads.safetensors"));
    for (const tensor of policy.native.tensors().heads)
      t.same(tensor.data, best.find(({ name }) => name === tensor.name)!.data);
    t.same(await trainPublished(job, { model }), { ...(await trainPublished(job, { model })) }, "done once");
  });

  await t.test("stopped anywhere, ends with the same bytes", async (t) => {
    const expected = runBytes(output);
    for (const stop of [1, 9, 14]) {
      const stopped = join(folder, `stopped-${stop}`);
      const abort = new AbortController();
      let steps = 0;
      const progress = {
        note() {},
        task: () => ({
          advance() {
            steps += 1;
            if (steps === stop) abort.abort();
          },
          end() {},
        }),
      };
      const job = { ...small(stopped, files) };
      await t.rejects(trainPublished(job, { model, progress, signal: abort.signal }), { code: "ABORTED" });
      await trainPublished(job, { model });
      const bytes = runBytes(stopped);
      t.same(
        Object.keys(bytes).filter((name) => /best|losses|metrics/.test(name) && bytes[name] !== expected[name]),
        [],
        `after ${stop} signs of progress`,
      );
    }
    await t.rejects(trainPublished({ ...small(output, files), weightDecay: 0 }, { model }), {
      code: "OTHER_RECIPE",
      message: /weightDecay/,
    });
    const changed = await writeToySet(join(folder, "changed"), { count: 44 });
    renameSync(changed.data, files.data);
    renameSync(changed.verdicts, files.verdicts);
    await t.rejects(trainPublished(small(output, files), { model }), { code: "OTHER_RECIPE", message: /rows/ });
    await writeToySet(dirname(files.data));
  });

  await t.test("with every quirk: the test sets choose, rows are padded and end in EOS", async (t) => {
    const compat = new Set(["B9-9", "B9-11", "B9-12", "B9-13", "B9-15", "B9-16", "B9-19"] as const);
    const test = await writeToySet(join(folder, "hq"), { count: 12 });
    const job = { ...small(join(folder, "published"), files), epochs: 2, test, compat };
    const { rows, validationRows, losses } = await trainPublished(job, { model });
    t.match({ rows, validationRows }, { rows: 40, validationRows: 12 });
    const corrected = { ...job, output: join(folder, "unpadded"), lastToken: "last-real" as const };
    t.notSame((await trainPublished(corrected, { model })).losses, losses, "the reading makes a difference");
    const without = { ...job, output: join(folder, "no-eos"), eos: "none" as const };
    t.notSame((await trainPublished(without, { model })).losses, losses, "and so does the end");
    const { test: _, ...untested } = job;
    await t.rejects(trainPublished({ ...untested, output: join(folder, "untested") }, { model }), {
      message: /the best epoch is to be chosen on the test sets/,
    });
    // Trained and scored with its end: the card's prompt has it.
    const always = { ...small(join(folder, "always"), files), epochs: 1, eos: "always" as const };
    await trainPublished(always, { model });
    const kept = runPaths(always.output);
    await using policy = await loadTrained(model, { adapter: kept.adapter, head: kept.head });
    t.match(policy.card?.confidence.prompt?.user, /<\|assistant\|><\/s>$/);
    t.notMatch(policy.card?.prompt.user, /<\/s>$/);
    const scored = await policy.score(toyQuestions(5).map(({ question }) => question));
    const predictions = await predictPublished(policy, {
      data: files.data,
      output: join(folder, "always-predicted"),
      split: "test",
      batch: 16,
      compat: new Set(),
    });
    t.same(
      scored,
      predictions.slice(0, 5).map((row) => row.predicted),
    );
  });

  await t.test("a head alone", async (t) => {
    for (const head of ["mlp", "linear"] as const) {
      const job = { ...small(join(folder, head), files), part: "mlp" as const, head, learningRate: 2e-3, patience: 6 };
      const { losses, adapter } = await trainPublished(job, { model });
      t.equal(adapter, undefined);
      t.equal(losses.length, 6);
      const learnt = stepLosses(job.output);
      t.ok(learnt.at(-1)! < learnt[0]! - 0.01, `something was learnt: ${learnt}`);
      const kept = runPaths(job.output);
      const names = native()
        .readTensors(kept.head)
        .map(({ name, shape }) => `${name} ${shape.join("x")}`);
      const layered = ["0.weight 20x40", "0.bias 20", "2.weight 10x20", "2.bias 10", "4.weight 1x10", "4.bias 1"];
      t.same(names, head === "mlp" ? layered : ["weight 1x40", "bias 1"]);
      await using policy = await loadTrained(model, { head: kept.head });
      const job2 = { data: files.data, output: join(folder, "p"), split: "test" as const, batch: 16 };
      const predicted = await predictPublished(policy, { ...job2, compat: new Set() });
      // The same loss from the head on collected states as from whole passes.
      const { rows } = await readSampledRows(files.data, files.verdicts, { compat: new Set() });
      const questions = JSON.parse(readFileSync(join(job.output, "summary.json"), "utf8"));
      t.equal(questions.validationRows, 10);
      t.ok(rows.every((row) => predicted.some(({ index }) => index === row.index)));
      // Alone, without an adapter or a card, the .pt is enough.
      const alone = join(folder, `${head}-alone`, "vector_head_epoch_best.pt");
      mkdirSync(dirname(alone), { recursive: true });
      cpSync(kept.head, alone);
      await using bare = await loadTrained(model, { head: alone });
      const told = await predictPublished(bare, { ...job2, otherPrompt: true, compat: new Set() });
      t.same(told, predicted);
    }
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

t.test("a recipe holds groups out to choose the epoch", async (t) => {
  const folder = t.testdir();
  const addon = { ...fakeEngine(), fitLogistic };
  const settings: Setting[] = [
    ...tinySettings(writeTinyModel(join(folder, "model")), writeTinyQuestions(join(folder, "questions.jsonl"))),
    ["lora.calibrateEpochs", 6],
    ["lora.patience", 2],
  ];
  t.throws(() => loadRecipe("elical/quickstart", settings), { message: /lora\.patience needs lora\.validationShare/ });
  const recipe = loadRecipe("elical/quickstart", [...settings, ["lora.validationShare", 0.25]]);
  await runRecipe(recipe, { directory: join(folder, "run"), addon });
  const stages = readdirSync(join(folder, "run", "stages")).filter((name) => /elicit|calibrat/.test(name));
  t.equal(stages.length, 3);
  for (const stage of stages) {
    const at = join(folder, "run", "stages", stage);
    const newest = readdirSync(join(at, "checkpoints")).sort().at(-1)!;
    const { validation } = JSON.parse(readFileSync(join(at, "checkpoints", newest, "state.json"), "utf8"));
    const best = JSON.parse(readFileSync(join(at, "best", "state.json"), "utf8"));
    const epoch = validation.losses.indexOf(Math.min(...validation.losses)) + 1;
    t.equal(best.step, validation.bestStep, stage);
    t.equal(best.validation.losses.length, epoch, `${stage}: ${validation.losses}`);
    t.ok(validation.losses.length <= epoch + 2);
  }
});

t.test("rows", async (t) => {
  const folder = t.testdir();
  const files = await writeToySet(folder, { count: 5, samples: 4 });
  const reading = { compat: new Set<never>() };
  const lines = readFileSync(files.verdicts, "utf8").trim().split("\n");
  const verdicts = (changed: string[], more = {}) => {
    writeFileSync(files.verdicts, `${changed.join("\n")}\n`);
    return readSampledRows(files.data, files.verdicts, { ...reading, ...more });
  };
  await t.rejects(verdicts(lines.slice(0, -1)), {
    message: /its 19 lines do not come in groups.*end within question 5/,
  });
  await t.rejects(verdicts([...lines, ...lines.slice(0, 4)]), {
    message: /its 24 lines do not come in groups.*go on after question 5/,
  });
  await t.rejects(verdicts(lines.map((line) => line.replace("hat", "cup"))), {
    message: /judges an answer to .*It is of another run/,
  });
  const whole = await verdicts(lines);
  t.same(
    whole.rows.map(({ target }) => target),
    [0, 4, 8, 12, 16].map((at) => lines.slice(at, at + 4).filter((line) => line.includes('"certain"')).length / 4),
  );
  const unsaid = lines.map((line, i) => (i < 5 ? line.replace(/certain|Uncertain\./, "perhaps") : line));
  await t.rejects(verdicts(unsaid), { code: "UNPARSED", message: /5 verdicts say neither/ });
  t.match(await verdicts(unsaid, { unparsed: "negative" }), { unparsed: 5, rows: { 0: { target: 0 }, length: 5 } });
  const published = await verdicts(unsaid, { compat: new Set(["B9-15"]) });
  t.equal(published.rows[0]!.target, 1, "what says nothing counts as certain");
  // Without verdicts an answer is looked for, and one without words is in every text (B9-16) or in none.
  const wordless = { question: "q?", answer: ["A"], prompt: "q?", response: ["B", "C"] };
  writeFileSync(join(folder, "wordless.jsonl"), `${JSON.stringify(wordless)}\n`);
  const looked = async (compat: PublishedTraining["compat"]) =>
    (await readSampledRows(join(folder, "wordless.jsonl"), undefined, { compat })).rows[0]!.target;
  t.equal(await looked(new Set(["B9-16"])), 1);
  t.equal(await looked(new Set()), 0);
  const row = (question: string, prompt: string, index = 0) => ({ question, prompt, index, target: 0 });
  t.equal(promptTemplate([row("a", "Say a: a"), row("b", "Say a: b")]), "Say a: {question}");
  t.throws(() => promptTemplate([row("x", "Q x"), row("y", "R y", 1)]), {
    message: /record 2: .*not put as the others/,
  });
  t.throws(() => promptTemplate([row("x", "Q z")]), { message: /does not hold its question/ });

  const numbers = Array.from({ length: 50 }, (_, i) => i);
  const choice = { part: "lora" as const, seed: 42, shuffle: false, dataset: "nq", compat: new Set<never>() };
  // random.seed(42); random.sample(range(50), 5)
  t.same(chosenRows(numbers, { ...choice, count: 5 }), [40, 7, 1, 47, 17]);
  // random.seed(42); x = list(range(50)); random.shuffle(x); random.sample(x, 5)
  const several = { ...choice, shuffle: true, dataset: "nq-tq" };
  t.same(chosenRows(numbers, { ...several, count: 5 }), [13, 9, 41, 45, 49]);
  const head = { part: "mlp" as const, compat: new Set(["B9-19"] as const) };
  t.same(chosenRows(numbers, { ...choice, ...head, count: 3 }), [0, 1, 2], "B9-19: from the top");
  // random.seed(42); x = list(range(50)); random.shuffle(x); x[:5]
  t.same(chosenRows(numbers, { ...several, ...head, count: 5 }), [25, 23, 19, 11, 4], "of what was shuffled");
  t.same(chosenRows(numbers, { ...choice, part: "mlp", count: 5 }), [40, 7, 1, 47, 17], "at random, as for LoRA");
  t.same(
    chosenRows(numbers, { ...choice, compat: head.compat, count: 5 }),
    [40, 7, 1, 47, 17],
    "LoRA has no such quirk",
  );
  t.throws(() => chosenRows(numbers, { ...choice, count: 51 }), {
    message: /51 training rows are asked for, there are 50/,
  });
  t.same(pathsOfSets("R/nq-tq/train/nq-tq.jsonl", "nq-tq"), ["R/nq/train/nq.jsonl", "R/tq/train/tq.jsonl"]);
  t.throws(() => pathsOfSets("R/nq.jsonl", "nq-tq"), { message: /does not hold "nq-tq"/ });
});

/** A model folder of these sizes whose weights take no room on the disk: what a dry engine opens. */
function writeShape(folder: string, config: Record<string, number | string | boolean>): string {
  mkdirSync(folder, { recursive: true });
  writeFileSync(join(folder, "config.json"), JSON.stringify({ rms_norm_eps: 1e-6, rope_theta: 1e6, ...config }));
  const size = (name: string) => config[name] as number;
  const [hidden, inner, vocabulary] = [size("hidden_size"), size("intermediate_size"), size("vocab_size")];
  const [query, keys] = [hidden, (hidden / size("num_attention_heads")) * size("num_key_value_heads")];
  const shapes: [string, number[]][] = [["model.embed_tokens.weight", [vocabulary, hidden]]];
  for (let layer = 0; layer < size("num_hidden_layers"); layer++) {
    const name = (part: string) => `model.layers.${layer}.${part}`;
    const rows = { q: query, k: keys, v: keys };
    for (const [one, count] of Object.entries(rows)) {
      shapes.push([name(`self_attn.${one}_proj.weight`), [count, hidden]]);
      if (config.model_type === "qwen2") shapes.push([name(`self_attn.${one}_proj.bias`), [count]]);
    }
    shapes.push(
      [name("self_attn.o_proj.weight"), [hidden, query]],
      [name("mlp.gate_proj.weight"), [inner, hidden]],
      [name("mlp.up_proj.weight"), [inner, hidden]],
      [name("mlp.down_proj.weight"), [hidden, inner]],
      [name("input_layernorm.weight"), [hidden]],
      [name("post_attention_layernorm.weight"), [hidden]],
    );
  }
  shapes.push(["model.norm.weight", [hidden]], ["lm_head.weight", [vocabulary, hidden]]);
  const header: Record<string, unknown> = {};
  let at = 0;
  for (const [name, shape] of shapes) {
    const bytes = 2 * shape.reduce((all, one) => all * one, 1);
    header[name] = { dtype: "BF16", shape, data_offsets: [at, at + bytes] };
    at += bytes;
  }
  const text = Buffer.from(JSON.stringify(header));
  const length = Buffer.alloc(8);
  length.writeBigUInt64LE(BigInt(text.length));
  const path = join(folder, "model.safetensors");
  writeFileSync(path, Buffer.concat([length, text]));
  truncateSync(path, 8 + text.length + at);
  return folder;
}

t.test("as many parameters are learnt as were published", async (t) => {
  const sizes = (type: string, list: number[]) => {
    const names = [
      "hidden_size",
      "intermediate_size",
      "num_hidden_layers",
      "num_attention_heads",
      "num_key_value_heads",
    ];
    return {
      model_type: type,
      tie_word_embeddings: false,
      max_position_embeddings: 8192,
      ...Object.fromEntries([...names, "vocab_size"].map((name, i) => [name, list[i]!])),
    };
  };
  const models = {
    "qwen2.5-7b": [sizes("qwen2", [3584, 18944, 28, 28, 4, 152064]), 20_185_088 + 3585, 8_031_745],
    "qwen2.5-14b": [sizes("qwen2", [5120, 13824, 48, 40, 8, 152064]), 34_406_400 + 5121, undefined],
    "llama3-8b": [sizes("llama", [4096, 14336, 32, 32, 8, 128256]), 20_971_520 + 4097, undefined],
  } as const;
  for (const [name, [config, lora, layered]] of Object.entries(models)) {
    const base = await native().openBase(writeShape(join(t.testdir({}), name), config), { dry: true, dtype: "bf16" });
    const { hiddenSize } = base.info;
    const targets = ["q", "k", "v", "o", "gate", "up", "down"] as const;
    const adapter = { rank: 8, alpha: 16, targets: [...targets], seed: 0 };
    t.equal(base.policy({ adapter, heads: [{ name: "confidence", kind: "linear" }] }).trainable, lora, name);
    const widths = [hiddenSize / 2, hiddenSize / 4];
    const { trainable } = base.policy({ heads: [{ name: "confidence", kind: "mlp", widths }] });
    if (layered) t.equal(trainable, layered, `${name}, a head alone`);
    base.dispose();
  }
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

const bin = fileURLToPath(new URL("../dist/cli/bin.js", import.meta.url));

t.test("the commands", { skip: existsSync(bin) ? false : "the command line is not built" }, async (t) => {
  const folder = t.testdir();
  const model = writeTinyModel(join(folder, "model"));
  for (const set of ["nq", "tq"]) await writeToySet(join(folder, set), { count: 16 });
  const called = (args: string[], env: Record<string, string> = {}) =>
    spawnSync(process.execPath, [bin, "elical", ...args, "--threads", "1", "--log-level", "warn"], {
      env: { ...process.env, ...env },
      encoding: "utf8",
    });
  const training = (output: string, script = "train") => [
    ...[script, "--model_path", model, "--dataset", "nq-tq", "--shuffle", "--train_data_count", "24"],
    ...["--train_data_path", join(folder, "nq-tq", "sampled.jsonl")],
    ...["--train_consis_path", join(folder, "nq-tq", "verdicts.jsonl")],
    ...["--output_path", join(folder, output), "--logger_path", join(folder, `${output}-logs`)],
    ...["--per_device_train_batch_size", "4", "--gradient_accumulation_steps", "1", "--num_train_epochs", "2"],
    ...["--weight_decay", "0.1", "--learning-rate", "5e-3", "--validation-share", "0.25"],
  ];

  const whole = called(training("whole"), { CREDENCE_FAULTS: "1", CREDENCE_COUNT_FILE: join(folder, "count") });
  t.equal(whole.status, 0, whole.stderr);
  const expected = runBytes(join(folder, "whole"));
  const operations = Number(readFileSync(join(folder, "count"), "utf8"));
  t.ok(readdirSync(join(folder, "whole-logs")).some((name) => name.startsWith("events.out.tfevents.")));
  const first = Math.floor(Date.now() / 86_400_000);
  for (let kill = 0; kill < 4; kill++) {
    const at = Math.floor(((kill + (first % 7) / 7) / 4) * (operations - 1)) + 1;
    const killed = training(`killed-${kill}`);
    t.equal(called(killed, { CREDENCE_FAULTS: "1", CREDENCE_DIE_AT: String(at) }).signal, "SIGKILL", `dies at ${at}`);
    const again = called(killed);
    t.equal(again.status, 0, again.stderr);
    t.same(runBytes(join(folder, `killed-${kill}`)), expected, `of ${operations} operations`);
  }

  const head = called([...training("head", "train-mlp"), "--compat", "B9-19", "--json"]);
  t.equal(head.status, 0, head.stderr);
  t.match(JSON.parse(head.stdout), { rows: 17, validationRows: 7, steps: 10 });
  const at = (run: string) => join(folder, run, "best_checkpoints"); // as released
  const data = ["--test_data_path", join(folder, "nq", "sampled.jsonl"), join(folder, "tq", "sampled.jsonl")];
  const predicting = (script: string, run: string, out: string) => [
    ...[script, "--model_path", model, "--vector_head_path", join(at(run), "vector_head_epoch_best.pt"), ...data],
    ...["--output_path", join(folder, out, "nq"), join(folder, out, "tq")],
  ];
  const lora = ["--lora_path", join(at("whole"), "lora_epoch_best"), "--r", "8"];
  for (const args of [predicting("predict-mlp", "head", "p"), [...predicting("predict", "whole", "p"), ...lora]]) {
    const done = called(args);
    t.equal(done.status, 0, done.stderr);
    const lines = readFileSync(join(folder, "p", "tq", "evaluation_results_test.jsonl"), "utf8")
      .trim()
      .split("\n");
    t.same(
      lines.map((line) => JSON.parse(line).index),
      Array.from({ length: 16 }, (_, i) => i),
    );
  }
  const usage = (args: string[], message: RegExp) => {
    const refused = called(args);
    t.equal(refused.status, 2, refused.stderr);
    t.match(refused.stderr, message);
  };
  usage([...training("x"), "--per_device_eval_batch_size", "8"], /did nothing in the published script/);
  for (const [flag, value, expected] of [
    ["num_train_epochs", "0", "one whole number above 0"],
    ["per_device_train_batch_size", "-4", "one whole number above 0"],
    ["train_data_count", "2.5", "one whole number from 0"],
    ["lora_dropout", "1", "a number from 0, below 1"],
    ["learning-rate", "x", "a number above 0"],
    ["validation-share", "1.5", "a number above 0, below 1"],
  ] as const) {
    const at = training("x").indexOf(`--${flag}`);
    const line = at < 0 ? training("x") : training("x").toSpliced(at, 2);
    usage([...line, `--${flag}=${value}`], new RegExp(`--${flag}: expected ${expected}, got`));
  }
  usage([...training("x"), "--lora_path", "y"], /--lora_path is what --resume_from goes on from/);
  usage([...training("x"), "--resume_from"], /--vector_head_path says which head/);
  usage(predicting("predict-mlp", "head", "p").slice(0, -1), /names 2 files, --output_path 1 folders/);
  usage([...predicting("predict-mlp", "head", "p"), "--type", "train"], /--train_data_path says what to score/);
});
