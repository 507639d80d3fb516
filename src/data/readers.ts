/**
 * Records from files and to files. The file's ending says how it is read: .jsonl, .json, .csv, .parquet, .arrow (or
 * .feather), each also .gz; "-" is standard input. An error names the file, the line or record, and the field.
 */
import { readFile } from "node:fs/promises";
import { basename } from "node:path";
import { promisify } from "node:util";
import { gunzip, gzipSync } from "node:zlib";
import type { z } from "zod";
import { CredenceError } from "../errors.js";
import { writeFileAtomic } from "../files.js";
import { explainIssue, listFields, numberFields } from "./records.js";

/** A record as it stands in its file, and where. */
interface Found {
  value: unknown;
  /** "questions.jsonl:17" or "questions.parquet: record 17". */
  place: string;
}

type Format = (bytes: Uint8Array, name: string) => Promise<Found[]> | Found[];

const formats: Record<string, Format> = {
  jsonl: readJsonLines,
  ndjson: readJsonLines,
  json: readJson,
  csv: readCsv,
  parquet: readParquet,
  arrow: readArrow,
  feather: readArrow,
};

const bad = (message: string, cause?: unknown): CredenceError => new CredenceError("BAD_INPUT", message, { cause });
const because = (error: unknown): string => (error instanceof Error ? error.message : String(error));

/**
 * Reads a file of records, whole, in its order.
 *
 * @param path a file, or "-" for JSON lines on standard input
 * @param schema one of src/data/records.ts, or any other
 * @throws CredenceError "NO_FILE" or "BAD_INPUT": nothing there, not what its ending says, a record that is not as the
 *   schema says, an `id` that stands twice
 */
export async function readRecords<T extends z.ZodType>(path: string, schema: T): Promise<z.infer<T>[]> {
  const { bytes, name, ending } = await open(path);
  const format = Object.hasOwn(formats, ending) ? formats[ending] : undefined;
  if (!format) {
    const known = Object.keys(formats).join(", .");
    throw bad(
      `${path}: its ending ${ending ? `".${ending}" ` : ""}does not say what it holds; known are .${known}, each also with .gz`,
    );
  }
  const found = await format(bytes, name);
  if (found.length === 0) throw bad(`${name}: holds no records`);
  return checkRecords(found, schema);
}

function checkRecords<T extends z.ZodType>(found: Found[], schema: T): z.infer<T>[] {
  const places = new Map<string, string>();
  return found.map(({ value, place }) => {
    const parsed = schema.safeParse(value);
    if (!parsed.success) throw bad(`${place}: ${explainIssue(value, parsed.error.issues[0]!)}`);
    const { id } = parsed.data as { id?: unknown };
    if (id !== undefined) {
      const before = places.get(String(id));
      if (before !== undefined)
        throw bad(`${place}: "id" is ${JSON.stringify(id)}, which ${before} has already; ids must differ`);
      places.set(String(id), place);
    }
    return inOrderOf(value, parsed.data) as z.infer<T>;
  });
}

/** What was parsed, its fields in the order in which they stand in the file. */
function inOrderOf(given: unknown, parsed: unknown): unknown {
  if (typeof parsed !== "object" || parsed === null || typeof given !== "object" || given === null) return parsed;
  if (Array.isArray(parsed)) return parsed.map((item, i) => inOrderOf((given as unknown[])[i], item));
  const from = given as Record<string, unknown>;
  const to = parsed as Record<string, unknown>;
  const fields = [
    ...Object.keys(from).filter((field) => Object.hasOwn(to, field)),
    ...Object.keys(to).filter((field) => !Object.hasOwn(from, field)),
  ];
  return Object.fromEntries(fields.map((field) => [field, inOrderOf(from[field], to[field])]));
}

/** One JSON object a line, as every file of records is written. */
export const toJsonLines = (records: Iterable<unknown>): string =>
  Array.from(records, (record) => `${JSON.stringify(record)}\n`).join("");

/**
 * Writes records as JSON lines, whole or not at all; a path that ends in .gz is compressed, "-" is standard output.
 *
 * @returns how many were written
 */
export async function writeRecords(path: string, records: Iterable<unknown> | AsyncIterable<unknown>): Promise<number> {
  const pieces: string[] = [];
  let piece = "";
  let count = 0;
  for await (const record of records) {
    const line = `${JSON.stringify(record)}\n`;
    count += 1;
    if (path === "-") await print(line);
    else piece += line;
    if (piece.length > pieceLength) {
      pieces.push(piece);
      piece = "";
    }
  }
  if (path === "-") return count;
  pieces.push(piece);
  writeFileAtomic(path, /\.gz$/i.test(path) ? gzipSync(pieces.join("")) : pieces);
  return count;
}

/** Lines are handed to the file system in pieces of about so many characters. */
const pieceLength = 1 << 20;

const print = (line: string): Promise<void> =>
  new Promise((resolve, reject) => {
    process.stdout.write(line, (error) => (error ? reject(error) : resolve()));
  });

// ---- bytes

async function open(path: string): Promise<{ bytes: Uint8Array; name: string; ending: string }> {
  if (path === "-") {
    const chunks: Buffer[] = [];
    for await (const chunk of process.stdin) chunks.push(chunk as Buffer);
    return { bytes: Buffer.concat(chunks), name: "standard input", ending: "jsonl" };
  }
  let bytes: Uint8Array;
  try {
    bytes = await readFile(path);
  } catch (error) {
    const { code } = error as NodeJS.ErrnoException;
    const what =
      code === "ENOENT" ? "there is no such file" : code === "EISDIR" ? "is a folder, not a file" : because(error);
    throw new CredenceError("NO_FILE", `${path}: ${what}`, { cause: error });
  }
  if (/\.gz$/i.test(path)) {
    try {
      bytes = await promisify(gunzip)(bytes);
    } catch (error) {
      throw bad(`${path}: cannot be decompressed (${because(error)}); it is damaged, cut off, or not gzip`, error);
    }
  }
  const ending = /\.([^.]+?)(?:\.gz)?$/i.exec(basename(path))?.[1]?.toLowerCase() ?? "";
  return { bytes, name: path, ending };
}

