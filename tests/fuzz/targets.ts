/**
 * What TypeScript reads from files, each as a target: seeds, a vocabulary for the mutations, and the reading itself. A
 * reader may refuse a file, by a CredenceError that names it; nothing else may come out of it.
 */
import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { deflateRawSync } from "node:zlib";
import { parse } from "yaml";
import type { z } from "zod";
import { readRecords } from "../../src/data/readers.js";
import * as records from "../../src/data/records.js";
import { convertQuestions, type SourceName } from "../../src/methods/elical/published/convert.js";
import { eachOf, openAnswers, VerdictFile, VerdictReader } from "../../src/methods/elical/published/verdicts.js";
import { loadRecipe } from "../../src/methods/recipes.js";
import { readCard } from "../../src/model/card.js";
import { readGgufMetadata } from "../../src/model/gguf-metadata.js";
import { encodeSafetensors, readSafetensors } from "../../src/model/safetensors.js";
import { crc32, readZipEntry } from "../../src/model/zip.js";
import { Tokenizer } from "../../src/text/tokenizer.js";
import { ggufBytes } from "../golden/text/gguf.js";
import type { Format } from "./mutations.js";

export interface Target extends Format {
  name: string;
  /** Files of src/ whose coverage says how far the inputs come. */
  covers: string[];
  /** Puts the input where it is read from; returns the path that a message must name. */
  write(input: Uint8Array): string;
  read(path: string, input: Uint8Array): unknown;
}

const folder = mkdtempSync(join(tmpdir(), "credence-fuzz-"));
process.on("exit", () => rmSync(folder, { recursive: true, force: true }));

const inOneFile = (name: string) => (input: Uint8Array) => {
  const path = join(folder, name);
  writeFileSync(path, input);
  return path;
};

const bytes = (text: string): Uint8Array => Buffer.from(text);
const whole = { take: (input: Buffer) => [input.toString()], put: ([text]: string[]) => bytes(text!) };

// ---- records

const completion = { text: "Rhone", tokens: [3, 1], logprobs: [-0.5, -1], finish: "stop" };
const rows: Record<string, unknown>[] = [
  { id: "1", question: "Which river leaves Lake Geneva?", answer: ["Rhone", "Rhône"], group: "a", page: { n: [3] } },
  { id: 2, question: "1 + 1?", answer: ["2"], given: completion, responses: [completion], confidence: 0.25 },
  {
    messages: [
      { role: "user", content: "hello", weight: 0 },
      { role: "assistant", content: "日本 🙂" },
    ],
  },
  { prompt: "p", chosen: "a", rejected: "b", correct: [1, 0], agrees: [0.5], target: 1, given_correct: 1 },
];
const fields = [
  ...new Set(rows.flatMap((row) => Object.keys(row))),
  "weight",
  "role",
  "content",
  "__proto__",
  "toString",
];
const schemas: [field: string, schema: z.ZodType][] = [
  ["chosen", records.pairSchema],
  ["confidence", records.predictionSchema],
  ["responses", records.labelSchema],
  ["messages", records.chatSchema],
  ["", records.questionSchema],
];

/** As the kind of record that the input's words point to. */
function readRows(path: string, input: Uint8Array): Promise<unknown[]> {
  const text = Buffer.from(input).toString("latin1");
  return readRecords(path, schemas.find(([field]) => text.includes(field))![1]);
}

// ---- published question sets and verdicts

const sets: [field: string, name: SourceName, document: unknown][] = [
  ["paragraphs", "squad", { data: [{ paragraphs: [{ qas: [{ question: "q?", answers: [{ text: "a" }] }] }] }] }],
  ["Data", "tq", { Data: [{ Question: "q?", Answer: { Value: "a", Aliases: ["b"] } }] }],
  ["targetValue", "web_questions", [{ utterance: "q?", targetValue: '(list (description "a b") (description c))' }]],
  ["aliases", "complex_web_questions", [{ question: "q?", answers: [{ answer: "a", aliases: ["b"] }] }]],
  ["pattern", "pararel_patterns", [{ pattern: "[X] was born in [Y].", subject: "a", object: "b" }]],
  ["choices", "mmlu", [{ question: "q?", subject: "s", choices: ["1", "2", "3", "4"], answer: 2 }]],
  ["", "hq", [{ question: "q?", answer: "a", context: [["t", ["日本", "{"]]] }]],
];

