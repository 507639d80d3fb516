/**
 * Writes tensors as torch.save does, so that torch.load reads them, with weights_only too: a zip archive of a pickle
 * (protocol 2) that rebuilds an OrderedDict, and each tensor's numbers. Such files are read natively (`readTensors`).
 */
import { CredenceError } from "../errors.js";

/** A tensor as it is stored: float32, or whole numbers of 64 bits. */
export interface TorchTensor {
  name: string;
  shape: readonly number[];
  data: Float32Array | BigInt64Array;
}

import { encodeZip } from "./zip.js";

const mark = Buffer.from("(");
const tuple = Buffer.from("t");
const call = Buffer.from("R");

const named = (module: string, name: string): Buffer => Buffer.from(`c${module}\n${name}\n`);

function text(value: string): Buffer {
  const bytes = Buffer.from(value);
  return Buffer.concat([Buffer.from("X"), length(bytes.length), bytes]);
}

function length(value: number): Buffer {
  const out = Buffer.alloc(4);
  out.writeInt32LE(value);
  return out;
}

const whole = (value: number): Buffer => Buffer.concat([Buffer.from("J"), length(value)]);

const wholes = (values: readonly number[]): Buffer => Buffer.concat([mark, ...values.map(whole), tuple]);

const emptyDictionary = Buffer.concat([named("collections", "OrderedDict"), Buffer.from(")"), call]);

/** How far apart neighbours of each dimension lie, row-major. */
function strides(shape: readonly number[]): number[] {
  const out = shape.map(() => 1);
  for (let i = shape.length - 2; i >= 0; i--) out[i] = out[i + 1]! * shape[i + 1]!;
  return out;
}

/** name: _rebuild_tensor_v2(storage `key` on the cpu, offset 0, shape, strides, no gradient, no hooks) */
function tensor({ name, shape, data }: TorchTensor, key: number): Buffer {
  return Buffer.concat([
    text(name),
    named("torch._utils", "_rebuild_tensor_v2"),
    mark,
    mark,
    text("storage"),
    named("torch", data instanceof Float32Array ? "FloatStorage" : "LongStorage"),
    text(String(key)),
    text("cpu"),
    whole(data.length),
    tuple,
    Buffer.from("Q"),
    whole(0),
    wholes(shape),
    wholes(strides(shape)),
    Buffer.from([0x89]),
    emptyDictionary,
    tuple,
    call,
  ]);
}

/** The bytes of a state dict in a file, in pieces; `stem` is the archive's folder, as torch.save names it after the file. */
export function encodeTorchFile(tensors: readonly TorchTensor[], stem: string): Uint8Array[] {
  for (const { name, shape, data } of tensors) {
    if (data.length !== shape.reduce((all, size) => all * size, 1)) {
      throw new CredenceError(
        "BAD_INPUT",
        `tensor ${name}: ${data.length} numbers do not fill the shape [${shape.join(", ")}]`,
      );
    }
  }
  const pickle = Buffer.concat([
    Buffer.from([0x80, 2]),
    emptyDictionary,
    mark,
    ...tensors.map(tensor),
    Buffer.from("u."),
  ]);
  return encodeZip([
    { name: `${stem}/data.pkl`, data: pickle },
    { name: `${stem}/byteorder`, data: Buffer.from("little") },
    ...tensors.map(({ data }, key) => ({
      name: `${stem}/data/${key}`,
      data: new Uint8Array(data.buffer, data.byteOffset, data.byteLength),
    })),
    { name: `${stem}/version`, data: Buffer.from("3\n") },
  ]);
}
