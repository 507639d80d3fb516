/** A judge as commands name it: by strings, a model of this machine, or a server's model. */
import type { Options } from "yargs";
import type { JudgeServer, OpenResponder } from "../evaluation/judges/open.js";
import type { BaseOptions } from "../native.js";
import type { ServerUsage } from "../remote/chat-server.js";
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

const { url: _, ...asked } = serverOptions;
/** The same for commands whose recipe names the server. */
export const judgingOptions = {
  ...asked,
  answers: {
    ...asked.answers,
    describe: "Folder of the database that keeps the judge's answers [default: judge.answers in the run's folder]",
  },
} satisfies Record<string, Options>;

export interface ServerArguments {
  url?: string;
  keyVariable?: string;
  /** Of a deployment on Azure. */
  apiVersion?: string;
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

/** Opens the model that judges, as a command line names it. */
export async function openResponder(args: ResponderArguments): Promise<OpenResponder> {
  const { openResponder: open } = await import("../evaluation/judges/open.js");
  const { model, url, engine, maxTokens, mayBeEmpty, repetitionPenalty, answers, signal } = args;
  const asked = { model, url, engine, maxTokens, mayBeEmpty, repetitionPenalty, answers };
  return open({ ...asked, ...judgeServer(args), note, signal });
}

/** How a server is asked. */
export function judgeServer({
  keyVariable,
  apiVersion,
  concurrency,
  timeout,
  retries,
  priceIn,
  priceOut,
}: Partial<ServerArguments>): JudgeServer {
  if ((priceIn === undefined) !== (priceOut === undefined))
    throw new UsageError("give both --price-in and --price-out, or neither");
  for (const [name, value] of Object.entries({ "price-in": priceIn, "price-out": priceOut, retries }))
    if (value !== undefined && !(value >= 0)) throw new UsageError(`--${name} ${value}: expected a number from 0`);
  const price = priceIn === undefined ? undefined : { input: priceIn, output: priceOut! };
  return { keyVariable, apiVersion, concurrency, timeout, retries, price };
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
