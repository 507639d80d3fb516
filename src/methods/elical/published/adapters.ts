/**
 * Trained adapters and heads as the published scripts and the released models keep them: a PEFT folder of the bare backbone
 * (`base_model.model.layers.N...`, one `model.` fewer than a language model's) and the head's state dict in a `.pt` beside
 * it. Beside these stand what this library reads: the card and the head as safetensors.
 */
import { existsSync } from "node:fs";
import { dirname, join } from "node:path";
import { CredenceError } from "../../../errors.js";
import { writeFileAtomic, writeFolderAtomic } from "../../../files.js";
import { type Card, cardName } from "../../../model/card.js";
import { headsFile, policyFiles, readPolicyFolder } from "../../../model/policy-folder.js";
import { readSafetensors } from "../../../model/safetensors.js";
import { encodeTorchFile } from "../../../model/torch-file.js";
import { type HeadSpec, native, type TensorData } from "../../../native.js";
import type { Model } from "../../../policy/model.js";
import type { Policy } from "../../../policy/policy.js";
import { confidenceHead } from "../lora.js";
import type { RunPaths } from "./paths.js";

/** The two spellings of what is spelt in two ways, the released one last. */
const spellings = [
  ["best-checkpoint", "best_checkpoints"],
  ["loradrpout", "loradropout"],
] as const;

/**
 * A path as it is, or in the other spelling of the published folders' names.
 *
 * @throws CredenceError "NO_FILE" naming what was looked for
 */
export function eitherSpelling(path: string): string {
  let paths = [path];
  for (const [one, other] of spellings) {
    paths = paths.flatMap((name) => [name, name.replace(one, other), name.replace(other, one)]);
  }
  const found = paths.find((name) => existsSync(name));
  if (found === undefined) {
    const looked = [...new Set(paths)];
    throw new CredenceError(
      "NO_FILE",
      `${path} is not there${looked.length > 1 ? `, nor in another spelling (${looked.slice(1).join(", ")})` : ""}`,
    );
  }
  return found;
}

/** A head's tensors by the names of its state dict, and what kind of head they are. */
interface HeadFile {
  spec: HeadSpec;
  tensors: TensorData[];
}

/**
 * Reads a head's state dict: `weight` and `bias` of a linear one, `0.weight`, `0.bias`, `2.weight`, ... of several layers
 * with ReLU between.
 */
function readHeadFile(path: string, model: Model): HeadFile {
  const tensors = path.endsWith(".safetensors") ? readSafetensors(path) : native().readTensors(path);
  const bad = (what: string) =>
    new CredenceError("WRONG_HEAD", `${path}: ${what}. Expected weight and bias, or 0.weight, 0.bias, 2.weight, ...`);
  const shapes = new Map(tensors.map(({ name, shape }) => [name, shape]));
  const linear = shapes.has("weight");
  const names = linear ? [""] : Array.from({ length: tensors.length / 2 }, (_, i) => `${2 * i}.`);
  let width = model.info.hiddenSize;
  const widths: number[] = [];
  for (const name of names) {
    const [outputs, inputs] = shapes.get(`${name}weight`) ?? [];
    const bias = shapes.get(`${name}bias`);
    if (outputs === undefined || inputs === undefined || bias?.join() !== `${outputs}`)
      throw bad(`holds ${tensors.map((tensor) => `${tensor.name} [${tensor.shape.join(", ")}]`).join(", ")}`);
    if (inputs !== width) {
      throw new CredenceError(
        "WRONG_BASE",
        `${path}: ${name}weight reads ${inputs} numbers, ${names.indexOf(name) ? `the layer before gives ${width}` : `${model.name} is ${width} wide`}. Use the base it was trained on`,
      );
    }
    width = outputs;
    widths.push(outputs);
  }
  if (names.length === 0 || shapes.size !== 2 * names.length || widths.pop() !== 1)
    throw bad("is no head of one output");
  return {
    spec: { name: confidenceHead, kind: linear ? "linear" : "mlp", ...(linear ? {} : { widths }), outputs: 1 },
    tensors,
  };
}

/**
 * A policy of a trained adapter, or of the base alone, and a trained head, in either spelling of their folders.
 *
 * @throws CredenceError "WRONG_BASE", "WRONG_HEAD" where they do not belong to the model
 */
export async function loadTrained(model: Model, from: { adapter?: string; head: string }): Promise<Policy> {
  const head = readHeadFile(eitherSpelling(from.head), model);
  const adapter = from.adapter === undefined ? undefined : eitherSpelling(from.adapter);
  const beside = dirname(eitherSpelling(from.head));
  const folder = adapter ?? (existsSync(join(beside, cardName)) ? beside : undefined);
  const own = folder === undefined ? [] : readPolicyFolder(folder).heads;
  const known = own.find(({ name }) => name === confidenceHead);
  if (known && (known.kind !== head.spec.kind || known.widths?.join() !== head.spec.widths?.join()))
    throw new CredenceError("WRONG_HEAD", `${from.head}: is not the kind of head that the card in ${folder} names`);
  const policy = await model.policy({ ...(folder ? { adapter: folder } : {}), heads: known ? [] : [head.spec] });
  policy.native.setTensors(head.tensors.map((tensor) => ({ ...tensor, name: `${confidenceHead}.${tensor.name}` })));
  return policy;
}

/** Writes an adapter, if there is one, and the head as the published scripts lay them out; each is replaced whole. */
export function writeTrained(paths: RunPaths, policy: Policy, card: Card): void {
  const tensors = policy.native.tensors();
  const adapter = tensors.adapter.map((tensor) => ({
    ...tensor,
    name: tensor.name.replace(/^base_model\.model\.model\./, "base_model.model."),
  }));
  const config = policy.config && { ...policy.config, task_type: null };
  const files = policyFiles({ adapter, heads: tensors.heads }, config, card);
  const checkpoint = dirname(paths.head);
  if (config) writeFolderAtomic(paths.adapter, files);
  else for (const name of [headsFile, cardName]) writeFileAtomic(join(checkpoint, name), files[name]!);
  const head = tensors.heads.map((tensor) => ({ ...tensor, name: tensor.name.slice(confidenceHead.length + 1) }));
  writeFileAtomic(paths.head, encodeTorchFile(head, "vector_head_epoch_best"));
}
