/** TensorBoard's event files: protocol buffers in records with masked CRC-32C checksums. */
import { hostname } from "node:os";
import { join } from "node:path";
import protobuf from "protobufjs";
import { appendFile, writeFileAtomic } from "../files.js";

// The fields of tensorflow's event.proto and summary.proto that scalars and histograms need, with their numbers.
const root = protobuf.Root.fromJSON({
  nested: {
    HistogramProto: {
      fields: {
        min: { id: 1, type: "double" },
        max: { id: 2, type: "double" },
        num: { id: 3, type: "double" },
        sum: { id: 4, type: "double" },
        sumSquares: { id: 5, type: "double" },
        bucketLimit: { id: 6, rule: "repeated", type: "double" },
        bucket: { id: 7, rule: "repeated", type: "double" },
      },
    },
    Value: {
      fields: {
        tag: { id: 1, type: "string" },
        simpleValue: { id: 2, type: "float" },
        histo: { id: 5, type: "HistogramProto" },
      },
    },
    Summary: { fields: { value: { id: 1, rule: "repeated", type: "Value" } } },
    SessionLog: { fields: { status: { id: 1, type: "int32" } } },
    Event: {
      fields: {
        wallTime: { id: 1, type: "double" },
        step: { id: 2, type: "int64" },
        fileVersion: { id: 3, type: "string" },
        summary: { id: 5, type: "Summary" },
        sessionLog: { id: 7, type: "SessionLog" },
      },
    },
  },
});
const Event = root.lookupType("Event");

/** CRC-32C, polynomial 0x82f63b78, bits reflected. */
const table = Uint32Array.from({ length: 256 }, (_, byte) => {
  let sum = byte;
  for (let bit = 0; bit < 8; bit++) sum = sum & 1 ? 0x82f63b78 ^ (sum >>> 1) : sum >>> 1;
  return sum;
});

export function crc32c(bytes: Uint8Array): number {
  let sum = 0xffffffff;
  for (const byte of bytes) sum = table[(sum ^ byte) & 0xff]! ^ (sum >>> 8);
  return (sum ^ 0xffffffff) >>> 0;
}

/** The mask keeps a checksum of data that holds checksums from being trivial. */
const masked = (bytes: Uint8Array): number => {
  const sum = crc32c(bytes);
  return (((sum >>> 15) | (sum << 17)) + 0xa282ead8) >>> 0;
};

/** length u64, its checksum u32, data, its checksum u32; little-endian. */
function record(data: Uint8Array): Buffer {
  const out = Buffer.alloc(data.length + 16);
  out.writeBigUInt64LE(BigInt(data.length), 0);
  out.writeUInt32LE(masked(out.subarray(0, 8)), 8);
  out.set(data, 12);
  out.writeUInt32LE(masked(data), 12 + data.length);
  return out;
}

const encode = (event: Record<string, unknown>): Buffer => record(Event.encode(Event.create(event)).finish());

/** One events file; TensorBoard shows a folder's files as one run. */
export class EventsFile {
  readonly path: string;

  /** @param purgeStep where a resumed run starts again: TensorBoard forgets this step and later ones of older files */
  constructor(directory: string, purgeStep = 0) {
    const now = Date.now() / 1000;
    this.path = join(directory, `events.out.tfevents.${now.toFixed(3)}.${hostname()}.${process.pid}`);
    const pieces = [encode({ wallTime: now, fileVersion: "brain.Event:2" })];
    if (purgeStep > 0) pieces.push(encode({ wallTime: now, step: purgeStep, sessionLog: { status: 1 } }));
    writeFileAtomic(this.path, pieces);
  }

  add(step: number, values: Record<string, number>): void {
    this.append(
      step,
      Object.entries(values).map(([tag, simpleValue]) => ({ tag, simpleValue })),
    );
  }

  /**
   * How many of the values lie in each bucket (limit before, limit], of the distribution at a step.
   *
   * @param limits upper ends of the buckets, rising; what lies above the last counts in it
   */
  addHistogram(step: number, tag: string, values: ArrayLike<number>, limits: readonly number[]): void {
    if (values.length === 0) return;
    const all = Array.from(values);
    const bucket = limits.map(() => 0);
    for (const value of all) {
      const at = limits.findIndex((limit) => value <= limit);
      bucket[at < 0 ? bucket.length - 1 : at]! += 1;
    }
    const sum = (of: (value: number) => number) => all.reduce((total, value) => total + of(value), 0);
    const histo = {
      min: all.reduce((a, b) => Math.min(a, b)),
      max: all.reduce((a, b) => Math.max(a, b)),
      num: all.length,
      sum: sum((value) => value),
      sumSquares: sum((value) => value * value),
      bucketLimit: limits,
      bucket,
    };
    this.append(step, [{ tag, histo }]);
  }

  private append(step: number, value: Record<string, unknown>[]): void {
    appendFile(this.path, encode({ wallTime: Date.now() / 1000, step, summary: { value } }));
  }
}
