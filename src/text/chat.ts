/**
 * Conversations as a model reads them: its own Jinja template turns `messages` into text and token ids, and the
 * structure of the messages says which tokens an assistant wrote. No text is ever searched for a marker.
 */
import { Template } from "@huggingface/jinja";
import { CredenceError } from "../errors.js";
import type { Tokenizer } from "./tokenizer.js";

/** One turn. Other fields (tool calls, names) reach the template as they are. */
export interface Message {
  role: string;
  content: string;
  /** How much the turn counts in training; 0: it is context only. Default 1 for an assistant's turn, 0 for any other. */
  weight?: number;
  [field: string]: unknown;
}

export interface RenderOptions {
  /**
   * End with the header of an assistant's turn, ready to be answered. Default: when the last message is not an
   * assistant's.
   */
  addGenerationPrompt?: boolean;
  /**
   * A system turn for conversations that have none of their own. `null` leaves out the one that the template would put
   * there by itself; a system turn among the messages stays.
   */
  system?: string | null;
  /** Further variables for the template. */
  variables?: Record<string, unknown>;
}

/** A conversation to learn from. All arrays have one entry a token. */
export interface SupervisedRow {
  text: string;
  ids: Int32Array;
  /** 1: this token belongs to a turn that counts (its end of turn included). */
  supervised: Uint8Array;
  /** The weight of the token's message where supervised, else 0. */
  weights: Float32Array;
}

/** Characters from .. to of a rendering. */
interface Stretch {
  from: number;
  to: number;
  weight: number;
}

export class Chat {
  private readonly tokenizer: Tokenizer;
  private readonly template: Template;
  private opening: { dropped: string; kept: string } | undefined;

  /**
   * @param template instead of the tokenizer's own
   * @throws CredenceError "NO_CHAT_TEMPLATE" when there is neither; "CHAT_TEMPLATE" when it is no Jinja
   */
  constructor(tokenizer: Tokenizer, template = tokenizer.chatTemplate) {
    this.tokenizer = tokenizer;
    if (template === undefined) {
      throw new CredenceError(
        "NO_CHAT_TEMPLATE",
        `${tokenizer.path}: the model has no chat template. Give prompts instead of messages, or a template`,
      );
    }
    try {
      this.template = new Template(template);
    } catch (cause) {
      throw new CredenceError(
        "CHAT_TEMPLATE",
        `${tokenizer.path}: its chat template cannot be parsed: ${reason(cause)}`,
        { cause },
      );
    }
  }

  /** The text of a conversation. */
  render(messages: Message[], options: RenderOptions = {}): string {
    if (messages.length === 0)
      throw new CredenceError("BAD_INPUT", "a conversation without messages cannot be rendered");
    const generation = options.addGenerationPrompt ?? messages.at(-1)!.role !== "assistant";
    const ownSystem = messages[0]!.role === "system";
    if (typeof options.system === "string" && !ownSystem) {
      return this.plain([{ role: "system", content: options.system }, ...messages], generation, options);
    }
    const text = this.plain(messages, generation, options);
    if (options.system !== null || ownSystem) return text;
    this.opening ??= this.findOpening(options);
    const { dropped, kept } = this.opening;
    if (!text.startsWith(dropped)) {
      throw new CredenceError(
        "CHAT_TEMPLATE",
        `${this.tokenizer.path}: the template's default system turn depends on the conversation and cannot be left out; ` +
          "give a system turn",
      );
    }
    return kept + text.slice(dropped.length);
  }

  /** Token ids of a conversation; special tokens in the rendered text count as such. */
  async encode(messages: Message[], options: RenderOptions = {}): Promise<Int32Array> {
    return this.checked(await this.tokenizer.encode(this.render(messages, options)));
  }

  async encodeBatch(conversations: Message[][], options: RenderOptions = {}): Promise<Int32Array[]> {
    const ids = await this.tokenizer.encodeBatch(conversations.map((messages) => this.render(messages, options)));
    return ids.map((row) => this.checked(row));
  }

  /**
   * A conversation with the tokens that count: those of its assistant turns, and of other turns that have a weight. A
   * token that also covers text before the turn is not supervised: while generating it could not be chosen.
   */
  async supervise(messages: Message[], options: RenderOptions = {}): Promise<SupervisedRow> {
    const settings = { ...options, addGenerationPrompt: options.addGenerationPrompt ?? false };
    const text = this.render(messages, settings);
    const { ids, spans } = await this.tokenizer.encodeAligned(text);
    this.checked(ids);
    const supervised = new Uint8Array(ids.length);
    const weights = new Float32Array(ids.length);
    const ends = new Set(this.tokenizer.eosIds);
    for (const { from, to, weight } of this.weightedTurns(messages, text, settings)) {
      let first = 0;
      while (first < ids.length && spans[2 * first]! < from) first += 1;
      let last = first;
      let afterEnd = -1;
      while (last < ids.length && spans[2 * last + 1]! <= to) {
        last += 1;
        if (ends.has(ids[last - 1]!)) afterEnd = last;
      }
      // What follows the end of a turn (a line break, say) is the template's, not the assistant's.
      if (afterEnd >= 0) last = afterEnd;
      else if (last < ids.length && spans[2 * last] === to && ends.has(ids[last]!)) last += 1;
      supervised.fill(1, first, last);
      weights.fill(weight, first, last);
    }
    return { text, ids, supervised, weights };
  }

