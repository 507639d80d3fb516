/**
 * Adapters, temperatures and heads as the published code leaves them: a PEFT folder whose type is its own (`CALIBRATED_LORA`),
 * whose keys may stand twice, with the base's embeddings beside the LoRA; a pickled `log_temperature`; a head's `.bin`.
 */
import { existsSync, readdirSync, statSync } from "node:fs";
import { join } from "node:path";
import { z } from "zod";
import { CredenceError } from "../../errors.js";
import { type FileData, readJson, writeFolderAtomic } from "../../files.js";
import { cardName, isQueryCard, type QueryCard, readCard } from "../../model/card.js";
import { adapterConfig, adapterFile } from "../../model/policy-folder.js";
import { encodeSafetensors, readSafetensors } from "../../model/safetensors.js";
import { encodeTorchFile } from "../../model/torch-file.js";
import { type AdapterSpec, native, type Projection, type TensorData } from "../../native.js";
import type { Model } from "../../policy/model.js";
import type { Policy } from "../../policy/policy.js";
import { choiceTokens, querySuffix } from "./wire.js";

const projections: Record<string, Projection> = {
  q_proj: "q",
  k_proj: "k",
  v_proj: "v",
  o_proj: "o",
  gate_proj: "gate",
  up_proj: "up",
  down_proj: "down",
};

const configSchema = z.looseObject({
  peft_type: z.enum(["LORA", "CALIBRATED_LORA"]),
  base_model_name_or_path: z.string().nullish(),
  r: z.int().positive(),
  lora_alpha: z.number().positive(),
  lora_dropout: z.number().min(0).max(1).default(0),
  use_rslora: z.boolean().nullish(),
  target_modules: z.array(z.enum(Object.keys(projections) as [string, ...string[]])),
  layers_to_transform: z.array(z.int().min(0)).nullish(),
  bias: z.literal("none").default("none"),
  use_dora: z.literal(false).nullish(),
  /** Of the published type: which query, and whether a temperature belongs to it. */
  query_format: z.literal("roman_choice").optional(),
  use_temperature: z.boolean().optional(),
});

const loraKey = /^base_model\.model\.model\.layers\.\d+\.(?:self_attn|mlp)\.\w+_proj\.lora_[AB]\.weight$/;
/** A second spelling of a key: wrapped twice, or with its beginning cut off. */
const otherKey =
  /^(?:base_model\.model\.)?(?:base_model\.model\.)?(?:model\.)?layers\.\d+\..*\.lora_[AB](?:\.default|\._ref)?\.weight$/;
const matrixKey = /(?:^|\.)(embed_tokens|lm_head)\.weight$/;

/** A folder that holds the word `checkpoint`, or its last one within: `checkpoint-<highest step>`. */
export function checkpointOf(path: string): string {
  if (path.includes("checkpoint") || !existsSync(path) || !statSync(path).isDirectory()) return path;
  const steps = readdirSync(path).flatMap((name) => {
    const step = /^checkpoint-(\d+)$/.exec(name)?.[1];
    return step === undefined ? [] : [Number(step)];
  });
  return steps.length > 0 ? join(path, `checkpoint-${Math.max(...steps)}`) : path;
}

/** What a released folder holds. */
export interface Released {
  spec: AdapterSpec;
  /** The base that it names. */
  base: string | undefined;
  /** PEFT's names, every other spelling left out. */
  tensors: TensorData[];
  /** The base's matrices that lie beside them: `embed_tokens`, `lm_head`. */
  matrices: TensorData[];
  /** How many tensors stood there in a second spelling. */
  doubled: number;
  /** What the query's logits are divided by; null: no temperature belongs to it. */
  temperature: number | null;
}

/** Reads tensors of either kind of file. */
const tensorsOf = (path: string): TensorData[] =>
  path.endsWith(".safetensors") ? readSafetensors(path) : native().readTensors(path);

/** Names under which a temperature is looked for: as released, then as the training writes it. */
const temperatureFiles = {
  query: ["temperature_model.safetensors", "temperature_model.pt", "query_temperature_head.bin"],
  logits: ["temperature_head.bin"],
} as const;

/**
 * A folder's temperature, e to the power of its `log_temperature`; null where it has none.
 *
 * @throws CredenceError "BAD_INPUT" for a file that holds something else
 */
export function temperatureIn(folder: string, of: keyof typeof temperatureFiles): number | null {
  const name = temperatureFiles[of].find((one) => existsSync(join(folder, one)));
  if (name === undefined) return null;
  const path = join(folder, name);
  const found = tensorsOf(path).find(
    (tensor) => tensor.name === "log_temperature" || tensor.name.endsWith(".log_temperature"),
  );
  const temperature = found?.data.length === 1 ? Math.exp(found.data[0]!) : Number.NaN;
  if (!(temperature > 0 && Number.isFinite(temperature)))
    throw new CredenceError(
      "BAD_INPUT",
      `${path}: holds no log_temperature of one number; scale the temperature again`,
    );
  return temperature;
}