/** UTF-8 without its byte order mark. */
function textOf(bytes: Uint8Array, name: string): string {
  try {
    return new TextDecoder("utf-8", { fatal: true }).decode(bytes);
  } catch (error) {
    throw bad(`${name}${firstBadLine(bytes)}: not UTF-8. Save it as UTF-8`, error);
  }
}

function firstBadLine(bytes: Uint8Array): string {
  let line = 1;
  for (let from = 0; from < bytes.length; ++line) {
    const end = bytes.indexOf(10, from);
    const to = end < 0 ? bytes.length : end;
    if (!isUtf8(bytes.subarray(from, to))) return `:${line}`;
    from = to + 1;
  }
  return "";
}

function isUtf8(bytes: Uint8Array): boolean {
  try {
    new TextDecoder("utf-8", { fatal: true }).decode(bytes);
    return true;
  } catch {
    return false;
  }
}

// ---- formats

function readJsonLines(bytes: Uint8Array, name: string): Found[] {
  const found: Found[] = [];
  textOf(bytes, name)
    .split("\n")
    .forEach((line, i) => {
      if (line.trim() === "") return;
      const place = `${name}:${i + 1}`;
      found.push({ value: parse(line, place, "each line holds one JSON object"), place });
    });
  return found;
}

function readJson(bytes: Uint8Array, name: string): Found[] {
  const text = textOf(bytes, name);
  if (text.trim() === "") return [];
  const value = parse(text, name, "one JSON object a line belongs into a .jsonl file");
  if (!Array.isArray(value))
    throw bad(`${name}: holds ${value === null ? "null" : `a single ${typeof value}`}; expected a list of records`);
  return value.map((item, i) => ({ value: item, place: `${name}: record ${i + 1}` }));
}

function parse(text: string, place: string, hint: string): unknown {
  try {
    return JSON.parse(text);
  } catch (error) {
    throw bad(`${place}: not valid JSON (${because(error)}); ${hint}`, error);
  }
}

async function readCsv(bytes: Uint8Array, name: string): Promise<Found[]> {
  const { parse } = await import("csv-parse/sync");
  let rows: { record: Record<string, string>; info: { lines: number } }[];
  try {
    rows = parse(textOf(bytes, name), { columns: true, info: true, bom: true, skip_empty_lines: true });
  } catch (error) {
    if (error instanceof CredenceError) throw error;
    const line = (error as { lines?: number }).lines;
    throw bad(`${name}${line === undefined ? "" : `:${line}`}: not valid CSV (${because(error)})`, error);
  }
  return rows.map(({ record, info }) => {
    // `lines` counts to the record's last line.
    const lines = Object.values(record).join("").split("\n").length - 1;
    const place = `${name}:${info.lines - lines}`;
    const entries = Object.entries(record).flatMap(([field, cell]) =>
      cell === "" ? [] : [[field, cellValue(field, cell, place)]],
    );
    return { value: Object.fromEntries(entries), place };
  });
}

/** A cell is text; a list or an object is written as JSON, and a single answer as it is. */
function cellValue(field: string, cell: string, place: string): unknown {
  if (numberFields.has(field)) return cell.trim() === "" || Number.isNaN(Number(cell)) ? cell : Number(cell);
  if (/^\s*[[{]/.test(cell)) {
    try {
      return JSON.parse(cell);
    } catch (error) {
      if (listFields.has(field))
        throw bad(`${place}: "${field}" is not valid JSON (${because(error)}); write a list as ["one", "two"]`, error);
    }
  }
  return listFields.has(field) ? [cell] : cell;
}

async function readParquet(bytes: Uint8Array, name: string): Promise<Found[]> {
  const { parquetReadObjects } = await import("hyparquet");
  let rows: Record<string, unknown>[];
  try {
    rows = await parquetReadObjects({ file: Uint8Array.from(bytes).buffer });
  } catch (error) {
    throw bad(`${name}: cannot be read as Parquet (${because(error)}); known compressions are none and Snappy`, error);
  }
  return rows.map((row, i) => ({ value: plain(row), place: `${name}: record ${i + 1}` }));
}

async function readArrow(bytes: Uint8Array, name: string): Promise<Found[]> {
  const { tableFromIPC } = await import("apache-arrow");
  let rows: unknown[];
  try {
    rows = tableFromIPC(bytes).toArray();
  } catch (error) {
    throw bad(
      `${name}: cannot be read as Arrow (${because(error)}); compressed files must be saved without compression`,
      error,
    );
  }
  return rows.map((row, i) => ({ value: plain(row), place: `${name}: record ${i + 1}` }));
}

/** A column store's value as JSON would have it: whole numbers, lists, objects; null means absent. */
function plain(value: unknown): unknown {
  if (typeof value === "bigint") return Number(value);
  if (value === null || typeof value !== "object") return value;
  if (value instanceof Date) return value.toISOString();
  if (Array.isArray(value) || ArrayBuffer.isView(value)) return Array.from(value as unknown as unknown[], plain);
  const inner = "toJSON" in value && typeof value.toJSON === "function" ? value.toJSON() : value;
  if (Array.isArray(inner)) return inner.map(plain);
  const entries = Object.entries(inner as object).filter(([, item]) => item !== null && item !== undefined);
  return Object.fromEntries(entries.map(([field, item]) => [field, plain(item)]));
}
