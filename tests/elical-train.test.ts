/** Training as EliCal was published: the published files, the best epoch, patience, and that stopping changes nothing. */
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
import t from "tap";
import { loadTrained } from "../src/methods/elical/published/adapters.js";
import { runPaths } from "../src/methods/elical/published/paths.js";
import { predictPublished } from "../src/methods/elical/published/predict.js";
import { readSampledRows } from "../src/methods/elical/published/rows.js";
import { trainPublished } from "../src/methods/elical/published/train.js";
import { loadRecipe, runRecipe, type Setting } from "../src/methods/recipes.js";
import { readSafetensors } from "../src/model/safetensors.js";
import { native } from "../src/native.js";
import { Model } from "../src/policy/model.js";
import { fakeEngine } from "./fixtures/fake-native.js";
import { fitLogistic } from "./fixtures/fit-logistic.js";
import { small, toyQuestions, writeToySet } from "./fixtures/published-training.js";
import { metricsOf, runBytes, stopAfter, tinySettings } from "./fixtures/runs.js";
import { writeTinyModel, writeTinyQuestions } from "./fixtures/tiny-model.js";

/** Mean loss of each epoch of a head's training. */
function stepLosses(output: string): number[] {
  const sums = new Map<number, number[]>();
  for (const { epoch, loss } of metricsOf(join(output, "stages", "02-train")))
    if (loss !== undefined) sums.set(epoch!, [...(sums.get(epoch!) ?? []), loss]);
  return [...sums.values()].map((all) => all.reduce((sum, loss) => sum + loss, 0) / all.length);
}

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
    for (const stop of [1, 8, 14]) {
      const stopped = join(folder, `stopped-${stop}`);
      const job = small(stopped, files);
      await t.rejects(trainPublished(job, { model, ...stopAfter(stop) }), { code: "ABORTED" });
      await trainPublished(job, { model });
      const bytes = runBytes(stopped);
      t.same(
        Object.keys(bytes).filter((name) => /best|losses|metrics/.test(name) && bytes[name] !== expected[name]),
        [],
        `after ${stop} steps`,
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
