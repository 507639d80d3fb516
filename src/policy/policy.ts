/** A policy: a base, an adapter or none, what it owns of the base, and heads. It generates, scores, answers with a confidence, and can be trained. */
import { type BatchLayout, flatMasks, flatten } from "../data/packing.js";
import { CredenceError } from "../errors.js";
import { writeFolderAtomic } from "../files.js";
import { answerStatisticNames, answerStatistics } from "../model/answer-statistics.js";
import { confidenceOf } from "../model/calibrator.js";
import { type AnyCard, type Card, isQueryCard, type Prompt, type QueryCard, type RewardCard } from "../model/card.js";
import { adapterConfig, policyFiles } from "../model/policy-folder.js";
import type {
  AdapterSpec,
  ForwardResult,
  GenerateStats,
  HeadSpec,
  NativePolicy,
  NativeSample,
  PolicyTensors,
  ReadSpan,
} from "../native.js";
import type { Message } from "../text/chat.js";
import { answerIsWhole, sanitised, textTokens } from "../text/plain.js";
import type { Model } from "./model.js";
import { TextEnds } from "./text-ends.js";
import { nativeReadouts, type PassReadouts, Trainer, type TrainerOptions } from "./trainer.js";

/** A question (put as the card says, else as a user's turn), a conversation, or token ids as they are. */
export type PromptInput = string | Message[] | Int32Array;

export interface GenerateSettings {
  /** Samples of each prompt; the prompt is evaluated once. Default 1. */
  samples?: number;
  /** The number of each prompt's first sample; default 0. A sample follows from seed, prompt and number alone. */
  firstSamples?: number[];
  /**
   * Tokens that each prompt's answer begins with, to be gone on with: `text` and `stopWhen` read them too, a `stop` text is looked
   * for behind them, and what else comes back is of new tokens alone.
   */
  begun?: Int32Array[];
  /** 0 (default): the likeliest token each time. */
  temperature?: number;
  /**
   * Log-probabilities are those of the logits divided by it, default 1. With `temperature` the same (and nothing cut) they are of
   * the distribution that is sampled from.
   */
  scoreTemperature?: number;
  topK?: number;
  topP?: number;
  repetitionPenalty?: number;
  /** Default 256. */
  maxNewTokens?: number;
  /** Texts that end an answer; they are cut off. */
  stop?: string[];
  /**
   * Whether a text so far needs no more behind it: asked of each answer after each of its tokens, it ends the answer with the
   * first for which it is true (`stopWhen`). The answer is the same however long that takes to be heard; what was made of it in
   * the meantime counts in `onStats` alone. Not together with `collect` and heads.
   */
  stopWhen?: (text: string) => boolean;
  /** Token ids that end an answer; default the model's. */
  stopTokens?: number[];
  seed?: number;
  /** "off": the base answers, whatever adapter or weights of its own the policy has. */
  adapter?: "on" | "off";
  /** Depths whose hidden states come back with each sample (0: embedding, k: after block k). */
  collect?: number[];
  /** Heads read on the mean over the answer's tokens, and at the prompt's last token. */
  answerHeads?: string[];
  promptHeads?: string[];
  maxBatch?: number;
  /**
   * Decoding on a GPU divides what a long sequence (over 256 tokens) attends to among multiprocessors, which is faster where few
   * sequences decode together. Samples still depend on nothing beside them; their log-probabilities, states and heads are those of
   * scoring to rounding only, so that what learns from a sample's log-probabilities has to score it again. Elsewhere nothing
   * changes. Default false.
   */
  fastDecode?: boolean;
  signal?: AbortSignal;
  /** Told how many prompt and new tokens it took, once all is done. */
  onStats?: (stats: GenerateStats) => void;
}

export interface Sample {
  /** Index into the prompts, and which of its samples. */
  prompt: number;
  sample: number;
  text: string;
  /** Without the stop token. */
  tokens: Int32Array;
  /** Natural logarithms, the stop token's last when one was chosen. */
  logprobs: Float32Array;
  finish: "stop" | "length";
  /** The stop token that was chosen; absent where the length ran out or the text ended it. */
  stopToken?: number;
  /** [depths, hidden size] at the prompt's last token, and the mean over the answer's tokens, when collected. */
  promptHidden?: Float32Array;
  answerHidden?: Float32Array;
  /** Logits of the heads asked for. */
  answerHeads?: Float32Array;
  promptHeads?: Float32Array;
}

