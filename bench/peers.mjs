// npm run bench:peers: this project beside what a user would pick instead, in turn, on the same model file, threads and tokens.
//   npm run bench:peers -- --model M.gguf [--python VENV/bin/python] [--only sft,generate] [--rounds 5] [--threads 2]
//       [--out FILE.json] [--modes fp32,bf16] [--steps 6] [--lib node_modules/node-llama-cpp] [--bench build/credence_bench]
// The scripts of bench/peers run unchanged. Which of a peer's modes is fastest is found out first, once each, and kept; then
// peer and project run in turn. With --out, rounds that FILE holds count: a measurement may be taken a round at a time.
// A peer that is not there is named in its row. Exit code 1: a loss differs, so it was not the same work.
import { existsSync } from "node:fs";
import { availableParallelism } from "node:os";
import { join } from "node:path";
import { parseArgs } from "node:util";
import { chosen, credence, jsonOf, kept, median, number, root, table } from "./common.mjs";

const { values } = parseArgs({
  options: {
    model: { type: "string" },
    python: { type: "string", default: "python3" },
    lib: { type: "string", default: join(root, "node_modules/node-llama-cpp") },
    bench: { type: "string", default: join(root, "build/credence_bench") },
    only: { type: "string" },
    rounds: { type: "string", default: "5" },
    threads: { type: "string", default: String(availableParallelism()) },
    modes: { type: "string" },
    steps: { type: "string", default: "6" },
    "mode-seconds": { type: "string", default: "600" },
    products: { type: "string" },
    out: { type: "string" },
  },
});
const { threads, steps } = values;
const rounds = Number(values.rounds);
const works = [
  "sft",
  "ragged",
  "ppo",
  "advantage",
  "generate",
  "samples",
  "query",
  "answers",
  "answers-kept",
  "kernels",
];
const wanted = chosen(values.only, works, "only");
if (!values.model && wanted.some((work) => !["advantage", "kernels"].includes(work))) {
  console.error("--model: name the GGUF file that both sides load");
  process.exit(2);
}
const { measured, keep } = kept(values.out);
measured.machine ??= (await import("../dist/native.js")).native().machine();

const script = (name, ...args) =>
  jsonOf(values.python, [join(root, "bench/peers", name), "--model", values.model, "--threads", threads, ...args], {
    seconds: Number(values["mode-seconds"]),
  });
const here = ["--model", values.model, "--threads", threads];

