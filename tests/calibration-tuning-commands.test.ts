/** Calibration-tuning's commands: answers, labels and embeddings in the published files. */

import { existsSync, mkdirSync, readFileSync, writeFileSync } from "node:fs";
import { createServer } from "node:http";
import type { AddressInfo } from "node:net";
import { join } from "node:path";
import t from "tap";
import { readTable } from "../src/data/tables.js";
import { openNpy } from "../src/data/vectors.js";
import { mmluTasks, superCategories, superCategoryOf } from "../src/methods/calibration-tuning/mmlu.js";
import { readOffline } from "../src/methods/calibration-tuning/offline.js";
import { credence } from "./fixtures/command-line.js";
import { fakeServer } from "./fixtures/fake-server.js";
import { queryWords, writeTinyModel } from "./fixtures/tiny-model.js";

const none = new Set<never>();
const lines = (records: unknown[]) => records.map((record) => `${JSON.stringify(record)}\n`).join("");
const run = (script: string, ...flags: string[]) =>
  credence("calibration-tuning", script, ...flags, "--log-level", "warn");

const mmlu = (colour: string, i: number) => ({
  question: `what colour is that hat of ${colour} ?`,
  subject: "x",
  choices: ["red", "green", "blue", "black"],
  answer: i % 4,
});

/** A folder of data with one set that is trained on and two tasks of MMLU; and a model. */
function prepared(folder: string): { data: string; model: string } {
  const data = join(folder, "data");
  const write = (set: string, split: string, records: unknown[]) => {
    mkdirSync(join(data, set), { recursive: true });
    writeFileSync(join(data, set, `${split}.jsonl`), lines(records));
  };
  const arc = (i: number) => ({
    id: `a${i}`,
    question: `what colour is that cup of ada ? ${i}`,
    choices: { label: ["A", "B"], text: ["red", "green"] },
    answerKey: i % 2 ? "A" : "B",
  });
  write("arc", "train", [0, 1, 2, 3, 4].map(arc));
  write("arc", "validation", [5, 6, 7].map(arc));
  for (const task of ["anatomy", "virology"])
    for (const split of ["dev", "validation", "test"])
      write(`mmlu/${task}`, split, ["ada", "ben", "eve", "dan", "kai", "gus"].map(mmlu));
  return { data, model: writeTinyModel(join(folder, "model"), { words: queryWords }) };
}

t.test("MMLU's tasks are 57, in super-categories of 19, 13, 12 and 13", (t) => {
  t.equal(new Set(mmluTasks).size, 57);
  t.same(
    Object.values(superCategories).map(({ length }) => length),
    [19, 13, 12, 13],
  );
  t.equal(superCategoryOf("anatomy"), "STEM");
  t.equal(superCategoryOf("phrenology"), null);
  t.end();
});

