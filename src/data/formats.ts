/**
 * Files as records lie in them: JSON lines, JSON, CSV, Parquet, Arrow, each also gzipped. Bytes are read as they are needed,
 * and a place (file and line, or record) goes with each record.
 */
import { isUtf8 } from "node:buffer";
import { createReadStream } from "node:fs";
import { open } from "node:fs/promises";
import { basename } from "node:path";
import { Readable } from "node:stream";
import { createGunzip } from "node:zlib";
import type { FileMetaData } from "hyparquet";
import { CredenceError } from "../errors.js";
import { listFields, numberFields } from "./records.js";

/** A record as it stands in its file, and where. */
export interface Found {
  value: unknown;
  /** "questions.jsonl:17" or "questions.parquet: record 17". */
  place: string;
}

/** A file, and how to get at its bytes. */
export interface Source {
  path: string;
  /** As messages call it. */
  name: string;
  /** "jsonl", "csv", ... */
  ending: string;
  /** Whether its bytes can be read from anywhere. */
  seekable: boolean;
  /** Its bytes, decompressed, from an offset on. */
  chunks(from?: number): AsyncIterable<Buffer>;
}

/** What is known of a file once it has been gone through. */
export interface Index {
  records: number;
  /** Number of the first record of each block that can be read by itself. */
  blocks: number[];
  /** Where each block begins, for lines. */
  starts?: Place[];
  /** The records themselves, where the format has to be read whole. */
  kept?: Found[];
  /** Parquet's own. */
  metadata?: FileMetaData;
}

/** A byte, and the number of the line that begins there. */
interface Place {
  offset: number;
  line: number;
}

/** Records from..to (excluded), found by the file's index where there is one. */
export interface Part {
  from: number;
  to: number;
  index?: Index;
}

export interface Format {
  /** Records in their order, some at a time: all of them, or a part. */
  read(source: Source, part?: Part): AsyncGenerator<Found[], void, undefined>;
  index(source: Source): Promise<Index>;
}

const bad = (message: string, cause?: unknown): CredenceError => new CredenceError("BAD_INPUT", message, { cause });
const because = (error: unknown): string => (error instanceof Error ? error.message : String(error));

const everything: Part = { from: 0, to: Number.POSITIVE_INFINITY };

/** Records of a block where the format has none of its own. */
const blockRecords = 1024;

/** Blocks of a file in which every record can be found. */
export const blocksOf = (records: number): number[] =>
  Array.from({ length: Math.max(1, Math.ceil(records / blockRecords)) }, (_, block) => block * blockRecords);

// ---- bytes

/** The longest line that is read: beyond it the file is not what its ending says. */
const longestLine = 1 << 28;

/** A file, or "-" for JSON lines on standard input. Nothing is read yet. */
export function openSource(path: string): Source {
  if (path === "-") {
    const name = "standard input";
    return { path, name, ending: "jsonl", seekable: false, chunks: () => process.stdin as AsyncIterable<Buffer> };
  }
  const zipped = /\.gz$/i.test(path);
  const ending = /\.([^.]+?)(?:\.gz)?$/i.exec(basename(path))?.[1]?.toLowerCase() ?? "";
  return { path, name: path, ending, seekable: !zipped, chunks: (from) => bytesOf(path, zipped, from) };
}

const pieceBytes = 1 << 18;

async function* bytesOf(path: string, zipped: boolean, from = 0): AsyncGenerator<Buffer, void, undefined> {
  const file = createReadStream(path, { start: from, highWaterMark: pieceBytes });
  try {
    if (!zipped) {
      yield* file as AsyncIterable<Buffer>;
      return;
    }
    const unzipped = createGunzip({ chunkSize: pieceBytes });
    file.on("error", (error) => unzipped.destroy(error));
    try {
      yield* file.pipe(unzipped) as AsyncIterable<Buffer>;
    } finally {
      unzipped.destroy();
    }
  } catch (error) {
    throw unreadable(error, path);
  } finally {
    file.destroy();
  }
}