const types = ["fp32", "fp32_autocast", "bf16", "bf16_autocast"];
const sftModes = [...types, ...types.map((type) => `${type} --compile`)];
const torch = (mode, ...args) => {
  const [type, ...rest] = mode.split(" ");
  return script("torch_lora_sft.py", "--mode", type, ...rest, "--steps", steps, "--warmup", "1", ...args);
};
const tokens = { name: "tokens/s", peer: (d) => d.tokens_per_s_median, own: (d) => d.tokens_per_s_median };
const memory = { name: "peak memory, MB", peer: (d) => d.peak_rss_mb, own: (d) => d.peak_rss_mb };
const sorted = " --group";
/** A work: the modes its peer has, how a side runs once, and the figures that compare. */
const definitions = {
  sft: {
    peer: "PyTorch + transformers + PEFT",
    needs: python("torch", "transformers", "peft", "gguf"),
    modes: sftModes,
    theirs: (mode) => torch(mode),
    ours: () => credence("bench", "sft", ...here, "--repeats", steps),
    figures: [tokens, memory],
  },
  ragged: {
    peer: "PyTorch + transformers + PEFT",
    needs: python("torch", "transformers", "peft", "gguf"),
    modes: sftModes.map((mode) => mode + sorted),
    theirs: (mode) => torch(mode, "--workload", "ragged"),
    ours: () => credence("bench", "sft", "--workload", "ragged", ...here, "--repeats", steps),
    figures: [{ ...tokens, name: "real tokens/s" }, memory],
  },
  ppo: {
    peer: "PyTorch + transformers + PEFT",
    needs: python("torch", "transformers", "peft", "gguf"),
    modes: ["fp32", "bf16", "bf16_autocast"],
    theirs: (mode) => script("torch_ppo.py", "--mode", mode, "--steps", steps),
    ours: () => credence("bench", "ppo", ...here, "--repeats", steps),
    figures: [
      tokens,
      ...["rollout", "scoring", "advantage", "update", "total"].map((phase) => ({
        name: `${phase}, s`,
        peer: (d) => d.seconds_median[phase],
        own: (d) => d.seconds_median[phase],
      })),
      memory,
    ],
  },
  // Rollouts of 64 completions of up to 1,024 tokens on both sides, of other lengths: the figure is of a token.
  advantage: {
    peer: "TRL's advantage step",
    needs: python("torch", "numpy"),
    modes: ["the faster of PyTorch and NumPy"],
    theirs: () =>
      jsonOf(values.python, [join(root, "bench/peers/ppo_advantage.py")], { env: { OMP_NUM_THREADS: threads } }),
    ours: () => credence("bench", "kernels", "--only", "operators", "--dtype", "f32", "--threads", threads),
    figures: [
      {
        name: "ns a token",
        peer: (d) => (1e6 * Math.min(d.torch_ms_median, d.numpy_ms_median)) / d.real_tokens,
        own: ({ kernels }) => {
          const { ms_median, shape } = kernels.find(({ kernel }) => kernel === "advantage");
          return (1e6 * ms_median) / Number(/(\d+) tokens/.exec(shape)[1]);
        },
      },
    ],
  },
  generate: {
    peer: "llama.cpp (node-llama-cpp)",
    needs: () => (existsSync(values.lib) ? "" : `node-llama-cpp is not at ${values.lib}`),
    modes: ["prebuilt CPU binary"],
    theirs: () =>
      jsonOf(process.execPath, [
        join(root, "bench/peers/llama_cpp.mjs"),
        "--lib",
        values.lib,
        "--repeats",
        "2",
        ...here,
      ]),
    ours: () => credence("bench", "generate", ...here, "--repeats", "2"),
    figures: [
      {
        name: "prefill 512, tokens/s",
        peer: (d) => d.prefill512.tokens_per_s_median,
        own: (d) => d.prefill.tokens_per_s_median,
      },
      ...[1, 16].map((batch, i) => ({
        name: `decode, batch ${batch}, tokens/s`,
        peer: (d) => d[`decode_b${batch}_tokens_per_s_best`],
        own: (d) => d.decode[i].decode_tokens_per_s_best,
      })),
      memory,
    ],
  },
  samples: {
    peer: "transformers.generate",
    needs: python("torch", "transformers", "gguf"),
    modes: ["fp32", "bf16"],
    theirs: (mode) => script("torch_generate.py", "--workload", "ksamples", "--dtype", mode, "--steps", "1"),
    ours: () => credence("bench", "samples", ...here, "--repeats", "1"),
    figures: [tokens, memory],
  },
  query: asked("query", 1, ["fp32 1", "fp32 8", "bf16 1"]),
  answers: asked("answers", 10, ["fp32 10", "bf16 10"]),
  "answers-kept": asked("answers", 10, ["fp32 10 --prefix"]),
};

/** Whether answers are right: rows by themselves, or ten answers behind one question, which the peer reads for each or keeps. */
function asked(what, answers, modes) {
  return {
    peer: "PyTorch + transformers + PEFT",
    needs: python("torch", "transformers", "peft", "gguf"),
    modes,
    theirs: (mode) => {
      const [type, batch, ...rest] = mode.split(" ");
      const given = ["--mode", type, "--batch", batch, "--answers", String(answers), "--steps", "3"];
      return script("calibration_query.py", ...given, ...rest);
    },
    ours: () => credence("bench", what, ...here, "--repeats", "3"),
    figures: [{ name: "rows/s", peer: (d) => d.rows_per_s_median, own: (d) => d.rows_per_s_median }],
  };
}

/** Why an interpreter lacks modules; empty where it has them. */
function python(...modules) {
  return () => {
    try {
      jsonOf(values.python, ["-c", `import ${modules.join(", ")}; print(1)`]);
      return "";
    } catch (error) {
      return `${values.python}: ${error.message.trim().split("\n").at(-1)}`;
    }
  };
}

