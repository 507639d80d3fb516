/**
 * Random numbers that repeat: the two generators that published experiments were split and shuffled with, bit for bit,
 * so that their splits can be had again. NumPy's (PCG64 behind a SeedSequence) and Python's (Mersenne Twister).
 */

/** What shuffling needs of a generator. */
export interface RandomSource {
  /** In [0, 1), 53 random bits. */
  random(): number;
  /** An integer in [0, n), every one as likely. */
  below(n: number): number;
}

/** Fisher-Yates from the end, in place, as both NumPy and Python do it; they differ in how `below` draws. */
export function shuffle<T>(items: T[], random: RandomSource): T[] {
  for (let i = items.length - 1; i > 0; --i) {
    const j = random.below(i + 1);
    const item = items[i]!;
    items[i] = items[j]!;
    items[j] = item;
  }
  return items;
}

/** A shuffled copy. */
export const permutation = <T>(items: readonly T[], random: RandomSource): T[] => shuffle([...items], random);

/** Python's round(): halves go to the even neighbour. */
export function roundHalfEven(x: number): number {
  const below = Math.floor(x);
  const rest = x - below;
  if (rest !== 0.5) return Math.round(x);
  return below % 2 === 0 ? below : below + 1;
}

/** An integer of any size as 32-bit words, lowest first; 0 is one word. */
function words32(value: number | bigint): number[] {
  let rest = BigInt(value);
  if (rest < 0n) throw new RangeError(`a seed is ${value}; expected an integer from 0`);
  const words: number[] = [];
  do {
    words.push(Number(rest & 0xffffffffn));
    rest >>= 32n;
  } while (rest > 0n);
  return words;
}

// ---- NumPy

/**
 * numpy.random.SeedSequence: words of any seed mixed into a pool of four, from which a generator's state is drawn.
 * (O'Neill 2015, "Developing a seed_seq alternative".)
 */
function seedSequence(seed: number | bigint | readonly (number | bigint)[], count: number): Uint32Array {
  const entropy = (Array.isArray(seed) ? seed : [seed]).flatMap(words32);
  const poolSize = 4;
  const pool = new Uint32Array(poolSize);
  let hashA = 0x43b0d7e5;
  const hash = (value: number): number => {
    let mixed = (value ^ hashA) >>> 0;
    hashA = Math.imul(hashA, 0x931e8875) >>> 0;
    mixed = Math.imul(mixed, hashA) >>> 0;
    return (mixed ^ (mixed >>> 16)) >>> 0;
  };
  const mix = (x: number, y: number): number => {
    const mixed = (Math.imul(0xca01f9dd, x) - Math.imul(0x4973f715, y)) >>> 0;
    return (mixed ^ (mixed >>> 16)) >>> 0;
  };
  for (let i = 0; i < poolSize; ++i) pool[i] = hash(entropy[i] ?? 0);
  for (let from = 0; from < poolSize; ++from) {
    for (let to = 0; to < poolSize; ++to) if (from !== to) pool[to] = mix(pool[to]!, hash(pool[from]!));
  }
  for (let from = poolSize; from < entropy.length; ++from) {
    for (let to = 0; to < poolSize; ++to) pool[to] = mix(pool[to]!, hash(entropy[from]!));
  }
  let hashB = 0x8b51f9dd;
  const state = new Uint32Array(count);
  for (let i = 0; i < count; ++i) {
    let value = (pool[i % poolSize]! ^ hashB) >>> 0;
    hashB = Math.imul(hashB, 0x58f38ded) >>> 0;
    value = Math.imul(value, hashB) >>> 0;
    state[i] = (value ^ (value >>> 16)) >>> 0;
  }
  return state;
}

const mask64 = (1n << 64n) - 1n;
const mask128 = (1n << 128n) - 1n;
const pcgMultiplier = 0x2360ed051fc65da44385df649fccf645n;

/** In [0, n): as many low bits of a 32-bit draw as n - 1 has, until they are below n. */
function maskedBelow(n: number, draw: () => number): number {
  if (n <= 1) return 0;
  const mask = 2 ** (32 - Math.clz32(n - 1)) - 1;
  let value = (draw() & mask) >>> 0;
  while (value >= n) value = (draw() & mask) >>> 0;
  return value;
}

/** The places of the population that `choice` draws, in their order. */
export interface ChoiceOptions {
  /** How many. */
  size: number;
  /** Whether a place may be drawn again; NumPy's default. */
  replace: boolean;
}

function checkChoice(population: number, { size, replace }: ChoiceOptions): void {
  if (population < 1 || (!replace && size > population))
    throw new RangeError(
      `a choice of ${size} from ${population}${replace ? "" : " without replacement"}; expected at most ${population}`,
    );
}