function unreadable(error: unknown, path: string): unknown {
  if (error instanceof CredenceError) return error;
  const { code } = error as NodeJS.ErrnoException;
  if (code?.startsWith("Z_"))
    return bad(`${path}: cannot be decompressed (${because(error)}); it is damaged, cut off, or not gzip`, error);
  const what =
    code === "ENOENT" ? "there is no such file" : code === "EISDIR" ? "is a folder, not a file" : because(error);
  return new CredenceError("NO_FILE", `${path}: ${what}`, { cause: error });
}

async function whole({ chunks }: Source): Promise<Buffer> {
  const pieces: Buffer[] = [];
  for await (const piece of chunks()) pieces.push(piece);
  return Buffer.concat(pieces);
}

/** Whole lines, many at a time, checked to be UTF-8; without a byte order mark. */
async function* lineBlocks(
  { name, chunks }: Source,
  { offset, line }: Place = { offset: 0, line: 1 },
): AsyncGenerator<{ bytes: Buffer } & Place, void, undefined> {
  let held: Buffer[] = [];
  let size = 0;
  const block = (last: Buffer) => {
    let bytes = held.length ? Buffer.concat([...held, last]) : last;
    const place = { offset, line };
    if (!isUtf8(bytes)) throw bad(`${name}:${line + firstBadLine(bytes)}: not UTF-8. Save it as UTF-8`);
    offset += bytes.length;
    line += newLines(bytes);
    if (place.offset === 0 && bytes[0] === 0xef && bytes[1] === 0xbb && bytes[2] === 0xbf) {
      bytes = bytes.subarray(3);
      place.offset = 3;
    }
    return { bytes, ...place };
  };
  for await (const chunk of chunks(offset)) {
    const end = chunk.lastIndexOf(10) + 1;
    if (end > 0) {
      yield block(chunk.subarray(0, end));
      held = [];
      size = 0;
    }
    if (end < chunk.length) held.push(chunk.subarray(end));
    size += chunk.length - end;
    if (size > longestLine) throw bad(`${name}:${line}: a line of more than ${longestLine >> 20} MiB`);
  }
  if (size > 0) yield block(Buffer.alloc(0));
}

function newLines(bytes: Buffer): number {
  let count = 0;
  for (let at = bytes.indexOf(10); at >= 0; at = bytes.indexOf(10, at + 1)) count += 1;
  return count;
}

/** How many lines come before the first that is not UTF-8. */
function firstBadLine(bytes: Buffer): number {
  let lines = 0;
  for (let from = 0; ; lines++) {
    const end = bytes.indexOf(10, from);
    if (end < 0 || !isUtf8(bytes.subarray(from, end))) return lines;
    from = end + 1;
  }
}

/** UTF-8 without its byte order mark. */
function textOf(bytes: Buffer, name: string): string {
  if (!isUtf8(bytes)) throw bad(`${name}:${1 + firstBadLine(bytes)}: not UTF-8. Save it as UTF-8`);
  return bytes.toString("utf8", bytes[0] === 0xef && bytes[1] === 0xbb && bytes[2] === 0xbf ? 3 : 0);
}

// ---- JSON

/** Calls back with each line that is not blank: its bytes from..to, and how many lines of the block come before it. */
function eachLine(bytes: Buffer, visit: (from: number, to: number, line: number) => void): void {
  let line = 0;
  for (let from = 0; from < bytes.length; line++) {
    const end = bytes.indexOf(10, from);
    const to = end < 0 ? bytes.length : end;
    for (let at = from; at < to; at++) {
      const byte = bytes[at]!;
      if (byte === 32 || byte === 13 || byte === 9) continue;
      visit(from, to, line);
      break;
    }
    from = to + 1;
  }
}

