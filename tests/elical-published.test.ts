/** The whole published pipeline on a toy: raw sets, answers, verdicts, training, confidences, workbooks and figures. */
import { createHash } from "node:crypto";
import { existsSync, mkdirSync, readFileSync, statSync, writeFileSync } from "node:fs";
import { dirname, join } from "node:path";
import t from "tap";
import { toJsonLines } from "../src/data/readers.js";
import type { Evaluation } from "../src/methods/elical/published/evaluate.js";
import {
  answersPaths,
  predictionsFolder,
  type RunPlace,
  runFolder,
  runPaths,
  statedPath,
  workbookPath,
} from "../src/methods/elical/published/paths.js";
import { credence as ended } from "./fixtures/command-line.js";
import { fakeServer } from "./fixtures/fake-server.js";
import { tinyQuestions, writeTinyModel } from "./fixtures/tiny-model.js";

const folder = t.testdir();
const at = (...names: string[]) => join(folder, ...names);

/** What a command line that must succeed printed. */
async function credence(...args: string[]): Promise<string> {
  const { status, out, told } = await ended("--log-level", "error", ...args);
  if (status !== 0) throw new Error(`credence ${args.join(" ")}: ${status}: ${told}`);
  return out;
}

const put = (name: string, content: string): string => {
  const path = at(name);
  mkdirSync(dirname(path), { recursive: true });
  writeFileSync(path, content);
  return path;
};

/** Two sets to learn from and another, in the forms they are published in. */
function rawSets(): [dataset: string, split: string, path: string][] {
  const all = tinyQuestions(110);
  const cut = (from: number, count: number) => all.slice(from, from + count);
  const jsonl = (rows: typeof all) => toJsonLines(rows.map(({ question, answer }) => ({ question, answer })));
  const hotpot = (rows: typeof all) =>
    JSON.stringify(rows.map(({ question, answer }, i) => ({ _id: `${i}`, question, answer: answer[0], context: [] })));
  const squad = (rows: typeof all) => {
    const qas = rows.map(({ question, answer }, i) => ({
      id: `${i}`,
      question,
      answers: answer.map((text) => ({ text, answer_start: 0 })),
    }));
    return JSON.stringify({ version: "1.1", data: [{ title: "t", paragraphs: [{ context: "c", qas }] }] });
  };
  return [
    ["nq", "train", put("raw/nq-train.jsonl", jsonl(cut(0, 30)))],
    ["nq", "test", put("raw/nq-test.jsonl", jsonl(cut(30, 20)))],
    ["hq", "train", put("raw/hq-train.json", hotpot(cut(50, 20)))],
    ["hq", "dev", put("raw/hq-dev.json", hotpot(cut(70, 15)))],
    ["squad", "dev", put("raw/squad-dev.json", squad(cut(85, 20)))],
  ];
}

const model = writeTinyModel(at("tiny"));
// Ten solved examples are longer than the tiny model's own context.
const config = JSON.parse(readFileSync(at("tiny", "config.json"), "utf8"));
writeFileSync(at("tiny", "config.json"), JSON.stringify({ ...config, max_position_embeddings: 1024 }));
const results = at("R");
const trainSet = "nq-hq";
const samples = 4;
const place = (more: Partial<RunPlace>): RunPlace => ({
  results,
  model: "tiny",
  trainSet,
  part: "lora",
  type: "greedy",
  rows: 0,
  batch: 4,
  accumulation: 1,
  epochs: 2,
  ...more,
});
const paths = (dataset: string, split: "train" | "test" = "test") =>
  answersPaths({ results, model: "tiny", dataset, split, samples });

