/**
 * Asks a policy whether answers are right: of all that could follow the uncertainty query only two tokens are looked at, so
 * that two rows of the output matrix are read. Answers to one question stand behind it once.
 */

import { flatten } from "../../data/packing.js";
import { CredenceError } from "../../errors.js";
import { sigmoid } from "../../model/calibrator.js";
import type { Policy } from "../../policy/policy.js";
import { choiceTokens, queryText, sanitised, type TextParts, textOf, textTokens } from "./wire.js";

/** A question and an answer to it, of which the first line is asked about. */
export interface QueryRow extends TextParts {
  output: string;
}

export interface QueryOptions {
  /** "off": the base is asked (the published zero-shot classifier). Default "on". */
  adapter?: "on" | "off";
  /** Whether answers to one question share it. Default true; the numbers are the same to rounding. */
  share?: boolean;
  signal?: AbortSignal;
  /** Told of rows that are done, and the tokens that were read for them. */
  onScored?: (rows: number, tokens: number) => void;
}

/** Tokens of a pass, and rows behind one question in it, at most; one row may be longer. */
const [passTokens, rowsTogether] = [8192, 64];
/** Fewer tokens than these are read again rather than shared. */
const leastShared = 8;

/** Rows of a pass that go on from the same tokens: a prefix, which may be empty, and each row's rest. */
interface Family {
  prefix: Int32Array;
  rows: { place: number; rest: Int32Array }[];
}

function commonLength(rows: readonly Int32Array[]): number {
  const [first, ...others] = rows;
  // Each row keeps a token of its own, behind which the query is read.
  let length = Math.min(...rows.map((row) => row.length)) - 1;
  for (const other of others) {
    let same = 0;
    while (same < length && other[same] === first![same]) same += 1;
    length = same;
  }
  return length;
}

function familiesOf(questions: readonly string[], tokens: readonly Int32Array[], share: boolean): Family[] {
  const alone = (place: number): Family => ({
    prefix: new Int32Array(),
    rows: [{ place, rest: tokens[place]! }],
  });
  if (!share) return tokens.map((_, place) => alone(place));
  const byQuestion = new Map<string, number[]>();
  for (const [place, question] of questions.entries()) {
    const places = byQuestion.get(question);
    if (places) places.push(place);
    else byQuestion.set(question, [place]);
  }
  const families: Family[] = [];
  for (const places of byQuestion.values())
    for (let from = 0; from < places.length; from += rowsTogether) {
      const some = places.slice(from, from + rowsTogether);
      const length = commonLength(some.map((place) => tokens[place]!));
      if (some.length === 1 || length < leastShared) families.push(...some.map(alone));
      else
        families.push({
          prefix: tokens[some[0]!]!.subarray(0, length),
          rows: some.map((place) => ({ place, rest: tokens[place]!.subarray(length) })),
        });
    }
  return families;
}

const tokensOf = ({ prefix, rows }: Family): number => rows.reduce((sum, { rest }) => sum + rest.length, prefix.length);

/**
 * Log-probabilities (nats) of `i` (wrong) and `ii` (right) behind each answer's query, among the two alone.
 *
 * @returns [rows, 2], row-major, in the order given
 * @throws CredenceError "BAD_TOKENIZER" where the two cannot be told apart; "TOO_LONG" naming a row that the model cannot read
 */
export async function queryLogprobs(
  policy: Policy,
  rows: readonly QueryRow[],
  options: QueryOptions = {},
): Promise<Float32Array> {
  const { model } = policy;
  const candidates = await choiceTokens(model.tokenizer);
  const tokens = await Promise.all(rows.map((row) => textTokens(model, queryText(row, sanitised(row.output)))));
  return choiceLogprobs(policy, { tokens, questions: rows.map((row) => textOf(row)), candidates }, options);
}

/** Rows of token ids, the question that each is about (those of one question may go on from the same tokens), and what may follow. */
export interface ChoiceRows {
  tokens: readonly Int32Array[];
  questions: readonly string[];
  candidates: readonly number[];
}

/** The same of token ids as they are: [rows, candidates]. */
export async function choiceLogprobs(
  policy: Policy,
  { tokens, questions, candidates }: ChoiceRows,
  { adapter = "on", share = true, signal, onScored }: QueryOptions = {},
): Promise<Float32Array> {
  const { contextLength } = policy.model.info;
  for (const [place, row] of tokens.entries())
    if (row.length > contextLength)
      throw new CredenceError(
        "TOO_LONG",
        `row ${place + 1}: the question, the answer and the query are ${row.length} tokens, longer than the context (${contextLength}). Give fewer examples, or leave the row out`,
      );
  const out = new Float32Array(candidates.length * tokens.length);
  const families = familiesOf(questions, tokens, share);
  for (let from = 0; from < families.length; ) {
    let to = from;
    for (let sum = 0; to < families.length; to += 1) {
      sum += tokensOf(families[to]!);
      if (to > from && sum > passTokens) break;
    }
    const pass = families.slice(from, to);
    await scorePass(policy, pass, Int32Array.from(candidates), { out, adapter, signal });
    const rows = pass.reduce((sum, family) => sum + family.rows.length, 0);
    onScored?.(
      rows,
      pass.reduce((sum, family) => sum + tokensOf(family), 0),
    );
    from = to;
  }
  return out;
}

async function scorePass(
  policy: Policy,
  families: readonly Family[],
  candidates: Int32Array,
  { out, adapter, signal }: { out: Float32Array; adapter: "on" | "off"; signal: AbortSignal | undefined },
): Promise<void> {
  const sequences: Int32Array[] = [];
  const prefixOf: number[] = [];
  const places: number[] = [];
  const asked: number[] = [];
  for (const { prefix, rows } of families) {
    const parent = prefix.length > 0 ? sequences.length : -1;
    if (parent >= 0) {
      sequences.push(prefix);
      prefixOf.push(-1);
    }
    for (const { place, rest } of rows) {
      asked.push(sequences.length);
      places.push(place);
      sequences.push(rest);
      prefixOf.push(parent);
    }
  }
  const shared = prefixOf.some((parent) => parent >= 0);
  const batch = flatten(sequences, shared ? { prefixOf } : {});
  const last = Int32Array.from(asked, (sequence) => batch.offsets[sequence + 1]! - 1);
  const { closedSet } = await policy.native.forward(
    batch,
    { closedSet: { candidates, rows: last }, adapter: adapter === "on" },
    signal,
  );
  const width = candidates.length;
  for (const [i, place] of places.entries()) out.set(closedSet!.subarray(width * i, width * (i + 1)), width * place);
}

/**
 * P(correct) of each row of two logits or log-probabilities, [rows, 2]: their softmax, second of the two, both divided by a
 * temperature first.
 */
export function probabilities(logits: Float32Array, temperature = 1): Float64Array {
  if (!(temperature > 0))
    throw new CredenceError("BAD_OPTION", `a temperature of ${temperature}; expected a number above 0`);
  return Float64Array.from({ length: logits.length / 2 }, (_, row) =>
    sigmoid((logits[2 * row + 1]! - logits[2 * row]!) / temperature),
  );
}
