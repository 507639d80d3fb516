/** The rows of a published training: verdicts in groups, what counts as right, which rows are learnt from. */
import { readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import t from "tap";
import { promptTemplate, readSampledRows } from "../src/methods/elical/published/rows.js";
import type { PublishedTraining } from "../src/methods/elical/published/settings.js";
import { chosenRows, pathsOfSets } from "../src/methods/elical/published/train.js";
import { writeToySet } from "./fixtures/published-training.js";

t.test("rows", async (t) => {
  const folder = t.testdir();
  const files = await writeToySet(folder, { count: 5, samples: 4 });
  const reading = { compat: new Set<never>() };
  const lines = readFileSync(files.verdicts, "utf8").trim().split("\n");
  const verdicts = (changed: string[], more = {}) => {
    writeFileSync(files.verdicts, `${changed.join("\n")}\n`);
    return readSampledRows(files.data, files.verdicts, { ...reading, ...more });
  };
  await t.rejects(verdicts(lines.slice(0, -1)), {
    message: /its 19 lines do not come in groups.*end within question 5/,
  });
  await t.rejects(verdicts([...lines, ...lines.slice(0, 4)]), {
    message: /its 24 lines do not come in groups.*go on after question 5/,
  });
  await t.rejects(verdicts(lines.map((line) => line.replace("hat", "cup"))), {
    message: /judges an answer to .*It is of another run/,
  });
  const whole = await verdicts(lines);
  t.same(
    whole.rows.map(({ target }) => target),
    [0, 4, 8, 12, 16].map((at) => lines.slice(at, at + 4).filter((line) => line.includes('"certain"')).length / 4),
  );
  const unsaid = lines.map((line, i) => (i < 5 ? line.replace(/certain|Uncertain\./, "perhaps") : line));
  await t.rejects(verdicts(unsaid), { code: "UNPARSED", message: /5 verdicts say neither/ });
  t.match(await verdicts(unsaid, { unparsed: "negative" }), { unparsed: 5, rows: { 0: { target: 0 }, length: 5 } });
  const published = await verdicts(unsaid, { compat: new Set(["B9-15"]) });
  t.equal(published.rows[0]!.target, 1, "what says nothing counts as certain");
  // Without verdicts an answer is looked for, and one without words is in every text (B9-16) or in none.
  const wordless = { question: "q?", answer: ["A"], prompt: "q?", response: ["B", "C"] };
  writeFileSync(join(folder, "wordless.jsonl"), `${JSON.stringify(wordless)}\n`);
  const looked = async (compat: PublishedTraining["compat"]) =>
    (await readSampledRows(join(folder, "wordless.jsonl"), undefined, { compat })).rows[0]!.target;
  t.equal(await looked(new Set(["B9-16"])), 1);
  t.equal(await looked(new Set()), 0);
  const row = (question: string, prompt: string, index = 0) => ({ question, prompt, index, target: 0 });
  t.equal(promptTemplate([row("a", "Say a: a"), row("b", "Say a: b")]), "Say a: {question}");
  t.throws(() => promptTemplate([row("x", "Q x"), row("y", "R y", 1)]), {
    message: /record 2: .*not put as the others/,
  });
  t.throws(() => promptTemplate([row("x", "Q z")]), { message: /does not hold its question/ });

  const numbers = Array.from({ length: 50 }, (_, i) => i);
  const choice = { part: "lora" as const, seed: 42, shuffle: false, dataset: "nq", compat: new Set<never>() };
  // random.seed(42); random.sample(range(50), 5)
  t.same(chosenRows(numbers, { ...choice, count: 5 }), [40, 7, 1, 47, 17]);
  // random.seed(42); x = list(range(50)); random.shuffle(x); random.sample(x, 5)
  const several = { ...choice, shuffle: true, dataset: "nq-tq" };
  t.same(chosenRows(numbers, { ...several, count: 5 }), [13, 9, 41, 45, 49]);
  const head = { part: "mlp" as const, compat: new Set(["B9-19"] as const) };
  t.same(chosenRows(numbers, { ...choice, ...head, count: 3 }), [0, 1, 2], "B9-19: from the top");
  // random.seed(42); x = list(range(50)); random.shuffle(x); x[:5]
  t.same(chosenRows(numbers, { ...several, ...head, count: 5 }), [25, 23, 19, 11, 4], "of what was shuffled");
  t.same(chosenRows(numbers, { ...choice, part: "mlp", count: 5 }), [40, 7, 1, 47, 17], "at random, as for LoRA");
  t.same(
    chosenRows(numbers, { ...choice, compat: head.compat, count: 5 }),
    [40, 7, 1, 47, 17],
    "LoRA has no such quirk",
  );
  t.throws(() => chosenRows(numbers, { ...choice, count: 51 }), {
    message: /51 training rows are asked for, there are 50/,
  });
  t.same(pathsOfSets("R/nq-tq/train/nq-tq.jsonl", "nq-tq"), ["R/nq/train/nq.jsonl", "R/tq/train/tq.jsonl"]);
  t.throws(() => pathsOfSets("R/nq.jsonl", "nq-tq"), { message: /does not hold "nq-tq"/ });
});
