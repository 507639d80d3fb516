/** The tokenizer that a GGUF file carries, as the `tokenizer.json` document that the tokenizers library reads. */
import { CredenceError } from "../errors.js";
import type { GgufMetadata } from "../model/gguf-metadata.js";

/** The parts of a `tokenizer.json` that are looked into; the rest passes through to the library. */
export interface TokenizerDocument {
  version: string;
  truncation: unknown;
  padding: unknown;
  added_tokens: AddedToken[];
  normalizer: unknown;
  pre_tokenizer: unknown;
  post_processor: unknown;
  decoder: unknown;
  model: { type: string; vocab: Record<string, number> | [string, number][]; [key: string]: unknown };
}

export interface AddedToken {
  id: number;
  content: string;
  single_word: boolean;
  lstrip: boolean;
  rstrip: boolean;
  normalized: boolean;
  special: boolean;
}

/** `tokenizer.ggml.token_type`: what a token is for. */
const normal = 1;
const control = 3;
const userDefined = 4;

const byteLevel = (ownPattern: boolean) => ({
  type: "ByteLevel",
  add_prefix_space: false,
  trim_offsets: true,
  use_regex: ownPattern,
});

/**
 * Words, runs of at most `digits` digits, punctuation and white space, as Llama 3's and Qwen2's tokenizers cut them.
 */
const splitThenBytes = (digits: string) => ({
  type: "Sequence",
  pretokenizers: [
    {
      type: "Split",
      pattern: {
        Regex:
          "(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|" +
          digits +
          "| ?[^\\s\\p{L}\\p{N}]+[\\r\\n]*|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+",
      },
      behavior: "Isolated",
      invert: false,
    },
    byteLevel(false),
  ],
});

interface Flavour {
  preTokenizer: unknown;
  normalizer?: unknown;
  /** A piece of text that is a token as a whole is that token, whatever the merges would make of it. */
  wholeWordsFirst?: boolean;
}

const gpt2: Flavour = { preTokenizer: byteLevel(true) };
/** Each digit alone, then GPT-2's pattern. */
const singleDigits: Flavour = {
  preTokenizer: { type: "Sequence", pretokenizers: [{ type: "Digits", individual_digits: true }, byteLevel(true)] },
};
const llama3: Flavour = { preTokenizer: splitThenBytes("\\p{N}{1,3}"), wholeWordsFirst: true };
const qwen2: Flavour = { preTokenizer: splitThenBytes("\\p{N}"), normalizer: { type: "NFC" } };

/** `tokenizer.ggml.pre`: how text is cut before the merges. Of several names for one way the first is written. */
const flavours: Record<string, Flavour> = {
  "gpt-2": gpt2,
  default: gpt2,
  smollm: singleDigits,
  starcoder: singleDigits,
  "llama-bpe": llama3,
  llama3,
  "llama-v3": llama3,
  qwen2,
};

/** What of a pre-tokenizer changes how text is cut: not the spans, and not what a default says again. */
function essence(part: unknown): unknown {
  if (Array.isArray(part)) return part.map(essence);
  if (typeof part !== "object" || part === null) return part;
  const { trim_offsets: _, ...rest } = part as Record<string, unknown>;
  const whole = rest.type === "ByteLevel" ? { add_prefix_space: true, use_regex: true, ...rest } : rest;
  const sorted = Object.entries(whole).sort(([a], [b]) => (a < b ? -1 : 1));
  return Object.fromEntries(sorted.map(([key, value]) => [key, essence(value)]));
}

const isSame = (a: unknown, b: unknown): boolean => JSON.stringify(essence(a)) === JSON.stringify(essence(b));

/** What `tokenizer.ggml.pre` calls the way this tokenizer cuts text; undefined for one that llama.cpp has no word for here. */
export function preOfDocument({ model, pre_tokenizer, normalizer }: TokenizerDocument): string | undefined {
  if (model.type !== "BPE" || model.byte_fallback || model.dropout || model.end_of_word_suffix) return undefined;
  const found = Object.entries(flavours).find(
    ([, flavour]) =>
      isSame(pre_tokenizer, flavour.preTokenizer) &&
      isSame(normalizer ?? null, flavour.normalizer ?? null) &&
      Boolean(model.ignore_merges) === Boolean(flavour.wholeWordsFirst),
  );
  return found?.[0];
}

/**
 * The tokenizer of a GGUF file: byte-level BPE (`tokenizer.ggml.model` = gpt2) of the kinds above, or SentencePiece BPE
 * (`llama`: Llama 2, Mistral 7B).
 *
 * @throws CredenceError "UNKNOWN_TOKENIZER" for another model or another `pre`, by name; "BAD_MODEL_FILE" when a part
 *   is missing
 */