/** numpy.random.default_rng(seed): PCG64, a 128-bit congruential generator with the XSL-RR output. (O'Neill 2014.) */
export class NumpyRandom implements RandomSource {
  private state: bigint;
  private readonly increment: bigint;
  /** The upper half of a 64-bit draw, kept for the next 32-bit one. */
  private kept: number | undefined;

  /** @param seed an integer from 0, or a list of them */
  constructor(seed: number | bigint | readonly (number | bigint)[]) {
    const words = seedSequence(seed, 8);
    const wide = (i: number): bigint => (BigInt(words[i + 1]!) << 32n) | BigInt(words[i]!);
    const start = (wide(0) << 64n) | wide(2);
    this.increment = ((((wide(4) << 64n) | wide(6)) << 1n) | 1n) & mask128;
    this.state = (this.increment + start) & mask128;
    this.step();
  }

  private step(): void {
    this.state = (this.state * pcgMultiplier + this.increment) & mask128;
  }

  uint64(): bigint {
    this.step();
    const folded = (this.state >> 64n) ^ (this.state & mask64);
    const turn = this.state >> 122n;
    return ((folded >> turn) | (folded << (64n - turn))) & mask64;
  }

  uint32(): number {
    if (this.kept !== undefined) {
      const word = this.kept;
      this.kept = undefined;
      return word;
    }
    const wide = this.uint64();
    this.kept = Number(wide >> 32n);
    return Number(wide & 0xffffffffn);
  }

  random(): number {
    return Number(this.uint64() >> 11n) / 2 ** 53;
  }

  /** As many low bits of a 32-bit draw as n - 1 has, until they are below n. n at most 2^32. */
  below(n: number): number {
    return maskedBelow(n, () => this.uint32());
  }

  /** `Generator.permutation`. */
  permutation<T>(items: readonly T[]): T[] {
    return permutation(items, this);
  }

  /** In [0, n) from the upper half of a product (Lemire 2019), as `integers` and `choice` draw. n at most 2^32 - 1. */
  private product(n: number): number {
    if (n <= 1) return 0;
    const threshold = (2 ** 32 - n) % n;
    for (;;) {
      const wide = BigInt(this.uint32()) * BigInt(n);
      if (Number(wide & 0xffffffffn) >= threshold) return Number(wide >> 32n);
    }
  }

  /** `Generator.choice` of the integers below `population`, every one as likely. */
  choice(population: number, options: ChoiceOptions): number[] {
    checkChoice(population, options);
    const { size, replace } = options;
    if (replace) return Array.from({ length: size }, () => this.product(population));
    if (population > 10000 && size > Math.floor(population / 50)) {
      // The end of a shuffle of all.
      const all = Array.from({ length: population }, (_, i) => i);
      this.mix(all, Math.max(population - size, 1));
      return all.slice(population - size);
    }
    // Floyd's algorithm (Bentley & Floyd 1987), then a shuffle.
    const drawn = new Set<number>();
    for (let j = population - size; j < population; ++j) {
      const value = this.product(j + 1);
      drawn.add(drawn.has(value) ? j : value);
    }
    return this.mix([...drawn], 1);
  }

  /** A shuffle from the end down to place `first`, by products. */
  private mix(items: number[], first: number): number[] {
    for (let i = items.length - 1; i >= first; --i) {
      const j = this.product(i + 1);
      const item = items[i]!;
      items[i] = items[j]!;
      items[j] = item;
    }
    return items;
  }

  /**
   * `Generator.binomial` where it inverts the distribution (Kachitvichyanukul & Schmeiser 1988, algorithm BINV), which is while
   * n min(p, 1 - p) is at most 30.
   *
   * @throws RangeError beyond that
   */
  binomial(n: number, p: number): number {
    if (!(p >= 0 && p <= 1)) throw new RangeError(`a binomial draw of p = ${p}; expected a probability`);
    const rare = p <= 0.5 ? p : 1 - p;
    if (n * rare > 30) throw new RangeError(`a binomial draw of n = ${n}, p = ${p}; expected n min(p, 1 - p) up to 30`);
    if (n === 0 || rare === 0) return p <= 0.5 ? 0 : n;
    const successes = this.inverted(n, rare);
    return p <= 0.5 ? successes : n - successes;
  }

  private inverted(n: number, p: number): number {
    const q = 1 - p;
    const none = Math.exp(n * Math.log1p(-p));
    const bound = Math.min(n, n * p + 10 * Math.sqrt(n * p * q + 1));
    let x = 0;
    let mass = none;
    let left = this.random();
    while (left > mass) {
      x += 1;
      if (x > bound) {
        x = 0;
        mass = none;
        left = this.random();
      } else {
        left -= mass;
        mass = ((n - x + 1) * p * mass) / (x * q);
      }
    }
    return x;
  }
}

// ---- Mersenne Twister

