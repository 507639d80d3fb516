/** A judge as commands name it: by strings, a model of this machine, or a server's model. */
import type { Options } from "yargs";
import type { Responder } from "../evaluation/judges/responder.js";
import type { BaseOptions } from "../native.js";
import type { ChatServer, ServerUsage } from "../remote/chat-server.js";
import { positiveInteger } from "./options.js";
import { note, UsageError } from "./output.js";

/** A server and what may be asked of it. */
export const serverOptions = {
  url: {
    type: "string",
    requiresArg: true,
    describe: "Where a server's OpenAI interface begins, e.g. http://localhost:8000/v1",
  },
  "key-variable": {
    type: "string",
    requiresArg: true,
    describe: "Environment variable that holds the server's key",
  },
  concurrency: {
    type: "number",
    default: 8,
    describe: "Calls to the server at a time",
    coerce: positiveInteger("concurrency"),
  },
  timeout: { type: "number", default: 120, describe: "Seconds until a call is given up, at most 300" },
  retries: { type: "number", default: 6, describe: "Further tries of a call after 429, 5xx or a lost connection" },
  "price-in": { type: "number", describe: "Price of a million tokens that the server reads; tells the cost" },
  "price-out": { type: "number", describe: "Price of a million tokens that it writes" },
  answers: {
    type: "string",
    requiresArg: true,
    describe: "Folder of the database that keeps a judge's answers [default: the output's name with .answers]",
  },
} satisfies Record<string, Options>;

export interface ServerArguments {
  url?: string;
  keyVariable?: string;
  concurrency: number;
  timeout: number;
  retries: number;
  priceIn?: number;
  priceOut?: number;
  answers?: string;
}

export interface ResponderArguments extends ServerArguments {
  /** A model of this machine, or with `url` a server's. */
  model: string;
  engine: BaseOptions;
  /** Longest reply, in tokens. */
  maxTokens: number;
  mayBeEmpty: boolean;
  repetitionPenalty?: number;
  signal: AbortSignal;
}

/** A model that answers a judge's requests, opened; disposing of it closes what it holds. */
export interface OpenResponder extends AsyncDisposable {
  responder: Responder;
  server?: ChatServer;
}

/** Opens the model that judges, with the database that keeps its answers. */
export async function openResponder(args: ResponderArguments): Promise<OpenResponder> {
  const { AnswerStore } = await import("../remote/answer-store.js");
  const { localResponder, serverResponder } = await import("../evaluation/judges/responder.js");
  const { maxTokens, mayBeEmpty, repetitionPenalty, signal } = args;
  const answers = args.answers === undefined ? undefined : await AnswerStore.open(args.answers);
  try {
    if (args.url !== undefined) {
      const { ChatServer } = await import("../remote/chat-server.js");
      const told = (line: string) => note(line, "warn");
      const server = new ChatServer({ ...checkServer(args), model: args.model, answers, note: told });
      const responder = serverResponder(server, { maxTokens, mayBeEmpty });
      return { responder, server, [Symbol.asyncDispose]: async () => answers?.[Symbol.asyncDispose]() };
    }
    const { Model } = await import("../policy/model.js");
    const model = await Model.load(args.model, { ...args.engine, note, signal });
    const responder = localResponder(await model.policy(), { maxTokens, repetitionPenalty, answers });
    return {
      responder,
      async [Symbol.asyncDispose]() {
        await model.dispose();
        await answers?.[Symbol.asyncDispose]();
      },
    };
  } catch (error) {
    await answers?.[Symbol.asyncDispose]();
    throw error;
  }
}

function checkServer({ url, keyVariable, concurrency, timeout, retries, priceIn, priceOut }: ServerArguments) {
  if ((priceIn === undefined) !== (priceOut === undefined))
    throw new UsageError("give both --price-in and --price-out, or neither");
  for (const [name, value] of Object.entries({ "price-in": priceIn, "price-out": priceOut, retries }))
    if (value !== undefined && !(value >= 0)) throw new UsageError(`--${name} ${value}: expected a number from 0`);
  const price = priceIn === undefined ? undefined : { input: priceIn, output: priceOut! };
  return { url: url!, keyVariable, concurrency, timeout, retries, price };
}

/** What the server was asked and paid for, in a line. */
export function usageLine({ paid, kept, wasted, retries, uncounted }: ServerUsage): string {
  const grouped = (value: number) => value.toLocaleString("en-US");
  const cost = (value: number | null) => (value === null ? "" : `, cost ${value.toFixed(4)}`);
  return [
    `${grouped(paid.requests)} requests paid (${grouped(paid.inputTokens)} tokens in, ${grouped(paid.outputTokens)} out${cost(paid.cost)})`,
    ...(kept.requests ? [`${grouped(kept.requests)} answered before${cost(kept.cost)}`] : []),
    ...(wasted.requests ? [`${grouped(wasted.requests)} replies paid in vain${cost(wasted.cost)}`] : []),
    ...(retries ? [`${grouped(retries)} tried again`] : []),
    ...(uncounted ? [`${grouped(uncounted)} without a count of tokens`] : []),
  ].join("; ");
}

/** What judged, and what its answers cost in all, whenever they were paid for. */
export function judgeRecord(judge: { name: string }, server: ChatServer | undefined): Record<string, unknown> {
  if (!server) return { judge: judge.name };
  const { all, uncounted } = server.usage;
  return {
    judge: judge.name,
    url: server.url,
    requests: all.requests,
    input_tokens: all.inputTokens,
    output_tokens: all.outputTokens,
    cost: all.cost,
    uncounted,
  };
}
