/** Calls of a server that speaks OpenAI's interface: beside each other up to a limit, and again where a failure may pass. */
import { CredenceError } from "../errors.js";

export interface ServerCallOptions {
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
  /** Told of each call that has to be tried again. */
  note?: (line: string) => void;
}

/** One of the interface's services, as messages speak of it. */
export interface Service {
  /** Behind the URL: "chat/completions". */
  path: string;
  /** What its models are: "a chat model". */
  kind: string;
  /** What is done in the meantime, for who stops it: "a server was asked". */
  doing: string;
  /** What to do where no try got through. */
  next: string;
}

/** Why a call failed, and whether and when it may be tried again. */
interface Failure {
  kind: "passing" | "unusable" | "refused";
  why: string;
  /** Seconds the server asks to wait. */
  after?: number;
}

/** What a reply is read as: what it is for, or why it cannot be used. */
export type ReadReply<T> = { reply: T } | { unusable: string };

const graceSeconds = 5;
/** A server that asks for a longer wait than this, in seconds, has to be come back to. */
const longestAsked = 600;
const longestTimeout = 300;

export class ServerCalls {
  readonly url: string;
  readonly model: string;
  readonly concurrency: number;
  /** HTTP requests sent, and how many of them because one before had failed. */
  calls = 0;
  retries = 0;
  private readonly options: Required<Pick<ServerCallOptions, "timeout" | "retries" | "badReplies" | "backoff">>;
  private readonly note: ServerCallOptions["note"];
  private readonly service: Service;
  private readonly key: string | undefined;
  private readonly apiVersion: string | undefined;
  private readonly waiting: (() => void)[] = [];
  private running = 0;
  /** No call begins before; performance.now() of when the server wants to be asked again. */
  private notBefore = 0;

  /** @throws CredenceError "USAGE" for a URL that is none, or a key's variable that is not set */
  constructor(options: ServerCallOptions, service: Service) {
    const { url, model, keyVariable, apiVersion, concurrency = 8, note } = options;
    if (!URL.canParse(url) || !/^https?:$/.test(new URL(url).protocol))
      throw new CredenceError(
        "USAGE",
        `${url} is not where a server is; expected a URL such as http://localhost:8000/v1`,
      );
    this.url = url.replace(/\/+$/, "");
    this.model = model;
    this.concurrency = concurrency;
    this.apiVersion = apiVersion;
    this.note = note;
    this.service = service;
    this.key = keyVariable === undefined ? undefined : process.env[keyVariable];
    if (keyVariable !== undefined && !this.key)
      throw new CredenceError("USAGE", `the environment variable ${keyVariable}, which is to hold the key, is not set`);
    const { timeout = 120, retries = 6, badReplies = 2, backoff = { first: 1, longest: 60 } } = options;
    this.options = { timeout, retries, badReplies, backoff };
    if (!(timeout > 0 && timeout <= longestTimeout))
      throw new CredenceError("USAGE", `a time-out of ${timeout} s; expected up to ${longestTimeout} s`);
  }

  /**
   * Posts a body and reads the reply.
   *
   * @param read of a reply that came with HTTP 200
   * @param then what is done with it before the next call may begin
   * @param signal once aborted no call begins, and one in flight has five more seconds: its answer would be paid for and lost
   * @throws CredenceError "SERVER_REFUSED" for what trying again does not change, "SERVER_FAILED" where no try got
   *   through, "BAD_REPLY" where replies came and none could be used, "ABORTED"
   */
  async post<T>(
    body: unknown,
    read: (value: unknown) => ReadReply<T>,
    then: (reply: T) => Promise<void>,
    signal?: AbortSignal,
  ): Promise<T> {
    await this.enter(signal);
    try {
      const reply = await this.ask(JSON.stringify(body), read, signal);
      await then(reply);
      return reply;
    } finally {
      this.running -= 1;
      this.waiting.shift()?.();
    }
  }

  /** Waits for a place among the calls in flight. */
  private async enter(signal?: AbortSignal): Promise<void> {
    while (this.running >= this.concurrency) await new Promise<void>((resume) => this.waiting.push(resume));
    if (signal?.aborted) {
      this.waiting.shift()?.();
      throw this.aborted();
    }
    this.running += 1;
  }