async function readSet(path: string, name: SourceName): Promise<void> {
  for await (const { question, answer } of convertQuestions(name, path))
    if (!/\S/.test(question) || answer.some((text) => typeof text !== "string")) throw new Error("no question");
}

const popqa = [...Array(3).fill("x"), "sea", ...Array(4).fill("x"), '["a"]', ...Array(6).fill("x"), "q?", '"[""b""]"'];
const judged = [
  { question: "request a", original_question: "q?", answer: [], response: ["certain"] },
  { question: "q?", generated: "b", answer: ["b"], response: ["Uncertain."], logprobs: [[-1]] },
];

async function readVerdicts(path: string, text: string): Promise<void> {
  if (text.includes("logprobs")) for await (const _ of eachOf(await openAnswers(path, 1)));
  const file = await VerdictFile.open(path);
  const reader = new VerdictReader({ unparsed: "negative" });
  for (const answer of ["a", "b"])
    if (reader.read(await file.next("q?", [answer])).length !== 1) throw new Error("not one verdict");
  await file.end();
}

// ---- a small tokenizer

const letters = ["<|end|>", ..."abcdeĠ", "ab", "abc", "Ġa"];
const vocab = Object.fromEntries(letters.map((token, id) => [token, id]));
const added = {
  id: 0,
  content: "<|end|>",
  single_word: false,
  lstrip: false,
  rstrip: false,
  normalized: false,
  special: true,
};
const byteLevel = { type: "ByteLevel", add_prefix_space: false, trim_offsets: true, use_regex: true };
const tokenizerFiles = [
  "tokenizer.json",
  "tokenizer_config.json",
  "special_tokens_map.json",
  "generation_config.json",
  "config.json",
];
const tokenizerJson = (model: unknown, others = {}) =>
  JSON.stringify({
    version: "1.0",
    added_tokens: [added],
    pre_tokenizer: byteLevel,
    decoder: byteLevel,
    model,
    ...others,
  });
const configuration = [
  JSON.stringify({
    bos_token: "<|end|>",
    eos_token: { content: "<|end|>" },
    chat_template: [{ name: "default", template: "{{ x }}" }],
  }),
  JSON.stringify({ unk_token: "a", pad_token: "<|end|>" }),
  JSON.stringify({ eos_token_id: [0, 2] }),
  JSON.stringify({ bos_token_id: 0, pad_token_id: 1 }),
];

async function useTokenizer(path: string): Promise<void> {
  const tokenizer = await Tokenizer.load(path);
  const text = "abcab a<|end|>e日";
  for (const specials of ["parse", "text"] as const) {
    const { ids, spans } = await tokenizer.encodeAligned(text, { specials });
    if (spans.length !== 2 * ids.length || spans.some((at) => at > text.length))
      throw new Error("spans beyond the text");
    if (ids.some((id) => id >= tokenizer.vocabularySize)) throw new Error("an id beyond the vocabulary");
    tokenizer.decode(ids);
  }
  tokenizer.vocabularyPieces();
}

// ---- model files

const gguf = ggufBytes([
  ["general.name", { string: "日本" }],
  ["tokenizer.ggml.model", { string: "gpt2" }],
  ["tokenizer.ggml.pre", { string: "smollm" }],
  ["tokenizer.ggml.tokens", { strings: letters }],
  ["tokenizer.ggml.merges", { strings: ["a b", "ab c", "Ġ a"] }],
  ["tokenizer.ggml.token_type", { i32s: letters.map((_, id) => (id === 0 ? 3 : 1)) }],
  ["tokenizer.ggml.bos_token_id", { u32: 0 }],
  ["tokenizer.ggml.eos_token_id", { u32: 0 }],
  ["tokenizer.chat_template", { string: "{{ messages }}" }],
  ["lists", { lists: [[1, 2], []] }],
  ["big", { u64: 1n << 60n }],
  ["scale", { float: 0.5 }],
  ["flag", { bool: true }],
]);