export interface Answer {
  text: string;
  /** In [0, 1]; null where the policy has no card that says how to read it, or the text states none. */
  confidence: number | null;
  finish: "stop" | "length";
  tokens: number;
  /** What was looked up for this answer, and the answer that was not sure enough without it. */
  retrieved?: { evidence: string; before: { text: string; confidence: number | null } };
}

export interface AnswerOptions {
  /** Turns before the question. */
  history?: Message[];
  signal?: AbortSignal;
  /** Default: what the card says, else 256. */
  maxNewTokens?: number;
  /** As `GenerateSettings.fastDecode`. */
  fastDecode?: boolean;
  /**
   * Reads the confidence from the answer's text instead of as the card says, for policies that state it:
   * `new ConfidenceReader("conqord", ...).read`. null: it states none.
   */
  readConfidence?: (text: string) => number | null;
}

/** Looking things up where the policy is not sure (CONQORD's adaptive retrieval). */
export interface RetrievalOptions {
  /** An answer that is less sure than this, from 0 to 1, or states no confidence, is given again with evidence. */
  retrieveBelow: number;
  /** What is known about the question; null: nothing, and the first answer stays. */
  retrieve: (question: string, signal?: AbortSignal) => Promise<string | null> | string | null;
  /** The question with its evidence. Default: the evidence under a heading behind it, as CONQORD puts it. */
  withEvidence?: (question: string, evidence: string) => string;
}

/** The heading under which evidence follows a question. */
export const evidenceHeading = "\n\n### Retrieved Evidences: ";

/** The heads that a card reads while the answer is made, its own first. */
function headsInPass({ confidence: { head, beside } }: Card): Pick<GenerateSettings, "answerHeads" | "promptHeads"> {
  const at = (place: string) => (beside?.heads ?? []).filter((other) => other.at === place).map((other) => other.head);
  const promptHeads = at("prompt-last");
  return { answerHeads: [head, ...at("answer-mean")], ...(promptHeads.length ? { promptHeads } : {}) };
}

/** The sum of what was read. */
function passLogit({ confidence: { beside } }: Card, { answerHeads, promptHeads, logprobs }: Sample): number {
  let logit = 0;
  for (const value of answerHeads!) logit += value;
  for (const value of promptHeads ?? []) logit += value;
  if (beside) {
    const statistics = answerStatistics(logprobs);
    answerStatisticNames.forEach((name, i) => {
      logit += (beside.statistics[name] ?? 0) * statistics[i]!;
    });
  }
  return logit;
}

/** A sample up to where its text ended it. */
function cutAt(end: number | undefined, sample: NativeSample): NativeSample {
  if (end === undefined) return sample;
  const { prompt, sample: number, tokens, logprobs } = sample;
  return { prompt, sample: number, tokens: tokens.slice(0, end), logprobs: logprobs.slice(0, end), finish: "stop" };
}

function questionOf(input: PromptInput): string {
  if (typeof input === "string") return input;
  throw new CredenceError("BAD_INPUT", "a policy that is asked whether its answer is right takes questions as texts");
}

/** How many prompts are scored in one forward pass. */
const scoreBatch = 32;

export class Policy implements AsyncDisposable {
  readonly model: Model;
  readonly card: Card | undefined;
  /** The card of a policy that is asked whether its answer is right. */
  readonly queryCard: QueryCard | undefined;
  /** The card of a reward model. */
  readonly rewardCard: RewardCard | undefined;
  readonly heads: HeadSpec[];
  /** The engine's own policy, for what has no name here yet. */
  readonly native: NativePolicy;
  readonly adapter: AdapterSpec | undefined;
  /** PEFT's adapter_config.json of its adapter, if it has one. */
  readonly config: Record<string, unknown> | undefined;
  private readonly trainers = new Set<Trainer>();
  private disposed = false;

