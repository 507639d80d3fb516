/** A policy on the disk: a PEFT adapter folder with the heads, the card and what it owns of its base beside it. */
import { existsSync, readdirSync, readFileSync } from "node:fs";
import { join } from "node:path";
import { CredenceError } from "../errors.js";
import { type FileData, manifestName, readJson, writeFolderAtomic } from "../files.js";
import {
  type AdapterSpec,
  type HeadSpec,
  type NativePolicy,
  native,
  type PolicyTensors,
  type Projection,
  type TensorData,
} from "../native.js";
import type { Calibrator } from "./calibrator.js";
import { type AnyCard, cardName, readCard } from "./card.js";
import { encodeSafetensors, readSafetensors } from "./safetensors.js";

export const adapterFile = "adapter_model.safetensors";
export const headsFile = "heads.safetensors";
/** What a checkpoint has beside the policy: the policy's running average, where one is kept, and a critic of its own. */
export const averageFolder = "average";
export const criticFolder = "critic";
export const optimizerFile = "optimizer.safetensors";
/** What a policy owns of its base: Hugging Face's names, float32. */
export const weightsFile = "weights.safetensors";
/**
 * The key of adapter_config.json that names it. PEFT, which would apply the adapter to weights that it was not trained with, warns of
 * a key that it does not know, or refuses it.
 */
const weightsKey = "credence_weights";
/** Where heads are looked for: first as they are written here, then as torch.save writes them. */
const headsFiles = [headsFile, "heads.pt", "heads.pth", "heads.bin"];

const readHeads = (path: string): TensorData[] =>
  path.endsWith(".safetensors") ? readSafetensors(path) : native().readTensors(path);

const moduleNames: Record<Projection, string> = {
  q: "q_proj",
  k: "k_proj",
  v: "v_proj",
  o: "o_proj",
  gate: "gate_proj",
  up: "up_proj",
  down: "down_proj",
};

/** PEFT's adapter_config.json for an adapter of ours. */
export function adapterConfig(spec: AdapterSpec, baseName: string): Record<string, unknown> {
  return {
    peft_type: "LORA",
    task_type: "CAUSAL_LM",
    base_model_name_or_path: baseName,
    r: spec.rank,
    lora_alpha: spec.alpha,
    lora_dropout: spec.dropout ?? 0,
    use_rslora: spec.rslora ?? false,
    target_modules: spec.targets.map((target) => moduleNames[target]),
    layers_to_transform: spec.layers ?? null,
    bias: "none",
    fan_in_fan_out: false,
    init_lora_weights: true,
    inference_mode: true,
  };
}

/** The files of a policy, for `writeFolderAtomic`. */
export function policyFiles(
  tensors: Omit<PolicyTensors, "weights"> & { weights?: TensorData[] },
  config: Record<string, unknown> | undefined,
  card: AnyCard | undefined,
): Record<string, FileData> {
  const json = (value: unknown) => `${JSON.stringify(value, null, 2)}\n`;
  const owns = (tensors.weights?.length ?? 0) > 0;
  const named = owns ? { ...config, [weightsKey]: weightsFile } : config;
  return {
    ...(config ? { "adapter_config.json": json(named), [adapterFile]: encodeSafetensors(tensors.adapter) } : {}),
    ...(owns ? { [weightsFile]: encodeSafetensors(tensors.weights!) } : {}),
    ...(tensors.heads.length ? { [headsFile]: encodeSafetensors(tensors.heads) } : {}),
    ...(card ? { [cardName]: json(card) } : {}),
  };
}

/** The numbers in a folder that `policyFiles` made. */
export function readPolicyTensors(directory: string): PolicyTensors {
  const read = (name: string) => {
    const path = join(directory, name);
    return existsSync(path) ? readSafetensors(path) : [];
  };
  return { weights: read(weightsFile), adapter: read(adapterFile), heads: read(headsFile) };
}

/** What a folder holds of a policy. */
export interface PolicyFolder {
  directory: string;
  card?: AnyCard;
  hasAdapter: boolean;
  /** The file of what the policy owns of its base. */
  weights?: string;
  heads: HeadSpec[];
  headTensors: TensorData[];
  /** The file they came from. */
  headsPath: string;
}

