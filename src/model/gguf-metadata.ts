/**
 * The keys and values at the head of a GGUF file (tokenizer, chat template, names), without its tensors.
 *
 * Layout (GGUF v2 and v3, little endian): "GGUF", version u32, tensor count u64, key count u64, then for each key a
 * string, a type u32 and the value; a string is a length u64 and its UTF-8 bytes; an array is a type u32, a count u64,
 * the elements.
 */
import { type FileHandle, open } from "node:fs/promises";
import { CredenceError } from "../errors.js";

export type GgufValue = number | bigint | boolean | string | GgufValue[];

/** A file's metadata, with typed access: a key of another type is an error that names file, key and both types. */
export class GgufMetadata {
  readonly path: string;
  readonly version: number;
  readonly tensorCount: number;
  readonly values: ReadonlyMap<string, GgufValue>;

  constructor(path: string, version: number, tensorCount: number, values: Map<string, GgufValue>) {
    this.path = path;
    this.version = version;
    this.tensorCount = tensorCount;
    this.values = values;
  }

  string(key: string): string | undefined {
    return this.typed(key, "a string", (v): v is string => typeof v === "string");
  }

  number(key: string): number | undefined {
    return this.typed(key, "a number", (v): v is number => typeof v === "number");
  }

  boolean(key: string): boolean | undefined {
    return this.typed(key, "true or false", (v): v is boolean => typeof v === "boolean");
  }

  strings(key: string): string[] | undefined {
    return this.typed(
      key,
      "a list of strings",
      (v): v is string[] => Array.isArray(v) && v.every((x) => typeof x === "string"),
    );
  }

  numbers(key: string): number[] | undefined {
    return this.typed(
      key,
      "a list of numbers",
      (v): v is number[] => Array.isArray(v) && v.every((x) => typeof x === "number"),
    );
  }

  private typed<T extends GgufValue>(
    key: string,
    expected: string,
    is: (value: GgufValue) => value is T,
  ): T | undefined {
    const value = this.values.get(key);
    if (value === undefined) return undefined;
    if (is(value)) return value;
    const found = Array.isArray(value) ? "a list of something else" : `a ${typeof value}`;
    throw new CredenceError("BAD_MODEL_FILE", `${this.path}: metadata key "${key}" is ${found}; expected ${expected}`);
  }
}

/** First read; doubled while the metadata goes on. The largest vocabularies in use need about 10 MiB. */
const firstRead = 4 << 20;
const largestMetadata = 256 << 20;
const deepestArray = 4;

/**
 * Reads a GGUF file's metadata.
 *
 * @throws CredenceError "BAD_MODEL_FILE" naming the file: no GGUF, an unknown version or type, or cut before the
 *   metadata's end
 */
export async function readGgufMetadata(path: string): Promise<GgufMetadata> {
  let file: FileHandle;
  try {
    file = await open(path, "r");
  } catch (cause) {
    throw new CredenceError("NO_MODEL", `${path}: cannot be opened (${(cause as Error).message})`, { cause });
  }
  try {
    const { size } = await file.stat();
    for (let want = firstRead; ; want *= 2) {
      const bytes = await readStart(file, Math.min(want, size));
      const parsed = new MetadataReader(path, bytes, size).read();
      if (parsed) return parsed;
      if (want >= largestMetadata) {
        throw bad(path, `more than ${largestMetadata >> 20} MiB of metadata: the file is damaged, or no model`);
      }
    }
  } finally {
    await file.close();
  }
}

async function readStart(file: FileHandle, length: number): Promise<Buffer> {
  const bytes = Buffer.allocUnsafe(length);
  let done = 0;
  while (done < length) {
    const { bytesRead } = await file.read(bytes, done, length - done, done);
    if (bytesRead === 0) break;
    done += bytesRead;
  }
  return bytes.subarray(0, done);
}

const bad = (path: string, what: string): CredenceError => new CredenceError("BAD_MODEL_FILE", `${path}: ${what}`);

/** The bytes at hand end before the metadata does, though the file goes on: read more and start again. */
class NeedMore extends Error {}

class MetadataReader {
  private at = 0;

  constructor(
    private readonly path: string,
    private readonly bytes: Buffer,
    private readonly fileSize: number,
  ) {}

