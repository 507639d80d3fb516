/**
 * Records from files and to files. The file's ending says how it is read: .jsonl, .json, .csv, .parquet, .arrow (or
 * .feather), each also .gz; "-" is standard input. An error names the file, the line or record, and the field.
 */
import { Readable } from "node:stream";
import { pipeline } from "node:stream/promises";
import { createGzip } from "node:zlib";
import type { z } from "zod";
import { CredenceError } from "../errors.js";
import { writeFileFrom } from "../files.js";
import { blocksOf, type Format, type Found, formats, openSource, type Source } from "./formats.js";
import { explainIssue } from "./records.js";

const bad = (message: string): CredenceError => new CredenceError("BAD_INPUT", message);

/** The format that a file's ending names. */
function formatOf({ ending, path }: Source): Format {
  const format = Object.hasOwn(formats, ending) ? formats[ending]! : undefined;
  if (!format) {
    const known = Object.keys(formats).join(", .");
    throw bad(
      `${path}: its ending ${ending ? `".${ending}" ` : ""}does not say what it holds; known are .${known}, each also with .gz`,
    );
  }
  return format;
}

/**
 * Reads a file of records, whole, in its order.
 *
 * @param path a file, or "-" for JSON lines on standard input
 * @param schema one of src/data/records.ts, or any other
 * @throws CredenceError "NO_FILE" or "BAD_INPUT": nothing there, not what its ending says, a record that is not as the
 *   schema says, an `id` that stands twice
 */
export async function readRecords<T extends z.ZodType>(path: string, schema: T): Promise<z.infer<T>[]> {
  const source = openSource(path);
  const places = new Map<string, string>();
  const records: z.infer<T>[] = [];
  for await (const found of formatOf(source).read(source)) {
    for (const one of found) {
      const record = checkRecord(one, schema);
      checkId(record, one.place, places);
      records.push(record);
    }
  }
  if (records.length === 0) throw bad(`${source.name}: holds no records`);
  return records;
}

/** Records that are read where they lie, as often as needed, some at a time. */
export interface RecordFile<T> {
  name: string;
  /** How many there are. */
  records: number;
  /**
   * Number of the first record of each block that can be read by itself, ascending from 0; [0] alone where the file can
   * only be read from its start.
   */
  blocks: number[];
  /** Records from..to (excluded) in their order, some at a time. */
  read(from: number, to: number): AsyncGenerator<T[], void, undefined>;
}

/**
 * Opens a file of records to be read in pieces: its records are counted, and none is kept. JSON lines and Parquet (whose
 * blocks are its row groups) are read from anywhere; CSV and what ends in .gz only from the start; JSON, Arrow and standard
 * input are held in memory. An `id` that stands twice is not noticed.
 *
 * @throws CredenceError as `readRecords`; what is wrong with a record is told when it is read
 */
export async function openRecords<T extends z.ZodType>(path: string, schema: T): Promise<RecordFile<z.infer<T>>> {
  const source = openSource(path);
  const format = formatOf(source);
  const index = await format.index(source);
  if (index.records === 0) throw bad(`${source.name}: holds no records`);
  return {
    name: source.name,
    records: index.records,
    blocks: index.blocks,
    async *read(from, to) {
      let left = to - from;
      if (left === 0) return;
      for await (const found of format.read(source, { from, to, index })) {
        left -= found.length;
        yield found.map((one) => checkRecord(one, schema));
      }
      if (left > 0)
        throw bad(
          `${source.name}: had ${index.records} records when it was opened and has fewer now; it must not change`,
        );
    },
  };
}

/** Records in memory as a file would have them. */
export function recordsOf<T>(records: readonly T[], name = "the records given"): RecordFile<T> {
  return {
    name,
    records: records.length,
    blocks: blocksOf(records.length),
    async *read(from, to) {
      yield records.slice(from, to);
    },
  };
}

/** The first `limit` records of a file. */
export function firstRecords<T>(file: RecordFile<T>, limit = file.records): RecordFile<T> {
  const records = Math.min(limit, file.records);
  return { ...file, records, blocks: file.blocks.filter((block) => block === 0 || block < records) };
}

function checkRecord<T extends z.ZodType>({ value, place }: Found, schema: T): z.infer<T> {
  const parsed = schema.safeParse(value);
  if (!parsed.success) throw bad(`${place}: ${explainIssue(value, parsed.error.issues[0]!)}`);
  return inOrderOf(value, parsed.data) as z.infer<T>;
}

function checkId(record: unknown, place: string, places: Map<string, string>): void {
  const { id } = record as { id?: unknown };
  if (id === undefined) return;
  const before = places.get(String(id));
  if (before !== undefined)
    throw bad(`${place}: "id" is ${JSON.stringify(id)}, which ${before} has already; ids must differ`);
  places.set(String(id), place);
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

/** What `toJsonLines` wrote; nothing is checked. */
export const fromJsonLines = <T>(text: string): T[] =>
  text
    .split("\n")
    .filter(Boolean)
    .map((line) => JSON.parse(line) as T);

/**
 * Writes records as JSON lines, whole or not at all; a path that ends in .gz is compressed, "-" is standard output.
 *
 * @returns how many were written
 */
export async function writeRecords(path: string, records: Iterable<unknown> | AsyncIterable<unknown>): Promise<number> {
  let count = 0;
  async function* pieces() {
    let piece = "";
    for await (const record of records) {
      count += 1;
      piece += `${JSON.stringify(record)}\n`;
      if (path !== "-" && piece.length < pieceLength) continue;
      yield piece;
      piece = "";
    }
    if (piece !== "") yield piece;
  }
  if (path === "-") for await (const piece of pieces()) await print(piece);
  else await writeFileFrom(path, /\.gz$/i.test(path) ? zipped(pieces()) : pieces());
  return count;
}

/** A failure of the pieces' source ends the compression too, and is what is thrown. */
async function* zipped(pieces: AsyncIterable<string>): AsyncGenerator<Uint8Array, void, undefined> {
  const zip = createGzip();
  const fed = pipeline(Readable.from(pieces, { objectMode: false }), zip);
  fed.catch(() => {});
  try {
    for await (const piece of zip) yield piece as Buffer;
  } finally {
    await fed;
  }
}

/** Lines are handed to the file system in pieces of about so many characters. */
const pieceLength = 1 << 20;

const print = (line: string): Promise<void> =>
  new Promise((resolve, reject) => {
    process.stdout.write(line, (error) => (error ? reject(error) : resolve()));
  });
