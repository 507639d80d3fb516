/** Embeddings of answered questions: a model's own state at a text's last token, or a server's. */
import { join } from "node:path";
import { npyRows, openNpy, type Vectors } from "../../data/vectors.js";
import { CredenceError } from "../../errors.js";
import { writeFileAtomic } from "../../files.js";
import type { Policy } from "../../policy/policy.js";
import { type AnsweredRow, textOf, textTokens } from "./wire.js";

/** Beside the rows of a split. */
export const embeddingName = "embedding.npy";

/** What is embedded: the question with its answer. */
export const embeddedText = (row: AnsweredRow): string => textOf(row, row.output);

/** Tokens of a pass at most; one text may be longer. */
const passTokens = 4096;

/**
 * The state of each text's last token, after the last norm unless another depth is named.
 *
 * @returns [texts, hidden size]
 * @throws CredenceError "TOO_LONG"
 */
export async function stateEmbeddings(
  policy: Policy,
  texts: readonly string[],
  {
    depth = policy.model.info.layers,
    adapter = "on",
    signal,
    onEmbedded,
  }: {
    depth?: number;
    adapter?: "on" | "off";
    signal?: AbortSignal;
    onEmbedded?: (texts: number, tokens: number) => void;
  } = {},
): Promise<Vectors> {
  const { model } = policy;
  const { hiddenSize: width, contextLength } = model.info;
  const tokens = await Promise.all(texts.map((text) => textTokens(model, text)));
  const long = tokens.findIndex((row) => row.length > contextLength);
  if (long >= 0)
    throw new CredenceError(
      "TOO_LONG",
      `text ${long + 1} is ${tokens[long]!.length} tokens, longer than the context (${contextLength})`,
    );
  const data = new Float32Array(texts.length * width);
  for (let from = 0; from < tokens.length; ) {
    let to = from;
    let sum = 0;
    do sum += tokens[to++]!.length;
    while (to < tokens.length && sum + tokens[to]!.length <= passTokens);
    const some = tokens.slice(from, to);
    const spans = some.map((row, sequence) => ({ sequence, from: row.length - 1, to: row.length }));
    const { hidden } = await policy.forward(some, { spans, collect: [depth], adapter: adapter === "on" }, signal);
    data.set(hidden!, from * width);
    onEmbedded?.(some.length, sum);
    from = to;
  }
  return { data, count: texts.length, width };
}

/** Writes a split's embeddings, whole or not at all. */
export function writeEmbeddings(folder: string, vectors: Vectors): string {
  const path = join(folder, embeddingName);
  writeFileAtomic(path, npyRows(vectors));
  return path;
}

/**
 * The embeddings beside a split's rows.
 *
 * @throws CredenceError "NO_FILE"; "BAD_INPUT" where they are not as many as the rows
 */
export function readEmbeddings(folder: string, rows: number): Vectors {
  const path = join(folder, embeddingName);
  const file = openNpy(path);
  if (file.rows !== rows)
    throw new CredenceError(
      "BAD_INPUT",
      `${path}: has ${file.rows} rows, the split's files ${rows}. Embed the split again`,
    );
  return file.read(0, rows);
}
