/** Learning rates: a warm-up, then a straight line or half a cosine down to zero. */

export interface Schedule {
  kind: "constant" | "linear" | "cosine";
  /** Largest rate, reached at the end of the warm-up. */
  peak: number;
  /** Steps in all. */
  steps: number;
  /** Share of the steps that warms up; one step at least unless 0. */
  warmup: number;
}

/** The rate of step `step` (0 is the first): (step + 1) / warm-up of the peak while warming, then what is left of the way down. */
export function learningRate({ kind, peak, steps, warmup }: Schedule, step: number): number {
  const warm = warmup > 0 ? Math.max(1, Math.round(warmup * steps)) : 0;
  if (step < warm) return (peak * (step + 1)) / warm;
  if (kind === "constant") return peak;
  const left = Math.max(0, (steps - step) / Math.max(1, steps - warm));
  return kind === "linear" ? peak * left : (peak * (1 - Math.cos(Math.PI * left))) / 2;
}