  /** Made by `model.policy()`. */
  constructor(
    model: Model,
    native: NativePolicy,
    parts: { card?: AnyCard; heads: HeadSpec[]; adapter?: AdapterSpec; config?: Record<string, unknown> },
  ) {
    this.model = model;
    this.native = native;
    const { card } = parts;
    this.card = card && !("reward" in card) && !isQueryCard(card) ? card : undefined;
    this.queryCard = card && isQueryCard(card) ? card : undefined;
    this.rewardCard = card && "reward" in card ? card : undefined;
    this.heads = parts.heads;
    this.adapter = parts.adapter;
    this.config = parts.config ?? (parts.adapter ? adapterConfig(parts.adapter, model.name) : undefined);
  }

  /** Whether it has an adapter that can be switched off. */
  get hasAdapter(): boolean {
    return this.config !== undefined;
  }

  /** Whether it has numbers of its own in the place of some of its base's; they are switched off with the adapter. */
  get hasWeights(): boolean {
    return this.native.ownsWeights;
  }

  /** Token ids of one prompt, checked against the context. */
  private async tokens(
    input: PromptInput,
    prompt: Prompt | undefined,
    room: number,
    history: Message[] = [],
  ): Promise<Int32Array> {
    const tokens = input instanceof Int32Array ? input : await this.model.promptTokens(input, prompt, history);
    if (!tokens.length) throw new CredenceError("BAD_INPUT", "a prompt without a token cannot be read");
    const { contextLength } = this.model.info;
    if (tokens.length + room > contextLength) {
      throw new CredenceError(
        "TOO_LONG",
        `a prompt of ${tokens.length} tokens and ${room} new ones are longer than the context (${contextLength} tokens). Shorten the prompt or ask for fewer new tokens`,
      );
    }
    return tokens;
  }

  /**
   * Samples in (prompt, sample) order, each as soon as those before it are done. Abort stops within one step of decoding;
   * what was yielded stays valid.
   */
  async *generate(prompts: PromptInput[], settings: GenerateSettings = {}): AsyncGenerator<Sample, void, undefined> {
    this.checkAlive();
    const { samples = 1, firstSamples, begun } = settings;
    const maxNewTokens = settings.maxNewTokens ?? 256;
    const tokens = await Promise.all(
      prompts.map(async (input, i) => {
        const first = begun?.[i] ?? new Int32Array();
        const prompt = await this.tokens(input, this.card?.prompt, first.length + maxNewTokens);
        return first.length > 0 ? Int32Array.of(...prompt, ...first) : prompt;
      }),
    );
    if (!tokens.length) return;
    const ready = new Map<number, Sample>();
    let wake: (() => void) | undefined;
    let ended = false;
    const stop = new AbortController();
    const signal = settings.signal ? AbortSignal.any([settings.signal, stop.signal]) : stop.signal;
    const beginning = (row: number): Int32Array | undefined => begun?.[Math.floor(row / samples)];
    const ends = settings.stopWhen && new TextEnds(this.model.tokenizer, settings.stopWhen, beginning);
    const work = this.native
      .generate(
        {
          prompts: tokens,
          samples,
          firstSamples,
          temperature: settings.temperature ?? 0,
          scoreTemperature: settings.scoreTemperature,
          topK: settings.topK,
          topP: settings.topP,
          repetitionPenalty: settings.repetitionPenalty,
          maxNewTokens,
          stopTokens: settings.stopTokens ?? this.model.stopTokens,
          stopStrings: settings.stop,
          seed: settings.seed ?? 0,
          adapter: settings.adapter !== "off",
          collect: settings.collect,
          answerHeads: settings.answerHeads,
          promptHeads: settings.promptHeads,
          maxBatch: settings.maxBatch,
          fastDecode: settings.fastDecode,
        },
        (finished) => {
          for (const sample of finished) {
            const row = sample.prompt * samples + sample.sample - (firstSamples?.[sample.prompt] ?? 0);
            const own = cutAt(ends?.take(row), sample);
            ready.set(row, { ...own, text: this.model.text(own.tokens, settings.stop, beginning(row)) });
          }
          wake?.();
        },
        signal,
        ends?.add,
      )
      .finally(() => {
        ended = true;
        wake?.();
      });
    work.catch(() => {});
    try {
      for (let next = 0; next < tokens.length * samples; next++) {
        while (!ready.has(next) && !ended) {
          await new Promise<void>((resume) => {
            wake = resume;
          });
        }
        if (!ready.has(next)) break;
        yield ready.get(next)!;
        ready.delete(next);
      }
      const stats = await work;
      settings.onStats?.(stats);
    } finally {
      stop.abort();
      await work.catch(() => {});
    }
  }

