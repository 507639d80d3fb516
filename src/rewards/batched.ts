/** A model that scores many completions in one pass, as a reward of one. */
import { CredenceError } from "../errors.js";
import type { NamedReward } from "./reward.js";

export interface BatchItem<R> {
  prompt: string;
  completion: string;
  record: R;
}

interface Waiting<R> {
  item: BatchItem<R>;
  signal: AbortSignal;
  resolve: (score: number) => void;
  reject: (error: unknown) => void;
}

/**
 * Completions that are asked for within a few milliseconds are scored together. Under `limitedReward`, `concurrency` must
 * be at least `size`, or no batch fills.
 *
 * @param score a number for each item, in their order: a reward model's. A throw is one of each item.
 * @param size items of a call at most; default 32
 * @param wait milliseconds that the first of a batch waits for company; default 5
 */
export function batchedReward<R = unknown>(
  name: string,
  score: (items: BatchItem<R>[], signal: AbortSignal) => Promise<ArrayLike<number>>,
  { size = 32, wait = 5 }: { size?: number; wait?: number } = {},
): NamedReward<R> {
  if (!Number.isInteger(size) || size < 1)
    throw new CredenceError("USAGE", `reward ${name}: batches of ${size}; expected a whole number from 1`);
  let waiting: Waiting<R>[] = [];
  let timer: NodeJS.Timeout | undefined;

  const send = async () => {
    clearTimeout(timer);
    timer = undefined;
    const batch = waiting;
    waiting = [];
    try {
      const scores = await score(
        batch.map(({ item }) => item),
        whenAll(batch.map(({ signal }) => signal)),
      );
      if (scores.length !== batch.length)
        throw new CredenceError("BAD_INPUT", `${scores.length} scores of ${batch.length} completions`);
      for (const [i, { resolve }] of batch.entries()) resolve(scores[i]!);
    } catch (error) {
      for (const { reject } of batch) reject(error);
    }
  };

  return {
    name,
    score: (prompt, completion, record, { signal }) =>
      new Promise<number>((resolve, reject) => {
        waiting.push({ item: { prompt, completion, record }, signal, resolve, reject });
        if (waiting.length >= size) void send();
        else timer ??= setTimeout(send, wait);
      }),
  };
}

/** Aborted once all are: a batch goes on while anyone waits for it. */
function whenAll(signals: AbortSignal[]): AbortSignal {
  const all = new AbortController();
  let left = signals.length;
  const one = () => {
    left -= 1;
    if (left === 0) all.abort();
  };
  for (const signal of signals) {
    if (signal.aborted) one();
    else signal.addEventListener("abort", one, { once: true });
  }
  return all.signal;
}
