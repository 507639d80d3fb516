/**
 * CONQORD's published pipeline on a toy set of Arrow folders, by its commands alone: three trainings, answers, ratings, scores, and
 * what looking up is worth.
 */
import { existsSync, mkdirSync, readFileSync, realpathSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import t from "tap";
import { z } from "zod";
import { readSplit } from "../src/data/saved-sets.js";
import { readTable } from "../src/data/tables.js";
import { npyBytes } from "../src/data/vectors.js";
import { confidenceFormats } from "../src/evaluation/stated.js";
import { answersPath, ratingsPath, readAnswers, readRatings, scoresPaths } from "../src/methods/conqord/files.js";
import { evaluationPrompt } from "../src/methods/conqord/prompts.js";
import { readPolicyTensors } from "../src/model/policy-folder.js";
import { credence } from "./fixtures/command-line.js";
import { writeDialogueModel } from "./fixtures/conqord-model.js";
import { metricsOf } from "./fixtures/runs.js";

const half = new URL("golden/conqord/Anthropic/hh-rlhf/helpful-base_conf_half", import.meta.url).pathname;
const record = z.looseObject({ prompt: z.string(), chosen: z.string(), rejected: z.string() });

t.test("from Arrow folders to the table of retrieval", async (t) => {
  const root = t.testdir({});
  const at = (...parts: string[]) => join(root, ...parts);
  const records = [...(await readSplit(half, "train", record)), ...(await readSplit(half, "test", record))];
  const asked = records.map(({ prompt, chosen }) => ({
    question: prompt.slice("\n\n### Human: ".length, -"\n\n### Assistant:".length),
    answer: chosen.slice(prompt.length + 1).split(".")[0]!,
  }));
  const questions = at("nq.json");
  writeFileSync(questions, JSON.stringify(asked));
  writeFileSync(at("rag.json"), JSON.stringify(asked.map((one) => ({ ...one, evidence: [`It is ${one.answer}.`] }))));
  const prompts = asked.map(({ question, answer }) => evaluationPrompt("nq", "answer", question, [`It is ${answer}.`]));
  const texts = records.flatMap(({ prompt, chosen, rejected }) => [prompt, chosen, rejected]);
  const model = writeDialogueModel(at("tiny"), [...texts, ...prompts]);

  // In the form that is evaluated: further rows of the first training.
  const formed = at("Dahoas", "full-hh-rlhf");
  mkdirSync(formed, { recursive: true });
  const lines = asked.map(({ question, answer }) => ({
    prompt: evaluationPrompt("nq", "answer", question),
    chosen: `\n\n### Answer: ${answer}.\n\n### Confidence: 0.8.`,
    rejected: "\n\n### Answer: No.\n\n### Confidence: 0.8.",
  }));
  for (const split of ["train", "test"])
    writeFileSync(join(formed, `${split}.jsonl`), lines.map((line) => `${JSON.stringify(line)}\n`).join(""));

  const told: Record<string, string> = {};
  const run = async (command: string, ...args: string[]): Promise<Record<string, unknown>> => {
    const ended = await credence("conqord", command, ...args, "--json", "--log-level", "info");
    if (ended.status !== 0) throw new Error(`${command} ${args.join(" ")}: ${ended.told}`);
    told[command] = ended.told;
    return JSON.parse(ended.out) as Record<string, unknown>;
  };
  // As run_step1.sh to run_step3.sh call them, smaller.
  const train = (command: string, shares: string, out: string, ...args: string[]) => {
    const flags = ["--data_path", half, "--data_split", shares, "--output_dir", at(out), "--seed=1234"];
    const type = command === "reward-model" ? "f32" : "fp32";
    const launched = ["--deepspeed", "--enable_tensorboard", "--dtype", type, "--threads", "2"];
    return run(command, ...flags, ...launched, ...args);
  };
  const adapter = ["--lora_dim", "4", "--lora_module_name", "layers."];
  const rows = ["--per_device_train_batch_size", "3", "--max_seq_len", "400"];
  const sft = await train(
    "sft",
    "10,0,0",
    "sft",
    ...["--model_name_or_path", model, ...adapter, ...rows, "--gradient_checkpointing", "--zero_stage=3"],
    ...["--data_output_path", at("datatmp"), "--sft_only_data_path", formed],
    ...["--learning_rate", "1.5e-2", "--num_train_epochs", "6", "--no-held"],
  );
  t.same(sft.merged, at("sft", "final"));
  t.ok(existsSync(at("sft", "final", "config.json")), "what the next stage loads is a model");
  t.match(told.sft, /not needed here: --gradient_checkpointing.*--zero_stage \(one process has the whole model\)/);
  const indices = (part: number) =>
    readFileSync(at("datatmp", `Anthropic_hh-rlhf_helpful-base_conf_half_sharp_seed1234_train_10,0,0_${part}.npy`));
  t.equal(indices(0).length, Buffer.from(npyBytes([0, 1, 2, 3, 4])).length);
  const sftLines = metricsOf(at("sft"));
  t.ok(sftLines.at(-1)!.loss! < 0.3 * sftLines[0]!.loss!, "it learns");
  t.ok(readPolicyTensors(realpathSync(at("sft", "best"))).weights.length > 0, "embeddings and norms learn beside it");

  const rm = await train(
    "reward-model",
    "0,10,0",
    "rm",
    ...["--model_name_or_path", model, ...adapter, ...rows, "--learning_rate", "1e-2", "--num_train_epochs", "6"],
    ...["--no-held", "--num_padding_at_beginning", "0"],
  );
  t.match(rm.data, { records: 5, pairs: 5, equal: 0 });
  const margins = metricsOf(at("rm")).map(({ margin }) => margin!);
  t.ok(margins.at(-1)! + margins.at(-2)! > 1 + margins[0]! + margins[1]!, "the better answers come to score higher");

  const ppo = (...more: string[]) =>
    train(
      "ppo",
      "0,0,10",
      "ppo",
      ...["--actor_model_name_or_path", at("sft", "final"), "--critic_model_name_or_path", at("rm")],
      ...["--tokenizer_model_name_or_path", model, "--actor_lora_dim", "2", "--actor_lora_module_name", "q_proj"],
      ...["--only_optimize_lora", "--actor_learning_rate", "1e-3", "--actor_lora_learning_rate", "5e-3"],
      ...["--critic_learning_rate", "1e-3", "--lr_scheduler_type", "constant", "--num_train_epochs", "2"],
      ...["--per_device_generation_batch_size=4", "--per_device_training_batch_size=2"],
      ...["--gradient_accumulation_steps=2", "--max_answer_seq_len=12", "--alpha", "0.4", "--kl", "0.005"],
      ...["--unparsed", "0", "--offload", "--actor_zero_stage=3", ...more],
    );
  const reinforced = await ppo();
  t.match(reinforced, { prompts: 5, texts: 12, merged: at("ppo", "actor") });
  const iterations = metricsOf(at("ppo"));
  t.equal(iterations.length, 3, "ten completions and two of them again, four an optimiser step");
  for (const line of iterations) t.match(line, { firstRatioChange: 0, steps: 1, criticLearningRate: 1e-3 });
  t.ok(
    iterations.some(({ learntReward, reward }) => Math.abs(learntReward! - reward!) > 1e-6),
    "the term is paid beside quality",
  );
  t.equal((await ppo()).texts, 0, "what is done is not done again");
  await t.rejects(ppo("--reduce", "mean"), /was begun with other settings or records \(conqord/);

  const infer = async (suffix: string, file: string) =>
    run(
      "infer",
      ...["--root", root, "--data_name", "nq", "--mode", "tiny", "--suffix", suffix, "--path", at("ppo", "actor")],
      ...["--questions", file, "--gpu", "-1", "--threads", "2", "--dtype", "f32", "--max-new-tokens", "16"],
    );
  const place = (suffix: string) => ({ root, data: "nq", mode: "tiny", suffix, step: "0" });
  await infer("conqord", questions);
  await infer("rag", at("rag.json"));
  const answers = await readAnswers(answersPath(place("conqord")));
  t.equal(answers.length, 6);
  t.ok(
    answers.some(({ output }) => confidenceFormats.conqord.find(output)),
    "answers state confidences",
  );
  for (const suffix of ["conqord", "rag"]) {
    await run("rate", "--root", root, "--data_name", "nq", "--mode", "tiny", "--suffix", suffix);
    const [first] = (await readTable(ratingsPath(place(suffix)))).columns;
    t.equal(first, "prompt_arr_full");
  }
  const rated = await readRatings(ratingsPath(place("conqord")));
  t.equal(rated.length, 6);
  const scored = ["--root", root, "--data_name", "nq", "--mode", "tiny", "--unparsed", "0"];
  const metrics = await run("metrics", ...scored, "--suffix", "conqord");
  t.match(metrics, { rows: 6 });
  for (const path of scoresPaths(place("conqord")))
    t.match((await readTable(path)).columns.slice(0, 3), ["name", "ratings_correct_arr_mean", "correct_ece"]);
  const sweep = await run(
    "retrieval",
    ratingsPath(place("conqord")),
    ratingsPath(place("rag")),
    ...["--unparsed", "0", "--csv", at("retrieval.csv")],
  );
  t.equal((sweep.points as unknown[]).length, 11);
  t.equal((await readTable(at("retrieval.csv"))).rows.length, 11);
});
