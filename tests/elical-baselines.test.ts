/** Rows that train nothing or a number, and runs over several sets: each confidence is what its definition says. */
import { readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import t from "tap";
import { likeliestTemperature } from "../src/evaluation/calibrators.js";
import { rougeL } from "../src/evaluation/rouge.js";
import { confidenceFormats } from "../src/evaluation/stated.js";
import { shotRows, verbalRequest, yesAndNo } from "../src/methods/elical/asking.js";
import {
  lexicalConsistency,
  meanTokenProbability,
  sequenceProbability,
  thermometer,
} from "../src/methods/elical/baselines.js";
import { rowKey } from "../src/methods/elical/evaluate.js";
import { readLabels } from "../src/methods/elical/labels.js";
import { loraTrainings, split, splitWithout } from "../src/methods/elical/plan.js";
import { prepareQuestions } from "../src/methods/questions.js";
import { loadRecipe, planRecipe, runRecipe, type Setting } from "../src/methods/recipes.js";
import { Model } from "../src/policy/model.js";
import { tinySettings } from "./fixtures/runs.js";
import { tinyQuestions, writeTinyModel } from "./fixtures/tiny-model.js";

const close = (t: { ok(value: boolean, message: string): unknown }, got: number, want: number, digits = 6) =>
  t.ok(Math.abs(got - want) < 0.5 * 10 ** -digits, `${got} is ${want}`);

t.test("probabilities of an answer", async (t) => {
  // Cumulative -2.4 over 6 tokens.
  const logprobs = [-0.4, -0.1, -0.9, -0.3, -0.5, -0.2];
  close(t, meanTokenProbability(logprobs), 0.67032);
  close(t, sequenceProbability(logprobs), 0.090718);
});

t.test("ROUGE-L", async (t) => {
  close(t, rougeL("the cat sat on the mat", "The cat is on the mat."), 10 / 12);
  close(t, rougeL("police killed the gunman", "the gunman killed police"), 4 / 8);
  close(t, rougeL("red", "green"), 0);
  t.equal(rougeL("", "..."), 1, "nothing said twice");
  t.equal(rougeL("", "red"), 0);
  t.equal(rougeL("Zürich", "zürich!"), 1);
  const words = ["a", "b", "c", "d"];
  for (let i = 0; i < 200; i++) {
    const draw = (k: number) => Array.from({ length: (i * k) % 7 }, (_, j) => words[(i * k + j * j) % 4]!).join(" ");
    const [x, y] = [draw(3), draw(5)];
    t.equal(rougeL(x, y), rougeL(y, x));
    t.ok(rougeL(x, y) >= 0 && rougeL(x, y) <= 1);
    t.equal(rougeL(x, x), 1);
  }
  t.equal(lexicalConsistency({ text: "red hat" }, [{ text: "red hat" }, { text: "blue cup" }]), 0.5);
});

t.test("the score that a reply states", async (t) => {
  const cases: [reply: string, corrected: number | null, published: number][] = [
    ["0.85", 0.85, 0.85],
    ["Score: 0.2, or rather 0.7.", 0.7, 0.7],
    ["I am sure: 1", 1, 1],
    ["1.00", 1, 1],
    ["0", 0, 0],
    ["none", null, 0],
    ["", null, 0],
    ["10", null, 0],
    ["90%", null, 0],
    ["1.5", null, 0.5],
    ["8/10", null, 0],
    ["1/2", null, 1],
    ["0.5 %", null, 0.5],
    ["-0.5", null, 0.5],
    [".5", 0.5, 0],
    ["It is 0.9 of 1,000", 0.9, 1],
  ];
  for (const [reply, corrected, published] of cases) {
    const read = (format: "score" | "elical-published") => confidenceFormats[format].find(reply)?.value ?? null;
    t.equal(read("score"), corrected, `${JSON.stringify(reply)}, corrected`);
    t.equal(read("elical-published") ?? 0, published, `${JSON.stringify(reply)}, as published`);
  }
});

t.test("a temperature", async (t) => {
  const logits = [2, 1, -1, 3, -2, 0.5, -0.5, 4];
  const correct = [1, 0, 0, 1, 0, 1, 1, 1];
  const temperature = likeliestTemperature(logits, correct);
  const nll = (T: number) => logits.reduce((sum, z, i) => sum + Math.log1p(Math.exp(correct[i] ? -z / T : z / T)), 0);
  for (const factor of [0.8, 0.95, 1.05, 1.25]) t.ok(nll(temperature) < nll(temperature * factor), `${factor}`);
  const rows = logits.map((_, row) => row);
  const fitted = thermometer(logits, correct, rows, rows);
  t.notOk(fitted.bound);
  close(t, fitted.confidences[0]!, 1 / (1 + Math.exp(-2 / temperature)));
  const wrong = thermometer(logits, [0, 0, 1, 0, 1, 0, 0, 0], rows, rows);
  t.ok(wrong.bound, "surer where it is wrong");
  t.ok(wrong.confidences[7]! > wrong.confidences[0]!, "the order stays");
  t.ok(wrong.confidences.every((confidence) => Math.abs(confidence - 0.5) < 0.05));
  t.equal(likeliestTemperature([1, -1], [1, 0]), 0, "never wrong: the sharper the better");
});

t.test("several sets", async (t) => {
  const folder = t.testdir();
  const model = writeTinyModel(join(folder, "model"), { words: ["A", "B"] });
  const all = tinyQuestions(180);
  const file = ["first", "second", "third"].map((set, i) => {
    const path = join(folder, `${set}.jsonl`);
    const lines = all.slice(i * 60, (i + 1) * 60).map(({ question, answer }) => JSON.stringify({ question, answer }));
    writeFileSync(path, `${lines.join("\n")}\n`);
    return { path, set, limit: set === "third" ? 40 : null };
  });
  const settings: Setting[] = [
    ...tinySettings(model, ""),
    ["questions.file", file],
    ["questions.testShare", 0.5],
    ["transfer", true],
    ["seeds", 2],
    ["probes.everyDepth", true],
    ["heads.kinds", ["linear", "mlp"]],
    ["heads.everyDepth", true],
    ["heads.seeds", 1],
    ["heads.elicitEpochs", 2],
    ["heads.calibrateEpochs", 2],
    ["lora.seeds", 1],
    ["lora.labels", "all"],
    ["lora.layers", ["last", "auto", 1]],
    ["lora.elicitEpochs", 1],
    ["lora.calibrateEpochs", 1],
    ["baselines.semantic.enabled", true],
    ["baselines.verbal.shots", [0, 2]],
    ["baselines.thermometer.enabled", true],
  ];
  const recipe = loadRecipe("elical/quickstart", settings);
  const directory = join(folder, "run");
  const engine = { threads: 2 };
  const plan = await planRecipe(recipe, { engine });
  const summary = await runRecipe(recipe, { directory, engine });
  const labels = readLabels(join(directory, "stages", "03-labels"));

  t.test("a set has as many questions as its limit, and each is a group of its own", async (t) => {
    const { questions } = await prepareQuestions(recipe);
    const count = (set: string) => questions.filter((question) => question.set === set).length;
    t.same(["first", "second", "third"].map(count), [60, 60, 40]);
    t.equal(new Set(questions.map(({ id }) => id)).size, 160);
    t.ok(questions.every(({ id, group, set, kind }) => group === id && id.startsWith(`${set}-`) && kind === set));
    const other = await prepareQuestions(loadRecipe("elical/quickstart", [...settings, ["questions.seed", 1]]));
    const chosen = (from: typeof questions) => from.flatMap(({ id, set }) => (set === "third" ? [id] : [])).sort();
    t.notSame(chosen(other.questions), chosen(questions), "another seed takes others");
    const short = [{ ...file[0]!, limit: 61 }, file[1]!];
    await t.rejects(prepareQuestions(loadRecipe("elical/quickstart", [...settings, ["questions.file", short]])), {
      code: "BAD_INPUT",
      message: /60 questions of the set first can be used.*limit is 61/,
    });
  });

  t.test("nothing of a set is learnt where it is left out", async (t) => {
    const { train, test, labels: chosen, inner } = splitWithout(labels, "second");
    t.ok(train.length && train.every((row) => labels[row]!.part === "train" && labels[row]!.set !== "second"));
    t.ok(test.length && test.every((row) => labels[row]!.part === "test" && labels[row]!.set === "second"));
    t.ok(chosen(0, 30).every((row) => train.includes(row)));
    t.ok(inner.flat().every((row) => train.includes(row)));
  });

  t.test("every row is there, for all questions and for each set", async (t) => {
    const everywhere = [
      "probe-answer",
      "head-linear",
      "head-mlp",
      "lora-question",
      "self-consistency",
      "consistency-lexical",
      "consistency-semantic",
      "verbal-0",
      "verbal-2",
      "thermometer",
      "p-true",
      "mean-token-probability",
    ];
    for (const row of everywhere) {
      t.match(summary.metrics[row]?.brier, { value: Number, low: Number }, row);
      for (const set of ["first", "second", "third"]) t.ok(summary.sets[set]?.metrics[row], `${row}, ${set}`);
    }
    const test = labels.filter(({ part }) => part === "test");
    for (const set of ["first", "second", "third"]) {
      const brier = summary.sets[set]!.transfer[30]!["lora-question"]!.brier;
      t.ok(summary.sets[set]!.transfer[10]!["head-linear"]);
      t.match(brier, { n: test.filter((label) => label.set === set).length });
    }
    t.match(summary.transfer[30]!["probe-answer"]!.brier, { n: test.length });
    t.ok(summary.transfer[10]!.thermometer && summary.transfer[10]!["self-consistency-platt"]);
    t.notOk(summary.transfer[30]!["self-consistency"], "what learns nothing does not transfer");
    t.same(Object.keys(summary.layers["probe-answer"]!), ["1", "2"]);
    t.ok(summary.layers["lora-question"]![1] && summary.layers["lora-question"]![2]);
    t.ok(summary.labels[10]!["lora-question"], "LoRA at every number of labels");
    t.ok(summary.differences[30]!["probe-answer-transfer - probe-answer"]?.brier);
    t.ok(summary.sets.first!.differences[30]!["lora-question - lora-question-calibration-only"]);
    t.match(summary.asking["verbal-2"], { labels: 2, unparsed: { of: test.length } });
    t.match(summary.asking["consistency-semantic"]?.threshold, { cosine: Number, layer: 1 });
  });

  t.test("the main rows of a depth are the rows of that depth", async (t) => {
    const rows = (name: string) =>
      readFileSync(join(directory, "predictions", `${name}.jsonl`), "utf8")
        .trim()
        .split("\n");
    const confidences = (name: string) => rows(name).map((line) => JSON.parse(line).confidence);
    t.same(confidences("lora-question-layer-2-seed0"), confidences("lora-question-seed0"));
    t.same(confidences("head-mlp-layer-2-seed0"), confidences("head-mlp-seed0"));
    t.notSame(confidences("lora-question-layer-1-seed0"), confidences("lora-question-seed0"));
    const main = summary.metrics["probe-answer"]!.brier;
    const depths = Object.values(summary.layers["probe-answer"]!).map(({ brier }) => brier.value);
    t.ok(main.value !== null && depths.includes(main.value), "the chosen depth is one of them");
  });

  t.test("a difference is between the same draws of labels", async (t) => {
    const brier = (name: string) => {
      const lines = readFileSync(join(directory, "predictions", `${name}-seed0.jsonl`), "utf8")
        .trim()
        .split("\n");
      const errors = lines.map((line) => JSON.parse(line)).map((row) => (row.confidence - row.given_correct) ** 2);
      return errors.reduce((sum, error) => sum + error, 0) / errors.length;
    };
    const told = summary.differences[30]!["lora-question - self-consistency-platt"]!.brier!;
    close(t, told.value!, brier("lora-question") - brier("self-consistency-platt"), 9);
  });

  t.test("what asks again says what the model says", async (t) => {
    await using base = await Model.load(model, engine);
    await using policy = await base.policy();
    const [yes, no] = await yesAndNo(base);
    const one = labels.findIndex(({ part }) => part === "test");
    const { question, given, id } = labels[one]!;
    const prompt = await base.promptTokens(
      [
        { role: "user", content: recipe.prompt.user.replace("{question}", question) },
        { role: "assistant", content: given.text },
        { role: "user", content: recipe.baselines.thermometer.ask },
      ],
      recipe.prompt,
    );
    const [a, b] = await Promise.all(
      [yes!, no!].map(async (token) => {
        const { logprobs } = await policy.forward([Int32Array.of(...prompt, token)], { logprobs: true });
        return logprobs!.at(-1)!;
      }),
    );
    const path = join(directory, "predictions", "p-true-seed0.jsonl");
    const lines = readFileSync(path, "utf8").trim().split("\n");
    const line = lines.map((text) => JSON.parse(text)).find((prediction) => prediction.id === id);
    close(t, line.confidence, 1 / (1 + Math.exp(b! - a!)), 4);
    await using mute = await Model.load(writeTinyModel(join(folder, "mute")), engine);
    await t.rejects(yesAndNo(mute), { code: "BAD_INPUT", message: /"A" and "B" are not one token each/ });
  });

  t.test("examples are labelled training questions, or as published test questions of the set", async (t) => {
    const division = split(labels);
    const shots = shotRows(labels, recipe, division, 2);
    t.same(shots(division.test[0]!), division.labels(0, 2));
    const published = loadRecipe("elical/quickstart", [...settings, ["baselines.verbal.shotsFrom", "test"]]);
    const ofSet = shotRows(labels, published, division, 2);
    for (const row of division.test) {
      t.ok(ofSet(row).every((shot) => labels[shot]!.part === "test" && labels[shot]!.set === labels[row]!.set));
    }
    t.equal(verbalRequest("Q: {question}", "b?", [{ question: "a?", score: 0.25 }]), "Q: a?\n0.25\n\nQ: b?");
  });

  t.test("the plan names the stages that run", async (t) => {
    t.same(
      plan.stages.map(({ name }) => name),
      [...Object.keys(summary.stages), "09-report"],
    );
    // Answers are not there yet when a plan is made: the longest they may be stand for them, and a pass ends elsewhere.
    for (const { name, engineBytes } of plan.stages) {
      const ran = summary.stages[name]?.engineBytes ?? 0;
      t.ok(1.01 * engineBytes >= ran, `${name}: ${engineBytes} planned, ${ran} taken`);
    }
    const asked = plan.stages.filter(({ does }) => does === "asks again");
    t.equal(asked.length, 4);
    t.ok(asked.every(({ rows, seconds }) => rows > 0 && seconds! > 0));
    t.match(readFileSync(join(directory, "report.html"), "utf8"), /third/);
  });
});

t.test("what one setting cannot tell", async (t) => {
  const refused = (settings: Setting[], message: RegExp) =>
    t.throws(() => loadRecipe("elical/quickstart", settings), { code: "BAD_RECIPE", message });
  const sets = (...names: string[]): Setting => ["questions.file", names.map((set) => ({ path: `${set}.jsonl`, set }))];
  refused([["transfer", true]], /at least two sets/);
  refused([sets("a", "a")], /two files are the set a/);
  refused([sets("a/b")], /questions\.file/);
  refused([sets("a", "b"), ["transfer", true], ["folds", 5]], /transfer needs folds: 0/);
  refused(
    [
      ["baselines.verbal.shots", [10]],
      ["folds", 5],
    ],
    /solved examples need folds: 0/,
  );
  refused([["lora.layers", ["last", "last"]]], /same depth/);
  refused([["lora.labels", [30, 50]]], /lora\.labels: 50; expected some of labels\.counts/);
  const names = loraTrainings(
    loadRecipe("elical/quickstart", [sets("a", "b"), ["transfer", true], ["lora.layers", ["auto", "last"]]]),
  ).map(({ name }) => name);
  t.equal(new Set(names).size, names.length);
  t.equal(names.filter((name) => name.includes("without-a")).length, 3);
  t.equal(rowKey({ row: "thermometer", labels: 30, transfer: true }, 100), "thermometer-transfer-30");
});
