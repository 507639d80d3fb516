/**
 * Losses of one's own over rows that belong together: a pair of answers, one rated answer. Rows are cut into passes that
 * never part a unit; each pass is held open until its units' losses have said what its gradients are.
 */
import { type BatchLayout, microBatches } from "../data/packing.js";
import type { ReadSpan } from "../native.js";
import type { Policy } from "../policy/policy.js";
import type { OwnStep } from "./loop.js";

/** Rows that are read together. */
export interface UnitRows {
  sequences: Int32Array[];
  /** Which of its rows each goes on from, or -1. */
  prefixOf: number[];
  /** PAD tokens at each row's end; default none. */
  padTokens?: number[];
  /** Where a head is read, by the unit's own rows; nothing where log-probabilities are. */
  spans: ReadSpan[];
}

/** Rows that a loss reads together. */
export interface Unit extends UnitRows {
  /**
   * @param read the head at each span, or each token's log-probability row after row
   * @returns the loss, its derivative by each number read, and numbers to be averaged over units
   */
  loss(read: Float32Array): { loss: number; gradient: ArrayLike<number>; told: Record<string, number> };
}

/** What is read of the rows: a head, or every token's log-probability. */
export type Reads = { head: string } | "logprobs";

export const unitTokens = ({ sequences }: UnitRows): number => sequences.reduce((sum, row) => sum + row.length, 0);

/** Units one after the other as one batch. */
function layOut(units: readonly UnitRows[]): { sequences: Int32Array[]; layout: BatchLayout; spans: ReadSpan[] } {
  const sequences: Int32Array[] = [];
  const prefixOf: number[] = [];
  const padTokens: number[] = [];
  const spans: ReadSpan[] = [];
  for (const unit of units) {
    const first = sequences.length;
    sequences.push(...unit.sequences);
    prefixOf.push(...unit.prefixOf.map((prefix) => (prefix < 0 ? -1 : first + prefix)));
    padTokens.push(...(unit.padTokens ?? unit.sequences.map(() => 0)));
    spans.push(...unit.spans.map((span) => ({ ...span, sequence: first + span.sequence })));
  }
  return { sequences, layout: { prefixOf, padTokens }, spans };
}

/** Each unit's part of what was read of all of them, or of its gradient. */
function* partsOf<Rows extends UnitRows>(
  units: readonly Rows[],
  reads: Reads,
  all: Float32Array,
): Generator<[Rows, Float32Array]> {
  let at = 0;
  for (const unit of units) {
    const count = reads === "logprobs" ? unitTokens(unit) : unit.spans.length;
    yield [unit, all.subarray(at, at + count)];
    at += count;
  }
}

/** Units in their order, cut where the next one would exceed the budget of tokens. */
const passes = <Rows extends UnitRows>(units: readonly Rows[], tokens: number): Rows[][] =>
  microBatches(units.map(unitTokens), tokens).map((pass) => pass.map((unit) => units[unit]!));

/** Sums what is told of units. */
function addUp(sums: Record<string, number>, told: Record<string, number>): void {
  for (const [name, value] of Object.entries(told)) sums[name] = (sums[name] ?? 0) + value;
}

const means = (sums: Record<string, number>, count: number): Record<string, number> =>
  Object.fromEntries(Object.entries(sums).map(([name, sum]) => [name, sum / count]));

/** An optimiser step of these units: the mean of their losses. */
export function unitStep(units: readonly Unit[], reads: Reads, microBatchTokens: number): OwnStep {
  return {
    tokens: units.reduce((sum, unit) => sum + unitTokens(unit), 0),
    async accumulate(trainer) {
      let sum = 0;
      const sums: Record<string, number> = {};
      for (const some of passes(units, microBatchTokens)) {
        const { sequences, layout, spans } = layOut(some);
        const pass = await trainer.forward(sequences, {
          ...layout,
          ...(reads === "logprobs" ? { readouts: ["logprobs"] } : { heads: [{ name: reads.head, spans }] }),
        });
        const read = reads === "logprobs" ? pass.logprobs! : pass.heads![reads.head]!;
        const upstream = new Float32Array(read.length);
        let at = 0;
        for (const [unit, part] of partsOf(some, reads, read)) {
          const { loss, gradient, told } = unit.loss(part);
          upstream.set(gradient, at);
          at += part.length;
          sum += loss;
          addUp(sums, told);
        }
        await pass.backward(reads === "logprobs" ? { logprobs: upstream } : { heads: { [reads.head]: upstream } });
      }
      return { loss: sum, count: units.length, values: means(sums, units.length) };
    },
  };
}

/** What is read of units without learning from them, one array a unit. */
export async function* readUnits<Rows extends UnitRows>(
  policy: Policy,
  units: readonly Rows[],
  reads: Reads,
  { microBatchTokens, adapter, signal }: { microBatchTokens: number; adapter?: boolean; signal?: AbortSignal },
): AsyncGenerator<[Rows, Float32Array], void, undefined> {
  for (const some of passes(units, microBatchTokens)) {
    const { sequences, layout, spans } = layOut(some);
    const asked = reads === "logprobs" ? { logprobs: true } : { spans, heads: [reads.head] };
    const result = await policy.forward(sequences, { ...layout, ...asked, adapter }, signal);
    yield* partsOf(some, reads, reads === "logprobs" ? result.logprobs! : result.heads![reads.head]!);
  }
}

/** The mean loss of units, and the means of what is told of them. */
export async function meanOfUnits(
  policy: Policy,
  units: readonly Unit[],
  reads: Reads,
  options: { microBatchTokens: number; signal?: AbortSignal },
): Promise<{ loss: number; values: Record<string, number> }> {
  let sum = 0;
  const sums: Record<string, number> = {};
  for await (const [unit, read] of readUnits(policy, units, reads, options)) {
    const { loss, told } = unit.loss(read);
    sum += loss;
    addUp(sums, told);
  }
  return { loss: sum / units.length, values: means(sums, units.length) };
}
