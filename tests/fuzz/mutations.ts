/**
 * Inputs near valid ones. fast-check draws a seed and a few changes as plain numbers, so that a failure shrinks to few
 * and small changes; `mutate` makes the bytes of them.
 */
import fc from "fast-check";

/** One change: which kind, where, and a number whose meaning depends on the kind. */
export type Change = [kind: number, at: number, value: number];

/** What the mutations know about a format besides its seeds. */
export interface Format {
  seeds: Uint8Array[];
  /** Words with a meaning in it. */
  words: string[];
  /** The JSON texts inside an input, so that whole values can be changed, and an input with others in their place. */
  json?: { take(input: Buffer): string[]; put(texts: string[], input: Buffer): Uint8Array };
}

const largest = 0x7fffffff;

/** Draws a seed's number and one to six changes. */
export const drawn = (seeds: number): fc.Arbitrary<[number, Change[]]> =>
  fc.tuple(
    fc.nat(seeds - 1),
    fc.array(fc.tuple(fc.nat(31), fc.nat(largest), fc.nat(largest)) as fc.Arbitrary<Change>, {
      minLength: 1,
      maxLength: 6,
    }),
  );

/** Longest input made; a change that would exceed it is left out. */
export const maxLength = 1 << 16;

export function mutate(format: Format, seed: number, changes: Change[]): Buffer {
  let input = Buffer.from(format.seeds[seed]!);
  for (const change of changes) {
    const next = apply(format, input, change);
    if (next.length <= maxLength) input = Buffer.from(next);
  }
  return input;
}

const bytes = [0, 1, 9, 10, 13, 32, 34, 44, 45, 48, 57, 91, 92, 93, 123, 125, 127, 128, 192, 255];
const integers = [
  0n,
  1n,
  2n,
  7n,
  127n,
  255n,
  65535n,
  1n << 31n,
  (1n << 32n) - 1n,
  1n << 53n,
  (1n << 63n) - 1n,
  1n << 63n,
];
const numbers = ["0", "-1", "1", "1e308", "-0.5", "9007199254740993", "1e999", "NaN", "4294967296", "0x10", "007"];
const pick = <T>(list: readonly T[], value: number): T => list[value % list.length]!;

function apply(format: Format, input: Buffer, [kind, at, value]: Change): Uint8Array {
  const from = at % (input.length + 1);
  const length = Math.min(input.length - from, 1 + (value % (value % 8 ? 8 : 400)));
  const splice = (middle: Uint8Array, removed = 0): Buffer =>
    Buffer.concat([input.subarray(0, from), middle, input.subarray(from + removed)]);
  switch (kind) {
    case 0:
    case 1: {
      const copy = Buffer.from(input);
      if (from < copy.length) copy[from]! ^= 1 << (value % 8);
      return copy;
    }
    case 2:
      return splice(Buffer.of(pick(bytes, value)), 1);
    case 3:
      return splice(Buffer.of(pick(bytes, value)));
    case 4:
      return splice(Buffer.alloc(0), length);
    case 5:
      return splice(input.subarray(from, from + length));
    case 6:
      return input.subarray(0, from);
    case 7: {
      const other = pick(format.seeds, value);
      return splice(other.subarray(at % other.length, (at % other.length) + length), length);
    }
    case 8:
    case 9:
      return overwrite(input, kind === 8 ? 4 : 8, from, pick(integers, value));
    case 10:
    case 11:
    case 12:
      return replaceNumber(input, at, pick(numbers, value));
    case 13:
    case 14:
    case 15:
      return splice(Buffer.from(pick(format.words, value)), kind === 15 ? length : 0);
    // Depth and length that recursion or a quadratic loop would feel; rarely, because such inputs are slow to make.
    case 16:
      return value % 64
        ? input
        : splice(
            Buffer.from(
              pick(format.words, at)
                .repeat(1 + (value % 20000))
                .slice(0, maxLength),
            ),
          );
    default: {
      if (!format.json) return overwrite(input, 1, from, BigInt(value % 256));
      const texts = format.json.take(input);
      const which = at % texts.length;
      texts[which] = changeJson(texts[which]!, format, kind - 17, Math.floor(at / texts.length), value);
      return format.json.put(texts, input);
    }
  }
}

function overwrite(input: Buffer, size: number, from: number, value: bigint): Buffer {
  const copy = Buffer.from(input);
  const bytes = Buffer.alloc(8);
  bytes.writeBigUInt64LE(BigInt.asUintN(64, value));
  bytes.copy(copy, Math.max(0, Math.min(from, copy.length - size)), 0, size);
  return copy;
}

/** Puts another number in the place of one that is written in the text. */
function replaceNumber(input: Buffer, at: number, number: string): Buffer {
  const text = input.toString("latin1");
  const found = [...text.matchAll(/-?\d+(?:\.\d+)?/g)];
  if (found.length === 0) return input;
  const { index, 0: old } = found[at % found.length]!;
  return Buffer.from(text.slice(0, index) + number + text.slice(index + old.length), "latin1");
}

const values: unknown[] = [
  null,
  true,
  -1,
  0,
  2 ** 53,
  1e300,
  0.5,
  "",
  "x",
  "日本\u0000",
  [],
  [[]],
  {},
  { x: 1 },
  [null],
];

/** Changes one value of a JSON text, or its name; a text that is no JSON any more stays as it is. */
function changeJson(text: string, { words }: Format, kind: number, at: number, value: number): string {
  let root: unknown;
  try {
    root = JSON.parse(text);
  } catch {
    return text;
  }
  const places: [Record<string, unknown>, string][] = [];
  const visit = (parent: Record<string, unknown>, key: string): void => {
    places.push([parent, key]);
    const inner = parent[key] as Record<string, unknown> | null;
    if (typeof inner === "object" && inner !== null) for (const name of Object.keys(inner)) visit(inner, name);
  };
  const holder = { root };
  visit(holder, "root");
  const [parent, key] = places[at % places.length]!;
  const [otherParent, otherKey] = places[value % places.length]!;
  switch (kind % 8) {
    case 0:
    case 1:
      parent[key] = pick(values, value);
      break;
    case 2:
      if (Array.isArray(parent)) parent.splice(Number(key), 1);
      else delete parent[key];
      break;
    case 3:
      define(parent, pick(words, value), parent[key]);
      break;
    case 4:
      parent[key] = structuredClone(otherParent[otherKey]);
      break;
    case 5:
      parent[key] = [parent[key]];
      break;
    case 6:
      parent[key] = pick(words, value);
      break;
    default:
      if (Array.isArray(parent)) parent.push(structuredClone(parent[Number(key)]));
      else define(parent, `${key}${value % 3}`, parent[key]);
  }
  return JSON.stringify(holder.root) ?? "";
}

/** Also under the name "__proto__", which an assignment would not make a member. */
function define(parent: Record<string, unknown>, key: string, value: unknown): void {
  Object.defineProperty(parent, key, { value, enumerable: true, configurable: true, writable: true });
}
