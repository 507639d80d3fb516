/**
 * The published head: what a model's state says of an answer, as two outputs for wrong and right behind three hidden layers.
 * Its gradients go on into an adapter where the policy has one (the LoRA classifier), else into the head alone.
 */
import { microBatches } from "../../data/packing.js";
import { NumpyRandom } from "../../data/random.js";
import { CredenceError } from "../../errors.js";
import type { FileData } from "../../files.js";
import { encodeTorchFile } from "../../model/torch-file.js";
import type { HeadSpec, ReadSpan, TensorData } from "../../native.js";
import type { Model } from "../../policy/model.js";
import type { Policy } from "../../policy/policy.js";
import type { OwnStep } from "../../training/loop.js";
import { commonLength } from "./lessons.js";
import { type AnsweredRow, sanitised, textOf, textTokens } from "./wire.js";

/** Its name in every policy of this method. */
export const classifierName = "classifier";
/** The published file of its numbers, whose names have nothing before them. */
export const classifierFile = "classifier_model.bin";

export const classifierWidths = [256, 128, 64] as const;

/** @param options.depth default behind the last norm */
export const classifierSpec = ({ depth, seed = 0 }: { depth?: number; seed?: number } = {}): HeadSpec => ({
  name: classifierName,
  kind: "mlp",
  widths: [...classifierWidths],
  outputs: 2,
  seed,
  ...(depth === undefined ? {} : { layer: depth }),
});

/** Two draws of a standard normal distribution (Box and Muller 1958). */
function normals(random: NumpyRandom): [number, number] {
  const radius = Math.sqrt(-2 * Math.log(1 - random.random()));
  const angle = 2 * Math.PI * random.random();
  return [radius * Math.cos(angle), radius * Math.sin(angle)];
}

/**
 * Begins the head as published: weights normal with the variance 2 / (inputs + outputs) (Glorot & Bengio 2010), biases as
 * PyTorch's Linear has them.
 */
export function initialise(policy: Policy, seed: number): void {
  const random = new NumpyRandom([seed, 11]);
  const weights = classifierTensors(policy).filter(({ name }) => name.endsWith(".weight"));
  policy.native.setTensors(
    weights.map(({ name, shape }) => {
      const [outputs, inputs] = shape as [number, number];
      const deviation = Math.sqrt(2 / (inputs + outputs));
      const data = new Float32Array(inputs * outputs);
      for (let i = 0; i < data.length; i += 2) {
        const [one, other] = normals(random);
        data[i] = one * deviation;
        if (i + 1 < data.length) data[i + 1] = other * deviation;
      }
      return { name, shape, data };
    }),
  );
}

const classifierTensors = (policy: Policy): TensorData[] =>
  policy.native.tensors().heads.filter(({ name }) => name.startsWith(`${classifierName}.`));

/** Both classes' logits [rows, 2] against labels: the negative log-likelihood, its derivatives, and how many are right. */
export function twoWay(
  logits: Float32Array,
  labels: readonly number[],
): { loss: number; gradient: Float32Array; right: number } {
  const gradient = new Float32Array(logits.length);
  let [loss, right] = [0, 0];
  for (const [row, label] of labels.entries()) {
    const margin = logits[2 * row + 1]! - logits[2 * row]!;
    const towards = label === 1 ? margin : -margin;
    loss += Math.max(0, -towards) + Math.log1p(Math.exp(-Math.abs(towards)));
    if (towards > 0) right += 1;
    const error = 1 / (1 + Math.exp(-margin)) - label;
    gradient[2 * row] = -error;
    gradient[2 * row + 1] = error;
  }
  return { loss, gradient, right };
}

/** Rows of tokens that a head reads at spans of, and whether their answers are right. */
export interface ReadRow {
  tokens: Int32Array;
  /** Where it reads: the mean over tokens [from, to). */
  from: number;
  to: number;
  label: 0 | 1;
}