  /** undefined: the metadata goes on beyond the bytes given. */
  read(): GgufMetadata | undefined {
    try {
      return this.metadata();
    } catch (error) {
      if (error instanceof NeedMore) return undefined;
      throw error;
    }
  }

  private metadata(): GgufMetadata {
    if (this.fileSize < 4 || this.bytes.toString("latin1", 0, 4) !== "GGUF") {
      throw bad(this.path, `not a GGUF file (it does not begin with "GGUF")`);
    }
    this.at = 4;
    const version = this.bytes.readUInt32LE(this.take(4, "the version"));
    if (version !== 2 && version !== 3) {
      const swapped = version !== 0 && (version & 0xffff) === 0 ? ", or the file is big-endian" : "";
      throw bad(this.path, `GGUF version ${version}; versions 2 and 3 are read${swapped}`);
    }
    const tensorCount = this.count("the number of tensors", 0);
    const keyCount = this.count("the number of keys", 0);
    const values = new Map<string, GgufValue>();
    for (let i = 0; i < keyCount; ++i) {
      const key = this.text(`key ${i + 1} of ${keyCount}`);
      if (values.has(key)) throw bad(this.path, `metadata key "${key}" stands twice`);
      values.set(key, this.value(this.type(key), key, 0));
    }
    return new GgufMetadata(this.path, version, tensorCount, values);
  }

  /** Steps over `length` bytes and returns where they begin. */
  private take(length: number, what: string): number {
    const from = this.at;
    if (length > this.fileSize - from) {
      throw bad(
        this.path,
        `cut off in its metadata, at byte ${this.fileSize.toLocaleString("en")}, in ${what}. Fetch the file again`,
      );
    }
    if (length > this.bytes.length - from) throw new NeedMore();
    this.at = from + length;
    return from;
  }

  /** A u64 that counts things of `size` bytes each, all of which must still fit into the file. */
  private count(what: string, size: number): number {
    const value = this.bytes.readBigUInt64LE(this.take(8, what));
    if (value > BigInt(Number.MAX_SAFE_INTEGER)) throw bad(this.path, `${what} is ${value}: the file is damaged`);
    const count = Number(value);
    if (size > 0 && count * size > this.fileSize - this.at) this.take(count * size, what);
    return count;
  }

  private text(what: string): string {
    const length = this.count(what, 1);
    const from = this.take(length, what);
    return this.bytes.toString("utf8", from, from + length);
  }

  private type(what: string): number {
    return this.bytes.readUInt32LE(this.take(4, what));
  }

  private value(type: number, key: string, depth: number): GgufValue {
    const what = `the value of "${key}"`;
    const { bytes } = this;
    switch (type) {
      case 0:
        return bytes.readUInt8(this.take(1, what));
      case 1:
        return bytes.readInt8(this.take(1, what));
      case 2:
        return bytes.readUInt16LE(this.take(2, what));
      case 3:
        return bytes.readInt16LE(this.take(2, what));
      case 4:
        return bytes.readUInt32LE(this.take(4, what));
      case 5:
        return bytes.readInt32LE(this.take(4, what));
      case 6:
        return bytes.readFloatLE(this.take(4, what));
      case 7:
        return bytes.readUInt8(this.take(1, what)) !== 0;
      case 8:
        return this.text(what);
      case 9:
        return this.array(key, depth);
      case 10:
        return safe(bytes.readBigUInt64LE(this.take(8, what)));
      case 11:
        return safe(bytes.readBigInt64LE(this.take(8, what)));
      case 12:
        return bytes.readDoubleLE(this.take(8, what));
      default:
        throw bad(
          this.path,
          `metadata key "${key}" has the unknown type ${type}: the file is damaged, or newer than this reader`,
        );
    }
  }

  private array(key: string, depth: number): GgufValue[] {
    if (depth === deepestArray)
      throw bad(this.path, `metadata key "${key}" nests lists more than ${deepestArray} deep`);
    const type = this.type(`the type of "${key}"`);
    const smallest = [1, 1, 2, 2, 4, 4, 4, 1, 8, 12, 8, 8, 8][type] ?? 1;
    const count = this.count(`the length of "${key}"`, smallest);
    const values: GgufValue[] = [];
    for (let i = 0; i < count; ++i) values.push(this.value(type, key, depth + 1));
    return values;
  }
}

const safe = (value: bigint): number | bigint => {
  const number = Number(value);
  return Number.isSafeInteger(number) ? number : value;
};