const jsonLines: Format = {
  async *read(source, { from, to, index } = everything) {
    if (index?.kept) {
      yield index.kept.slice(from, to);
      return;
    }
    const block = index?.starts ? Math.floor(from / blockRecords) : 0;
    let record = block * blockRecords;
    for await (const { bytes, line: first } of lineBlocks(source, index?.starts?.[block])) {
      const found: Found[] = [];
      eachLine(bytes, (begin, end, line) => {
        record += 1;
        if (record <= from || record > to) return;
        const place = `${source.name}:${first + line}`;
        found.push({
          value: parse(bytes.toString("utf8", begin, end), place, "each line holds one JSON object"),
          place,
        });
      });
      if (found.length) yield found;
      if (record >= to) return;
    }
  },
  async index(source) {
    if (source.path === "-") return keep(source, jsonLines);
    const starts: Place[] = [];
    let records = 0;
    for await (const { bytes, offset, line: first } of lineBlocks(source)) {
      eachLine(bytes, (begin, _, line) => {
        if (records++ % blockRecords === 0) starts.push({ offset: offset + begin, line: first + line });
      });
    }
    return source.seekable ? { records, blocks: blocksOf(records), starts } : { records, blocks: [0] };
  },
};

/** Formats that cannot be read in pieces are held in memory. */
async function keep(source: Source, format: Format): Promise<Index> {
  const kept: Found[] = [];
  for await (const found of format.read(source)) for (const one of found) kept.push(one);
  return { records: kept.length, blocks: blocksOf(kept.length), kept };
}

/** A format of which the whole file is read at once. */
function wholeFormat(read: (bytes: Buffer, name: string) => Promise<Found[]> | Found[]): Format {
  const format: Format = {
    async *read(source, part) {
      yield part?.index?.kept?.slice(part.from, part.to) ?? (await read(await whole(source), source.name));
    },
    index: (source) => keep(source, format),
  };
  return format;
}

function readJson(bytes: Buffer, name: string): Found[] {
  const text = textOf(bytes, name);
  if (text.trim() === "") return [];
  const value = parse(text, name, "one JSON object a line belongs into a .jsonl file");
  const rows = rowsOfColumns(value, name);
  if (rows) return rows;
  if (!Array.isArray(value))
    throw bad(`${name}: holds ${value === null ? "null" : `a single ${typeof value}`}; expected a list of records`);
  return value.map((item, i) => ({ value: item, place: `${name}: record ${i + 1}` }));
}

/** A table that is written column by column, {"question": [..], "answer": [..]}; null for what is none. */
function rowsOfColumns(value: unknown, name: string): Found[] | null {
  if (typeof value !== "object" || value === null || Array.isArray(value)) return null;
  const columns = Object.entries(value);
  const [first] = columns;
  if (!first || !columns.every(([, cells]) => Array.isArray(cells))) return null;
  const { length } = first[1] as unknown[];
  for (const [field, cells] of columns) {
    if (cells.length !== length)
      throw bad(`${name}: its column "${field}" has ${cells.length} rows, and "${first[0]}" has ${length}`);
  }
  return Array.from({ length }, (_, row) => ({
    value: Object.fromEntries(columns.map(([field, cells]) => [field, cells[row]])),
    place: `${name}: row ${row + 1}`,
  }));
}

function parse(text: string, place: string, hint: string): unknown {
  try {
    return JSON.parse(text);
  } catch (error) {
    throw bad(`${place}: not valid JSON (${because(error)}); ${hint}`, error);
  }
}

// ---- tables

/** Records handed on together. */
const batchRecords = 256;

const csv: Format = {
  async *read(source, { from, to } = everything) {
    const { parse } = await import("csv-parse");
    const lines = Readable.from(linesOf(source), { objectMode: true });
    const parser = parse({ columns: true, info: true, bom: true, skip_empty_lines: true });
    lines.on("error", (error) => parser.destroy(error));
    let found: Found[] = [];
    let record = 0;
    try {
      for await (const { record: cells, info } of lines.pipe(parser) as AsyncIterable<CsvRow>) {
        record += 1;
        if (record <= from) continue;
        if (record > to) break;
        found.push(fromCells(cells, info, source.name));
        if (found.length < batchRecords) continue;
        yield found;
        found = [];
      }
    } catch (error) {
      if (error instanceof CredenceError) throw error;
      const line = (error as { lines?: number }).lines;
      throw bad(`${source.name}${line === undefined ? "" : `:${line}`}: not valid CSV (${because(error)})`, error);
    } finally {
      lines.destroy();
    }
    if (found.length) yield found;
  },
  async index(source) {
    let records = 0;
    for await (const found of csv.read(source)) records += found.length;
    return { records, blocks: [0] };
  },
};

