/** The models that CONQORD's trainings begin with, and what of them learns. */
import { existsSync, statSync } from "node:fs";
import { join } from "node:path";
import { CredenceError } from "../../errors.js";
import { readJson } from "../../files.js";
import { cardName } from "../../model/card.js";
import { type PolicyFolder, readPolicyFolder, weightsFile } from "../../model/policy-folder.js";
import type { AdapterSpec, Projection } from "../../native.js";
import { Model, type ModelOptions, type PolicyOptions } from "../../policy/model.js";
import { mergeAdapter } from "../../policy/model-files.js";
import type { Policy } from "../../policy/policy.js";
import { firstDisagreement } from "../../text/tokenizer-files.js";
import { givenPolicy } from "../../training/checkpoint.js";
import type { GroupRates } from "../../training/loop.js";
import type { ConqordCompat } from "./compat.js";
import { type LearningParts, learntOfBase, publishedLoraRate } from "./training-settings.js";

const configFile = "adapter_config.json";

/** A model, and a policy's folder on it where it is more than a model. */
export interface Start {
  base: string;
  folder?: string;
}

/**
 * What a path names: a model; a policy's folder; or the folder of a training, whose policy it is. Such folders name their base,
 * by its hub id or its last part alone, so that a base that lies elsewhere has to be given.
 *
 * @throws CredenceError "USAGE" where a policy's base is not known
 */
export function startAt(path: string, base?: string): Start {
  const folder = existsSync(join(path, "best")) ? givenPolicy(path) : path;
  const has = (name: string) => existsSync(join(folder, name));
  if (!existsSync(folder) || !statSync(folder).isDirectory() || ![cardName, configFile, weightsFile].some(has))
    return { base: path };
  const config = has(configFile) ? (readJson(join(folder, configFile)) as { base_model_name_or_path?: string }) : {};
  const named = base ?? readPolicyFolder(folder).card?.base.name ?? config.base_model_name_or_path;
  if (!named)
    throw new CredenceError(
      "USAGE",
      `${path} does not name the model that it was trained on. Say which it was: --base, of ppo --tokenizer_model_name_or_path`,
    );
  return { base: named, folder };
}

/** Models by their paths, each opened once: what begins on the same base shares its weights. */
export class Bases implements AsyncDisposable {
  private readonly open = new Map<string, Promise<Model>>();
  private readonly options: ModelOptions;

  constructor(options: ModelOptions) {
    this.options = options;
  }

  of(path: string): Promise<Model> {
    let model = this.open.get(path);
    if (!model) {
      model = Model.load(path, this.options);
      this.open.set(path, model);
    }
    return model;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    for (const opened of await Promise.allSettled(this.open.values()))
      if (opened.status === "fulfilled") await opened.value.dispose();
  }
}

/**
 * Refuses two models that read tokens differently: one could not score what the other wrote.
 *
 * @throws CredenceError "OTHER_TOKENIZER" with the first difference
 */
export function checkVocabulary(actor: Model, other: Model, what: string): void {
  const differ = firstDisagreement(actor.tokenizer, other.tokenizer);
  const sizes = [actor, other].map(({ tokenizer }) => tokenizer.vocabularySize);
  if (!differ && sizes[0] === sizes[1]) return;
  const how = differ
    ? `token ${differ.id} is ${JSON.stringify(differ.b)} there and ${JSON.stringify(differ.a)} in ${actor.name}`
    : `it has ${sizes[1]} tokens, ${actor.name} ${sizes[0]}`;
  throw new CredenceError(
    "OTHER_TOKENIZER",
    `${what} ${other.name} has another vocabulary (${how}), and reads the actor's tokens as they are. Take one that was trained from the same model`,
  );
}

const modules: Record<Projection, string> = {
  q: "self_attn.q_proj",
  k: "self_attn.k_proj",
  v: "self_attn.v_proj",
  o: "self_attn.o_proj",
  gate: "mlp.gate_proj",
  up: "mlp.up_proj",
  down: "mlp.down_proj",
};

/**
 * The published adapter: on every projection in whose module's name, e.g. "model.layers.0.self_attn.q_proj", `loraModuleName` stands;
 * alpha 1, so that its scale is 1 / rank; no dropout.
 *
 * @throws CredenceError "USAGE" where it stands in none, or in other projections from layer to layer
 */
