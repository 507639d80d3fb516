/** Embeddings of texts from any server that speaks OpenAI's interface. */
import { z } from "zod";
import { CredenceError } from "../errors.js";

export interface EmbeddingServer {
  /** Where its interface begins, e.g. "http://localhost:8000/v1". */
  url: string;
  /** The model's name there. */
  model: string;
  /** Name of the environment variable that holds the key, where one is needed. */
  keyVariable?: string;
  /** Texts of a call. Default 64. */
  batch?: number;
  /** Seconds until a call is given up. Default 120. */
  timeout?: number;
  /** How often a call is tried again after 429, 5xx or a failure of the network. Default 10. */
  retries?: number;
  /** Seconds before each further try. Default 1. */
  wait?: number;
  /** Told of each call that has to be tried again. */
  note?: (line: string) => void;
}

const replySchema = z.looseObject({
  data: z.array(z.looseObject({ index: z.int().min(0), embedding: z.array(z.number()) })),
});

/** Whether a call that failed may be tried again, and why it failed. */
type Outcome = { vectors: number[][] } | { why: string; again: boolean };

async function call(
  server: EmbeddingServer,
  key: string | undefined,
  texts: readonly string[],
  signal?: AbortSignal,
): Promise<Outcome> {
  const { url, model, timeout = 120 } = server;
  const limit = AbortSignal.timeout(1000 * timeout);
  try {
    const response = await fetch(`${url.replace(/\/+$/, "")}/embeddings`, {
      method: "POST",
      headers: { "content-type": "application/json", ...(key ? { authorization: `Bearer ${key}` } : {}) },
      body: JSON.stringify({ model, input: texts, encoding_format: "float" }),
      signal: signal ? AbortSignal.any([signal, limit]) : limit,
    });
    const text = await response.text();
    if (!response.ok)
      return {
        why: `it answered ${response.status}: ${text.slice(0, 200)}`,
        again: response.status === 429 || response.status >= 500,
      };
    const parsed = replySchema.safeParse(JSON.parse(text));
    const vectors: number[][] = [];
    for (const { index, embedding } of parsed.data?.data ?? []) vectors[index] = embedding;
    if (vectors.length !== texts.length || vectors.some((vector) => vector === undefined))
      return { why: `it did not answer with ${texts.length} embeddings: ${text.slice(0, 200)}`, again: false };
    return { vectors };
  } catch (error) {
    signal?.throwIfAborted();
    return { why: (error as Error).message, again: !(error instanceof SyntaxError) };
  }
}

/**
 * Embeddings of texts, in their order, a call's at a time.
 *
 * @throws CredenceError "SERVER" with what the server said, where a call fails for good
 */
export async function* serverEmbeddings(
  server: EmbeddingServer,
  texts: readonly string[],
  signal?: AbortSignal,
): AsyncGenerator<number[][], void, undefined> {
  const { url, keyVariable, batch = 64, retries = 10, wait = 1, note } = server;
  if (!URL.canParse(url) || !/^https?:$/.test(new URL(url).protocol))
    throw new CredenceError(
      "USAGE",
      `${url} is not where a server is; expected a URL such as http://localhost:8000/v1`,
    );
  const key = keyVariable === undefined ? undefined : process.env[keyVariable];
  if (keyVariable !== undefined && !key)
    throw new CredenceError("USAGE", `the environment variable ${keyVariable}, which is to hold the key, is not set`);
  for (let from = 0; from < texts.length; from += batch) {
    const some = texts.slice(from, from + batch);
    for (let left = retries; ; left -= 1) {
      const outcome = await call(server, key, some, signal);
      if ("vectors" in outcome) {
        yield outcome.vectors;
        break;
      }
      if (!outcome.again || left <= 0) throw new CredenceError("SERVER", `${url}: ${outcome.why}`);
      note?.(`${url}: ${outcome.why}; trying again`);
      await new Promise((resume) => setTimeout(resume, 1000 * wait));
    }
  }
}
