/** A recipe's judge, and the published quirks a recipe can have: each one asked for and not. */
import { type ChildProcess, spawn } from "node:child_process";
import { existsSync, mkdirSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import t from "tap";
import { stringify } from "yaml";
import { correctnessRequest, equivalenceRequest } from "../src/evaluation/judges/prompts.js";
import { readSamples, type SamplesRecord } from "../src/methods/elical/answers.js";
import { readPredictions } from "../src/methods/elical/evaluate.js";
import { type JudgingJob, judgeAnswers } from "../src/methods/elical/judging.js";
import { readLabels } from "../src/methods/elical/labels.js";
import { confidenceOf, labelTarget, loraLogits, loraPrompts, loraTraining } from "../src/methods/elical/lora.js";
import { elicalRows } from "../src/methods/elical/published/compat.js";
import { publishedNumbers } from "../src/methods/elical/published/metrics.js";
import { compatOf, recipeRows } from "../src/methods/elical/quirks.js";
import type { ElicalRecipe } from "../src/methods/elical/recipe.js";
import { loadRecipe, planRecipe, runRecipe, type Setting } from "../src/methods/recipes.js";
import { Model } from "../src/policy/model.js";
import { answerKey } from "../src/remote/answer-store.js";
import { silent } from "../src/tracking/progress.js";
import { bestCheckpoint, newestCheckpoint } from "../src/training/checkpoint.js";
import { ended } from "./fixtures/child.js";
import { type Behaviour, type Call, fakeServer } from "./fixtures/fake-server.js";
import { runBytes, tinySettings } from "./fixtures/runs.js";
import { writeTinyModel, writeTinyQuestions } from "./fixtures/tiny-model.js";

const folder = t.testdir();
const model = writeTinyModel(join(folder, "model"));
const questions = writeTinyQuestions(join(folder, "questions.jsonl"), 60);
const engine = { threads: 1 };
const settings = (...more: Setting[]): Setting[] => [
  ...tinySettings(model, questions),
  ["lora.elicitEpochs", 1],
  ["lora.calibrateEpochs", 1],
  ...more,
];
const recipeWith = (...more: Setting[]): ElicalRecipe => loadRecipe("elical/quickstart", settings(...more));
const local: Setting = ["judge", { by: "local", model, unparsed: "negative" }];
const patience = { timeout: 10 * 60_000 };
t.setTimeout(patience.timeout);

t.test("rows that a recipe cannot have are refused by name", async (t) => {
  const refused = (message: RegExp, ...more: Setting[]) =>
    t.throws(() => recipeWith(...more), { code: "BAD_RECIPE", message });
  for (const { id, commands } of elicalRows) {
    if (recipeRows.includes(id)) continue;
    const why = commands.length ? "it makes no difference to a recipe" : "it has no switch";
    refused(new RegExp(`compat: ${id}: ${why}`), ["compat", [id]]);
  }
  refused(/compat: B9-99: there is no such row/, ["compat", ["B9-99"]]);
  refused(/compat: B9-3: .*judge\.by is string/, ["compat", ["B9-3"]]);
  refused(/compat: B9-15: .*judge\.by is string/, ["compat", ["B9-15"]]);
  refused(/compat: B9-16: .*judge\.by is local/, ["compat", ["B9-16"]], local);
  for (const id of ["B9-11", "B9-12", "B9-13"])
    refused(new RegExp(`compat: ${id}: it is of LoRA`), ["compat", [id]], ["lora.enabled", false]);
  refused(/compat: B9-19: it is of heads alone/, ["compat", ["B9-19"]]);
  refused(/lora\.patience needs/, ["lora.patience", 2]);
  t.ok(recipeWith(["lora.patience", 2], ["compat", ["B9-9"]]), "the test questions say whether an epoch helped");
  t.same([...compatOf(recipeWith(["compat", "all"]))], ["B9-9", "B9-10", "B9-11", "B9-12", "B9-13", "B9-16"]);
  t.same([...compatOf(recipeWith(["compat", "all"], local))].slice(0, 2), ["B9-3", "B9-9"]);
  refused(/judge\.url/, ["judge", { by: "server", model: "m", url: "localhost" }]);
  refused(/judge/, ["judge", { by: "oracle" }]);
});

t.test("what is read and said, with each quirk and without", async (t) => {
  await using base = await Model.load(model, engine);
  const asked = [{ question: "What colour is the hat of Ada ?" }, { question: "What ?" }];
  const plain = recipeWith();
  const quirky = recipeWith(["compat", ["B9-11", "B9-12", "B9-13"]]);
  const here = await loraPrompts(base, plain, asked);
  t.equal(here.learnt, here.scored, "nothing follows the prompt");
  const { learnt, scored } = await loraPrompts(base, quirky, asked);
  const { specialTokens } = base.tokenizer;
  const eos = base.tokenizer.idOf(specialTokens.eos_token!);
  const doubled = base.tokenizer.addsBos && here.scored[0]![0] === base.tokenizer.bosId;
  for (const [i, ids] of scored.entries()) {
    t.same([...ids], doubled ? [base.tokenizer.bosId, ...here.scored[i]!] : [...here.scored[i]!]);
    const ends = ids.at(-1) === eos;
    t.same([...learnt[i]!], ends ? [...ids] : [...ids, eos], "B9-12: EOS in training alone");
  }
  const context = { directory: "", runDirectory: "", progress: silent };
  const rows = here.learnt.map((tokens) => ({ tokens, target: 0 }));
  const training = (recipe: ElicalRecipe) =>
    loraTraining({ context, model: base, recipe, seed: 0, epochs: 1, rows, label: "" });
  t.equal(training(plain).padding, undefined);
  t.match(training(quirky).padding, { group: 16 });
  await using policy = await training(plain).policy(undefined);
  const [long, short] = await loraLogits(policy, plain, here.scored);
  const [longest, padded] = await loraLogits(policy, quirky, here.scored);
  const [alone] = await loraLogits(policy, quirky, here.scored.slice(1));
  t.equal(longest, long);
  t.not(padded, short, "B9-11: a shorter row is read at a PAD token");
  t.equal(alone, short, "and alone it is not padded");
  t.equal(confidenceOf(plain)(0.4), 1 / (1 + Math.exp(-0.4)));
  t.equal(confidenceOf(quirky)(0.4), 0.59765625, "B9-13: eight bits");
  const label = { given_correct: 1 as const, correct: [1, 0, 0, 0] as (0 | 1)[] };
  t.equal(labelTarget(plain, label), 1);
  t.equal(labelTarget(recipeWith(["labels.of", "samples"]), label), 0.25);
});

const answered = (text: string) => ({ text, tokens: [1], logprobs: [-1], finish: "stop" as const });

/** Labels one record in a stage's folder of its own. */
async function judged(t: { testdir(): string }, job: Omit<JudgingJob, "model"> & { model?: Model }, answer: string[]) {
  const runDirectory = t.testdir();
  mkdirSync(join(runDirectory, "stage"));
  const record = {
    question: "Which letter ?",
    answer,
    given: answered("B"),
    responses: [answered("B"), answered("C")],
  };
  const context = { directory: join(runDirectory, "stage"), runDirectory, progress: silent };
  const [labels] = await judgeAnswers(context, job as JudgingJob, [record as unknown as SamplesRecord]);
  return { labels: labels!, note: JSON.parse(readFileSync(join(context.directory, "judge.json"), "utf8")) };
}

t.test("verdicts, with each quirk and without", async (t) => {
  const corrected = await judged(t, { recipe: recipeWith() }, ["A"]);
  t.match(corrected.labels, { given_correct: 0, correct: [0, 0] });
  t.same(corrected.note, { judge: "string match", verdicts: 5, unparsed: 0 });
  const published = await judged(t, { recipe: recipeWith(["compat", ["B9-16"]]) }, ["A"]);
  t.match(published.labels, { given_correct: 1, correct: [1, 1] }, "B9-16: an article is in every text");

  await using server = await fakeServer(() => ({ text: "hm" }));
  const asks = (more: object, ...others: Setting[]) =>
    recipeWith(["judge", { by: "server", model: "judge-1", url: server.url, ...more }], ...others);
  await t.rejects(judged(t, { recipe: asks({}) }, ["A"]), { code: "UNPARSED", message: /judge\.unparsed/ });
  const negative = await judged(t, { recipe: asks({ unparsed: "negative" }) }, ["A"]);
  t.match(negative.labels, { given_correct: 0, agrees: [0, 0], target: 0 });
  t.match(negative.note, { unparsed: 5 });
  const quirky = await judged(t, { recipe: asks({}, ["compat", ["B9-15"]]) }, ["A"]);
  t.match(quirky.labels, { given_correct: 1, correct: [1, 1], target: 1 }, "B9-15: what is no refusal is a yes");
  const price = { input: 1, output: 4 };
  const paid = await judged(t, { recipe: asks({ unparsed: "negative" }), judging: { price } }, ["A"]);
  t.match(paid.note, {
    judge: "judge-1",
    url: server.url,
    requests: 4,
    input_tokens: 40,
    output_tokens: 8,
    cost: 72e-6,
  });

  const other = writeTinyModel(join(folder, "judge"), { words: ["certain"] });
  await using base = await Model.load(model, engine);
  const by = async (...more: Setting[]) =>
    (await judged(t, { recipe: recipeWith(...more), model: base, engine }, ["A"])).note;
  const named: Setting = ["judge", { by: "local", model: other, newTokens: 4, unparsed: "negative" }];
  const sha256 = (await by(named)).sha256;
  t.not(sha256, base.sha256);
  t.equal((await by(named, ["compat", ["B9-3"]])).sha256, base.sha256, "B9-3: the answering model judges itself");
  t.equal((await by(local)).sha256, base.sha256);
});

t.test("a run with quirks and one without", patience, async (t) => {
  const heads: Setting[] = [
    ["heads.kinds", ["linear"]],
    ["heads.elicitEpochs", 1],
    ["heads.calibrateEpochs", 2],
  ];
  const run = async (name: string, ...more: Setting[]) => {
    const directory = join(folder, name);
    const recipe = recipeWith(...heads, ["lora.elicitEpochs", 3], ["lora.patience", 3], ...more);
    const summary = await runRecipe(recipe, { directory, engine });
    const stage = (of: string) => join(directory, "stages", of);
    return { summary, stage, labels: readLabels(stage("03-labels")) };
  };
  const plain = await run("plain", ["lora.validationShare", 0.2]);
  const quirky = await run("quirky", ["compat", ["B9-9", "B9-10", "B9-19"]]);

  /** The smallest loss that chose an epoch of the elicitation, and the loss on the tested questions. */
  const losses = ({ stage, labels }: typeof plain) => {
    const { losses } = newestCheckpoint(stage("05-elicit-seed0"))!.state.validation!;
    const said = readPredictions(stage("05-elicit-seed0")).filter(
      ({ row }) => row === "lora-question-elicitation-only",
    );
    const errors = said.map(({ index, confidence }) => (confidence - labels[index]!.target) ** 2);
    return { chose: Math.min(...losses), tested: errors.reduce((sum, error) => sum + error, 0) / errors.length };
  };
  const published = losses(quirky);
  t.ok(Math.abs(published.chose - published.tested) < 1e-6, "B9-9: the tested questions choose the epoch");
  const held = losses(plain);
  t.ok(Math.abs(held.chose - held.tested) > 1e-6, "held-out training questions choose it");
  t.ok(bestCheckpoint(plain.stage("05-elicit-seed0")));

  for (const { summary, stage, labels } of [plain, quirky]) {
    const rows = readPredictions(stage("04-probes"))
      .filter(({ row }) => row === "self-consistency")
      .map(({ index, confidence }) => ({ confidence, correct: labels[index]!.given_correct }));
    const compat = compatOf(summary.recipe);
    const { threshold: _, ...numbers } = publishedNumbers(rows, compat, 42);
    t.same(summary.published.all!["self-consistency"], numbers);
    t.ok(summary.published.all!["probe-answer-10"], "and at every number of labels");
  }
  const [a, b] = [plain, quirky].map(({ summary }) => summary.published.all!["self-consistency"]!);
  t.equal(a!.auroc, b!.auroc);
  t.not(a!.ece, b!.ece, "B9-10");
  t.equal(Math.round(100 * b!.ece!) / 100, b!.ece);

  const said = ({ stage }: typeof plain, name: string) =>
    readPredictions(stage("04-heads")).flatMap(({ row, confidence }) => (row === name ? [confidence] : []));
  t.same(said(plain, "head-linear-elicitation-only"), said(quirky, "head-linear-elicitation-only"));
  t.notSame(said(plain, "head-linear"), said(quirky, "head-linear"), "B9-19: other rows are labelled");
});

const bin = fileURLToPath(new URL("../dist/cli/bin.js", import.meta.url));
const skip = existsSync(bin) ? false : "the command line is not built";

t.test(
  "killed while a server judges, a run pays for no kept answer twice and ends the same",
  { skip, ...patience },
  async (t) => {
    const concurrency = 4;
    let kill: { after: number; child: ChildProcess } | undefined;
    const behave = ({ raw }: Call): Behaviour => {
      if (kill && --kill.after === 0) kill.child.kill("SIGKILL");
      const number = Number.parseInt(answerKey(raw).slice(0, 6), 16);
      return { text: number % 3 ? "certain" : "uncertain", after: number % 5 };
    };
    await using server = await fakeServer(behave);
    const recipe = recipeWith(["lora.enabled", false], ["judge", { by: "server", model: "judge-1", url: server.url }]);
    const path = join(folder, "judged.yaml");
    writeFileSync(path, stringify(recipe));
    const prices = ["--price-in", "1", "--price-out", "4", "--concurrency", String(concurrency)];
    const start = (directory: string) =>
      spawn(process.execPath, [bin, "run", path, "--run-dir", directory, "--threads", "1", ...prices], {
        stdio: ["ignore", "ignore", "pipe"],
      });
    const whole = join(folder, "whole");
    const first = await ended(start(whole));
    t.equal(first.code, 0, first.told);
    const distinct = server.answered.size;
    t.equal(server.calls.length, distinct, "equal requests are paid for once");
    const samples = readSamples(join(whole, "stages", "02-answers"));
    const requests = new Set(
      samples.flatMap(({ question, answer, given, responses }) => [
        ...[given, ...responses].map(({ text }) => correctnessRequest(question, answer, text)),
        ...responses.map(({ text }) => equivalenceRequest(question, given.text, text)),
      ]),
    );
    t.equal(distinct, requests.size);

    const summary = JSON.parse(readFileSync(join(whole, "summary.json"), "utf8"));
    const tokens = [10 * distinct, 2 * distinct];
    t.match(summary.judge, { judge: "judge-1", requests: distinct, input_tokens: tokens[0], output_tokens: tokens[1] });
    t.ok(Math.abs(summary.judge.cost - (tokens[0]! + 4 * tokens[1]!) / 1e6) < 1e-12);
    t.match(readFileSync(join(whole, "report.html"), "utf8"), /judge-1 at http/);
    const plan = await planRecipe(recipe, { engine, probe: false, judging: { price: { input: 1, output: 4 } } });
    const told = plan.stages.find(({ judge }) => judge)!.judge!;
    t.match(told, { by: "server", judge: "judge-1", url: server.url, requests: samples.length * 7 });
    t.ok(told.requests >= distinct && told.cost! > 0);

    server.calls.length = 0;
    server.answered.clear();
    const directory = join(folder, "killed");
    let kills = 0;
    for (;;) {
      const child = start(directory);
      kill = kills < 3 ? { after: 20 + 17 * kills, child } : undefined;
      const { code, told } = await ended(child);
      if (code === 0) break;
      if (!t.equal(child.signalCode, "SIGKILL", told)) return;
      kills += 1;
    }
    t.equal(kills, 3);
    const repeated = [...server.answered.values()].reduce((sum, count) => sum + count - 1, 0);
    t.ok(repeated <= kills * concurrency, `${repeated} answers of calls in flight were lost to ${kills} kills`);
    const bytes = (of: string) =>
      Object.fromEntries(Object.entries(runBytes(of)).filter(([name]) => !name.startsWith("judge.answers/")));
    t.same(bytes(directory), bytes(whole));
    t.ok(bytes(whole)["stages/03-labels/judge.json"], "the cost that is recorded is among them");

    const changed = ["judge.url", "http://127.0.0.1:9/v1"] as Setting;
    const elsewhere = loadRecipe(JSON.parse(JSON.stringify(recipe)), [changed]);
    await t.rejects(runRecipe(elsewhere, { directory, engine }), { code: "OTHER_RECIPE", message: /judge\.url/ });
    rmSync(directory, { recursive: true });
  },
);
