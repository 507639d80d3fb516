/**
 * Chat completions of any server that speaks OpenAI's interface. A call is paid for, so an answer is on the disk before
 * anything uses it, and is never asked for twice; calls run beside each other up to a limit; what may pass is tried again.
 */
import { CredenceError } from "../errors.js";
import type { Message } from "../text/chat.js";
import { type AnswerStore, answerKey, type StoredReply } from "./answer-store.js";

export interface ServerOptions {
  /** Where its interface begins, e.g. "http://localhost:8000/v1". */
  url: string;
  /** The model's name there. */
  model: string;
  /** Name of the environment variable that holds the key, where one is needed. The key is told to nobody else. */
  keyVariable?: string;
  /**
   * The version of Azure's interface, where the URL is that of a deployment there ("https://<name>/openai/deployments/<name>"):
   * it is asked for by it, and the key stands in Azure's header. Default: any other server.
   */
  apiVersion?: string;
  /** Calls in flight at a time. Default 8. */
  concurrency?: number;
  /** Seconds until a call is given up, at most 300. Default 120. */
  timeout?: number;
  /** How often a call is tried again after 429, 5xx or a failure of the network. Default 6. */
  retries?: number;
  /** How often a call is tried again after a reply that cannot be used: it was paid for. Default 2. */
  badReplies?: number;
  /** Seconds before the first further try, doubled each time up to the longest. Default 1 and 60. */
  backoff?: { first: number; longest: number };
  /** Of a million tokens, read and written, in any currency. */
  price?: { input: number; output: number };
  /** Where answers are kept. Without it they are lost with the process. */
  answers?: AnswerStore;
  /** Told of each call that has to be tried again. */
  note?: (line: string) => void;
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

const graceSeconds = 5;
/** A server that asks for a longer wait than this, in seconds, has to be come back to. */
const longestAsked = 600;
const longestTimeout = 300;

/** Why a call failed, and whether and when it may be tried again. */
interface Failure {
  kind: "passing" | "unusable" | "refused";
  why: string;
  /** Seconds the server asks to wait. */
  after?: number;
}

type Outcome = { reply: StoredReply } | Failure;

export class ChatServer {
  readonly url: string;
  readonly model: string;
  private readonly options: Required<Omit<ServerOptions, "keyVariable" | "apiVersion" | "price" | "answers" | "note">> &
    Pick<ServerOptions, "apiVersion" | "price" | "answers" | "note">;
  private readonly key: string | undefined;
  private readonly tally = { paid: blank(), kept: blank(), wasted: blank(), calls: 0, retries: 0, uncounted: 0 };
  /** Requests that were counted. */
  private readonly counted = new Set<string>();
  private readonly inFlight = new Map<string, Promise<StoredReply>>();
  private readonly waiting: (() => void)[] = [];
  private running = 0;
  /** No call begins before; performance.now() of when the server wants to be asked again. */
  private notBefore = 0;

  /** @throws CredenceError "USAGE" for a URL that is none, or a key's variable that is not set */
  constructor(options: ServerOptions) {
    const { url, model, keyVariable } = options;
    if (!URL.canParse(url) || !/^https?:$/.test(new URL(url).protocol))
      throw new CredenceError(
        "USAGE",
        `${url} is not where a server is; expected a URL such as http://localhost:8000/v1`,
      );
    this.url = url.replace(/\/+$/, "");
    this.model = model;
    this.key = keyVariable === undefined ? undefined : process.env[keyVariable];
    if (keyVariable !== undefined && !this.key)
      throw new CredenceError("USAGE", `the environment variable ${keyVariable}, which is to hold the key, is not set`);
    const {
      concurrency = 8,
      timeout = 120,
      retries = 6,
      badReplies = 2,
      backoff = { first: 1, longest: 60 },
    } = options;
    const { apiVersion, price, answers, note } = options;
    this.options = { url, model, apiVersion, concurrency, timeout, retries, badReplies, backoff, price, answers, note };
    if (!(this.options.timeout > 0 && this.options.timeout <= longestTimeout))
      throw new CredenceError("USAGE", `a time-out of ${this.options.timeout} s; expected up to ${longestTimeout} s`);
  }

  get concurrency(): number {
    return this.options.concurrency;
  }

  /** What was asked and paid for so far. */
  get usage(): ServerUsage {
    const { paid, kept, wasted, ...rest } = this.tally;
    const all = { ...paid };
    all.requests += kept.requests;
    add(all, { input: kept.inputTokens, output: kept.outputTokens });
    const priced = (spent: Omit<Spent, "cost">) => this.priced(spent);
    return { ...rest, paid: priced(paid), kept: priced(kept), all: priced(all), wasted: priced(wasted) };
  }