/**
 * Reads a folder of the released layout, or a plain PEFT one. Embedded matrices are read as they stand; `releasedPolicy` compares
 * them.
 *
 * @throws CredenceError "NO_ADAPTER", "UNSUPPORTED" naming the setting that is not honoured, "BAD_INPUT" naming a tensor
 */
export function readReleased(folder: string): Released {
  const path = join(folder, "adapter_config.json");
  if (!existsSync(path))
    throw new CredenceError(
      "NO_ADAPTER",
      `${folder}: has no adapter_config.json. Give the folder of a released adapter`,
    );
  const parsed = configSchema.safeParse(readJson(path));
  if (!parsed.success) {
    const [issue] = parsed.error.issues;
    throw new CredenceError("UNSUPPORTED", `${path}: ${issue!.path.join(".")}: ${issue!.message}`);
  }
  const { r, lora_alpha, lora_dropout, use_rslora, target_modules, layers_to_transform, base_model_name_or_path } =
    parsed.data;
  const file = [adapterFile, "adapter_model.bin"].map((name) => join(folder, name)).find((name) => existsSync(name));
  if (file === undefined) throw new CredenceError("NO_ADAPTER", `${folder}: has no ${adapterFile}`);
  const found = tensorsOf(file);
  const tensors = found.filter(({ name }) => loraKey.test(name));
  const matrices = found.filter(({ name }) => matrixKey.test(name));
  const others = found.filter((tensor) => !tensors.includes(tensor) && !matrices.includes(tensor));
  const strange = others.find(({ name }) => !otherKey.test(name));
  if (strange) throw new CredenceError("BAD_INPUT", `${file}: tensor ${strange.name} belongs to no LoRA`);
  if (tensors.length === 0) throw new CredenceError("BAD_INPUT", `${file}: holds no LoRA under PEFT's names`);
  return {
    spec: {
      rank: r,
      alpha: lora_alpha,
      dropout: lora_dropout,
      rslora: use_rslora ?? false,
      targets: target_modules.map((name) => projections[name]!),
      ...(layers_to_transform ? { layers: layers_to_transform } : {}),
      seed: 0,
    },
    base: base_model_name_or_path ?? undefined,
    tensors,
    matrices,
    doubled: others.length,
    temperature: temperatureIn(folder, "query"),
  };
}

/** Of a number that is stored in bfloat16, at most. */
const rounding = 2 ** -8;

/**
 * Compares embedded matrices with the base's: the same rows, and perhaps one more for a token that was added.
 *
 * @throws CredenceError "WRONG_BASE" naming the matrix that is another's
 */
async function compareMatrices(model: Model, matrices: readonly TensorData[], where: string): Promise<void> {
  await using owned = await model.policy({ train: { embeddings: true, lmHead: true } });
  const base = owned.native.tensors().weights;
  const named = (name: string) => base.find((tensor) => tensor.name.endsWith(`${name}.weight`));
  for (const { name, shape, data } of matrices) {
    const kind = matrixKey.exec(name)![1]!;
    // A base whose output is its embedding has the one matrix for both.
    const own = named(kind) ?? named("embed_tokens");
    const [rows, width] = shape;
    const [ownRows, ownWidth] = own?.shape ?? [];
    if (!own || width !== ownWidth || rows! < ownRows! || rows! > ownRows! + 64)
      throw new CredenceError(
        "WRONG_BASE",
        `${where}: its ${kind} is [${shape.join(", ")}], ${model.name}'s [${own?.shape.join(", ") ?? "missing"}]. Use the base it was trained on`,
      );
    for (let i = 0; i < own.data.length; i += 1)
      if (Math.abs(data[i]! - own.data[i]!) > rounding * Math.abs(own.data[i]!) + 1e-6)
        throw new CredenceError(
          "WRONG_BASE",
          `${where}: row ${Math.floor(i / width!)} of its ${kind} is not ${model.name}'s: ${data[i]} and ${own.data[i]}. Use the base it was trained on`,
        );
  }
}

/** How a question is put to a calibration-tuned policy that is asked: as MMLU's are, in words. */
export const askedPrompt = "Question: {question}\nAnswer:";

/** The card of a calibration-tuned policy: the base answers, the adapter is asked. */
export async function queryCard(
  model: Model,
  { temperature = 1, newTokens = 30 }: { temperature?: number; newTokens?: number } = {},
): Promise<QueryCard> {
  const [wrong, right] = await choiceTokens(model.tokenizer);
  return {
    version: 1,
    method: "calibration-tuning",
    prompt: { user: askedPrompt, system: "none", template: "none" },
    answers: "base",
    answer: { newTokens },
    heads: [],
    confidence: { query: querySuffix, choices: [wrong!, right!], slope: 1 / temperature, offset: 0 },
    base: model.cardBase,
  };
}

