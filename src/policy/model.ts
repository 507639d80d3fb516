/** A model: immutable weights in memory, its tokenizer and chat template, and the policies that share them. */
import { createHash } from "node:crypto";
import { existsSync, statSync } from "node:fs";
import { basename, join } from "node:path";
import { CredenceError } from "../errors.js";
import { readJson, sha256File } from "../files.js";
import { type AnyCard, type Card, checkCardFits, type Prompt } from "../model/card.js";
import { readPolicyFolder, restoreHeads } from "../model/policy-folder.js";
import { type ResolveOptions, resolveModel } from "../model/resolve.js";
import {
  type AdapterSpec,
  type Addon,
  type AdvantageInput,
  type AdvantageResult,
  type BaseInfo,
  type BaseOptions,
  type EngineMemory,
  type HeadSpec,
  type NativeBase,
  native,
  type TrainSpec,
} from "../native.js";
import { Chat, type Message, type RenderOptions, type SupervisedRow } from "../text/chat.js";
import { Tokenizer } from "../text/tokenizer.js";
import { Policy } from "./policy.js";

export interface ModelOptions extends BaseOptions, ResolveOptions {
  /** The engine; for tests that need none. */
  engine?: Pick<Addon, "openBase">;
}

export interface PolicyOptions {
  /** A folder written by a run or by PEFT, or a new adapter. */
  adapter?: string | AdapterSpec;
  /** New heads; a folder's heads come with it. */
  heads?: HeadSpec[];
  /**
   * What of the model's own numbers the policy has as its own, in float32, to be trained; "all": every one of them. A folder's own
   * weights come with it. Default: none.
   */
  train?: TrainSpec | "all";
  /** How a new policy is used. */
  card?: AnyCard;
}

const partsOf = (train: PolicyOptions["train"]): TrainSpec | undefined =>
  train === "all" ? { embeddings: true, lmHead: true, norms: true, projections: true } : train;

/** One file of the weights. */
export interface ModelFile {
  name: string;
  sha256: string;
}

/** Says what "auto" chose and why, where there was a choice. */
function tellChoice(device: BaseOptions["device"], info: BaseInfo, note: ((line: string) => void) | undefined): void {
  if ((device ?? "auto") !== "auto" || (info.device === "cpu" && !info.notCuda)) return;
  const why = info.notCuda ? `not cuda: ${info.notCuda}` : "cuda is available";
  note?.(`device auto: ${info.device} (${info.isa}, ${info.dtype}); ${why}`);
}

/** A question as it is, in a user's turn. */
const plainPrompt: Prompt = { user: "{question}", system: "default" };

const turnsOf = (input: string | Message[], prompt: Prompt, history: Message[]): Message[] => [
  ...history,
  ...(typeof input === "string"
    ? [{ role: "user", content: prompt.user.replaceAll("{question}", () => input) }]
    : input),
];

function wholeText(input: string | Message[], prompt: Prompt, history: Message[]): string {
  if (typeof input !== "string" || history.length > 0) {
    throw new CredenceError(
      "BAD_INPUT",
      "the card's prompt is a text without turns, as it was trained: ask one question, not a conversation",
    );
  }
  return prompt.user.replaceAll("{question}", () => input);
}

const renderOptions = ({ system }: Prompt): RenderOptions => ({
  addGenerationPrompt: true,
  system: typeof system === "string" ? (system === "none" ? null : undefined) : system.text,
});

export class Model implements AsyncDisposable {
  /** What the caller named: a hub id, or the last part of a path. */
  readonly name: string;
  readonly path: string;
  readonly source: string;
  readonly info: BaseInfo;
  readonly tokenizer: Tokenizer;
  /** The limit of the engine's memory it was opened with. */
  readonly maxMemory: number | undefined;
  /** The tokens that end an answer. */
  readonly stopTokens: number[];
  private readonly base: NativeBase;
  private readonly policies = new Set<Policy>();
  private hashed: ModelFile[] | undefined;
  private chat: Chat | undefined;
  private disposed = false;

