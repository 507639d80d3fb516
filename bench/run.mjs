// npm run bench: every figure that docs/measurements/cpu.md speaks of, beside the peak measured in the same process.
//   npm run bench -- --model M.gguf [--threads 2] [--only sft,generate] [--out FILE.json] [--growth]
// With --out, what FILE holds already is not measured again, so that a call may measure a part; remove the file to begin anew.
// --growth measures tokens/s against length, batch, rank, threads and model size instead (bench/growth.mjs).
import { availableParallelism } from "node:os";
import { parseArgs } from "node:util";
import { chosen, credence, kept, number, percent, table } from "./common.mjs";
import { growth } from "./growth.mjs";

const { values } = parseArgs({
  options: {
    model: { type: "string" },
    threads: { type: "string", default: String(availableParallelism()) },
    only: { type: "string" },
    out: { type: "string" },
    growth: { type: "boolean" },
    shape: { type: "string", default: "135m" },
    svg: { type: "string" },
    repeats: { type: "string" },
    tokens: { type: "string", default: "2048" },
  },
});
const { native } = await import("../dist/native.js");
const { measured, keep } = kept(values.out);
const { isas, cpu, cores } = native().machine();
measured.machine ??= { cpu, cores, isas, node: process.versions.node };
if (values.growth) {
  await growth({ ...values, measured, keep });
  process.exit(0);
}

const works = ["products", "lora", "attention", "operators", "sft", "ragged", "generate", "samples", "load"];
const wanted = chosen(values.only, works, "only");
const ofModel = wanted.filter((work) => !["products", "lora", "attention", "operators"].includes(work));
if (!values.model && ofModel.length > 0) {
  console.error(`--model: name the folder or the GGUF file that ${ofModel.join(", ")} load`);
  process.exit(2);
}

const threads = Number(values.threads);
/** The tables a product is measured in: the machine's best for each of the two types, and AVX2 by force. */
const tables = [
  { isa: "avx512bf16", dtype: "bf16" },
  { isa: "avx512", dtype: "f32" },
  { isa: "avx2", dtype: "f32" },
];
const counts = [...new Set([1, threads])];
const productName = ({ isa, dtype }, count) => `products ${isa} ${dtype} ${count}`;

function measure(name, ...args) {
  if (measured[name]) return;
  const repeats = values.repeats && !args.includes("kernels") ? ["--repeats", values.repeats] : [];
  console.error(`measuring ${name} ...`);
  measured[name] = credence("bench", ...args, ...repeats);
  keep();
}
const kernels = (group, ...args) => ["kernels", "--only", group, "--tokens", values.tokens, ...args];
const here = ["--threads", values.threads];
const model = ["--model", values.model];
const measures = {
  products: () => {
    for (const one of tables.filter(({ isa }) => isas.includes(isa)))
      for (const count of counts)
        measure(
          productName(one, count),
          ...kernels("products", "--isa", one.isa, "--dtype", one.dtype, "--threads", count),
        );
  },
  lora: () => measure("lora", ...kernels("lora", ...here)),
  attention: () => measure("attention", ...kernels("attention", ...here)),
  operators: () => measure("operators", ...kernels("operators", ...here)),
  sft: () => measure("sft", "sft", ...model, ...here),
  ragged: () => measure("ragged", "sft", "--workload", "ragged", ...model, ...here),
  generate: () => measure("generate", "generate", ...model, ...here),
  samples: () => measure("samples", "samples", ...model, ...here),
  load: () => measure("load", "load", ...model, ...here),
};
for (const work of wanted) measures[work]();

// --- the rows -------------------------------------------------------------------------------------------------------

const rows = [];
/** `value` is what the aim speaks of: a share, a rate or seconds; `met` is null where it was not measured. */
const row = (work, figure, peak, aim, met) =>
  rows.push([work, figure, peak, aim, met === null ? "-" : met ? "yes" : "no"]);
const peakOf = ({ peaks, dtype, isa }) =>
  dtype === "bf16"
    ? `${number(peaks.bf16Gflops)} GFLOP/s (${isa}, bf16)`
    : `${number(peaks.f32Gflops)} GFLOP/s (${isa}, float32)`;
