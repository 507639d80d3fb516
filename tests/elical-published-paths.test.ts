import { mkdirSync, writeFileSync } from "node:fs";
import { dirname, join } from "node:path";
import t from "tap";
import {
  answersPaths,
  epochsOf,
  findPredictions,
  findRun,
  parseSize,
  predictionsFolder,
  type RunPlace,
  runFolder,
  runPaths,
  sizeName,
  workbookPath,
} from "../src/methods/elical/published/paths.js";

t.test("answers and verdicts have the published names", (t) => {
  const paths = answersPaths({ results: "R", model: "Qwen2.5-7B-Instruct", dataset: "nq", split: "train" });
  const stem = "R/Qwen2.5-7B-Instruct/nq/train_data/long_qa/nq_train_Qwen2.5-7B-Instruct_long_qa";
  t.same(paths, {
    folder: "R/Qwen2.5-7B-Instruct/nq/train_data/long_qa",
    greedy: `${stem}_0.0_0.95_50_sample_1.jsonl`,
    sampled: `${stem}_1.0_0.95_50_sample_20.jsonl`,
    consistencyRequests: `${stem}_1.0_0.95_50_sample_20_for_greedy_consistency_check.jsonl`,
    consistency: `${stem}_1.0_0.95_50_sample_20_for_greedy_consistency_res.jsonl`,
    greedyJudged: `${stem}_0.0_0.95_50_sample_1_long_qa_judge.jsonl`,
    sampledJudged: `${stem}_1.0_0.95_50_sample_20_long_qa_judge.jsonl`,
  });
  t.end();
});

const joint = "pararel_patterns-nq-tq-hq-2wikimultihopqa";
const place = (more: Partial<RunPlace> = {}): RunPlace => ({
  results: "R",
  model: "M",
  trainSet: joint,
  part: "lora",
  type: "hybrid",
  rows: 1000,
  ...more,
});

t.test("trained runs have the published folders", (t) => {
  const settings = "weightdecay0.1_r8_alpha16_loradrpout0.0";
  for (const [run, folder] of [
    [{}, `hybrid_answer_conf/long_qa/batchsize16_accumulation8_epochs50_${settings}_1k_training_samples`],
    [{ type: "greedy", rows: 0 }, `greedy_answer_conf/long_qa/batchsize16_accumulation8_epochs10_${settings}`],
    [
      { elicitationRows: 20_000, rows: 30_000 },
      `hybrid_answer_conf_20k_training_samples/long_qa/batchsize16_accumulation8_epochs15_${settings}_30k_training_samples`,
    ],
    [
      { type: "right", batch: 4, accumulation: 32, rows: 300 },
      `right_answer_conf/long_qa/batchsize4_accumulation32_epochs50_${settings}_0.3k_training_samples`,
    ],
  ] as [Partial<RunPlace>, string][])
    t.equal(runFolder(place(run)), `R/M/models/${joint}/lora/${folder}`);
  t.equal(
    runFolder(place({ part: "mlp", type: "right" })),
    `R/M/models/${joint}/mlp/right_answer_conf/long_qa/batchsize16_accumulation8_epochs50_weightdecay0.1_mlp_1_layer_1k_training_samples`,
  );
  t.equal(
    predictionsFolder(place(), "squad"),
    `R/M/eval/${joint}/squad/hybrid_answer_conf/long_qa/batchsize16_accumulation8_epochs50_${settings}_1k_training_samples`,
  );
  t.equal(
    workbookPath(
      "res",
      { model: "M", trainSet: joint, elicitationRows: 0, part: "lora", evalSet: "nq", questionType: "long_qa" },
      "ece",
    ),
    `res/M/${joint}/nq/long_qa_alignment_ece.xlsx`,
  );
  t.same([0, 1, 10_000, 10_001].map(epochsOf), [10, 50, 50, 15]);
  t.end();
});

t.test("one name is written, or the published one; each of them is read", (t) => {
  const results = t.testdir();
  const put = (path: string) => {
    mkdirSync(dirname(path), { recursive: true });
    writeFileSync(path, "");
  };
  const ours = place({ results });
  const published = place({ results, compat: new Set(["B9-5"] as const) });
  t.match(runFolder(published), "/M/models_new/");
  t.match(predictionsFolder(published, "nq"), "/M/eval_new/");

  t.throws(() => findRun(ours), { code: "NO_FILE", message: /credence elical train, or with credence elical sweep/ });
  const released = join(runFolder(ours).replace("loradrpout", "loradropout"), "best_checkpoints");
  put(join(released, "vector_head_epoch_best.pt"));
  t.throws(() => findRun(ours), { code: "NO_FILE" }, "a head alone is no adapter");
  put(join(released, "lora_epoch_best", "adapter_config.json"));
  put(join(dirname(released), "test_losses.json"));
  t.same(findRun(ours), {
    adapter: join(released, "lora_epoch_best"),
    head: join(released, "vector_head_epoch_best.pt"),
    losses: join(dirname(released), "test_losses.json"),
  });
  for (const one of [published, ours]) {
    const written = runPaths(runFolder(one));
    put(written.head);
    t.notSame(findRun(one), written, "not whole yet");
    put(join(written.adapter, "adapter_config.json"));
    put(written.losses);
    t.same(findRun(one), written, "what was written under the name asked for comes first");
  }
  const apart = { rows: 2000, compat: published.compat };
  const other = runPaths(runFolder(place({ results, ...apart })));
  put(other.head);
  put(join(other.adapter, "adapter_config.json"));
  t.equal(findRun(place({ results, rows: 2000 })).head, other.head, "and is found under the other");
  const head = place({ results, part: "mlp" });
  put(runPaths(runFolder(head)).head);
  t.same(findRun(head), runPaths(runFolder(head)), "a head alone needs no adapter");

  t.throws(() => findPredictions(ours, "nq", "test"), { code: "NO_FILE", message: /credence elical predict/ });
  for (const folder of [
    predictionsFolder(published, "nq").replace("loradrpout", "loradropout"),
    predictionsFolder(published, "nq"),
    predictionsFolder(ours, "nq"),
  ]) {
    const path = join(folder, "evaluation_results_test.jsonl");
    put(path);
    t.equal(findPredictions(ours, "nq", "test"), path);
  }
  t.end();
});

t.test("numbers of rows read and print as the folders have them", (t) => {
  for (const [text, rows, name] of [
    ["1k", 1000, "1k"],
    ["300", 300, "300"],
    ["0.3k", 300, "300"],
    ["200k", 200_000, "200k"],
    ["all", 0, "all"],
    ["0", 0, "all"],
    ["2500", 2500, "2.5k"],
  ] as const) {
    t.equal(parseSize(text), rows);
    t.equal(sizeName(rows), name);
  }
  for (const text of ["", "k", "1.0005k", "-1", "many"])
    t.throws(() => parseSize(text), { code: "USAGE", message: /expected 1k, 1000 or all/ });
  t.end();
});