export function adapterOf(
  { loraDim, loraModuleName }: Pick<LearningParts, "loraDim" | "loraModuleName">,
  layers: number,
  seed: number,
): AdapterSpec | undefined {
  if (loraDim === 0) return undefined;
  const projections = Object.keys(modules) as Projection[];
  const of = (layer: number) =>
    projections.filter((name) => `model.layers.${layer}.${modules[name]}`.includes(loraModuleName));
  const found = Array.from({ length: layers }, (_, layer) => of(layer));
  const chosen = found.flatMap((targets, layer) => (targets.length > 0 ? [layer] : []));
  const refuse = (why: string) =>
    new CredenceError(
      "USAGE",
      `lora_module_name ${JSON.stringify(loraModuleName)}: ${why}. Modules are called model.layers.0.self_attn.q_proj (k_proj, v_proj, o_proj) and ` +
        `model.layers.0.mlp.gate_proj (up_proj, down_proj), up to layer ${layers - 1}; "layers." names all`,
    );
  if (chosen.length === 0) throw refuse("it stands in the name of no projection");
  const targets = found[chosen[0]!]!;
  if (chosen.some((layer) => found[layer]!.join() !== targets.join()))
    throw refuse("it names other projections from layer to layer");
  return { rank: loraDim, alpha: 1, targets, seed, ...(chosen.length < layers ? { layers: chosen } : {}) };
}

/** A fresh policy on a base, or one that a folder holds; given a checkpoint's folder, that. */
export type PolicyMaker = (
  checkpoint: string | undefined,
  made?: Pick<PolicyOptions, "heads" | "card">,
) => Promise<Policy>;

/** How a training's policy is made, and the groups of its parameters that learn at rates of their own. */
export interface Learner {
  policy: PolicyMaker;
  /** What it begins as: a folder, or the parts that are made. */
  begins: string;
  groups: GroupRates;
}

/**
 * A folder's adapter is gone on with, and so are its own weights and heads; a model gets what `parts` ask for. As published (A9-1)
 * adapters stay as they begin.
 *
 * @throws CredenceError "USAGE" where a folder's adapter has another rank than is asked for, or nothing would learn
 */
export function learnerOf(
  model: Model,
  { folder }: Start,
  parts: LearningParts,
  { seed, compat }: { seed: number; compat: ConqordCompat },
): Learner {
  const held = folder === undefined ? undefined : readPolicyFolder(folder);
  const rank = held ? rankOf(held) : parts.loraDim;
  if (held && parts.loraDim !== 0 && parts.loraDim !== rank)
    throw new CredenceError(
      "USAGE",
      `${folder} has ${rank === 0 ? "no adapter" : `an adapter of rank ${rank}`}, and is gone on with as it is; a rank of ${parts.loraDim} is asked for. ` +
        "Give 0, or begin from the merged model (credence merge), which gets an adapter of its own",
    );
  const train = learntOfBase({ ...parts, loraDim: rank });
  if (compat.has("A9-1") && rank !== 0 && train === undefined)
    throw new CredenceError(
      "USAGE",
      "--only_optimize_lora with --compat A9-1: the adapter alone would learn, and as published it does not. Leave out one of them",
    );
  const rate = compat.has("A9-1")
    ? 0
    : (parts.loraLearningRate ?? (compat.has("A9-11") ? publishedLoraRate : undefined));
  const fresh = held?.weights || !train ? {} : { train };
  const adapter = held ? undefined : adapterOf(parts, model.info.layers, seed);
  return {
    begins: folder ?? JSON.stringify({ adapter, train }),
    groups: rank === 0 || rate === undefined ? {} : { adapter: { learningRate: rate } },
    policy: (checkpoint, { heads, card } = {}) => {
      const made = { ...(heads && !held?.heads.length ? { heads } : {}), ...(card ? { card } : {}) };
      if (checkpoint !== undefined) return model.policy({ adapter: checkpoint, ...made });
      if (folder !== undefined) return model.policy({ adapter: folder, ...fresh, ...made });
      return model.policy({ ...(adapter ? { adapter } : {}), ...fresh, ...made });
    },
  };
}

const rankOf = ({ directory, hasAdapter }: PolicyFolder): number =>
  hasAdapter ? ((readJson(join(directory, configFile)) as { r?: number }).r ?? 0) : 0;

/** Writes a policy's folder as a model of its own, once. */
export async function mergeOnce(folder: string, out: string, base: string, options: ModelOptions): Promise<string> {
  if (!existsSync(out)) {
    const { engine: _, ...rest } = options;
    await mergeAdapter(folder, out, { ...rest, model: base });
  }
  return out;
}
