/** Random numbers that a seed decides: the same on every machine. */

/** Whole numbers from 0, below a bound: xoshiro128** (Blackman & Vigna 2018), seeded by splitmix32. */
export function randomBelow(seed: number): (bound: number) => number {
  let state = seed | 0;
  const next = () => {
    state = (state + 0x9e3779b9) | 0;
    let z = Math.imul(state ^ (state >>> 16), 0x21f0aaad);
    z = Math.imul(z ^ (z >>> 15), 0x735a2d97);
    return (z ^ (z >>> 15)) | 0;
  };
  let a = next();
  let b = next();
  let c = next();
  let d = next();
  const rotate = (x: number, k: number) => (x << k) | (x >>> (32 - k));
  return (bound) => {
    const result = Math.imul(rotate(Math.imul(b, 5), 7), 9) >>> 0;
    const t = b << 9;
    c ^= a;
    d ^= b;
    b ^= c;
    a ^= d;
    c ^= t;
    d = rotate(d, 11);
    return Math.floor((result / 2 ** 32) * bound);
  };
}

/** The items in a random order (Fisher-Yates). */
export function shuffled<T>(items: Iterable<T>, seed: number): T[] {
  const out = [...items];
  const below = randomBelow(seed);
  for (let i = out.length - 1; i > 0; i--) {
    const j = below(i + 1);
    [out[i], out[j]] = [out[j]!, out[i]!];
  }
  return out;
}