t.test("raw sets become questions, answers and verdicts", async (t) => {
  for (const [dataset, split, input] of rawSets())
    await credence(
      "elical",
      "convert",
      "--dataset",
      dataset,
      "--input",
      input,
      "--output",
      at("data", dataset, `${split}.jsonl`),
    );
  // A judge that says of each request always the same, of about two in three that it is so.
  await using server = await fakeServer(({ raw }) => ({
    text: createHash("sha256").update(raw).digest()[0]! % 3 ? "certain" : "Uncertain.",
  }));
  const common = ["--base_path", folder, "--res_path", results, "--model_path", model, "--model_name", "tiny"];
  const judge = ["--check_model", "judge", "--url", server.url, "--tp_size", "4", "--template", "qwen2"];
  const short = ["--sample_num", `${samples}`, "--max_tokens", "6", "--isa", "scalar", "--threads", "1"];
  await credence("elical", "infer", "--dataset", trainSet, "--data_type", "train", ...common, ...judge, ...short);
  const tested = ["elical", "infer", "--dataset", "nq-hq-squad", "--data-type", "test", ...common, ...judge, ...short];
  await credence(...tested);
  const told = () => JSON.parse(readFileSync(join(results, "tiny", "judge.json"), "utf8"));
  t.match(told(), { judge: "judge", requests: server.answered.size, cost: null }, "what both commands were answered");
  const calls = server.calls.length;
  await credence(...tested);
  t.equal(server.calls.length, calls, "what is there is not asked again");
  t.equal(told().requests, server.answered.size, "and what it cost is not forgotten");
  for (const set of ["nq", "hq", "squad"]) {
    const { folder: _, ...files } = paths(set);
    for (const path of Object.values(files)) t.ok(existsSync(path), path.slice(results.length));
  }
  const asking = ["elical", "infer", "--dataset", "nq-hq-squad", "--prompt_type", "prior_conf", ...common, ...short];
  await credence(...asking);
  await credence(...asking, "--shots", "10");
  const lines = <T>(path: string) =>
    readFileSync(path, "utf8")
      .trim()
      .split("\n")
      .map((line) => JSON.parse(line) as T);
  const stated = (shots: number) =>
    lines<{ question: string; instruction: string }>(statedPath({ results, model: "tiny", dataset: "nq" }, shots));
  const [zero, ten] = [stated(0), stated(10)];
  const verdicts = lines<{ question: string; response: string[] }>(paths("nq").sampledJudged);
  const solved = ten[0]!.instruction.split("\n\n").slice(0, 10);
  for (const example of solved) {
    const { question, instruction } = zero.find((row) => example.startsWith(`${row.instruction}\n`))!;
    const said = verdicts
      .filter((row) => row.question === question)
      .map(({ response: [reply] }) => reply === "certain");
    const share = said.filter(Boolean).length / samples;
    t.equal(said.length, samples);
    t.equal(example, `${instruction}\n${share.toFixed(2)}`, "a request and how many of its samples were judged right");
  }
  t.equal(new Set(solved).size, 10);
  for (const [i, row] of ten.entries())
    t.equal(row.instruction, [...solved, zero[i]!.instruction].join("\n\n"), "the same ten before every question");
  const requests = readFileSync(paths("nq").consistencyRequests, "utf8");
  await credence(
    "elical",
    "consistency",
    "--dataset",
    "nq",
    "--data_type",
    "test",
    "--model_name",
    "tiny",
    "--res_path",
    results,
    "--sample_num",
    `${samples}`,
  );
  t.equal(readFileSync(paths("nq").consistencyRequests, "utf8"), requests, "the same requests by themselves");
});

t.test("the judge is the model that is named; with B9-3 the answering model, whatever is named", async (t) => {
  put("one/data/nq/test.jsonl", toJsonLines([{ question: "what colour is that hat ?", answer: ["red"] }]));
  const judged = (to: string, ...flags: string[]) =>
    ended(
      ...["--log-level", "error", "elical", "infer", "--dataset", "nq", "--base_path", at("one"), "--res_path", at(to)],
      ...["--model_path", model, "--check_model", at("nowhere"), "--sample_num", "1", "--max_tokens", "2"],
      ...["--isa", "scalar", "--threads", "1", "--json", ...flags],
    );
  t.match(await judged("named"), { status: 1, told: new RegExp(at("nowhere")) });
  const itself = await judged("itself", "--compat", "B9-3");
  t.match(itself, { status: 0, told: "" });
  t.match(JSON.parse(itself.out), { judge: model });
  t.match(await judged("url", "--compat", "B9-3", "--url", "http://127.0.0.1:9"), {
    status: 2,
    told: /--compat B9-3: the answering model judges itself, not --url/,
  });
});

const training = ["--model_path", model, "--per_device_train_batch_size", "4", "--gradient_accumulation_steps", "1"];
const settings = [
  "--num_train_epochs",
  "2",
  "--weight_decay",
  "0.1",
  "--dataset",
  trainSet,
  "--isa",
  "scalar",
  "--threads",
  "1",
];
const files = (verdicts: "consistency" | "sampledJudged") => [
  "--train_data_path",
  paths(trainSet, "train").sampled,
  "--train_consis_path",
  paths(trainSet, "train")[verdicts],
];

