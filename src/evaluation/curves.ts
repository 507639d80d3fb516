/** What the plots show: reliability, where confidences lie, and what answering only the surest would cost. */
import { binOf, type Prediction, readRows } from "./rows.js";

export interface ReliabilityBin {
  from: number;
  to: number;
  n: number;
  /** Means over the bin's rows; null where it is empty. */
  confidence: number | null;
  accuracy: number | null;
  /** Wilson's 95 % interval of the accuracy. */
  low: number | null;
  high: number | null;
}

export interface HistogramBin {
  from: number;
  to: number;
  right: number;
  wrong: number;
}

export interface RiskPoint {
  /** Share of the questions answered, the surest first. */
  coverage: number;
  /** Share of wrong answers among them. */
  risk: number;
}

/** Wilson 1927, the score interval at 95 %. `right` of `n`. */
export function wilson(right: number, n: number): { low: number; high: number } {
  const z = 1.959963984540054;
  const share = right / n;
  const centre = (share + (z * z) / (2 * n)) / (1 + (z * z) / n);
  const half = (z / (1 + (z * z) / n)) * Math.sqrt((share * (1 - share)) / n + (z * z) / (4 * n * n));
  return { low: Math.max(0, centre - half), high: Math.min(1, centre + half) };
}

/** Accuracy against confidence, in the bins of the equal-width calibration error. */
export function reliabilityBins(predictions: Iterable<Prediction>, bins = 10): ReliabilityBin[] {
  const n = new Float64Array(bins);
  const confidence = new Float64Array(bins);
  const right = new Float64Array(bins);
  for (const p of predictions) {
    const k = binOf(p.confidence, bins);
    n[k]!++;
    confidence[k]! += p.confidence;
    right[k]! += p.correct;
  }
  return Array.from(n, (count, k) => {
    const edges = { from: k / bins, to: (k + 1) / bins, n: count };
    if (count === 0) return { ...edges, confidence: null, accuracy: null, low: null, high: null };
    return { ...edges, confidence: confidence[k]! / count, accuracy: right[k]! / count, ...wilson(right[k]!, count) };
  });
}

/** How many right and wrong answers have each confidence. */
export function confidenceHistogram(predictions: Iterable<Prediction>, bins = 20): HistogramBin[] {
  const out = Array.from({ length: bins }, (_, k) => ({ from: k / bins, to: (k + 1) / bins, right: 0, wrong: 0 }));
  for (const p of predictions) out[binOf(p.confidence, bins)]![p.correct === 1 ? "right" : "wrong"]++;
  return out;
}

/**
 * Error rate among the surest share of the answers, at most `points` of them; rows with the same confidence enter
 * together, each with their mean error, so that the order of the file is not part of the result.
 */
export function riskCoverage(predictions: Iterable<Prediction>, points = 200): RiskPoint[] {
  const rows = readRows(predictions);
  const out: RiskPoint[] = [];
  let errors = 0;
  for (let end = rows.n; end > 0; ) {
    let start = end;
    while (start > 0 && rows.confidence[start - 1] === rows.confidence[end - 1]) {
      start--;
      errors += 1 - rows.correct[start]!;
    }
    const covered = rows.n - start;
    out.push({ coverage: covered / rows.n, risk: errors / covered });
    end = start;
  }
  if (out.length <= points) return out;
  return Array.from({ length: points }, (_, i) => out[Math.round((i * (out.length - 1)) / (points - 1))]!);
}
