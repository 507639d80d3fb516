/** Opens a model that judges, here or on a server, with the database that keeps its answers; and what is recorded of it. */
import type { Addon, BaseOptions } from "../../native.js";
import { Model } from "../../policy/model.js";
import { AnswerStore } from "../../remote/answer-store.js";
import { ChatServer, type ServerOptions, type ServerUsage, type Spent } from "../../remote/chat-server.js";
import { localResponder, type Responder, serverResponder } from "./responder.js";

/** How a server is asked: none of it changes what a judge says. */
export type JudgeServer = Pick<
  ServerOptions,
  "keyVariable" | "apiVersion" | "concurrency" | "timeout" | "retries" | "price"
>;

export interface ResponderOptions extends JudgeServer {
  /** A model of this machine, or with `url` a server's. */
  model: string;
  /** The same model of this machine where it is loaded already: it stays its owner's to dispose of. */
  loaded?: Model;
  /** Where a server's OpenAI interface begins. */
  url?: string;
  engine?: BaseOptions;
  addon?: Pick<Addon, "openBase">;
  /** Longest reply, in tokens. */
  maxTokens: number;
  /** Whether a reply without a word is one. */
  mayBeEmpty: boolean;
  /** Of a model of this machine. Default 1: none. */
  repetitionPenalty?: number;
  /** Folder of the database that keeps its answers. Without it they are lost with the process. */
  answers?: string;
  /** Told what a person should know; of a server each call that has to be tried again. */
  note?: (line: string, level?: "warn") => void;
  signal?: AbortSignal;
}

/** A model that answers a judge's requests, opened; disposing of it closes what it holds. */
export interface OpenResponder extends AsyncDisposable {
  responder: Responder;
  server?: ChatServer;
  /** Of a model of this machine: SHA-256 of its weights. */
  sha256?: string;
}

/** @throws CredenceError "USAGE", "NO_MODEL" or "STORE" where the server, the model or the database cannot be opened */
export async function openResponder(options: ResponderOptions): Promise<OpenResponder> {
  const { maxTokens, mayBeEmpty, repetitionPenalty, url, loaded, note, signal } = options;
  const answers = options.answers === undefined ? undefined : await AnswerStore.open(options.answers);
  try {
    if (url !== undefined) {
      const { model, keyVariable, apiVersion, concurrency, timeout, retries, price } = options;
      const asked = { url, model, keyVariable, apiVersion, concurrency, timeout, retries, price };
      const server = new ChatServer({ ...asked, answers, note: (line) => note?.(line, "warn") });
      const responder = serverResponder(server, { maxTokens, mayBeEmpty });
      return { responder, server, [Symbol.asyncDispose]: async () => answers?.[Symbol.asyncDispose]() };
    }
    const { engine, addon } = options;
    const model = loaded ?? (await Model.load(options.model, { ...engine, engine: addon, note, signal }));
    const policy = await model.policy();
    return {
      responder: localResponder(policy, { maxTokens, repetitionPenalty, answers }),
      sha256: model.sha256,
      async [Symbol.asyncDispose]() {
        await policy.dispose();
        if (!loaded) await model.dispose();
        await answers?.[Symbol.asyncDispose]();
      },
    };
  } catch (error) {
    await answers?.[Symbol.asyncDispose]();
    throw error;
  }
}

/** What judged, and what its answers cost in all, whenever they were paid for. */
export interface JudgeRecord {
  judge: string;
  /** Of a server. */
  url?: string;
  /** Requests that differ, and their tokens; null as cost where no price was given. */
  requests?: number;
  input_tokens?: number;
  output_tokens?: number;
  cost?: number | null;
  /** Answers that came without a count of tokens. */
  uncounted?: number;
}

/** @param spent what is recorded. Default: on what was asked of the server in this process, whenever it was paid for */
export function judgeRecord(
  judge: { name: string },
  server: ChatServer | undefined,
  spent?: Spent & Pick<ServerUsage, "uncounted">,
): JudgeRecord {
  if (!server) return { judge: judge.name };
  const { requests, inputTokens, outputTokens, cost, uncounted } = spent ?? {
    ...server.usage.all,
    uncounted: server.usage.uncounted,
  };
  return {
    judge: judge.name,
    url: server.url,
    requests,
    input_tokens: inputTokens,
    output_tokens: outputTokens,
    cost,
    uncounted,
  };
}