const ratio = (value) => (value < 0.1 ? value.toPrecision(2) : value.toFixed(2));
const rows = [];
let different = false;
for (const work of wanted.filter((name) => name in definitions)) {
  const { peer, needs, modes, theirs, ours, figures } = definitions[work];
  const lacking = needs();
  if (lacking) {
    rows.push([work, `${peer}: missing (${lacking})`, "-", "-", "-", "-"]);
    continue;
  }
  measured[work] ??= { tried: {}, rounds: [] };
  const state = measured[work];
  const candidates = values.modes
    ? modes.filter((mode) => values.modes.split(",").includes(mode.replace(sorted, "")))
    : modes;
  for (const mode of candidates.length > 1 && !state.mode ? candidates : []) {
    if (mode in state.tried) continue;
    try {
      state.tried[mode] = theirs(mode).tokens_per_s_median;
    } catch (error) {
      state.tried[mode] = error.message.split("\n").at(-1); // too slow, or a mode that this machine has not
    }
    console.error(`${work}, ${peer}, ${mode}: ${state.tried[mode]}`);
    keep();
  }
  const ran = Object.keys(state.tried).filter((mode) => typeof state.tried[mode] === "number");
  if (candidates.length > 1 && ran.length === 0 && !state.mode) {
    rows.push([work, `${peer}: no mode ran (${Object.values(state.tried).join("; ")})`, "-", "-", "-", "-"]);
    continue;
  }
  state.mode ??=
    candidates.length > 1
      ? ran.reduce((best, mode) => (state.tried[mode] > state.tried[best] ? mode : best))
      : candidates[0];
  while (state.rounds.length < rounds) {
    const round = { peer: theirs(state.mode), credence: ours() };
    state.rounds.push(round);
    keep();
    const pairs = figures.map(
      ({ name, peer, own }) => `${name} ${number(peer(round.peer))} and ${number(own(round.credence))}`,
    );
    console.error(`${work}, round ${state.rounds.length}: ${pairs.join("; ")}`);
  }
  for (const { name, peer: of, own } of figures) {
    const their = median(state.rounds.map((round) => of(round.peer)));
    const our = median(state.rounds.map((round) => own(round.credence)));
    rows.push([work, `${peer}, ${state.mode}`, name, number(their), number(our), ratio(our / their)]);
  }
  // Sorted by length its first batch is another one: the loss is of a run as the sequences come.
  if (work === "ragged" && state.mode.endsWith(sorted)) {
    state.unsorted ??= theirs(state.mode.slice(0, -sorted.length));
    keep();
  }
  const last = state.rounds.at(-1);
  const their = state.unsorted ?? last.peer;
  if (state.unsorted) {
    const our = median(state.rounds.map((round) => round.credence.tokens_per_s_median));
    const rate = their.tokens_per_s_median;
    rows.push([
      work,
      `${peer}, unsorted, one run`,
      "real tokens/s",
      number(rate),
      number(our),
      (our / rate).toFixed(2),
    ]);
  }
  // Samples differ; how likely they are does not, by more than chance: the policy, its prompts and lengths are the same.
  if (their.first_step !== undefined) {
    const [a, b] = [their.first_step.logprob_mean, last.credence.first_step.logprob_mean];
    const same =
      their.prompt_tokens === last.credence.prompt_tokens &&
      Math.abs(a - b) < 6 * last.credence.first_step.logprob_error;
    different ||= !same;
    const said = same ? "same" : "DIFFERENT WORK";
    rows.push([work, `${peer}, ${state.mode}`, "mean log-probability, first step", a.toFixed(3), b.toFixed(3), said]);
  }
  if (their.p_first !== undefined) {
    const [a, b] = [their.p_first, last.credence.p_first];
    const same = Math.abs(a - b) < 0.02;
    different ||= !same;
    rows.push([
      work,
      `${peer}, ${state.mode}`,
      "P(right) of the first row",
      a.toFixed(4),
      b.toFixed(4),
      same ? "same" : "DIFFERENT WORK",
    ]);
  }
  if (their.loss_first !== undefined) {
    const [a, b] = [their.loss_first, last.credence.loss_first];
    const same = Math.abs(a - b) < 0.002 * Math.abs(a);
    different ||= !same;
    rows.push([
      work,
      `${peer}, ${state.mode}`,
      "first loss",
      a.toFixed(4),
      b.toFixed(4),
      same ? "same" : "DIFFERENT WORK",
    ]);
  }
}

if (wanted.includes("kernels")) {
  if (!existsSync(values.bench)) {
    rows.push(["kernels", `oneDNN: missing (no ${values.bench}: npm run build -- --tests)`, "-", "-", "-", "-"]);
  } else {
    const name = `kernels ${threads} ${values.products ?? "all"}`;
    const only = values.products ? ["--only", values.products] : [];
    measured[name] ??= jsonOf(values.bench, ["onednn", "--threads", threads, "--rounds", values.rounds, ...only]);
    keep();
    const { onednn, isa, dtype, products } = measured[name];
    for (const line of products) {
      const shape = `${line.product}, ${line.rows} rows, ${dtype}, ${threads} threads`;
      const peer = line.missing ? `oneDNN: missing (${line.missing})` : `oneDNN ${onednn} packed, ${isa} here`;
      const cells = line.missing
        ? ["-", number(line.credence_gflops), "-"]
        : [number(line.onednn_gflops), number(line.credence_gflops), line.ratio.toFixed(2)];
      rows.push(["kernels", peer, `${shape}, GFLOP/s`, ...cells]);
    }
  }
  // PyTorch's kernels are measured where there is a GPU; the script says itself that there is none.
  rows.push([
    "kernels",
    "PyTorch (bench/peers/torch_kernels.py)",
    "CUDA only: docs/measurements/cuda.md",
    "-",
    "-",
    "-",
  ]);
}

console.log(table(["work", "peer and its mode", "figure", "peer", "credence", "ratio"], rows));
if (different) process.exitCode = 1;
