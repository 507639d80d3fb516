/**
 * The confidence that a text states: where it stands and how much it is. A format finds it; a reader says what happens
 * where there is none, and counts.
 */
import { CredenceError } from "../errors.js";

/** A confidence found in a text. Places are UTF-16 units, the end exclusive. */
export interface Stated {
  /** Divided by its scale; outside 0 to 1 where the text says so. */
  value: number;
  /** The number itself. */
  start: number;
  end: number;
  /** With the words that announce it: what to cut for the text alone. */
  from: number;
  to: number;
}

export interface ConfidenceFormat {
  readonly name: string;
  find(text: string): Stated | null;
}

/** A format whose pattern has the number as its first group. */
function format(
  name: string,
  pattern: RegExp,
  { scale = 1, which = "first" }: { scale?: number; which?: "first" | "last" } = {},
): ConfidenceFormat {
  const all = new RegExp(pattern.source, `dg${pattern.flags.replace(/[dgy]/g, "")}`);
  return {
    name,
    find(text) {
      const matches = text.matchAll(all);
      const match = which === "first" ? matches.next().value : [...matches].at(-1);
      if (!match) return null;
      const [start, end] = match.indices![1]!;
      const divisor = match.groups ? unitOf(match.groups, scale) : scale;
      return { value: Number(match[1]) / divisor, start, end, from: match.index, to: match.index + match[0].length };
    },
  };
}

/** What a bare number, or one with a unit, is divided by. */
const unitOf = ({ percent, of }: Record<string, string | undefined>, bare: number): number =>
  percent !== undefined ? 100 : of !== undefined ? Number(of) : bare;

const escaped = (words: string): string => words.replace(/[.*+?^${}()|[\]\\]/g, "\\$&");

/**
 * "Confidence: 0.9", "confidence is 90 %", "**Confidence level:** 9/10", "Confidence = 9 out of 10": a label, a number, and
 * a unit or none. A number with a unit says its own scale; a number that is part of another (1,5 or -0.5) is none.
 *
 * @param label default "confidence", in any case
 * @param scale what a bare number is divided by: 1 (default), 10 or 100
 * @param which of several; default "last", what the text ends on
 */
export function labelledConfidence(
  options: { label?: string; scale?: number; which?: "first" | "last"; name?: string } = {},
): ConfidenceFormat {
  const { label = "confidence", scale = 1, which = "last", name = "labelled" } = options;
  if (!(scale > 0)) throw new CredenceError("USAGE", `a scale of ${scale}; expected a number above 0`);
  const before = `${escaped(label)}(?:\\s+(?:level|score))?(?:\\s+is)?[\\s*_]{0,8}[:=]?[\\s*_]{0,8}`;
  const number = "(\\d+(?:\\.\\d+)?|\\.\\d+)(?!\\d|[.,]\\d)";
  const unit = "(?:\\s*(?<percent>%|per\\s?cent)|\\s*(?:\\/|out\\s+of)\\s*(?<of>[1-9]\\d*))?";
  return format(name, new RegExp(`${before}${number}${unit}`, "i"), { scale, which });
}

/** SaySelf's "... Self-reflection: <rationale> Confidence: <0 to 10>": both in this order, the rationale not empty. */
const saySelf: ConfidenceFormat = {
  name: "sayself",
  find(text) {
    const [before, label] = ["Self-reflection:", "Confidence:"];
    const opened = text.indexOf(before);
    if (opened < 0) return null;
    const rationale = opened + before.length;
    for (let from = text.indexOf(label, rationale); from >= 0; from = text.indexOf(label, from + 1)) {
      const number = /\s*(\d+)(?!\d|[.,]\d)/dy;
      number.lastIndex = from + label.length;
      const match = number.exec(text);
      if (!match) continue;
      if (!/\S/.test(text.slice(rationale, from))) return null;
      const [start, end] = match.indices![1]!;
      return { value: Number(match[1]) / 10, start, end, from, to: end };
    }
    return null;
  },
};

/**
 * As its authors parse it: the only integer after the first "Confidence: ", where text stands before it. A marker that is
 * missing counts as one at -1, so that the slice begins some way into the text, and any single number there is taken.
 */
const saySelfPublished: ConfidenceFormat = {
  name: "sayself-published",
  find(text) {
    const label = "Confidence: ";
    const at = text.indexOf(label);
    const rationale = text.slice(text.indexOf("Self-reflection: ") + "Self-reflection: ".length, at);
    const from = at + label.length;
    const numbers = [...text.slice(from).matchAll(/\d+/g)];
    if (rationale === "" || numbers.length !== 1) return null;
    const [number] = numbers;
    const start = from + number!.index;
    const end = start + number![0].length;
    return { value: Number(number![0]) / 10, start, end, from: at < 0 ? start : at, to: end };
  },
};