/** Reads a policy's folder; the adapter itself is read natively. */
export function readPolicyFolder(directory: string): PolicyFolder {
  const has = (name: string) => existsSync(join(directory, name));
  if (!has("adapter_config.json") && !has(cardName) && !has(weightsFile)) {
    throw new CredenceError(
      "NO_ADAPTER",
      `${directory} holds neither adapter_config.json nor ${cardName} nor ${weightsFile}. Give a PEFT adapter folder, or a run's best folder`,
    );
  }
  if (
    !has(weightsFile) &&
    has("adapter_config.json") &&
    weightsKey in (readJson(join(directory, "adapter_config.json")) as object)
  )
    throw new CredenceError(
      "NO_WEIGHTS",
      `${directory}: the adapter was trained beside weights of its own, and ${weightsFile} is missing. Copy the folder whole`,
    );
  const card = has(cardName) ? readCard(directory) : undefined;
  const heldBy = headsFiles.find(has);
  const headsPath = join(directory, heldBy ?? headsFile);
  const headTensors = heldBy === undefined ? [] : readHeads(headsPath);
  const heads: HeadSpec[] = card?.heads ?? [];
  for (const { name } of heads) {
    if (!headTensors.some((tensor) => tensor.name.startsWith(`${name}.`))) {
      throw new CredenceError(
        "NO_HEAD",
        `${directory}: the card names the head "${name}", ${heldBy === undefined ? `${headsFile} is missing` : `${heldBy} does not hold it`}`,
      );
    }
  }
  return {
    directory,
    card,
    hasAdapter: has("adapter_config.json"),
    ...(has(weightsFile) ? { weights: join(directory, weightsFile) } : {}),
    heads,
    headTensors,
    headsPath,
  };
}

/** Puts a folder's heads into a policy that was made with their specifications. */
export function restoreHeads(policy: NativePolicy, folder: PolicyFolder): void {
  const known = new Map(policy.tensors().heads.map((tensor) => [tensor.name, tensor.shape]));
  const { headsPath: path } = folder;
  for (const { name, shape } of folder.headTensors) {
    const expected = known.get(name);
    if (!expected) throw new CredenceError("WRONG_HEAD", `${path}: ${name} belongs to no head of the card`);
    if (expected.join() !== shape.join()) {
      throw new CredenceError(
        "WRONG_HEAD",
        `${path}: ${name} is [${shape.join(", ")}]; this model needs [${expected.join(", ")}]. Use the base the card names`,
      );
    }
  }
  if (folder.headTensors.length) policy.setTensors(folder.headTensors);
}

/** A copy of the policy is no checkpoint. */
const notThePolicy = new Set([manifestName, optimizerFile, "state.json", averageFolder, criticFolder]);

/**
 * Copies a policy's folder, its card with a calibrator that was fitted to the policy's predictions.
 *
 * @throws CredenceError "NO_CARD" where no card says how its confidence is read; "BAD_INPUT" where it has a calibrator
 *   already, or `to` exists
 */
export function copyWithCalibrator(from: string, to: string, calibrator: Calibrator): void {
  const { card } = readPolicyFolder(from);
  if (!card || "reward" in card)
    throw new CredenceError("NO_CARD", `${from} has no ${cardName} that could say how its confidence is read`);
  if (card.confidence.calibrator) {
    throw new CredenceError(
      "BAD_INPUT",
      `${from} has a calibrator already (${card.confidence.calibrator.kind}). Score with the policy it was made from, and calibrate that one`,
    );
  }
  if (existsSync(to))
    throw new CredenceError("BAD_INPUT", `${to} is there already. Choose another folder, or delete it`);
  const names = readdirSync(from).filter((name) => !notThePolicy.has(name));
  const files: Record<string, FileData> = Object.fromEntries(
    names.map((name) => [name, readFileSync(join(from, name))]),
  );
  const calibrated = { ...card, confidence: { ...card.confidence, calibrator } };
  writeFolderAtomic(to, { ...files, [cardName]: `${JSON.stringify(calibrated, null, 2)}\n` });
}
