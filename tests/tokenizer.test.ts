import { existsSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import t, { type Test } from "tap";
import { CredenceError } from "../src/errors.js";
import { readGgufMetadata } from "../src/model/gguf-metadata.js";
import { Tokenizer } from "../src/text/tokenizer.js";
import { type GgufEntry, ggufBytes, smallGguf } from "./golden/text/gguf.js";

const golden = new URL("golden/text/", import.meta.url).pathname;
const fixtures = new URL("../../shared/fixtures/", import.meta.url).pathname;
const json = (path: string) => JSON.parse(readFileSync(path, "utf8"));
const absent = (path: string) => (existsSync(path) ? false : `absent: ${path.slice(path.indexOf("shared"))}`);

interface StringCase {
  text: string;
  ids: number[];
  ids_specials_as_text?: number[];
  decoded?: string;
}

const folder = mkdtempSync(join(tmpdir(), "credence-tokenizer-"));
t.teardown(() => rmSync(folder, { recursive: true, force: true }));
const write = (name: string, data: string | Uint8Array): string => {
  const path = join(folder, name);
  writeFileSync(path, data);
  return path;
};

async function everyCase(t: Test, tokenizer: Tokenizer, cases: StringCase[], textToo = true): Promise<void> {
  const parsed = await tokenizer.encodeBatch(cases.map((c) => c.text));
  const asText = await tokenizer.encodeBatch(
    cases.map((c) => c.text),
    { specials: "text" },
  );
  const { pieces, offsets } = tokenizer.vocabularyPieces();
  cases.forEach((c, i) => {
    t.same([...parsed[i]!], c.ids, `ids of ${JSON.stringify(c.text)}`);
    const plain = c.ids_specials_as_text ?? c.ids;
    if (textToo) t.same([...asText[i]!], plain, `ids of ${JSON.stringify(c.text)}, specials as text`);
    t.equal(tokenizer.decode(c.ids), c.decoded ?? c.text);
    const bytes = Buffer.concat(c.ids.map((id) => pieces.subarray(offsets[id], offsets[id + 1])));
    t.equal(bytes.toString(), c.decoded ?? c.text, "the pieces are the text's bytes");
  });
}

t.test("a small tokenizer of our own", async (t) => {
  const tokenizer = await Tokenizer.load(join(golden, "tokenizer"));
  const { strings } = json(join(golden, "tokenizer-cases.json"));
  await everyCase(t, tokenizer, strings);
  t.equal(tokenizer.bosId, tokenizer.idOf("<|endoftext|>"));
  t.same(tokenizer.eosIds, [0, 2], "the configured end and the end of a turn");
  t.equal(tokenizer.vocabularySize, tokenizer.vocabularyPieces().offsets.length - 1);
  t.equal(tokenizer.vocabularyPieces(1000).offsets.length, 1001, "rows beyond the vocabulary have no bytes");
  t.equal(tokenizer.decode([1, 68, 2], { skipSpecials: true }), tokenizer.decode([68]));
});

t.test("spans are in UTF-16 units", async (t) => {
  const tokenizer = await Tokenizer.load(join(golden, "tokenizer"));
  const text = "a \u{1f642}é the<|im_end|>";
  const { ids, spans } = await tokenizer.encodeAligned(text);
  t.same([...ids], [...(await tokenizer.encode(text))]);
  t.equal(text.slice(spans[0], spans[1]), "a");
  t.equal(text.slice(spans[2 * ids.length - 2], spans[2 * ids.length - 1]), "<|im_end|>");
  let end = 0;
  for (let i = 0; i < ids.length; ++i) {
    t.ok(spans[2 * i]! <= end, "no gap before a token");
    end = Math.max(end, spans[2 * i + 1]!);
  }
  t.equal(end, text.length);
});

t.test("special tokens beyond the vocabulary keep every id in its place", async (t) => {
  const document = json(join(golden, "tokenizer/tokenizer.json"));
  const token = (content: string, special: boolean) => ({ ...document.added_tokens[0], content, special });
  const first = Object.keys(document.model.vocab).length;
  document.added_tokens.push({ ...token("<|later|>", true), id: first }, { ...token("<tool>", false), id: first + 1 });
  write("tokenizer.json", JSON.stringify(document));
  const tokenizer = await Tokenizer.load(folder);
  t.equal(tokenizer.vocabularySize, first + 2);
  t.same([...(await tokenizer.encode("<|later|><tool>"))], [first, first + 1]);
  const asText = [...(await tokenizer.encode("<|later|><tool>", { specials: "text" }))];
  t.equal(asText.at(-1), first + 1, "a token that is no special one is still found, under its id");
  t.equal(asText.includes(first), false);
  t.equal(tokenizer.decode(asText), "<|later|><tool>");
  // A model's embedding may have more rows than the tokenizer has tokens: such an id has no text.
  t.equal(tokenizer.decode([first + 9, first + 1]), "<tool>");
  const { pieces, offsets } = tokenizer.vocabularyPieces(first + 10);
  t.same([offsets.length, offsets.at(-1), offsets[first + 2]], [first + 11, pieces.length, pieces.length]);
  rmSync(join(folder, "tokenizer.json"));
});

t.test("the same from a GGUF", async (t) => {
  const tokenizer = await Tokenizer.load(write("small.gguf", smallGguf(golden)));
  const { strings } = json(join(golden, "tokenizer-cases.json"));
  await everyCase(t, tokenizer, strings);
  t.equal(tokenizer.bosId, 1);
  t.same(tokenizer.eosIds, [0, 2]);
  t.equal(tokenizer.chatTemplate, "{{ messages[0].content }}");
});

t.test("how each kind of GGUF tokenizer cuts digits", async (t) => {
  const count = async (pre: string | null) => {
    const path = write(
      "pre.gguf",
      smallGguf(golden, { pre, merges: ["1 2", "3 4", "12 34"], tokens: ["12", "34", "1234"] }),
    );
    const tokenizer = await Tokenizer.load(path);
    return Array.from(await tokenizer.encode("1234"), (id) => tokenizer.decode([id])).join("|");
  };
  t.equal(await count("gpt-2"), "1234");
  t.equal(await count(null), "1234");
  t.equal(await count("smollm"), "1|2|3|4");
  t.equal(await count("qwen2"), "1|2|3|4");
  t.equal(await count("llama-bpe"), "12|3|4");
  await t.rejects(count("viking"), { code: "UNKNOWN_TOKENIZER", message: /pre.gguf.*"viking".*known are .*smollm/ });
});

/** SentencePiece's own rule, in its words: join the neighbours whose joint piece scores highest, the leftmost of equals. */
function joined(text: string, pieces: Map<string, number>): string[] {
  const parts = Array.from(`\u2581${text}`.replaceAll(" ", "\u2581"));
  for (;;) {
    let best = -1;
    let highest = Number.NEGATIVE_INFINITY;
    for (let i = 0; i + 1 < parts.length; ++i) {
      const score = pieces.get(parts[i]! + parts[i + 1]!);
      if (score !== undefined && score > highest) {
        highest = score;
        best = i;
      }
    }
    if (best < 0) return parts;
    parts.splice(best, 2, parts[best]! + parts[best + 1]!);
  }
}

const sentencePieceGguf = (pieces: string[], extra: GgufEntry[] = []): Buffer => {
  const bytes = Array.from({ length: 256 }, (_, i) => `<0x${i.toString(16).toUpperCase().padStart(2, "0")}>`);
  const tokens = ["<unk>", "<s>", "</s>", ...bytes, ...pieces];
  return ggufBytes([
    ["general.architecture", { string: "llama" }],
    ["tokenizer.ggml.model", { string: "llama" }],
    ["tokenizer.ggml.tokens", { strings: tokens }],
    ["tokenizer.ggml.scores", { floats: tokens.map((_, id) => -id) }],
    ["tokenizer.ggml.token_type", { i32s: tokens.map((_, id) => (id === 0 ? 2 : id < 3 ? 3 : id < 259 ? 6 : 1)) }],
    ["tokenizer.ggml.bos_token_id", { u32: 1 }],
    ["tokenizer.ggml.eos_token_id", { u32: 2 }],
    ...extra,
  ]);
};

t.test("SentencePiece tokenizers in a GGUF join pieces by score", async (t) => {
  // Random pieces over three letters, each character alone last, as training leaves them.
  let state = 12345;
  const random = (below: number): number => {
    state = (Math.imul(state, 1103515245) + 12345) >>> 1;
    return (state >>> 8) % below;
  };
  const word = (longest: number): string =>
    Array.from({ length: 1 + random(longest) }, () => "abc\u2581"[random(4)]).join("");
  const alphabet = ["a", "b", "c", "\u2581"];
  const pieces = [...new Set(Array.from({ length: 60 }, () => word(4)))].filter((piece) => piece.length > 1);
  const scores = new Map(pieces.map((piece, i) => [piece, -(259 + i)] as const));
  const tokenizer = await Tokenizer.load(write("pieces.gguf", sentencePieceGguf([...pieces, ...alphabet])));
  for (let i = 0; i < 300; ++i) {
    const text = word(25).replaceAll("\u2581", " ");
    const ids = await tokenizer.encode(text);
    t.same(
      [...ids].map((id) => (id < 259 ? "?" : [...pieces, ...alphabet][id - 259])),
      joined(text, scores),
      JSON.stringify(text),
    );
    t.equal(tokenizer.decode(ids), text);
  }
  // What no piece has is its bytes, special tokens stand for themselves, and the text after one gets its own space.
  t.same([...(await tokenizer.encode("\u00e9"))].slice(1), [3 + 0xc3, 3 + 0xa9]);
  t.equal(tokenizer.decode(await tokenizer.encode("a\u{1f642}b")), "a\u{1f642}b");
  t.same([...(await tokenizer.encode("<s>"))], [1]);
  t.equal([...(await tokenizer.encode("<s>", { specials: "text" }))].includes(1), false);
  const { pieces: bytes, offsets } = tokenizer.vocabularyPieces();
  t.same([...bytes.subarray(offsets[3 + 0xc3], offsets[3 + 0xc3 + 1])], [0xc3]);
  const bare = sentencePieceGguf(alphabet, [["tokenizer.ggml.add_space_prefix", { bool: false }]]);
  const without = await Tokenizer.load(write("bare.gguf", bare));
  t.same([...(await without.encode("a b"))], [259, 262, 260]);
  t.equal(without.decode([262, 259]), " a");
});

t.test("a GGUF tokenizer of another kind is refused by name", async (t) => {
  const file = write(
    "other.gguf",
    ggufBytes([
      ["tokenizer.ggml.model", { string: "t5" }],
      ["tokenizer.ggml.tokens", { strings: ["a"] }],
    ]),
  );
  await t.rejects(Tokenizer.load(file), { code: "UNKNOWN_TOKENIZER", message: /other.gguf: its tokenizer is a "t5"/ });
});

t.test("a GGUF cut anywhere is an error that names it", async (t) => {
  const whole = ggufBytes(
    [
      ["general.name", { string: "x" }],
      ["list", { strings: ["a", "bc"] }],
      ["nested", { lists: [[1, 2], [3]] }],
      ["number", { float: 1.5 }],
      ["big", { u64: 1n << 60n }],
      ["flag", { bool: true }],
    ] satisfies GgufEntry[],
    3,
  );
  const read = async (bytes: Uint8Array) => readGgufMetadata(write("cut.gguf", bytes));
  const metadata = await read(whole);
  t.same(metadata.values.get("list"), ["a", "bc"]);
  t.same(metadata.values.get("nested"), [[1, 2], [3]]);
  t.equal(metadata.number("number"), 1.5);
  t.equal(metadata.values.get("big"), 1n << 60n);
  t.equal(metadata.boolean("flag"), true);
  t.equal(metadata.tensorCount, 3);
  t.throws(() => metadata.string("number"), {
    code: "BAD_MODEL_FILE",
    message: /"number" is a number; expected a string/,
  });
  for (let length = 0; length < whole.length; ++length) {
    const error = await read(whole.subarray(0, length)).then(
      () => undefined,
      (e) => e,
    );
    if (!(error instanceof CredenceError && error.message.includes("cut.gguf"))) t.fail(`cut at ${length}: ${error}`);
  }
  for (let i = 4; i < whole.length; ++i) {
    const damaged = Uint8Array.from(whole);
    damaged[i]! ^= 0x80;
    const error = await read(damaged).then(
      () => undefined,
      (e) => e,
    );
    if (error && !(error instanceof CredenceError)) t.fail(`a flipped bit at ${i}: ${error}`);
  }
  await t.rejects(readGgufMetadata(join(folder, "none.gguf")), { code: "NO_MODEL", message: /none.gguf/ });
});

t.test("folders without a tokenizer", async (t) => {
  await t.rejects(Tokenizer.load(folder), { code: "NO_TOKENIZER", message: /has no tokenizer.json/ });
  await t.rejects(Tokenizer.load(join(folder, "nowhere")), {
    code: "NO_TOKENIZER",
    message: /neither a model's folder/,
  });
  write("tokenizer.json", '{"model":');
  await t.rejects(Tokenizer.load(folder), { code: "BAD_TOKENIZER", message: /tokenizer.json: not valid JSON/ });
  write("tokenizer.json", '{"model": {"type": "BPE"}}');
  await t.rejects(Tokenizer.load(folder), { code: "BAD_TOKENIZER", message: /"model.vocab" is missing/ });
});

t.test("SmolLM2's tokenizer, every case", { skip: absent(`${fixtures}tokenizer`) }, async (t) => {
  const tokenizer = await Tokenizer.load(`${fixtures}tokenizer`);
  await everyCase(t, tokenizer, json(`${fixtures}tokenizer/cases.json`).strings);
  t.same([tokenizer.bosId, tokenizer.eosIds, tokenizer.vocabularySize], [1, [2], 49152]);
});

t.test("the tokenizer inside the GGUF fixtures", { skip: absent(`${fixtures}gguf`) }, async (t) => {
  for (const name of ["mixed", "smollm2-f16"]) {
    const tokenizer = await Tokenizer.load(`${fixtures}gguf/${name}.gguf`);
    await everyCase(t, tokenizer, json(`${fixtures}gguf/mixed.json`).tokenizer_cases, false);
    const texts = ["The 12 answers", "naïve 日本 \u{1f642}"];
    const { Tokenizer: Library } = await import("tokenizers");
    const theirs = Library.fromFile(`${fixtures}gguf/tokenizer.json`);
    for (const text of texts) {
      t.same(
        [...(await tokenizer.encode(text))],
        (await theirs.encode(text, null, { addSpecialTokens: false })).getIds(),
      );
    }
  }
});

// Set by whoever has the quickstart's model at hand; its tokenizer must be the fixtures'.
const model = process.env.CREDENCE_TEST_MODEL ?? "";
t.test(
  "the quickstart's model",
  { skip: !model ? "CREDENCE_TEST_MODEL is not set" : absent(`${fixtures}tokenizer`) },
  async (t) => {
    const tokenizer = await Tokenizer.load(model);
    await everyCase(t, tokenizer, json(`${fixtures}tokenizer/cases.json`).strings);
    t.same([tokenizer.bosId, tokenizer.eosIds, tokenizer.vocabularySize], [1, [2], 49152]);
  },
);
