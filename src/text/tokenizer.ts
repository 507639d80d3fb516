/**
 * A model's tokenizer, from its Hugging Face folder or its GGUF file. Encoding is the official library's, and therefore
 * asynchronous; decoding and looking up tokens are not.
 */
import { readFile, stat } from "node:fs/promises";
import { join } from "node:path";
import { type Decoder, type JsEncoding, Tokenizer as Library } from "tokenizers";
import { CredenceError } from "../errors.js";
import { readGgufMetadata } from "../model/gguf-metadata.js";
import { type TokenizerDocument, tokenizerOfGguf } from "./gguf-tokenizer.js";

export interface EncodeOptions {
  /** Whether "<|im_end|>" in the text is that special token ("parse", the default) or ten characters ("text"). */
  specials?: "parse" | "text";
}

export interface DecodeOptions {
  /** Leave special tokens out (default: they are written as they are called). */
  skipSpecials?: boolean;
}

/** Bytes of every token: token i is pieces[offsets[i] .. offsets[i + 1]]. */
export interface VocabularyPieces {
  pieces: Uint8Array;
  offsets: Int32Array;
}

/** Token ids with the part of the text each one stands for. */
export interface AlignedEncoding {
  ids: Int32Array;
  /** Begin and end of token i in UTF-16 units: spans[2 * i], spans[2 * i + 1]. */
  spans: Int32Array;
}

/** Names that chat models give to the token that ends a turn, whatever their configuration calls "eos". */
const endOfTurnNames = ["<|im_end|>", "<|eot_id|>", "<end_of_turn>", "<|end|>"];

/** Everything a tokenizer is made of, however the model stores it. */
interface Parts {
  path: string;
  document: TokenizerDocument;
  bosId?: number;
  eosIds: number[];
  padId?: number;
  specialTokens: Record<string, string>;
  chatTemplate?: string;
}

export class Tokenizer {
  /** The folder or file it came from. */
  readonly path: string;
  /** The token a text begins with, where the model has one. Never added by `encode`. */
  readonly bosId: number | undefined;
  /** Every token that ends an answer: configured ones, and the end of a turn. Ascending. */
  readonly eosIds: number[];
  readonly padId: number | undefined;
  /** Highest token id + 1. A model's embedding may have more rows. */
  readonly vocabularySize: number;
  /** The model's own Jinja template. */
  readonly chatTemplate: string | undefined;
  /** `bos_token`, `eos_token`, ... as templates name them. */
  readonly specialTokens: Readonly<Record<string, string>>;

  /** The `tokenizer.json` it is made of. */
  readonly document: TokenizerDocument;
  private readonly library: Library;
  private readonly decoder: Decoder | null;
  private readonly specialIds: ReadonlySet<number>;
  private textLibrary: Library | undefined;

  private constructor(parts: Parts) {
    this.path = parts.path;
    this.document = parts.document;
    this.library = open(parts.document, parts.path);
    for (const { id, content } of parts.document.added_tokens) {
      const given = this.idOf(content);
      if (given === id) continue;
      throw new CredenceError(
        "BAD_TOKENIZER",
        `${parts.path}: its added token ${JSON.stringify(content)} has the id ${id}, but the vocabulary gives it ${given}`,
      );
    }
    this.decoder = this.library.getDecoder();
    this.specialIds = new Set(parts.document.added_tokens.filter((t) => t.special).map((t) => t.id));
    this.bosId = parts.bosId;
    this.padId = parts.padId;
    const ends = endOfTurnNames
      .map((name) => this.idOf(name))
      .filter((id) => id !== undefined && this.specialIds.has(id));
    this.eosIds = [...new Set([...parts.eosIds, ...(ends as number[])])].sort((a, b) => a - b);
    this.vocabularySize = highestId(parts.document) + 1;
    this.chatTemplate = parts.chatTemplate;
    this.specialTokens = parts.specialTokens;
  }

  /**
   * @param modelPath a Hugging Face folder (`tokenizer.json`, and where present `tokenizer_config.json`,
   *   `special_tokens_map.json`, `generation_config.json`, `config.json`, `chat_template.jinja`), or a `.gguf` file
   * @throws CredenceError "NO_TOKENIZER", "BAD_TOKENIZER", "UNKNOWN_TOKENIZER" or "BAD_MODEL_FILE", naming the file
   */
  static async load(modelPath: string): Promise<Tokenizer> {
    const parts = /\.gguf$/i.test(modelPath) ? await partsOfGguf(modelPath) : await partsOfFolder(modelPath);
    return new Tokenizer(parts);
  }

  /** Whether its files say that a text begins with `bosId`, which `encode` leaves to its caller. */
  get addsBos(): boolean {
    const { bosId, document } = this;
    return bosId !== undefined && JSON.stringify(document.post_processor ?? null).includes(`[${bosId}]`);
  }

