/**
 * Every byte a run keeps goes through here: a file or a folder appears whole or not at all, and survives a power cut.
 *
 * A test build of a run (`CREDENCE_FAULTS=1`) dies just before the Nth write, fsync or rename (`CREDENCE_DIE_AT=N`), so
 * that a test can try every place where a machine may stop; `CREDENCE_COUNT_FILE` is told how many there were.
 */
import { createHash } from "node:crypto";
import {
  closeSync,
  constants,
  copyFileSync,
  existsSync,
  fsyncSync,
  ftruncateSync,
  linkSync,
  lstatSync,
  mkdirSync,
  openSync,
  readdirSync,
  readFileSync,
  readlinkSync,
  readSync,
  renameSync,
  rmSync,
  statSync,
  symlinkSync,
  writeFileSync,
  writeSync,
} from "node:fs";
import { basename, dirname, join, resolve } from "node:path";
import { CredenceError } from "./errors.js";

/** What a file holds: text as UTF-8, bytes, or pieces of either, written one after the other. */
export type FileData = string | Uint8Array | (string | Uint8Array)[];

/** Length and checksum of each file in a folder that was written whole. */
export interface Manifest {
  files: Record<string, { bytes: number; sha256: string }>;
}

/** Name of the file that says what a whole folder holds. */
export const manifestName = "manifest.json";

const temporaryPrefix = ".writing-";
const sha256 = (pieces: (string | Uint8Array)[]): string => {
  const hash = createHash("sha256");
  for (const piece of pieces) hash.update(piece);
  return hash.digest("hex");
};
const listed = (data: FileData): (string | Uint8Array)[] => (Array.isArray(data) ? data : [data]);

let operations = 0;

/** Counts one write, fsync or rename; a test build stops the process here, with no chance to clean up. */
function operation(): void {
  if (process.env.CREDENCE_FAULTS !== "1") return;
  operations += 1;
  const { CREDENCE_DIE_AT, CREDENCE_COUNT_FILE } = process.env;
  if (CREDENCE_COUNT_FILE) writeFileSync(CREDENCE_COUNT_FILE, String(operations));
  if (operations === Number(CREDENCE_DIE_AT)) process.kill(process.pid, "SIGKILL");
}

/** A file system's error as a sentence that says what to do. */
function explain(error: unknown, doing: string, path: string): CredenceError {
  if (error instanceof CredenceError) return error;
  const code = (error as NodeJS.ErrnoException).code ?? "";
  const remedy: Record<string, string> = {
    ENOSPC: "the disk is full. Free some space and start again: what was written before is kept",
    EDQUOT: "the disk quota is used up. Free some space and start again: what was written before is kept",
    EACCES: "this user may not write there. Choose another folder or change its permissions",
    EPERM: "this user may not write there. Choose another folder or change its permissions",
    EROFS: "that file system is read-only. Choose another folder",
    ENOTDIR: "a part of that path is a file, not a folder. Choose another path",
    ENOENT: "there is no such file or folder",
    EISDIR: "that is a folder; a file is expected",
  };
  const reason = remedy[code] ?? (error instanceof Error ? error.message : String(error));
  return new CredenceError(
    code === "ENOSPC" || code === "EDQUOT" ? "DISK_FULL" : "FILE",
    `cannot ${doing} ${path}: ${reason}`,
    {
      cause: error,
    },
  );
}

function writeAll(descriptor: number, pieces: (string | Uint8Array)[]): void {
  operation();
  for (const piece of pieces) {
    const bytes = typeof piece === "string" ? Buffer.from(piece) : piece;
    for (let at = 0; at < bytes.length; ) at += writeSync(descriptor, bytes, at, bytes.length - at);
  }
}

function sync(descriptor: number): void {
  operation();
  fsyncSync(descriptor);
}

/** Makes the names in a folder durable: a rename is on the disk only after this. */
function syncFolder(path: string): void {
  const descriptor = openSync(path, "r");
  try {
    sync(descriptor);
  } finally {
    closeSync(descriptor);
  }
}

function writeNew(path: string, pieces: (string | Uint8Array)[]): void {
  const descriptor = openSync(path, "w");
  try {
    writeAll(descriptor, pieces);
    sync(descriptor);
  } finally {
    closeSync(descriptor);
  }
}

function rename(from: string, to: string): void {
  operation();
  renameSync(from, to);
}

/** Clears up after a failure; that failure is what is told, not another one on the way. */
function discard(temporary: string): void {
  try {
    rmSync(temporary, { recursive: true, force: true });
  } catch {
    // A path that leads nowhere holds nothing.
  }
}

/** Makes a folder and those above it. */
export function makeFolder(path: string): void {
  try {
    mkdirSync(path, { recursive: true });
  } catch (error) {
    throw explain(error, "make the folder", path);
  }
}

