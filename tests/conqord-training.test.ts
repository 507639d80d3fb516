/** CONQORD's trainings: their settings and presets, what they refuse, and each quirk of the published code on both sides. */
import { writeFileSync } from "node:fs";
import { join } from "node:path";
import t from "tap";
import { script as ppoScript, ppoSettings } from "../src/cli/conqord/ppo.js";
import { script as rewardScript } from "../src/cli/conqord/reward-model.js";
import { script as sftScript } from "../src/cli/conqord/sft.js";
import type { ConqordCompat } from "../src/methods/conqord/compat.js";
import {
  batchesOf,
  partsOf,
  ppoSettingsOf,
  termOf,
  trainConqordPpo,
  written,
} from "../src/methods/conqord/train-ppo.js";
import { pairsOf, trainConqordReward } from "../src/methods/conqord/train-reward-model.js";
import { trainConqordSft } from "../src/methods/conqord/train-sft.js";
import { adapterOf, checkVocabulary, learnerOf, startAt } from "../src/methods/conqord/training-models.js";
import {
  type PpoTrainingSettings,
  scheduleOf,
  trainingDefaults,
  trainingPresets,
  trainingSettings,
} from "../src/methods/conqord/training-settings.js";
import { scoredText } from "../src/methods/conqord/wire.js";
import { readPolicyTensors } from "../src/model/policy-folder.js";
import { Model } from "../src/policy/model.js";
import { silent } from "../src/tracking/progress.js";
import { advantagesOf } from "../src/training/ppo/advantages.js";
import { credence } from "./fixtures/command-line.js";
import { writeDialogueModel } from "./fixtures/conqord-model.js";
import { metricsOf } from "./fixtures/runs.js";

const asPublished = (...ids: string[]) => new Set(ids) as unknown as ConqordCompat;
const none = asPublished();
const folder = t.testdir({});
const turn = (question: string) => `\n\n### Human: ${question}\n\n### Assistant:`;
const texts = ["one", "two", "six", "ten"].map((word, i) => ({
  prompt: turn(word),
  chosen: `${turn(word)} ${word}\n\n### Confidence: ${i % 2 ? "0.9" : "0.2"}.`,
  rejected: `${turn(word)} no\n\n### Confidence: 0.9.`,
}));
const modelPath = writeDialogueModel(
  join(folder, "model"),
  texts.flatMap((one) => Object.values(one)),
);
const model = await Model.load(modelPath, { dtype: "f32", threads: 1 });
t.teardown(() => model.dispose());

t.test("every flag of the published scripts is in one class", async (t) => {
  const both =
    "data_path data_split data_output_path model_name_or_path per_device_train_batch_size per_device_eval_batch_size max_seq_len learning_rate weight_decay num_train_epochs gradient_accumulation_steps lr_scheduler_type num_warmup_steps output_dir seed local_rank gradient_checkpointing disable_dropout offload zero_stage lora_dim lora_module_name only_optimize_lora lora_learning_rate enable_tensorboard tensorboard_path print_loss deepspeed deepspeed_config";
  const third =
    "data_path data_split data_output_path unsupervised_dataset_name unsupervised_dataset_config_name unsup_coef actor_model_name_or_path critic_model_name_or_path tokenizer_model_name_or_path num_padding_at_beginning per_device_generation_batch_size per_device_training_batch_size generation_batches ppo_epochs max_prompt_seq_len max_answer_seq_len actor_learning_rate critic_learning_rate actor_weight_decay critic_weight_decay num_train_epochs lr_scheduler_type num_warmup_steps gradient_accumulation_steps output_dir seed preprocessing_num_workers local_rank fp16_enabled dtype enable_hybrid_engine unpin_actor_parameters release_inference_cache inference_tp_size tp_gather_partition_size offload offload_reference_model actor_zero_stage critic_zero_stage actor_gradient_checkpointing critic_gradient_checkpointing disable_actor_dropout disable_critic_dropout actor_dropout critic_dropout actor_lora_dim critic_lora_dim actor_lora_module_name critic_lora_module_name only_optimize_lora actor_lora_learning_rate critic_lora_learning_rate enable_ema enable_mixed_precision_lora align_overflow print_answers enable_tensorboard tensorboard_path enable_test_mode test_stop_step alpha deepspeed deepspeed_config";
  for (const [script, flags] of [
    [sftScript, `${both} sft_only_data_path dtype`],
    [rewardScript, `${both} num_padding_at_beginning`],
    [ppoScript, third],
  ] as const) {
    const classes = [script.honoured, script.unneeded, script.dead].flatMap((one) => Object.keys(one));
    t.same(classes.toSorted(), flags.split(" ").toSorted(), script.name);
  }
  const refused = await credence("conqord", "ppo", "--actor_dropout", "0.1");
  t.equal(refused.status, 2);
  t.match(refused.told, /--actor_dropout did nothing in the published script: nothing is dropped/);
});

