/** SaySelf's two trainings by their commands: from the rows of the first stage to a policy whose confidences were reinforced. */
import { writeFileSync } from "node:fs";
import { join } from "node:path";
import t from "tap";
import { questionPrompt } from "../src/methods/sayself/prompts.js";
import { responseText } from "../src/methods/sayself/wire.js";
import { readPolicyTensors } from "../src/model/policy-folder.js";
import { credence } from "./fixtures/command-line.js";
import { metricsOf } from "./fixtures/runs.js";
import { writeSaySelfModel } from "./fixtures/sayself-model.js";

t.test("from rows to a reinforced policy", { timeout: 300_000 }, async (t) => {
  const folder = t.testdir({});
  const at = (...parts: string[]) => join(folder, ...parts);
  const rows = ["hat", "cup", "pen", "bell"].map((question, i) => ({
    question,
    response: responseText({ answer: "red", rationale: "Hm", confidence: [0, 3, 7, 10][i]! }),
  }));
  const texts = rows.flatMap(({ question, response }) => [questionPrompt(question, "messages"), response]);
  const model = writeSaySelfModel(at("model"), texts, { sharpness: 3 });
  writeFileSync(at("rows.jsonl"), rows.map((row) => `${JSON.stringify(row)}\n`).join(""));
  const messages = rows.map(({ question }) => [
    { role: "user", content: question },
    { role: "assistant", content: "red" },
  ]);
  writeFileSync(at("asked.json"), JSON.stringify({ messages }));
  const run = async (...args: string[]): Promise<Record<string, unknown>> => {
    const ended = await credence("sayself", ...args, "--threads", "1", "--dtype", "f32", "--json");
    if (ended.status !== 0) throw new Error(`${args.join(" ")}: ${ended.told}`);
    return JSON.parse(ended.out) as Record<string, unknown>;
  };
  const sft = ["finetune", "--train_file", at("rows.jsonl"), "--output_dir", at("sft")];
  const learnt = await run(
    ...sft,
    ...["--model_name_or_path", model, "--use_lora", "--lora_rank=4", "--lora_alpha", "8", "--max_seq_length", "60"],
    ...["--learning_rate", "2e-2", "--num_train_epochs", "40", "--max-words", "200", "--use_flash_attn"],
  );
  t.match(learnt, { rows: 4, steps: 40, wordy: 0, peft: null });
  const losses = metricsOf(at("sft")).map(({ loss }) => loss!);
  t.ok(losses.at(-1)! < 0.3 * losses[0]!, `it learns: ${losses[0]} to ${losses.at(-1)}`);

  const reinforced = [
    ...["rlhf", "--train_file", at("asked.json"), "--output_dir", at("ppo"), "--base", model, "--new-tokens", "12"],
    ...["--peft_model_name_or_path", at("sft"), "--train_micro_batch_size_per_gpu=4", "--num_train_epochs", "4"],
    ...["--learning_rate", "1e-3", "--checkpointing_steps", "1"],
  ];
  t.match(await run(...reinforced), { rows: 4, iterations: 2, texts: 16, peft: null });
  for (const line of metricsOf(at("ppo"))) t.match(line, { firstRatioChange: 0, steps: 2 });
  const [before, after] = ["sft", "ppo"].map((name) => readPolicyTensors(at(name, "best")));
  t.notSame(after!.adapter[0]!.data, before!.adapter[0]!.data, "the same adapter goes on");
  t.equal(after!.heads.length, 2, "with the critic's head");
  t.match(await run(...reinforced), { texts: 0 }, "what is done is not done again");

  const refused = (...args: string[]) => credence("sayself", ...args);
  const shared = await refused(...sft, "--model_name_or_path", model, "--held-out", at("asked.json"));
  t.match(shared.told, /4 of 4 questions of .*rows\.jsonl are asked in .*asked\.json too/, "B9-5");
  t.match((await refused(...sft, "--use_qlora")).told, /--use_qlora is not supported/);
  t.match((await refused("rlhf", "--lora_dropout", "0.1")).told, /--lora_dropout did nothing in the published script/);
});
