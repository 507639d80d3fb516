/** Embeddings of any server that speaks OpenAI's interface: texts in, one vector a text back, in the texts' order. */
import { joinVectors, type Vectors } from "../data/vectors.js";
import { inOrder } from "./in-order.js";
import { type ReadReply, type ServerCallOptions, ServerCalls } from "./server-calls.js";

export interface EmbeddingsOptions extends ServerCallOptions {
  /** Texts of one call. Default 128. */
  batch?: number;
}

export class EmbeddingsServer {
  private readonly calls: ServerCalls;
  private readonly batch: number;

  /** @throws CredenceError "USAGE" for a URL that is none, or a key's variable that is not set */
  constructor({ batch = 128, ...options }: EmbeddingsOptions) {
    this.batch = batch;
    this.calls = new ServerCalls(options, {
      path: "embeddings",
      kind: "an embedding model",
      doing: "a server was asked for embeddings",
      next: "Start again later",
    });
  }

  /** As records name it. */
  get name(): string {
    return `${this.calls.model} at ${this.calls.url}`;
  }

  /** HTTP requests sent, and how many of them because one before had failed. */
  get usage(): { calls: number; retries: number } {
    const { calls, retries } = this.calls;
    return { calls, retries };
  }

  /**
   * One vector a text, as the server gives it. Texts that are equal are asked for once.
   *
   * @throws CredenceError "SERVER_REFUSED" for what trying again does not change, "SERVER_FAILED" where no try got through,
   *   "BAD_REPLY" where what came are not as many vectors of finite numbers, "ABORTED"
   */
  async embed(texts: readonly string[], signal?: AbortSignal): Promise<Vectors> {
    const places = new Map<string, number>();
    for (const text of texts) if (!places.has(text)) places.set(text, places.size);
    const distinct = [...places.keys()];
    const batches = Array.from({ length: Math.ceil(distinct.length / this.batch) }, (_, i) =>
      distinct.slice(i * this.batch, (i + 1) * this.batch),
    );
    const parts: Vectors[] = [];
    const ask = (input: string[], stop: AbortSignal) =>
      this.calls.post(
        { model: this.calls.model, input, encoding_format: "float" },
        (value) => read(value, input.length),
        async () => {},
        stop,
      );
    for await (const part of inOrder(batches, 2 * this.calls.concurrency, ask, signal)) parts.push(part);
    const { data, width } = joinVectors(parts, this.name);
    const out = new Float32Array(texts.length * width);
    texts.forEach((text, row) => {
      const from = places.get(text)! * width;
      out.set(data.subarray(from, from + width), row * width);
    });
    return { data: out, count: texts.length, width };
  }
}

/** A reply's vectors, by the index that each says it has: servers need not keep the order. */
function read(value: unknown, count: number): ReadReply<Vectors> {
  const { data: listed } = (value ?? {}) as { data?: unknown };
  if (!Array.isArray(listed)) return { unusable: "the reply has no list of vectors (data)" };
  if (listed.length !== count) return { unusable: `the reply has ${listed.length} vectors for ${count} texts` };
  const rows = new Array<number[] | undefined>(count).fill(undefined);
  for (const [place, item] of listed.entries()) {
    const { index = place, embedding } = (item ?? {}) as { index?: unknown; embedding?: unknown };
    if (!Array.isArray(embedding) || embedding.length === 0 || !embedding.every((one) => Number.isFinite(one)))
      return { unusable: "the reply has a vector that is no list of numbers" };
    if (!Number.isInteger(index) || !((index as number) in rows) || rows[index as number])
      return { unusable: `the reply has a vector of text ${String(index)}, twice or beyond the ${count} asked for` };
    rows[index as number] = embedding as number[];
  }
  const width = rows[0]!.length;
  if (rows.some((row) => row!.length !== width)) return { unusable: "the reply has vectors of different lengths" };
  return { reply: { data: Float32Array.from(rows.flatMap((row) => row!)), count, width } };
}