t.test("the script's values and the paper's have names of their own, and what is given goes before them", async (t) => {
  const of = (preset?: string, given: Partial<PpoTrainingSettings> = {}) => trainingSettings("ppo", given, preset);
  t.match(of(), { alpha: 0.5, kl: 0.1, lrSchedulerType: "cosine", maxAnswerSeqLen: 512, rewardClip: 5 });
  t.match(of("script"), { alpha: 0.5, kl: 0.1, perDeviceGenerationBatchSize: 1, gradientAccumulationSteps: 32 });
  t.match(of("paper"), { alpha: 0.4, kl: 0.005, perDeviceGenerationBatchSize: 32, actorWeightDecay: 0.1 });
  t.match(of("quality-only"), { alpha: 0, kl: 0.005, scored: "answer" });
  t.match(of("pre-approach"), { alpha: 0, kl: 0.005, scored: "stated" });
  t.match(of("paper", { alpha: 1, kl: undefined }), { alpha: 1, kl: 0.005 });
  t.throws(() => of("papers"), { code: "USAGE", message: /there are script, paper, quality-only, pre-approach/ });
  t.match(trainingSettings("sft", {}, "script"), { labels: "padded", loraDim: 128, learningRate: 1e-4, seed: 1234 });
  t.match(trainingSettings("reward-model", {}, "script"), { tail: "padded", numTrainEpochs: 10, weightDecay: 0.1 });
  t.equal(trainingSettings("reward-model", {}, "pre-approach").pairs, "pre-approach");
  for (const preset of Object.keys(trainingPresets.ppo).filter((name) => name !== "script"))
    t.match(batchesOf(of(preset)), { prompts: 32, miniBatches: 1 }, "the paper's one step a rollout batch");
});