const tensor = (name: string, shape: number[]) => ({
  name,
  shape,
  data: Float32Array.from({ length: shape.reduce((all, size) => all * size, 1) }, (_, i) => i / 4),
});
const safetensors = Buffer.concat(
  encodeSafetensors([tensor("head.weight", [1, 6]), tensor("head.bias", [1]), tensor("none", [0, 3])]),
);

function halfSafetensors(): Buffer {
  const header = Buffer.from(
    '{"a":{"dtype":"F16","shape":[3],"data_offsets":[0,6]},"b":{"dtype":"BF16","shape":[],"data_offsets":[6,8]}}',
  );
  const length = Buffer.alloc(8);
  length.writeBigUInt64LE(BigInt(header.length));
  return Buffer.concat([length, header, Buffer.of(0, 60, 0, 188, 1, 0, 128, 63)]);
}

/** The header as a text; another one gets its length. */
const safetensorsHeader = {
  take(input: Buffer) {
    const length = input.length < 8 ? 0 : Number(input.readBigUInt64LE(0));
    return [input.toString("utf8", 8, Math.min(8 + length, input.length))];
  },
  put([text]: string[], input: Buffer) {
    const before = input.length < 8 ? 0 : Number(input.readBigUInt64LE(0));
    const header = bytes(text!);
    const length = Buffer.alloc(8);
    length.writeBigUInt64LE(BigInt(header.length));
    return Buffer.concat([length, header, input.subarray(Math.min(8 + before, input.length))]);
  },
};

function zip(entries: [name: string, data: string, packed: boolean][], comment = ""): Buffer {
  const locals: Buffer[] = [];
  const directory: Buffer[] = [];
  let at = 0;
  for (const [name, text, packed] of entries) {
    const data = Buffer.from(text);
    const stored = packed ? deflateRawSync(data) : data;
    const fields = Buffer.alloc(26);
    fields.writeUInt16LE(20, 0);
    fields.writeUInt16LE(packed ? 8 : 0, 4);
    fields.writeUInt32LE(crc32(data), 10);
    fields.writeUInt32LE(stored.length, 14);
    fields.writeUInt32LE(data.length, 18);
    fields.writeUInt16LE(name.length, 22);
    const tail = Buffer.alloc(14);
    tail.writeUInt32LE(at, 10);
    const local = Buffer.concat([bytes("PK\x03\x04"), fields, bytes(name), stored]);
    locals.push(local);
    directory.push(Buffer.concat([bytes("PK\x01\x02\x14\x00"), fields, tail.subarray(0, 14), bytes(name)]));
    at += local.length;
  }
  const size = directory.reduce((all, entry) => all + entry.length, 0);
  const end = Buffer.alloc(18);
  end.writeUInt16LE(entries.length, 4);
  end.writeUInt16LE(entries.length, 6);
  end.writeUInt32LE(size, 8);
  end.writeUInt32LE(at, 12);
  end.writeUInt16LE(comment.length, 16);
  return Buffer.concat([...locals, ...directory, bytes("PK\x05\x06"), end, bytes(comment)]);
}

// ---- settings

const prompt = { user: "Answer: {question}", system: "none" };
const card = {
  version: 1,
  method: "elical",
  prompt: { user: "{question}", system: { text: "Be brief." } },
  answers: "adapter",
  answer: { newTokens: 16 },
  heads: [{ name: "confidence", layer: 2, kind: "mlp", widths: [8], outputs: 1 }],
  confidence: { head: "confidence", at: "answer-mean", prompt, slope: 1.5, offset: -0.25 },
  base: { name: "a/b", sha256: "00", storageType: "BF16", architecture: "llama", hiddenSize: 12, layers: 2 },
};
const recipe = `method: elical # as people write it
model: &name models/a.gguf
questions: {file: q.jsonl, limit: 12}
labels:
  counts: [30, 100]
  main: 100
lora: {prompt: {user: "Q: {question}"}}
`;

