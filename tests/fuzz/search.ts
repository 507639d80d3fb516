/** What every target must hold for every input, and the search for an input for which it does not. */
import fc from "fast-check";
import { CredenceError } from "../../src/errors.js";
import { type Change, drawn, mutate } from "./mutations.js";
import type { Target } from "./targets.js";

/** Seconds. Inputs have at most 64 KiB, a busy machine is slow: what needs longer has a bad loop in it. */
const patience = 10;

/** Bytes that may be asked for at once, before the file has shown that it holds them. */
const allowance = 1 << 20;

// The largest piece of memory asked for since a reading began.
let asked = 0;
const watched =
  (plain: (size: number) => Buffer<ArrayBuffer>) =>
  (size: number): Buffer<ArrayBuffer> => {
    asked = Math.max(asked, size);
    return plain(size);
  };
Object.assign(Buffer, { alloc: watched(Buffer.alloc), allocUnsafe: watched(Buffer.allocUnsafe) });

/**
 * One input through a target.
 *
 * @throws what is no refusal: another error than a CredenceError, one without a code, one that does not name the file, a
 *   reading that takes long or asks for memory that the file does not warrant
 */
export async function check(target: Target, input: Uint8Array): Promise<void> {
  const path = target.write(input);
  const started = performance.now();
  asked = 0;
  try {
    await target.read(path, input);
  } catch (error) {
    if (!(error instanceof CredenceError)) throw error;
    if (!/^[A-Z_]+$/.test(error.code)) throw new Error(`the code ${error.code} of: ${error.message}`, { cause: error });
    if (!error.message.includes(path)) throw new Error(`does not name its file: ${error.message}`, { cause: error });
  }
  const seconds = (performance.now() - started) / 1000;
  if (seconds > patience) throw new Error(`took ${seconds.toFixed(1)} s for ${input.length} bytes`);
  if (asked > allowance) throw new Error(`asked for ${asked} bytes of memory for a file of ${input.length}`);
}

export interface Found {
  executions: number;
  /** The smallest input found that breaks the target, and how. */
  failure?: { input: Buffer; error: unknown };
}

/** So many inputs near the target's seeds; the same seed gives the same ones. */
export async function search(target: Target, runs: number, seed: number): Promise<Found> {
  let executions = 0;
  const property = fc.asyncProperty(drawn(target.seeds.length), async ([which, changes]: [number, Change[]]) => {
    executions += 1;
    await check(target, mutate(target, which, changes));
  });
  const result = await fc.check(property, { numRuns: runs, seed });
  if (!result.failed) return { executions };
  const [[which, changes]] = result.counterexample!;
  return { executions, failure: { input: mutate(target, which, changes), error: result.errorInstance } };
}
