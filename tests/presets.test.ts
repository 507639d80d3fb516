/** The presets of the published models: their values, and what a plan says of them before there are weights. */
import { cpSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import t from "tap";
import { loadRecipe, planRecipe, presets, type Setting } from "../src/methods/recipes.js";
import { Model } from "../src/policy/model.js";
import { writeTinyModel, writeTinyQuestions } from "./fixtures/tiny-model.js";

const folder = t.testdir();
const questions = writeTinyQuestions(join(folder, "questions.jsonl"), 60);

/** A folder with a model's shape and a tokenizer, and no weights. */
function shapeOnly(name: string, shape: object): string {
  const path = writeTinyModel(join(folder, "tiny"));
  const to = join(folder, name);
  cpSync(path, to, { recursive: true, filter: (file) => !/safetensors/.test(file) });
  const { rope_parameters: _, ...config } = JSON.parse(readFileSync(join(to, "config.json"), "utf8"));
  writeFileSync(join(to, "config.json"), JSON.stringify({ ...config, ...shape }));
  rmSync(path, { recursive: true });
  return to;
}

const qwen7 = {
  architectures: ["Qwen2ForCausalLM"],
  model_type: "qwen2",
  hidden_size: 3584,
  intermediate_size: 18_944,
  num_hidden_layers: 28,
  num_attention_heads: 28,
  num_key_value_heads: 4,
  head_dim: 128,
  vocab_size: 152_064,
  max_position_embeddings: 32_768,
  rms_norm_eps: 1e-6,
  rope_theta: 1_000_000,
  tie_word_embeddings: false,
};

t.test("the published values", (t) => {
  const published = presets.filter(
    (name) => name.startsWith("elical/") && name !== "elical/quickstart",
  ) as `elical/${string}`[];
  t.equal(published.length, 4);
  for (const name of published) {
    const { samples, answer, judge, lora, labels, compat } = loadRecipe(name);
    t.match(samples, { count: 20, temperature: 1, topP: 0.95, topK: 50 }, name);
    t.same(answer, { newTokens: 256, repetitionPenalty: 1.05 });
    t.match(lora, { rank: 8, alpha: 16, learningRate: 5e-5, weightDecay: 0.1, warmup: 0.1, batch: 512 });
    t.match(lora, { elicitEpochs: 10, calibrateEpochs: 50, patience: 4, layers: ["last"] });
    t.equal(lora.targets.length, 7);
    t.match(labels, { main: 1000, of: "samples" });
    t.match(judge, { by: "local", model: "Qwen/Qwen2.5-32B-Instruct", newTokens: 64, repetitionPenalty: 1.05 });
    const quirks = ["B9-3", "B9-9", "B9-10", "B9-11", "B9-12", "B9-13", "B9-15"];
    t.same(compat, name === "elical/published" ? quirks : []);
  }
  t.end();
});

t.test("a plan needs a model's shape alone", async (t) => {
  const model = shapeOnly("qwen", qwen7);
  const notes: string[] = [];
  const settings: Setting[] = [
    ["model", model],
    ["questions.file", questions],
    ["labels.counts", [20, 40]],
    ["labels.main", 20],
    ["samples.count", 2],
    ["lora.elicitEpochs", 1],
    ["lora.calibrateEpochs", 1],
    ["lora.labels", "main"],
    ["judge.model", shapeOnly("judge", { ...qwen7, num_hidden_layers: 1 })],
  ];
  const plan = await planRecipe(loadRecipe("elical/qwen2.5-7b", settings), {
    engine: { threads: 1, dtype: "bf16" },
    note: (line) => notes.push(line),
  });
  t.equal(plan.model.parameters, 7_615_616_512);
  t.ok(plan.engineBytes > 15e9 && plan.engineBytes < 60e9, `${plan.engineBytes} bytes`);
  t.ok(plan.processBytes > plan.engineBytes + 15e9, "and the files' bytes as they are read");
  t.equal(plan.seconds, null);
  t.match(notes.join("\n"), /its weights are not there, so memory is told and time is not/);

  const judging = plan.stages.find(({ judge }) => judge)!;
  t.match(judging, {
    name: "03-labels",
    seconds: null,
    refused: 0,
    judge: { by: "local", requests: 60 * 5, cost: null },
  });
  t.equal(judging.judge!.outputTokens, 300 * 64);
  t.ok(judging.engineBytes < plan.engineBytes, "beside the answering model");
  const itself = loadRecipe("elical/published", [...settings, ["baselines.verbal.shots", []]]);
  const published = await planRecipe(itself, { engine: { threads: 1, dtype: "bf16" }, probe: false });
  t.match(
    published.stages.find(({ judge }) => judge)!.judge,
    { judge: model, requests: 300 },
    "it judges itself (B9-3)",
  );

  await using dry = await Model.load(model, { dry: true, threads: 1 });
  await using policy = await dry.policy({
    adapter: { rank: 8, alpha: 16, targets: ["q", "k", "v", "o", "gate", "up", "down"], seed: 0 },
    heads: [{ name: "confidence", kind: "linear", outputs: 1, seed: 0 }],
  });
  t.equal(policy.native.trainable, 20_185_088 + 3585);
  await t.rejects(Model.load(model), { code: "NO_MODEL", message: /without config\.json and \*\.safetensors/ });
});

t.test("what is missing is named with where to put it", async (t) => {
  const nowhere = loadRecipe("elical/qwen2.5-7b", [["model", join(folder, "nowhere")]]);
  await t.rejects(planRecipe(nowhere), { message: /data\/nq\/train\.jsonl/ });
  const noModel = loadRecipe("elical/qwen2.5-7b", [
    ["model", join(folder, "nowhere")],
    ["questions.file", questions],
    ["labels.counts", [5]],
    ["labels.main", 5],
  ]);
  await t.rejects(planRecipe(noModel), { code: "NO_MODEL", message: /Give a folder, a \.gguf file, or a hub id/ });
});
