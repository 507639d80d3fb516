/** Adapters in the released layout: loaded, asked, written again; and the commands that answer with the base and ask the adapter. */
import { mkdirSync, readdirSync, readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import t from "tap";
import { readTable } from "../src/data/tables.js";
import { checkpointOf, openTuned, readReleased, temperatureIn } from "../src/methods/calibration-tuning/adapters.js";
import { probabilities, queryLogprobs } from "../src/methods/calibration-tuning/query.js";
import { encodeSafetensors, readSafetensors } from "../src/model/safetensors.js";
import { encodeTorchFile } from "../src/model/torch-file.js";
import type { TensorData } from "../src/native.js";
import { Model } from "../src/policy/model.js";
import { credence } from "./fixtures/command-line.js";
import { queryWords, writeTinyModel } from "./fixtures/tiny-model.js";

const rows = ["red", "green"].map((output) => ({
  prompt: "",
  context: "Question: what colour is that hat of ada ?",
  targetPrompt: "\nAnswer:",
  output,
}));
const apart = (a: ArrayLike<number>, b: ArrayLike<number>): number =>
  Math.max(...Array.from(a, (value, i) => Math.abs(value - b[i]!)));

/** A folder as published: its own type of adapter, every key twice, the base's matrices with a row more, a pickled temperature. */
async function released(folder: string, model: Model): Promise<{ tensors: TensorData[]; matrices: TensorData[] }> {
  mkdirSync(folder, { recursive: true });
  await using policy = await model.policy({ adapter: { rank: 2, alpha: 8, targets: ["q", "v"], seed: 1 } });
  await using owned = await model.policy({ train: { embeddings: true, lmHead: true } });
  const tensors = policy.native
    .tensors()
    .adapter.map((tensor, k) => ({ ...tensor, data: tensor.data.map((_, i) => 0.5 * Math.cos(1 + i * (k + 2))) }));
  const matrices = owned.native
    .tensors()
    .weights.filter(({ name }) => /embed_tokens|lm_head/.test(name))
    .map(({ name, shape: [count, width], data }) => ({
      name: `base_model.model.${name}`,
      shape: [count! + 1, width!],
      data: Float32Array.of(...data, ...new Float32Array(width!).fill(0.01)),
    }));
  const doubled = tensors.map((tensor) => ({
    ...tensor,
    name: `base_model.model.${tensor.name}`,
    data: tensor.data.map(() => 9),
  }));
  writeFileSync(
    join(folder, "adapter_model.safetensors"),
    Buffer.concat(encodeSafetensors([...tensors, ...doubled, ...matrices])),
  );
  const config = {
    peft_type: "CALIBRATED_LORA",
    task_type: "CALIBRATED_CAUSAL_LM",
    base_model_name_or_path: model.path,
    r: 2,
    lora_alpha: 8,
    lora_dropout: 0.1,
    target_modules: ["q_proj", "v_proj"],
    bias: "none",
    query_format: "roman_choice",
    use_temperature: true,
  };
  writeFileSync(join(folder, "adapter_config.json"), JSON.stringify(config));
  const temperature = [{ name: "log_temperature", shape: [], data: Float32Array.of(0.3555) }];
  writeFileSync(join(folder, "temperature_model.pt"), Buffer.concat(encodeTorchFile(temperature, "temperature_model")));
  return { tensors, matrices };
}

t.test("a released adapter", async (t) => {
  const root = t.testdir();
  const path = writeTinyModel(join(root, "model"), { words: queryWords });
  const folder = join(root, "released");
  await using model = await Model.load(path, { dtype: "f32", threads: 1 });
  const { tensors, matrices } = await released(folder, model);

  await t.test("is read as the LoRA that it is", async (t) => {
    const found = readReleased(folder);
    t.equal(found.doubled, tensors.length);
    t.equal(found.matrices.length, matrices.length);
    t.ok(matrices.length > 0);
    const { policy, temperature, dropped } = await openTuned(model, folder);
    t.ok(Math.abs(temperature - 1.426894) < 1e-5);
    t.same(dropped, { matrices: matrices.length, doubled: tensors.length });
    await using same = await model.policy({ adapter: found.spec });
    same.native.setTensors(tensors);
    const asked = await queryLogprobs(policy, rows);
    t.same(asked, await queryLogprobs(same, rows), "asked with the adapter");
    const base = await queryLogprobs(policy, rows, { adapter: "off" });
    t.ok(apart(asked, base) > 1e-3);
    const answer = await policy.answer("what colour is that hat of ada ?");
    const [bare] = await (async () => {
      await using plain = await model.policy({ card: { ...policy.queryCard!, answers: "adapter" } });
      return [await plain.answer("what colour is that hat of ada ?")];
    })();
    t.equal(answer.text, bare!.text, "the base answers");
    const [row] = [{ ...rows[0]!, output: answer.text }];
    const want = probabilities(await queryLogprobs(policy, [row]), temperature)[0]!;
    t.ok(Math.abs(answer.confidence! - want) < 1e-6, "its confidence is the adapter's");
    t.ok(Math.abs((await policy.score(["what colour is that hat of ada ?"]))[0]! - want) < 1e-6);
    await t.rejects(policy.answer("x", { history: [{ role: "user", content: "y" }] }), { code: "BAD_INPUT" });
    await policy.dispose();
  });

  await t.test("comes back as it was from either layout", async (t) => {
    const out = join(root, "published");
    const told = await credence(
      "calibration-tuning",
      "publish",
      `--query_peft_dir=${folder}`,
      "--model-name",
      path,
      `--out=${out}`,
      "--hf_hub_id=me/tuned",
      "--threads=1",
      "--device=cpu",
      "--dtype=f32",
    );
    t.equal(told.status, 0, told.told);
    t.match(told.told, /nothing was uploaded.*hf upload me\/tuned/);
    t.match(readdirSync(out), ["adapter_config.json", "adapter_model.safetensors"]);
    const config = JSON.parse(readFileSync(join(out, "adapter_config.json"), "utf8"));
    t.match(config, { peft_type: "CALIBRATED_LORA", r: 2, query_format: "roman_choice", use_temperature: true });
    const written = readSafetensors(join(out, "adapter_model.safetensors"));
    t.same(written.map(({ name }) => name).sort(), tensors.map(({ name }) => name).sort(), "PEFT's names alone");
    for (const { name, data } of tensors) t.same(written.find((tensor) => tensor.name === name)!.data, data, name);
    t.ok(Math.abs(temperatureIn(out, "query")! - 1.426894) < 1e-5);
    const one = await openTuned(model, out);
    const other = await openTuned(model, folder);
    t.same(await queryLogprobs(one.policy, rows), await queryLogprobs(other.policy, rows));
    await one.policy.dispose();
    await other.policy.dispose();
  });

  await t.test("play answers with the adapter off and asks with it on; so does ask, from the card", async (t) => {
    const saved = join(root, "saved");
    const engine = ["--threads=1", "--device=cpu", "--dtype=f32", "--json", "--log-level=warn"];
    const asked = ["what colour is that hat of ada ?", ...engine];
    const play = (...flags: string[]) =>
      credence("calibration-tuning", "play", ...asked, "--model_name", path, "--max_new_tokens=6", ...flags);
    const tuned = await play(`--query-peft-dir=${folder}`, "--use_temp", `--save=${saved}`);
    t.equal(tuned.status, 0, tuned.told);
    const base = JSON.parse((await play("--use_query_only")).out);
    const answer = JSON.parse(tuned.out);
    t.equal(answer.text, base.text);
    t.not(answer.confidence, base.confidence);
    const untempered = JSON.parse((await play(`--query-peft-dir=${folder}`)).out);
    const logit = (p: number) => Math.log(p / (1 - p));
    t.ok(Math.abs(logit(untempered.confidence) / logit(answer.confidence) - 1.426894) < 1e-3, "--use-temp");
    const same = await credence("ask", ...asked, `--adapter=${saved}`, "--model", path);
    t.equal(same.status, 0, same.told);
    t.match(JSON.parse(same.out), { text: answer.text, confidence: answer.confidence });
    t.match((await credence("calibration-tuning", "play", ...asked)).told, /which adapter is asked\?/);
  });

  await t.test("SelfAware: the base's columns and the tuned model's", async (t) => {
    const questions = join(root, "SelfAware.json");
    const example = [
      { question: "what colour is that hat ?", answerable: false },
      { question: "what colour is that cup ?", answerable: true },
    ];
    writeFileSync(questions, JSON.stringify({ example }));
    const output = join(root, "ambiguous.csv");
    const told = await credence(
      "calibration-tuning",
      "ambiguous",
      "--model-name",
      path,
      `--query-peft-dir=${folder}`,
      `--questions=${questions}`,
      `--output_path=${output}`,
      "--max-new-tokens=3",
      "--threads=1",
      "--device=cpu",
      "--log-level=warn",
    );
    t.equal(told.status, 0, told.told);
    const table = await readTable(output);
    t.same(table.columns, [
      "default_queries",
      "default_P",
      "default_response",
      "default_correctness",
      "query_queries",
      "query_P",
      "query_response",
      "query_correctness",
    ]);
    t.equal(table.rows.length, 1);
    const [row] = table.rows;
    t.equal(row![2], row![6], "one answer");
    t.not(row![1], row![5]);
    writeFileSync(questions, JSON.stringify({ example: example.slice(1) }));
    const all = await credence(
      "calibration-tuning",
      "ambiguous",
      "--model-name",
      path,
      `--query-peft-dir=${folder}`,
      `--questions=${questions}`,
      `--output-path=${output}`,
    );
    t.match(all.told, /every question of it is answerable/);
  });

  await t.test("what does not belong to the base is refused", async (t) => {
    const other = join(root, "other");
    mkdirSync(other);
    for (const name of readdirSync(folder)) writeFileSync(join(other, name), readFileSync(join(folder, name)));
    const write = (more: TensorData[]) =>
      writeFileSync(join(other, "adapter_model.safetensors"), Buffer.concat(encodeSafetensors(more)));
    const changed = matrices.map((tensor) => ({
      ...tensor,
      data: tensor.data.map((value, i) => (i === 85 ? value + 1 : value)),
    }));
    write([...tensors, ...changed]);
    await t.rejects(openTuned(model, other), {
      code: "WRONG_BASE",
      message: /row 2 of its (embed_tokens|lm_head) is not .*'s/,
    });
    write([...tensors, { name: "something.weight", shape: [1], data: new Float32Array(1) }]);
    await t.rejects(openTuned(model, other), { code: "BAD_INPUT", message: /something\.weight belongs to no LoRA/ });
    write(tensors.slice(1));
    await t.rejects(openTuned(model, other), { code: "WRONG_BASE", message: /LoRA matrices does not fit/ });
    const config = JSON.parse(readFileSync(join(other, "adapter_config.json"), "utf8"));
    writeFileSync(join(other, "adapter_config.json"), JSON.stringify({ ...config, query_format: "bool" }));
    await t.rejects(openTuned(model, other), { code: "UNSUPPORTED", message: /query_format/ });
    await t.rejects(openTuned(model, join(root, "model")), { code: "NO_ADAPTER" });
  });

  const run = join(root, "run");
  for (const step of [90, 100, 9]) mkdirSync(join(run, `checkpoint-${step}`), { recursive: true });
  t.equal(checkpointOf(run), join(run, "checkpoint-100"));
  t.equal(checkpointOf(folder), folder);
});