  /** One forward pass over whole sequences; see the engine's read-outs. */
  async forward(
    sequences: Int32Array[],
    readouts: {
      logprobs?: boolean;
      entropy?: boolean;
      /** Both are those of the logits divided by it; default 1. */
      temperature?: number;
      spans?: ReadSpan[];
      heads?: string[];
      collect?: number[];
      adapter?: boolean;
      /** Row by row: log-probabilities, and entropy before, are read at the tokens whose mark is not 0; default everywhere. */
      mask?: Uint8Array[];
      /** A head of one output, read before each token whose mark is not 0: one number a token, 0 elsewhere. */
      values?: { head: string; mask: Uint8Array[] };
    } & BatchLayout,
    signal?: AbortSignal,
  ): Promise<ForwardResult> {
    this.checkAlive();
    const { prefixOf, paddedTo, padTokens, mask, values, ...asked } = readouts;
    return this.native.forward(
      flatten(sequences, { prefixOf, paddedTo, padTokens }),
      { ...asked, ...flatMasks({ mask, values }) },
      signal,
    );
  }

  /** What a trainer's pass reads (heads apart), of the policy as it is: nothing is dropped out, and nothing is held open. */
  async read(
    sequences: Int32Array[],
    { adapter, ...asked }: Omit<PassReadouts, "heads"> & { adapter?: boolean },
    signal?: AbortSignal,
  ): Promise<ForwardResult> {
    this.checkAlive();
    const batch = flatten(sequences, asked);
    return this.native.forward(batch, { ...nativeReadouts(sequences, batch, asked), adapter }, signal);
  }

  /** The head's logit at each prompt's last token; of rows that are padded, at the PAD token they end in. */
  async logits(
    prompts: Int32Array[],
    head: string,
    options: { adapter?: boolean; signal?: AbortSignal; paddedTo?: readonly number[] } = {},
  ): Promise<Float32Array> {
    this.checkAlive();
    const out = new Float32Array(prompts.length);
    for (let from = 0; from < prompts.length; from += scoreBatch) {
      const rows = prompts.slice(from, from + scoreBatch);
      const spans = rows.map((row, sequence) => ({ sequence, from: row.length - 1, to: row.length }));
      const result = await this.native.forward(
        flatten(rows, { paddedTo: options.paddedTo?.slice(from, from + scoreBatch) }),
        { spans, heads: [head], adapter: options.adapter },
        options.signal,
      );
      out.set(result.heads![head]!, from);
    }
    return out;
  }

  /**
   * Log-probabilities (nats) of what comes next, among these tokens alone: one row of `candidates.length` for each prompt.
   */
  async choices(
    prompts: PromptInput[],
    candidates: number[],
    { signal }: { signal?: AbortSignal } = {},
  ): Promise<Float32Array[]> {
    this.checkAlive();
    const tokens = await Promise.all(prompts.map((input) => this.tokens(input, this.card?.prompt, 0)));
    const out: Float32Array[] = [];
    for (let from = 0; from < tokens.length; from += scoreBatch) {
      const batch = flatten(tokens.slice(from, from + scoreBatch));
      const rows = batch.offsets.slice(1).map((end) => end - 1);
      const asked = { closedSet: { candidates: Int32Array.from(candidates), rows } };
      const { closedSet } = await this.native.forward(batch, asked, signal);
      for (let row = 0; row < rows.length; row++)
        out.push(closedSet!.slice(row * candidates.length, (row + 1) * candidates.length));
    }
    return out;
  }