t.test("elicitation, calibration, confidences and workbooks, script by script", async (t) => {
  const run = (more: Partial<RunPlace>) => runPaths(runFolder(place(more)));
  const greedy = run({});
  await credence(
    "elical",
    "train",
    ...training,
    ...settings,
    ...files("consistency"),
    "--output_path",
    runFolder(place({})),
  );
  const right = place({ type: "right", rows: 12 });
  const labelled = [...files("sampledJudged"), "--train_data_count", "12", "--shuffle"];
  await credence("elical", "train", ...training, ...settings, ...labelled, "--output_path", runFolder(right));
  const hybrid = place({ type: "hybrid", rows: 12 });
  const from = ["--resume_from", "--lora_path", greedy.adapter, "--vector_head_path", greedy.head];
  await credence("elical", "train", ...training, ...settings, ...labelled, ...from, "--output_path", runFolder(hybrid));
  t.match(readFileSync(greedy.losses, "utf8"), /^\{"epoch":1,"test_loss":0\.\d+\}\n\{"epoch":2,/);
  for (const one of [place({}), right, hybrid]) {
    const { adapter, head } = runPaths(runFolder(one));
    const sets = ["nq", "hq", "squad"];
    await credence(
      "elical",
      "predict",
      ...["--model_path", model, "--lora_path", adapter, "--vector_head_path", head],
      ...["--test_data_path", ...sets.map((set) => paths(set).sampled)],
      ...["--output_path", ...sets.map((set) => predictionsFolder(one, set))],
      ...["--per_device_eval_batch_size", "1024", "--isa", "scalar", "--threads", "1"],
    );
  }
  const evaluated = JSON.parse(
    await credence(
      "elical",
      "evaluate",
      "--json",
      ...evaluation("12"),
      ...["--eval_dataset", "nq", "hq,squad", "--qa_type", "long"],
    ),
  ) as Evaluation;
  t.same(
    evaluated.sets.map(({ set, group, questions }) => [set, group, questions]),
    [
      ["hq", "in-domain", 15],
      ["nq", "in-domain", 20],
      ["squad", "out-of-domain", 20],
    ],
  );
  for (const { methods } of evaluated.sets) {
    t.same(
      methods.map(({ method }) => method),
      ["Prob", "N-Prob", "Cons-Sem", "Consis-Lex", "Verbal-0", "Verbal-10", "Eli-Only", "Cal-Only", "EliCal"],
    );
    for (const { auroc, ece, align } of methods) t.ok(auroc !== null && ece !== null && align !== null);
  }
  for (const metric of ["auroc", "ece", "align"] as const)
    t.ok(
      statSync(
        workbookPath(
          at("res"),
          { ...place({}), elicitationRows: 0, evalSet: "squad", questionType: "long_qa" },
          metric,
        ),
      ).size > 1000,
    );
});

const evaluation = (sizes: string) => [
  ...["--model_name", "tiny", "--train_dataset", trainSet, "--training_samples", sizes, "--greedy_samples", "all"],
  ...["--base_path", results, "--batch_size", "4", "--accumulation_steps", "1", "--num_train_epochs", "2"],
  ...["--sample_num", `${samples}`, "--out", at("res")],
];

t.test("a sweep does what is left, the figures are drawn, and HonestyBench's records go out and in", async (t) => {
  const before = place({ type: "right", rows: 12 });
  const done = [
    join(runFolder(before), "summary.json"),
    runPaths(runFolder(before)).head,
    join(predictionsFolder(before, "nq"), "evaluation_results_test.jsonl"),
  ];
  const times = done.slice(1).map((path) => statSync(path).mtimeMs);
  const command = ["elical", "sweep", "--json", "--model_path", model, ...evaluation("12,30")];
  const sets = ["--eval_dataset", "nq,hq,squad", "--isa", "scalar", "--threads", "1", "--GPU_NUMS", "4"];
  const first = await credence(...command, ...sets);
  t.same(
    done.slice(1).map((path) => statSync(path).mtimeMs),
    times,
    "what was there is not done again",
  );
  const swept = JSON.parse(first) as Evaluation;
  t.equal(swept.sets[0]!.methods.length, 11);
  t.ok(existsSync(runPaths(runFolder(place({ type: "hybrid", rows: 30 }))).head));
  t.equal(await credence(...command, ...sets), first, "again: the same numbers");
  const drawn = JSON.parse(
    await credence(
      "elical",
      "draw",
      "--json",
      "--model_name",
      "tiny",
      "--train_dataset",
      trainSet,
      "--all_samples",
      "50",
      "--out",
      at("res"),
    ),
  ) as { name: string; path?: string; missing?: string }[];
  t.same(
    drawn.filter(({ missing }) => missing).map(({ name }) => name),
    ["effects_of_training_size_for_elicitation", "in_and_ood_mlp"],
  );
  for (const { path } of drawn) if (path) t.match(readFileSync(path, "utf8"), /^<svg [\s\S]*<\/svg>\n$/);

  t.same(JSON.parse(readFileSync(at("res", "tiny", trainSet, "sweep.json"), "utf8")).unneeded, { GPU_NUMS: 4 });

  // Every quirk together, into the folders that the published scripts write.
  const other = command.map((one) => (one === "12,30" ? "12" : one === at("res") ? at("res2") : one));
  const published = JSON.parse(await credence(...other, ...sets, "--compat", "all")) as Evaluation;
  t.ok(existsSync(join(results, "tiny", "models_new")) && existsSync(join(results, "tiny", "eval_new")));
  for (const { methods } of published.sets) {
    t.ok(methods.every(({ ece }) => ece === Number(ece!.toFixed(2))));
    t.notSame(methods, swept.sets[0]!.methods);
  }

  const released = at("released.jsonl");
  const record = ["--dataset", "nq", "--data_type", "test", "--model_name", "tiny", "--sample_num", `${samples}`];
  await credence(
    "elical",
    "convert",
    "--honestybench",
    "export",
    ...record,
    "--res_path",
    results,
    "--output",
    released,
  );
  await credence(
    "elical",
    "convert",
    "--honestybench",
    "import",
    ...record,
    "--res_path",
    at("R2"),
    "--input",
    released,
    "--model",
    model,
  );
  const again = at("again.jsonl");
  await credence("elical", "convert", "--honestybench", "export", ...record, "--res_path", at("R2"), "--output", again);
  t.equal(readFileSync(again, "utf8"), readFileSync(released, "utf8"));
});