const memoryOf = ({ peaks }) => `${number(peaks.readGBs)} GB/s`;
const missing = (work, name, aim) => row(work, `not measured: npm run bench -- --only ${name}`, "-", aim, null);
const noBf16 = isas.includes("avx512bf16") ? "" : "no bf16 dot product here; ";

/** Work over time of a model's four products at so many rows, as a share of the peak. */
function layer(document, name, at) {
  const lines = document.kernels.filter(({ shape }) => shape.startsWith(name) && shape.includes(`, ${at} x `));
  const ms = lines.reduce((sum, line) => sum + line.ms_best, 0);
  const gflops = lines.reduce((sum, line) => sum + line.gflops * line.ms_best, 0) / ms;
  return gflops / document.peaks[document.dtype === "bf16" ? "bf16Gflops" : "f32Gflops"];
}

for (const one of tables) {
  const least = one.dtype === "bf16" ? [0.92, 0.85] : [0.85, 0.85];
  const aim = one.dtype === "bf16" ? "92 % at M 2,048, 85 % at M 256" : "85 %";
  for (const count of counts) {
    const plural = `${count} thread${count === 1 ? "" : "s"}`;
    const work = `fused products, ${one.dtype === "bf16" ? "bf16" : "float32"}, ${one.isa}, ${plural}`;
    const document = measured[productName(one, count)];
    if (!isas.includes(one.isa)) {
      row(work, one.dtype === "bf16" ? "no bf16 dot product here" : `no ${one.isa} here`, "-", aim, null);
    } else if (!document) {
      missing(work, "products", aim);
    } else {
      for (const name of ["SmolLM2-135M", "Llama-3-8B"]) {
        const large = Number(values.tokens);
        const shares = [large, large / 8].map((at) => layer(document, name, at));
        if (shares.some(Number.isNaN)) continue;
        const figure = `${percent(shares[0])} at M ${large}, ${percent(shares[1])} at M ${large / 8}`;
        row(
          `${work}, ${name}`,
          figure,
          peakOf(document),
          aim,
          shares.every((share, i) => share >= least[i]),
        );
      }
    }
  }
}
if (measured.lora) {
  for (const { pass, rows: at, overhead } of measured.lora.lora)
    row(
      `LoRA r 16 over a layer's four products, ${pass}, M ${at}`,
      `${(100 * overhead).toFixed(1)} % more`,
      peakOf(measured.lora),
      "at most 12 %",
      overhead <= 0.12,
    );
} else missing("LoRA r 16 over a layer's four products", "lora", "at most 12 %");
if (measured.attention) {
  const lines = measured.attention.kernels;
  const middle = `1 x ${values.tokens} tokens`;
  for (const line of lines.filter(({ shape }) => !shape.startsWith("64 segments"))) {
    const least = line.kernel === "attention" ? 0.45 : 0.4;
    const judged = line.shape.startsWith(middle);
    row(
      `${line.kernel}, ${line.shape}`,
      percent(line.share_of_peak),
      peakOf(measured.attention),
      judged ? percent(least) : "-",
      judged ? line.share_of_peak >= least : null,
    );
  }
  for (const line of lines.filter(({ shape }) => shape.startsWith("64 segments"))) {
    const long = lines.find(
      ({ kernel, shape }) => kernel === line.kernel && shape.startsWith("4 x ") && shape.endsWith("64"),
    );
    const share = line.gflops / long.gflops;
    row(
      `${line.kernel}, ${line.shape}`,
      `${percent(line.share_of_peak)}, ${percent(share)} of ${long.shape.split(",")[0]}`,
      peakOf(measured.attention),
      "60 % of T 512's figure",
      share >= 0.6,
    );
  }
} else missing("attention", "attention", "45 % forward, 40 % backward at T 2,048");
for (const [name, work, least] of [
  ["sft", "LoRA step, 4 x 512", 0.65],
  ["ragged", "LoRA steps, 64 sequences of 40 to 200, a fifth supervised", 0.6],
]) {
  const document = measured[name];
  if (!document) missing(work, name, percent(least));
  else
    row(
      work,
      `${number(document.tokens_per_s_median)} tokens/s, ${percent(document.share_of_peak)} (${document.gflop_per_token.toFixed(3)} GFLOP a token)`,
      peakOf(document),
      percent(least),
      document.share_of_peak >= least,
    );
}
if (measured.generate) {
  const { prefill, decode } = measured.generate;
  const figure = `${number(prefill.tokens_per_s_median)} tokens/s, ${percent(prefill.share_of_peak)}`;
  row(`prefill ${prefill.prompt}`, figure, peakOf(measured.generate), "60 %", prefill.share_of_peak >= 0.6);
  for (const line of decode) {
    const rate = line.decode_tokens_per_s_median;
    const wall = `${number(line.wall_tokens_per_s)} tokens/s (${line.wall}: ${line.wall === "memory" ? memoryOf(measured.generate) : peakOf(measured.generate)})`;
    const [aim, met] =
      line.batch === 1
        ? ["75 %", line.share_of_wall >= 0.75]
        : ["1,500 tokens/s or 60 %", rate >= 1500 || line.share_of_wall >= 0.6];
    row(`decode, batch ${line.batch}`, `${number(rate)} tokens/s, ${percent(line.share_of_wall)}`, wall, aim, met);
  }
} else missing("prefill and decode", "generate", "60 %; 75 % of the memory wall");
row(
  "decode from quantised bytes",
  "not built: weights are widened to the engine's type when they are read",
  "-",
  "60 % of the file's memory wall",
  null,
);
if (measured.samples) {
  const line = measured.samples;
  const met = line.tokens_per_s_median >= 1500 || line.share_of_wall >= 0.6;
  row(
    "10 samples of 16 questions",
    `${number(line.tokens_per_s_median)} tokens/s, ${percent(line.share_of_wall)}`,
    `${number(line.wall_tokens_per_s)} tokens/s (${line.wall})`,
    "1,500 tokens/s or 60 %",
    met,
  );
} else missing("10 samples of 16 questions", "samples", "1,500 tokens/s or 60 %");
if (measured.operators) {
  const line = (kernel, text = "") =>
    measured.operators.kernels.find((one) => one.kernel === kernel && one.shape.includes(text));
  const loss = line("token_logprobs", "and back");
  row(
    `head and loss, ${loss.shape}`,
    percent(loss.share_of_peak),
    peakOf(measured.operators),
    "75 %",
    loss.share_of_peak >= 0.75,
  );
  for (const kernel of ["adamw", "norm", "norm_backward"]) {
    const { shape, gbs, share_of_peak } = line(kernel);
    row(
      `${kernel}, ${shape}`,
      `${number(gbs)} GB/s, ${percent(share_of_peak)}`,
      memoryOf(measured.operators),
      "70 %",
      share_of_peak >= 0.7,
    );
  }
} else missing("head and loss; AdamW, norm", "operators", "75 %; 70 % of reading");
row(
  "rotary, SwiGLU",
  "fused into attention_input and mlp_input: no pass of their own",
  "-",
  "70 % of reading, or fused",
  true,
);
if (measured.load) {
  const seconds = measured.load.first_token_s_median;
  row(
    "from Model.load to the first token of 32",
    `${seconds.toFixed(2)} s, ${measured.load.load_s_median.toFixed(2)} s of it loading`,
    "-",
    "0.5 s",
    seconds < 0.5,
  );
} else missing("from Model.load to the first token of 32", "load", "0.5 s");
row(
  "the quickstart",
  "not measured here: npm run quickstart (docs/measurements/quickstart.md)",
  "-",
  "a quarter of the reference's time",
  null,
);
row("growth", "npm run bench -- --growth", "-", "a table and a plot", null);

console.log(`${cpu}, ${cores} cores, ${isas.join(" ")}; ${noBf16}Node ${process.versions.node}\n`);
console.log(table(["work", "figure", "peak of the same process", "aim", "met"], rows));
