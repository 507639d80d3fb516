/**
 * Small float32 tensors to and from safetensors: adapters, heads, moments, collected hidden states. A base's weights are
 * read natively, never here.
 *
 * The file: length of the header in 8 bytes little-endian, a JSON header {name: {dtype, shape, data_offsets}}, the data.
 */
import { readFileSync } from "node:fs";
import { CredenceError } from "../errors.js";
import type { TensorData } from "../native.js";

interface HeaderEntry {
  dtype: string;
  shape: number[];
  data_offsets: [number, number];
}

const product = (shape: number[]): number => shape.reduce((all, size) => all * size, 1);

/** The file's bytes in pieces: header, then each tensor's own memory, sorted by name so that the same tensors give the same bytes. */
export function encodeSafetensors(
  tensors: TensorData[],
  metadata: Record<string, string> = { format: "pt" },
): Uint8Array[] {
  const sorted = [...tensors].sort((a, b) => (a.name < b.name ? -1 : 1));
  const header: Record<string, unknown> = { __metadata__: metadata };
  let at = 0;
  for (const { name, shape, data } of sorted) {
    if (data.length !== product(shape)) {
      throw new CredenceError(
        "BAD_INPUT",
        `tensor ${name}: ${data.length} numbers do not fill the shape [${shape.join(", ")}]`,
      );
    }
    header[name] = { dtype: "F32", shape, data_offsets: [at, at + data.byteLength] };
    at += data.byteLength;
  }
  const text = JSON.stringify(header);
  const bytes = Buffer.from(text.padEnd(text.length + ((8 - (Buffer.byteLength(text) % 8)) % 8)));
  const length = Buffer.alloc(8);
  length.writeBigUInt64LE(BigInt(bytes.length));
  return [length, bytes, ...sorted.map(({ data }) => new Uint8Array(data.buffer, data.byteOffset, data.byteLength))];
}

function readHeader(path: string, file: Buffer): { entries: [string, HeaderEntry][]; start: number } {
  const bad = (what: string) => new CredenceError("BAD_INPUT", `${path}: ${what}. Copy or download the file again`);
  if (file.length < 8) throw bad(`${file.length} bytes are too few for a safetensors file`);
  const length = Number(file.readBigUInt64LE(0));
  if (length > file.length - 8)
    throw bad(`the header should be ${length} bytes long, the file has ${file.length - 8} more: it was cut off`);
  let header: unknown;
  try {
    header = JSON.parse(file.toString("utf8", 8, 8 + length));
  } catch {
    throw bad("its header is not JSON");
  }
  if (typeof header !== "object" || header === null || Array.isArray(header)) throw bad("its header is no JSON object");
  const entries = Object.entries(header).filter(([name]) => name !== "__metadata__");
  for (const [name, entry] of entries)
    if (!isEntry(entry)) throw bad(`the header's entry of ${name} is no type, shape and place of a tensor`);
  return { entries, start: 8 + length };
}

const isSize = (value: unknown): value is number => Number.isSafeInteger(value) && (value as number) >= 0;

function isEntry(value: unknown): value is HeaderEntry {
  const { dtype, shape, data_offsets: offsets } = (value ?? {}) as Partial<Record<keyof HeaderEntry, unknown>>;
  return (
    typeof dtype === "string" &&
    Array.isArray(shape) &&
    shape.every(isSize) &&
    Array.isArray(offsets) &&
    offsets.length === 2 &&
    isSize(offsets[0]) &&
    isSize(offsets[1]) &&
    offsets[0] <= offsets[1]
  );
}

/** Bytes of a number of each type that is read. */
const sizes = new Map([
  ["F32", 4],
  ["F16", 2],
  ["BF16", 2],
]);

/** Bits of a half or bfloat16 number as float32. */
function widen(dtype: string, bytes: Buffer, count: number): Float32Array {
  const out = new Float32Array(count);
  if (dtype === "BF16") {
    const bits = new Uint32Array(out.buffer);
    for (let i = 0; i < count; i++) bits[i] = bytes.readUInt16LE(2 * i) << 16;
    return out;
  }
  for (let i = 0; i < count; i++) {
    const half = bytes.readUInt16LE(2 * i);
    const sign = half & 0x8000 ? -1 : 1;
    const exponent = (half >> 10) & 31;
    const fraction = half & 1023;
    if (exponent === 31) out[i] = fraction ? Number.NaN : sign * Number.POSITIVE_INFINITY;
    else out[i] = sign * (exponent ? 2 ** (exponent - 15) * (1 + fraction / 1024) : 2 ** -24 * fraction);
  }
  return out;
}

/** Every tensor of a small safetensors file, as float32. */
export function readSafetensors(path: string): TensorData[] {
  let file: Buffer;
  try {
    file = readFileSync(path);
  } catch (error) {
    throw new CredenceError("FILE", `cannot read ${path}: ${(error as Error).message}`, { cause: error });
  }
  const { entries, start } = readHeader(path, file);
  return entries.map(
    ([
      name,
      {
        dtype,
        shape,
        data_offsets: [from, to],
      },
    ]) => {
      const size = sizes.get(dtype);
      if (size === undefined)
        throw new CredenceError("BAD_INPUT", `${path}: ${name} is ${dtype}; expected F32, F16 or BF16`);
      if (start + to > file.length) {
        throw new CredenceError(
          "BAD_INPUT",
          `${path}: ${name} ends at byte ${start + to}, the file at ${file.length}: it was cut off. Copy it again`,
        );
      }
      const count = product(shape);
      if (to - from !== count * size) {
        throw new CredenceError(
          "BAD_INPUT",
          `${path}: ${name} has ${to - from} bytes; [${shape.join(", ")}] as ${dtype} needs ${count * size}`,
        );
      }
      const bytes = file.subarray(start + from, start + to);
      const data = dtype === "F32" ? new Float32Array(new Uint8Array(bytes).buffer) : widen(dtype, bytes, count);
      if (!data.every(Number.isFinite))
        throw new CredenceError("BAD_INPUT", `${path}: ${name} holds NaN or infinity. Train or copy it again`);
      return { name, shape, data };
    },
  );
}
