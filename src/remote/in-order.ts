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
  const stop = new AbortController();
  const either = signal ? AbortSignal.any([signal, stop.signal]) : stop.signal;
  const begun: Promise<R>[] = [];
  let failure: { error: unknown } | undefined;
  const begin = (item: T) => {
    const result = work(item, either);
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