  /**
   * What every answer of this model that is kept cost, whichever process asked for it and whether or not it was used now;
   * without a database, `usage.all`.
   */
  async spent(): Promise<Spent & Pick<ServerUsage, "uncounted">> {
    const { answers } = this.options;
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
    const kept = await this.options.answers?.get(key);
    if (kept && (mayBeEmpty || !isEmpty(kept))) {
      this.count(key, "kept", kept);
      return kept;
    }
    await this.enter(signal);
    try {
      const reply = await this.ask(JSON.stringify(body), mayBeEmpty, signal);
      await this.options.answers?.put(key, { ...reply, from: this.name });
      this.count(key, "paid", reply);
      return reply;
    } finally {
      this.running -= 1;
      this.waiting.shift()?.();
    }
  }

  /** Waits for a place among the calls in flight. */
  private async enter(signal?: AbortSignal): Promise<void> {
    while (this.running >= this.options.concurrency) await new Promise<void>((resume) => this.waiting.push(resume));
    if (signal?.aborted) {
      this.waiting.shift()?.();
      throw aborted();
    }
    this.running += 1;
  }

  private async ask(body: string, mayBeEmpty: boolean, signal?: AbortSignal): Promise<StoredReply> {
    const left = { passing: this.options.retries, unusable: this.options.badReplies };
    let pause = this.options.backoff.first;
    for (;;) {
      await sleep(this.notBefore - performance.now(), signal);
      if (signal?.aborted) throw aborted();
      const outcome = await this.attempt(body, mayBeEmpty, signal);
      if ("reply" in outcome) return outcome.reply;
      const { kind, why, after = 0 } = outcome;
      if (signal?.aborted) throw aborted();
      if (kind === "refused") throw new CredenceError("SERVER_REFUSED", `${this.url}: ${why}`);
      if (after > longestAsked)
        throw new CredenceError(
          "SERVER_FAILED",
          `${this.url}: ${why}, and asks to wait ${Math.ceil(after)} s. Start again then`,
        );
      if (left[kind] === 0) throw this.givenUp(kind, why);
      left[kind] -= 1;
      this.tally.retries += 1;
      // Half of the pause is left to chance, so that calls which failed together do not come back together.
      const seconds = Math.max(after, pause * (0.5 + Math.random() / 2));
      pause = Math.min(2 * pause, this.options.backoff.longest);
      if (after > 0) this.notBefore = Math.max(this.notBefore, performance.now() + 1000 * after);
      this.options.note?.(`${this.url}: ${why}; trying again in ${seconds.toFixed(1)} s`);
      await sleep(1000 * seconds, signal);
    }
  }

  private givenUp(kind: "passing" | "unusable", why: string): CredenceError {
    const { retries, badReplies, answers } = this.options;
    const tries = `${(kind === "passing" ? retries : badReplies) + 1} tries`;
    const next = answers
      ? "Started again, it goes on from what was answered"
      : "Name a folder for answers to keep them";
    return kind === "passing"
      ? new CredenceError("SERVER_FAILED", `${this.url}: ${why}, after ${tries}. ${next}`)
      : new CredenceError(
          "BAD_REPLY",
          `${this.url}: ${why}, ${tries} in a row. Is ${this.model} a chat model, and is this its interface? ${next}`,
        );
  }

  private get endpoint(): string {
    const { apiVersion } = this.options;
    return `${this.url}/chat/completions${apiVersion === undefined ? "" : `?api-version=${encodeURIComponent(apiVersion)}`}`;
  }

  private get keyHeader(): Record<string, string> {
    if (this.key === undefined) return {};
    return this.options.apiVersion === undefined ? { authorization: `Bearer ${this.key}` } : { "api-key": this.key };
  }

  /** One HTTP request. */
  private async attempt(body: string, mayBeEmpty: boolean, signal?: AbortSignal): Promise<Outcome> {
    this.tally.calls += 1;
    const stop = new AbortController();
    const timer = setTimeout(() => stop.abort(), 1000 * this.options.timeout);
    const leave = () => setTimeout(() => stop.abort(), 1000 * graceSeconds).unref();
    signal?.addEventListener("abort", leave, { once: true });
    try {
      const response = await fetch(this.endpoint, {
        method: "POST",
        headers: {
          "content-type": "application/json",
          ...this.keyHeader,
        },
        body,
        redirect: "error",
        signal: stop.signal,
      });
      const text = await response.text();
      return response.ok ? this.read(text, mayBeEmpty) : this.failure(response, text);
    } catch (error) {
      if (stop.signal.aborted) return { kind: "passing", why: `no answer within ${this.options.timeout} s` };
      const cause = (error as Error).cause as Error | undefined;
      return {
        kind: "passing",
        why: `the connection failed (${this.safe(cause?.message || (error as Error).message)})`,
      };
    } finally {
      clearTimeout(timer);
      signal?.removeEventListener("abort", leave);
    }
  }