t.test("schedules, batches and constants are the published ones", async (t) => {
  t.same(scheduleOf("cosine", 5, 50), { schedule: "cosine", warmup: 0.1 });
  t.same(scheduleOf("cosine_with_restarts", 0, 50), { schedule: "cosine", warmup: 0 });
  t.same(scheduleOf("constant", 100, 50), { schedule: "constant", warmup: 0 }, "transformers' has no warm-up");
  t.same(scheduleOf("constant_with_warmup", 5, 50), { schedule: "constant", warmup: 0.1 });
  t.throws(() => scheduleOf("linear", 100, 50), { code: "USAGE", message: /has 50 steps, which would all warm up/ });
  const settings = (more: Partial<PpoTrainingSettings>) => ({ ...trainingDefaults.ppo, ...more });
  t.same(batchesOf(settings({ gradientAccumulationSteps: 16 })), { prompts: 32, miniBatches: 1 });
  t.same(batchesOf(settings({ generationBatches: 8, gradientAccumulationSteps: 2 })), { prompts: 16, miniBatches: 4 });
  t.throws(() => batchesOf(settings({ perDeviceGenerationBatchSize: 3 })), {
    message: /one is a multiple of the other/,
  });
  const groups = { actor: { adapter: { learningRate: 5e-4 } }, critic: {} };
  const more = { prompts: 10, stop: ["x"], groups };
  const trained = ppoSettingsOf(settings({ numWarmupSteps: 1, numTrainEpochs: 2, enableEma: true }), more);
  t.match(trained, {
    iterations: 10,
    epochs: 1,
    score: { clamp: 5, normalise: "none" },
    kl: { coefficient: 0.1, controller: "fixed", estimator: 1 },
    advantage: { estimator: "gae", gamma: 1, lambda: 0.95, whiten: false },
    loss: { clip: 0.2, valueClip: 0.2, entropyCoefficient: 0 },
    optimizer: {
      learningRate: 9.65e-6,
      schedule: "cosine",
      beta1: 0.9,
      beta2: 0.95,
      epsilon: 1e-8,
      maxGradientNorm: 1,
    },
    criticOptimizer: { learningRate: 5e-6, beta2: 0.95 },
    ema: { decay: 0.992 },
  });
  t.same(trained.optimizer.groups, groups.actor);
  const tested = ppoSettingsOf(settings({ numWarmupSteps: 0, enableTestMode: true, testStopStep: 3 }), more);
  t.equal(tested.iterations, 3);
  t.equal(ppoSettingsOf(settings({ numWarmupSteps: 0, testStopStep: 3 }), more).iterations, 5, "not without the mode");

  // The specification's vector: an answer of four tokens, the reward cut from 7 to 5.
  const [logprobs, reference, values] = [
    [-1, -0.5, -2, -0.1],
    [-1.2, -0.4, -1.5, -0.3],
    [0.1, 0.2, -0.1, 0.3],
  ].map((row) => Float32Array.from(row));
  const episode = {
    logprobs: logprobs!,
    reference: reference!,
    values: values!,
    reward: trained.score.clamp!,
    group: 0,
  };
  const { worth } = await advantagesOf(model, [episode], trained, trained.kl.coefficient);
  const close = (got: Float32Array, want: number[]) =>
    t.ok(
      want.every((value, i) => Math.abs(got[i]! - value) < 1e-5),
      `${got.join(", ")}`,
    );
  close(worth[0]!.advantages, [4.22314, 4.3612, 4.896, 4.68]);
  close(worth[0]!.returns, [4.32314, 4.5612, 4.796, 4.98]);
});

t.test("A9-2: the term is over each generation batch, and one of a single completion is refused", async (t) => {
  const settings = (more: Partial<PpoTrainingSettings>) => ({
    ...trainingDefaults.ppo,
    perDeviceGenerationBatchSize: 4,
    alpha: 0.4,
    ...more,
  });
  const r = [1.2, -0.3, 0.5, -2];
  const c = [0.9, 0.9, 0.2, 0.1];
  const paid = termOf(settings({}), none)!.apply([...r, ...r], [...c, ...c]);
  const want = [2.42, 0.02, 0.572, -0.332];
  t.ok(
    [...want, ...want].every((value, i) => Math.abs(paid[i]! - value) < 1e-12),
    "two batches, each by itself",
  );
  t.equal(termOf(settings({ alpha: 0 }), none), undefined, "quality alone");
  const alone = settings({ perDeviceGenerationBatchSize: 1 });
  t.throws(() => termOf(alone, none), {
    code: "USAGE",
    message: /always 0. Give 2 or more, alpha 0, or --compat A9-2/,
  });
  t.throws(() => termOf({ ...alone, form: "sign" }, none), { code: "USAGE" });
  t.equal(termOf(alone, asPublished("A9-2")), undefined, "as published it is 0");
  t.equal(termOf({ ...alone, form: "product" }, none)!.apply([2], [1])[0], 1, "a form of one completion alone");
  const refused = await credence(
    "conqord",
    "ppo",
    "--preset=script",
    "--data_path=x",
    "--output_dir=y",
    ...models("z"),
  );
  t.equal(refused.status, 2);
  t.match(refused.told, /per_device_generation_batch_size 1 with alpha 0.5/);
});

const models = (path: string) => ["--actor_model_name_or_path", path, "--critic_model_name_or_path", path];

t.test("adapters are on what their modules' name says, of scale 1 / rank", async (t) => {
  const of = (loraModuleName: string, loraDim = 8) => adapterOf({ loraDim, loraModuleName }, 12, 3);
  const all = ["q", "k", "v", "o", "gate", "up", "down"];
  t.same(of("layers."), { rank: 8, alpha: 1, targets: all, seed: 3 });
  t.match(of("self_attn"), { targets: ["q", "k", "v", "o"] });
  t.match(of("layers.1."), { targets: all, layers: [1] });
  t.match(of("layers.1"), { layers: [1, 10, 11] });
  t.equal(of("layers.", 0), undefined);
  t.throws(() => of("decoder.layers."), { code: "USAGE", message: /it stands in the name of no projection/ });
});

