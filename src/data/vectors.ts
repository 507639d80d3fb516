/** Vectors of one length, row after row, and the files (.npy) in which NumPy keeps arrays. */
import { closeSync, fstatSync, openSync, readSync } from "node:fs";
import { CredenceError } from "../errors.js";

export interface Vectors {
  /** [count, width] */
  data: Float32Array;
  count: number;
  width: number;
}

/** @throws CredenceError "BAD_INPUT" where they are not of one length */
export function joinVectors(parts: readonly Vectors[], name: string): Vectors {
  const width = parts[0]?.width ?? 0;
  const count = parts.reduce((sum, part) => sum + part.count, 0);
  const data = new Float32Array(count * width);
  let at = 0;
  for (const part of parts) {
    if (part.width !== width)
      throw new CredenceError("BAD_INPUT", `${name}: vectors of ${width} numbers, and then of ${part.width}`);
    data.set(part.data, at);
    at += part.data.length;
  }
  return { data, count, width };
}

// ---- .npy

/** An array in a .npy file as rows of numbers: all its dimensions but the last count rows. */
export interface NpyRows {
  path: string;
  shape: number[];
  rows: number;
  width: number;
  /** Rows from..to (excluded), in float32; only they are read. */
  read(from: number, to: number): Vectors;
}

const magic = "\x93NUMPY";
/** What numpy.save writes, and little more. */
const longestHeader = 1 << 20;

const sizes: Record<string, { bytes: number; read: (view: DataView, at: number) => number }> = {
  "<f2": { bytes: 2, read: (view, at) => halfOf(view.getUint16(at, true)) },
  "<f4": { bytes: 4, read: (view, at) => view.getFloat32(at, true) },
  "<f8": { bytes: 8, read: (view, at) => view.getFloat64(at, true) },
};

function halfOf(bits: number): number {
  const sign = bits & 0x8000 ? -1 : 1;
  const exponent = (bits >> 10) & 31;
  const fraction = bits & 1023;
  if (exponent === 0) return sign * fraction * 2 ** -24;
  if (exponent === 31) return fraction ? Number.NaN : sign * Number.POSITIVE_INFINITY;
  return sign * (1 + fraction / 1024) * 2 ** (exponent - 15);
}

/**
 * Opens a .npy file (format 1.0, 2.0 or 3.0) of floating-point numbers, two dimensions or more, rows one after the other.
 *
 * @throws CredenceError "NO_FILE"; "BAD_INPUT" naming what is not as it should be: its beginning, type, order, shape, or length
 */
