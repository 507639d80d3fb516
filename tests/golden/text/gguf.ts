/** Writes small GGUF files for tests: metadata only, in the layout that src/model/gguf-metadata.ts reads. */
import { readFileSync } from "node:fs";
import { join } from "node:path";

export type GgufItem =
  | { string: string }
  | { strings: string[] }
  | { u32: number }
  | { i32s: number[] }
  | { lists: number[][] }
  | { float: number }
  | { floats: number[] }
  | { u64: bigint }
  | { bool: boolean };
export type GgufEntry = [key: string, value: GgufItem];

const u32 = (value: number): Buffer => {
  const bytes = Buffer.alloc(4);
  bytes.writeUInt32LE(value);
  return bytes;
};
const u64 = (value: number | bigint): Buffer => {
  const bytes = Buffer.alloc(8);
  bytes.writeBigUInt64LE(BigInt(value));
  return bytes;
};
const text = (value: string): Buffer => Buffer.concat([u64(Buffer.byteLength(value)), Buffer.from(value)]);

function item(value: GgufItem): Buffer {
  if ("string" in value) return Buffer.concat([u32(8), text(value.string)]);
  if ("strings" in value) return Buffer.concat([u32(9), u32(8), u64(value.strings.length), ...value.strings.map(text)]);
  if ("u32" in value) return Buffer.concat([u32(4), u32(value.u32)]);
  if ("i32s" in value) return Buffer.concat([u32(9), u32(5), u64(value.i32s.length), ...value.i32s.map(u32)]);
  if ("lists" in value) {
    const lists = value.lists.map((list) => Buffer.concat([u32(4), u64(list.length), ...list.map(u32)]));
    return Buffer.concat([u32(9), u32(9), u64(lists.length), ...lists]);
  }
  if ("float" in value) {
    const bytes = Buffer.alloc(4);
    bytes.writeFloatLE(value.float);
    return Buffer.concat([u32(6), bytes]);
  }
  if ("floats" in value) {
    const bytes = Buffer.from(Float32Array.from(value.floats).buffer);
    return Buffer.concat([u32(9), u32(6), u64(value.floats.length), bytes]);
  }
  if ("u64" in value) return Buffer.concat([u32(10), u64(value.u64)]);
  return Buffer.concat([u32(7), Buffer.of(value.bool ? 1 : 0)]);
}

export function ggufBytes(entries: GgufEntry[], tensors = 0): Buffer {
  const body = entries.flatMap(([key, value]) => [text(key), item(value)]);
  return Buffer.concat([Buffer.from("GGUF"), u32(3), u64(tensors), u64(entries.length), ...body]);
}

/** The small golden tokenizer as a GGUF; `tokens` and `merges` are added to it. */
export function smallGguf(
  golden: string,
  { pre = "smollm" as string | null, tokens = [] as string[], merges = [] as string[] } = {},
): Buffer {
  const document = JSON.parse(readFileSync(join(golden, "tokenizer/tokenizer.json"), "utf8"));
  const names = Object.keys(document.model.vocab).sort((a, b) => document.model.vocab[a] - document.model.vocab[b]);
  const specials = new Set<string>(document.added_tokens.map((t: { content: string }) => t.content));
  const all = [...names, ...tokens];
  return ggufBytes([
    ["general.architecture", { string: "llama" }],
    ["tokenizer.ggml.model", { string: "gpt2" }],
    ...(pre === null ? [] : [["tokenizer.ggml.pre", { string: pre }] satisfies GgufEntry]),
    ["tokenizer.ggml.tokens", { strings: all }],
    ["tokenizer.ggml.token_type", { i32s: all.map((name) => (specials.has(name) ? 3 : 1)) }],
    ["tokenizer.ggml.merges", { strings: [...document.model.merges.map((m: string[] | string) => (Array.isArray(m) ? m.join(" ") : m)), ...merges] }],
    ["tokenizer.ggml.bos_token_id", { u32: 1 }],
    ["tokenizer.ggml.eos_token_id", { u32: 0 }],
    ["tokenizer.chat_template", { string: "{{ messages[0].content }}" }],
  ]);
}