t.test("pairs: confidences are cut, left, or made", async (t) => {
  const [first] = pairsOf(texts, "quality");
  t.same(first, { prompt: turn("one"), chosen: " one", rejected: " no" });
  t.equal(pairsOf(texts, "stated")[0]!.chosen, texts[0]!.chosen);
  const made = pairsOf(texts, "pre-approach");
  t.match(made[0], {
    chosen: `${turn("one")} one\n\n### Confidence: 0.9.`,
    rejected: / one\n\n### Confidence: 0\.1\.$/,
  });
  t.match(made[3], { chosen: / no\n\n### Confidence: 0\.1\.$/, rejected: / no\n\n### Confidence: 0\.9\.$/ });
  const odd = [{ prompt: "p", chosen: "a", rejected: "b" }];
  t.same(pairsOf(odd, "quality"), [{ prompt: "", chosen: "a", rejected: "b" }]);
  t.throws(() => pairsOf(odd, "pre-approach"), { code: "BAD_INPUT" });
});

const sftSettings = {
  ...trainingDefaults.sft,
  loraDim: 2,
  loraModuleName: "layers.",
  perDeviceTrainBatchSize: 4,
  maxSeqLen: 32,
  numTrainEpochs: 2,
  learningRate: 1e-2,
};

t.test("A9-1, A9-11: what an adapter learns, and at which rate", async (t) => {
  const start = startAt(modelPath);
  const learnt = async (name: string, compat: ConqordCompat, more: Partial<typeof sftSettings> = {}) => {
    const settings = { ...sftSettings, ...more };
    const learner = learnerOf(model, start, settings, { seed: 1, compat });
    const directory = join(folder, name);
    const { policy } = await trainConqordSft({ model, learner, directory, texts, settings, progress: silent });
    await policy.dispose();
    return readPolicyTensors(join(directory, "best"));
  };
  const largest = (tensors: { name: string; data: Float32Array }[], part: string) =>
    Math.max(...tensors.filter(({ name }) => name.includes(part)).flatMap(({ data }) => [...data].map(Math.abs)));
  const here = await learnt("adapter-here", none);
  t.ok(largest(here.adapter, "lora_B") > 1e-3, "it learns");
  t.same(
    [...new Set(here.weights.map(({ name }) => name.replace(/layers\.\d+\./, "")))].length,
    5,
    "embeddings, norms, head",
  );
  const there = await learnt("adapter-published", asPublished("A9-1"));
  t.equal(largest(there.adapter, "lora_B"), 0, "as published it does not");
  const bytes = (tensors: { data: Float32Array }[]) =>
    Buffer.concat(tensors.map(({ data }) => Buffer.from(data.buffer)));
  t.notOk(bytes(there.weights).equals(bytes(here.weights)));
  const alone = await learnt("adapter-alone", none, { onlyOptimizeLora: true });
  t.equal(alone.weights.length, 0);
  t.throws(
    () => learnerOf(model, start, { ...sftSettings, onlyOptimizeLora: true }, { seed: 1, compat: asPublished("A9-1") }),
    { code: "USAGE" },
  );
  const groups = (compat: ConqordCompat, more: object = {}) =>
    learnerOf(model, start, { ...sftSettings, ...more }, { seed: 1, compat }).groups;
  t.same(groups(none), {}, "at the rate that is given");
  t.same(groups(asPublished("A9-11")), { adapter: { learningRate: 5e-4 } });
  t.same(groups(asPublished("A9-11"), { loraLearningRate: 1e-3 }), { adapter: { learningRate: 1e-3 } });
  t.same(groups(asPublished("A9-11"), { loraDim: 0 }), {}, "without an adapter nothing has its rate");

  const directory = join(folder, "adapter-here");
  t.equal(startAt(directory, "b").base, "b");
  t.match(startAt(directory, modelPath).folder, /step-000002$/);
  t.throws(
    () => learnerOf(model, startAt(directory, modelPath), { ...sftSettings, loraDim: 8 }, { seed: 1, compat: none }),
    {
      code: "USAGE",
      message: /an adapter of rank 2, and is gone on with as it is; a rank of 8/,
    },
  );
  const on = learnerOf(model, startAt(directory, modelPath), { ...sftSettings, loraDim: 0 }, { seed: 1, compat: none });
  await using policy = await on.policy(undefined);
  t.ok(policy.hasWeights && policy.hasAdapter);
});

t.test("what counts: answers, or all with the padding", async (t) => {
  const learner = learnerOf(model, startAt(modelPath), sftSettings, { seed: 1, compat: none });
  const train = async (name: string, more: Partial<typeof sftSettings>, rest: object = {}) => {
    const settings = { ...sftSettings, numTrainEpochs: 1, ...more };
    const directory = join(folder, name);
    const { policy, rows, tokens } = await trainConqordSft({
      model,
      learner,
      directory,
      texts,
      settings,
      progress: silent,
      ...rest,
    });
    await policy.dispose();
    return { rows, tokens, line: metricsOf(directory)[0]!, last: metricsOf(directory).at(-1)! };
  };
  const own = await train("answers", {}, { held: texts });
  t.equal(own.rows, 4);
  const { perplexity, validationLoss } = own.last;
  t.ok(perplexity! > 1 && Math.abs(Math.log(perplexity!) - validationLoss!) < 1e-9);
  const padded = await train("padded", { labels: "padded" });
  t.equal(padded.tokens, 4 * 32);
  t.ok(Math.abs(padded.line.loss! - own.line.loss!) > 1e-3);
  await t.rejects(train("long", { maxSeqLen: 6 }), { code: "ROW_TOO_LONG" });
  await t.rejects(train("dropped", { maxSeqLen: 6 }, { truncate: "drop" }), { code: "ROW_TOO_LONG" });
});

t.test("reinforcement: what is read, what is refused, and what greedy rollouts are", async (t) => {
  const directory = join(folder, "rm");
  const learner = learnerOf(model, startAt(modelPath), sftSettings, { seed: 1, compat: none });
  const rewardSettings = { ...trainingDefaults["reward-model"], ...sftSettings, onlyOptimizeLora: true };
  const rm = { model, learner, directory, texts, settings: rewardSettings, progress: silent };
  await (await trainConqordReward(rm)).policy.dispose();
  const equal = texts.map((one) => ({ ...one, rejected: one.chosen.replace("0.9", "0.1") }));
  await t.rejects(trainConqordReward({ ...rm, directory: join(folder, "equal"), texts: equal }), {
    code: "NOTHING_SUPERVISED",
    message: /4 of 4 pairs have two equal sides/,
  });

  const scored = startAt(directory, modelPath);
  const settings: PpoTrainingSettings = {
    ...trainingDefaults.ppo,
    actorLoraDim: 2,
    actorLoraModuleName: "layers.",
    onlyOptimizeLora: true,
    perDeviceGenerationBatchSize: 4,
    perDeviceTrainingBatchSize: 4,
    maxAnswerSeqLen: 6,
    numWarmupSteps: 0,
    actorLearningRate: 1e-3,
  };
  let number = 0;
  const reinforce = async (compat: ConqordCompat, more: Partial<PpoTrainingSettings> = {}, rest: object = {}) => {
    const own = { ...settings, ...more };
    const to = join(folder, `ppo-${number++}`);
    const shared = { seed: 1, compat };
    await using reference = await model.policy();
    await using quality = await model.policy({ adapter: scored.folder! });
    const read: string[] = [];
    const { logits } = quality;
    quality.logits = (rows, ...rest) => {
      read.push(...rows.map((row) => model.tokenizer.decode(row).replace(/<\/s>$/, "")));
      return logits.call(quality, rows, ...rest);
    };
    const { policy, counts } = await trainConqordPpo({
      model,
      directory: to,
      actor: learnerOf(model, startAt(modelPath), partsOf(own, "actor"), shared),
      critic: learnerOf(model, scored, partsOf(own, "critic"), shared),
      reference,
      near: "the model",
      quality,
      prompts: texts.map(({ prompt }) => prompt),
      settings: own,
      unparsed: 0.5,
      compat,
      progress: silent,
      ...rest,
    });
    await policy.dispose();
    return { counts, line: metricsOf(to)[0]!, read: read.toSorted(), to };
  };
  const here = await reinforce(none);
  t.match(here.counts, { texts: 4 });
  t.ok(here.counts.failed > 0, "an untrained model states few confidences");
  const there = await reinforce(asPublished("A9-6"));
  t.notSame(there.line.confidence, here.line.confidence, "as published 1 stands for a confidence that is not stated");

  const long = { maxAnswerSeqLen: 60 };
  const [own, whole] = [await reinforce(none, long), await reinforce(asPublished("A9-5"), long)];
  const prompt = (text: string) => texts.find((one) => text.startsWith(one.prompt))!.prompt;
  const cut = whole.read.map((text) => prompt(text) + scoredText(text.slice(prompt(text).length), none));
  t.same(own.read, cut.toSorted(), "A9-5: the answer alone is scored");
  t.notSame(own.read, whole.read, "as published all of it is");
  t.ok(
    own.read.some((text) => /^\s/.test(text.slice(prompt(text).length))),
    "space between prompt and completion is kept",
  );
  const still = await reinforce(asPublished("A9-1"), { onlyOptimizeLora: false });
  const learnt = (part: "adapter" | "weights") =>
    readPolicyTensors(join(still.to, "best"))[part].filter(({ name }) => /lora_B|norm\.weight/.test(name));
  t.ok(learnt("adapter").length > 0 && learnt("adapter").every(({ data }) => data.every((value) => value === 0)));
  t.ok(
    learnt("weights").some(({ data }) => data.some((value) => value !== 1)),
    "A9-1: norms learn, the adapter does not",
  );
  const greedily = ppoSettings({ compat: asPublished("A9-9") });
  t.equal(greedily.temperature, 0);
  t.equal(ppoSettings({ compat: asPublished("A9-9"), temperature: 0.7 }).temperature, 0.7, "a flag says otherwise");
  t.equal(ppoSettings({ compat: none }).temperature, 1);
  const { temperature } = greedily;
  const [greedy, again, other] = [
    await reinforce(none, { temperature }),
    await reinforce(none, { temperature, seed: 5 }),
    await reinforce(none, { seed: 5 }),
  ];
  t.equal(greedy.line.length, again.line.length);
  t.ok(Math.abs(greedy.line.reward! - again.line.reward!) < 1e-5, "A9-9: the same weights roll out the same");
  t.notSame(other.line.reward, here.line.reward);
  await t.rejects(reinforce(none, {}, { unparsed: "error" }), /no confidence \(conqord\)/);
  await t.rejects(reinforce(none, { maxPromptSeqLen: 2 }), { code: "ROW_TOO_LONG" });
  await t.rejects(reinforce(none, { maxAnswerSeqLen: 2000 }), { message: /leaves no room for a prompt/ });
  t.equal(
    written(model, { tokens: await model.tokenizer.encode(" one\n\n### Confidence: 0.9.</s>") }, "</s>"),
    " one\n\n### Confidence: 0.9.",
  );
  t.equal(written(model, { tokens: await model.tokenizer.encode(" one two") }, " two"), " one");

  const elsewhere = writeDialogueModel(join(folder, "elsewhere"), ["\n\n### Human: three"]);
  await using stranger = await Model.load(elsewhere, { dtype: "f32", threads: 1 });
  t.throws(() => checkVocabulary(model, stranger, "the reference"), {
    code: "OTHER_TOKENIZER",
    message: /the reference elsewhere has another vocabulary \(token \d+ is/,
  });
  checkVocabulary(model, model, "the reference");
  writeFileSync(join(folder, "data.json"), JSON.stringify(texts));
  const refused = await credence(
    ...[
      "conqord",
      "ppo",
      "--data_path",
      join(folder, "data.json"),
      "--kind",
      "Dahoas/full-hh-rlhf",
      "--data_split=0,0,1",
    ],
    ...["--actor_model_name_or_path", modelPath, "--critic_model_name_or_path", directory, "--unparsed=0"],
    ...["--tokenizer_model_name_or_path", modelPath, "--reference", elsewhere, "--output_dir", join(folder, "never")],
  );
  t.match(refused.told, /the reference elsewhere has another vocabulary/);
});