/** "I am unsure" is 0 and "I am sure" 1. The authors take what says neither for sure: a reader whose failures are 1. */
const rTuning: ConfidenceFormat = {
  name: "r-tuning",
  find(text) {
    const match = /unsure/.exec(text) ?? /sure/.exec(text);
    if (!match) return null;
    const [start, end] = [match.index, match.index + match[0].length];
    return { value: match[0] === "sure" ? 1 : 0, start, end, from: start, to: end };
  },
};

export const confidenceFormats = {
  /** "Confidence: 0.9", "Confidence: 90 %", "Confidence: 9/10"; a bare number is from 0 to 1. */
  labelled: labelledConfidence(),
  /** CONQORD's "### Confidence: 0.9.", the first; its authors take 1 where there is none. */
  conqord: format("conqord", /### Confidence: ([0-9]*\.?[0-9]+)/),
  /** The same in its evaluation, as published: one digit on each side of the point, so that 1 is none and 0.85 is 0.8. */
  "conqord-evaluation": format("conqord-evaluation", /### Confidence: (\d\.\d)/),
  sayself: saySelf,
  "sayself-published": saySelfPublished,
  "r-tuning": rTuning,
  /**
   * The last number of a text that is a score by itself: no part of another number ("1.5", "10", "-0.5"), of a share
   * ("8/10") or of a percentage.
   */
  score: format("score", /(?<![\d.,/-])(0?\.\d+|0|1(?:\.0+)?)(?![\d/]|[.,]\d|\s?%|\s?\/\s?\d)/, { which: "last" }),
  /** EliCal's, as published: the last of 0, 1, 1.0 or a decimal below 1, on word boundaries. */
  "elical-published": format("elical-published", /\b(0?\.\d+|1(?:\.0+)?|0)\b/, { which: "last" }),
} as const satisfies Record<string, ConfidenceFormat>;

/** A format by which a number beyond 1 states nothing. */
export const upToOne = (format: ConfidenceFormat): ConfidenceFormat => ({
  ...format,
  find(text) {
    const stated = format.find(text);
    return stated && stated.value <= 1 ? stated : null;
  },
});

export type ConfidenceFormatName = keyof typeof confidenceFormats;

export interface ReadingOptions {
  /**
   * What a text without a confidence gives: an "error" with the text's end, null ("drop", for the caller to leave the row
   * out), or a value from 0 to 1.
   */
  onFailure: "error" | "drop" | number;
  /** A number outside 0 to 1 is taken as the nearer of them; otherwise, by default, it is a failure. */
  clamp?: boolean;
}

/** Reads confidences and counts what it could not read: nothing is silent. */
export class ConfidenceReader {
  readonly format: ConfidenceFormat;
  /** Texts read; those without a confidence among them; those whose number was clamped. */
  readonly counts = { texts: 0, failed: 0, clamped: 0 };
  private readonly options: ReadingOptions;

  /** @throws CredenceError "USAGE" for a format of no such name, or a value outside 0 to 1 */
  constructor(format: ConfidenceFormat | ConfidenceFormatName, options: ReadingOptions) {
    const found = typeof format === "string" ? confidenceFormats[format] : format;
    if (!found)
      throw new CredenceError(
        "USAGE",
        `no format of confidences is called "${format}"; there are ${Object.keys(confidenceFormats).join(", ")}`,
      );
    const { onFailure } = options;
    if (typeof onFailure === "number" && !(onFailure >= 0 && onFailure <= 1))
      throw new CredenceError("USAGE", `${onFailure} where no confidence is stated; expected a number from 0 to 1`);
    this.format = found;
    this.options = options;
  }

  /** Where the text states a confidence, its value clamped if asked for; null where it states none. Does not count. */
  find(text: string): Stated | null {
    const stated = this.format.find(text);
    if (!stated) return null;
    const value = Math.min(1, Math.max(0, stated.value));
    if (value !== stated.value && !this.options.clamp) return null;
    return { ...stated, value };
  }

  /**
   * The confidence from 0 to 1, or what a failure gives. Bound: it may be passed on as a function.
   *
   * @throws CredenceError "NO_CONFIDENCE" where failures are errors
   */
  readonly read = (text: string): number | null => {
    const { onFailure } = this.options;
    this.counts.texts += 1;
    const stated = this.find(text);
    if (stated) {
      if (this.options.clamp && this.format.find(text)!.value !== stated.value) this.counts.clamped += 1;
      return stated.value;
    }
    this.counts.failed += 1;
    if (onFailure === "error")
      throw new CredenceError(
        "NO_CONFIDENCE",
        `no confidence (${this.format.name}) in a text that ends ${JSON.stringify(text.slice(-80))}. Choose what such texts give: drop, or a value`,
      );
    return onFailure === "drop" ? null : onFailure;
  };
}

/** A text without what announces its confidence: what a model of quality alone should read. */
export const withoutConfidence = (text: string, { from, to }: Stated): string => text.slice(0, from) + text.slice(to);