  /**
   * The policy's confidence in each prompt, as its card says. A head that reads answers makes the policy answer first.
   * Abort leaves nothing behind.
   */
  async score(prompts: PromptInput[], { signal }: { signal?: AbortSignal } = {}): Promise<number[]> {
    if (this.queryCard) {
      const asked = prompts.map((prompt) => questionOf(prompt));
      const { adapter, newTokens } = {
        adapter: this.answering(this.queryCard),
        newTokens: this.queryCard.answer.newTokens,
      };
      const given = await this.firstLines(this.queryCard, asked, { adapter, maxNewTokens: newTokens, signal });
      return this.queried(
        this.queryCard,
        asked,
        given.map(({ text }) => text),
        signal,
      );
    }
    const card = this.needCard();
    const { head, at, prompt } = card.confidence;
    if (at === "answer-mean") {
      const out: number[] = [];
      const settings = {
        maxNewTokens: card.answer.newTokens,
        ...headsInPass(card),
        adapter: this.answering(card),
        signal,
      };
      for await (const sample of this.generate(prompts, settings))
        out.push(confidenceOf(card.confidence, passLogit(card, sample)));
      return out;
    }
    const tokens = await Promise.all(prompts.map((input) => this.tokens(input, prompt ?? card.prompt, 0)));
    return Array.from(await this.logits(tokens, head, { signal }), (logit) => confidenceOf(card.confidence, logit));
  }

  /**
   * Answers as the card says, with its confidence from the same pass where the head reads the answer. With `retrieveBelow`
   * and `retrieve` an answer that is not that sure is given once more, with what was looked up.
   *
   * @throws CredenceError "BAD_OPTION" for one of the two without the other, or no number from 0 to 1; "NO_CARD" where
   *   nothing says how the confidence is read that decides
   */
  async answer(
    question: string,
    options: AnswerOptions & (RetrievalOptions | { retrieveBelow?: undefined; retrieve?: undefined }) = {},
  ): Promise<Answer> {
    const { retrieveBelow, retrieve, ...asked } = options;
    if (retrieveBelow === undefined && retrieve === undefined) return this.answerOnce(question, asked);
    if (retrieve === undefined || !(retrieveBelow !== undefined && retrieveBelow >= 0 && retrieveBelow <= 1))
      throw new CredenceError(
        "BAD_OPTION",
        `retrieveBelow is ${retrieveBelow}${retrieve === undefined ? ", and retrieve is missing" : ""}; expected a confidence from 0 to 1 and a function`,
      );
    if (!asked.readConfidence && !this.queryCard) this.needCard();
    const first = await this.answerOnce(question, asked);
    if (first.confidence !== null && first.confidence >= retrieveBelow) return first;
    const evidence = await retrieve(question, asked.signal);
    if (evidence === null) return first;
    const put = options.withEvidence ?? ((text: string, found: string) => text + evidenceHeading + found);
    const second = await this.answerOnce(put(question, evidence), asked);
    return { ...second, retrieved: { evidence, before: { text: first.text, confidence: first.confidence } } };
  }

  private async answerOnce(
    question: string,
    { history = [], signal, maxNewTokens, fastDecode, readConfidence }: AnswerOptions,
  ): Promise<Answer> {
    if (this.queryCard && !readConfidence) {
      if (history.length > 0)
        throw new CredenceError(
          "BAD_INPUT",
          "the card's prompt is a text without turns: ask one question, not a conversation",
        );
      const { queryCard } = this;
      const settings = { adapter: this.answering(queryCard), maxNewTokens: maxNewTokens ?? queryCard.answer.newTokens };
      const [given] = await this.firstLines(queryCard, [question], { ...settings, fastDecode, signal });
      const [confidence] = await this.queried(queryCard, [question], [given!.text], signal);
      return { text: given!.text, confidence: confidence!, finish: given!.finish, tokens: given!.tokens.length };
    }
    const card = this.card;
    const room = maxNewTokens ?? card?.answer.newTokens ?? 256;
    const tokens = await this.tokens(question, card?.prompt, room, history);
    const reads = !readConfidence && card?.confidence.at === "answer-mean";
    const settings: GenerateSettings = {
      maxNewTokens: room,
      fastDecode,
      signal,
      adapter: card ? this.answering(card) : "on",
      ...(reads ? headsInPass(card) : {}),
    };
    for await (const sample of this.generate([tokens], settings)) {
      const answer = { text: sample.text, finish: sample.finish, tokens: sample.tokens.length };
      if (readConfidence) return { ...answer, confidence: readConfidence(sample.text) };
      if (!card) return { ...answer, confidence: null };
      const { head, prompt } = card.confidence;
      const logit = reads
        ? passLogit(card, sample)
        : (await this.logits([await this.tokens(question, prompt ?? card.prompt, 0, history)], head, { signal }))[0]!;
      return { ...answer, confidence: confidenceOf(card.confidence, logit) };
    }
    throw new CredenceError("ABORTED", "stopped before the answer was there");
  }

