import { spawnSync } from "node:child_process";
import { fileURLToPath } from "node:url";
import t from "tap";
import yargs from "yargs";
import { setLogLevel } from "../src/cli/output.js";
import { type PublishedScript, publishedOptions, publishedSpelling, publishedUnneeded } from "../src/cli/published.js";
import { elicalRows } from "../src/methods/elical/published/compat.js";

setLogLevel("error");

const script: PublishedScript = {
  name: "learn",
  honoured: {
    model_path: { type: "string", demandOption: true },
    test_data_path: { type: "string", array: true },
    num_train_epochs: { type: "number", default: 10 },
    resume_from: { type: "boolean", default: false },
    normalize: { type: "boolean", default: true },
  },
  unneeded: {
    GPU_NUMS: { type: "number", why: "one process has the whole model" },
    tp_size: { type: "number", why: "one process has the whole model" },
    deepspeed: { type: "string", why: "the engine trains by itself" },
    use_cache: { type: "boolean", why: "keys and values are always kept" },
  },
  dead: { test_acc_path: "give --test_consis_path" },
  rows: [
    { id: "X-1", published: "loses rows", here: "keeps them", commands: ["learn"] },
    { id: "X-2", published: "rounds early", here: "rounds late", commands: ["learn", "score"] },
    { id: "X-3", published: "cannot start", here: "it starts", commands: [] },
    { id: "X-4", published: "scores twice", here: "it scores once", commands: ["score"] },
  ],
};

/** What a line of flags parses to, as the command would have it. */
async function parsed(...flags: string[]): Promise<Record<string, unknown>> {
  const line = publishedSpelling(["--json", "method", "learn", ...flags], { method: [script] });
  const args = await yargs(line.slice(3))
    .options(publishedOptions(script))
    .strict()
    .exitProcess(false)
    .fail((message, error) => {
      throw error ?? new Error(message);
    })
    .parseAsync();
  return args as Record<string, unknown>;
}

t.test("_ and - are the same, and a switch has every published spelling", async (t) => {
  const want = { modelPath: "m_1", numTrainEpochs: 3, resumeFrom: true, normalize: false };
  for (const flags of [
    ["--model_path", "m_1", "--num_train_epochs=3", "--resume_from", "--nonormalize"],
    ["--model-path=m_1", "--num-train-epochs", "3", "--resume_from=True", "--normalize=False"],
    ["--model_path=m_1", "--num_train-epochs=3", "--resume-from=true", "--no_normalize"],
  ])
    t.match(await parsed(...flags), want, flags.join(" "));
  const lists = await parsed("--model_path", "m", "--test_data_path", "a_b", "c", "--resume_from=False");
  t.same(lists.testDataPath, ["a_b", "c"]);
  t.equal(lists.resumeFrom, false);
  await t.rejects(
    parsed("--model_path", "m", "--resume_from=perhaps"),
    /--resume_from=perhaps: expected True or False/,
  );
  await t.rejects(parsed("--model_path", "m", "--nomodel_path"), /[Uu]nknown argument/);
});

t.test("only the flags of a published script change their spelling", (t) => {
  const methods = { method: [script] };
  for (const line of [["train", "--model_path=a"], ["method", "--resume_from=True"], ["method", "other", "--a_b"], []])
    t.same(publishedSpelling(line, methods), line);
  t.same(publishedSpelling(["method", "learn", "--a_b", "--", "--c_d"], methods), [
    "method",
    "learn",
    "--a-b",
    "--",
    "--c_d",
  ]);
  t.end();
});

t.test("flags that nothing needs are accepted, and those that were given are recorded", async (t) => {
  const args = await parsed("--model_path", "m", "--tp_size", "4", "--nouse_cache", "--GPU_NUMS=2");
  t.same(publishedUnneeded(script, args), { GPU_NUMS: 2, tp_size: 4, use_cache: false });
  t.same(publishedUnneeded(script, await parsed("--model_path", "m")), {});
});

t.test("a flag that did nothing is refused with what to do instead, with a value or without", async (t) => {
  const refusal = /--test_acc_path did nothing in the published script: give --test_consis_path/;
  await t.rejects(parsed("--model_path", "m", "--test_acc_path", "x"), refusal);
  await t.rejects(parsed("--model_path", "m", "--test-acc-path"), refusal);
});

t.test("--compat takes rows that the command can bring back, and says why it takes no other", async (t) => {
  const compat = async (...flags: string[]) => [
    ...((await parsed("--model_path", "m", ...flags)).compat as ReadonlySet<string>),
  ];
  t.same(await compat(), []);
  t.same(await compat("--compat", "X-2"), ["X-2"]);
  t.same(await compat("--compat", "X-1, X-2"), ["X-1", "X-2"]);
  t.same(await compat("--compat=X-1", "--compat=X-2"), ["X-1", "X-2"]);
  t.same(await compat("--compat", "all"), ["X-1", "X-2"]);
  await t.rejects(compat("--compat", "X-9"), /--compat X-9: there is no such row. Give all, or some of X-1, X-2/);
  await t.rejects(compat("--compat", "X-3"), /--compat X-3: it has no switch; here it starts/);
  await t.rejects(compat("--compat", "X-4"), /--compat X-4: it makes no difference to learn, only to score/);
});

t.test("the page of the published scripts says what the commands have", (t) => {
  const check = fileURLToPath(new URL("../scripts/published-flags.mjs", import.meta.url));
  const { status, stderr } = spawnSync(process.execPath, [check, "--check"], { encoding: "utf8" });
  t.equal(status, 0, stderr);
  t.end();
});

t.test("EliCal's rows are the specification's 24, in order", (t) => {
  t.same(
    elicalRows.map(({ id }) => id),
    Array.from({ length: 24 }, (_, i) => `B9-${i + 1}`),
  );
  t.end();
});
