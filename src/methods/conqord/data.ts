/** Rows to learn from, as CONQORD's three phases read them, and sets built from answers that were judged. */
import { z } from "zod";
import { NumpyRandomState, permutation } from "../../data/random.js";
import { readSplit, splitFiles } from "../../data/saved-sets.js";
import { CredenceError } from "../../errors.js";
import { type RecordTexts, type Source, sourceOf } from "./sources.js";
import { dealt, type Phase, parseShares, writeIndices } from "./splits.js";
import { confidenceLine, type LearntText } from "./wire.js";

export interface PhaseData {
  /** Folders or files, each of a kind that its path names. */
  paths: readonly string[];
  /** What all of them are, where their paths do not say it. */
  kind?: string;
  phase: Phase;
  part: "train" | "eval";
  /** Of each set, for the three phases. */
  shares: string;
  /** Further sets, of phase 1 alone and whole for it. */
  sftOnly?: readonly string[];
  seed: number;
  /** Folder of files that say which rows each phase got, under the published names; default none. */
  indices?: string;
}

const recordSchema = z.looseObject({});

/**
 * A phase's records as texts. Of one set they keep the order in which they were dealt; several are joined and shuffled again
 * by the same seed.
 *
 * @throws CredenceError "USAGE", "NO_FILE" or "BAD_INPUT": no known kind, nothing there, a record without the texts that the
 *   phase reads, a pair whose sides are equal (with how many there are)
 */
export async function phaseTexts(data: PhaseData): Promise<RecordTexts[]> {
  const { paths, phase, shares, sftOnly = [], seed } = data;
  const sets: RecordTexts[][] = [];
  for (const path of paths) sets.push(await setTexts(path, shares, data));
  if (phase === 1) for (const path of sftOnly) sets.push(await setTexts(path, "10,0,0", data));
  const texts = sets.flat();
  return sets.length > 1 ? permutation(texts, new NumpyRandomState(seed)) : texts;
}

async function setTexts(path: string, shares: string, data: PhaseData): Promise<RecordTexts[]> {
  const { kind, phase, part, seed } = data;
  const source = sourceOf(path, kind);
  const { records, split } = await partRecords(path, source, part, seed);
  const asked = parseShares(shares);
  if (asked.length < phase)
    throw new CredenceError("USAGE", `shares ${shares}: there is none for phase ${phase}; expected three`);
  if (data.indices !== undefined)
    writeIndices(data.indices, { name: source.clean, seed, use: part, shares }, records.length);
  const rows = dealt(asked, records.length, seed)[phase - 1]!;
  if (rows.length === 0)
    throw new CredenceError(
      "BAD_INPUT",
      `${path}: shares ${shares} leave phase ${phase} none of the ${records.length} records of ${split}. Give other shares`,
    );
  const texts = rows.map((row) => source.texts(records[row]!, `${path}: ${split}, record ${row + 1}`));
  if (phase !== 3) checkAnswers(texts, rows, phase, path);
  return texts;
}

/** The records of a part: a split of its own, or a tenth of the training split. */
async function partRecords(path: string, source: Source, part: PhaseData["part"], seed: number) {
  const { evaluated } = source;
  if (part === "train" && evaluated !== null)
    return { split: "train", records: await readSplit(path, "train", recordSchema) };
  if (evaluated !== null && splitFiles(path, evaluated) !== null)
    return { split: evaluated, records: await readSplit(path, evaluated, recordSchema) };
  if (evaluated !== null) throw new CredenceError("BAD_INPUT", `${path}: has no split ${evaluated} to evaluate on`);
  const all = await readSplit(path, "train", recordSchema);
  const rows = dealt([9, 1], all.length, seed)[part === "train" ? 0 : 1]!;
  return { split: `train (${part === "train" ? "nine tenths" : "a tenth"})`, records: rows.map((row) => all[row]!) };
}

function checkAnswers(texts: readonly RecordTexts[], rows: readonly number[], phase: 1 | 2, path: string): void {
  const refuse = (fails: (one: RecordTexts) => boolean, what: string) => {
    const found = texts.flatMap((one, i) => (fails(one) ? [rows[i]! + 1] : []));
    if (found.length > 0)
      throw new CredenceError(
        "BAD_INPUT",
        `${path}: ${found.length} of ${texts.length} records ${what}, record ${found[0]} the first of them`,
      );
  };
  refuse(({ chosen }) => chosen === null, "have no chosen answer");
  if (phase === 1) return;
  refuse(({ rejected }) => rejected === null, "have no rejected answer; a reward model learns from pairs");
  refuse(
    ({ chosen, rejected }) => chosen === rejected,
    "have equal sides: nothing can be learnt from them. Remove them",
  );
}

/** A record's text of phase 1: what follows the prompt is learnt from, and `end` is learnt to follow it. */
export function learntText({ prompt, chosen }: RecordTexts, end: string): LearntText {
  if (chosen === null || !chosen.startsWith(prompt))
    throw new CredenceError(
      "BAD_INPUT",
      `a text that does not begin with its prompt (${JSON.stringify(prompt.slice(-60))}): what the answer is cannot be told`,
    );
  return { text: chosen + end, from: prompt.length };
}

// ---- sets of one's own

/** A prompt with two answers, the first the better one, none of them with a confidence; answers follow the prompt. */
export interface AnswerPair {
  prompt: string;
  chosen: string;
  rejected: string;
}

/**
 * The PreApproach baseline's pairs, from which one reward model learns quality and confidence at once: in the first half the
 * good answer with a high confidence is held against itself with a low one, in the second the bad answer with a low
 * confidence against itself with a high one. 0.9 and 0.1 as in the paper.
 */
export function preApproachPairs(
  pairs: readonly AnswerPair[],
  { high = 0.9, low = 0.1 } = {},
): { prompt: string; chosen: string; rejected: string }[] {
  if (!(high > low)) throw new CredenceError("USAGE", `a high confidence of ${high} and a low one of ${low}`);
  const half = Math.ceil(pairs.length / 2);
  return pairs.map(({ prompt, chosen, rejected }, i) => {
    const good = i < half;
    const answer = prompt + (good ? chosen : rejected);
    return {
      prompt,
      chosen: answer + confidenceLine(good ? high : low),
      rejected: answer + confidenceLine(good ? low : high),
    };
  });
}

/**
 * Answers with confidences drawn at random (0.0 to 1.0 in tenths): they teach the format, and nothing about when to be sure.
 */
export function formatRows(
  rows: readonly { prompt: string; answer: string }[],
  seed: number,
): { prompt: string; chosen: string }[] {
  const random = new NumpyRandomState(seed);
  return rows.map(({ prompt, answer }) => ({
    prompt,
    chosen: prompt + answer + confidenceLine(random.below(11) / 10),
  }));
}