/** Where states are read. Published: "last", the state behind which the next token would come. */
export type Place = "last" | "answer-mean";

export type PlacedRow = Omit<ReadRow, "label">;

/**
 * Rows as a head reads them. An answer without a token is read at the text's last one.
 *
 * @throws CredenceError "TOO_LONG" naming the row
 */
export async function placedRows(model: Model, rows: readonly AnsweredRow[], place: Place): Promise<PlacedRow[]> {
  const { contextLength } = model.info;
  return Promise.all(
    rows.map(async (row, i) => {
      const tokens = await textTokens(model, textOf(row, sanitised(row.output)));
      if (tokens.length > contextLength)
        throw new CredenceError(
          "TOO_LONG",
          `row ${i + 1}: ${tokens.length} tokens, longer than the context (${contextLength}). Give fewer examples, or leave the row out`,
        );
      const to = tokens.length;
      if (place === "last") return { tokens, from: to - 1, to };
      const question = await textTokens(model, textOf(row));
      return { tokens, from: Math.min(to - 1, commonLength(tokens, question)), to };
    }),
  );
}

const spansOf = (rows: readonly PlacedRow[]): ReadSpan[] =>
  rows.map(({ from, to }, sequence) => ({ sequence, from, to }));

/** A step through the blocks, into an adapter. */
export function classifierStep(rows: readonly ReadRow[], microBatchTokens: number): OwnStep {
  const lengths = rows.map(({ tokens }) => tokens.length);
  return {
    tokens: lengths.reduce((sum, length) => sum + length, 0),
    async accumulate(trainer) {
      let [sum, correct] = [0, 0];
      for (const places of microBatches(lengths, microBatchTokens)) {
        const some = places.map((place) => rows[place]!);
        const heads = [{ name: classifierName, spans: spansOf(some) }];
        const pass = await trainer.forward(
          some.map(({ tokens }) => tokens),
          { heads },
        );
        const { loss, gradient, right } = twoWay(
          pass.heads![classifierName]!,
          some.map(({ label }) => label),
        );
        await pass.backward({ heads: { [classifierName]: gradient } });
        sum += loss;
        correct += right;
      }
      return { loss: sum, count: rows.length, values: { accuracy: correct / rows.length } };
    },
  };
}

/** Both logits [rows, 2] of rows of tokens. */
export async function classifierLogits(
  policy: Policy,
  rows: readonly PlacedRow[],
  { microBatchTokens, signal }: { microBatchTokens: number; signal?: AbortSignal },
): Promise<Float32Array> {
  const out = new Float32Array(2 * rows.length);
  const lengths = rows.map(({ tokens }) => tokens.length);
  for (const places of microBatches(lengths, microBatchTokens)) {
    const some = places.map((place) => rows[place]!);
    const read = await policy.forward(
      some.map(({ tokens }) => tokens),
      { spans: spansOf(some), heads: [classifierName] },
      signal,
    );
    out.set(read.heads![classifierName]!, 2 * places[0]!);
  }
  return out;
}

/** What is told of rows held out. */
export function toldOf(logits: Float32Array, labels: readonly number[]): Record<string, number> {
  const { loss, right } = twoWay(logits, labels);
  return { loss: loss / labels.length, acc: right / labels.length, N: labels.length };
}

/** The head's numbers in the published file: as of a Sequential by itself, with a temperature behind it where there is one. */
export function classifierFiles(policy: Policy, logTemperature?: number): Record<string, FileData> {
  const own = classifierTensors(policy).map((tensor) => ({
    ...tensor,
    name: `${logTemperature === undefined ? "" : "0."}${tensor.name.slice(classifierName.length + 1)}`,
  }));
  const temperature =
    logTemperature === undefined
      ? []
      : [{ name: "1.log_temperature", shape: [], data: Float32Array.of(logTemperature) }];
  return { [classifierFile]: encodeTorchFile([...own, ...temperature], "classifier_model") };
}