  private constructor(parts: {
    name: string;
    path: string;
    source: string;
    base: NativeBase;
    tokenizer: Tokenizer;
    maxMemory: number | undefined;
  }) {
    this.name = parts.name;
    this.path = parts.path;
    this.source = parts.source;
    this.base = parts.base;
    this.info = parts.base.info;
    this.tokenizer = parts.tokenizer;
    this.maxMemory = parts.maxMemory;
    this.stopTokens = parts.tokenizer.eosIds;
  }

  /**
   * Opens a model: a folder, a `.gguf`, or a hub id.
   *
   * @throws CredenceError "NO_MODEL" naming the ways to supply one
   */
  static async load(path: string, options: ModelOptions = {}): Promise<Model> {
    const { engine = native(), note, signal, ...baseOptions } = options;
    const resolved = await resolveModel(path, { note, signal, shapeAlone: baseOptions.dry });
    const tokenizer = await Tokenizer.load(resolved.path);
    const base = await engine.openBase(resolved.path, baseOptions);
    tellChoice(baseOptions.device, base.info, note);
    try {
      const { vocabularySize } = base.info;
      if (tokenizer.vocabularySize > vocabularySize) {
        throw new CredenceError(
          "BAD_MODEL",
          `${path}: the tokenizer has ${tokenizer.vocabularySize} tokens, the model knows ${vocabularySize}. They belong to different models`,
        );
      }
      const { pieces, offsets } = tokenizer.vocabularyPieces(vocabularySize);
      base.setVocabulary(pieces, offsets);
    } catch (error) {
      base.dispose();
      throw error;
    }
    const name = resolved.name === resolved.path || existsSync(resolved.name) ? basename(resolved.path) : resolved.name;
    return new Model({
      name,
      path: resolved.path,
      source: resolved.source,
      base,
      tokenizer,
      maxMemory: baseOptions.maxMemory,
    });
  }

  /** The weights' files with their SHA-256, computed when first asked for. */
  get files(): ModelFile[] {
    this.hashed ??= this.info.files.map((file) => ({ name: basename(file), sha256: sha256File(file) }));
    return this.hashed;
  }

  /** One SHA-256 for the weights: the file's own, or that of the list of names and checksums where there are several. */
  get sha256(): string {
    const files = this.files;
    if (files.length === 1) return files[0]!.sha256;
    return createHash("sha256")
      .update(files.map((file) => `${file.sha256}  ${file.name}\n`).join(""))
      .digest("hex");
  }

  /** What a card says about its base. */
  get cardBase(): Card["base"] {
    const { storageType, architecture, hiddenSize, layers } = this.info;
    return { name: this.name, sha256: this.sha256, storageType, architecture, hiddenSize, layers };
  }

  /**
   * A base with an adapter or none, and heads; they share this model's weights.
   *
   * @throws CredenceError "WRONG_BASE" when the folder was made for other weights; "BAD_OPTION" for `train` beside a folder that has
   *   weights of its own
   */
  async policy({ adapter, heads = [], card, train }: PolicyOptions = {}): Promise<Policy> {
    this.checkAlive();
    if (typeof adapter !== "string") {
      const made = this.base.policy({ adapter, heads, train: partsOf(train) });
      const policy = new Policy(this, made, { card, heads, adapter });
      this.policies.add(policy);
      return policy;
    }
    if (!existsSync(adapter) || !statSync(adapter).isDirectory())
      throw new CredenceError("NO_ADAPTER", `there is no folder ${adapter}`);
    const folder = readPolicyFolder(adapter);
    if (train && folder.weights)
      throw new CredenceError(
        "BAD_OPTION",
        `${adapter} has weights of its own, which come with it: leave out train, or merge the folder (mergeAdapter) and train other parts of what comes of it`,
      );
    if (folder.card) checkCardFits(folder.card, this.cardBase, adapter);
    const all = [...folder.heads, ...heads];
    const made = this.base.policy({
      ...(folder.hasAdapter ? { adapter: { path: adapter } } : {}),
      heads: all,
      ...(folder.weights ? { weights: folder.weights } : { train: partsOf(train) }),
    });
    try {
      restoreHeads(made, folder);
    } catch (error) {
      made.dispose();
      throw error;
    }
    const config = folder.hasAdapter
      ? (readJson(join(adapter, "adapter_config.json")) as Record<string, unknown>)
      : undefined;
    const policy = new Policy(this, made, { card: card ?? folder.card, heads: all, config });
    this.policies.add(policy);
    return policy;
  }