const modelFolder = join(folder, "model");
mkdirSync(modelFolder);
/** What the folder's files hold: most of them are left alone by most changes. */
const written = new Map<string, string>();

export const targets: Target[] = [
  {
    name: "jsonl",
    covers: ["data/readers.ts", "data/records.ts"],
    seeds: [
      bytes([rows[0], { ...rows[0], id: 7 }].map((row) => JSON.stringify(row)).join("\n")),
      ...rows.map((row) => bytes(`${JSON.stringify(row)}\n`)),
    ],
    words: [...fields, "\n", '{"id":', "\ufeff", "\\u0000", "[[", '{"a":', "null", "\r\n", "Infinity"],
    json: {
      take: (input) => input.toString().split("\n"),
      put: (texts) => bytes(texts.join("\n")),
    },
    write: inOneFile("input.jsonl"),
    read: readRows,
  },
  {
    name: "csv",
    covers: ["data/readers.ts", "data/records.ts"],
    seeds: [
      bytes(
        'id,question,answer,group,page\n1,Which river?,"[""Rhone"", ""Rhône""]",,"{""n"":3}"\n2,"1 +\r\n1?",2,sums,\n',
      ),
      bytes("\ufeffquestion,answer,confidence\r\nwho?,me,0.5\r\n"),
      bytes("prompt,chosen,rejected\na,b,c\n"),
      bytes('messages\n"[{""role"": ""user"", ""content"": ""hello""}]"\n'),
    ],
    words: [...fields, ",", '"', '""', "\n", "\r", ",,", '"["', "\ufeff", "[[", '{"a":', "-0", " "],
    write: inOneFile("input.csv"),
    read: readRows,
  },
  {
    name: "published",
    covers: ["convert", "pararel", "verdicts"].map((name) => `methods/elical/published/${name}.ts`),
    seeds: [
      ...sets.map(([, , document]) => bytes(JSON.stringify(document))),
      bytes(`id\t\n${popqa.join("\t")}\r\n${popqa.join("\t")}`),
      bytes(judged.map((row) => `${JSON.stringify(row)}\n`).join("")),
    ],
    words: [
      ...["question", "answer", "answers", "text", "[X]", "[Y]", "(description", "original_question", "generated"],
      ...["response", "certain", "not", "null", "]", "}", "[]", "\\u0000", "\t", '"', '""', "\n", "\r", "\ufeff"],
    ],
    json: { take: (input) => input.toString().split("\n"), put: (texts) => bytes(texts.join("\n")) },
    write(input) {
      const text = Buffer.from(input).toString("latin1");
      return inOneFile(`input.${text.includes("\t") ? "tsv" : text.includes("response") ? "jsonl" : "json"}`)(input);
    },
    async read(path, input) {
      const text = Buffer.from(input).toString("latin1");
      if (path.endsWith(".tsv")) return readSet(path, "popqa");
      if (path.endsWith(".json")) return readSet(path, sets.find(([field]) => text.includes(field))![1]);
      await readVerdicts(path, text);
    },
  },
  {
    name: "tokenizer",
    covers: ["text/tokenizer.ts"],
    seeds: [
      tokenizerJson({ type: "BPE", vocab, merges: ["a b", "ab c", "Ġ a"] }),
      tokenizerJson({ type: "WordLevel", vocab, unk_token: "a" }, { normalizer: { type: "NFC" } }),
      tokenizerJson({
        type: "Unigram",
        unk_id: 1,
        vocab: letters.map((token, id) => [token, -id]),
        byte_fallback: false,
      }),
    ].map((document) => bytes([document, ...configuration].join("\0"))),
    words: [
      ...letters,
      "BPE",
      "Unigram",
      "WordPiece",
      "WordLevel",
      "__proto__",
      "content",
      "type",
      "id",
      "special",
      "\0",
    ],
    json: {
      take: (input) => input.toString().split("\0"),
      put: (texts) => bytes(texts.join("\0")),
    },
    write(input) {
      const texts = Buffer.from(input).toString("latin1").split("\0");
      tokenizerFiles.forEach((name, i) => {
        const text = texts[i] ?? "{}";
        if (written.get(name) === text) return;
        writeFileSync(join(modelFolder, name), text, "latin1");
        written.set(name, text);
      });
      return modelFolder;
    },
    read: useTokenizer,
  },
  {
    name: "gguf",
    covers: ["model/gguf-metadata.ts", "text/gguf-tokenizer.ts", "text/tokenizer.ts"],
    seeds: [gguf, ggufBytes([["general.architecture", { string: "llama" }]], 2)],
    words: [
      "GGUF",
      "tokenizer.ggml.pre",
      "llama-bpe",
      "qwen2",
      "tokenizer.ggml.tokens",
      "gpt2",
      "\0\0\0\0",
      ...letters,
    ],
    write: inOneFile("input.gguf"),
    async read(path) {
      await readGgufMetadata(path);
      await useTokenizer(path);
    },
  },
  {
    name: "safetensors",
    covers: ["model/safetensors.ts"],
    seeds: [safetensors, halfSafetensors()],
    words: ["dtype", "shape", "data_offsets", "__metadata__", "__proto__", "F32", "F16", "BF16", "I64", "head.weight"],
    json: safetensorsHeader,
    write: inOneFile("input.safetensors"),
    read(path, input) {
      const tensors = readSafetensors(path);
      const numbers = tensors.reduce((all, { data }) => all + data.length, 0);
      if (2 * numbers > input.length) throw new Error(`${numbers} numbers from ${input.length} bytes`);
      for (const { shape, data } of tensors)
        if (shape.reduce((all, size) => all * size, 1) !== data.length)
          throw new Error("a shape that is not its data's");
    },
  },
  {
    name: "zip",
    covers: ["model/zip.ts"],
    seeds: [
      zip([
        ["a/x.txt", "one", false],
        ["wanted.gguf", "abc".repeat(50), true],
      ]),
      zip([["wanted.gguf", "stored", false]], "a comment"),
    ],
    words: ["PK\u0001\u0002", "PK\u0003\u0004", "PK\u0005\u0006", "wanted.gguf", "\0\0"],
    write: inOneFile("input.whl"),
    read(path) {
      const { name, data } = readZipEntry(path, (entry) => entry.endsWith(".gguf"));
      if (!name.endsWith(".gguf") || !Buffer.isBuffer(data)) throw new Error("not what was asked for");
    },
  },
  {
    name: "recipe",
    covers: ["methods/recipes.ts", "methods/elical/recipe.ts"],
    seeds: [bytes(recipe), bytes(JSON.stringify(parse(recipe)))],
    words: [
      ...[
        "&a",
        "*a",
        "*name",
        "<<: *s",
        "!!js/function",
        "!!binary",
        "---\n",
        "? ",
        "- ",
        ": ",
        "|\n",
        ">-\n",
        "%YAML 1.2\n",
      ],
      ...[
        "method",
        "elical",
        "samples",
        "count",
        "labels",
        "__proto__",
        "constructor",
        "[",
        "{",
        "\t",
        "#",
        "~",
        ".inf",
      ],
    ],
    json: whole,
    write: inOneFile("input.yaml"),
    read: (path) => loadRecipe(path),
  },
  {
    name: "card",
    covers: ["model/card.ts"],
    seeds: [bytes(JSON.stringify(card)), bytes(JSON.stringify(card, null, 2))],
    words: [...Object.keys(card), "kind", "linear", "slope", "__proto__", "default", "{question}", "widths"],
    json: whole,
    write(input) {
      writeFileSync(join(folder, "credence.json"), input);
      return folder;
    },
    read: (path) => readCard(path),
  },
];
