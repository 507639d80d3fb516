/**
 * Models and adapters as files for other programs: an adapter merged into its base, a model in another format or with
 * another vocabulary, an adapter alone. Each is written whole or not at all, read again by the engine, and kept only if every
 * weight is its source's within what its type rounds, and the logits are the source's within the bound of the type.
 */
import { existsSync, mkdirSync, readdirSync } from "node:fs";
import { basename, extname, join } from "node:path";
import { CredenceError } from "../errors.js";
import { copyDurable, makeWhole, readJson, writeFileAtomic } from "../files.js";
import { adapterFile, readPolicyFolder, weightsFile } from "../model/policy-folder.js";
import { type ResolveOptions, resolveModel } from "../model/resolve.js";
import { encodeSafetensors } from "../model/safetensors.js";
import {
  type Addon,
  type BaseOptions,
  type LogitDifference,
  native,
  type TensorData,
  type WeightType,
  type WrittenWeights,
} from "../native.js";
import { Tokenizer } from "../text/tokenizer.js";
import { firstDisagreement, tokenizerFields, tokenizerFiles } from "../text/tokenizer-files.js";
import { Model } from "./model.js";

export interface FileOptions extends BaseOptions, ResolveOptions {
  /** The engine; for tests that need none. */
  engine?: Pick<Addon, "writeModel" | "compareModels" | "readTensors">;
}

export interface ModelFileOptions extends FileOptions {
  /** How the matrices are stored; Q8_0 and Q4_0 in a GGUF only. Default "auto". */
  type?: WeightType;
  /** Longest file of safetensors in bytes; default 5e9. */
  shardBytes?: number;
}

export interface ConvertOptions extends ModelFileOptions {
  /** Another tokenizer (a folder or a GGUF) goes into the files, and the embedding gets as many rows as it has tokens. */
  tokenizer?: string;
  /** Rows of the embedding, whatever the tokenizer has. */
  vocabulary?: number;
}

/** How far what was written may be from its source, and how far it is. */
export interface LogitCheck extends LogitDifference {
  /** The largest difference over the largest logit. */
  error: number;
  /** null: none, the type is quantised. */
  bound: number | null;
}

export interface WrittenFiles extends Omit<WrittenWeights, "type"> {
  path: string;
  type: string;
  check: LogitCheck;
}

/**
 * Bounds on the largest difference over the largest logit. F32: the same sums in another order. F16 and BF16: ten times
 * what rounding SmolLM2-135M does (1e-3, 6e-3). A quantised type has none: each weight was compared within what the type
 * rounds, and how far the logits are then is the model's own (0.025 and 0.33 for that model); it is told.
 */
const bounds = {
  F32: 1e-4,
  F16: 1e-2,
  BF16: 5e-2,
  Q8_0: null,
  Q4_0: null,
} satisfies Record<Exclude<WeightType, "auto">, number | null>;

/** Tokens of the comparison: spread over the vocabulary, so that rows everywhere are looked at. */
const comparedTokens = 48;

const spread = (vocabulary: number, count: number): Int32Array =>
  Int32Array.from({ length: count }, (_, i) =>
    Math.floor(((i * 29 + 7) % comparedTokens) * (vocabulary / comparedTokens)),
  );

/** What a tokenizer and its template may be kept in, and what a licence asks to keep. */
const carriedFile =
  /^(tokenizer\.json|tokenizer\.model|tokenizer_config\.json|special_tokens_map\.json|added_tokens\.json|vocab\.json|merges\.txt|chat_template\.(jinja|json)|(licen[cs]e|notice)(\.\w+)?)$/i;
const generationFile = "generation_config.json";

async function check(
  source: { model: string; adapter?: string; weights?: string },
  written: { model: string; adapter?: string },
  bound: number | null,
  tokens: Int32Array,
  { engine = native(), note: _, signal, ...baseOptions }: FileOptions,
): Promise<LogitCheck> {
  // Differences of bf16 arithmetic would hide those of the files.
  const options = { ...baseOptions, dtype: baseOptions.dtype ?? ("f32" as const) };
  const difference = await engine.compareModels(source, written, tokens, options, signal);
  const { largestDifference, largestLogit } = difference;
  const error = largestDifference === 0 ? 0 : largestDifference / largestLogit;
  const allowed = options.dtype === "f32" || bound === null ? bound : Math.max(bound, bounds.BF16);
  if (!(error <= (allowed ?? Number.MAX_VALUE))) {
    throw new CredenceError(
      "NOT_THE_SAME",
      `what was written gives other logits than its source: they differ by ${largestDifference.toPrecision(3)} ` +
        `of ${largestLogit.toPrecision(3)}, ${error.toPrecision(2)} where ${allowed ?? "a number"} is allowed. Nothing was kept`,
    );
  }
  return { ...difference, error, bound: allowed };
}

/** A GGUF by its ending, else a folder. */
const formatOf = (out: string): "gguf" | "safetensors" =>
  extname(out).toLowerCase() === ".gguf" ? "gguf" : "safetensors";

