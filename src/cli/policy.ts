/** Models and policies as commands name them. */
import { existsSync } from "node:fs";
import { join } from "node:path";
import { parse } from "yaml";
import { z } from "zod";
import { CredenceError } from "../errors.js";
import { readJson, readText } from "../files.js";
import type { BaseOptions } from "../native.js";
import { Model } from "../policy/model.js";
import type { Policy } from "../policy/policy.js";
import type { Message } from "../text/chat.js";
import { note } from "./output.js";

export interface PolicyArguments {
  model?: string;
  adapter?: string;
  engine: BaseOptions;
  signal?: AbortSignal;
}

/** A policy and the model under it; disposing of it disposes of both. */
export interface LoadedPolicy extends AsyncDisposable {
  model: Model;
  policy: Policy;
}

/** `--model` and `--adapter`. Without `--model`, the base that the adapter's card names. */
export async function loadPolicy({ model: name, adapter, engine, signal }: PolicyArguments): Promise<LoadedPolicy> {
  const { readPolicyFolder } = await import("../model/policy-folder.js");
  const base = name ?? (adapter ? readPolicyFolder(adapter).card?.base.name : undefined);
  if (!base) throw new CredenceError("USAGE", "which model? Give --model a folder, a .gguf file or a hub id");
  const model = await Model.load(base, { ...engine, note, signal });
  try {
    const policy = await model.policy({ adapter });
    return { model, policy, [Symbol.asyncDispose]: () => model.dispose() };
  } catch (error) {
    await model.dispose();
    throw error;
  }
}

/** The policy of a run's folder, on the model its recipe names. */
export async function loadAsked({
  run,
  adapter,
  model,
  ...rest
}: PolicyArguments & { run: string }): Promise<LoadedPolicy> {
  if (adapter !== undefined) return loadPolicy({ model, adapter, ...rest });
  const best = join(run, "best");
  if (!existsSync(best)) {
    const begun = existsSync(join(run, "recipe.yaml"));
    throw new CredenceError(
      "NO_RUN",
      begun
        ? `${run} is not finished: credence run with the same recipe goes on with it`
        : `there is no run in ${run}. Make one: credence run elical/quickstart`,
    );
  }
  const recipe = parse(readText(join(run, "recipe.yaml"))) as { model?: string };
  return loadPolicy({ model: model ?? recipe.model, adapter: best, ...rest });
}

const historySchema = z.array(z.looseObject({ role: z.string(), content: z.string() }));

/** A file with turns that came before. */
export function readHistory(path: string): Message[] {
  const turns = historySchema.safeParse(readJson(path));
  if (!turns.success) throw new CredenceError("BAD_INPUT", `${path}: expected a list of {"role": ..., "content": ...}`);
  return turns.data;
}
