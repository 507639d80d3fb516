/** Prompts with their completions as rows of the engine: a prompt stands once for all of its completions. */
import { microBatches } from "../../data/packing.js";
import type { Policy } from "../../policy/policy.js";
import type { Rollout } from "./rollouts.js";

/** A prompt with some of its completions. */
export interface Part {
  prompt: Int32Array;
  rollouts: Rollout[];
}

/** Each prompt, then its completions, which go on from it. */
export interface PartRows {
  sequences: Int32Array[];
  prefixOf: number[];
  /** Which completion a row is; a prompt is none. */
  rollouts: (Rollout | undefined)[];
}

export function rowsOf(parts: readonly Part[]): PartRows {
  const rows: PartRows = { sequences: [], prefixOf: [], rollouts: [] };
  const add = (tokens: Int32Array, prefix: number, rollout?: Rollout) => {
    rows.sequences.push(tokens);
    rows.prefixOf.push(prefix);
    rows.rollouts.push(rollout);
  };
  for (const { prompt, rollouts } of parts) {
    const root = rows.sequences.length;
    add(prompt, -1);
    for (const rollout of rollouts) add(rollout.tokens, root, rollout);
  }
  return rows;
}

/** What a policy finds in a completion, one number a token. */
export interface Scored {
  logprobs?: Float32Array;
  /** What the head says before each token. */
  values?: Float32Array;
  /** And behind the last one. */
  after?: number;
}

/**
 * Reads completions with a policy: log-probabilities, a head before each token, or both.
 *
 * @param asked.temperature of the log-probabilities, default 1
 * @param asked.after whether the head is read behind the last token too
 * @param asked.budget tokens of a pass at most; a prompt stays with its completions
 */
export async function scoreRollouts(
  policy: Policy,
  parts: readonly Part[],
  asked: {
    logprobs?: boolean;
    temperature?: number;
    head?: string;
    after?: boolean;
    adapter?: boolean;
    budget: number;
    signal?: AbortSignal;
  },
): Promise<Map<Rollout, Scored>> {
  const { logprobs = false, temperature, head, after, adapter, budget, signal } = asked;
  const out = new Map<Rollout, Scored>();
  const lengths = parts.map(({ prompt, rollouts }) =>
    rollouts.reduce((sum, { tokens }) => sum + tokens.length, prompt.length),
  );
  for (const places of microBatches(lengths, budget)) {
    const { sequences, prefixOf, rollouts } = rowsOf(places.map((place) => parts[place]!));
    const mask = sequences.map(({ length }, row) => new Uint8Array(length).fill(rollouts[row] ? 1 : 0));
    const values = head === undefined ? undefined : { head, mask };
    const ends =
      head !== undefined && after
        ? {
            heads: [head],
            spans: sequences.flatMap(({ length }, sequence) =>
              rollouts[sequence] ? { sequence, from: length - 1, to: length } : [],
            ),
          }
        : {};
    const readouts = { logprobs, temperature, mask, values, prefixOf, adapter, ...ends };
    const result = await policy.forward(sequences, readouts, signal);
    let at = 0;
    let count = 0;
    for (const [row, { length }] of sequences.entries()) {
      const rollout = rollouts[row];
      if (rollout)
        out.set(rollout, {
          logprobs: result.logprobs?.slice(at, at + length),
          values: result.values?.slice(at, at + length),
          after: result.heads?.[head!]?.[count++],
        });
      at += length;
    }
  }
  return out;
}
