/**
 * Zip archives, which is what a Python wheel and a file of torch.save are: one entry read, checked against its CRC-32; and
 * archives written, stored as they are. No encryption, no zip64.
 */
import { closeSync, fstatSync, openSync, readSync } from "node:fs";
import { inflateRawSync } from "node:zlib";
import { CredenceError } from "../errors.js";

const endOfDirectory = 0x06054b50;
const directoryEntry = 0x02014b50;
const localEntry = 0x04034b50;

/** CRC-32 as in zip and gzip: polynomial 0xedb88320, bits reflected. */
export function crc32(bytes: Uint8Array): number {
  let sum = 0xffffffff;
  for (let i = 0; i < bytes.length; i++) sum = crcTable[(sum ^ bytes[i]!) & 0xff]! ^ (sum >>> 8);
  return (sum ^ 0xffffffff) >>> 0;
}

const crcTable = Uint32Array.from({ length: 256 }, (_, byte) => {
  let sum = byte;
  for (let bit = 0; bit < 8; bit++) sum = sum & 1 ? 0xedb88320 ^ (sum >>> 1) : sum >>> 1;
  return sum;
});

/** The bytes of the first entry whose name `wanted` accepts. */
export function readZipEntry(path: string, wanted: (name: string) => boolean): { name: string; data: Buffer } {
  const descriptor = openSync(path, "r");
  const bad = (what: string) =>
    new CredenceError("BAD_INPUT", `${path}: ${what}; the download is broken. Delete it and start again`);
  try {
    const { size } = fstatSync(descriptor);
    // What the archive says about lengths and places is held against its size before memory is taken for it.
    const read = (at: number, length: number): Buffer => {
      if (at + length > size) throw bad("it is cut off");
      const bytes = Buffer.alloc(length);
      if (readSync(descriptor, bytes, 0, length, at) !== length) throw bad("it is cut off");
      return bytes;
    };
    // The end record is 22 bytes and a comment of at most 65535.
    const tail = read(Math.max(0, size - 65557), Math.min(size, 65557));
    let end = tail.length - 22;
    while (end >= 0 && tail.readUInt32LE(end) !== endOfDirectory) end -= 1;
    if (end < 0) throw bad("it has no zip directory");
    const directory = read(tail.readUInt32LE(end + 16), tail.readUInt32LE(end + 12));
    for (let at = 0; at < directory.length; ) {
      if (at + 46 > directory.length || directory.readUInt32LE(at) !== directoryEntry)
        throw bad("its zip directory is damaged");
      const nameLength = directory.readUInt16LE(at + 28);
      const name = directory.toString("utf8", at + 46, at + 46 + nameLength);
      if (wanted(name)) {
        const method = directory.readUInt16LE(at + 10);
        const local = directory.readUInt32LE(at + 42);
        const header = read(local, 30);
        if (header.readUInt32LE(0) !== localEntry) throw bad(`${name} is not where the directory says`);
        const packed = read(
          local + 30 + header.readUInt16LE(26) + header.readUInt16LE(28),
          directory.readUInt32LE(at + 20),
        );
        if (method !== 0 && method !== 8) throw bad(`${name} is packed by method ${method}, not by deflate`);
        const length = directory.readUInt32LE(at + 24);
        let data: Buffer;
        try {
          data = method === 8 ? inflateRawSync(packed, { maxOutputLength: Math.max(1, length) }) : packed;
        } catch {
          throw bad(`${name} cannot be unpacked`);
        }
        if (data.length !== length || crc32(data) !== directory.readUInt32LE(at + 16)) {
          throw bad(`${name} does not have the checksum the archive names`);
        }
        return { name, data };
      }
      at += 46 + nameLength + directory.readUInt16LE(at + 30) + directory.readUInt16LE(at + 32);
    }
    throw bad("the file wanted is not inside");
  } finally {
    closeSync(descriptor);
  }
}

/**
 * The bytes of an archive of these entries, not compressed, in pieces.
 *
 * @throws CredenceError "BAD_INPUT" where it would be longer than the 4 GiB that the format has room for
 */
export function encodeZip(entries: readonly { name: string; data: Uint8Array }[]): Uint8Array[] {
  const pieces: Uint8Array[] = [];
  const directory: Buffer[] = [];
  let at = 0;
  for (const { name, data } of entries) {
    const path = Buffer.from(name);
    // Version 2.0, no flags, stored, 1980-01-01, CRC-32, both lengths, length of the name.
    const common = Buffer.alloc(26);
    common.writeUInt16LE(20, 0);
    common.writeUInt16LE(0x21, 8);
    common.writeUInt32LE(crc32(data), 10);
    common.writeUInt32LE(data.length, 14);
    common.writeUInt32LE(data.length, 18);
    common.writeUInt16LE(path.length, 22);
    const place = Buffer.alloc(14); // no comment, first disk, no attributes, where the entry begins
    place.writeUInt32LE(at, 10);
    directory.push(Buffer.concat([uint32(directoryEntry), uint16(20), common, place, path]));
    const header = Buffer.concat([uint32(localEntry), common, path]);
    pieces.push(header, data);
    at += header.length + data.length;
    if (at > 0xffffffff) throw new CredenceError("BAD_INPUT", `an archive of ${at} bytes is too long for a zip`);
  }
  const list = Buffer.concat(directory);
  const end = Buffer.alloc(18);
  end.writeUInt16LE(entries.length, 4);
  end.writeUInt16LE(entries.length, 6);
  end.writeUInt32LE(list.length, 8);
  end.writeUInt32LE(at, 12);
  return [...pieces, list, Buffer.concat([uint32(endOfDirectory), end])];
}

function uint16(value: number): Buffer {
  const out = Buffer.alloc(2);
  out.writeUInt16LE(value);
  return out;
}

function uint32(value: number): Buffer {
  const out = Buffer.alloc(4);
  out.writeUInt32LE(value);
  return out;
}