interface CsvRow {
  record: Record<string, string>;
  info: { lines: number };
}

async function* linesOf(source: Source): AsyncGenerator<Buffer, void, undefined> {
  for await (const { bytes } of lineBlocks(source)) yield bytes;
}

function fromCells(record: Record<string, string>, info: { lines: number }, name: string): Found {
  // `lines` counts to the record's last line.
  const lines = Object.values(record).join("").split("\n").length - 1;
  const place = `${name}:${info.lines - lines}`;
  const entries = Object.entries(record).flatMap(([field, cell]) =>
    cell === "" ? [] : [[field, cellValue(field, cell, place)]],
  );
  return { value: Object.fromEntries(entries), place };
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

/** A Parquet file as hyparquet asks for it; only what it asks for is read. */
async function parquetBytes({ path, seekable, ...source }: Source) {
  if (!seekable) {
    const bytes = await whole({ path, seekable, ...source });
    return { byteLength: bytes.length, slice: (from: number, to?: number) => copyOf(bytes.subarray(from, to)) };
  }
  let file: Awaited<ReturnType<typeof open>>;
  try {
    file = await open(path);
  } catch (error) {
    throw unreadable(error, path);
  }
  const { size } = await file.stat();
  await file.close();
  const slice = async (from: number, to = size) => {
    const handle = await open(path);
    try {
      const { buffer, bytesRead } = await handle.read(Buffer.alloc(to - from), 0, to - from, from);
      return copyOf(buffer.subarray(0, bytesRead));
    } finally {
      await handle.close();
    }
  };
  return { byteLength: size, slice };
}

const copyOf = (bytes: Uint8Array): ArrayBuffer => Uint8Array.from(bytes).buffer;

async function withParquet<T>(source: Source, use: (hyparquet: typeof import("hyparquet")) => Promise<T>): Promise<T> {
  try {
    return await use(await import("hyparquet"));
  } catch (error) {
    if (error instanceof CredenceError) throw error;
    throw bad(
      `${source.name}: cannot be read as Parquet (${because(error)}); known compressions are none and Snappy`,
      error,
    );
  }
}

/** Number of the first record of each row group. */
function rowGroups({ row_groups }: FileMetaData): number[] {
  let from = 0;
  return row_groups.map((group) => {
    const first = from;
    from += Number(group.num_rows);
    return first;
  });
}

const parquet: Format = {
  async *read(source, { from, to, index } = everything) {
    const file = await parquetBytes(source);
    const metadata =
      index?.metadata ?? (await withParquet(source, ({ parquetMetadataAsync }) => parquetMetadataAsync(file)));
    const records = Number(metadata.num_rows);
    const groups = rowGroups(metadata);
    for (const [group, first] of groups.entries()) {
      const rowEnd = Math.min(to, groups[group + 1] ?? records);
      const rowStart = Math.max(first, from);
      if (rowStart >= rowEnd) continue;
      const rows = await withParquet(source, ({ parquetReadObjects }) =>
        parquetReadObjects({ file, metadata, rowStart, rowEnd }),
      );
      yield rows.map((row, i) => ({ value: plain(row), place: `${source.name}: record ${rowStart + i + 1}` }));
    }
  },
  async index(source) {
    const file = await parquetBytes(source);
    const metadata = await withParquet(source, ({ parquetMetadataAsync }) => parquetMetadataAsync(file));
    return { records: Number(metadata.num_rows), blocks: rowGroups(metadata), metadata };
  },
};

async function readArrow(bytes: Buffer, name: string): Promise<Found[]> {
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

export const formats: Record<string, Format> = {
  jsonl: jsonLines,
  ndjson: jsonLines,
  json: wholeFormat(readJson),
  csv,
  parquet,
  arrow: wholeFormat(readArrow),
  feather: wholeFormat(readArrow),
};
