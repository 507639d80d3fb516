/** What SaySelf's trainings begin with: a model, or an adapter that PEFT or a training here left, with embeddings in it or without. */
import { existsSync } from "node:fs";
import { join } from "node:path";
import { CredenceError } from "../../errors.js";
import { readJson, writeFolderAtomic } from "../../files.js";
import { adapterFile, policyFiles, readPolicyFolder } from "../../model/policy-folder.js";
import { encodeSafetensors, readSafetensors } from "../../model/safetensors.js";
import { type AdapterSpec, type HeadSpec, native, type TensorData } from "../../native.js";
import type { Model } from "../../policy/model.js";
import type { Policy } from "../../policy/policy.js";
import type { Learner } from "../conqord/training-models.js";

/** The critic, a head of the policy. It begins by saying 0 of everything. */
export const valueHead = "value";
export const valueHeads: HeadSpec[] = [{ name: valueHead, kind: "linear" }];

/** PEFT's names of what it saves with an adapter whose vocabulary was resized, and the model's own. */
const embedded = new Map([
  ["base_model.model.model.embed_tokens.weight", "model.embed_tokens.weight"],
  ["base_model.model.lm_head.weight", "lm_head.weight"],
]);

const configFile = "adapter_config.json";
const weightsKey = "credence_weights";

interface AdapterParts {
  config: Record<string, unknown>;
  /** LoRA's matrices alone. */
  adapter: TensorData[];
  /** Embeddings and head by the model's names. */
  weights: TensorData[];
}

function readAdapter(folder: string): AdapterParts {
  const [safe, pickled] = [join(folder, adapterFile), join(folder, "adapter_model.bin")];
  const tensors = existsSync(safe) ? readSafetensors(safe) : native().readTensors(pickled);
  const weights = tensors.flatMap((tensor) => {
    const name = embedded.get(tensor.name);
    return name === undefined ? [] : [{ ...tensor, name }];
  });
  return {
    config: readJson(join(folder, configFile)) as Record<string, unknown>,
    adapter: tensors.filter(({ name }) => !embedded.has(name)),
    weights,
  };
}

/** A tied head is the embedding, which PEFT saves twice. */
const once = (weights: TensorData[]): TensorData[] => {
  const [first, second] = weights;
  const bytes = ({ data }: TensorData) => Buffer.from(data.buffer, data.byteOffset, data.byteLength);
  return first && second && bytes(first).equals(bytes(second)) ? [first] : weights;
};

/** What a training goes on with, as a folder of this engine. */
export interface Begun {
  folder: string;
  /** Whether it has embeddings of its own, which stay as they are. */
  embedded: boolean;
}

/**
 * Copies an adapter into a training's folder, once: embeddings that PEFT saved in it become weights of its own, and `dropout` is what a
 * step drops. Heads and all else stay behind.
 *
 * @throws CredenceError "WRONG_MODEL" where its embeddings have other rows than the model's
 */
export function beginWith(folder: string, out: string, model: Model, dropout: number): Begun {
  const held = readPolicyFolder(folder);
  if (!held.hasAdapter)
    throw new CredenceError(
      "NO_ADAPTER",
      `${folder} has no adapter to go on with. Give one, or a model (--model_name_or_path)`,
    );
  const { config, adapter, weights } = readAdapter(folder);
  const own = held.weights ? readSafetensors(held.weights) : once(weights);
  const rows = weights[0]?.shape[0];
  if (rows !== undefined && rows !== model.info.vocabularySize)
    throw new CredenceError(
      "WRONG_MODEL",
      `${folder}: the adapter has embeddings of ${rows} tokens, ${model.name} of ${model.info.vocabularySize}. ` +
        `Give it a base as large: credence convert ${model.path} --vocabulary ${rows} --out DIR (with the adapter's tokenizer: --tokenizer), then --base DIR`,
    );
  if (!existsSync(out)) {
    const { [weightsKey]: _, ...rest } = config;
    writeFolderAtomic(
      out,
      policyFiles({ adapter, heads: [], weights: own }, { ...rest, lora_dropout: dropout }, undefined),
    );
  }
  return { folder: out, embedded: own.length > 0 };
}

/**
 * Writes a policy's adapter as PEFT saves one whose vocabulary was resized, embeddings and head in it; nothing where the policy has none
 * of its own.
 *
 * @throws CredenceError "BAD_OPTION" where it has other weights of its own, which such a file has no place for
 */
export function writeEmbedded(folder: string, out: string): boolean {
  const { weights: path } = readPolicyFolder(folder);
  if (!path || !existsSync(join(folder, configFile))) return false;
  const names = new Map([...embedded].map(([peft, own]) => [own, peft]));
  const weights = readSafetensors(path);
  const other = weights.find(({ name }) => !names.has(name));
  if (other)
    throw new CredenceError(
      "BAD_OPTION",
      `${folder}: ${other.name} was trained beside the adapter, and PEFT's file has no place for it. Write the model whole: credence merge`,
    );
  const { config, adapter } = readAdapter(folder);
  const { [weightsKey]: _, ...rest } = config;
  const tensors = [...adapter, ...weights.map((tensor) => ({ ...tensor, name: names.get(tensor.name)! }))];
  writeFolderAtomic(out, {
    [configFile]: `${JSON.stringify(rest, null, 2)}\n`,
    [adapterFile]: encodeSafetensors(tensors),
  });
  return true;
}

/**
 * How a training's policy is made: it goes on with a folder, or a model gets an adapter, or without one all of it learns. Embeddings
 * that came with an adapter stay as they are.
 *
 * @param critic whether it gets the head that says values
 */
export function saySelfLearner(
  model: Model,
  start: { begun?: Begun; adapter?: AdapterSpec | undefined },
  { critic = false }: { critic?: boolean } = {},
): Learner {
  const { begun, adapter } = start;
  const heads = critic ? { heads: valueHeads } : {};
  const fresh = (): Promise<Policy> => {
    if (begun) return model.policy({ adapter: begun.folder, ...heads });
    return model.policy(adapter ? { adapter, ...heads } : { train: "all", ...heads });
  };
  return {
    begins: begun ? "an adapter that is gone on with" : JSON.stringify(adapter ?? "all of the model"),
    groups: begun?.embedded ? { embeddings: { learningRate: 0 }, lmHead: { learningRate: 0 } } : {},
    policy: (checkpoint) => (checkpoint === undefined ? fresh() : model.policy({ adapter: checkpoint, ...heads })),
  };
}
