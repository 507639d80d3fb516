/** Matrices of float32 to and from NumPy's `.npy` files, format 1.0 to 3.0: a header in Python's writing, then the numbers. */
import { readFileSync } from "node:fs";
import { CredenceError } from "../errors.js";

/** [rows, columns], row-major. */
export interface Matrix {
  rows: number;
  columns: number;
  data: Float32Array;
}

const magic = Buffer.from("\x93NUMPY", "latin1");

/** The file's bytes in pieces. */
export function encodeNpy({ rows, columns, data }: Matrix): Uint8Array[] {
  if (data.length !== rows * columns)
    throw new CredenceError("BAD_INPUT", `${data.length} numbers do not fill [${rows}, ${columns}]`);
  const header = `{'descr': '<f4', 'fortran_order': False, 'shape': (${rows}, ${columns}), }`;
  // The numbers begin at a multiple of 64 bytes.
  const padded = `${header.padEnd(Math.ceil((header.length + 11) / 64) * 64 - 11)}\n`;
  const length = Buffer.alloc(2);
  length.writeUInt16LE(padded.length);
  const start = Buffer.concat([magic, Buffer.from([1, 0]), length, Buffer.from(padded, "latin1")]);
  return [start, new Uint8Array(data.buffer, data.byteOffset, data.byteLength)];
}

/** Numbers of each type that is read. */
const readers: Record<string, (bytes: Uint8Array<ArrayBuffer>) => ArrayLike<number>> = {
  "<f4": (bytes) => new Float32Array(bytes.buffer),
  "<f8": (bytes) => new Float64Array(bytes.buffer),
};

/**
 * Reads a matrix of float32 or float64; one dimension is one column.
 *
 * @throws CredenceError "BAD_INPUT" naming what the file holds instead
 */
export function readNpy(path: string): Matrix {
  let file: Buffer;
  try {
    file = readFileSync(path);
  } catch (error) {
    throw new CredenceError("NO_FILE", `cannot read ${path}: ${(error as Error).message}`, { cause: error });
  }
  const bad = (what: string) => new CredenceError("BAD_INPUT", `${path}: ${what}`);
  if (file.length < 12 || !file.subarray(0, 6).equals(magic)) throw bad("is no .npy file");
  const wide = file[6]! > 1;
  const start = wide ? 12 : 10;
  const end = start + (wide ? file.readUInt32LE(8) : file.readUInt16LE(8));
  const header = file.toString("latin1", start, end);
  const type = /'descr': *'([^']*)'/.exec(header)?.[1] ?? "?";
  const shape = /'shape': *\(([^)]*)\)/.exec(header)?.[1]?.split(",").map(Number) ?? [];
  const [rows, columns = 1] = shape.filter((size, i) => i < 2 && !(i === 1 && shape.length === 2 && size === 0));
  const read = Object.hasOwn(readers, type) ? readers[type]! : undefined;
  if (!read || !/'fortran_order': *False/.test(header) || rows === undefined || shape.length > 2)
    throw bad(`holds ${header.trim().slice(0, 120)}; expected rows of '<f4' or '<f8', not in Fortran's order`);
  const size = Number(type.slice(2));
  if (file.length - end !== rows * columns * size)
    throw bad(`${file.length - end} bytes of numbers do not fill [${rows}, ${columns}]: it was cut off`);
  return { rows, columns, data: Float32Array.from(read(new Uint8Array(file.subarray(end)))) };
}
