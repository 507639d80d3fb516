/** Pairs and rated answers as a reward model learns from them: where its head is read, and the loss of what it says there. */
import { CredenceError } from "../../errors.js";
import type { Unit } from "../units.js";
import { crossEntropyLoss, sequencePairLoss, squaredLoss, type Tail, tokenPairLoss } from "./losses.js";
import { type PairRow, sharedTokens } from "./pairs.js";
import type { AnswerRow } from "./rows.js";

/** What is learnt of pairs. */
export type PairwiseLoss =
  /** At every token from the first at which the answers differ; see `tokenPairLoss`. Default tail "held". */
  | { kind: "token"; tail?: Tail }
  /** At the last tokens alone; see `sequencePairLoss`. A pair's own margin comes on top. */
  | { kind: "sequence"; margin?: number };

/** What is learnt of answers that are rated one by one, at the last token. */
export type RatingLoss = { kind: "cross-entropy" } | { kind: "squared" };

/** An answer with what its score should say. */
export interface RatedRow extends AnswerRow {
  /** Of "cross-entropy", from 0 to 1. */
  target: number;
}

/** The rows of a pair, what they begin with standing once: [shared, chosen, rejected], or the two where they share nothing. */
export function pairSequences(pair: PairRow): { shared: number; sequences: Int32Array[]; prefixOf: number[] } {
  const shared = sharedTokens(pair);
  const rests = [pair.chosen.ids.subarray(shared), pair.rejected.ids.subarray(shared)];
  return shared > 0
    ? { shared, sequences: [pair.chosen.ids.subarray(0, shared), ...rests], prefixOf: [-1, 0, 0] }
    : { shared, sequences: rests, prefixOf: [-1, -1] };
}

/** What metrics tell of a pair's scores. */
const toldOf = (chosen: number, rejected: number) => ({
  accuracy: chosen > rejected ? 1 : 0,
  margin: chosen - rejected,
  chosenScore: chosen,
});

/** @param pad the PAD token, which a tail of kind "padded" reads */
export function pairUnit(pair: PairRow, loss: PairwiseLoss, pad: number | undefined): Unit {
  return loss.kind === "token" ? tokenUnit(pair, loss.tail ?? "held", pad) : sequenceUnit(pair, loss.margin ?? 0);
}

function sequenceUnit(pair: PairRow, margin: number): Unit {
  const { sequences, prefixOf } = pairSequences(pair);
  const first = sequences.length - 2;
  const spans = [first, first + 1].map((sequence) => {
    const { length } = sequences[sequence]!;
    return { sequence, from: length - 1, to: length };
  });
  return {
    sequences,
    prefixOf,
    spans,
    loss: ([chosen, rejected]) => {
      const got = sequencePairLoss(chosen!, rejected!, margin + pair.margin);
      return { loss: got.loss, gradient: [got.chosen, got.rejected], told: toldOf(chosen!, rejected!) };
    },
  };
}

function tokenUnit(pair: PairRow, tail: Tail, pad: number | undefined): Unit {
  const { shared, sequences, prefixOf } = pairSequences(pair);
  const first = sequences.length - 2;
  const lengths = [sequences[first]!.length, sequences[first + 1]!.length] as const;
  const longest = Math.max(...lengths);
  const pads = lengths.map((length) => (tail === "padded" ? longest - length : 0));
  for (const [side, count] of pads.entries()) {
    if (count === 0) continue;
    if (pad === undefined)
      throw new CredenceError(
        "BAD_OPTION",
        'tail "padded" reads PAD tokens, and the tokenizer has none. Name one with padToken, or choose another tail',
      );
    sequences[first + side] = Int32Array.from([...sequences[first + side]!, ...new Array<number>(count).fill(pad)]);
  }
  const read = [sequences[first]!.length, sequences[first + 1]!.length] as const;
  const spans = read.flatMap((length, side) =>
    Array.from({ length }, (_, t) => ({ sequence: first + side, from: t, to: t + 1 })),
  );
  return {
    sequences,
    prefixOf,
    ...(pads.some((count) => count > 0) ? { padTokens: [...sequences.slice(0, first).map(() => 0), ...pads] } : {}),
    spans,
    loss: (scores) => {
      const chosen = scores.subarray(0, read[0]);
      const rejected = scores.subarray(read[0]);
      const [chosenLength, rejectedLength] = lengths;
      const got = tokenPairLoss({ chosen, rejected, chosenLength, rejectedLength, from: pair.from - shared, tail });
      const gradient = new Float64Array(scores.length);
      gradient.set(got.chosen);
      gradient.set(got.rejected, read[0]);
      return { loss: got.loss, gradient, told: toldOf(chosen[chosenLength - 1]!, rejected[rejectedLength - 1]!) };
    },
  };
}

export function ratingUnit({ ids, target }: RatedRow, loss: RatingLoss): Unit {
  return {
    sequences: [ids],
    prefixOf: [-1],
    spans: [{ sequence: 0, from: ids.length - 1, to: ids.length }],
    loss: ([score]) => {
      const crossEntropy = loss.kind === "cross-entropy";
      const got = crossEntropy ? crossEntropyLoss(score!, target) : squaredLoss(score!, target);
      const said = crossEntropy ? 1 / (1 + Math.exp(-score!)) : score!;
      return { loss: got.loss, gradient: [got.score], told: { squaredError: (said - target) ** 2 } };
    },
  };
}
