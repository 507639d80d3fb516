// LoRA fine-tuning beside PyTorch + PEFT: the peer's script unchanged and `credence bench sft`, in turn, on the same model
// file and token ids.
//   node bench/train/sft.mjs --python VENV/bin/python --model M.gguf [--rounds 5] [--threads 2] [--mode MODE] [--out FILE]
// Without --mode each of the peer's modes runs once and the fastest is kept: the choice is made before the comparison.
import { spawnSync } from "node:child_process";
import { writeFileSync } from "node:fs";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { parseArgs } from "node:util";

const root = fileURLToPath(new URL("../..", import.meta.url));
const { values } = parseArgs({
  options: {
    python: { type: "string", default: "python3" },
    model: { type: "string" },
    rounds: { type: "string", default: "5" },
    threads: { type: "string", default: "2" },
    mode: { type: "string" },
    out: { type: "string" },
  },
});
if (!values.model) {
  console.error("--model: name the GGUF file that both sides load");
  process.exit(2);
}

/** The last line of standard output as JSON. */
function json(command, args) {
  const { status, stdout, stderr } = spawnSync(command, args, { encoding: "utf8", maxBuffer: 1 << 26 });
  if (status !== 0) throw new Error(`${command} ${args.join(" ")} ended with ${status}:\n${stderr.slice(-2000)}`);
  return JSON.parse(stdout.trim().split("\n").at(-1));
}
const peer = (mode) =>
  json(values.python, [
    join(root, "bench/peers/torch_lora_sft.py"),
    "--model",
    values.model,
    "--mode",
    mode,
    "--threads",
    values.threads,
  ]);
const ours = () =>
  json(process.execPath, [
    join(root, "dist/cli/bin.js"),
    "bench",
    "sft",
    "--json",
    "--model",
    values.model,
    "--threads",
    values.threads,
  ]);
const median = (list) => {
  const sorted = [...list].sort((a, b) => a - b);
  const middle = sorted.length >> 1;
  return sorted.length % 2 ? sorted[middle] : (sorted[middle - 1] + sorted[middle]) / 2;
};

let mode = values.mode;
const tried = {};
if (!mode) {
  for (const candidate of ["fp32", "bf16", "bf16_autocast"]) {
    tried[candidate] = peer(candidate).tokens_per_s_median;
    console.error(`peer, ${candidate}: ${tried[candidate]} tokens/s`);
  }
  mode = Object.keys(tried).reduce((best, candidate) => (tried[candidate] > tried[best] ? candidate : best));
}
const rounds = [];
for (let round = 0; round < Number(values.rounds); round++) {
  const [theirs, mine] = [peer(mode), ours()];
  rounds.push({ peer: theirs, credence: mine });
  console.error(
    `round ${round + 1}: peer ${theirs.tokens_per_s_median}, credence ${mine.tokens_per_s_median.toFixed(1)} tokens/s; ` +
      `first loss ${theirs.loss_first} and ${mine.loss_first.toFixed(4)}; memory ${theirs.peak_rss_mb} and ${mine.peak_rss_mb} MB`,
  );
}
const of = (side, key) => median(rounds.map((round) => round[side][key]));
const result = {
  mode,
  tried,
  rounds: rounds.length,
  peer_tokens_per_s: of("peer", "tokens_per_s_median"),
  credence_tokens_per_s: of("credence", "tokens_per_s_median"),
  ratio: of("credence", "tokens_per_s_median") / of("peer", "tokens_per_s_median"),
  peer_loss_first: of("peer", "loss_first"),
  credence_loss_first: of("credence", "loss_first"),
  peer_peak_rss_mb: of("peer", "peak_rss_mb"),
  credence_peak_rss_mb: of("credence", "peak_rss_mb"),
  runs: rounds,
};
if (values.out) writeFileSync(values.out, `${JSON.stringify(result, null, 1)}\n`);
console.log(JSON.stringify({ ...result, runs: undefined }));