interface WriteRequest extends ConvertOptions {
  model: string;
  adapter?: string;
  /** Of a policy that owns some of its base. */
  weights?: string;
  out: string;
}

async function loadTokenizer(path: string): Promise<Tokenizer | undefined> {
  try {
    return await Tokenizer.load(path);
  } catch (error) {
    if ((error as CredenceError).code === "NO_TOKENIZER") return undefined;
    throw error;
  }
}

/** Rows that the embedding shall have; undefined: as it is. */
function rowsFor(request: WriteRequest, own: Tokenizer | undefined, other: Tokenizer | undefined): number | undefined {
  const { vocabulary, model, tokenizer } = request;
  if (own && other) {
    const differ = firstDisagreement(own, other);
    if (differ) {
      throw new CredenceError(
        "OTHER_TOKENIZER",
        `token ${differ.id} is "${differ.a}" in ${model} and "${differ.b}" in ${tokenizer}: rows keep their ids, so a ` +
          "tokenizer that gives them to other tokens would make nonsense of the weights. Only one that adds or drops tokens at the end fits",
      );
    }
  }
  const needed = (other ?? own)?.vocabularySize;
  if (vocabulary !== undefined && needed !== undefined && vocabulary < needed) {
    throw new CredenceError(
      "BAD_OPTION",
      `a vocabulary of ${vocabulary} rows is too small for the tokenizer, which has ${needed} tokens. Give a tokenizer with fewer`,
    );
  }
  return vocabulary ?? other?.vocabularySize;
}

async function writeModel(request: WriteRequest): Promise<WrittenFiles> {
  const { model, adapter, weights, out, type = "auto", shardBytes, engine = native(), note, signal } = request;
  const format = formatOf(out);
  if (format === "safetensors" && (type === "Q8_0" || type === "Q4_0")) {
    throw new CredenceError(
      "BAD_OPTION",
      `${type} is a type of GGUF: give an output that ends in .gguf, or F32, F16 or BF16`,
    );
  }
  const { path } = await resolveModel(model, { note, signal });
  const own = await loadTokenizer(path);
  const other = request.tokenizer === undefined ? undefined : await Tokenizer.load(request.tokenizer);
  const tokenizer = other ?? own;
  const vocabulary = rowsFor(request, own, other);
  return makeWhole(out, async (temporary) => {
    const common = { model: path, adapter, weights, vocabulary, out: temporary, format, type, shardBytes };
    const written =
      format === "gguf"
        ? await engine.writeModel(
            { ...common, metadata: await ggufMetadata(request, path, tokenizer, vocabulary) },
            signal,
          )
        : await writeFolder(temporary, path, request.tokenizer, tokenizer, () => engine.writeModel(common, signal));
    const shared = Math.min(
      ...[vocabulary, tokenizer?.vocabularySize].filter((n) => n !== undefined),
      await rowsOf(path),
    );
    const checked = await check(
      { model: path, adapter, weights },
      { model: temporary },
      bounds[written.type],
      spread(shared, comparedTokens),
      request,
    );
    const files = format === "gguf" ? [basename(out)] : readdirSync(temporary).sort();
    return { ...written, files, path: out, check: checked };
  });
}

/** Rows of a model's embedding, from what describes it. */
async function rowsOf(path: string): Promise<number> {
  if (existsSync(join(path, "config.json"))) {
    const { vocab_size } = readJson(join(path, "config.json")) as { vocab_size?: number };
    if (vocab_size !== undefined) return vocab_size;
  }
  return (await loadTokenizer(path))?.vocabularySize ?? Number.POSITIVE_INFINITY;
}

async function ggufMetadata(
  { model, out }: WriteRequest,
  path: string,
  tokenizer: Tokenizer | undefined,
  vocabulary: number | undefined,
) {
  if (!tokenizer) {
    throw new CredenceError(
      "NO_TOKENIZER",
      `${model} has no tokenizer.json, and a GGUF carries its tokenizer. Name one with the option tokenizer`,
    );
  }
  const rows = vocabulary ?? (await rowsOf(path));
  return { "general.name": basename(out, extname(out)), ...tokenizerFields(tokenizer, rows) };
}

async function writeFolder(
  folder: string,
  source: string,
  tokenizerPath: string | undefined,
  tokenizer: Tokenizer | undefined,
  write: () => Promise<WrittenWeights>,
): Promise<WrittenWeights> {
  mkdirSync(folder);
  const written = await write();
  const carriedFrom = tokenizerPath ?? source;
  if (carriedFrom.toLowerCase().endsWith(".gguf")) {
    for (const [name, text] of Object.entries(tokenizer ? tokenizerFiles(tokenizer) : {})) {
      writeFileAtomic(join(folder, name), text);
    }
  } else {
    for (const name of readdirSync(carriedFrom).filter((file) => carriedFile.test(file))) {
      copyDurable(join(carriedFrom, name), join(folder, name));
    }
  }
  const generation = join(source, generationFile);
  if (existsSync(generation)) {
    const { transformers_version: _, ...settings } = readJson(generation) as Record<string, unknown>;
    writeFileAtomic(join(folder, generationFile), `${JSON.stringify(settings, null, 2)}\n`);
  }
  return {
    ...written,
    notes: tokenizer ? written.notes : [...written.notes, "the source has no tokenizer, so neither has this"],
  };
}

