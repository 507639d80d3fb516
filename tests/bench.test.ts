/** What `credence bench`, `npm run bench` and `npm run bench:peers` say, on a model that takes no time. */
import { spawnSync } from "node:child_process";
import { chmodSync, mkdirSync, readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import t from "tap";
import { writeTinyModel } from "./fixtures/tiny-model.js";

const root = fileURLToPath(new URL("..", import.meta.url));
const folder = t.testdir();
const model = writeTinyModel(join(folder, "model"));
const run = (script: string, ...args: string[]) =>
  spawnSync(process.execPath, [join(root, script), ...args], { encoding: "utf8" });
const bench = (...args: string[]) => {
  const { status, stdout, stderr } = run("dist/cli/bin.js", "bench", ...args, "--threads", "1", "--json");
  t.equal(status, 0, stderr);
  return JSON.parse(stdout);
};

t.test("each workload's document has its rates, the peaks, and what the machine lacks", async (t) => {
  const given = ["--model", model, "--repeats", "1"];
  const sft = bench("sft", ...given, "--batch", "2", "--length", "16", "--rank", "2");
  const generate = bench("generate", ...given, "--length", "32", "--batch", "3");
  const samples = bench("samples", ...given);
  const kernels = bench("kernels", "--only", "lora", "--tokens", "64");
  for (const document of [sft, generate, samples, kernels]) {
    for (const peak of ["f32Gflops", "bf16Gflops", "readGBs"]) t.ok(document.peaks[peak] > 0, peak);
    t.equal(document.lacks.length, document.isa === "avx512bf16" ? 0 : 1);
    t.equal(document.threads, 1);
  }
  t.same([sft.real_tokens, sft.supervised_tokens, sft.rank], [32, 30, 2]);
  for (const rate of ["tokens_per_s_best", "tokens_per_s_median", "share_of_peak", "loss_first", "peak_rss_mb"])
    t.ok(sft[rate] > 0, rate);
  for (const [train, trainable] of [
    ["beside", sft.trainable],
    ["all", 0],
  ]) {
    const own = bench("sft", ...given, "--batch", "2", "--length", "16", "--rank", "2", "--train", train);
    t.ok(own.share_of_peak > 0 && own.trainable > trainable);
    t.ok(own.gflop_per_token > sft.gflop_per_token);
  }
  t.equal(generate.prefill.prompt, 32);
  t.same([generate.decode.length, generate.decode[0].batch], [1, 3]);
  for (const rate of ["tokens_per_s_median", "wall_tokens_per_s", "step_bytes"])
    t.ok(generate.decode[0][rate] > 0, rate);
  t.type(generate.decode[0].decode_tokens_per_s_median, "number"); // a difference of two times: noise on so small a model
  t.match(generate.decode[0].wall, /memory|product/);
  t.same([samples.questions, samples.samples, samples.new_tokens], [16, 10, 16]);
  t.same(
    kernels.lora.map(({ pass }: { pass: string }) => pass),
    ["forward", "backward"],
  );
  const ppo = bench("ppo", "--model", model, "--repeats", "2", "--batch", "8", "--new-tokens", "5", "--rank", "2");
  t.same([ppo.prompts, ppo.minibatch, ppo.new_tokens, ppo.repeats], [8, 2, 5, 2]);
  for (const figure of ["tokens_per_s_median", "update_share_of_peak", "engine_bytes", "engine_bytes_sft_4x512"])
    t.ok(ppo[figure] > 0, figure);
  const { rollout, scoring, advantage, update, total } = ppo.seconds_best;
  t.equal(rollout + scoring + advantage + update, total);
  t.equal(ppo.first_step.kl_to_reference, 0, "the actor starts as the reference");
  t.equal(ppo.last_step.ratio_first_minibatch_max_off, 0, "old log-probabilities are the sampler's own");
  t.not(ppo.last_step.kl_to_reference, 0, "the actor moves");
  const load = bench("load", ...given);
  t.ok(load.first_token_s_median >= load.load_s_median && load.load_s_median > 0);
});

t.test("memory of PPO steps stays where it is", async (t) => {
  const steps = ["--repeats", "300", "--batch", "8", "--new-tokens", "6", "--rank", "2"];
  const { engine_bytes_constant, rss_slope_bytes_per_step: slope } = bench("ppo", "--model", model, ...steps);
  t.ok(engine_bytes_constant);
  t.ok(slope < 32_000, `${slope} bytes a step`);
});

t.test("without --json a person reads a table", async (t) => {
  const { stdout } = run("dist/cli/bin.js", "bench", "kernels", "--only", "lora", "--tokens", "64", "--threads", "1");
  t.match(stdout, /four fused products, forward, 64 rows: [\d.]+ ms bare, [\d.]+ ms with r 16: -?[\d.]+ % more/);
});

t.test("npm run bench prints every row, measured or not, and keeps what it measured", async (t) => {
  const out = join(folder, "figures.json");
  const only = ["--only", "lora,operators,ragged,load", "--tokens", "64", "--repeats", "1", "--threads", "1"];
  const { status, stdout, stderr } = run("bench/run.mjs", "--model", model, ...only, "--out", out);
  t.equal(status, 0, stderr);
  for (const work of [
    /\| fused products, bf16, avx512bf16, 1 thread(, SmolLM2-135M)? \| (not measured|no bf16 dot product here)/,
    /\| LoRA r 16 over a layer's four products, forward, M 64 \| -?[\d.]+ % more/,
    /\| attention \| not measured: npm run bench -- --only attention/,
    /\| LoRA step, 4 x 512 \| not measured/,
    /\| LoRA steps, 64 sequences of 40 to 200, a fifth supervised \| [\d.,]+ tokens\/s, \d+ %/,
    /\| decode from quantised bytes \| not built/,
    /\| adamw, .* numbers \| [\d.]+ GB\/s/,
    /\| from Model.load to the first token of 32 \| \d+\.\d\d s/,
    /\| growth \|/,
  ])
    t.match(stdout, work);
  t.ok(JSON.parse(readFileSync(out, "utf8")).ragged.tokens_per_s_median > 0);
  const again = run("bench/run.mjs", "--model", model, ...only, "--out", out);
  t.equal(again.stderr, "", "nothing is measured twice");
  t.equal(again.stdout, stdout);
  t.equal(run("bench/run.mjs", "--only", "sfft").status, 2);
});

t.test("a peer runs in turn with the project; one that is missing is named", async (t) => {
  // Stands in for PyTorch: faster in bf16, and a first loss that is ours only where it is told so.
  const toy = join(folder, "python");
  const ours = bench("sft", "--workload", "ragged", "--model", model, "--repeats", "1").loss_first;
  writeFileSync(
    toy,
    `#!${process.execPath}
const args = process.argv.slice(2);
if (args[0] === "-c") console.log(1);
else if (args.includes("--compile")) { console.error("no compiler"); process.exit(1); }
else console.log(JSON.stringify({ tokens_per_s_median: args.includes("bf16") ? 20 : 10, peak_rss_mb: 1, loss_first: Number(process.env.TOY_LOSS) }));
`,
  );
  chmodSync(toy, 0o755);
  const peers = (loss: number, out: string, ...args: string[]) =>
    spawnSync(
      process.execPath,
      [
        ...[join(root, "bench/peers.mjs"), "--model", model, "--threads", "1", "--steps", "1", "--out", out],
        ...["--python", toy, "--lib", join(folder, "nowhere"), "--bench", join(folder, "nowhere"), ...args],
      ],
      { encoding: "utf8", env: { ...process.env, TOY_LOSS: String(loss) } },
    );
  mkdirSync(join(folder, "peers"));
  const out = join(folder, "peers", "figures.json");
  const one = peers(ours, out, "--only", "ragged,generate,kernels", "--rounds", "1");
  t.equal(one.status, 0, one.stderr);
  t.match(
    one.stdout,
    /\| ragged \| PyTorch \+ transformers \+ PEFT, bf16 --group \| real tokens\/s \| 20.0 \| [\d.,]+ \| [\d.]+ \|/,
  );
  t.match(one.stdout, /first loss \| [\d.]+ \| [\d.]+ \| same \|/);
  t.match(one.stdout, /\| generate \| llama.cpp \(node-llama-cpp\): missing \(node-llama-cpp is not at/);
  t.match(one.stdout, /\| kernels \| oneDNN: missing/);
  t.match(JSON.parse(readFileSync(out, "utf8")).ragged.tried["fp32 --compile --group"], /no compiler/);
  const two = peers(ours, out, "--only", "ragged", "--rounds", "2");
  t.equal(two.status, 0, two.stderr);
  t.notMatch(two.stderr, /round 1:/, "the first round counts");
  t.equal(JSON.parse(readFileSync(out, "utf8")).ragged.rounds.length, 2);
  const other = peers(ours + 1, join(folder, "peers", "other.json"), "--only", "ragged", "--rounds", "1");
  t.match(other.stdout, /DIFFERENT WORK/);
  t.equal(other.status, 1, "another loss is another work");
  const lacks = spawnSync(
    process.execPath,
    [
      join(root, "bench/peers.mjs"),
      "--model",
      model,
      "--only",
      "samples,advantage",
      "--python",
      join(folder, "no-python"),
    ],
    { encoding: "utf8" },
  );
  t.match(lacks.stdout, /\| samples \| transformers.generate: missing \(/);
  t.match(lacks.stdout, /\| advantage \| TRL's advantage step: missing \(/);
  t.equal(lacks.status, 0, lacks.stderr);
});

t.test("growth is a table a series and a plot", async (t) => {
  const svg = join(folder, "growth.svg");
  const given = ["--growth", "--only", "threads", "--shape", "15m", "--threads", "1", "--svg", svg];
  const { status, stdout, stderr } = run("bench/run.mjs", ...given);
  t.equal(status, 0, stderr);
  t.match(stdout, /\| threads \| tokens\/s \| of peak \|\n\| --- \| --- \| --- \|\n\| 1 \| [\d.,]+ \| \d+ % \|/);
  t.match(readFileSync(svg, "utf8"), /^<svg role="img" aria-label="tokens\/s\. training, threads/);
});
