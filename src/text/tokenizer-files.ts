/** A tokenizer as the files of the other format: a Hugging Face folder's as a GGUF's metadata, and back. */
import { CredenceError } from "../errors.js";
import type { GgufField } from "../native.js";
import { preOfDocument } from "./gguf-tokenizer.js";
import type { Tokenizer } from "./tokenizer.js";

/** `tokenizer.ggml.token_type` */
const normal = 1;
const control = 3;
const userDefined = 4;
const unused = 5;

const json = (value: unknown): string => `${JSON.stringify(value, null, 2)}\n`;

/** Each token's name by its id; holes where there is none. */
function tokenNames(tokenizer: Tokenizer): string[] {
  const { vocab } = tokenizer.document.model;
  const names: string[] = [];
  if (Array.isArray(vocab)) for (const [id, [name]] of vocab.entries()) names[id] = name;
  else for (const name in vocab) names[vocab[name]!] = name;
  for (const { id, content } of tokenizer.document.added_tokens) names[id] = content;
  return names;
}

/**
 * What a GGUF says about its tokenizer, as llama.cpp reads it.
 *
 * @param rows rows of the model's embedding; those without a token get a name of their own and are marked unused
 * @throws CredenceError "UNKNOWN_TOKENIZER" for one that is no byte-level BPE of a kind llama.cpp has a name for
 */
export function tokenizerFields(tokenizer: Tokenizer, rows: number): Record<string, GgufField> {
  const { document, path } = tokenizer;
  const pre = preOfDocument(document);
  if (pre === undefined) {
    throw new CredenceError(
      "UNKNOWN_TOKENIZER",
      `${path}: its tokenizer (${document.model.type}) has no counterpart here among llama.cpp's byte-level ones; ` +
        "only those of GPT-2, SmolLM, Llama 3 and Qwen 2 and 3 are written into a GGUF. Convert it with llama.cpp's own script",
    );
  }
  const names = tokenNames(tokenizer);
  const added = new Map(document.added_tokens.map((token) => [token.id, token.special ? control : userDefined]));
  const tokens = Array.from({ length: rows }, (_, id) => names[id] ?? `[PAD${id}]`);
  const types = Int32Array.from(tokens, (_, id) => (id in names ? (added.get(id) ?? normal) : unused));
  const merges = (document.model.merges as (string | [string, string])[]).map((pair) =>
    typeof pair === "string" ? pair : pair.join(" "),
  );
  const { bosId, padId, eosIds, specialTokens } = tokenizer;
  const named = (name: string): number | undefined => {
    const token = specialTokens[name];
    return token === undefined ? undefined : tokenizer.idOf(token);
  };
  const eos = named("eos_token") ?? eosIds[0];
  const [eot, eom] = eosIds.filter((id) => id !== eos);
  const ids = { bos: bosId, eos, eot, eom, unknown: named("unk_token"), padding: padId };
  return {
    "tokenizer.ggml.model": "gpt2",
    "tokenizer.ggml.pre": pre,
    "tokenizer.ggml.tokens": tokens,
    "tokenizer.ggml.token_type": types,
    "tokenizer.ggml.merges": merges,
    "tokenizer.ggml.add_bos_token": tokenizer.addsBos,
    "tokenizer.ggml.add_space_prefix": false,
    ...Object.fromEntries(
      Object.entries(ids)
        .filter((entry): entry is [string, number] => entry[1] !== undefined && entry[1] < rows)
        .map(([name, id]) => [`tokenizer.ggml.${name}_token_id`, id]),
    ),
    ...(tokenizer.chatTemplate === undefined ? {} : { "tokenizer.chat_template": tokenizer.chatTemplate }),
  };
}

/** The files that a Hugging Face folder keeps a tokenizer in, by name. */
export function tokenizerFiles(tokenizer: Tokenizer): Record<string, string> {
  const { document, specialTokens, chatTemplate, bosId, eosIds } = tokenizer;
  return {
    "tokenizer.json": json(document),
    "tokenizer_config.json": json({
      // Another class may replace what tokenizer.json says by its own way of cutting text.
      tokenizer_class: "PreTrainedTokenizerFast",
      ...specialTokens,
      clean_up_tokenization_spaces: false,
      ...(chatTemplate === undefined ? {} : { chat_template: chatTemplate }),
    }),
    "generation_config.json": json({
      ...(bosId === undefined ? {} : { bos_token_id: bosId }),
      ...(eosIds.length ? { eos_token_id: eosIds } : {}),
    }),
  };
}

/** The first token id under which two tokenizers know different tokens, of those both have. */
export function firstDisagreement(a: Tokenizer, b: Tokenizer): { id: number; a: string; b: string } | undefined {
  const [x, y] = [tokenNames(a), tokenNames(b)];
  for (let id = 0; id < Math.min(x.length, y.length); id++) {
    if (x[id] !== undefined && y[id] !== undefined && x[id] !== y[id]) return { id, a: x[id]!, b: y[id]! };
  }
  return undefined;
}