t.test("answers, their labels and their embeddings", async (t) => {
  const folder = t.testdir();
  const { data, model } = prepared(folder);
  const common = ["--data-dir", data, "--prompt-style", "oe", "--threads", "1", "--device", "cpu"];
  const made = join(folder, "made");
  const asked = ["--dataset=arc", "--model_name", model, ...common];
  const generate = [`--log_dir=${made}`, ...asked];
  const four = "--max_new_tokens=4";

  await t.test("generate writes the published columns, whole, and goes on", async (t) => {
    const told = await run("generate", ...generate, four, "--batch_size=7", "--nouse_dataset_cache");
    t.equal(told.status, 0, told.told);
    const path = join(made, "outputs", "train", "rows_0.csv");
    const { columns, rows } = await readTable(path);
    t.same(columns, ["context", "prompt", "target_prompt", "target", "output", "query_label"]);
    t.equal(rows.length, 5);
    t.same(rows[0]!.slice(0, 4), ["The question is: what colour is that cup of ada ? 0", "", "\nAnswer:", "green"]);
    t.ok(
      rows.every((row) => row[4] !== "" && row[5] === "-1"),
      JSON.stringify(rows),
    );
    t.ok(existsSync(join(made, "outputs", "validation", "rows_0.csv")));
    t.notOk(existsSync(`${path}.parts`));
    t.match(JSON.parse(readFileSync(`${path}.pass.json`, "utf8")), {
      notNeeded: { "batch-size": 7, "use-dataset-cache": false },
    });
    const before = readFileSync(path, "utf8");
    t.equal((await run("generate", ...generate, four)).status, 0);
    t.equal(readFileSync(path, "utf8"), before);
    const other = await run("generate", ...generate, "--max-new-tokens", "3");
    t.equal(other.status, 1);
    t.match(other.told, /made, or begun, with other settings: maxTokens was 4 and is 3/);
    const published = await run("generate", ...generate, four, "--compat", "A9-13");
    t.match(published.told, /made is there already. Name another --log-dir/);
    const shots = join(folder, "shots");
    const few = await run("generate", ...asked, `--log-dir=${shots}`, "--kshot=2", "--max-new-tokens=1");
    t.equal(few.status, 0, few.told);
    t.match((await readTable(join(shots, "outputs", "train", "rows_0.csv"))).rows[0]![1], /^The following are /);
  });

  const offline = `--dataset=offline:${join(made, "outputs")}`;
  await t.test("label judges by letters, by a server, and tells nonsense", async (t) => {
    const label = (log: string, ...flags: string[]) =>
      run("label", offline, ...common, `--log-dir=${join(folder, log)}`, ...flags);
    const letters = await label("letters", "--strategy=substring", "--json");
    t.equal(letters.status, 0, letters.told);
    const rows = await readOffline(join(folder, "letters", "labels"), "train", { examples: false, compat: none });
    t.same(
      rows.map(({ label }) => label),
      rows.map(({ target, output }) => Number(output.includes(target))),
    );
    t.notOk((await readTable(join(folder, "letters", "labels", "train", "0.csv"))).columns.includes("prompt"));
    {
      await using server = await fakeServer(({ body }) => ({
        text: /Right answer: red/.test(body.messages[0]!.content)
          ? "Yes."
          : /validation|[56] ?\n/.test(body.messages[0]!.content)
            ? "eyes"
            : "No",
      }));
      const fuzzy = await label("fuzzy", "--strategy=fuzzy_judge", `--url=${server.url}`, "--json");
      t.equal(fuzzy.status, 0, fuzzy.told);
      const judged = await readOffline(join(folder, "fuzzy", "labels"), "train", { examples: false, compat: none });
      t.same(
        judged.map(({ label }) => label),
        judged.map(({ target }) => Number(target === "red")),
      );
      t.equal(server.calls[0]!.body.model, "judge");
    }
    {
      await using server = await fakeServer(() => ({ text: "It depends, yes or no" }));
      const nonsense = await label("nonsense", "--strategy=fuzzy_judge", `--url=${server.url}`);
      t.equal(nonsense.status, 1);
      t.match(nonsense.told, /judge: none of 5 replies begins with yes or no; the first is "It depends/);
      t.notOk(existsSync(join(folder, "nonsense", "labels", "train", "0.csv")));
      const taken = await label("taken", "--strategy=fuzzy_judge", `--url=${server.url}`, "--compat=A9-20", "--json");
      t.match(JSON.parse(taken.out).splits[0], { right: 5, unread: 0 });
    }
    {
      await using server = await fakeServer(({ before }) => ({ text: before ? "no" : "yes" }));
      const same = await label(
        "same",
        "--strategy=fuzzy_judge",
        `--url=${server.url}`,
        `--against=${offline.slice(10)}`,
        "--json",
      );
      t.match(JSON.parse(same.out).splits[0], { rows: 5, right: 5 });
      t.match(server.calls[0]!.body.messages[0]!.content, /Do the two answers say the same/);
    }
    t.match((await label("x")).told, /who judges\? Give --strategy/);
    t.match((await label("x", "--strategy=exact")).told, /expected substring or fuzzy_<model>/);
    t.match((await run("label", "--strategy=substring", ...common, "--dataset=arc")).told, /without answers/);
  });

  await t.test("embed has the state of the last token, or a server's vectors", async (t) => {
    const place = join(folder, "embedded");
    const here = await run("embed", offline, ...common, `--log-dir=${place}`, "--model-name", model, "--json");
    t.equal(here.status, 0, here.told);
    const [train] = JSON.parse(here.out).splits as { output: string; rows: number; columns: number }[];
    t.match(train, { rows: 5, columns: 40 });
    const own = openNpy(train!.output).read(0, 5);
    t.same([own.count, own.width], [5, 40]);
    t.ok(own.data.every(Number.isFinite) && own.data.some((value) => value !== 0));
    let calls = 0;
    const server = createServer((request, response) => {
      const pieces: Buffer[] = [];
      request.on("data", (piece: Buffer) => pieces.push(piece));
      request.on("end", () => {
        calls += 1;
        const { input } = JSON.parse(Buffer.concat(pieces).toString()) as { input: string[] };
        const data = input.map((text, index) => ({ index, embedding: [text.length, index, 1] })).reverse();
        response.writeHead(calls === 1 ? 503 : 200).end(JSON.stringify({ data }));
      });
    });
    await new Promise<void>((ready) => server.listen(0, "127.0.0.1", ready));
    const url = `http://127.0.0.1:${(server.address() as AddressInfo).port}/v1`;
    const remote = await run(
      "embed",
      offline,
      ...common,
      `--log-dir=${join(folder, "remote")}`,
      "--model-name=text-embedding-3-small",
      `--url=${url}`,
      "--json",
    );
    await new Promise((closed) => server.close(closed));
    t.equal(remote.status, 0, remote.told);
    t.match(remote.told, /HTTP 503.*trying again/);
    const vectors = openNpy(JSON.parse(remote.out).splits[0].output).read(0, 2);
    t.same([vectors.width, vectors.data[1], vectors.data[4], vectors.data[5]], [3, 0, 1, 1]);
  });

  await t.test("what is missing or wrong is named", async (t) => {
    const log = `--log-dir=${join(folder, "none")}`;
    const asked = async (...flags: string[]) =>
      (await run("generate", log, "--model-name", model, ...common, ...flags)).told;
    t.match(await asked("--dataset=eval:mmlu"), /there is no data set "eval:mmlu"; expected .*mmlu_all/);
    t.match(await asked("--dataset=boolq"), /boolq: put .*boolq there, as the hub has its files/);
    t.match(await asked("--dataset=all_20k_uniform"), /18 of its 19 sets|21 of its 22 sets are not in/);
    t.match(await asked(), /which data\? Give --dataset/);
    const other = join(folder, "other", "train");
    mkdirSync(other, { recursive: true });
    writeFileSync(join(other, "0.csv"), "question,answer\na,b\n");
    const label = async () =>
      (await run("label", log, ...common, "--strategy=substring", `--dataset=offline:${join(folder, "other")}`)).told;
    t.match(await label(), /0\.csv: has no column context; its columns are question, answer/);
    writeFileSync(join(other, "0.csv"), "context,prompt,target_prompt,target,output,query_label\na,,b,c,d,2\n");
    t.match(await label(), /row 1: query_label is "2"; expected 1 \(right\), 0 \(wrong\) or -1/);
  });
});
