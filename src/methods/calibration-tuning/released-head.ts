/** The published head: a network of two outputs (wrong, right) on an answer's last state, and the temperature it may be wrapped with. */
import { existsSync } from "node:fs";
import { join } from "node:path";
import type { Vectors } from "../../data/vectors.js";
import { CredenceError } from "../../errors.js";
import { native, type TensorData } from "../../native.js";
import { classifierFile } from "./classifier.js";

interface Layer {
  inputs: number;
  outputs: number;
  /** [outputs, inputs] */
  weight: Float32Array;
  bias: Float32Array;
}

/** A head that was read. */
export interface Classifier {
  layers: Layer[];
  /** Of `Sequential(head, temperature)`; 1 where it is the head alone. */
  temperature: number;
}

/**
 * A head's state dict: `0.weight`, `0.bias`, `2.weight`, ... with ReLU between, or the same behind `0.` with `1.log_temperature`.
 *
 * @throws CredenceError "WRONG_HEAD" with what it holds instead
 */
export function classifierOf(tensors: readonly TensorData[], path: string): Classifier {
  const wrapped = tensors.find(({ name }) => name === "1.log_temperature");
  const own = new Map(
    tensors
      .filter((tensor) => tensor !== wrapped)
      .map((tensor) => [wrapped ? tensor.name.replace(/^0\./, "") : tensor.name, tensor]),
  );
  const held = tensors.map(({ name, shape }) => `${name} [${shape.join(", ")}]`).join(", ");
  const bad = (what: string) =>
    new CredenceError(
      "WRONG_HEAD",
      `${path}: ${what}. Expected 0.weight, 0.bias, 2.weight, ..., of two outputs; it holds ${held}`,
    );
  const layers: Layer[] = [];
  for (let place = 0; own.has(`${place}.weight`); place += 2) {
    const weight = own.get(`${place}.weight`)!;
    const bias = own.get(`${place}.bias`);
    const [outputs, inputs] = weight.shape;
    if (weight.shape.length !== 2 || bias?.shape.join() !== `${outputs}`) throw bad(`${place} is no layer with a bias`);
    if (layers.length > 0 && layers.at(-1)!.outputs !== inputs) throw bad(`layer ${place} does not fit the one before`);
    layers.push({ inputs: inputs!, outputs: outputs!, weight: weight.data, bias: bias.data });
  }
  if (layers.at(-1)?.outputs !== 2 || own.size !== 2 * layers.length) throw bad("is no such head");
  const temperature = wrapped ? Math.exp(wrapped.data[0]!) : 1;
  return { layers, temperature };
}

/**
 * Reads a folder's head.
 *
 * @throws CredenceError "NO_HEAD" where it has none
 */
export function readClassifier(folder: string): Classifier {
  const path = join(folder, classifierFile);
  if (!existsSync(path))
    throw new CredenceError(
      "NO_HEAD",
      `${folder}: has no ${classifierFile}. Train one, or leave out --with-classifier`,
    );
  return classifierOf(native().readTensors(path), path);
}

/**
 * The head's logits, not divided by its temperature.
 *
 * @param features [rows, width]
 * @returns [rows, 2]
 * @throws CredenceError "WRONG_BASE" where the features are not as wide as what it reads
 */
export function classified({ layers }: Classifier, features: Vectors): Float32Array {
  if (features.width !== layers[0]!.inputs)
    throw new CredenceError(
      "WRONG_BASE",
      `the head reads ${layers[0]!.inputs} numbers, the features have ${features.width}. Use the model it was trained on`,
    );
  const out = new Float32Array(2 * features.count);
  for (let row = 0; row < features.count; row += 1) {
    let x: ArrayLike<number> = features.data.subarray(row * features.width, (row + 1) * features.width);
    for (const [i, { inputs, outputs, weight, bias }] of layers.entries()) {
      const y = new Float64Array(outputs);
      for (let o = 0; o < outputs; o += 1) {
        let sum = bias[o]!;
        for (let k = 0; k < inputs; k += 1) sum += weight[o * inputs + k]! * x[k]!;
        y[o] = i < layers.length - 1 ? Math.max(0, sum) : sum;
      }
      x = y;
    }
    out.set(x, 2 * row);
  }
  return out;
}
