/** Looking ahead: what a plan says of memory is what the run then takes, and what is wrong is seen before anything runs. */
import { readdirSync, readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import t from "tap";
import { main } from "../src/cli/main.js";
import { loadRecipe, planRecipe, runRecipe, type Setting } from "../src/methods/recipes.js";
import { auditTemplate } from "../src/text/audit.js";
import { Tokenizer } from "../src/text/tokenizer.js";
import { tinySettings } from "./fixtures/runs.js";
import { writeTinyModel, writeTinyQuestions } from "./fixtures/tiny-model.js";

const folder = t.testdir();
const model = writeTinyModel(join(folder, "model"));
const questions = writeTinyQuestions(join(folder, "questions.jsonl"), 60);
const settings: Setting[] = [...tinySettings(model, questions), ["lora.elicitEpochs", 1], ["lora.calibrateEpochs", 1]];
const recipe = loadRecipe("elical/quickstart", settings);

t.test("the engine's memory is predicted to the byte, stage by stage", async (t) => {
  let free = 0;
  for (const limited of [false, true]) {
    const engine = { threads: 1, ...(limited ? { maxMemory: Math.floor(free * 0.75) } : {}) };
    const plan = await planRecipe(recipe, { engine, probe: false });
    const { stages } = await runRecipe(recipe, { directory: join(folder, `run-${limited}`), engine });
    for (const { name, engineBytes, fitted } of plan.stages) {
      const ran = stages[name];
      if (!ran) continue;
      t.equal(engineBytes, ran.engineBytes, `${limited ? "limited, " : ""}${name}`);
      t.same(fitted, ran.fitted ?? [], `${name}: what was chosen`);
    }
    t.equal(plan.seconds, null);
    if (!limited) free = plan.engineBytes;
    else {
      t.ok(plan.engineBytes <= engine.maxMemory!, "the limit is kept");
      t.ok(
        plan.stages.some(({ fitted }) => fitted.length > 0),
        "and something was chosen for it",
      );
    }
  }
  await t.rejects(planRecipe(recipe, { engine: { maxMemory: 10_000 }, probe: false }), { code: "NO_MEMORY" });
});

t.test("rows, lengths and the supervised share", async (t) => {
  const before = readdirSync(folder, { recursive: true }).length;
  const plan = await planRecipe(recipe, { engine: { threads: 1 } });
  t.equal(readdirSync(folder, { recursive: true }).length, before, "nothing is written");
  const answers = plan.stages.find(({ does }) => does === "generates")!;
  t.match(answers, { rows: 60, refused: 0, cut: 0 });
  t.ok(answers.tokens!.min <= answers.tokens!.median && answers.tokens!.median <= answers.tokens!.max);
  const training = plan.stages.find(({ does }) => does === "trains")!;
  t.ok(training.supervisedShare! > 1 / training.tokens!.max - 1e-12);
  t.ok(training.supervisedShare! < 1 / training.tokens!.min + 1e-12, "one token of each row carries the loss");
  t.ok(plan.seconds! > 0);
  t.ok(plan.processBytes > plan.engineBytes);
});

t.test("a row that does not fit is counted", async (t) => {
  const long = join(folder, "long.jsonl");
  const line = { question: Array(300).fill("hat").join(" "), answer: ["red"], group: "ada" };
  writeFileSync(long, `${readFileSync(questions, "utf8")}${JSON.stringify(line)}\n`);
  const plan = await planRecipe(loadRecipe("elical/quickstart", [...settings, ["questions.file", long]]), {
    probe: false,
  });
  t.equal(plan.stages.find(({ does }) => does === "generates")!.refused, 1);
  t.equal(plan.stages.find(({ does }) => does === "trains")!.refused, 1);
});

t.test("the template is looked at", async (t) => {
  const audit = await auditTemplate(await Tokenizer.load(model));
  t.same(audit.problems, []);
  t.match(audit, { generationPrompt: "<|assistant|>", defaultSystem: true, bos: { token: "<s>", at: [0] } });
  t.equal(audit.turns.length, 2);
  for (const { supervised, exact } of audit.turns) {
    t.ok(exact);
    t.match(supervised, /<\/s>$/, "the end of the turn is learnt");
  }
  const path = join(model, "tokenizer_config.json");
  const config = readFileSync(path, "utf8");
  t.teardown(() => writeFileSync(path, config));
  const spoilt = async (from: string, to: string) => {
    const spoiling = JSON.parse(config) as { chat_template: string };
    t.ok(spoiling.chat_template.includes(from));
    spoiling.chat_template = spoiling.chat_template.replace(from, to);
    writeFileSync(path, JSON.stringify(spoiling));
    return (await auditTemplate(await Tokenizer.load(model))).problems;
  };
  t.match(await spoilt("{{ bos_token }}", "{{ bos_token }}{{ bos_token }}"), [/begins with <s> twice/]);
  t.match(await spoilt("{% if add_generation_prompt %}<|assistant|>{% endif %}", ""), [
    /not exactly|nothing where an answer begins/,
  ]);
});

t.test("the command prints it, and refuses a limit that is no number of bytes", async (t) => {
  const written: string[] = [];
  const intercept = t.capture(process.stdout, "write", (text: string) => {
    written.push(text);
    return true;
  });
  const args = settings.flatMap(([path, value]) => ["--set", `${path}=${JSON.stringify(value)}`]);
  const line = ["plan", "elical/quickstart", "--no-time", "--max-memory", "1GB", "--log-level", "error", ...args];
  const codes = [await main(line), await main([...line, "--json"])];
  intercept.restore();
  t.same(codes, [0, 0]);
  const text = written.join("");
  t.match(text, /Largest memory: engine .*limit of the engine 1\.00 GB/);
  t.match(text, /learnt: "/);
  t.equal(JSON.parse(written.find((one) => one.startsWith('{"recipe"'))!).maxMemory, 1e9);
  t.equal(await main(["plan", "elical/quickstart", "--max-memory", "much", "--log-level", "error"]), 2);
});
