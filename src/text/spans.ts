/** Which characters of a decoded text its tokens stand for. */
import type { Tokenizer, VocabularyPieces } from "./tokenizer.js";

const space = Uint8Array.of(0x20);
const known = new WeakMap<Tokenizer, VocabularyPieces>();

/** A tokenizer's bytes, made once. */
function piecesOf(tokenizer: Tokenizer): VocabularyPieces {
  let pieces = known.get(tokenizer);
  if (!pieces) {
    pieces = tokenizer.vocabularyPieces();
    known.set(tokenizer, pieces);
  }
  return pieces;
}

/**
 * For tokens that were sampled, what `encodeAligned` says of tokens that were encoded: begin and end of token i in UTF-16
 * units of the text, at 2 i and 2 i + 1. A token that is part of a character spans all of it, a special token that was left
 * out of the text spans nothing.
 *
 * @param text `tokenizer.decode(ids)`, with special tokens or without
 * @returns null where the tokens' bytes are not the text's: it was written by other tokens, or the bytes are no UTF-8 and
 *   the tokenizer replaces each of them
 */
export function spansOfTokens(tokenizer: Tokenizer, ids: ArrayLike<number>, text: string): Int32Array | null {
  return spansWith(tokenizer, ids, text, false) ?? spansWith(tokenizer, ids, text, true);
}

function spansWith(tokenizer: Tokenizer, ids: ArrayLike<number>, text: string, skip: boolean): Int32Array | null {
  const { pieces, offsets } = piecesOf(tokenizer);
  const ends = new Int32Array(ids.length);
  const parts: Uint8Array[] = [];
  let total = 0;
  for (let i = 0; i < ids.length; i++) {
    const id = ids[i]!;
    if (!(skip && tokenizer.isSpecial(id))) {
      if (total > 0 && tokenizer.joinsWithSpaces) {
        parts.push(space);
        total += space.length;
      }
      const piece = pieces.subarray(offsets[id] ?? 0, offsets[id + 1] ?? 0);
      parts.push(piece);
      total += piece.length;
    }
    ends[i] = total;
  }
  const bytes = Buffer.concat(parts);
  const decoded = new TextDecoder("utf-8", { ignoreBOM: true }).decode(bytes);
  // SentencePiece writes a space before the first word, and its decoder takes it off.
  const shift = decoded === text ? 0 : decoded === ` ${text}` ? 1 : -1;
  if (shift < 0) return null;
  const { from, to } = unitsOfBytes(bytes);
  const unit = (value: number): number => Math.max(0, value - shift);
  const spans = new Int32Array(2 * ids.length);
  for (let i = 0; i < ids.length; i++) {
    const [first, last] = [i === 0 ? 0 : ends[i - 1]!, ends[i]! - 1];
    const begin = first < bytes.length ? from[first]! : decoded.length;
    spans[2 * i] = unit(begin);
    spans[2 * i + 1] = unit(last < first ? begin : to[last]!);
  }
  return spans;
}

/** For each byte, begin and end of its character in UTF-16 units; bytes that are no UTF-8 are decoded as one U+FFFD each run. */
function unitsOfBytes(bytes: Uint8Array): { from: Int32Array; to: Int32Array } {
  const from = new Int32Array(bytes.length);
  const to = new Int32Array(bytes.length);
  let unit = 0;
  for (let at = 0; at < bytes.length; ) {
    const { length, whole } = sequence(bytes, at);
    const units = whole && length === 4 ? 2 : 1;
    for (let i = at; i < at + length; i++) {
      from[i] = unit;
      to[i] = unit + units;
    }
    unit += units;
    at += length;
  }
  return { from, to };
}

/** The character at a byte, or the part of one that a decoder replaces at once (Unicode 15, table 3-7 and section 3.9). */
function sequence(bytes: Uint8Array, at: number): { length: number; whole: boolean } {
  const lead = bytes[at]!;
  if (lead < 0x80) return { length: 1, whole: true };
  const more =
    lead >= 0xc2 && lead <= 0xdf ? 1 : lead >= 0xe0 && lead <= 0xef ? 2 : lead >= 0xf0 && lead <= 0xf4 ? 3 : 0;
  let length = 1;
  for (; length <= more && at + length < bytes.length; length++) {
    const least = length > 1 ? 0x80 : lead === 0xe0 ? 0xa0 : lead === 0xf0 ? 0x90 : 0x80;
    const most = length > 1 ? 0xbf : lead === 0xed ? 0x9f : lead === 0xf4 ? 0x8f : 0xbf;
    const next = bytes[at + length]!;
    if (next < least || next > most) break;
  }
  return { length, whole: more > 0 && length === more + 1 };
}

/**
 * The tokens that hold any of the characters from start to end, as a range: the first, and the one behind the last. Empty
 * where there is none.
 *
 * @param spans as `spansOfTokens` or `encodeAligned` gives them
 */
export function tokensBetween(spans: Int32Array, start: number, end: number): { from: number; to: number } {
  const count = spans.length / 2;
  const holds = (i: number) => spans[2 * i]! < end && spans[2 * i + 1]! > start;
  let from = 0;
  while (from < count && !holds(from)) from++;
  let to = count;
  while (to > from && !holds(to - 1)) to--;
  return { from, to };
}