  /**
   * Where each turn with a weight stands in the whole rendering: for an assistant's, what its message adds to that of
   * those before it and the header of an answer; for any other, its content.
   */
  private weightedTurns(messages: Message[], whole: string, options: RenderOptions): Stretch[] {
    const turns: Stretch[] = [];
    messages.forEach((message, i) => {
      const answers = message.role === "assistant";
      const weight = message.weight ?? (answers ? 1 : 0);
      if (weight === 0) return;
      const stretch =
        (answers ? this.byPrefix(messages, i, whole, options) : undefined) ??
        this.byContent(messages, i, whole, options);
      if (stretch.to > stretch.from) turns.push({ ...stretch, weight });
    });
    return turns;
  }

  private byPrefix(
    messages: Message[],
    i: number,
    whole: string,
    options: RenderOptions,
  ): { from: number; to: number } | undefined {
    if (i === 0) return undefined;
    const before = this.attempt(messages.slice(0, i), { ...options, addGenerationPrompt: true });
    const last = i === messages.length - 1 && options.addGenerationPrompt === false;
    const after = last ? whole : this.attempt(messages.slice(0, i + 1), { ...options, addGenerationPrompt: false });
    if (before === undefined || after === undefined || !after.startsWith(before) || !whole.startsWith(after))
      return undefined;
    return { from: before.length, to: after.length };
  }

  /**
   * For templates that write a turn otherwise once others follow: two renderings that differ only in this message's
   * content agree before and after it.
   */
  private byContent(
    messages: Message[],
    i: number,
    whole: string,
    options: RenderOptions,
  ): { from: number; to: number } {
    const withContent = (content: string) => this.render(messages.with(i, { ...messages[i]!, content }), options);
    const one = withContent("A");
    const other = withContent("B");
    const from = commonPrefix(one, other);
    const tail = commonSuffix(one, other);
    const to = whole.length - tail;
    if (to < from || !whole.startsWith(one.slice(0, from)) || !whole.endsWith(one.slice(one.length - tail))) {
      throw new CredenceError(
        "CHAT_TEMPLATE",
        `${this.tokenizer.path}: the chat template changes other turns with the content of turn ${i + 1}; ` +
          "it cannot be told which tokens the assistant wrote",
      );
    }
    return { from, to };
  }

  private attempt(messages: Message[], options: RenderOptions): string | undefined {
    try {
      return this.render(messages, options);
    } catch (error) {
      if (error instanceof CredenceError && error.code === "CHAT_TEMPLATE") return undefined;
      throw error;
    }
  }

  private plain(messages: Message[], generation: boolean, { variables }: RenderOptions): string {
    try {
      return this.template.render({
        ...this.tokenizer.specialTokens,
        ...variables,
        messages,
        add_generation_prompt: generation,
      });
    } catch (cause) {
      throw new CredenceError(
        "CHAT_TEMPLATE",
        `${this.tokenizer.path}: its chat template refuses the conversation: ${reason(cause)}`,
        {
          cause,
        },
      );
    }
  }

  /**
   * What the template writes before a first user turn, by taking away what it writes for a user turn further on. That
   * is its default system turn, unless it stands there before a system turn of one's own, too.
   */
  private findOpening(options: RenderOptions): { dropped: string; kept: string } {
    const user = { role: "user", content: "Yes?" };
    const assistant = { role: "assistant", content: "Yes." };
    const render = (...messages: Message[]): string | undefined => {
      try {
        return this.plain(messages, false, options);
      } catch {
        return undefined;
      }
    };
    const added = (more?: string, less?: string) =>
      more !== undefined && less !== undefined && more.startsWith(less) ? more.slice(less.length) : undefined;
    const first = render(user);
    const candidates = [
      added(render(user, user), first),
      added(render(user, assistant, user), render(user, assistant)),
    ];
    const turn = candidates.find((candidate) => candidate && first?.endsWith(candidate));
    if (first === undefined || turn === undefined) {
      throw new CredenceError(
        "CHAT_TEMPLATE",
        `${this.tokenizer.path}: the template's default system turn cannot be told apart from the user's; ` +
          "give a system turn",
      );
    }
    const opening = first.slice(0, first.length - turn.length);
    if (render({ role: "system", content: "Yes!" }, user)?.startsWith(opening)) return { dropped: "", kept: "" };
    // The token that begins every text stays, where it is not merely how any turn begins.
    const bos = this.tokenizer.specialTokens.bos_token ?? "";
    const begins = turn.startsWith(bos) ? opening.startsWith(bos + bos) : opening.startsWith(bos);
    return { dropped: opening, kept: begins ? bos : "" };
  }

  private checked(ids: Int32Array): Int32Array {
    const { bosId } = this.tokenizer;
    if (bosId !== undefined && ids[0] === bosId && ids[1] === bosId) {
      const name = this.tokenizer.specialTokens.bos_token ?? String(bosId);
      throw new CredenceError(
        "DOUBLED_BOS",
        `the conversation begins with ${name} twice: the template writes it, and then it or the first message does again. ` +
          "Remove one of them",
      );
    }
    return ids;
  }
}

const reason = (error: unknown): string => (error instanceof Error ? error.message : String(error));

function commonPrefix(a: string, b: string): number {
  let n = 0;
  while (n < a.length && n < b.length && a[n] === b[n]) n += 1;
  return n;
}

function commonSuffix(a: string, b: string): number {
  let n = 0;
  while (n < a.length && n < b.length && a[a.length - 1 - n] === b[b.length - 1 - n]) n += 1;
  return n;
}
