/** Who answers a judge's requests: a server, or a model of this machine. */
import { createHash } from "node:crypto";
import { CredenceError } from "../../errors.js";
import type { Policy } from "../../policy/policy.js";
import { type AnswerStore, answerKey, type StoredReply } from "../../remote/answer-store.js";
import type { ChatServer } from "../../remote/chat-server.js";
import { inOrder } from "../../remote/in-order.js";

export interface Responder {
  /** The model, as records name it. */
  readonly name: string;
  /**
   * One reply to each request, in their order, each put as a user's turn and answered with the likeliest tokens. A reply
   * may be empty.
   */
  replies(
    requests: Iterable<string> | AsyncIterable<string>,
    signal?: AbortSignal,
  ): AsyncGenerator<StoredReply, void, undefined>;
  /** What the model reads of a request, as far as that is known: a server puts it into its template itself. */
  prompt(request: string): string;
}

export interface ResponderOptions {
  /** Longest reply, in tokens. Default 64. */
  maxTokens?: number;
  /** Whether a reply without a word is one. Default false: a server is asked again, and then it is an error. */
  mayBeEmpty?: boolean;
}

/** A server's model. Requests that are equal are asked once. */
export function serverResponder(
  server: ChatServer,
  { maxTokens = 64, mayBeEmpty = false }: ResponderOptions = {},
): Responder {
  const settings = { temperature: 0, maxTokens, mayBeEmpty };
  return {
    name: server.model,
    replies: (requests, signal) =>
      inOrder(
        requests,
        4 * server.concurrency,
        (content, stop) => server.complete([{ role: "user", content }], settings, { signal: stop }),
        signal,
      ),
    prompt: (request) => request,
  };
}

export interface LocalOptions extends ResponderOptions {
  /** Requests answered together. Default 64. */
  batch?: number;
  /** Default 1: none. */
  repetitionPenalty?: number;
  /** Where replies are kept, so that work that was stopped goes on from there. */
  answers?: AnswerStore;
}

/** A policy of this machine. Requests of a batch that are equal are answered once. */
export function localResponder(
  policy: Policy,
  { maxTokens = 64, batch = 64, repetitionPenalty = 1, answers }: Omit<LocalOptions, "mayBeEmpty"> = {},
): Responder {
  const settings = { temperature: 0, maxNewTokens: maxTokens, repetitionPenalty };
  const identity = answers && whoAnswers(policy);
  async function* answered(requests: readonly string[], signal?: AbortSignal) {
    const keys = new Map(requests.map((request) => [request, answerKey(identity, request, settings)]));
    const replies = new Map<string, StoredReply>();
    for (const [request, key] of answers ? keys : []) {
      const kept = await answers!.get(key);
      if (kept) replies.set(request, kept);
    }
    const open = [...keys.keys()].filter((request) => !replies.has(request));
    const made: [string, StoredReply][] = [];
    const conversations = open.map((content) => [{ role: "user", content }]);
    for await (const { prompt, text, finish } of policy.generate(conversations, { ...settings, signal })) {
      const reply = { text, finish };
      replies.set(open[prompt]!, reply);
      made.push([keys.get(open[prompt]!)!, reply]);
    }
    if (made.length !== open.length) throw new CredenceError("ABORTED", "stopped while judging");
    if (made.length > 0) await answers?.putAll(made);
    for (const request of requests) yield replies.get(request)!;
  }
  return {
    name: policy.model.name,
    async *replies(requests, signal) {
      let together: string[] = [];
      for await (const request of requests) {
        together.push(request);
        if (together.length < batch) continue;
        yield* answered(together, signal);
        together = [];
      }
      yield* answered(together, signal);
    },
    prompt: (request) => policy.model.promptText(request),
  };
}

/** What a policy's answers depend on beside what it is asked. */
export function whoAnswers({ model, native, hasAdapter, hasWeights }: Policy): unknown {
  const hash = createHash("sha256");
  const { weights, adapter } = hasAdapter || hasWeights ? native.tensors() : { weights: [], adapter: [] };
  for (const { name, data } of [...weights, ...adapter]) hash.update(name).update(data);
  const { dtype, isa } = model.info;
  return [model.sha256, model.tokenizer.chatTemplate ?? null, dtype, isa, hash.digest("hex")];
}
