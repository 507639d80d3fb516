/** Texts as vectors: the mean of a model's own hidden states over each text's tokens. */
import type { Vectors } from "../data/vectors.js";
import { CredenceError } from "../errors.js";
import type { Model } from "./model.js";
import type { Policy } from "./policy.js";

export interface PooledOptions {
  /** Depth that is read (0: embedding, k: after block k). Default: two thirds of the way. */
  layer?: number;
  signal?: AbortSignal;
  /** Told how many texts are done, as they are. */
  onDone?: (texts: number) => void;
}

/** Texts, and tokens, that go through the model together. */
export const pooledTogether = { texts: 256, tokens: 1 << 15 };

/** Two thirds of the way up: what a text means stands there rather than what comes next. */
export const pooledLayer = ({ info }: Pick<Model, "info">): number => Math.max(1, Math.round((info.layers * 2) / 3));

/**
 * The mean hidden state over each sequence but its first token: a sequence's first state is a hundred times as long as the
 * others and says nothing.
 *
 * @returns [sequences, hidden size]
 */
export async function pooledStates(
  policy: Policy,
  sequences: Int32Array[],
  layer: number,
  signal?: AbortSignal,
): Promise<Float32Array> {
  const spans = sequences.map((row, sequence) => ({ sequence, from: 1, to: row.length }));
  return (await policy.forward(sequences, { spans, collect: [layer] }, signal)).hidden!;
}

/**
 * One vector a text, behind one token that begins them all. Equal texts are read once, and a text's vector does not depend on
 * what is read beside it. A text without a token is a vector of zeros.
 *
 * @throws CredenceError "TOO_LONG" for a text that is longer than the context
 */
export async function pooledTexts(
  policy: Policy,
  texts: readonly string[],
  { layer = pooledLayer(policy.model), signal, onDone }: PooledOptions = {},
): Promise<Vectors> {
  const { tokenizer, info, stopTokens } = policy.model;
  const width = info.hiddenSize;
  const begin = tokenizer.bosId ?? stopTokens[0] ?? 0;
  const rowsOf = new Map<string, number[]>();
  texts.forEach((text, row) => {
    const rows = rowsOf.get(text);
    if (rows) rows.push(row);
    else rowsOf.set(text, [row]);
  });
  const distinct = [...rowsOf.keys()];
  const data = new Float32Array(texts.length * width);
  const read = async (batch: { text: string; tokens: Int32Array }[]) => {
    if (batch.length === 0) return;
    const states = await pooledStates(
      policy,
      batch.map(({ tokens }) => tokens),
      layer,
      signal,
    );
    batch.forEach(({ text }, i) => {
      for (const row of rowsOf.get(text)!) data.set(states.subarray(i * width, (i + 1) * width), row * width);
    });
  };
  for (let from = 0; from < distinct.length; from += pooledTogether.texts) {
    signal?.throwIfAborted();
    const some = distinct.slice(from, from + pooledTogether.texts);
    let batch: { text: string; tokens: Int32Array }[] = [];
    let held = 0;
    for (const [i, ids] of (await tokenizer.encodeBatch(some)).entries()) {
      const tokens = Int32Array.of(begin, ...ids);
      if (tokens.length > info.contextLength)
        throw new CredenceError(
          "TOO_LONG",
          `a text of ${tokens.length} tokens is longer than the context (${info.contextLength}): ${JSON.stringify(some[i]!.slice(0, 80))}`,
        );
      if (tokens.length === 1) continue;
      if (held + tokens.length > pooledTogether.tokens) {
        await read(batch);
        batch = [];
        held = 0;
      }
      batch.push({ text: some[i]!, tokens });
      held += tokens.length;
    }
    await read(batch);
    onDone?.(some.reduce((sum, text) => sum + rowsOf.get(text)!.length, 0));
  }
  return { data, count: texts.length, width };
}