  /** Token ids of a text. No token is added before or after it. */
  async encode(text: string, options: EncodeOptions = {}): Promise<Int32Array> {
    const encoding = await this.explained(this.libraryFor(options).encode(text, null, { addSpecialTokens: false }));
    return Int32Array.from(encoding.getIds());
  }

  /** The same for many texts, on several threads. */
  async encodeBatch(texts: string[], options: EncodeOptions = {}): Promise<Int32Array[]> {
    if (texts.length === 0) return [];
    const encodings = await this.explained(this.libraryFor(options).encodeBatch(texts, { addSpecialTokens: false }));
    return encodings.map((encoding) => Int32Array.from(encoding.getIds()));
  }

  /** Token ids and where each token's text stands. A token that is part of a character spans all of it. */
  async encodeAligned(text: string, options: EncodeOptions = {}): Promise<AlignedEncoding> {
    const encoding = await this.explained(this.libraryFor(options).encode(text, null, { addSpecialTokens: false }));
    return { ids: Int32Array.from(encoding.getIds()), spans: utf16Spans(text, encoding) };
  }

  /** Where a vocabulary says nothing of what stands between words, its tokens are joined with spaces. */
  get joinsWithSpaces(): boolean {
    return this.decoder === null;
  }

  /** The text of token ids; bytes that are no UTF-8 become U+FFFD. */
  decode(ids: Iterable<number>, { skipSpecials = false }: DecodeOptions = {}): string {
    const tokens: string[] = [];
    for (const id of ids) {
      if (skipSpecials && this.specialIds.has(id)) continue;
      const token = this.library.idToToken(id);
      if (token !== null) tokens.push(token);
    }
    if (tokens.length === 0) return "";
    return this.decoder ? this.decoder.decode(tokens) : tokens.join(" ");
  }

  /** The id of a token by its name as the vocabulary writes it. */
  idOf(token: string): number | undefined {
    return this.library.tokenToId(token) ?? undefined;
  }

  isSpecial(id: number): boolean {
    return this.specialIds.has(id);
  }

  /**
   * The raw bytes of each token, for stop strings; a special token's are its name.
   *
   * @param size rows of the model's embedding, when that is more than `vocabularySize`: the others get no bytes
   */
  vocabularyPieces(size = this.vocabularySize): VocabularyPieces {
    const added = new Set(this.document.added_tokens.map((t) => t.id));
    const toBytes = pieceDecoder(this.document);
    const pieces: Uint8Array[] = [];
    const offsets = new Int32Array(size + 1);
    let total = 0;
    for (let id = 0; id < size; ++id) {
      const token = id < this.vocabularySize ? this.library.idToToken(id) : null;
      const bytes = token === null ? new Uint8Array(0) : added.has(id) ? Buffer.from(token) : toBytes(token);
      pieces.push(bytes);
      total += bytes.length;
      offsets[id + 1] = total;
    }
    const all = new Uint8Array(total);
    pieces.forEach((bytes, id) => {
      all.set(bytes, offsets[id]);
    });
    return { pieces: all, offsets };
  }

  /** What the library cannot encode it says without the file's name: a vocabulary that lacks a token it needs. */
  private async explained<T>(work: Promise<T>): Promise<T> {
    try {
      return await work;
    } catch (cause) {
      const { message } = cause as Error;
      throw new CredenceError("BAD_TOKENIZER", `${this.path}: its tokenizer cannot encode a text (${message})`, {
        cause,
      });
    }
  }

  private libraryFor({ specials = "parse" }: EncodeOptions): Library {
    if (specials === "parse") return this.library;
    this.textLibrary ??= open(withoutSpecials(this.document), this.path);
    return this.textLibrary;
  }
}

function open(document: TokenizerDocument, path: string): Library {
  try {
    // Nothing is added, cut or padded here, so that ids and spans are those of the text alone.
    return Library.fromString(JSON.stringify({ ...document, truncation: null, padding: null, post_processor: null }));
  } catch (cause) {
    throw new CredenceError("BAD_TOKENIZER", `${path}: its tokenizer cannot be read (${(cause as Error).message})`, {
      cause,
    });
  }
}

/**
 * The same tokenizer blind to special tokens in the text. A special token that the model's vocabulary holds is no added
 * token any more; one beyond it keeps its place, so that later ids stay, under a name no text contains.
 */
function withoutSpecials(document: TokenizerDocument): TokenizerDocument {
  const vocabulary = document.model.vocab;
  const known = Array.isArray(vocabulary)
    ? new Set(vocabulary.map(([token]) => token))
    : { has: (token: string) => Object.hasOwn(vocabulary, token) };
  const added = document.added_tokens
    .filter((token) => !token.special || !known.has(token.content))
    .map((token) => (token.special ? { ...token, content: `\u{10fffe}${token.id}\u{10ffff}` } : token));
  return { ...document, added_tokens: added };
}

