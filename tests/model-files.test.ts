/** Models and adapters written for other programs: merged, exported, converted; read again, and read by llama.cpp. */
import { cpSync, existsSync, mkdirSync, readdirSync, readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import t from "tap";
import { main } from "../src/cli/main.js";
import { PythonRandom } from "../src/data/random.js";
import { encodeSafetensors, readSafetensors } from "../src/model/safetensors.js";
import { native, type TensorData } from "../src/native.js";
import { Model } from "../src/policy/model.js";
import { convertModel, exportAdapter, mergeAdapter, readTensors } from "../src/policy/model-files.js";
import { Tokenizer } from "../src/text/tokenizer.js";
import { writeTinyModel } from "./fixtures/tiny-model.js";

const golden = new URL("./golden/", import.meta.url).pathname;
const threads = 1;
const template =
  "{% for message in messages %}<|im_start|>{{ message.role }}\n{{ message.content }}<|im_end|>\n{% endfor %}";

interface Shape {
  hidden?: number;
  inner?: number;
  tied?: boolean;
  vocabulary?: number;
  config?: Record<string, unknown>;
}

/** A random two-layer decoder with the small byte-level tokenizer, in float32. */
function writeDecoder(
  folder: string,
  { hidden = 64, inner = 96, tied = true, vocabulary = 304, config = {} }: Shape = {},
): string {
  mkdirSync(folder, { recursive: true });
  cpSync(join(golden, "text/tokenizer"), folder, { recursive: true });
  writeFileSync(join(folder, "chat_template.jinja"), template);
  const [heads, size] = [2, 32];
  const settings = {
    architectures: ["LlamaForCausalLM"],
    model_type: "llama",
    hidden_size: hidden,
    intermediate_size: inner,
    num_hidden_layers: 2,
    num_attention_heads: heads,
    num_key_value_heads: 1,
    head_dim: size,
    vocab_size: vocabulary,
    max_position_embeddings: 256,
    rms_norm_eps: 1e-5,
    rope_theta: 10000,
    tie_word_embeddings: tied,
    bos_token_id: 1,
    eos_token_id: 2,
    torch_dtype: "float32",
    ...config,
  };
  writeFileSync(join(folder, "config.json"), JSON.stringify(settings));
  const random = new PythonRandom(4);
  const tensors: TensorData[] = [];
  const add = (name: string, ...shape: number[]) => {
    const count = shape.reduce((all, one) => all * one, 1);
    const scale = shape.length === 1 ? 0.3 : 1.7 / Math.sqrt(shape[1]!);
    const middle = shape.length === 1 && !name.endsWith("bias") ? 1 : 0;
    const data = Float32Array.from({ length: count }, () => middle + scale * (2 * random.random() - 1));
    tensors.push({ name, shape, data });
  };
  add("model.embed_tokens.weight", vocabulary, hidden);
  for (const layer of [0, 1]) {
    const block = `model.layers.${layer}.`;
    add(`${block}input_layernorm.weight`, hidden);
    add(`${block}post_attention_layernorm.weight`, hidden);
    add(`${block}self_attn.q_proj.weight`, heads * size, hidden);
    add(`${block}self_attn.k_proj.weight`, size, hidden);
    add(`${block}self_attn.v_proj.weight`, size, hidden);
    add(`${block}self_attn.o_proj.weight`, hidden, heads * size);
    if (settings.model_type === "qwen2") {
      for (const name of ["q", "k", "v"])
        add(`${block}self_attn.${name}_proj.bias`, name === "q" ? heads * size : size);
    }
    if (settings.model_type === "qwen3")
      for (const name of ["q", "k"]) add(`${block}self_attn.${name}_norm.weight`, size);
    add(`${block}mlp.gate_proj.weight`, inner, hidden);
    add(`${block}mlp.up_proj.weight`, inner, hidden);
    add(`${block}mlp.down_proj.weight`, hidden, inner);
  }
  add("model.norm.weight", hidden);
  if (!tied) add("lm_head.weight", vocabulary, hidden);
  writeFileSync(join(folder, "model.safetensors"), Buffer.concat(encodeSafetensors(tensors)));
  return folder;
}

/** Every tensor of a folder by its name. */
const weightsOf = (folder: string): Map<string, TensorData> =>
  new Map(
    readdirSync(folder)
      .filter((name) => /^model.*\.safetensors$/.test(name))
      .flatMap((name) => readSafetensors(join(folder, name)))
      .map((tensor) => [tensor.name, tensor]),
  );

/** A folder with an adapter whose B is not zero, and a head. */
async function writeAdapter(model: string, folder: string): Promise<string> {
  const loaded = await Model.load(model, { threads });
  const policy = await loaded.policy({
    adapter: { rank: 3, alpha: 7, targets: ["q", "v", "down"], layers: [1], seed: 5 },
  });
  const random = new PythonRandom(6);
  policy.native.setTensors(
    policy.native
      .tensors()
      .adapter.map((tensor) => ({ ...tensor, data: tensor.data.map(() => 0.4 * (random.random() - 0.5)) })),
  );
  policy.save(folder);
  await loaded.dispose();
  return folder;
}

t.test("a model goes into a GGUF and comes back", async (t) => {
  const folder = t.testdir();
  const shapes: [string, Shape][] = [
    ["tied", {}],
    ["untied", { tied: false, config: { rope_scaling: { rope_type: "linear", factor: 2 } } }],
    [
      "llama3",
      {
        config: {
          rope_scaling: {
            rope_type: "llama3",
            factor: 8,
            low_freq_factor: 1,
            high_freq_factor: 4,
            original_max_position_embeddings: 64,
          },
        },
      },
    ],
    ["qwen2", { tied: false, config: { model_type: "qwen2", architectures: ["Qwen2ForCausalLM"] } }],
    ["qwen3", { config: { model_type: "qwen3", architectures: ["Qwen3ForCausalLM"] } }],
  ];
  for (const [name, shape] of shapes) {
    const source = writeDecoder(join(folder, name), shape);
    const gguf = join(folder, `${name}.gguf`);
    const there = await convertModel(source, gguf, { type: "F32", threads });
    // Llama 3's frequencies go through float32 divisors; everything else keeps every bit.
    const exact = name === "llama3" ? 1e-5 : 0;
    t.ok(there.check.error <= exact, `${name}: ${there.check.error}`);
    const back = await convertModel(gguf, join(folder, `${name}-back`), { threads });
    t.match(back, { type: "F32", check: { rows: 48, sameChoice: 48 } }, name);
    t.ok(back.check.error <= exact, `${name}: ${back.check.error}`);
    const [before, after] = [weightsOf(source), weightsOf(join(folder, `${name}-back`))];
    t.same([...after.keys()].sort(), [...before.keys()].sort(), name);
    for (const [key, tensor] of before) t.same(after.get(key), tensor, `${name}: ${key}`);
    const text = "Two words, 1234 digits\nand <|im_end|> done";
    const [a, b, c] = await Promise.all(
      [source, gguf, join(folder, `${name}-back`)].map(async (path) => {
        const tokenizer = await Tokenizer.load(path);
        return {
          ids: await tokenizer.encode(text),
          eos: tokenizer.eosIds,
          bos: tokenizer.bosId,
          chat: tokenizer.chatTemplate,
        };
      }),
    );
    t.same(b, a, `${name}: the tokenizer in the GGUF`);
    t.same(c, a, `${name}: the tokenizer that came back`);
  }
  t.same(
    readdirSync(folder).filter((name) => name.startsWith(".")),
    [],
    "nothing half-written is left",
  );
});

t.test("rounded types stay within their bounds", async (t) => {
  const folder = t.testdir();
  const source = writeDecoder(join(folder, "source"), { tied: false });
  const errors: Record<string, number> = {};
  for (const type of ["F16", "BF16", "Q8_0", "Q4_0"] as const) {
    const { check } = await convertModel(source, join(folder, `${type}.gguf`), { type, threads });
    errors[type] = check.error;
    t.ok(check.error > 0 && check.error < (check.bound ?? 1), `${type}: ${check.error}`);
  }
  t.ok(errors.F16! < errors.BF16! && errors.Q8_0! < errors.Q4_0!, "more bits are closer");
  const odd = writeDecoder(join(folder, "odd"), { hidden: 40, inner: 50 });
  const written = await convertModel(odd, join(folder, "odd.gguf"), { type: "Q8_0", threads });
  t.match(written.notes, [/^\d+ matrices are F16: their rows are no multiple of 32/]);
  await t.rejects(convertModel(source, join(folder, "x"), { type: "Q8_0" }), { code: "BAD_OPTION", message: /\.gguf/ });
});

t.test("a window becomes the context of a format that has none", async (t) => {
  const folder = t.testdir();
  const config = { architectures: ["MistralForCausalLM"], model_type: "mistral", sliding_window: 7 };
  const written = await convertModel(writeDecoder(join(folder, "mistral"), { config }), join(folder, "m.gguf"), {
    threads,
  });
  t.match(written.notes, [/the context is 7 tokens instead of 256/]);
  t.equal(written.check.largestDifference, 0, "compared within that context");
});

t.test("an adapter is merged into its base", async (t) => {
  const folder = t.testdir();
  const base = writeDecoder(join(folder, "base"));
  const adapter = await writeAdapter(base, join(folder, "adapter"));
  const merged = await mergeAdapter(adapter, join(folder, "merged"), { model: base, shardBytes: 40_000, threads });
  t.ok(merged.check.error > 0 && merged.check.error < 1e-5, `${merged.check.error}`);
  t.ok(merged.files.filter((name) => /^model-\d{5}-of-\d{5}\.safetensors$/.test(name)).length > 2, "in shards");
  t.ok(merged.files.includes("model.safetensors.index.json") && merged.files.includes("chat_template.jinja"));
  const [before, after] = [weightsOf(base), weightsOf(join(folder, "merged"))];
  const changed = [...before.keys()].filter(
    (name) => !Buffer.from(before.get(name)!.data.buffer).equals(Buffer.from(after.get(name)!.data.buffer)),
  );
  t.same(
    changed.sort(),
    ["mlp.down_proj", "self_attn.q_proj", "self_attn.v_proj"].map((name) => `model.layers.1.${name}.weight`),
    "and nothing else",
  );
  const gguf = await mergeAdapter(adapter, join(folder, "merged.gguf"), { model: base, type: "F16", threads });
  t.ok(gguf.check.error < 5e-3);
  await t.rejects(mergeAdapter(adapter, join(folder, "merged"), { model: base }), {
    code: "EXISTS",
    message: /merged is there/,
  });
  await t.rejects(mergeAdapter(base, join(folder, "x"), { model: base }), { code: "NO_ADAPTER" });
});

t.test("an adapter is exported under both spellings", async (t) => {
  const folder = t.testdir();
  const base = writeDecoder(join(folder, "base"));
  const adapter = await writeAdapter(base, join(folder, "adapter"));
  for (const [keys, prefix] of [
    ["peft", "base_model.model.model.layers.1."],
    ["bare", "base_model.model.layers.1."],
  ] as const) {
    const out = join(folder, keys);
    const { check } = await exportAdapter(adapter, out, { keys, model: base, threads });
    t.equal(check.largestDifference, 0);
    const tensors = readSafetensors(join(out, "adapter_model.safetensors"));
    t.ok(tensors.length === 6 && tensors.every(({ name }) => name.startsWith(prefix)), keys);
  }
});

t.test("what does not match its source is not kept", async (t) => {
  const folder = t.testdir();
  const base = writeDecoder(join(folder, "base"));
  const engine = {
    ...native(),
    compareModels: async () => ({ largestDifference: 3, largestLogit: 10, rows: 48, sameChoice: 1 }),
  };
  for (const out of ["wrong.gguf", "wrong"]) {
    await t.rejects(convertModel(base, join(folder, out), { engine, type: "F32" }), {
      code: "NOT_THE_SAME",
      message: /differ by 3.* of 10.*0.3.* where 0.0001/,
    });
    t.notOk(existsSync(join(folder, out)));
  }
  await t.rejects(convertModel(base, join(folder, "base", "config.json", "x.gguf")), { code: "FILE" });
  const stopped = AbortSignal.abort();
  await t.rejects(convertModel(base, join(folder, "stopped"), { signal: stopped, threads }), { code: "ABORTED" });
  t.same(readdirSync(folder), ["base"], "and nothing else is left");
  const tiny = writeTinyModel(join(folder, "tiny"));
  await t.rejects(convertModel(tiny, join(folder, "tiny.gguf")), { code: "UNKNOWN_TOKENIZER", message: /WordLevel/ });
});

t.test("an embedding grows and shrinks with a tokenizer", async (t) => {
  const folder = t.testdir();
  const base = writeDecoder(join(folder, "base"), { tied: false });
  const larger = join(folder, "larger");
  cpSync(join(golden, "text/tokenizer"), larger, { recursive: true });
  const document = JSON.parse(readFileSync(join(larger, "tokenizer.json"), "utf8"));
  for (let id = 300; id < 310; id++) {
    document.added_tokens.push({ ...document.added_tokens[0], id, content: `<|extra_${id}|>` });
  }
  writeFileSync(join(larger, "tokenizer.json"), JSON.stringify(document));
  await convertModel(base, join(folder, "grown"), { tokenizer: larger, threads });
  const [old, grown] = [weightsOf(base), weightsOf(join(folder, "grown"))];
  for (const name of ["model.embed_tokens.weight", "lm_head.weight"]) {
    const [from, to] = [old.get(name)!, grown.get(name)!];
    t.same(to.shape, [310, 64]);
    t.same(to.data.subarray(0, 304 * 64), from.data, "old rows stay");
    for (const column of [0, 63]) {
      let sum = 0;
      for (let row = 0; row < 304; row++) sum += from.data[row * 64 + column]!;
      for (const row of [304, 309])
        t.ok(Math.abs(to.data[row * 64 + column]! - sum / 304) < 1e-6, "new rows are the mean");
    }
  }
  t.equal((await Tokenizer.load(join(folder, "grown"))).idOf("<|extra_309|>"), 309);
  const shrunk = await convertModel(join(folder, "grown"), join(folder, "shrunk.gguf"), { tokenizer: base, threads });
  t.equal(shrunk.check.largestDifference, 0);
  t.equal((await Tokenizer.load(join(folder, "shrunk.gguf"))).vocabularySize, 300);
  await convertModel(base, join(folder, "wide"), { vocabulary: 320, threads });
  t.same(weightsOf(join(folder, "wide")).get("lm_head.weight")!.shape, [320, 64]);
  await t.rejects(convertModel(base, join(folder, "x"), { vocabulary: 299 }), {
    code: "BAD_OPTION",
    message: /300 tokens/,
  });
  delete document.model.vocab[document.added_tokens[2].content];
  document.model.vocab["<|other|>"] = 2;
  document.added_tokens[2].content = "<|other|>";
  writeFileSync(join(larger, "tokenizer.json"), JSON.stringify(document));
  await t.rejects(convertModel(base, join(folder, "x"), { tokenizer: larger }), {
    code: "OTHER_TOKENIZER",
    message: /token 2 is "<\|im_end\|>" in .*base and "<\|other\|>" in/,
  });
});

t.test("heads that PyTorch saved", async (t) => {
  const names = readTensors(join(golden, "pickle/head.pt")).map(({ name, shape }) => `${name} ${shape}`);
  t.same(names, ["0.weight 3,5", "0.bias 3", "2.weight 1,3", "2.bias 1"]);
  t.throws(() => readTensors(join(golden, "pickle/harmful.bin")), { code: "UNSUPPORTED", message: /posix\.system/ });
  const folder = t.testdir();
  const model = await Model.load(writeTinyModel(join(folder, "model")), { threads });
  t.teardown(() => model.dispose());
  const made = await model.policy({
    heads: [{ name: "confidence", kind: "linear" }],
    card: {
      version: 1,
      method: "elical",
      prompt: { user: "{question}", system: "default" },
      answers: "base",
      answer: { newTokens: 4 },
      heads: [{ name: "confidence", layer: 2, kind: "linear", outputs: 1 }],
      confidence: { head: "confidence", at: "prompt-last", slope: 1, offset: 0 },
      base: model.cardBase,
    },
  });
  const saved = join(folder, "saved");
  made.save(saved);
  cpSync(join(saved, "credence.json"), join(folder, "pickled", "credence.json"));
  cpSync(join(golden, "pickle/heads.pt"), join(folder, "pickled", "heads.pt"));
  const read = await model.policy({ adapter: join(folder, "pickled") });
  const [weight, bias] = read.native.tensors().heads;
  t.same(
    Array.from(weight!.data),
    Array.from({ length: 40 }, (_, i) => i / 64),
  );
  t.same(Array.from(bias!.data), [2]);
});

t.test("the commands", async (t) => {
  const folder = t.testdir();
  const base = writeDecoder(join(folder, "base"));
  const adapter = await writeAdapter(base, join(folder, "adapter"));
  const run = async (...args: string[]) => {
    const printed = t.capture(process.stdout, "write", () => true);
    t.capture(process.stderr, "write", () => true);
    const code = await main([...args, "--threads", "1"]);
    return {
      code,
      printed: printed()
        .map(({ args: [text] }) => text)
        .join(""),
    };
  };
  const converted = await run("convert", base, "--out", join(folder, "x.gguf"), "--type", "q8_0");
  t.match(converted, {
    code: 0,
    printed: /x\.gguf: 1 file, .* of Q8_0\nread again: every weight .*; logits differ by at most /,
  });
  const merged = await run("merge", "--model", base, "--adapter", adapter, "--out", join(folder, "m"), "--json");
  t.match(JSON.parse(merged.printed), { type: "F32", check: { bound: 1e-4 } });
  t.match(await run("export", "--model", base, "--adapter", adapter, "--out", join(folder, "e")), { code: 0 });
  t.equal((await run("convert", base, "--out", join(folder, "y"), "--shard-size", "much")).code, 2);
  t.equal((await run("merge", "--adapter", base, "--model", base, "--out", join(folder, "y"))).code, 1);
});

/** node-llama-cpp with its prebuilt binary, or why there is none. */
async function llamaCpp() {
  try {
    const { getLlama, LlamaLogLevel } = await import("node-llama-cpp");
    const options = {
      gpu: false,
      build: "never",
      usePrebuiltBinaries: true,
      skipDownload: true,
      progressLogs: false,
    } as const;
    return { llama: await getLlama({ ...options, logLevel: LlamaLogLevel.error }) };
  } catch (error) {
    return { absent: `llama.cpp's prebuilt binary cannot be used here: ${(error as Error).message.split("\n")[0]}` };
  }
}

const { llama, absent = false } = await llamaCpp();
t.teardown(() => llama?.dispose());

t.test("llama.cpp reads the GGUFs and chooses the same tokens", { skip: absent }, async (t) => {
  const folder = t.testdir();
  const prompts = ["Two words", "12 and 34\n"];
  for (const [name, shape] of [
    ["llama", {}],
    ["qwen2", { tied: false, config: { model_type: "qwen2" } }],
    ["qwen3", { config: { model_type: "qwen3" } }],
  ] as [string, Shape][]) {
    const source = writeDecoder(join(folder, name), shape);
    for (const type of ["F32", "F16", "BF16", "Q8_0", "Q4_0"] as const) {
      if (type !== "F32" && name !== "llama") continue;
      const path = join(folder, `${name}-${type}.gguf`);
      await convertModel(source, path, { type, threads });
      const model = await Model.load(path, { threads, dtype: "f32" });
      const policy = await model.policy();
      const theirs = await llama!.loadModel({ modelPath: path });
      const context = await theirs.createContext({ contextSize: 128, threads: 1 });
      for (const prompt of prompts) {
        const tokens = await model.tokenizer.encode(prompt);
        t.same(
          Array.from(theirs.tokenize(prompt)),
          Array.from(tokens),
          `${name} ${type}: ids of ${JSON.stringify(prompt)}`,
        );
        for await (const { tokens: ours, logprobs } of policy.generate([tokens], { maxNewTokens: 8 })) {
          const sequence = context.getSequence();
          const asked = { generateNext: { token: true, probabilities: true } };
          const input = [...tokens, ...ours].map((token, i) => (i + 1 < tokens.length ? token : [token, asked]));
          const output = await sequence.controlledEvaluate(input as never);
          sequence.dispose();
          const chances = output
            .slice(tokens.length - 1)
            .map((item) => item!.next!.probabilities! as Map<number, number>);
          const likeliest = chances.map((map) => [...map].reduce((a, b) => (b[1] > a[1] ? b : a))[0]);
          // llama.cpp rounds what a BF16 or 8-bit matrix is multiplied with to that type as well; then a near tie may turn.
          if (type === "F32") t.same(likeliest.slice(0, ours.length), Array.from(ours), `${name}: greedy tokens`);
          const gaps = Array.from(ours, (token, i) => Math.abs(Math.log(chances[i]!.get(token)!) - logprobs[i]!));
          const bound = { F32: 0.01, F16: 0.02, BF16: 0.15, Q8_0: 0.15, Q4_0: 0.15 }[type];
          t.ok(Math.max(...gaps) < bound, `${name} ${type}: log-probabilities differ by ${Math.max(...gaps)}`);
        }
      }
      await context.dispose();
      await theirs.dispose();
      await model.dispose();
    }
  }
});
