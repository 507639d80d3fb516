/** How models are asked, where questions come from, and the published evaluation on a toy, from questions to scores. */
import { existsSync, mkdirSync, readFileSync, writeFileSync } from "node:fs";
import { dirname, join } from "node:path";
import t from "tap";
import { readTable } from "../src/data/tables.js";
import { aggregated } from "../src/methods/conqord/aggregation.js";
import {
  answersPath,
  ratingsPath,
  readAnswers,
  readRatings,
  scoresPaths,
  writeAnswers,
} from "../src/methods/conqord/files.js";
import { aggregatedReply } from "../src/methods/conqord/infer.js";
import {
  askedFor,
  dataNameOf,
  evaluationPrefix,
  evaluationPrompt,
  probabilityPrompt,
  stopStrings,
} from "../src/methods/conqord/prompts.js";
import { readQuestions } from "../src/methods/conqord/questions.js";
import { confidenceReading, fieldsOf } from "../src/methods/conqord/wire.js";
import { credence } from "./fixtures/command-line.js";
import { fakeServer } from "./fixtures/fake-server.js";
import { tinyQuestions, writeTinyModel } from "./fixtures/tiny-model.js";

const half = new URL("golden/conqord/Anthropic/hh-rlhf/helpful-base_conf_half", import.meta.url).pathname;
const names = (text: string) => fieldsOf(text).fields.map(({ name }) => name);

t.test("the set and the way of asking follow from the published flags", async (t) => {
  t.same(["truthful_qa", "nq", "strategyqa", "Anthropic/hh-rlhf/helpful-base_conf_half_sharp"].map(dataNameOf), [
    "truthful_qa",
    "nq",
    "strategy_qa",
    "dialogue",
  ]);
  t.same(
    ["llama2_7b", "Mistral_topk", "cot_7b"].map((mode) => askedFor("nq", mode)),
    ["answer", "top-k", "chain-of-thought"],
  );
  t.equal(askedFor("dialogue", "topk"), "dialogue");
});