function highestId(document: TokenizerDocument): number {
  const { vocab } = document.model;
  let highest = Array.isArray(vocab) ? vocab.length - 1 : -1;
  if (!Array.isArray(vocab)) for (const token in vocab) highest = Math.max(highest, vocab[token]!);
  for (const { id } of document.added_tokens) highest = Math.max(highest, id);
  return highest;
}

/** The library counts code points; JavaScript's strings count UTF-16 units. */
function utf16Spans(text: string, encoding: JsEncoding): Int32Array {
  const spans = Int32Array.from(encoding.getOffsets().flat());
  const units: number[] = [];
  let at = 0;
  for (const character of text) {
    units.push(at);
    at += character.length;
  }
  units.push(at);
  if (at === units.length - 1) return spans;
  return spans.map((point) => units[point] ?? at);
}

// ---- bytes of a token

/** GPT-2's alphabet: printable bytes are their own character, the other 68 follow from U+0100 in order. */
function byteLevelAlphabet(): Map<string, number> {
  const bytes = new Map<string, number>();
  let next = 256;
  for (let byte = 0; byte < 256; ++byte) {
    const printable = (byte >= 33 && byte <= 126) || (byte >= 161 && byte <= 172) || byte >= 174;
    bytes.set(String.fromCodePoint(printable ? byte : next++), byte);
  }
  return bytes;
}

/** How the vocabulary writes bytes: GPT-2's alphabet, or "▁" for a space and "<0x0A>" for a byte. */
function pieceDecoder(document: TokenizerDocument): (token: string) => Uint8Array {
  if (JSON.stringify([document.decoder, document.pre_tokenizer]).includes('"ByteLevel"')) {
    const alphabet = byteLevelAlphabet();
    return (token) => {
      const bytes = Array.from(token, (character) => alphabet.get(character));
      return bytes.includes(undefined) ? Buffer.from(token) : Uint8Array.from(bytes as number[]);
    };
  }
  return (token) => {
    const byte = /^<0x([0-9A-F]{2})>$/.exec(token);
    return byte ? Uint8Array.of(Number.parseInt(byte[1]!, 16)) : Buffer.from(token.replaceAll("\u2581", " "));
  };
}

// ---- where the parts lie

async function partsOfGguf(path: string): Promise<Parts> {
  const metadata = await readGgufMetadata(path);
  const document = tokenizerOfGguf(metadata);
  const tokens = metadata.strings("tokenizer.ggml.tokens") ?? [];
  const idOf = (name: string): number | undefined => {
    const key = `tokenizer.ggml.${name}_token_id`;
    const id = metadata.number(key);
    if (id !== undefined && !(id in tokens)) {
      throw new CredenceError("BAD_MODEL_FILE", `${path}: "${key}" is ${id}, but there are ${tokens.length} tokens`);
    }
    return id;
  };
  const specialTokens: Record<string, string> = {};
  for (const [ours, theirs] of [
    ["bos", "bos"],
    ["eos", "eos"],
    ["unk", "unknown"],
    ["pad", "padding"],
  ] as const) {
    const id = idOf(theirs);
    if (id !== undefined) specialTokens[`${ours}_token`] = tokens[id]!;
  }
  return {
    path,
    document,
    bosId: idOf("bos"),
    eosIds: [idOf("eos"), idOf("eot")].filter((id) => id !== undefined),
    padId: idOf("padding"),
    specialTokens,
    chatTemplate: metadata.string("tokenizer.chat_template"),
  };
}

type Json = Record<string, unknown>;

