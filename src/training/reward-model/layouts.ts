/**
 * Reward models as other programs keep them. DeepSpeed-Chat, and CONQORD after it: one `pytorch_model.bin` of the whole
 * backbone under `rwtranrsformer.` (misspelt, part of the format) and a head `v_head.weight` without a bias. TRL: a PEFT
 * folder with `v_head.summary.weight` and `.bias` in a `pytorch_model.bin` beside it. transformers' sequence classification
 * as PEFT keeps it: the head among the adapter's tensors as `base_model.model.score.weight`, without a bias.
 */
import { existsSync, mkdirSync, mkdtempSync, readdirSync, rmSync, statSync } from "node:fs";
import { tmpdir } from "node:os";
import { basename, join } from "node:path";
import { CredenceError } from "../../errors.js";
import { copyDurable, makeWhole, readJson, writeFileAtomic } from "../../files.js";
import type { AnswerText } from "../../model/card.js";
import { adapterFile } from "../../model/policy-folder.js";
import { encodeSafetensors, readSafetensors } from "../../model/safetensors.js";
import { encodeTorchFile } from "../../model/torch-file.js";
import { type HeadSpec, native, type TensorData } from "../../native.js";
import type { Model } from "../../policy/model.js";
import { mergeAdapter } from "../../policy/model-files.js";
import type { Policy } from "../../policy/policy.js";
import { defaultText } from "./rows.js";
import { rewardCard, rewardHead } from "./train.js";

export const rewardLayouts = ["deepspeed", "trl", "transformers"] as const;
export type RewardLayout = (typeof rewardLayouts)[number];

const torchFile = "pytorch_model.bin";
const configFile = "adapter_config.json";
/** The published spelling of the backbone's prefix, then the one it was corrected to. */
const backbonePrefixes = ["rwtranrsformer.", "rwtransformer."];
const peftScore = "base_model.model.score.weight";

/** What the tensors of a head are called, each layout's. */
const headNames = [
  { weight: "v_head.weight", bias: "v_head.bias" },
  { weight: "v_head.summary.weight", bias: "v_head.summary.bias" },
  { weight: "score.weight", bias: "score.bias" },
  { weight: peftScore, bias: "base_model.model.score.bias" },
] as const;

const readAny = (path: string): TensorData[] =>
  path.endsWith(".safetensors") ? readSafetensors(path) : native().readTensors(path);

/** The files of tensors at a path: itself, or those in a folder that may hold a head. */
function tensorFiles(path: string): string[] {
  if (!existsSync(path)) throw new CredenceError("NO_FILE", `there is nothing at ${path}`);
  if (!statSync(path).isDirectory()) return [path];
  const known = /^(adapter_model|model(-\d+-of-\d+)?)\.safetensors$|^(adapter_model|pytorch_model(-\d+-of-\d+)?)\.bin$/;
  const files = readdirSync(path).filter((name) => known.test(name));
  return files.sort().map((name) => join(path, name));
}

/**
 * A reward model that another program trained, as a policy on `model`: its head, and its adapter where it is a PEFT folder.
 * Where the file holds the whole backbone, that must be the model's own, weight for weight.
 *
 * @param options.text how answers are put to it, which the files do not say; default as of a new one
 * @throws CredenceError "NO_HEAD" where no head is found; "WRONG_HEAD", "WRONG_BASE" where it is another model's; "UNSUPPORTED"
 *   where the backbone was trained itself
 */
export async function readRewardModel(
  model: Model,
  path: string,
  { text = defaultText(model) }: { text?: AnswerText } = {},
): Promise<Policy> {
  const tensors = tensorFiles(path).flatMap(readAny);
  const { weight, bias } = headOf(path, tensors, model);
  const spec: HeadSpec = {
    name: rewardHead,
    kind: "linear",
    layer: model.info.layers,
    outputs: 1,
    bias: bias !== undefined,
  };
  const card = rewardCard(model, spec, text);
  const make = (adapter?: string) => model.policy({ ...(adapter ? { adapter } : {}), heads: [spec], card });
  const hasAdapter = existsSync(join(path, configFile));
  if (!hasAdapter) checkBackbone(path, tensors, model);
  const policy = hasAdapter ? await withPlainAdapter(path, tensors, make) : await make();
  policy.native.setTensors([
    { ...weight, name: `${rewardHead}.weight` },
    ...(bias ? [{ ...bias, name: `${rewardHead}.bias` }] : []),
  ]);
  return policy;
}