export function tokenizerOfGguf(metadata: GgufMetadata): TokenizerDocument {
  const { path } = metadata;
  const model = metadata.string("tokenizer.ggml.model");
  if (model === undefined) {
    throw new CredenceError("BAD_MODEL_FILE", `${path}: carries no tokenizer (no "tokenizer.ggml.model")`);
  }
  if (model !== "gpt2" && model !== "llama") {
    throw new CredenceError(
      "UNKNOWN_TOKENIZER",
      `${path}: its tokenizer is a "${model}"; "gpt2" (byte-level BPE) and "llama" (SentencePiece BPE) are read. ${instead}`,
    );
  }
  const tokens = required(metadata.strings("tokenizer.ggml.tokens"), path, "tokenizer.ggml.tokens");
  const types = metadata.numbers("tokenizer.ggml.token_type");
  if (types && types.length !== tokens.length) {
    throw new CredenceError("BAD_MODEL_FILE", `${path}: ${tokens.length} tokens but ${types.length} token types`);
  }
  // A null prototype: a token may be called "__proto__".
  const vocab: Record<string, number> = Object.create(null);
  const added: AddedToken[] = [];
  tokens.forEach((content, id) => {
    vocab[content] ??= id;
    const type = types?.[id];
    if (type === control || type === userDefined) {
      added.push({
        id,
        content,
        single_word: false,
        lstrip: false,
        rstrip: false,
        normalized: false,
        special: type === control,
      });
    }
  });
  const parts = model === "gpt2" ? byteLevelBpe(metadata) : sentencePieceBpe(metadata, tokens, types, vocab);
  return {
    version: "1.0",
    truncation: null,
    padding: null,
    added_tokens: added,
    post_processor: null,
    ...parts,
    model: {
      type: "BPE",
      dropout: null,
      unk_token: null,
      continuing_subword_prefix: null,
      end_of_word_suffix: null,
      fuse_unk: false,
      byte_fallback: false,
      ...parts.model,
      vocab,
    },
  };
}

const instead = "Use the model's Hugging Face folder, whose tokenizer.json is read as it is";

/** What the two kinds differ in. */
interface Parts {
  normalizer: unknown;
  pre_tokenizer: unknown;
  decoder: unknown;
  model: Record<string, unknown>;
}

function byteLevelBpe(metadata: GgufMetadata): Parts {
  const { path } = metadata;
  const pre = metadata.string("tokenizer.ggml.pre") ?? "default";
  const flavour = Object.hasOwn(flavours, pre) ? flavours[pre] : undefined;
  if (!flavour) {
    const known = Object.keys(flavours).join(", ");
    throw new CredenceError(
      "UNKNOWN_TOKENIZER",
      `${path}: "tokenizer.ggml.pre" is "${pre}"; known are ${known}. ${instead}`,
    );
  }
  return {
    normalizer: flavour.normalizer ?? null,
    pre_tokenizer: flavour.preTokenizer,
    decoder: { ...byteLevel(true), add_prefix_space: true },
    model: {
      ignore_merges: flavour.wholeWordsFirst ?? false,
      merges: required(metadata.strings("tokenizer.ggml.merges"), path, "tokenizer.ggml.merges"),
    },
  };
}

/**
 * SentencePiece joins the two neighbours whose joint piece has the highest score, over and over; as BPE that is a merge
 * for every way a piece falls in two pieces, ranked by its score. Spaces are "\u2581", one is put before each stretch of
 * text, and a character outside the vocabulary is its bytes ("<0x0A>").
 */
function sentencePieceBpe(
  metadata: GgufMetadata,
  tokens: string[],
  types: number[] | undefined,
  vocab: Record<string, number>,
): Parts {
  const { path } = metadata;
  const scores = required(metadata.numbers("tokenizer.ggml.scores"), path, "tokenizer.ggml.scores");
  if (scores.length !== tokens.length) {
    throw new CredenceError("BAD_MODEL_FILE", `${path}: ${tokens.length} tokens but ${scores.length} scores`);
  }
  const unknown = metadata.number("tokenizer.ggml.unknown_token_id") ?? 0;
  if (!(unknown in tokens)) {
    throw new CredenceError("BAD_MODEL_FILE", `${path}: its unknown token, ${unknown}, is none of ${tokens.length}`);
  }
  const isPiece = (text: string): boolean => {
    const id = vocab[text];
    return id !== undefined && (types?.[id] ?? normal) === normal;
  };
  const merges: { pair: [string, string]; score: number }[] = [];
  for (const piece of new Set(tokens)) {
    if (!isPiece(piece)) continue;
    const score = scores[vocab[piece]!]!;
    let left = "";
    for (const character of piece) {
      const right = piece.slice(left.length);
      if (left && isPiece(left) && isPiece(right)) merges.push({ pair: [left, right], score });
      left += character;
    }
  }
  merges.sort((a, b) => b.score - a.score); // stable: of equal scores, the lower id first
  const prefix = metadata.boolean("tokenizer.ggml.add_space_prefix") ?? true;
  const spaces = { type: "Replace", pattern: { String: " " }, content: "\u2581" };
  return {
    normalizer: prefix ? { type: "Sequence", normalizers: [{ type: "Prepend", prepend: "\u2581" }, spaces] } : spaces,
    pre_tokenizer: null,
    decoder: {
      type: "Sequence",
      decoders: [
        { type: "Replace", pattern: { String: "\u2581" }, content: " " },
        { type: "ByteFallback" },
        { type: "Fuse" },
        ...(prefix ? [{ type: "Strip", content: " ", start: 1, stop: 0 }] : []),
      ],
    },
    model: { unk_token: tokens[unknown], fuse_unk: true, byte_fallback: true, merges: merges.map(({ pair }) => pair) },
  };
}

function required<T>(value: T | undefined, path: string, key: string): T {
  if (value === undefined) throw new CredenceError("BAD_MODEL_FILE", `${path}: "${key}" is missing from its tokenizer`);
  return value;
}