  /** The text of a question put as a prompt says, or of a conversation, up to where the answer begins. */
  promptText(input: string | Message[], prompt: Prompt = plainPrompt, history: Message[] = []): string {
    if (prompt.template === "none") return wholeText(input, prompt, history);
    const turns = turnsOf(input, prompt, history);
    if (this.tokenizer.chatTemplate === undefined) return turns.map((turn) => turn.content).join("\n");
    this.chat ??= new Chat(this.tokenizer);
    return this.chat.render(turns, renderOptions(prompt));
  }

  /** Token ids of the same. A model without a chat template reads the text as it is. */
  async promptTokens(
    input: string | Message[],
    prompt: Prompt = plainPrompt,
    history: Message[] = [],
  ): Promise<Int32Array> {
    const { bosId, chatTemplate } = this.tokenizer;
    if (prompt.template === "none") return this.tokenizer.encode(wholeText(input, prompt, history));
    if (chatTemplate === undefined) {
      const tokens = await this.tokenizer.encode(this.promptText(input, prompt, history), { specials: "text" });
      return bosId === undefined ? tokens : Int32Array.of(bosId, ...tokens);
    }
    this.chat ??= new Chat(this.tokenizer);
    return this.chat.encode(turnsOf(input, prompt, history), renderOptions(prompt));
  }

  /**
   * A conversation to learn from: its token ids, and how much each counts, as the messages' weights say.
   *
   * @throws CredenceError "NO_CHAT_TEMPLATE" where the model has none
   */
  supervise(messages: Message[]): Promise<SupervisedRow> {
    this.chat ??= new Chat(this.tokenizer);
    return this.chat.supervise(messages);
  }

  /**
   * The text of an answer's tokens, without special ones and without what a stop string cut off.
   *
   * @param begun tokens that the answer begins with before these: no stop string is looked for there
   */
  text(tokens: Int32Array, stop: string[] = [], begun: Int32Array = new Int32Array()): string {
    const decode = (ids: Int32Array) => this.tokenizer.decode(ids, { skipSpecials: true });
    const text = decode(begun.length > 0 ? Int32Array.of(...begun, ...tokens) : tokens);
    const from = begun.length > 0 ? decode(begun).replace(/\ufffd+$/, "").length : 0; // a character's other bytes may follow
    const cuts = stop.map((string) => text.indexOf(string, from)).filter((at) => at >= 0);
    return (cuts.length ? text.slice(0, Math.min(...cuts)) : text).trim();
  }

  /** The engine's memory: weights, policies, and what calls hold. */
  memory(options?: { restartPeak?: boolean }): EngineMemory {
    this.checkAlive();
    return this.base.memory(options);
  }

  /** Rewards, advantages and returns of a rollout, on this model's device. */
  advantages(input: AdvantageInput): Promise<AdvantageResult> {
    this.checkAlive();
    return this.base.advantages(input);
  }

  /** A policy that was disposed of is no longer this model's to dispose. */
  forget(policy: Policy): void {
    this.policies.delete(policy);
  }

  private checkAlive(): void {
    if (this.disposed)
      throw new CredenceError("DISPOSED", "this model was disposed of; load it again with Model.load()");
  }

  /** Disposes of its policies, then of the weights. */
  async dispose(): Promise<void> {
    if (this.disposed) return;
    this.disposed = true;
    for (const policy of [...this.policies]) await policy.dispose();
    this.base.dispose();
  }

  [Symbol.asyncDispose](): Promise<void> {
    return this.dispose();
  }
}