export function openNpy(path: string): NpyRows {
  const bad = (why: string) => new CredenceError("BAD_INPUT", `${path}: ${why}`);
  const bytes = (from: number, count: number): Buffer => {
    const buffer = Buffer.alloc(count);
    let got = 0;
    const file = openFile(path);
    try {
      while (got < count) {
        const more = readSync(file, buffer, got, count - got, from + got);
        if (more === 0) throw bad(`ends after ${from + got} bytes, and ${from + count} are expected`);
        got += more;
      }
    } finally {
      closeSync(file);
    }
    return buffer;
  };
  const length = fileBytes(path);
  const begin = length >= 12 ? bytes(0, 12) : Buffer.alloc(12);
  if (begin.toString("latin1", 0, 6) !== magic)
    throw bad("is no .npy file. Write it with numpy.save, as an array of float32");
  const version = begin[6]!;
  if (version < 1 || version > 3) throw bad(`is of .npy format ${version}.${begin[7]}; known are 1.0, 2.0 and 3.0`);
  const [headerAt, headerBytes] = version === 1 ? [10, begin.readUInt16LE(8)] : [12, begin.readUInt32LE(8)];
  if (headerBytes > longestHeader || headerAt + headerBytes > length) throw bad("ends within its header");
  const header = bytes(headerAt, headerBytes).toString("latin1");
  const type = /'descr':\s*'([^']*)'/.exec(header)?.[1];
  const fortran = /'fortran_order':\s*(True|False)/.exec(header)?.[1];
  const dimensions = /'shape':\s*\(([\d,\s]*)\)/.exec(header)?.[1];
  if (type === undefined || fortran === undefined || dimensions === undefined)
    throw bad("its header does not say type, order and shape");
  const number = Object.hasOwn(sizes, type) ? sizes[type]! : undefined;
  if (!number) throw bad(`holds numbers of type ${type}; expected <f4, <f2 or <f8: array.astype("float32")`);
  if (fortran === "True") throw bad("holds its columns one after the other; write numpy.ascontiguousarray(array)");
  const shape = dimensions
    .split(",")
    .map((part) => part.trim())
    .filter((part) => part !== "")
    .map(Number);
  const width = shape.at(-1) ?? 0;
  const rows = shape.slice(0, -1).reduce((product, one) => product * one, 1);
  if (shape.length < 2 || width === 0)
    throw bad(`is of shape (${shape.join(", ")}); expected rows of vectors, e.g. (texts, width)`);
  const dataAt = headerAt + headerBytes;
  const expected = dataAt + rows * width * number.bytes;
  if (length !== expected)
    throw bad(`has ${length} bytes, and its shape (${shape.join(", ")}) takes ${expected}: it is cut off or damaged`);
  return {
    path,
    shape,
    rows,
    width,
    read(from, to) {
      if (!(from >= 0 && from <= to && to <= rows))
        throw bad(`has ${rows} rows, of which ${from} to ${to} are asked for`);
      const stored = bytes(dataAt + from * width * number.bytes, (to - from) * width * number.bytes);
      const view = new DataView(stored.buffer, stored.byteOffset, stored.length);
      const data = new Float32Array((to - from) * width);
      for (let i = 0; i < data.length; i++) data[i] = number.read(view, i * number.bytes);
      return { data, count: to - from, width };
    },
  };
}

function openFile(path: string): number {
  try {
    return openSync(path, "r");
  } catch (error) {
    throw new CredenceError("NO_FILE", `${path}: there is no such file, or it cannot be read`, { cause: error });
  }
}

function fileBytes(path: string): number {
  const file = openFile(path);
  try {
    const found = fstatSync(file);
    if (found.isFile()) return found.size;
    throw new CredenceError("NO_FILE", `${path}: is not a file`);
  } finally {
    closeSync(file);
  }
}

/** What stands before the numbers of an array (format 1.0): they begin at a multiple of 64 bytes. */
function npyHeader(type: string, shape: string): Buffer {
  const dictionary = `{'descr': '${type}', 'fortran_order': False, 'shape': ${shape}, }`;
  const before = 10;
  const length = 64 * Math.ceil((before + dictionary.length + 1) / 64);
  const bytes = Buffer.alloc(length, " ");
  bytes.write(`${magic}\x01\x00`, "latin1");
  bytes.writeUInt16LE(length - before, 8);
  bytes.write(dictionary, before, "latin1");
  bytes.write("\n", length - 1, "latin1");
  return bytes;
}

/** Whole numbers below 2^32 as numpy.save writes an array of uint32 (format 1.0). */
export function npyBytes(values: readonly number[]): Uint8Array {
  const header = npyHeader("<u4", `(${values.length},)`);
  const bytes = Buffer.alloc(header.length + 4 * values.length);
  header.copy(bytes);
  values.forEach((value, i) => {
    bytes.writeUInt32LE(value, header.length + 4 * i);
  });
  return bytes;
}

/** Vectors as numpy.save writes an array of float32 of shape (count, width), in pieces. */
export const npyRows = ({ data, count, width }: Vectors): Uint8Array[] => [
  npyHeader("<f4", `(${count}, ${width})`),
  new Uint8Array(data.buffer, data.byteOffset, data.byteLength),
];