/** Writes a file whole: the old content stays until the new one is on the disk. */
export function writeFileAtomic(path: string, data: FileData): void {
  const folder = dirname(resolve(path));
  const temporary = join(folder, `${temporaryPrefix}${basename(path)}-${process.pid}`);
  try {
    mkdirSync(folder, { recursive: true });
    writeNew(temporary, listed(data));
    rename(temporary, path);
    syncFolder(folder);
  } catch (error) {
    discard(temporary);
    throw explain(error, "write", path);
  }
}

/** The same from pieces as they come; only one is in memory at a time. */
export async function writeFileFrom(path: string, pieces: AsyncIterable<string | Uint8Array>): Promise<void> {
  const folder = dirname(resolve(path));
  const temporary = join(folder, `${temporaryPrefix}${basename(path)}-${process.pid}`);
  let descriptor: number | undefined;
  try {
    mkdirSync(folder, { recursive: true });
    descriptor = openSync(temporary, "w");
    for await (const piece of pieces) writeAll(descriptor, [piece]);
    sync(descriptor);
    closeSync(descriptor);
    descriptor = undefined;
    rename(temporary, path);
    syncFolder(folder);
  } catch (error) {
    if (descriptor !== undefined) closeSync(descriptor);
    discard(temporary);
    // What the pieces' source throws is not this file's.
    if (typeof (error as { syscall?: unknown }).syscall !== "string") throw error;
    throw explain(error, "write", path);
  }
}

/** Makes a file, whole, unless there is one of that name: then false, and that one stays as it is. */
export function createFileAtomic(path: string, data: FileData): boolean {
  const temporary = join(dirname(resolve(path)), `${temporaryPrefix}${basename(path)}-${process.pid}`);
  try {
    writeNew(temporary, listed(data));
    linkSync(temporary, path);
    return true;
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === "EEXIST") return false;
    throw explain(error, "write", path);
  } finally {
    discard(temporary);
  }
}

/** JSON with an end of line, whole. */
export function writeJsonAtomic(path: string, value: unknown): void {
  writeFileAtomic(path, `${JSON.stringify(value, null, 2)}\n`);
}

/**
 * Writes a folder of files whole, with a manifest of their lengths and checksums, and renames it into place. A folder that
 * is there already is replaced. A name may be of a file in a folder within it: "average/heads.safetensors".
 */
export function writeFolderAtomic(directory: string, files: Record<string, FileData>): void {
  const folder = dirname(resolve(directory));
  const temporary = join(folder, `${temporaryPrefix}${basename(directory)}-${process.pid}`);
  try {
    mkdirSync(folder, { recursive: true });
    rmSync(temporary, { recursive: true, force: true });
    mkdirSync(temporary);
    const manifest: Manifest = { files: {} };
    const folders = new Set<string>();
    for (const [name, data] of Object.entries(files)) {
      const pieces = listed(data);
      const within = dirname(name);
      if (within !== ".") folders.add(within);
      mkdirSync(join(temporary, within), { recursive: true });
      writeNew(join(temporary, name), pieces);
      const bytes = pieces.reduce(
        (sum, piece) => sum + (typeof piece === "string" ? Buffer.byteLength(piece) : piece.length),
        0,
      );
      manifest.files[name] = { bytes, sha256: sha256(pieces) };
    }
    writeNew(join(temporary, manifestName), [`${JSON.stringify(manifest, null, 2)}\n`]);
    for (const within of folders) syncFolder(join(temporary, within));
    syncFolder(temporary);
    if (existsSync(directory)) rmSync(directory, { recursive: true, force: true });
    rename(temporary, directory);
    syncFolder(folder);
  } catch (error) {
    discard(temporary);
    throw explain(error, "write the folder", directory);
  }
}

/**
 * A file or a folder that `make` writes at the path it is given, which nothing else sees: it gets its name once `make` is
 * done with it. When `make` throws, nothing is left.
 *
 * @throws CredenceError "EXISTS" where there is something of that name already: large files are not replaced unasked
 */
export async function makeWhole<T>(path: string, make: (temporary: string) => Promise<T>): Promise<T> {
  if (existsSync(path)) {
    throw new CredenceError("EXISTS", `${path} is there already. Name another place, or remove it first`);
  }
  const folder = dirname(resolve(path));
  const hidden = join(folder, `${temporaryPrefix}${basename(path)}-${process.pid}`);
  const temporary = join(hidden, basename(path));
  try {
    rmSync(hidden, { recursive: true, force: true });
    mkdirSync(hidden, { recursive: true });
    const made = await make(temporary);
    if (statSync(temporary).isDirectory()) syncFolder(temporary);
    rename(temporary, path);
    syncFolder(folder);
    return made;
  } catch (error) {
    // What the engine says is a sentence already.
    if (typeof (error as { syscall?: unknown }).syscall !== "string") throw error;
    throw explain(error, "write", path);
  } finally {
    discard(hidden);
  }
}