  /** The first line of each question's answer, as a query card has them put. */
  private async firstLines(
    { prompt }: QueryCard,
    questions: string[],
    settings: Pick<GenerateSettings, "adapter" | "maxNewTokens" | "fastDecode" | "signal">,
  ): Promise<Sample[]> {
    const tokens = await Promise.all(
      questions.map((question) => textTokens(this.model, this.model.promptText(question, prompt))),
    );
    const out: Sample[] = [];
    for await (const sample of this.generate(tokens, { ...settings, stopWhen: answerIsWhole }))
      out.push({ ...sample, text: sanitised(sample.text) });
    if (out.length < questions.length) throw new CredenceError("ABORTED", "stopped before the answer was there");
    return out;
  }

  /** How likely answers are right, as a query card asks. */
  private async queried(
    { prompt, confidence }: QueryCard,
    questions: string[],
    given: string[],
    signal?: AbortSignal,
  ): Promise<number[]> {
    const texts = questions.map(
      (question, i) => `${this.model.promptText(question, prompt)} ${given[i]}${confidence.query}`,
    );
    const tokens = await Promise.all(texts.map((text) => textTokens(this.model, text)));
    const chosen = await this.choices(tokens, confidence.choices, { signal });
    return chosen.map(([wrong, right]) => confidenceOf(confidence, right! - wrong!));
  }

  private answering(card: Card | QueryCard): "on" | "off" {
    return card.answers === "adapter" ? "on" : "off";
  }

  private needCard(): Card {
    if (this.card) return this.card;
    throw new CredenceError(
      "NO_CARD",
      this.rewardCard
        ? "this policy is a reward model: rewardModel(policy).score takes answers, and there is no confidence to read"
        : "this policy has no credence.json that says how its confidence is read. Load it from a run's best folder",
    );
  }

  /** Trains the adapter, what is owned of the base, and the heads; one trainer at a time makes sense. */
  trainer(options: TrainerOptions): Trainer {
    this.checkAlive();
    const trainer = new Trainer(this, options, () => this.trainers.delete(trainer));
    this.trainers.add(trainer);
    return trainer;
  }

  /** The files of this policy, or of one like it with other numbers, for a folder that is written whole. */
  files(
    card: AnyCard | undefined = this.card ?? this.queryCard ?? this.rewardCard,
    tensors: PolicyTensors = this.native.tensors(),
  ): ReturnType<typeof policyFiles> {
    this.checkAlive();
    return policyFiles(tensors, this.config, card);
  }

  /**
   * Writes a folder that `model.policy({ adapter })` reads, and PEFT where no weights are the policy's own: whole, or not at all.
   */
  save(directory: string, card: AnyCard | undefined = this.card ?? this.queryCard ?? this.rewardCard): void {
    writeFolderAtomic(directory, this.files(card));
  }

  private checkAlive(): void {
    if (this.disposed)
      throw new CredenceError("DISPOSED", "this policy was disposed of; make another with model.policy()");
  }

  /** Waits for work in flight; disposes of its trainers first. */
  async dispose(): Promise<void> {
    if (this.disposed) return;
    this.disposed = true;
    for (const trainer of [...this.trainers]) trainer.dispose();
    this.native.dispose();
    this.model.forget(this);
  }

  [Symbol.asyncDispose](): Promise<void> {
    return this.dispose();
  }
}
