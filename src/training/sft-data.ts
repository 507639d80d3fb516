/** Conversations as optimiser steps see them: tokenized a window at a time, packed by best fit into a budget of tokens. */
import { packBestFit } from "../data/packing.js";
import { shuffle } from "../data/random.js";
import type { RecordFile } from "../data/readers.js";
import { shuffledWindows } from "../data/windows.js";
import { CredenceError } from "../errors.js";
import type { Model } from "../policy/model.js";
import type { Message, SupervisedRow } from "../text/chat.js";
import { type FitOptions, Fitting, type Truncate } from "../text/context.js";
import type { Progress } from "../tracking/progress.js";
import type { CheckpointState } from "./checkpoint.js";

/** What a checkpoint keeps. */
export type SftState = NonNullable<CheckpointState["sft"]>;
/** Where a training stands. */
export type Position = SftState["position"];
/** What going through the rows found: all records, the rows kept and their tokens and weights, and what became of the rest. */
export type Survey = SftState["data"];

/** Before the first pack. */
export const start: Position = { epoch: 0, window: 0, pack: 0, rows: 0, tokens: 0 };

export interface SftData {
  records: RecordFile<{ messages: Message[] }>;
  /** Tokens and weights of a conversation. */
  supervise(messages: Message[]): Promise<SupervisedRow>;
  /** Tokens of a pack at most; no row is split. */
  batchTokens: number;
  fit: FitOptions;
  seed: number;
  epochs: number;
  /** Records shuffled and packed together. */
  windowRecords: number;
  signal?: AbortSignal;
}

/** How conversations become rows, where it is not the default: fail for what is too long or has nothing to learn from. */
export interface RowOptions {
  /** Tokens of a pack at most: rows are packed into it by best fit, and none is split. */
  batchTokens: number;
  /** Records that are shuffled and packed together: what is held in memory. */
  windowRecords: number;
  /** What to do with a row longer than the context or a pack; see `fitToContext`. */
  truncate: Truncate;
  /** What to do with a row of which nothing counts. */
  unsupervised: "error" | "drop";
}

/** Conversations as the model's chat template has them. */
export function conversations(
  model: Model,
  records: SftData["records"],
  { batchTokens, windowRecords, truncate, unsupervised }: RowOptions,
  rest: Pick<SftData, "seed" | "epochs" | "signal">,
): SftData {
  const { contextLength } = model.info;
  return {
    records,
    supervise: (messages) => model.supervise(messages),
    batchTokens,
    fit: {
      contextLength: Math.min(contextLength, batchTokens),
      limit: batchTokens < contextLength ? "batch" : "context",
      truncate,
      unsupervised,
    },
    windowRecords,
    ...rest,
  };
}

/** Rows of one optimiser step. */
export interface Pack {
  sequences: Int32Array[];
  weights: Float32Array[];
  tokens: number;
  epoch: number;
  /** After it. */
  position: Position;
}

/** Conversations tokenized at a time. */
const atOnce = 256;

/**
 * Goes through all the records once, keeping none.
 *
 * @param told is told after each few records how many they were
 * @throws CredenceError "ROW_TOO_LONG", "NOTHING_SUPERVISED" or "DOUBLED_BOS", with how many rows that is true of
 */
export async function survey(data: SftData, told: (records: number) => void): Promise<Survey> {
  const fitting = new Fitting(data.fit);
  const { records } = data;
  let [tokens, weight, doubled] = [0, 0, 0];
  let reason: CredenceError | undefined;
  let number = 0;
  const row = async (messages: Message[], place: number): Promise<SupervisedRow | undefined> => {
    try {
      return await data.supervise(messages);
    } catch (error) {
      if (!(error instanceof CredenceError)) throw error;
      if (error.code !== "DOUBLED_BOS")
        throw new CredenceError(error.code, `${records.name}: record ${place}: ${error.message}`, { cause: error });
      reason ??= error;
      doubled += 1;
      return undefined;
    }
  };
  for await (const some of records.read(0, records.records)) {
    for (let from = 0; from < some.length; from += atOnce) {
      stopIfAborted(data.signal);
      const few = some.slice(from, from + atOnce);
      for (const one of await Promise.all(few.map(({ messages }, i) => row(messages, number + i + 1)))) {
        const kept = one && fitting.fit(one);
        if (!kept) continue;
        tokens += kept.ids.length;
        for (let t = 1; t < kept.weights.length; t++) weight += kept.weights[t]!;
      }
      number += few.length;
      told(few.length);
    }
  }
  if (reason)
    throw new CredenceError("DOUBLED_BOS", `${doubled} of ${number} rows of ${records.name}: ${reason.message}`);
  fitting.check();
  const { kept: rows, longest, dropped, cut, unsupervised } = fitting;
  return { records: records.records, rows, tokens, weight, longest, dropped, cut, unsupervised };
}

/** The same with its progress. */
export async function surveyed(progress: Progress, data: SftData): Promise<Survey> {
  const task = progress.task("reading", data.records.records, "rows");
  try {
    return await survey(data, (rows) => task.advance(rows));
  } finally {
    task.end();
  }
}

function stopIfAborted(signal: AbortSignal | undefined): void {
  if (signal?.aborted)
    throw new CredenceError("ABORTED", "stopped before the first step; started again it begins anew");
}

/**
 * The packs of every epoch from a position on. A window's rows are packed from the longest down (best-fit decreasing), its
 * packs then shuffled, so that long rows are not learnt first.
 */
export async function* packs(data: SftData, from: Position): AsyncGenerator<Pack, void, undefined> {
  let { rows: rowsBefore, tokens: tokensBefore } = from;
  for (let epoch = from.epoch; epoch < data.epochs; epoch++) {
    const plan = { seed: data.seed, epoch, windowRecords: data.windowRecords };
    const first = epoch === from.epoch ? from.window : 0;
    for await (const { window, records, random } of shuffledWindows(data.records, plan, first)) {
      const rows = await fittedRows(data, records);
      const lengths = rows.map((row) => row.ids.length);
      const packed = shuffle(packBestFit(lengths, data.batchTokens), random);
      const done = epoch === from.epoch && window === from.window ? from.pack : 0;
      for (let pack = done; pack < packed.length; pack++) {
        const members = packed[pack]!.map((row) => rows[row]!);
        const tokens = members.reduce((sum, row) => sum + row.ids.length, 0);
        rowsBefore += members.length;
        tokensBefore += tokens;
        yield {
          sequences: members.map((row) => row.ids),
          weights: members.map((row) => row.weights),
          tokens,
          epoch,
          position: { epoch, window, pack: pack + 1, rows: rowsBefore, tokens: tokensBefore },
        };
      }
    }
  }
}

async function fittedRows(
  data: SftData,
  records: { messages: Message[] }[],
): Promise<Pick<SupervisedRow, "ids" | "weights">[]> {
  const fitting = new Fitting(data.fit);
  const rows: Pick<SupervisedRow, "ids" | "weights">[] = [];
  for (let from = 0; from < records.length; from += atOnce) {
    const few = records.slice(from, from + atOnce);
    for (const row of await Promise.all(few.map(({ messages }) => data.supervise(messages)))) {
      const kept = fitting.fit(row);
      if (!kept) continue;
      kept.weights[0] = 0; // what is cut may begin within a turn, and nothing predicts a first token
      rows.push({ ids: kept.ids, weights: kept.weights });
    }
  }
  return rows;
}
