// The data side of supervised fine-tuning on files of two sizes: counting, reading, tokenizing, shuffling and packing one
// epoch of conversations, each size in a process of its own whose largest memory is told. The files are made in a temporary
// folder and removed.
//   node bench/data/stream.mjs [--rows 100000,10000000] [--words] [--window 8192] [--batch-tokens 4096] [--out FILE]
//   node bench/data/stream.mjs --rows 10000000 --write chats.jsonl        only makes the file
// --words takes a token for each word instead of a tokenizer and a chat template, which otherwise take nearly all the time.
import { spawnSync } from "node:child_process";
import { closeSync, mkdtempSync, openSync, rmSync, statSync, writeFileSync, writeSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { parseArgs } from "node:util";

const { values } = parseArgs({
  options: {
    rows: { type: "string", default: "100000,10000000" },
    window: { type: "string", default: "8192" },
    "batch-tokens": { type: "string", default: "4096" },
    words: { type: "boolean", default: false },
    out: { type: "string" },
    write: { type: "string" },
    file: { type: "string" },
  },
});

if (values.file) console.log(JSON.stringify(await consume(values.file)));
else if (values.write) write(values.write, Number(values.rows));
else compare();

/** One epoch of a file, packs thrown away. */
async function consume(path) {
  const load = (name) => import(new URL(`../../dist/${name}`, import.meta.url).href);
  const { openRecords } = await load("data/readers.js");
  const { chatSchema } = await load("data/records.js");
  const { packs } = await load("training/sft-data.js");
  const supervise = values.words ? wordByWord : await tokenized(load);
  const started = performance.now();
  const seconds = () => Number(((performance.now() - started) / 1000).toFixed(1));
  const records = await openRecords(path, chatSchema);
  const counted = seconds();
  const batchTokens = Number(values["batch-tokens"]);
  const data = {
    records,
    supervise,
    batchTokens,
    fit: { contextLength: batchTokens },
    seed: 0,
    epochs: 1,
    windowRecords: Number(values.window),
  };
  let [steps, rows, tokens] = [0, 0, 0];
  // Memory held at each fifth of the way: what grows with the file would show.
  const held = [];
  for await (const pack of packs(data, { epoch: 0, window: 0, pack: 0, rows: 0, tokens: 0 })) {
    steps += 1;
    ({ rows, tokens } = pack.position);
    if (rows > ((held.length + 1) * records.records) / 5) held.push(megabytes(process.memoryUsage.rss()));
  }
  return {
    records: records.records,
    rows,
    tokens,
    steps,
    utilisation: tokens / (steps * batchTokens),
    seconds_counting: counted,
    seconds: seconds(),
    rss_mb_on_the_way: held,
    peak_rss_mb: megabytes(process.resourceUsage().maxRSS * 1024),
  };
}

/** The repository's small tokenizer, with a template. */
async function tokenized(load) {
  const { Tokenizer } = await load("text/tokenizer.js");
  const { Chat } = await load("text/chat.js");
  const tokenizer = await Tokenizer.load(fileURLToPath(new URL("../../tests/golden/text/tokenizer", import.meta.url)));
  const chat = new Chat(
    tokenizer,
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}" +
      "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}",
  );
  return (messages) => chat.supervise(messages);
}

async function wordByWord(messages) {
  const ids = [];
  const supervised = [];
  for (const { role, content } of messages) {
    for (const word of content.split(" ")) {
      ids.push(word.length);
      supervised.push(role === "assistant" ? 1 : 0);
    }
  }
  return {
    text: "",
    ids: Int32Array.from(ids),
    supervised: Uint8Array.from(supervised),
    weights: Float32Array.from(supervised),
  };
}

function megabytes(bytes) {
  return Math.round(bytes / 1e6);
}

function compare() {
  const folder = mkdtempSync(join(tmpdir(), "credence-stream-"));
  try {
    const results = values.rows.split(",").map((rows) => {
      const path = join(folder, "chats.jsonl");
      write(path, Number(rows));
      const bytes = statSync(path).size;
      const args = [fileURLToPath(import.meta.url), "--file", path, "--window", values.window];
      args.push("--batch-tokens", values["batch-tokens"], ...(values.words ? ["--words"] : []));
      const child = spawnSync(process.execPath, args, { encoding: "utf8" });
      if (child.status !== 0) throw new Error(child.stderr);
      const result = { file_mb: megabytes(bytes), ...JSON.parse(child.stdout) };
      console.error(JSON.stringify(result));
      rmSync(path);
      return result;
    });
    if (values.out) writeFileSync(values.out, `${JSON.stringify(results, null, 1)}\n`);
    console.log(JSON.stringify(results));
  } finally {
    rmSync(folder, { recursive: true, force: true });
  }
}

/** Conversations of a question and an answer, of 3 to 40 words. */
function write(path, rows) {
  const words = "the river is sure of seven old cats and a red hat under no tree while nobody looks at it today".split(
    " ",
  );
  const text = (row, count) =>
    Array.from({ length: count }, (_, i) => words[(row * 7 + i * i) % words.length]).join(" ");
  const file = openSync(path, "w");
  let lines = [];
  for (let row = 0; row < rows; row++) {
    const messages = [
      { role: "user", content: `${text(row, 3 + (row % 17))}?` },
      { role: "assistant", content: `${text(row + 1, 3 + ((row * 31) % 37))}.` },
    ];
    lines.push(JSON.stringify({ messages }));
    if (lines.length < 10_000 && row + 1 < rows) continue;
    writeSync(file, `${lines.join("\n")}\n`);
    lines = [];
  }
  closeSync(file);
}