function headOf(path: string, tensors: readonly TensorData[], model: Model): { weight: TensorData; bias?: TensorData } {
  const find = (wanted: string) => tensors.find(({ name }) => name === wanted);
  for (const names of headNames) {
    const weight = find(names.weight);
    if (!weight) continue;
    const { hiddenSize } = model.info;
    if (weight.shape.length !== 2 || weight.shape[0] !== 1) {
      throw new CredenceError(
        "WRONG_HEAD",
        `${path}: ${names.weight} is [${weight.shape.join(", ")}]; a reward is one number, [1, ${hiddenSize}]`,
      );
    }
    if (weight.shape[1] !== hiddenSize) {
      throw new CredenceError(
        "WRONG_BASE",
        `${path}: ${names.weight} reads ${weight.shape[1]} numbers; ${model.name} is ${hiddenSize} wide. Use the base it was trained on`,
      );
    }
    const bias = find(names.bias);
    return bias ? { weight, bias } : { weight };
  }
  const wanted = headNames.map(({ weight }) => weight).join(", ");
  throw new CredenceError("NO_HEAD", `${path} holds no head of a reward model: none of ${wanted} is in it`);
}

/** An adapter's folder without the head among its tensors, for as long as it takes to read it. */
async function withPlainAdapter<T>(
  path: string,
  tensors: readonly TensorData[],
  make: (adapter: string) => Promise<T>,
): Promise<T> {
  const folder = mkdtempSync(join(tmpdir(), "credence-adapter-"));
  try {
    const config = readJson(join(path, configFile)) as Record<string, unknown>;
    const plain = { ...config, task_type: "CAUSAL_LM", modules_to_save: null };
    writeFileAtomic(join(folder, configFile), `${JSON.stringify(plain)}\n`);
    const lora = tensors.filter(({ name }) => name.includes(".lora_"));
    writeFileAtomic(join(folder, adapterFile), encodeSafetensors(lora));
    return await make(folder);
  } finally {
    rmSync(folder, { recursive: true, force: true });
  }
}

/** The backbone's own name of a tensor: without what a language model or a reward model puts before it. */
const bareName = (name: string): string =>
  [...backbonePrefixes, "model."].reduce(
    (bare, prefix) => (bare.startsWith(prefix) ? bare.slice(prefix.length) : bare),
    name,
  );

const isHead = (name: string): boolean => /^(v_head|score|lm_head)\./.test(name);

function checkBackbone(path: string, tensors: readonly TensorData[], model: Model): void {
  const theirs = tensors.filter(({ name }) => !isHead(name) && !name.endsWith("rotary_emb.inv_freq"));
  if (theirs.length === 0) return;
  if (model.path.toLowerCase().endsWith(".gguf")) {
    throw new CredenceError(
      "UNSUPPORTED",
      `${path} holds a whole backbone, which can be compared with a Hugging Face folder's weights, not with a GGUF's. Load the base as a folder`,
    );
  }
  const own = new Map(model.info.files.flatMap(readAny).map((tensor) => [bareName(tensor.name), tensor]));
  for (const { name, shape, data } of theirs) {
    const ours = own.get(bareName(name));
    if (ours && ours.shape.join() === shape.join() && ours.data.every((weight, i) => weight === data[i])) continue;
    const what = ours
      ? ours.shape.join() === shape.join()
        ? "has other numbers"
        : `is [${shape.join(", ")}] and not [${ours.shape.join(", ")}]`
      : "is not there";
    throw new CredenceError(
      "UNSUPPORTED",
      `${path}: its backbone is not ${model.name} (${name} ${what} there). A policy here has an adapter and heads and no ` +
        "base of its own yet, so a backbone that was trained itself cannot be loaded onto another. Name the model whose " +
        "weights these are, e.g. the merged one",
    );
  }
}

export interface RewardFiles {
  path: string;
  files: string[];
}

/**
 * Writes a reward model's folder as another program keeps it; see the top of this file. "deepspeed" has the adapter merged
 * into the weights, which pass through memory in float32, at most 4 GiB of them.
 *
 * @param adapter a folder with a card, as `trainRewardModel` leaves it
 * @throws CredenceError "EXISTS"; "NO_ADAPTER" where the layout is an adapter's and there is none; "UNSUPPORTED" where the
 *   head has what the layout has no place for
 */