/** What `openTuned` found. */
export interface Tuned {
  policy: Policy;
  /** What the query's logits are divided by; 1 where nothing says otherwise. */
  temperature: number;
  /** Embedded matrices that were compared and left out, and tensors in a second spelling. */
  dropped: { matrices: number; doubled: number };
}

/**
 * A calibration-tuned policy from a folder: our own (its card is kept), plain PEFT, or the released layout. Without a folder it
 * is the base, which is asked as it is. Its card divides by the temperature that was found, unless `tempered` is false.
 *
 * @throws CredenceError "WRONG_BASE" where embedded matrices, or the card, are of another model
 */
export async function openTuned(
  model: Model,
  path: string | undefined,
  { tempered = true, newTokens }: { tempered?: boolean; newTokens?: number } = {},
): Promise<Tuned> {
  const dropped = { matrices: 0, doubled: 0 };
  const cardAt = (temperature: number) =>
    queryCard(model, { temperature: tempered ? temperature : 1, ...(newTokens === undefined ? {} : { newTokens }) });
  if (path === undefined) return { policy: await model.policy({ card: await cardAt(1) }), temperature: 1, dropped };
  const folder = checkpointOf(path);
  if (existsSync(join(folder, cardName))) {
    const card = readCard(folder);
    const own = isQueryCard(card) ? card.confidence.slope : undefined;
    const temperature = own === undefined ? (temperatureIn(folder, "query") ?? 1) : 1 / own;
    const untempered =
      isQueryCard(card) && !tempered ? { ...card, confidence: { ...card.confidence, slope: 1 } } : card;
    return { policy: await model.policy({ adapter: folder, card: untempered }), temperature, dropped };
  }
  const released = readReleased(folder);
  if (released.matrices.length > 0) await compareMatrices(model, released.matrices, folder);
  const temperature = released.temperature ?? 1;
  const policy = await model.policy({ adapter: released.spec, card: await cardAt(temperature) });
  try {
    putReleased(policy, released, folder);
  } catch (error) {
    await policy.dispose();
    throw error;
  }
  return { policy, temperature, dropped: { matrices: released.matrices.length, doubled: released.doubled } };
}

/** Puts a released LoRA into a policy that was made as it says. */
function putReleased({ native: own, model }: Policy, { tensors, base }: Released, where: string): void {
  const known = new Map(own.tensors().adapter.map(({ name, shape }) => [name, shape.join()]));
  const wrong = tensors.find(({ name, shape }) => known.get(name) !== shape.join());
  if (wrong || tensors.length !== known.size) {
    const { hiddenSize, layers } = model.info;
    throw new CredenceError(
      "WRONG_BASE",
      `${where}: ${wrong ? `tensor ${wrong.name} [${wrong.shape.join(", ")}]` : `${tensors.length} LoRA matrices`} does not fit ${model.name}, ${hiddenSize} wide with ${layers} layers. Use the base it was trained on${base ? `: ${base}` : ""}`,
    );
  }
  own.setTensors([...tensors]);
}

/**
 * Files of a policy in the released layout: its LoRA under PEFT's names alone, without the base's matrices, and the temperature as
 * safetensors and as torch.load reads it.
 */
export function releasedFiles(policy: Policy, temperature: number | null): Record<string, FileData> {
  const { adapter } = policy.native.tensors();
  if (adapter.length === 0) throw new CredenceError("NO_ADAPTER", "the policy has no adapter to release");
  const config = policy.adapter ? adapterConfig(policy.adapter, policy.model.name) : policy.config!;
  const scalar =
    temperature === null ? [] : [{ name: "log_temperature", shape: [], data: Float32Array.of(Math.log(temperature)) }];
  const released = {
    ...config,
    peft_type: "CALIBRATED_LORA",
    task_type: "CALIBRATED_CAUSAL_LM",
    base_model_name_or_path: policy.model.name,
    query_format: "roman_choice",
    use_temperature: temperature !== null,
  };
  return {
    "adapter_config.json": `${JSON.stringify(released, null, 2)}\n`,
    [adapterFile]: encodeSafetensors(adapter),
    ...(temperature === null
      ? {}
      : {
          "temperature_model.safetensors": encodeSafetensors(scalar),
          "temperature_model.pt": encodeTorchFile(scalar, "temperature_model"),
        }),
  };
}

/** Writes them, whole or not at all. */
export const writeReleased = (folder: string, policy: Policy, temperature: number | null): void =>
  writeFolderAtomic(folder, releasedFiles(policy, temperature));

/** The base that a tuned folder names: its card's, else its configuration's. */
export function baseOfTuned(path: string): string | undefined {
  const folder = checkpointOf(path);
  if (existsSync(join(folder, cardName))) return readCard(folder).base.name;
  return readReleased(folder).base;
}
