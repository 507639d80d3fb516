/**
 * Chat completions of any server that speaks OpenAI's interface. A call is paid for, so an answer is on the disk before
 * anything uses it, and is never asked for twice; calls run beside each other up to a limit; what may pass is tried again.
 */
import type { Message } from "../text/chat.js";
import { type AnswerStore, answerKey, type StoredReply } from "./answer-store.js";
import { type ReadReply, type ServerCallOptions, ServerCalls } from "./server-calls.js";

export interface ServerOptions extends ServerCallOptions {
  /** Of a million tokens, read and written, in any currency. */
  price?: { input: number; output: number };
  /** Where answers are kept. Without it they are lost with the process. */
  answers?: AnswerStore;
}

export interface CompletionSettings {
  temperature?: number;
  topP?: number;
  maxTokens?: number;
  stop?: string[];
  seed?: number;
  /** Which of several answers to the same request this is. Default 0. */
  draw?: number;
  /** Whether a reply without a word may be used. Default false: it counts as one that cannot be. */
  mayBeEmpty?: boolean;
}

export interface CallOptions {
  /** Once aborted no call begins, and calls in flight have five more seconds: their answers would be paid for and lost. */
  signal?: AbortSignal;
}

/** Requests that differ, with the tokens they took. */
export interface Spent {
  requests: number;
  inputTokens: number;
  outputTokens: number;
  /** In the price's currency; null where no price was given. */
  cost: number | null;
}

export interface ServerUsage {
  /** Answers that were paid for now. */
  paid: Spent;
  /** Answers that had been paid for before, at what they would cost now. */
  kept: Spent;
  /** Both: what the answers that were used cost, whenever they were paid for. */
  all: Spent;
  /** Replies that were paid for now and could not be used. */
  wasted: Spent;
  /** HTTP requests sent, and how many of them because one before had failed. */
  calls: number;
  retries: number;
  /** Answers that came without a count of tokens. */
  uncounted: number;
}

export class ChatServer {
  private readonly calls: ServerCalls;
  private readonly price: ServerOptions["price"];
  private readonly answers: AnswerStore | undefined;
  private readonly tally = { paid: blank(), kept: blank(), wasted: blank(), uncounted: 0 };
  /** Requests that were counted. */
  private readonly counted = new Set<string>();
  private readonly inFlight = new Map<string, Promise<StoredReply>>();

  /** @throws CredenceError "USAGE" for a URL that is none, or a key's variable that is not set */
  constructor({ price, answers, ...options }: ServerOptions) {
    this.price = price;
    this.answers = answers;
    this.calls = new ServerCalls(options, {
      path: "chat/completions",
      kind: "a chat model",
      doing: "a server was asked; what it answered is kept",
      next: answers ? "Started again, it goes on from what was answered" : "Name a folder for answers to keep them",
    });
  }

  get url(): string {
    return this.calls.url;
  }

  get model(): string {
    return this.calls.model;
  }

  get concurrency(): number {
    return this.calls.concurrency;
  }

  /** What was asked and paid for so far. */
  get usage(): ServerUsage {
    const { paid, kept, wasted, ...rest } = this.tally;
    const all = { ...paid };
    all.requests += kept.requests;
    add(all, { input: kept.inputTokens, output: kept.outputTokens });
    const priced = (spent: Omit<Spent, "cost">) => this.priced(spent);
    const { calls, retries } = this.calls;
    return {
      ...rest,
      calls,
      retries,
      paid: priced(paid),
      kept: priced(kept),
      all: priced(all),
      wasted: priced(wasted),
    };
  }

  /**
   * What every answer of this model that is kept cost, whichever process asked for it and whether or not it was used now;
   * without a database, `usage.all`.
   */
  async spent(): Promise<Spent & Pick<ServerUsage, "uncounted">> {
    const { answers } = this;
    if (!answers) return { ...this.usage.all, uncounted: this.tally.uncounted };
    const spent = { ...blank(), uncounted: 0 };
    for await (const { from, usage } of answers.all()) {
      if (from !== this.name) continue;
      spent.requests += 1;
      if (usage) add(spent, usage);
      else spent.uncounted += 1;
    }
    return { ...spent, ...this.priced(spent) };
  }

  /** As the answers that it was paid for are marked. */
  private get name(): string {
    return `${this.model} at ${this.url}`;
  }