async function partsOfFolder(folder: string): Promise<Parts> {
  const path = join(folder, "tokenizer.json");
  const stored = await readJson(path);
  if (!stored) {
    const { isDirectory } = await stat(folder).then(
      (s) => ({ isDirectory: s.isDirectory() }),
      () => ({ isDirectory: false }),
    );
    throw new CredenceError(
      "NO_TOKENIZER",
      isDirectory
        ? `${folder}: has no tokenizer.json. Models with only a tokenizer.model or vocab.json must be saved once with their fast tokenizer`
        : `${folder}: is neither a model's folder nor a .gguf file`,
    );
  }
  const document = checkDocument(stored, path);
  const settings = (await readJson(join(folder, "tokenizer_config.json"))) ?? {};
  const map = (await readJson(join(folder, "special_tokens_map.json"))) ?? {};
  const generation = (await readJson(join(folder, "generation_config.json"))) ?? {};
  const model = (await readJson(join(folder, "config.json"))) ?? {};

  const specialTokens: Record<string, string> = {};
  for (const name of ["bos_token", "eos_token", "unk_token", "pad_token", "sep_token", "cls_token", "mask_token"]) {
    const value = content(settings[name]) ?? content(map[name]);
    if (value !== undefined) specialTokens[name] = value;
  }
  const idOfName = (name: string): number | undefined => {
    const token = specialTokens[name];
    if (token === undefined) return undefined;
    const { vocab } = document.model;
    const added = document.added_tokens.find((t) => t.content === token)?.id;
    if (added !== undefined) return added;
    if (!Array.isArray(vocab)) return Object.hasOwn(vocab, token) ? vocab[token] : undefined;
    const at = vocab.findIndex(([piece]) => piece === token);
    return at < 0 ? undefined : at;
  };
  const ids = (value: unknown): number[] =>
    (Array.isArray(value) ? value : [value]).filter((id) => Number.isInteger(id));
  const eos = [idOfName("eos_token")].filter((id) => id !== undefined);
  return {
    path: folder,
    document,
    bosId: idOfName("bos_token") ?? ids(generation.bos_token_id)[0] ?? ids(model.bos_token_id)[0],
    eosIds: [...eos, ...ids(generation.eos_token_id), ...ids(model.eos_token_id)],
    padId: idOfName("pad_token") ?? ids(model.pad_token_id)[0],
    specialTokens,
    chatTemplate: (await readText(join(folder, "chat_template.jinja"))) ?? templateOf(settings.chat_template),
  };
}

/** What is looked into here has its kind; the rest is for the library to check. */
function checkDocument(stored: Json, path: string): TokenizerDocument {
  const bad = (what: string) => new CredenceError("BAD_TOKENIZER", `${path}: ${what}`);
  const vocab = isObject(stored.model) ? stored.model.vocab : undefined;
  if (typeof vocab !== "object" || vocab === null) throw bad(`"model.vocab" is missing`);
  const wrong = Array.isArray(vocab)
    ? vocab.findIndex((entry) => !Array.isArray(entry) || typeof entry[0] !== "string")
    : Object.values(vocab).findIndex((id) => !isId(id));
  if (wrong >= 0)
    throw bad(`entry ${wrong + 1} of "model.vocab" is no token with its ${Array.isArray(vocab) ? "score" : "id"}`);
  const added = stored.added_tokens ?? [];
  if (!Array.isArray(added)) throw bad(`"added_tokens" is no list`);
  added.forEach((token, i) => {
    if (!isObject(token) || typeof token.content !== "string" || !isId(token.id))
      throw bad(`entry ${i + 1} of "added_tokens" is no token with its id and content`);
  });
  const document = { ...stored, added_tokens: added } as TokenizerDocument;
  // Tables are as long as the highest id. Ids have gaps, but not such that nearly all is gap.
  const count = added.length + (Array.isArray(vocab) ? vocab : Object.keys(vocab)).length;
  const highest = highestId(document);
  if (highest >= 65536 + 16 * count) throw bad(`its highest token id is ${highest}, but there are ${count} tokens`);
  return document;
}

const isObject = (value: unknown): value is Json =>
  typeof value === "object" && value !== null && !Array.isArray(value);
const isId = (value: unknown): value is number =>
  Number.isInteger(value) && (value as number) >= 0 && (value as number) < 2 ** 31;

/** A special token's name: a string, or an object with its `content`. */
function content(value: unknown): string | undefined {
  if (typeof value === "string") return value;
  const inner = (value as Json | null | undefined)?.content;
  return typeof inner === "string" ? inner : undefined;
}

/** One template, or the one called "default" of several. */
function templateOf(value: unknown): string | undefined {
  if (typeof value === "string") return value;
  if (!Array.isArray(value)) return undefined;
  const named = value.filter(isObject);
  const { template } = named.find((t) => t.name === "default") ?? named[0] ?? {};
  return typeof template === "string" ? template : undefined;
}

async function readText(path: string): Promise<string | undefined> {
  try {
    return await readFile(path, "utf8");
  } catch (cause) {
    const { code, message } = cause as NodeJS.ErrnoException;
    if (code === "ENOENT" || code === "ENOTDIR") return undefined;
    throw new CredenceError("BAD_TOKENIZER", `${path}: cannot be read (${message})`, { cause });
  }
}

async function readJson(path: string): Promise<Json | undefined> {
  const text = await readText(path);
  if (text === undefined) return undefined;
  let value: unknown;
  try {
    value = JSON.parse(text);
  } catch (cause) {
    throw new CredenceError("BAD_TOKENIZER", `${path}: not valid JSON (${(cause as Error).message})`, { cause });
  }
  if (!isObject(value)) throw new CredenceError("BAD_TOKENIZER", `${path}: holds no JSON object`);
  return value;
}