/** The base that an adapter's card or its adapter_config.json names. */
function baseOf(adapter: string): string {
  const { card } = readPolicyFolder(adapter);
  const config = existsSync(join(adapter, "adapter_config.json"))
    ? (readJson(join(adapter, "adapter_config.json")) as { base_model_name_or_path?: unknown })
    : {};
  const name = card?.base.name ?? config.base_model_name_or_path;
  if (typeof name === "string" && name !== "") return name;
  throw new CredenceError("NO_MODEL", `${adapter} does not name its base: say which model it was trained on`);
}

/**
 * Adds an adapter's product to its base's weights, or to those that the policy has in their place (in float32, rounded once), and
 * writes them as a model of their own: a Hugging Face folder, or a GGUF where `out` ends in .gguf. Heads and card stay with the adapter. Abort leaves nothing.
 *
 * @throws CredenceError "EXISTS", "NOT_THE_SAME", "DISK_FULL", or what reading the two throws
 */
export async function mergeAdapter(
  adapter: string,
  out: string,
  { model = baseOf(adapter), ...options }: ModelFileOptions & { model?: string } = {},
): Promise<WrittenFiles> {
  const has = (name: string) => existsSync(join(adapter, name));
  if (!has("adapter_config.json") && !has(weightsFile)) {
    throw new CredenceError(
      "NO_ADAPTER",
      `${adapter} has nothing to merge: there is neither adapter_config.json nor ${weightsFile} in it`,
    );
  }
  return writeModel({
    ...options,
    model,
    ...(has("adapter_config.json") ? { adapter } : {}),
    ...(has(weightsFile) ? { weights: join(adapter, weightsFile) } : {}),
    out,
  });
}

/**
 * Writes a model in another format, type or vocabulary: a Hugging Face folder of safetensors, or a GGUF where `out` ends
 * in .gguf. Abort leaves nothing.
 */
export function convertModel(model: string, out: string, options: ConvertOptions = {}): Promise<WrittenFiles> {
  return writeModel({ ...options, model, out });
}

/** How an adapter's tensors are called: for a causal model, as PEFT does by default, or for a bare backbone. */
export type AdapterKeys = "peft" | "bare";

/**
 * Writes a policy's adapter as a PEFT folder (float32), its heads and card beside it. The base it is compared on is the one
 * its card or configuration names unless `model` says another. Abort leaves nothing.
 */
export async function exportAdapter(
  adapter: string,
  out: string,
  { keys = "peft", model = baseOf(adapter), ...options }: FileOptions & { keys?: AdapterKeys; model?: string } = {},
): Promise<WrittenFiles> {
  const { engine: _, ...modelOptions } = options;
  const loaded = await Model.load(model, modelOptions);
  let files: ReturnType<Awaited<ReturnType<Model["policy"]>>["files"]>;
  let adapters: TensorData[];
  const [path, rows] = [loaded.path, loaded.info.vocabularySize];
  try {
    const policy = await loaded.policy({ adapter });
    if (policy.hasWeights) {
      throw new CredenceError(
        "UNSUPPORTED",
        `${adapter} was trained beside weights of its own, which a PEFT folder has no place for. Merge it (mergeAdapter)`,
      );
    }
    files = policy.files();
    adapters = policy.native.tensors().adapter;
  } finally {
    await loaded.dispose();
  }
  if (!adapters.length)
    throw new CredenceError("NO_ADAPTER", `${adapter} has heads but no adapter: PEFT has no use for it`);
  if (keys === "bare") {
    const config = JSON.parse(files["adapter_config.json"] as string) as Record<string, unknown>;
    files["adapter_config.json"] = `${JSON.stringify({ ...config, task_type: "FEATURE_EXTRACTION" }, null, 2)}\n`;
    files[adapterFile] = encodeSafetensors(
      adapters.map((tensor) => ({
        ...tensor,
        name: tensor.name.replace("base_model.model.model.", "base_model.model."),
      })),
    );
  }
  return makeWhole(out, async (temporary) => {
    mkdirSync(temporary);
    for (const [name, data] of Object.entries(files)) writeFileAtomic(join(temporary, name), data);
    const checked = await check(
      { model: path, adapter },
      { model: path, adapter: temporary },
      0,
      spread(rows, comparedTokens),
      options,
    );
    const bytes = adapters.reduce((sum, { data }) => sum + data.byteLength, 0);
    return { path: out, type: "F32", files: Object.keys(files).sort(), bytes, notes: [], check: checked };
  });
}

/** Every tensor of a safetensors file or of a file of torch.save, as float32; nothing in such a file is run. */
export function readTensors(path: string, { engine = native() }: Pick<FileOptions, "engine"> = {}): TensorData[] {
  return engine.readTensors(path);
}
