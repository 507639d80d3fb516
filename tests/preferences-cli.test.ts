/** Preferences on the command line: training, killed and gone on with; scoring; files for other programs; what is refused. */
import { spawnSync } from "node:child_process";
import { existsSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import t from "tap";
import { redPairs } from "./fixtures/preferences.js";
import { runBytes } from "./fixtures/runs.js";
import { writeTinyModel } from "./fixtures/tiny-model.js";

t.setTimeout(600_000);
const folder = t.testdir();
const at = (name: string) => join(folder, name);
const model = writeTinyModel(at("model"));
const lines = (records: unknown[]) => records.map((record) => `${JSON.stringify(record)}\n`).join("");
const pairs = redPairs(72);
writeFileSync(at("pairs.jsonl"), lines(pairs.slice(0, 48)));
writeFileSync(at("held.jsonl"), lines(pairs.slice(48)));

const bin = fileURLToPath(new URL("../dist/cli/bin.js", import.meta.url));
const credence = (args: string[], env: Record<string, string> = {}) =>
  spawnSync(process.execPath, [bin, ...args], { encoding: "utf8", env: { ...process.env, ...env } });
const train = (out: string, loss: string, more: string[] = [], env: Record<string, string> = {}) => {
  const held = ["--held", at("held.jsonl"), "--epochs", "2", "--batch", "8", "--learning-rate", "0.01"];
  const args = ["train", at("pairs.jsonl"), "--model", model, "--out", at(out), "--loss", loss, "--threads", "1"];
  return credence([...args, ...held, "--json", ...more], env);
};

t.test("a reward model: trained, scored with, exported", async (t) => {
  const { status, stdout, stderr } = train("rm", "reward-model");
  t.equal(status, 0, stderr);
  const { data, held } = JSON.parse(stdout);
  t.match(data, { records: 48, pairs: 48, equal: 0 });
  t.match(stderr, /48 pairs, 48 of them learnt from: .*\n(.*\n)*held out: loss .*accuracy/);
  t.same(train("rm", "reward-model").stdout, stdout, "again on the same folder: it is done");

  const score = (file: string) =>
    credence(["score", file, "--model", model, "--adapter", at("rm/best"), "--threads", "1"]);
  const scored = score(at("held.jsonl"));
  t.equal(scored.status, 0, scored.stderr);
  const records = scored.stdout
    .trim()
    .split("\n")
    .map((line) => JSON.parse(line));
  t.equal(records.length, 24);
  const right = records.filter((record) => record.chosen_reward > record.rejected_reward).length;
  t.equal(right / 24, held.values.accuracy);
  t.match(scored.stderr, new RegExp(`the chosen answer scores higher in ${right} of 24 pairs`));
  const { prompt, chosen } = pairs[48]!;
  writeFileSync(at("answers.jsonl"), lines([{ id: "a", prompt, completion: chosen }]));
  const [one] = score(at("answers.jsonl")).stdout.trim().split("\n");
  t.same(JSON.parse(one!), { id: "a", prompt, completion: chosen, reward: records[0].chosen_reward });
  writeFileSync(at("bad.jsonl"), lines([{ prompt, chosen }]));
  t.match(score(at("bad.jsonl")).stderr, /"completion" is missing; expected a string \(or "chosen" and "rejected"\)/);

  const exported = ["export", "--adapter", at("rm/best"), "--model", model, "--reward", "trl", "--out", at("trl")];
  t.match(credence(exported), {
    status: 0,
    stdout: /adapter_config.json, adapter_model.safetensors, pytorch_model.bin/,
  });
});

t.test("DPO", async (t) => {
  const { status, stdout, stderr } = train("dpo", "dpo", ["--objective", "ipo", "--beta", "0.2"]);
  t.equal(status, 0, stderr);
  t.ok(JSON.parse(stdout).held.values.margin > 0);
  t.match(stderr, /held out: loss .*chosenReward/);
});

t.test("killed at a write and started again, either ends with the same bytes", async (t) => {
  for (const loss of ["reward-model", "dpo"]) {
    const count = at(`count-${loss}`);
    const whole = train(`whole-${loss}`, loss, [], { CREDENCE_FAULTS: "1", CREDENCE_COUNT_FILE: count });
    t.equal(whole.status, 0, whole.stderr);
    const expected = runBytes(at(`whole-${loss}`));
    const operations = Number(readFileSync(count, "utf8"));
    t.ok(operations > 20, `${operations} operations`);
    for (const share of [0.1, 0.45, 0.6, 0.95]) {
      const die = String(Math.round(share * operations));
      const out = `killed-${loss}`;
      rmSync(at(out), { recursive: true, force: true });
      t.equal(train(out, loss, [], { CREDENCE_FAULTS: "1", CREDENCE_DIE_AT: die }).signal, "SIGKILL");
      const again = train(out, loss);
      t.equal(again.status, 0, again.stderr);
      t.equal(again.stdout, whole.stdout);
      t.same(runBytes(at(out)), expected, `${loss}, killed at operation ${die} of ${operations}`);
    }
  }
});

t.test("wrong use is told before a model is loaded", async (t) => {
  const wrong = (loss: string, more: string[], message: RegExp) => {
    const { status, stderr } = train("wrong", loss, more);
    t.equal(status, 2, stderr);
    t.match(stderr, message);
  };
  wrong("dpo", ["--tail", "cut"], /--tail belongs to --loss reward-model; this is --loss dpo/);
  wrong("reward-model", ["--label-smoothing", "0.1"], /--label-smoothing belongs to --loss dpo/);
  wrong("reward-model", ["--objective", "ipo"], /--objective ipo belongs to --loss dpo/);
  wrong("reward-model", ["--objective", "sequence", "--tail", "cut"], /--tail belongs to --objective token/);
  wrong("reward-model", ["--truncate", "right"], /would cut the answers/);
  wrong("sft", [], /--batch belongs to --loss confidence, reward-model, dpo; this is --loss sft/);
  t.notOk(existsSync(at("wrong")));
});
