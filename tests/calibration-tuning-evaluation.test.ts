/** Calibration-tuning's evaluation: its metrics, its modes, dumped logits, and the tables that they leave. */
import { existsSync, mkdirSync, readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import t from "tap";
import { readTable } from "../src/data/tables.js";
import type { Judge } from "../src/evaluation/judges/judge.js";
import { evaluateSplit, modeOf, statedProbability } from "../src/methods/calibration-tuning/evaluation.js";
import type { GradingItem } from "../src/methods/calibration-tuning/labels.js";
import { evaluateLogits, fittedTemperature, readLogits } from "../src/methods/calibration-tuning/logits.js";
import { aggregated, halfOpenEce, letterMetrics, queryMetrics } from "../src/methods/calibration-tuning/metrics.js";
import { classified, classifierOf } from "../src/methods/calibration-tuning/released-head.js";
import { encodeTorchFile } from "../src/model/torch-file.js";
import { native } from "../src/native.js";
import { Model } from "../src/policy/model.js";
import { credence } from "./fixtures/command-line.js";
import { queryWords, writeTinyModel } from "./fixtures/tiny-model.js";

const none = new Set<never>();
const published = new Set(["A9-7"] as const);
const near = (value: number | null, want: number, bound = 1e-6) => value !== null && Math.abs(value - want) < bound;

t.test("the published measures, and the paper's", (t) => {
  const right = [0.95, 0.8, 0.6, 0.4, 0.3, 0.55, 0.05];
  const labels = [1, 1, 0, 0, 1, 1, 0] as (0 | 1)[];
  for (const compat of [none, published]) {
    const metrics = queryMetrics(right, labels, compat);
    t.ok(near(metrics.unc_ece, 0.178571), `${metrics.unc_ece}`);
    t.ok(near(metrics.unc_ece_pcorrect, 0.221429), `${metrics.unc_ece_pcorrect}`);
    t.ok(near(metrics.unc_auroc, 0.75));
    t.ok(near(metrics.acc, 4 / 7) && near(metrics.unc_acc, 5 / 7));
  }
  t.equal(queryMetrics([0.2, 0.7], [1, 1], none).unc_auroc, null, "one class alone");
  t.ok(near(halfOpenEce([1, 1, 0.25], [1, 0, 0], none), (1 + 0.25) / 3), "1 is in the last bin");
  t.equal(halfOpenEce([1, 1, 0.25], [1, 0, 0], published), 0.25, "A9-7: 1 is in none");
  t.equal(halfOpenEce([1, 1 - 1e-9], [1, 0], published), null, "nor what is 1 in float32");
  t.ok(near(halfOpenEce([0.6, 0.55], [0, 1], none), 0.15 / 2), "0.6 lies below NumPy's edge");
  const letters = letterMetrics(Float64Array.of(0.7, 0.1, 0.1, 0.1, 0.2, 0.6, 0.1, 0.1), 4, [0, 2], none);
  t.ok(near(letters.logits_acc, 0.5) && letters.logits_auroc === null);
  const table = aggregated(
    [
      { N: 1, acc: 0.5, dataset: "mmlu:a", split: "test" },
      { N: 9, acc: 0.7, dataset: "mmlu:b", split: "test" },
    ],
    (name) => (name.endsWith("a") ? "A" : null),
  );
  t.same(
    table.map(({ group, tasks }) => [group, tasks]),
    [
      ["A", 1],
      ["all", 2],
    ],
  );
  t.ok(near(table[1]!.acc as number, 0.6) && near(table[1]!.acc_std as number, 0.1));
  t.equal(modeOf("vrbal"), "verbal");
  t.throws(() => modeOf("ve_1s1g_oe"), { code: "BAD_OPTION", message: /expected query, / });
  const replies: [string, number | null][] = [
    ["Probability: 0.8\n1", 0.8],
    [" 0.25", 0.25],
    ["90", null],
    ["", null],
    ["high", null],
  ];
  for (const [reply, want] of replies) t.equal(statedProbability(reply), want, reply);
  t.end();
});

t.test("a head of two outputs, alone and with its temperature", (t) => {
  const tensor = (name: string, shape: number[], data: number[]) => ({ name, shape, data: Float32Array.from(data) });
  const layers = [
    tensor("0.weight", [2, 3], [1, 0, 0, 0, -1, 0]),
    tensor("0.bias", [2], [0, 1]),
    tensor("2.weight", [2, 2], [1, 1, 0, 2]),
    tensor("2.bias", [2], [0.5, 0]),
  ];
  const features = { count: 2, width: 3, data: Float32Array.of(2, 3, 9, -1, -1, 9) };
  const alone = classifierOf(layers, "x");
  t.equal(alone.temperature, 1);
  t.same([...classified(alone, features)], [2.5, 0, 2.5, 4]);
  const wrapped = layers.map((one) => ({ ...one, name: `0.${one.name}` }));
  const both = classifierOf([...wrapped, tensor("1.log_temperature", [], [0.3555])], "x");
  t.ok(near(both.temperature, 1.426894, 1e-5));
  t.same([...classified(both, features)], [2.5, 0, 2.5, 4]);
  t.throws(() => classifierOf(layers.slice(0, 3), "x.bin"), {
    code: "WRONG_HEAD",
    message: /x\.bin: 2 is no layer with a bias/,
  });
  t.throws(() => classified(alone, { count: 1, width: 2, data: new Float32Array(2) }), { code: "WRONG_BASE" });
  t.end();
});

t.test("dumped logits are read, scaled on validation, and refused where they are none", (t) => {
  const folder = t.testdir();
  const write = (split: string, name: string, logits: number[], labels: number[]) => {
    mkdirSync(join(folder, split), { recursive: true });
    const tensors = [
      { name: "q_logits", shape: [labels.length, 2], data: Float32Array.from(logits) },
      { name: "q_labels", shape: [labels.length], data: BigInt64Array.from(labels, BigInt) },
    ];
    writeFileSync(join(folder, split, name), Buffer.concat(encodeTorchFile(tensors, name.split(".")[0]!)));
  };
  const sure = [0, 4, 4, 0, 0, 4, 0, 4];
  write("validation", "query_data.bin", sure, [1, 0, 1, 0]);
  write("test", "a.pt", sure.slice(0, 4), [1, 0]);
  write("test", "b.pt", sure.slice(4), [0, 1]);
  t.same(readLogits(folder, "test")!.labels, [1, 0, 0, 1], "several files, one behind the other");
  t.equal(readLogits(folder, "train"), null);
  // Three of four are right: P = 0.75 wants logits of log 3.
  const temperature = fittedTemperature(readLogits(folder, "validation")!, "x");
  t.ok(near(temperature, 4 / Math.log(3), 1e-3), `${temperature}`);
  const [validation, test] = evaluateLogits({ id: "x", folder }, { scaled: true, compat: none });
  t.ok(near(validation!.unc_ece as number, 0, 1e-3) && near(test!.unc_ece as number, 0, 1e-3));
  const [plain] = evaluateLogits({ id: "x", folder }, { scaled: false, compat: none });
  t.ok(near(plain!.unc_ece as number, 1 / (1 + Math.exp(-4)) - 0.75, 1e-5));
  t.equal(plain!.unc_auroc, validation!.unc_auroc, "a temperature changes no AUROC");
  const never = { logits: Float32Array.of(0, 1, 1, 0), labels: [1, 0] as (0 | 1)[] };
  t.throws(() => fittedTemperature(never, "x"), {
    code: "CANNOT_CALIBRATE",
    message: /lower the temperature the better, without end/,
  });
  t.throws(() => fittedTemperature({ ...never, labels: [0, 1] }, "x"), {
    message: /higher the temperature the better/,
  });
  write("validation", "other.bin", [0, 1], [2]);
  t.throws(() => readLogits(folder, "validation"), { message: /other\.bin: a label is 2; expected 0 or 1/ });
  t.end();
});

const question = (colour: string, i: number) => ({
  question: `what colour is that hat of ${colour} ?`,
  subject: "x",
  choices: ["red", "green", "blue", "black"],
  answer: i % 4,
});
const people = ["ada", "ben", "eve", "dan", "kai", "gus"];

t.test("every mode, by the command", async (t) => {
  const folder = t.testdir();
  for (const task of ["anatomy", "virology"]) {
    const place = join(folder, "data", "mmlu", task);
    mkdirSync(place, { recursive: true });
    for (const split of ["dev", "validation", "test"])
      writeFileSync(
        join(place, `${split}.jsonl`),
        people.map((name, i) => `${JSON.stringify(question(name, i))}\n`).join(""),
      );
  }
  const model = writeTinyModel(join(folder, "model"), { words: [...queryWords, "a", "b", "c", "d"] });
  const common = [
    "--model-name",
    model,
    "--data-dir",
    join(folder, "data"),
    "--threads=1",
    "--device=cpu",
    "--json",
    "--log-level=warn",
  ];
  const evaluate = (log: string, ...flags: string[]) =>
    credence("calibration-tuning", "evaluate", `--log_dir=${join(folder, log)}`, ...common, ...flags);

  const all = await evaluate("choice", "--dataset=mmlu_all", "--mode=query_choice", "--eval_kshot=1");
  t.equal(all.status, 0, all.told);
  t.match(all.told, /mmlu_all: 55 of its parts are not there/);
  const told = JSON.parse(all.out);
  const groups = told.aggregated.map(({ group, split }: { group: string; split: string }) => `${group} ${split}`);
  t.same(groups.sort(), [
    "Other test",
    "Other validation",
    "STEM test",
    "STEM validation",
    "all test",
    "all validation",
  ]);
  t.equal(told.rows.length, 4);
  const table = await readTable(join(folder, "choice", "metrics.csv"));
  t.same(table.columns, [
    "N",
    "acc",
    "unc_acc",
    "unc_auroc",
    "unc_ece",
    "unc_ece_pcorrect",
    "logits_acc",
    "logits_auroc",
    "logits_ece",
    "dataset",
    "split",
    "ts",
  ]);
  const place = join(folder, "choice", "metrics", "mmlu:anatomy", "test");
  const dump = native().readTensors(join(place, "query_data.bin"));
  t.same(
    dump.map(({ name, shape }) => [name, shape]),
    [
      ["q_logits", [6, 2]],
      ["q_labels", [6]],
    ],
  );
  t.same(
    native()
      .readTensors(join(place, "logits_data.bin"))
      .map(({ name, shape }) => [name, shape]),
    [
      ["logits", [6, 4]],
      ["labels", [6]],
      ["choice_vec", [4]],
    ],
  );
  const rows = await readTable(join(place, "rows_0.csv"));
  t.same(
    rows.rows.map((row) => Number(row[5])),
    rows.rows.map((row) => Number(row[4]!.includes(row[3]!))),
  );
  t.match(
    rows.rows[0]![1],
    /^The following are multiple-choice questions \(with answers\) about Anatomy\.\n\nQuestion:/,
  );
  t.equal(rows.rows[0]![1]!.split("Answer:").length, 2, "one example");
  const again = await evaluate("choice", "--dataset=mmlu_all", "--mode=query_choice", "--eval_kshot=1");
  t.same(JSON.parse(again.out).rows, told.rows, "gone on with");
  const five = await evaluate("five", "--dataset=mmlu:anatomy", "--mode=choice", "--eval_kshot=1", "--compat=A9-3");
  t.equal(five.status, 0, five.told);
  const put = await readTable(join(folder, "five", "metrics", "mmlu:anatomy", "test", "rows_0.csv"));
  t.equal(put.rows[0]![1]!.split("Answer:").length, 6, "A9-3: five examples");
  const scored = await credence(
    "calibration-tuning",
    "evaluate-logits",
    `--dataset=${join(folder, "choice", "metrics", "mmlu:anatomy")}`,
    "--mode=query_logits",
    "--noscale-temp",
    `--log-dir=${join(folder, "again")}`,
    "--json",
  );
  t.equal(scored.status, 0, scored.told);
  t.ok(near(JSON.parse(scored.out).rows[1].unc_ece, told.rows[1].unc_ece, 1e-5), "the dump says the same");
  t.match((await evaluate("x", "--dataset=mmlu:anatomy")).told, /which mode\?/);
  t.match((await evaluate("x", "--dataset=mmlu:anatomy", "--mode=class")).told, /reads a head: give --with-classifier/);
  t.match((await evaluate("x", "--dataset=mmlu:anatomy", "--mode=query", "--eval_kshot=0")).told, /who judges them\?/);

  await t.test("by a judge, by a head, by samples and by words", async (t) => {
    await using base = await Model.load(model, { dtype: "f32", threads: 1 });
    await using policy = await base.policy();
    const items: GradingItem[] = [];
    const judge: Judge<GradingItem> = {
      name: "test",
      async *judge(given) {
        for (const item of given) {
          items.push(item);
          yield {
            value:
              item.other === undefined ? (item.context.includes("ada") ? 1 : 0) : item.answer === item.other ? 1 : 0,
          };
        }
      },
    };
    const given = people.map((name) => ({
      prompt: "",
      context: `what colour is that hat of ${name} ?`,
      targetPrompt: "\nAnswer:",
      target: "red",
      output: null,
      label: null,
    }));
    const parts = { answering: policy, asked: policy, judge, compat: none };
    const query = await evaluateSplit(given, { ...parts, mode: "query" });
    t.same(
      query.rows.map(({ label }) => label),
      [1, 0, 0, 0, 0, 0],
    );
    t.equal(query.metrics.acc, 1 / 6);
    const { hiddenSize } = base.info;
    const classifier = classifierOf(
      [
        {
          name: "0.weight",
          shape: [2, hiddenSize],
          data: Float32Array.from({ length: 2 * hiddenSize }, (_, i) => Math.sin(i)),
        },
        { name: "0.bias", shape: [2], data: Float32Array.of(0, 0) },
      ],
      "x",
    );
    const head = await evaluateSplit(given, { ...parts, mode: "class", classifier });
    t.same(Object.keys(head.dumps), ["classifier_data.bin"]);
    t.notSame(head.right, query.right);
    await t.rejects(evaluateSplit(given, { ...parts, mode: "class" }), { code: "BAD_OPTION" });
    items.length = 0;
    const samples = await evaluateSplit(given, { ...parts, mode: "us_oe" });
    t.equal(items.length, 6 + 60);
    const same = items.slice(6, 16).filter(({ answer, other }) => answer === other).length / 10;
    t.equal(samples.right[0], same, "each verdict is its sample's");
    const stated = await evaluateSplit(given, { ...parts, mode: "verbal" });
    t.equal(stated.unparsed, 6);
    t.same([...stated.right], new Array(6).fill(0.5));
  });
  t.ok(existsSync(join(folder, "choice", "aggregated.csv")));
  t.match(readFileSync(join(folder, "choice", "aggregated.csv"), "utf8"), /^group,split,tasks,acc,acc_std/);
});