t.test("prompts: an instruction, solved examples, and the question under its heading", async (t) => {
  for (const data of ["truthful_qa", "nq", "strategy_qa"] as const) {
    const prompt = evaluationPrompt(data, "answer", "Why?");
    t.match(prompt, /^Please provide the answer and the Confidence \(0\.0 to 1\.0\)/);
    t.same(names(prompt), ["Question", "Answer", "Confidence", "Question", "Answer", "Confidence", "Question"]);
    t.match(prompt, /### Confidence: 0\.9\.\n.*### Confidence: 0\.2\.\n\n### Question: Why\?$/s);
  }
  t.same(names(evaluationPrompt("nq", "top-k", "Why?")), [
    "Question",
    "Answer-1",
    "Confidence-1",
    "Answer-2",
    "Confidence-2",
    "Question",
  ]);
  t.same(names(evaluationPrompt("nq", "chain-of-thought", "Why?")), [
    "Question",
    "Explanation",
    "Answer",
    "Confidence",
    "Question",
  ]);
  const dialogue = evaluationPrompt("dialogue", "dialogue", "\n\n### Human: Why?\n\n### Assistant:");
  t.same(
    fieldsOf(dialogue).fields.flatMap(({ name, value }) => (name === "Confidence" ? [value] : [])),
    ["0.9.", "0.8.", "0.1.", "0.2."],
  );
  t.ok(dialogue.endsWith("### Human: Why?\n\n### Assistant:"));
  t.match(
    evaluationPrompt("nq", "answer", "Why?", ["One.", "Two."]),
    /Why\?\n\n### Retrieved Evidences: One\.\nTwo\.$/,
  );
  t.equal(`${evaluationPrefix("nq", "answer")}x`, evaluationPrompt("nq", "answer", "x"));
  t.same([stopStrings("answer"), stopStrings("dialogue")], [["\n\n### Question:"], ["\n\n### Human:"]]);
  t.match(probabilityPrompt("Why?", "So."), /\n\n\$Question:Why\?\n\n\$AnswerSo\.\n\nProbability:$/);
});

t.test("sampled answers become one, by what they state or by how many they are", async (t) => {
  const samples = [
    { answer: "The Rhône.", confidence: 0.2 },
    { answer: "Arve", confidence: 0.9 },
    { answer: "rhone", confidence: 0.3 },
    { answer: "RHONE!", confidence: null },
  ];
  const close = (found: number, want: number) => t.ok(Math.abs(found - want) < 1e-12, `${found}, ${want}`);
  const sure = aggregated(samples, "confidence");
  t.equal(sure.answer, "Arve");
  close(sure.confidence, 0.9 / 1.4);
  t.same(aggregated(samples, "count"), { answer: "The Rhône.", confidence: 0.75 });
  t.same(aggregated([{ answer: "a", confidence: null }], "confidence"), { answer: "a", confidence: 0 });
  t.equal(aggregated([samples[1]!, samples[0]!], "count").answer, "Arve", "of equal ones the earliest");
  t.throws(() => aggregated([], "count"), { code: "BAD_INPUT" });

  const replies = [
    "\n\n### Explanation: so.\n\n### Answer: Rhône\n\n### Confidence: 0.5.\n\n### Question: x",
    "\n\n### Answer: Rhone.\n\n### Confidence: 0.25.",
    "\n\n### Answer: Arve",
  ];
  const one = aggregatedReply("chain-of-thought", replies, "confidence");
  t.same(one, { text: "\n\n### Answer: Rhône\n\n### Confidence: 1.0.", unparsed: 1 });
  for (const asked of ["answer", "top-k", "dialogue"] as const) {
    const whole = aggregatedReply(asked, ["a\n\n### Confidence: 0.5.", "b"], "count").text;
    t.equal(confidenceReading("evaluation", { compat: new Set(), onFailure: "error", asked }).read(whole), 0.5, asked);
  }
});

t.test("questions from files of this machine", async (t) => {
  const folder = t.testdir({
    "TruthfulQA.csv":
      'Type,Category,Question,Best Answer,Correct Answers,Incorrect Answers\nx,y,"Why, then?",So.,So.; Because of it,No\n',
    "truthful.jsonl": '{"question":"Why?","best_answer":"So.","correct_answers":["So.","It\'s so."]}\n',
    "NQ500.json":
      '[{"question":"who?","answer":"Ada"},{"question":"where?","answer":["Rome","Roma"],"evidence":"It is Rome."}]',
    "strategy.json": '[{"question":"Is it?","answer":true,"evidence":["a","b"]},{"question":"Was it?","answer":false}]',
    "dialogue.jsonl": '{"prompt":"\\n\\n### Human: Hi!\\n\\n### Assistant:"}\n',
    "empty.csv": "Question,Correct Answers\nWhy?, ;\n",
  });
  const read = (data: "truthful_qa" | "nq" | "strategy_qa" | "dialogue", name: string) =>
    readQuestions(data, join(folder, name));
  t.same(await read("truthful_qa", "TruthfulQA.csv"), [
    { question: "Why, then?", reference: "['So.', 'Because of it']", evidence: [] },
  ]);
  t.same(await read("truthful_qa", "truthful.jsonl"), [
    { question: "Why?", reference: "['So.', \"It's so.\"]", evidence: [] },
  ]);
  t.same(await read("nq", "NQ500.json"), [
    { question: "who?", reference: "Ada", evidence: [] },
    { question: "where?", reference: "['Rome', 'Roma']", evidence: ["It is Rome."] },
  ]);
  t.same(
    (await read("strategy_qa", "strategy.json")).map(({ reference, evidence }) => [reference, evidence]),
    [
      ["Yes", ["a", "b"]],
      ["No", []],
    ],
  );
  t.match(await read("dialogue", "dialogue.jsonl"), [{ reference: "", evidence: [] }]);
  const saved = await readQuestions("dialogue", half);
  t.match(saved[0]!.question, "Which gas do plants breathe in?");
  t.equal((await readQuestions("dialogue", half, "train")).length, 5);
  await t.rejects(read("truthful_qa", "empty.csv"), { message: /row 1 has no correct answer/ });
  await t.rejects(read("nq", "truthful.jsonl"), { message: /"answer" is missing/ });
  await t.rejects(read("truthful_qa", "NQ500.json"), { message: /"correct_answers" is missing/ });
});

t.test("the published evaluation on a toy: answers, ratings, scores, and what looking up is worth", async (t) => {
  const root = t.testdir({});
  const model = writeTinyModel(join(root, "tiny"));
  // The examples are longer than the tiny model's own context.
  const config = JSON.parse(readFileSync(join(model, "config.json"), "utf8"));
  writeFileSync(join(model, "config.json"), JSON.stringify({ ...config, max_position_embeddings: 1024 }));
  const put = (name: string, content: string) => {
    mkdirSync(dirname(join(root, name)), { recursive: true });
    writeFileSync(join(root, name), content);
    return join(root, name);
  };
  const asked = tinyQuestions(5);
  const questions = put("nq.json", JSON.stringify(asked.map(({ question, answer }) => ({ question, answer }))));
  const looked = put(
    "rag.json",
    JSON.stringify(asked.map(({ question, answer }) => ({ question, answer, evidence: [`that is ${answer[0]}`] }))),
  );
  const run = async (...args: string[]) => {
    const ended = await credence("conqord", ...args, "--root", root, "--log-level", "error");
    if (ended.status !== 0) throw new Error(`${args.join(" ")}: ${ended.told}`);
    return ended.out;
  };
  const engine = ["--dtype", "f32", "--threads", "2", "--gpu", "-1", "--max-new-tokens", "4"];
  const infer = (suffix: string, file: string, ...more: string[]) =>
    run("infer", "--data_name", "nq", "--suffix", suffix, "--path", model, "--questions", file, ...engine, ...more);
  const place = (suffix: string, mode = "tiny") => ({ root, data: "nq", mode, suffix, step: "0" });

  await infer("plain", questions, "--mode=tiny");
  await infer("rag", looked, "--mode=tiny");
  const answers = await readAnswers(answersPath(place("plain")));
  t.equal(answers.length, 5);
  t.equal(answers[0]!.prompt, evaluationPrompt("nq", "answer", asked[0]!.question));
  t.ok(answers.every(({ output }) => output !== ""));
  const before = readFileSync(answersPath(place("plain")), "utf8");
  await infer("plain", questions, "--mode=tiny");
  t.equal(readFileSync(answersPath(place("plain")), "utf8"), before, "what is there is not made again");
  await t.rejects(infer("plain", looked, "--mode=tiny"), /was made, or begun, with other settings: input/);
  const other = writeTinyModel(join(root, "other"), { seed: 2 });
  writeFileSync(join(other, "config.json"), readFileSync(join(model, "config.json")));
  await t.rejects(
    run(
      "infer",
      "--data_name=nq",
      "--mode=tiny",
      "--suffix=plain",
      "--path",
      other,
      "--questions",
      questions,
      ...engine,
    ),
    /with other settings: policy/,
    "nor taken for another policy's",
  );

  const sampled = ["--samples", "2", "--by", "count", "--seed", "1"];
  await infer("agg", questions, "--mode=tiny_cot", ...sampled);
  const [first] = await readAnswers(answersPath(place("agg", "tiny_cot")));
  t.match(first!.output, /^\n\n### Answer: .+\n\n### Confidence: (0\.\d+|1\.0)\.$/s);
  const kept = JSON.parse(readFileSync(`${answersPath(place("agg", "tiny_cot"))}.samples.json`, "utf8"));
  t.equal(kept[0].responses.length, 2);

  for (const suffix of ["plain", "rag"]) {
    await run("rate", "--data_name", "nq", "--mode", "tiny", "--suffix", suffix);
    t.equal((await readRatings(ratingsPath(place(suffix)))).length, 5);
  }
  const metrics = (...more: string[]) =>
    run("metrics", "--data_name", "nq", "--mode", "tiny", "--suffix", "plain", ...more);
  await t.rejects(metrics(), /5 of 5 answers state no confidence/);
  const { name, rows, unparsed } = JSON.parse(await metrics("--unparsed", "0.5", "--json"));
  t.same([name, rows, unparsed], ["plaintiny", 5, 5]);
  t.match(await metrics("--compat", "all"), /name +rows +accuracy +ECE/);
  for (const path of scoresPaths(place("plain"))) t.equal((await readTable(path)).rows.length, 2, path);
  const aggregate = JSON.parse(
    await run("rate", "--data_name", "nq", "--mode", "tiny_cot", "--suffix", "agg", "--json"),
  );
  t.equal(aggregate.answers, 5);
  const [plain, rag] = ["plain", "rag"].map((suffix) => ratingsPath(place(suffix)));
  const table = await credence(
    "conqord",
    "retrieval",
    plain!,
    rag!,
    "--unparsed",
    "0.5",
    "--json",
    "--log-level",
    "error",
  );
  t.equal(JSON.parse(table.out).questions, 5, table.told);

  const pairs = put("pairs.csv", 'Question,llama\n"what, is that ?",red\nwhat colour ?,blue\n');
  const twice = ["--input_path", pairs, "--suffix", "prob", "--model_path", model, ...engine];
  t.equal(JSON.parse(await run("infer", ...twice, "--json")).asked, 2);
  const filled = await readTable(pairs);
  t.same(filled.columns, ["Question", "llama", "prob"]);
  t.ok(filled.rows.every((row) => row[2] !== ""));
  t.equal(filled.rows[0]![0], "what, is that ?");
  t.equal(JSON.parse(await run("infer", ...twice, "--json")).asked, 0, "cells that are filled stay");

  // Dialogues from a folder as datasets saves it, rated by a server.
  await using server = await fakeServer(({ body }) => ({
    text: JSON.stringify(body).includes("Helium") ? "-0.5" : "1",
  }));
  const dialogues = ["--data_name", "Anthropic/hh-rlhf/helpful-base_conf_half", "--suffix", "hh", "--mode", "test"];
  await run("infer", ...dialogues, "--path", model, "--questions", half, ...engine);
  const dialogue = { root, data: "Anthropic/hh-rlhf/helpful-base_conf_half", mode: "test", suffix: "hh", step: "0" };
  const [spoken] = await readAnswers(answersPath(dialogue));
  t.match(spoken!.prompt, /### Human: Which gas do plants breathe in\?\n\n### Assistant:$/);
  writeAnswers(answersPath(dialogue), [{ ...spoken!, output: "Helium.\n\n### Confidence: 0.9." }]);
  const judge = ["--check-model", "judge", "--url", `${server.url}`];
  const told = JSON.parse(await run("rate", ...dialogues, ...judge, "--json"));
  t.match(told, { judge: "judge", answers: 1, mean: -0.5, unrated: 0 });
  t.ok(existsSync(join(root, "rating/Anthropic/hh-rlhf/helpful-base_conf_half/test/hh_gpt_outputs.csv")));
});

t.test("flags are of their class, and what is missing is said", async (t) => {
  const refused = async (args: string[], message: RegExp) => {
    const { status, told } = await credence("conqord", ...args);
    t.equal(status, 2, args.join(" "));
    t.match(told, message);
  };
  await refused(["infer", "--path", "m"], /which questions\?/);
  await refused(["infer", "--questions", "q"], /which model answers\? Give --path/);
  await refused(["infer", "--input_path", "a.csv", "--path", "m"], /which column do the replies go into\?/);
  await refused(["infer", "--tag", "x"], /--tag did nothing in the published script: --suffix names the column/);
  await refused(["infer", "--preset", "qa"], /--preset did nothing/);
  await refused(["infer", "--compat", "A9-4"], /A9-4: it has no switch; here nothing is padded/);
  await refused(["rate", "--compat", "A9-7"], /makes no difference to rate, only to metrics/);
  await refused(["rate", "--data_name", "nq", "--url", "http://x"], /which model judges\?/);
  await refused(["rate"], /dialogues have no expected answers.*--check-model/s);
  await refused(["rate", "--data_name", "nq", "--unrated", "2"], /--unrated 2: expected error or a number from -1/);
  await refused(["metrics", "--unparsed", "-1"], /--unparsed -1: expected error, drop or a number from 0/);
  await refused(["rat"], /Did you mean rate\?/);
  const { status, told } = await credence("conqord", "metrics", "--gpu", "3", "--ratings", "none.csv");
  t.equal(status, 1);
  t.match(told, /not needed here: --gpu \(no model is run\)/);
  t.match(told, /none\.csv: there is no such file/);
});
