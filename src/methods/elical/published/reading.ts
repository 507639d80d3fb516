/** Where the published head reads a prompt, and what stands at its end: the switches by which a trained adapter is met. */
import { padRight } from "../../../data/packing.js";
import { CredenceError } from "../../../errors.js";
import { sigmoid } from "../../../model/calibrator.js";
import type { Model } from "../../../policy/model.js";
import type { Padding } from "../../../training/confidence-head.js";
import type { ElicalCompat } from "./compat.js";
import type { PublishedRow } from "./rows.js";

/** "index-minus-one": the last place of the batch as it was padded, a PAD token's for all rows but the longest. */
export type LastToken = "last-real" | "index-minus-one";

export interface Reading {
  lastToken: LastToken;
  /** Padded on the left, index -1 is the last real token. */
  paddingSide: "right" | "left";
  /** Rows padded to the longest among them. */
  group: number;
}

/** Rows padded together: in a training's micro-batch, where epochs are compared, and in scoring. */
export const publishedGroups = { training: 16, epochs: 8, scoring: 1024 } as const;

/** B9-11: rows are read at index -1 of a batch padded on the right. */
export const readingOf = (
  given: { lastToken?: LastToken; paddingSide?: "right" | "left"; group: number },
  compat: ElicalCompat,
): Reading => ({
  lastToken: given.lastToken ?? (compat.has("B9-11") ? "index-minus-one" : "last-real"),
  paddingSide: given.paddingSide ?? "right",
  group: given.group,
});

/** The end-of-sequence token's text. */
export function eosText(model: Model): string {
  const { eos_token } = model.tokenizer.specialTokens;
  if (eos_token === undefined)
    throw new CredenceError("BAD_TOKENIZER", `${model.name}: its tokenizer names no eos_token to append`);
  return eos_token;
}

/** How rows are padded; undefined where the last real token is read. */
export function paddingOf(model: Model, { lastToken, paddingSide, group }: Reading): Padding | undefined {
  if (lastToken === "last-real" || paddingSide === "left") return undefined;
  const { padId, specialTokens } = model.tokenizer;
  const token = padId ?? model.tokenizer.idOf(specialTokens.eos_token ?? "");
  if (token === undefined) {
    throw new CredenceError(
      "BAD_TOKENIZER",
      `${model.name}: its tokenizer names neither a pad_token nor an eos_token, so that no row can be padded. Read the last real token`,
    );
  }
  return { token, group };
}

/** Texts tokenized together. */
const textsAtOnce = 1024;

/**
 * Token ids of the rows' prompts, which are texts with their special tokens by name.
 *
 * @param options.eos the end-of-sequence token follows where the text does not end in it
 * @throws CredenceError "ROW_TOO_LONG" with the number of rows that the context has no room for
 */
export async function promptTokens(
  model: Model,
  rows: readonly PublishedRow[],
  { eos, compat }: { eos: boolean; compat: ElicalCompat },
): Promise<Int32Array[]> {
  const end = eos ? eosText(model) : "";
  const { bosId, addsBos } = model.tokenizer;
  // Published: the tokenizer adds its first token although the text begins with it.
  const first = compat.has("B9-12") && addsBos ? [bosId!] : [];
  const out: Int32Array[] = [];
  for (let from = 0; from < rows.length; from += textsAtOnce) {
    const texts = rows
      .slice(from, from + textsAtOnce)
      .map(({ prompt }) => (prompt.endsWith(end) ? prompt : prompt + end));
    for (const ids of await model.tokenizer.encodeBatch(texts))
      out.push(first.length ? Int32Array.of(...first, ...ids) : ids);
  }
  const { contextLength } = model.info;
  const long = [...out.keys()].filter((i) => out[i]!.length > contextLength);
  if (long.length > 0) {
    throw new CredenceError(
      "ROW_TOO_LONG",
      `${long.length} of ${rows.length} prompts are longer than the context of ${contextLength} tokens; the first is record ${rows[long[0]!]!.index + 1} with ${out[long[0]!]!.length}. Leave them out`,
    );
  }
  const empty = out.findIndex((ids) => ids.length === 0);
  if (empty >= 0) throw new CredenceError("BAD_INPUT", `record ${rows[empty]!.index + 1}: its prompt has no token`);
  return out;
}

/** Rows as they are read, for `policy.logits` and `policy.forward`. */
export const paddedRows = (
  tokens: Int32Array[],
  padding: Padding | undefined,
): { rows: Int32Array[]; paddedTo?: number[] } =>
  padding ? padRight(tokens, padding.token, padding.group) : { rows: tokens };

/** With 8 bits of mantissa, ties to even. */
export function bfloat16(value: number): number {
  const number = Float32Array.of(value);
  const bits = new Uint32Array(number.buffer);
  bits[0] = (bits[0]! + 0x7fff + ((bits[0]! >>> 16) & 1)) & 0xffff0000;
  return number[0]!;
}

/** B9-13: the head's output and its sigmoid are bf16. */
export const coarseSigmoid = (logit: number): number => bfloat16(sigmoid(bfloat16(logit)));
