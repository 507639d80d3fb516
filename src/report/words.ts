/** Names, numbers and verdicts as a reader sees them, in the report and on the terminal. */
import type { MetricValue } from "../evaluation/bootstrap.js";
import { direction, type MetricName } from "../evaluation/metrics.js";

const rowWords: Record<string, string> = {
  "probe-joint": "Probe on prompt and answer",
  "probe-answer": "Probe on the answer",
  "probe-question": "Probe on the question",
  "head-linear": "Linear head on the question",
  "head-mlp": "Three-layer head on the question",
  "lora-question": "LoRA on the question",
  "self-consistency": "Asking again",
  "consistency-lexical": "Asking again, shared words (ROUGE-L)",
  "consistency-semantic": "Asking again, same meaning",
  thermometer: "Calling its answer right, with a temperature",
  "p-true": "Calling its answer right",
  "sequence-probability": "Whole-answer probability",
  "mean-token-probability": "Mean token probability",
  "rate-of-kind": "Rate of the question's kind",
  // The probes' elicited rows are scaled on the labels; LoRA's comes in both forms.
  "probe-joint-elicitation-only": "Probe on prompt and answer, agreement + Platt",
  "probe-answer-elicitation-only": "Probe on the answer, agreement + Platt",
  "probe-question-elicitation-only": "Probe on the question, agreement + Platt",
};

const suffixWords: [suffix: string, words: string][] = [
  ["-transfer", "set unseen"],
  ["-calibration-only", "labels only"],
  ["-elicitation-only-platt", "agreement + Platt"],
  ["-elicitation-only", "agreement only"],
  ["-platt", "Platt-scaled"],
];

/** A row's name in words: "probe-answer-calibration-only" is "Probe on the answer, labels only". */
export function rowLabel(name: string): string {
  const known = rowWords[name];
  if (known) return known;
  const shots = /^verbal-(\d+)$/.exec(name)?.[1];
  if (shots) return shots === "0" ? "Saying how sure it is" : `Saying how sure it is, ${shots} examples`;
  for (const [suffix, words] of suffixWords) {
    if (name.endsWith(suffix)) return `${rowLabel(name.slice(0, -suffix.length))}, ${words}`;
  }
  return name;
}

/** Where a row's confidence comes from, to go on after "going by". */
export function rowSource(name: string): string {
  if (name === "sequence-probability") return "the probability it gives its whole answer";
  if (name === "mean-token-probability") return "the probability it gives the tokens of its answer";
  if (name.startsWith("self-consistency") || name.startsWith("consistency-"))
    return "how often it gives the same answer again";
  if (name.startsWith("probe-joint")) return "its hidden states and token probabilities";
  if (name.startsWith("probe-answer")) return "the hidden states its answer goes through";
  if (name.startsWith("probe-question")) return "its hidden state after reading the question";
  if (name.startsWith("lora-question")) return "an adapter that reads the question";
  if (name.startsWith("verbal-")) return "the score it states";
  if (name === "p-true" || name === "thermometer") return "how probable it calls its answer right";
  return rowLabel(name);
}

export interface MetricWords {
  short: string;
  /** What it means, as a sentence's end. */
  meaning: string;
}

export const metricWords: Record<MetricName, MetricWords> = {
  accuracy: { short: "Accuracy", meaning: "share of right answers; the same for every row, since the answers are" },
  auroc: {
    short: "AUROC",
    meaning: "how often a right answer gets a higher confidence than a wrong one; 0.5 is chance, 1 is always",
  },
  ece: {
    short: "ECE",
    meaning:
      "how far a stated confidence lies from the share of right answers at that confidence, on average over bins of equal width",
  },
  eceEqualMass: { short: "ECE, equal mass", meaning: "the same over bins that hold equally many answers" },
  brier: {
    short: "Brier",
    meaning:
      "mean squared distance of the confidence from what came out (1 right, 0 wrong): it counts both being honest and telling right from wrong",
  },
  nll: { short: "NLL", meaning: "mean negative log-likelihood in nats: sure and wrong costs most" },
  aurc: {
    short: "AURC",
    meaning: "error rate among the surest answers, averaged over how many of them are taken",
  },
  spearman: { short: "Spearman", meaning: "rank correlation of confidence and being right; 0 is chance" },
  absoluteError: {
    short: "Absolute error",
    meaning:
      "mean distance of the confidence from what came out (1 right, 0 wrong), no bins: being honest does not bring it to 0",
  },
};

const minus = (text: string) => text.replace("-", "\u2212");

/** A metric's value, to three digits. */
export const number = (value: number): string => minus(value.toFixed(3));

/** A difference, with its sign: one that three digits would show as nothing gets as many as it needs, up to six. */
export function signed(value: number): string {
  const small = Math.abs(value) < 0.0005;
  const digits = small ? Math.min(6, Math.ceil(-Math.log10(Math.abs(value)))) : 3;
  const shown = value.toFixed(digits);
  return Number(shown) === 0 ? "0.000" : (value > 0 ? "+" : "") + minus(shown);
}

export const percent = (share: number): string => `${Math.round(100 * share)}\u00a0%`;

/** A calibration error in percentage points. */
export const points = (error: number): string => (100 * error).toFixed(1);

export const count = (n: number): string => Math.round(n).toLocaleString("en-US");

/** "3 min 20 s". */
export function duration(seconds: number): string {
  if (seconds < 10) return `${seconds.toFixed(1)} s`;
  const s = Math.round(seconds);
  if (s < 60) return `${s} s`;
  if (s < 3600) return `${Math.floor(s / 60)} min ${s % 60} s`;
  return `${Math.floor(s / 3600)} h ${Math.round((s % 3600) / 60)} min`;
}

export function bytes(n: number): string {
  return n >= 1e9 ? `${(n / 1e9).toFixed(1)} GB` : `${Math.max(1, Math.round(n / 1e6))} MB`;
}

/** What the interval of a difference row - other says of the row. */
export type Verdict = "better" | "level" | "worse";

/** The side on which the whole 95 % interval lies; null where there is no interval. */
export function verdict(metric: MetricName, value: MetricValue): Verdict | null {
  if (value.value === null || value.low === null || value.high === null) return null;
  if (value.low <= 0 && value.high >= 0) return "level";
  return value.value * direction[metric] > 0 ? "better" : "worse";
}
