/**
 * LoRA + Prompt (Kapoor et al. 2024): an adapter learns to choose between two tokens behind the uncertainty query, while its
 * distribution at the right answers' tokens is held at the base's, or another adapter's:
 *
 *     mean over rows of -log p(label) + kappa * (sum over the right answer's tokens of the divergence)
 *
 * Query and right answer stand behind what they share, so that a row is one pass; the base's side of the divergence is
 * computed in the same pass with the adapter off.
 */
import { microBatches } from "../../data/packing.js";
import type { DivergenceKind, ForwardResult, Upstream } from "../../native.js";
import type { Policy } from "../../policy/policy.js";
import type { PassReadouts, Trainer } from "../../policy/trainer.js";
import type { OwnStep } from "../../training/loop.js";
import type { CalibrationCompat } from "./compat.js";
import { type ClosedSetLoss, divergenceOf } from "./divergences.js";
import { heldFrom, type Lesson } from "./lessons.js";

export interface TuningLoss {
  /** What the model chooses between behind the query; of two, the first is for wrong. */
  candidates: readonly number[];
  answer: ClosedSetLoss;
  /** Weight of the divergence; 0: none. */
  kappa: number;
  divergence: DivergenceKind;
  /** What the distribution is held at; default the base. */
  reference?: Policy | undefined;
  microBatchTokens: number;
  compat: CalibrationCompat;
}

/** Sums over rows. */
export interface TuningSums {
  loss: number;
  query: number;
  divergence: number;
  /** Rows whose likelier of two tokens is the true one. */
  right: number;
}

/** A pass whose read-outs wait for their gradients, or one that nothing is learnt from. */
interface Pass extends ForwardResult {
  backward?(upstream: Upstream): Promise<void>;
}
type Run = (sequences: Int32Array[], asked: Omit<PassReadouts, "heads">) => Promise<Pass>;

/** Lessons of one pass. */
interface Part {
  sequences: Int32Array[];
  prefixOf: number[];
  at: { sequence: number; index: number }[];
  mask: Uint8Array[];
}

const tokensOf = ({ prefix, query, target }: Lesson): number => prefix.length + query.length + target.length;

function layOut(lessons: readonly Lesson[], held: readonly number[], withTargets: boolean): Part {
  const part: Part = { sequences: [], prefixOf: [], at: [], mask: [] };
  const add = (tokens: Int32Array, prefix: number, marked: (index: number) => boolean): number => {
    part.mask.push(Uint8Array.from(tokens, (_, i) => (marked(i) ? 1 : 0)));
    part.prefixOf.push(prefix);
    return part.sequences.push(tokens) - 1;
  };
  for (const [i, { prefix, query, target }] of lessons.entries()) {
    const from = held[i]!;
    const parent = prefix.length > 0 ? add(prefix, -1, (t) => withTargets && t > 0 && t >= from) : -1;
    part.at.push({ sequence: add(query, parent, () => false), index: query.length - 1 });
    // Nothing predicts the first token of all.
    if (withTargets && target.length > 0)
      add(target, parent, (t) => prefix.length + t > 0 && prefix.length + t >= from);
  }
  return part;
}

/** The loss of lessons, and with a pass that can its gradients, which add up. */
async function lossOver(run: Run, lessons: readonly Lesson[], loss: TuningLoss): Promise<TuningSums> {
  const { candidates, answer, kappa, reference, microBatchTokens, compat } = loss;
  const held = heldFrom(lessons, compat);
  const sums: TuningSums = { loss: 0, query: 0, divergence: 0, right: 0 };
  const ownPass = kappa > 0 && reference === undefined;
  for (const places of microBatches(lessons.map(tokensOf), microBatchTokens)) {
    const some = places.map((place) => lessons[place]!);
    const from = places.map((place) => held[place]!);
    const { sequences, prefixOf, at, mask } = layOut(some, from, ownPass);
    const held1 = ownPass && mask.some((row) => row.includes(1));
    const pass = await run(sequences, {
      prefixOf,
      closedSet: { candidates: [...candidates], at },
      ...(held1 ? { divergence: { kind: loss.divergence, mask } } : {}),
    });
    const width = candidates.length;
    const upstream = new Float32Array(some.length * width);
    for (const [i, { label }] of some.entries()) {
      const logprobs = pass.closedSet!.subarray(i * width, (i + 1) * width);
      const { loss: own, gradient } = answer.of(logprobs, label);
      sums.query += own;
      if (width === 2 && logprobs[label]! > logprobs[1 - label]!) sums.right += 1;
      upstream.set(gradient, i * width);
    }
    let weights: Float32Array | undefined;
    if (held1) {
      for (const value of pass.divergence!) sums.divergence += value;
      weights = Float32Array.from(
        mask.flatMap((row) => [...row]),
        (mark) => mark * kappa,
      );
    }
    await pass.backward?.({ closedSet: upstream, ...(weights ? { divergence: weights } : {}) });
    if (kappa > 0 && reference) sums.divergence += await heldAt(run, some, from, { ...loss, reference });
  }
  sums.loss = sums.query + kappa * sums.divergence;
  return sums;
}