  /**
   * The reply to a conversation: a kept one where there is one, else the server's. Equal requests are one call.
   *
   * @throws CredenceError "SERVER_REFUSED" for what trying again does not change, "SERVER_FAILED" where no try got
   *   through, "BAD_REPLY" where replies came and none could be used, "ABORTED"
   */
  async complete(
    messages: readonly Message[],
    settings: CompletionSettings = {},
    { signal }: CallOptions = {},
  ): Promise<StoredReply> {
    const body = {
      model: this.model,
      messages: messages.map(({ role, content }) => ({ role, content })),
      temperature: settings.temperature,
      top_p: settings.topP,
      max_tokens: settings.maxTokens,
      stop: settings.stop,
      seed: settings.seed,
    };
    const key = answerKey(this.url, body, settings.draw ?? 0);
    for (;;) {
      const other = this.inFlight.get(key);
      if (!other) break;
      try {
        return await other;
      } catch (error) {
        // The other caller gave up; this one did not.
        if ((error as { code?: unknown }).code !== "ABORTED" || signal?.aborted) throw error;
      }
    }
    const work = this.keptOrAsked(key, body, settings.mayBeEmpty ?? false, signal);
    this.inFlight.set(key, work);
    try {
      return await work;
    } finally {
      this.inFlight.delete(key);
    }
  }

  private async keptOrAsked(
    key: string,
    body: unknown,
    mayBeEmpty: boolean,
    signal?: AbortSignal,
  ): Promise<StoredReply> {
    const kept = await this.answers?.get(key);
    if (kept && (mayBeEmpty || !isEmpty(kept))) {
      this.count(key, "kept", kept);
      return kept;
    }
    return this.calls.post(
      body,
      (value) => this.read(value, mayBeEmpty),
      async (reply) => {
        await this.answers?.put(key, { ...reply, from: this.name });
        this.count(key, "paid", reply);
      },
      signal,
    );
  }

  /** What a server said with HTTP 200. */
  private read(value: unknown, mayBeEmpty: boolean): ReadReply<StoredReply> {
    const { usage: told, choices } = (value ?? {}) as Partial<Completion>;
    const usage = usageOf(told);
    const choice = Array.isArray(choices) ? choices[0] : undefined;
    const content = choice?.message?.content;
    const reply: StoredReply | undefined =
      typeof content === "string" || (content === null && mayBeEmpty)
        ? {
            text: content ?? "",
            finish: choice?.finish_reason === "length" ? "length" : "stop",
            ...(usage && { usage }),
          }
        : undefined;
    if (reply && (mayBeEmpty || !isEmpty(reply))) return { reply };
    this.tally.wasted.requests += 1;
    if (usage) add(this.tally.wasted, usage);
    if (!choice) return { unusable: "the reply has no choices" };
    if (!choice.message || content === undefined) return { unusable: "the reply's choice has no message" };
    const cut = choice.finish_reason === "length" ? ", cut off before its first word: allow it more tokens" : "";
    return { unusable: `the reply is empty${cut}` };
  }

  private count(key: string, where: "paid" | "kept", { usage }: StoredReply): void {
    if (this.counted.has(key)) return;
    this.counted.add(key);
    this.tally[where].requests += 1;
    if (usage) add(this.tally[where], usage);
    else this.tally.uncounted += 1;
  }

  private priced(spent: Omit<Spent, "cost">): Spent {
    const { price } = this;
    const cost = price ? (spent.inputTokens * price.input + spent.outputTokens * price.output) / 1e6 : null;
    return { ...spent, cost };
  }
}

/** The parts of a completion that are read. */
interface Completion {
  choices: { message?: { content?: string | null }; finish_reason?: string }[];
  usage: { prompt_tokens?: unknown; completion_tokens?: unknown } | null;
}

const blank = (): Omit<Spent, "cost"> => ({ requests: 0, inputTokens: 0, outputTokens: 0 });
const isEmpty = ({ text }: StoredReply): boolean => text.trim() === "";

function add(spent: Omit<Spent, "cost">, { input, output }: NonNullable<StoredReply["usage"]>): void {
  spent.inputTokens += input;
  spent.outputTokens += output;
}

function usageOf(usage: Completion["usage"] | undefined): StoredReply["usage"] {
  const { prompt_tokens: input, completion_tokens: output } = usage ?? {};
  return Number.isSafeInteger(input) && Number.isSafeInteger(output)
    ? { input: input as number, output: output as number }
    : undefined;
}
