/** Prompts with their completions as passes of the engine: a prompt stands once for all of its completions. */
import { microBatches } from "../../data/packing.js";
import type { ReadSpan } from "../../native.js";
import type { Policy } from "../../policy/policy.js";
import type { Group, Rollout } from "./rollouts.js";

/** Rows of one pass: each prompt, then its completions, which go on from it. */
export interface PassRows {
  sequences: Int32Array[];
  prefixOf: number[];
  /** The rollouts in the order of their rows, and where each one's tokens begin in the flat batch. */
  rollouts: Rollout[];
  starts: number[];
  /** Where a value is read for each token of each rollout, in order: the row before the token. */
  spans: ReadSpan[];
  /** The same rows of the flat batch. */
  before: number[];
}

/** Some rollouts of a group. */
export interface Part {
  prompt: Int32Array;
  rollouts: Rollout[];
}

/** Cuts groups, in order, into passes of at most so many tokens; a group stays together. */
export function passesOf(groups: readonly Part[], budget: number): PassRows[] {
  const lengths = groups.map(({ prompt, rollouts }) =>
    rollouts.reduce((sum, { tokens }) => sum + tokens.length, prompt.length),
  );
  return microBatches(lengths, budget).map((places) => rowsOf(places.map((place) => groups[place]!)));
}

function rowsOf(groups: Part[]): PassRows {
  const rows: PassRows = { sequences: [], prefixOf: [], rollouts: [], starts: [], spans: [], before: [] };
  let at = 0;
  for (const { prompt, rollouts } of groups) {
    const root = rows.sequences.length;
    rows.sequences.push(prompt);
    rows.prefixOf.push(-1);
    at += prompt.length;
    const last = at - 1;
    for (const rollout of rollouts) {
      const sequence = rows.sequences.length;
      rows.sequences.push(rollout.tokens);
      rows.prefixOf.push(root);
      rows.rollouts.push(rollout);
      rows.starts.push(at);
      rows.spans.push({ sequence: root, from: prompt.length - 1, to: prompt.length });
      rows.before.push(last);
      for (let t = 1; t < rollout.tokens.length; t++) {
        rows.spans.push({ sequence, from: t - 1, to: t });
        rows.before.push(at + t - 1);
      }
      at += rollout.tokens.length;
    }
  }
  return rows;
}

/** What a policy finds in completions. */
export interface Scored {
  /** Log-probability of each token. */
  logprobs?: Float32Array;
  /** The value before each token. */
  values?: Float32Array;
}

/** Reads completions with a policy: log-probabilities, a head before each token, or both. */
export async function scoreRollouts<Data>(
  policy: Policy,
  groups: readonly Group<Data>[],
  asked: { logprobs?: boolean; head?: string; adapter?: boolean; budget: number; signal?: AbortSignal },
): Promise<Map<Rollout, Scored>> {
  const { logprobs = false, head, adapter, budget, signal } = asked;
  const out = new Map<Rollout, Scored>();
  for (const { sequences, prefixOf, rollouts, starts, spans } of passesOf(groups, budget)) {
    const result = await policy.forward(
      sequences,
      { logprobs, prefixOf, adapter, ...(head === undefined ? {} : { heads: [head], spans }) },
      signal,
    );
    let at = 0;
    for (const [i, rollout] of rollouts.entries()) {
      const length = rollout.tokens.length;
      out.set(rollout, {
        logprobs: result.logprobs?.slice(starts[i]!, starts[i]! + length),
        values: head === undefined ? undefined : result.heads![head]!.slice(at, at + length),
      });
      at += length;
    }
  }
  return out;
}
