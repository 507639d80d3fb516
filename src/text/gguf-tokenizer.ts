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

/** `tokenizer.ggml.pre`: how text is cut before the merges. */
const flavours: Record<string, Flavour> = {
  default: gpt2,
  "gpt-2": gpt2,
  smollm: singleDigits,
  starcoder: singleDigits,
  "llama-bpe": llama3,
  llama3,
  "llama-v3": llama3,
  qwen2,
};

/**
 * The tokenizer of a GGUF file: byte-level BPE (`tokenizer.ggml.model` = gpt2) of the kinds above.
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
  const instead = "Use the model's Hugging Face folder, whose tokenizer.json is read as it is";
  if (model !== "gpt2") {
    throw new CredenceError(
      "UNKNOWN_TOKENIZER",
      `${path}: its tokenizer is a "${model}"; "gpt2" (byte-level BPE) is read. ${instead}`,
    );
  }
  const pre = metadata.string("tokenizer.ggml.pre") ?? "default";
  const flavour = Object.hasOwn(flavours, pre) ? flavours[pre] : undefined;
  if (!flavour) {
    const known = Object.keys(flavours).join(", ");
    throw new CredenceError(
      "UNKNOWN_TOKENIZER",
      `${path}: "tokenizer.ggml.pre" is "${pre}"; known are ${known}. ${instead}`,
    );
  }
  const tokens = required(metadata.strings("tokenizer.ggml.tokens"), path, "tokenizer.ggml.tokens");
  const merges = required(metadata.strings("tokenizer.ggml.merges"), path, "tokenizer.ggml.merges");
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
  return {
    version: "1.0",
    truncation: null,
    padding: null,
    added_tokens: added,
    normalizer: flavour.normalizer ?? null,
    pre_tokenizer: flavour.preTokenizer,
    post_processor: null,
    decoder: { ...byteLevel(true), add_prefix_space: true },
    model: {
      type: "BPE",
      dropout: null,
      unk_token: null,
      continuing_subword_prefix: null,
      end_of_word_suffix: null,
      fuse_unk: false,
      byte_fallback: false,
      ignore_merges: flavour.wholeWordsFirst ?? false,
      vocab,
      merges,
    },
  };
}

function required<T>(value: T | undefined, path: string, key: string): T {
  if (value === undefined) throw new CredenceError("BAD_MODEL_FILE", `${path}: "${key}" is missing from its tokenizer`);
  return value;
}