export async function writeRewardModel(
  model: Model,
  adapter: string,
  out: string,
  layout: RewardLayout,
): Promise<RewardFiles> {
  const policy = await model.policy({ adapter });
  try {
    const { weight, bias } = ownHead(policy, adapter, layout);
    if (layout === "deepspeed") return await writeMerged(policy, adapter, out, weight);
    if (!policy.hasAdapter) {
      throw new CredenceError(
        "NO_ADAPTER",
        `${adapter} is a head alone, and this layout keeps one beside a PEFT adapter. Choose the layout deepspeed`,
      );
    }
    if (policy.hasWeights) {
      throw new CredenceError(
        "UNSUPPORTED",
        `${adapter} was trained beside weights of its own, for which the layout ${layout} has no place. Choose the layout deepspeed`,
      );
    }
    return await makeWhole(out, async (temporary) => {
      mkdirSync(temporary);
      const lora = policy.native.tensors().adapter;
      const scored = layout === "transformers";
      const config = scored ? { ...policy.config, task_type: "SEQ_CLS", modules_to_save: ["score"] } : policy.config;
      writeFileAtomic(join(temporary, configFile), `${JSON.stringify(config, null, 2)}\n`);
      writeFileAtomic(
        join(temporary, adapterFile),
        encodeSafetensors(scored ? [...lora, { ...weight, name: peftScore }] : lora),
      );
      if (!scored) {
        const head = [
          { ...weight, name: "v_head.summary.weight" },
          { name: "v_head.summary.bias", shape: [1], data: bias?.data ?? new Float32Array(1) },
        ];
        writeFileAtomic(join(temporary, torchFile), encodeTorchFile(head, "pytorch_model"));
      }
      return { path: out, files: readdirSync(temporary).sort() };
    });
  } finally {
    await policy.dispose();
  }
}

function ownHead(policy: Policy, adapter: string, layout: RewardLayout): { weight: TensorData; bias?: TensorData } {
  const name = policy.rewardCard?.reward.head;
  const spec = policy.heads.find((head) => head.name === name);
  if (!spec) throw new CredenceError("NO_CARD", `${adapter} has no card of a reward model`);
  const refuse = (what: string) =>
    new CredenceError("UNSUPPORTED", `${adapter}: its head ${what}, for which the layout ${layout} has no place`);
  if (spec.kind !== "linear") throw refuse("is an MLP");
  if ((spec.layer ?? policy.model.info.layers) !== policy.model.info.layers) throw refuse(`reads depth ${spec.layer}`);
  const tensors = policy.native.tensors().heads;
  const weight = tensors.find((tensor) => tensor.name === `${name}.weight`)!;
  const bias = tensors.find((tensor) => tensor.name === `${name}.bias`);
  if (bias && bias.data[0] !== 0 && layout !== "trl") throw refuse(`has a bias of ${bias.data[0]}`);
  return bias ? { weight, bias } : { weight };
}

async function writeMerged(policy: Policy, adapter: string, out: string, weight: TensorData): Promise<RewardFiles> {
  const { model } = policy;
  if (model.path.toLowerCase().endsWith(".gguf")) {
    throw new CredenceError("UNSUPPORTED", "the layout deepspeed is made from a Hugging Face folder, not from a GGUF");
  }
  return makeWhole(out, async (temporary) => {
    mkdirSync(temporary);
    const merged = join(temporary, "merged");
    const differs = policy.hasAdapter || policy.hasWeights;
    if (differs) await mergeAdapter(adapter, merged, { model: model.path });
    const folder = differs ? merged : model.path;
    const backbone = tensorFiles(folder)
      .flatMap(readAny)
      .filter(({ name }) => !isHead(name))
      .map((tensor) => ({ ...tensor, name: `${backbonePrefixes[0]}${bareName(tensor.name)}` }));
    const tensors = [...backbone, { ...weight, name: "v_head.weight" }];
    writeFileAtomic(join(temporary, torchFile), encodeTorchFile(tensors, "pytorch_model"));
    for (const name of readdirSync(folder).filter((file) => /\.(json|model|txt|jinja)$/.test(file)))
      if (!/\.index\.json$/.test(name)) copyDurable(join(folder, name), join(temporary, basename(name)));
    rmSync(merged, { recursive: true, force: true });
    return { path: out, files: readdirSync(temporary).sort() };
  });
}