/** Copies a file to a place where there is none, and waits until it is on the disk. */
export function copyDurable(from: string, to: string): void {
  try {
    copyFileSync(from, to, constants.COPYFILE_EXCL);
  } catch (error) {
    throw explain(error, "copy a file to", to);
  }
  syncFile(to);
}

/** Whether a folder has every file its manifest names, each with the length and checksum it says. */
export function isWholeFolder(directory: string): boolean {
  try {
    const manifest = JSON.parse(readFileSync(join(directory, manifestName), "utf8")) as Manifest;
    return Object.entries(manifest.files).every(([name, { bytes, sha256: sum }]) => {
      const path = join(directory, name);
      return statSync(path).size === bytes && sha256([readFileSync(path)]) === sum;
    });
  } catch {
    return false;
  }
}

/** Adds to the end of a file. It is on the disk once `syncFile` was called. */
export function appendFile(path: string, data: string | Uint8Array): void {
  try {
    const descriptor = openSync(path, "a");
    try {
      writeAll(descriptor, [data]);
    } finally {
      closeSync(descriptor);
    }
  } catch (error) {
    throw explain(error, "write", path);
  }
}

/** Adds to the end of a file and waits until it is on the disk. */
export function appendDurable(path: string, data: string | Uint8Array): void {
  appendFile(path, data);
  syncFile(path);
}

/** Waits until what was added to a file is on the disk. */
export function syncFile(path: string): void {
  try {
    const descriptor = openSync(path, "r+");
    try {
      sync(descriptor);
    } finally {
      closeSync(descriptor);
    }
  } catch (error) {
    throw explain(error, "write", path);
  }
}

/** Shortens a file to its first `bytes` bytes; a file that does not exist is left so. */
export function cutFile(path: string, bytes: number): void {
  if (!existsSync(path)) return;
  try {
    const descriptor = openSync(path, "r+");
    try {
      operation();
      ftruncateSync(descriptor, bytes);
      sync(descriptor);
    } finally {
      closeSync(descriptor);
    }
  } catch (error) {
    throw explain(error, "cut", path);
  }
}

/** Length of a file, 0 where there is none. */
export const fileLength = (path: string): number => (existsSync(path) ? statSync(path).size : 0);

/** Points a symbolic link at a path relative to the link's own folder, replacing an older link in one step. */
export function linkAtomic(path: string, target: string): void {
  const folder = dirname(resolve(path));
  const temporary = join(folder, `${temporaryPrefix}${basename(path)}-${process.pid}`);
  try {
    if (lstatSync(path, { throwIfNoEntry: false })?.isSymbolicLink() && readlinkSync(path) === target) return;
    rmSync(temporary, { force: true });
    symlinkSync(target, temporary);
    rename(temporary, path);
    syncFolder(folder);
  } catch (error) {
    discard(temporary);
    throw explain(error, "write", path);
  }
}

/** Removes what a process that died left half-written in a folder and those below it. */
export function sweep(directory: string): void {
  if (!existsSync(directory)) return;
  for (const entry of readdirSync(directory, { withFileTypes: true })) {
    const path = join(directory, entry.name);
    if (entry.name.startsWith(temporaryPrefix)) rmSync(path, { recursive: true, force: true });
    else if (entry.isDirectory()) sweep(path);
  }
}

/** A whole text file, or a sentence that says why not. */
export function readText(path: string): string {
  try {
    return readFileSync(path, "utf8");
  } catch (error) {
    throw explain(error, "read", path);
  }
}

/** A JSON file; what it says is for the caller to check. */
export function readJson(path: string): unknown {
  const text = readText(path);
  try {
    return JSON.parse(text);
  } catch (error) {
    throw new CredenceError("BAD_INPUT", `${path}: not JSON (${(error as Error).message})`, { cause: error });
  }
}

/** SHA-256 of a file in lower-case hexadecimal, read in pieces: models are large. */
export function sha256File(path: string): string {
  const hash = createHash("sha256");
  const buffer = Buffer.allocUnsafe(1 << 22);
  let descriptor: number;
  try {
    descriptor = openSync(path, "r");
  } catch (error) {
    throw explain(error, "read", path);
  }
  try {
    for (;;) {
      const got = readSync(descriptor, buffer, 0, buffer.length, null);
      if (got === 0) return hash.digest("hex");
      hash.update(buffer.subarray(0, got));
    }
  } finally {
    closeSync(descriptor);
  }
}
