import { setMaxListeners } from "node:events";
import { CredenceError } from "../errors.js";

/** A signal that many listen to at once, which is no leak: each stops listening when its work is done. */
function sharedStop(signal?: AbortSignal): { stop: AbortController; heard: AbortSignal } {
  const stop = new AbortController();
  const heard = signal ? AbortSignal.any([signal, stop.signal]) : stop.signal;
  setMaxListeners(0, heard);
  return { stop, heard };
}

/**
 * Does work on items beside each other and yields what it gives in the items' order. When one fails, no further one
 * begins, those begun are waited for, and the failure is thrown.
 *
 * @param width items that are begun and not yet yielded, at most
 */
export async function* inOrder<T, R>(
  items: Iterable<T> | AsyncIterable<T>,
  width: number,
  work: (item: T, signal: AbortSignal) => Promise<R>,
  signal?: AbortSignal,
): AsyncGenerator<R, void, undefined> {
  const { stop, heard } = sharedStop(signal);
  const begun: Promise<R>[] = [];
  let failure: { error: unknown } | undefined;
  const begin = (item: T) => {
    const result = work(item, heard);
    result.catch((error) => {
      failure ??= { error };
      stop.abort();
    });
    begun.push(result);
  };
  try {
    for await (const item of items) {
      begin(item);
      if (begun.length >= width) yield await begun.shift()!;
    }
    while (begun.length > 0) yield await begun.shift()!;
  } catch (error) {
    // What was stopped because of a failure failed too, perhaps at an earlier place: the cause is thrown.
    throw failure ? failure.error : error;
  } finally {
    stop.abort();
    await Promise.allSettled(begun);
  }
}

/**
 * The same for items that come in any order and say their place: 0, 1, 2 and so on, each once. They are read as they come,
 * and the work on each begins at once: it limits itself. What is done and waits for its place is kept.
 *
 * When one fails, or the signal is aborted, reading stops with the next item and the failure is thrown.
 *
 * @param name of an item by its place, for messages
 * @throws CredenceError "BAD_INPUT" for a place that comes twice or not at all, "ABORTED"
 */
export async function* inPlace<T, R>(
  items: Iterable<T> | AsyncIterable<T>,
  { place, name }: { place: (item: T) => number; name: (place: number) => string },
  work: (item: T, signal: AbortSignal) => Promise<R>,
  signal?: AbortSignal,
): AsyncGenerator<R, void, undefined> {
  const { stop, heard } = sharedStop();
  const seen = new Set<number>();
  const begun: Promise<void>[] = [];
  const done = new Map<number, R>();
  let failure: { error: unknown } | undefined;
  let ended = false;
  let wake = () => {};
  const fail = (error: unknown) => {
    failure ??= { error };
    stop.abort();
    wake();
  };
  const begin = (item: T) => {
    const at = place(item);
    if (seen.has(at)) throw new CredenceError("BAD_INPUT", `${name(at)} came twice`);
    seen.add(at);
    const finish = (result: R) => {
      done.set(at, result);
      wake();
    };
    begun.push(work(item, heard).then(finish, fail));
  };
  const read = async () => {
    for await (const item of items) {
      if (stop.signal.aborted) return;
      begin(item);
    }
    ended = true;
    wake();
  };
  const aborted = () => fail(new CredenceError("ABORTED", "stopped; what was yielded before stands"));
  if (signal?.aborted) aborted();
  signal?.addEventListener("abort", aborted, { once: true });
  if (!failure) read().catch(fail);
  try {
    for (let next = 0; ; ) {
      if (failure) throw failure.error;
      if (done.has(next)) {
        const result = done.get(next) as R;
        done.delete(next);
        next++;
        yield result;
      } else if (ended && !seen.has(next)) {
        if (next === seen.size) return;
        throw new CredenceError("BAD_INPUT", `${name(next)} never came`);
      } else {
        await new Promise<void>((resume) => {
          wake = resume;
        });
      }
    }
  } finally {
    stop.abort();
    signal?.removeEventListener("abort", aborted);
    await Promise.allSettled(begun);
  }
}
