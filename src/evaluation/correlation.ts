/** Whether two numbers rise together: Pearson's and Spearman's correlations, and how likely chance alone is to do as well. */

type Numbers = ArrayLike<number>;

/** Sums over rows of products of deviations from the given middles. */
function correlated(x: Numbers, y: Numbers, [middleX, middleY]: readonly [number, number]): number | null {
  let xy = 0;
  let xx = 0;
  let yy = 0;
  for (let i = 0; i < x.length; i++) {
    xy += (x[i]! - middleX) * (y[i]! - middleY);
    xx += (x[i]! - middleX) ** 2;
    yy += (y[i]! - middleY) ** 2;
  }
  return xx > 0 && yy > 0 ? xy / Math.sqrt(xx * yy) : null;
}

function mean(values: Numbers): number {
  let sum = 0;
  for (let i = 0; i < values.length; i++) sum += values[i]!;
  return sum / values.length;
}

/** Pearson's correlation; null where one side is constant. */
export const pearson = (a: Numbers, b: Numbers): number | null => correlated(a, b, [mean(a), mean(b)]);

/** Spearman's rank correlation, ties sharing their mean rank; null where one side is constant. */
export function spearman(a: Numbers, b: Numbers): number | null {
  const middle = (a.length - 1) / 2;
  return correlated(ranks(a), ranks(b), [middle, middle]);
}

/** Positions in ascending order, from 0; ties share their mean. */
function ranks(values: Numbers): Float64Array {
  const order = Array.from({ length: values.length }, (_, i) => i).sort((a, b) => values[a]! - values[b]!);
  const out = new Float64Array(values.length);
  for (let start = 0; start < order.length; ) {
    let end = start + 1;
    while (end < order.length && values[order[end]!] === values[order[start]!]) end++;
    for (let i = start; i < end; i++) out[order[i]!] = (start + end - 1) / 2;
    start = end;
  }
  return out;
}

/**
 * Two-sided p-value of a correlation r of n rows under no correlation: t = r sqrt((n - 2) / (1 - r^2)) has Student's
 * distribution with n - 2 degrees of freedom, so that p is the regularised incomplete beta function I(1 - r^2; (n - 2) / 2,
 * 1 / 2). Exact for Pearson's r of normal rows; for Spearman's it is the approximation that SciPy makes too.
 *
 * @returns null for fewer than three rows
 */
export async function correlationP(r: number, n: number): Promise<number | null> {
  if (n < 3) return null;
  const { compiled, incbet } = await import("cephes");
  await compiled;
  return incbet((n - 2) / 2, 0.5, Math.max(0, (1 - r) * (1 + r)));
}