/** The divergence from another policy, over the whole vocabulary at the held tokens, and its gradients. */
async function heldAt(
  run: Run,
  lessons: readonly Lesson[],
  from: readonly number[],
  { kappa, divergence, reference }: TuningLoss & { reference: Policy },
): Promise<number> {
  const sequences = lessons.map(({ prefix, target }) => Int32Array.of(...prefix, ...target));
  const at = sequences.flatMap(({ length }, sequence) =>
    Array.from({ length: length - Math.max(1, from[sequence]!) }, (_, i) => ({
      sequence,
      index: Math.max(1, from[sequence]!) - 1 + i,
    })),
  );
  if (at.length === 0) return 0;
  const width = reference.model.info.vocabularySize;
  const closedSet = { candidates: Array.from({ length: width }, (_, token) => token), at };
  const other = (await reference.read(sequences, { closedSet })).closedSet!;
  const pass = await run(sequences, { closedSet });
  const upstream = new Float32Array(at.length * width);
  let sum = 0;
  for (let row = 0; row < at.length; row++) {
    const slice = (all: Float32Array) => all.subarray(row * width, (row + 1) * width);
    const { loss, gradient } = divergenceOf(divergence, slice(pass.closedSet!), slice(other));
    sum += loss;
    slice(upstream).set(gradient.map((value) => value * kappa));
  }
  await pass.backward?.({ closedSet: upstream });
  return sum;
}

/** An optimiser step over these lessons. */
export function tuningStep(lessons: readonly Lesson[], loss: TuningLoss): OwnStep {
  return {
    tokens: lessons.reduce((sum, lesson) => sum + tokensOf(lesson), 0),
    async accumulate(trainer) {
      const sums = await lossOver((sequences, asked) => trainer.forward(sequences, asked), lessons, loss);
      return { loss: sums.loss, count: lessons.length, values: meansOf(sums, lessons.length) };
    },
  };
}

function meansOf({ query, divergence, right }: TuningSums, count: number): Record<string, number> {
  return { queryLoss: query / count, divergence: divergence / count, accuracy: right / count };
}

/** Lessons of a pass that is no step. */
const evaluatedTogether = 64;

/**
 * Means over lessons, without dropout: nothing is learnt.
 *
 * @param dropping what is read as while training, dropout and all (A9-26), by a trainer that takes no step
 */
export async function tuningLosses(
  policy: Policy,
  lessons: readonly Lesson[],
  loss: TuningLoss,
  { dropping, signal }: { dropping?: Trainer; signal?: AbortSignal } = {},
): Promise<{ loss: number; values: Record<string, number> }> {
  const run: Run = async (sequences, asked) => {
    if (!dropping) return policy.read(sequences, asked, signal);
    const { backward: _, ...read } = await dropping.forward(sequences, asked);
    return read;
  };
  const all: TuningSums = { loss: 0, query: 0, divergence: 0, right: 0 };
  for (let from = 0; from < lessons.length; from += evaluatedTogether) {
    const sums = await lossOver(run, lessons.slice(from, from + evaluatedTogether), loss);
    for (const name of Object.keys(all) as (keyof TuningSums)[]) all[name] += sums[name];
  }
  return { loss: all.loss / lessons.length, values: meansOf(all, lessons.length) };
}
