/** Ctrl-C: the first stops the work at the next safe point, the second ends the process at once. */
import { note } from "./output.js";

/** Exit code of a command that was interrupted and may be resumed. */
export const INTERRUPTED = 130;

/**
 * Runs `work` with a signal that SIGINT and SIGTERM abort. The handlers are there only while it runs.
 */
export async function interruptible<T>(work: (signal: AbortSignal) => Promise<T>): Promise<T> {
  const controller = new AbortController();
  const stop = () => {
    if (controller.signal.aborted) process.exit(INTERRUPTED);
    note("stopping at the next safe point; once more ends at once");
    controller.abort();
  };
  process.on("SIGINT", stop).on("SIGTERM", stop);
  try {
    return await work(controller.signal);
  } finally {
    process.off("SIGINT", stop).off("SIGTERM", stop);
  }
}
