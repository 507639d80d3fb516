/** When a row of generation is done, and what to do with one that ended without being complete. */
import { CredenceError } from "../errors.js";

/** What may come next and make a match another one: digits, decimals, letters, units. */
const usualProbes = ["0", ".0", ",0", "%", " %", "/10", "a", "A", "-", "_"];

/**
 * A predicate over the text of one row so far: whether it holds a match of the pattern that nothing to come would change.
 * /Confidence: \d+/ does not stop at "Confidence: 1", since "10" may come, but at "Confidence: 1." and "Confidence: 1\n";
 * /Confidence: (?:10|\d)/ stops at "Confidence: 10" at once. A row whose end of turn is sampled is done anyway.
 *
 * @param probes texts whose coming is tried out; a pattern that grows by something else needs its own
 */
export function stopWhen(pattern: RegExp, { probes = usualProbes } = {}): (text: string) => boolean {
  const own = new RegExp(pattern.source, pattern.flags.replace(/[gy]/g, ""));
  return (text) => {
    const match = own.exec(text);
    if (!match) return false;
    return probes.every((probe) => {
      const then = own.exec(text + probe);
      return then !== null && then.index === match.index && then[0] === match[0];
    });
  };
}

export interface RetrySettings {
  /** A completion that matches is complete, e.g. /Confidence: \d/. */
  complete: RegExp;
  /** How often one that does not is continued from its own end; default 3. */
  retries?: number;
  /** Written behind one that is still not complete, for one last continuation: ". Confidence:". Default: none. */
  cue?: string;
}

export type NextTry =
  /** Nothing more to do. `complete` false: it is a format failure, to be counted. */
  | { kind: "done"; complete: boolean }
  /** Go on from `text`, which ends in the cue where it is `forced`. */
  | { kind: "continue"; text: string; forced: boolean };

/**
 * @param completion all that was written so far, without the token that ended it
 * @param tries continuations so far, the forced one among them
 */
export function nextTry(completion: string, tries: number, { complete, retries = 3, cue }: RetrySettings): NextTry {
  if (!Number.isInteger(retries) || retries < 0)
    throw new CredenceError("USAGE", `${retries} retries; expected a whole number from 0`);
  if (new RegExp(complete.source, complete.flags.replace(/[gy]/g, "")).test(completion))
    return { kind: "done", complete: true };
  if (tries < retries) return { kind: "continue", text: completion, forced: false };
  if (cue !== undefined && tries === retries) return { kind: "continue", text: completion + cue, forced: true };
  return { kind: "done", complete: false };
}