/** MT19937 from a 32-bit seed (Matsumoto & Nishimura 1998); PyTorch's CPU generator for such a seed, and NumPy's older one. */
export class MersenneTwister {
  protected readonly state = new Uint32Array(624);
  private index = 624;

  constructor(seed: number) {
    const mt = this.state;
    mt[0] = seed;
    for (let i = 1; i < 624; ++i) mt[i] = Math.imul(1812433253, mt[i - 1]! ^ (mt[i - 1]! >>> 30)) + i;
  }

  uint32(): number {
    const mt = this.state;
    if (this.index === 624) {
      for (let i = 0; i < 624; ++i) {
        const y = (mt[i]! & 0x80000000) | (mt[(i + 1) % 624]! & 0x7fffffff);
        mt[i] = mt[(i + 397) % 624]! ^ (y >>> 1) ^ (y & 1 ? 0x9908b0df : 0);
      }
      this.index = 0;
    }
    let y = mt[this.index++]!;
    y ^= y >>> 11;
    y ^= (y << 7) & 0x9d2c5680;
    y ^= (y << 15) & 0xefc60000;
    return (y ^ (y >>> 18)) >>> 0;
  }

  /** In [0, 1), of 53 bits from two draws, as Python and NumPy take them. */
  random(): number {
    const high = this.uint32() >>> 5;
    const low = this.uint32() >>> 6;
    return (high * 2 ** 26 + low) / 2 ** 53;
  }
}

/** numpy.random.RandomState(seed), for a seed below 2^32: NumPy's older generator. */
export class NumpyRandomState extends MersenneTwister implements RandomSource {
  constructor(seed: number) {
    if (!Number.isInteger(seed) || seed < 0 || seed >= 2 ** 32)
      throw new RangeError(`a seed is ${seed}; expected an integer from 0 below 2^32`);
    super(seed);
  }

  /** As many low bits of a draw as n - 1 has, until they are below n. n at most 2^32. */
  below(n: number): number {
    return maskedBelow(n, () => this.uint32());
  }

  /** `RandomState.choice` (and, after `numpy.random.seed`, `numpy.random.choice`) of the integers below `population`. */
  choice(population: number, options: ChoiceOptions): number[] {
    checkChoice(population, options);
    const { size, replace } = options;
    if (replace) return Array.from({ length: size }, () => this.below(population));
    return shuffle(
      Array.from({ length: population }, (_, i) => i),
      this,
    ).slice(0, size);
  }
}

// ---- Python

/** Python's random.Random(seed) for an integer seed: MT19937 seeded by the words of the integer. */
export class PythonRandom extends MersenneTwister implements RandomSource {
  constructor(seed: number | bigint) {
    super(19650218);
    const key = words32(seed < 0 ? -seed : seed);
    const mt = this.state;
    let i = 1;
    let j = 0;
    const next = () => {
      i += 1;
      if (i >= 624) {
        mt[0] = mt[623]!;
        i = 1;
      }
    };
    for (let k = Math.max(624, key.length); k > 0; --k) {
      mt[i] = (mt[i]! ^ Math.imul(mt[i - 1]! ^ (mt[i - 1]! >>> 30), 1664525)) + key[j]! + j;
      j = (j + 1) % key.length;
      next();
    }
    for (let k = 623; k > 0; --k) {
      mt[i] = (mt[i]! ^ Math.imul(mt[i - 1]! ^ (mt[i - 1]! >>> 30), 1566083941)) - i;
      next();
    }
    mt[0] = 0x80000000;
  }

  /** `getrandbits`, for 1 to 53 bits. */
  bits(count: number): number {
    if (count <= 32) return this.uint32() >>> (32 - count);
    const low = this.uint32();
    return (this.uint32() >>> (64 - count)) * 2 ** 32 + low;
  }

  below(n: number): number {
    if (n <= 0) return 0;
    const count = n.toString(2).length;
    let value = this.bits(count);
    while (value >= n) value = this.bits(count);
    return value;
  }

  /** `random.sample`: `count` different items in the order they were drawn. */
  sample<T>(items: readonly T[], count: number): T[] {
    if (count > items.length)
      throw new RangeError(`a sample of ${count} from ${items.length} items; expected at most ${items.length}`);
    // As there: a copied list where that is smaller than a set of what was drawn.
    const setSize = 21 + (count > 5 ? 4 ** Math.ceil(Math.log(count * 3) / Math.log(4)) : 0);
    if (items.length <= setSize) {
      const pool = [...items];
      return Array.from({ length: count }, (_, i) => {
        const j = this.below(items.length - i);
        const drawn = pool[j]!;
        pool[j] = pool[items.length - i - 1]!;
        return drawn;
      });
    }
    const drawn = new Set<number>();
    while (drawn.size < count) drawn.add(this.below(items.length));
    return Array.from(drawn, (i) => items[i]!);
  }
}
