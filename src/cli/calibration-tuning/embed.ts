/** Embeddings of answered questions, as generate.py embeds makes them. */
import { createHash } from "node:crypto";
import { join } from "node:path";
import type { Argv } from "yargs";
import { calibrationRows } from "../../methods/calibration-tuning/compat.js";
import { interruptible } from "../interrupt.js";
import { type ServerArguments, serverOptions } from "../judge.js";
import { baseOptions, type EngineArguments, engineOptions, wholeFromZero } from "../options.js";
import { logs, note, print, printJson, UsageError } from "../output.js";
import { type PublishedScript, publishedOptions, publishedUnneeded } from "../published.js";
import {
  batchUnneeded,
  cacheUnneeded,
  type DatasetArguments,
  datasetFlags,
  datasetOf,
  datasetOptions,
  kshotFlag,
  logFolder,
  withoutOption,
} from "./places.js";

export const script: PublishedScript = {
  name: "embed",
  honoured: {
    ...datasetFlags,
    ...kshotFlag,
    "model-name": {
      type: "string",
      requiresArg: true,
      describe: "Whose embeddings: a model here (its state at the last token), or with --url a server's",
    },
  },
  unneeded: { ...cacheUnneeded, ...batchUnneeded },
  dead: {},
  rows: calibrationRows,
};

const { url, "key-variable": keyVariable, timeout, retries } = serverOptions;

export const command = "embed";
export const describe = "Embeddings of questions with their answers, one .npy file a split";
export const builder = (line: Argv) =>
  line.options({
    ...publishedOptions(script),
    ...withoutOption,
    adapter: { type: "string", requiresArg: true, describe: "A PEFT folder on a model here" },
    depth: {
      type: "number",
      describe: "Of a model here: the block whose output is read, 0 for its embedding",
      defaultDescription: "behind the last norm",
      coerce: wholeFromZero("depth"),
    },
    url,
    "key-variable": keyVariable,
    timeout,
    retries: { ...retries, default: 10 },
    ...engineOptions,
  });

interface EmbedArguments
  extends DatasetArguments,
    EngineArguments,
    Pick<ServerArguments, "url" | "keyVariable" | "timeout" | "retries"> {
  modelName?: string;
  adapter?: string;
  depth?: number;
}

export async function handler(args: EmbedArguments): Promise<void> {
  const notNeeded = publishedUnneeded(script, args);
  const id = datasetOf(args);
  const { modelName, adapter, depth, url: server } = args;
  if (modelName === undefined) throw new UsageError("whose embeddings? Give --model-name");
  if (server !== undefined && (adapter !== undefined || depth !== undefined))
    throw new UsageError("--adapter and --depth are of a model here; leave out --url");
  const { answeredRows, openDataset } = await import("../../methods/calibration-tuning/datasets.js");
  const { embeddedText, embeddingName, stateEmbeddings, writeEmbeddings } = await import(
    "../../methods/calibration-tuning/embedding.js"
  );
  const { modelOfKind } = await import("../../methods/calibration-tuning/kinds.js");
  const { isDone } = await import("../../methods/passes.js");
  const { EmbeddingsServer } = await import("../../remote/embeddings-server.js");
  const { progressOn, silent } = await import("../../tracking/progress.js");
  const { loadPolicy } = await import("../policy.js");
  const folder = logFolder(args);
  const { splits } = await openDataset(id, datasetOptions(args));
  const progress = logs("info") ? progressOn() : silent;
  await interruptible(async (signal) => {
    await using loaded =
      server === undefined
        ? await loadPolicy({ model: modelOfKind(modelName), adapter, engine: baseOptions(args), signal })
        : undefined;
    const { keyVariable, timeout, retries } = args;
    const noted = (text: string) => note(text, "warn");
    const asked =
      server === undefined
        ? undefined
        : new EmbeddingsServer({ url: server, model: modelName, keyVariable, timeout, retries, note: noted });
    const written: { split: string; rows: number; columns: number; output: string }[] = [];
    for (const [split, found] of Object.entries(splits)) {
      const texts = answeredRows(found, id).map(embeddedText);
      const place = join(folder, "embeddings", id.replaceAll("/", "_"), split);
      const output = join(place, embeddingName);
      const made = {
        model: modelName,
        server,
        adapter,
        depth,
        input: createHash("sha256").update(texts.join("\0")).digest("hex"),
      };
      const context = { output, progress, label: `embedding ${split}`, notNeeded, signal };
      if (isDone(context, made)) {
        note(`${output}: is there, made so`);
        continue;
      }
      const task = progress.task(context.label, texts.length, "rows", "tokens");
      try {
        const options = { signal, ...(depth === undefined ? {} : { depth }), onEmbedded: task.advance.bind(task) };
        const vectors = loaded
          ? await stateEmbeddings(loaded.policy, texts, options)
          : await asked!.embed(texts, signal);
        writeEmbeddings(place, vectors);
        written.push({ split, rows: vectors.count, columns: vectors.width, output });
      } finally {
        task.end();
      }
    }
    if (args.json) printJson({ dataset: id, splits: written });
    else
      for (const { split, rows, columns, output } of written) print(`${split}: ${rows} rows of ${columns}: ${output}`);
    note("put each embedding.npy beside its split's CSV files to train on it");
  });
}