  private async ask<T>(body: string, read: (value: unknown) => ReadReply<T>, signal?: AbortSignal): Promise<T> {
    const left = { passing: this.options.retries, unusable: this.options.badReplies };
    let pause = this.options.backoff.first;
    for (;;) {
      await sleep(this.notBefore - performance.now(), signal);
      if (signal?.aborted) throw this.aborted();
      const outcome = await this.attempt(body, read, signal);
      if ("reply" in outcome) return outcome.reply;
      const { kind, why, after = 0 } = outcome;
      if (signal?.aborted) throw this.aborted();
      if (kind === "refused") throw new CredenceError("SERVER_REFUSED", `${this.url}: ${why}`);
      if (after > longestAsked)
        throw new CredenceError(
          "SERVER_FAILED",
          `${this.url}: ${why}, and asks to wait ${Math.ceil(after)} s. Start again then`,
        );
      if (left[kind] === 0) throw this.givenUp(kind, why);
      left[kind] -= 1;
      this.retries += 1;
      // Half of the pause is left to chance, so that calls which failed together do not come back together.
      const seconds = Math.max(after, pause * (0.5 + Math.random() / 2));
      pause = Math.min(2 * pause, this.options.backoff.longest);
      if (after > 0) this.notBefore = Math.max(this.notBefore, performance.now() + 1000 * after);
      this.note?.(`${this.url}: ${why}; trying again in ${seconds.toFixed(1)} s`);
      await sleep(1000 * seconds, signal);
    }
  }

  private givenUp(kind: "passing" | "unusable", why: string): CredenceError {
    const { retries, badReplies } = this.options;
    const tries = `${(kind === "passing" ? retries : badReplies) + 1} tries`;
    const { kind: model, next } = this.service;
    return kind === "passing"
      ? new CredenceError("SERVER_FAILED", `${this.url}: ${why}, after ${tries}. ${next}`)
      : new CredenceError(
          "BAD_REPLY",
          `${this.url}: ${why}, ${tries} in a row. Is ${this.model} ${model}, and is this its interface? ${next}`,
        );
  }

  private get endpoint(): string {
    const version = this.apiVersion === undefined ? "" : `?api-version=${encodeURIComponent(this.apiVersion)}`;
    return `${this.url}/${this.service.path}${version}`;
  }

  private get keyHeader(): Record<string, string> {
    if (this.key === undefined) return {};
    return this.apiVersion === undefined ? { authorization: `Bearer ${this.key}` } : { "api-key": this.key };
  }

  /** One HTTP request. */
  private async attempt<T>(
    body: string,
    read: (value: unknown) => ReadReply<T>,
    signal?: AbortSignal,
  ): Promise<{ reply: T } | Failure> {
    this.calls += 1;
    const stop = new AbortController();
    const timer = setTimeout(() => stop.abort(), 1000 * this.options.timeout);
    const leave = () => setTimeout(() => stop.abort(), 1000 * graceSeconds).unref();
    signal?.addEventListener("abort", leave, { once: true });
    try {
      const response = await fetch(this.endpoint, {
        method: "POST",
        headers: { "content-type": "application/json", ...this.keyHeader },
        body,
        redirect: "error",
        signal: stop.signal,
      });
      const text = await response.text();
      return response.ok ? this.read(text, read) : this.failure(response, text);
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
          ? `. Is there a /${this.service.path} under this URL, and a model ${this.model}?`
          : "";
    return { kind: "refused", why: `${why}${hint}` };
  }

  /** What a server said with HTTP 200. */
  private read<T>(text: string, read: (value: unknown) => ReadReply<T>): { reply: T } | Failure {
    let value: unknown;
    try {
      value = JSON.parse(text);
    } catch {
      return { kind: "unusable", why: `the reply is not JSON (${this.safe(text.trim().slice(0, 60))})` };
    }
    const outcome = read(value);
    return "reply" in outcome ? outcome : { kind: "unusable", why: outcome.unusable };
  }

  private aborted(): CredenceError {
    return new CredenceError("ABORTED", `stopped while ${this.service.doing}`);
  }

  /** A server's own words without the key, should it repeat it. */
  private safe(text: string): string {
    return this.key === undefined ? text : text.replaceAll(this.key, "***");
  }
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
