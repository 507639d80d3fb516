/** Two answers to one prompt as rows that share their beginning, and what makes a pair useless, counted. */
import { CredenceError } from "../../errors.js";
import type { AnswerText } from "../../model/card.js";
import type { Model } from "../../policy/model.js";
import { type AnswerRow, answerRows, type Prompted } from "./rows.js";

/** Two answers to one prompt, the first preferred; a record of src/data/records.ts. */
export interface PairRecord extends Prompted {
  chosen: string;
  rejected: string;
  /** By how much the chosen answer's score should be the larger. */
  margin?: number | undefined;
}

/** A pair as it is learnt from. */
export interface PairRow {
  chosen: AnswerRow;
  rejected: AnswerRow;
  /** The first token at which the rows differ; where one row begins the other, the shorter one's length. */
  from: number;
  margin: number;
}

export interface PairChecks {
  /** Tokens of a row at most; default the model's context. */
  maxTokens?: number | undefined;
  /**
   * What becomes of a pair with a longer row: it fails (default), it is left out, or both rows lose as much of the beginning
   * that they share.
   */
  truncate?: "error" | "drop" | "left" | undefined;
  /** What becomes of a pair that nothing can be learnt from; it fails (default), or it is left out. */
  useless?: "error" | "drop" | undefined;
  /** Whether one row may begin the other: not where only what both have is compared. Default true. */
  prefixes?: boolean | undefined;
}

/** What going through the pairs found. */
export interface PairSurvey {
  records: number;
  /** Pairs kept. */
  pairs: number;
  /** Tokens computed for them: what two rows share counts once. */
  tokens: number;
  /** Tokens of the longest row of all. */
  longest: number;
  /** Pairs left out as too long, cut, left out as equal, and those whose one row begins the other (left out or not). */
  dropped: number;
  cut: number;
  equal: number;
  prefixes: number;
}

/** Index of the first token at which two rows differ. */
export function divergence(a: Int32Array, b: Int32Array): number {
  let t = 0;
  while (t < a.length && t < b.length && a[t] === b[t]) t += 1;
  return t;
}

/**
 * How many tokens two rows can share when each must keep one of its own: what they begin with, without the shorter row's
 * last token.
 */
export const sharedTokens = ({ chosen, rejected, from }: Pick<PairRow, "chosen" | "rejected" | "from">): number =>
  Math.min(from, chosen.ids.length - 1, rejected.ids.length - 1);

/**
 * Renders and checks pairs.
 *
 * @throws CredenceError "ROW_TOO_LONG" or "NOTHING_SUPERVISED" with counts and what to choose
 */
export async function pairRows(
  model: Model,
  records: readonly PairRecord[],
  text: AnswerText,
  checks: PairChecks = {},
): Promise<{ rows: PairRow[]; survey: PairSurvey }> {
  const side = (name: "chosen" | "rejected") =>
    answerRows(
      model,
      records.map(({ prompt, messages, [name]: answer }) => ({ prompt, messages, answer })),
      text,
    );
  const [chosen, rejected] = [await side("chosen"), await side("rejected")];
  const pairs = records.map(({ margin = 0 }, i) => {
    const from = divergence(chosen[i]!.ids, rejected[i]!.ids);
    return { chosen: chosen[i]!, rejected: rejected[i]!, from, margin };
  });
  return checkPairs(pairs, { ...checks, maxTokens: Math.min(checks.maxTokens ?? Infinity, model.info.contextLength) });
}

/** The pairs that can be learnt from; see `pairRows`. */
export function checkPairs(
  pairs: readonly PairRow[],
  { maxTokens = Infinity, truncate = "error", useless = "error", prefixes = true }: PairChecks,
): { rows: PairRow[]; survey: PairSurvey } {
  const survey: PairSurvey = {
    records: pairs.length,
    pairs: 0,
    tokens: 0,
    longest: 0,
    dropped: 0,
    cut: 0,
    equal: 0,
    prefixes: 0,
  };
  const rows: PairRow[] = [];
  let long = 0;
  for (const pair of pairs) {
    const lengths = [pair.chosen.ids.length, pair.rejected.ids.length];
    const longest = Math.max(...lengths);
    survey.longest = Math.max(survey.longest, longest);
    if (lengths[0] === lengths[1] && pair.from === lengths[0]) {
      survey.equal += 1;
      continue;
    }
    if (pair.from === Math.min(...lengths)) {
      survey.prefixes += 1;
      if (!prefixes) continue;
    }
    const excess = longest - maxTokens;
    let kept = pair;
    if (excess > 0) {
      if (truncate === "drop") {
        survey.dropped += 1;
        continue;
      }
      // What is cut must be the prompt's on both sides, and leave a token before each answer.
      if (truncate === "error" || excess >= Math.min(pair.chosen.from, pair.rejected.from)) {
        long += 1;
        continue;
      }
      survey.cut += 1;
      kept = cutPair(pair, excess);
    }
    rows.push(kept);
    survey.pairs += 1;
    survey.tokens += kept.chosen.ids.length + kept.rejected.ids.length - sharedTokens(kept);
  }
  refuse(survey, { long, maxTokens, truncate, useless, prefixes });
  return { rows, survey };
}

const cutRow = ({ ids, from }: AnswerRow, tokens: number): AnswerRow => ({
  ids: ids.slice(tokens),
  from: from - tokens,
});

const cutPair = ({ chosen, rejected, from, margin }: PairRow, tokens: number): PairRow => ({
  chosen: cutRow(chosen, tokens),
  rejected: cutRow(rejected, tokens),
  from: from - tokens,
  margin,
});

function refuse(
  { records, pairs, longest, equal, prefixes }: PairSurvey,
  checks: Required<PairChecks> & { long: number },
): void {
  const { long, maxTokens, truncate } = checks;
  const of = (count: number) => `${count.toLocaleString("en")} of ${records.toLocaleString("en")} pairs`;
  if (long > 0) {
    const whose = truncate === "left" ? "even without their prompts' beginnings " : "";
    throw new CredenceError(
      "ROW_TOO_LONG",
      `${of(long)} have a row that is ${whose}longer than ${maxTokens.toLocaleString("en")} tokens (the longest has ${longest.toLocaleString("en")}). ` +
        `Choose truncate: drop${truncate === "left" ? "" : " or left"}, or more tokens`,
    );
  }
  const useless = [
    [equal, "have two equal sides"],
    [checks.prefixes ? 0 : prefixes, "have a side that begins the other, so that no token is compared"],
  ] as const;
  const found = useless.filter(([count]) => count > 0).map(([count, what]) => `${of(count)} ${what}`);
  if (found.length > 0 && (checks.useless === "error" || pairs === 0)) {
    throw new CredenceError(
      "NOTHING_SUPERVISED",
      `${found.join("; ")}: nothing can be learnt from them. ${pairs === 0 ? "Give other pairs" : "Remove them, or choose useless: drop"}`,
    );
  }
  if (pairs === 0)
    throw new CredenceError("NOTHING_SUPERVISED", `none of ${records.toLocaleString("en")} pairs is left`);
}