  private failure({ status, headers }: Response, text: string): Failure {
    const said = this.safe(errorMessage(text));
    const why = `HTTP ${status}${said ? ` (${said})` : ""}`;
    if (status === 429 || status >= 500) return { kind: "passing", why, after: retryAfter(headers.get("retry-after")) };
    const hint =
      status === 401 || status === 403
        ? ". Is the key right, and the option that names its environment variable?"
        : status === 404
          ? `. Is there a /chat/completions under this URL, and a model ${this.model}?`
          : "";
    return { kind: "refused", why: `${why}${hint}` };
  }

  /** What a server said with HTTP 200. */
  private read(text: string, mayBeEmpty: boolean): Outcome {
    let value: Partial<Completion> | null;
    try {
      value = JSON.parse(text) as Partial<Completion> | null;
    } catch {
      return { kind: "unusable", why: `the reply is not JSON (${this.safe(text.trim().slice(0, 60))})` };
    }
    const usage = usageOf(value?.usage);
    const choice = Array.isArray(value?.choices) ? value.choices[0] : undefined;
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
    if (!choice) return { kind: "unusable", why: "the reply has no choices" };
    if (!choice.message || content === undefined) return { kind: "unusable", why: "the reply's choice has no message" };
    const cut = choice.finish_reason === "length" ? ", cut off before its first word: allow it more tokens" : "";
    return { kind: "unusable", why: `the reply is empty${cut}` };
  }

  private count(key: string, where: "paid" | "kept", { usage }: StoredReply): void {
    if (this.counted.has(key)) return;
    this.counted.add(key);
    this.tally[where].requests += 1;
    if (usage) add(this.tally[where], usage);
    else this.tally.uncounted += 1;
  }

  private priced(spent: Omit<Spent, "cost">): Spent {
    const { price } = this.options;
    const cost = price ? (spent.inputTokens * price.input + spent.outputTokens * price.output) / 1e6 : null;
    return { ...spent, cost };
  }

  /** A server's own words without the key, should it repeat it. */
  private safe(text: string): string {
    return this.key === undefined ? text : text.replaceAll(this.key, "***");
  }
}

/** The parts of a completion that are read. */
interface Completion {
  choices: { message?: { content?: string | null }; finish_reason?: string }[];
  usage: { prompt_tokens?: unknown; completion_tokens?: unknown } | null;
}

const blank = (): Omit<Spent, "cost"> => ({ requests: 0, inputTokens: 0, outputTokens: 0 });
const isEmpty = ({ text }: StoredReply): boolean => text.trim() === "";
const aborted = (): CredenceError =>
  new CredenceError("ABORTED", "stopped while a server was asked; what it answered is kept");

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

/** What an error's body says, shortened. */
function errorMessage(text: string): string {
  let message: unknown;
  try {
    const body = JSON.parse(text) as { error?: { message?: unknown } | string; message?: unknown } | null;
    message = typeof body?.error === "string" ? body.error : (body?.error?.message ?? body?.message);
  } catch {
    message = text;
  }
  return typeof message === "string" ? message.replace(/\s+/g, " ").trim().slice(0, 200) : "";
}

/** Seconds to wait, from a number of them or a date. */
function retryAfter(header: string | null): number | undefined {
  if (header === null || header.trim() === "") return undefined;
  const seconds = Number(header);
  if (Number.isFinite(seconds)) return Math.max(0, seconds);
  const date = Date.parse(header);
  return Number.isNaN(date) ? undefined : Math.max(0, (date - Date.now()) / 1000);
}

/** Waits, or returns at once when aborted. */
function sleep(milliseconds: number, signal?: AbortSignal): Promise<void> {
  if (!(milliseconds > 0) || signal?.aborted) return Promise.resolve();
  return new Promise((resolve) => {
    const done = () => {
      clearTimeout(timer);
      signal?.removeEventListener("abort", done);
      resolve();
    };
    const timer = setTimeout(done, milliseconds);
    signal?.addEventListener("abort", done, { once: true });
  });
}
