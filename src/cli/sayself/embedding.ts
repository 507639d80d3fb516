/** Options that say where the vectors are from by which responses are clustered. */
import type { Options } from "yargs";
import type { ComparedTexts, ResponseVectors } from "../../methods/sayself/response-vectors.js";
import type { BaseOptions } from "../../native.js";
import type { Policy } from "../../policy/policy.js";
import { judgeServer, type ServerArguments } from "../judge.js";
import { numberThat, wholeFromZero } from "../options.js";
import { note, UsageError } from "../output.js";

export const embeddingOptions = {
  threshold: {
    type: "number",
    default: 0.9,
    describe: "Cosine above which two responses say the same",
    coerce: numberThat("threshold", "a number from -1 to below 1", (value) => value >= -1 && value < 1),
  },
  vectors: {
    type: "string",
    requiresArg: true,
    describe: "Vectors that were computed before: a .npy file, a row for each response in the file's order",
  },
  "embedding-model": {
    type: "string",
    requiresArg: true,
    describe: "A model whose hidden states are the vectors, or with --embedding-url a server's embedding model",
  },
  "embedding-url": {
    type: "string",
    requiresArg: true,
    describe: "Where the OpenAI interface of a server begins that has embeddings",
  },
  "embedding-key-variable": {
    type: "string",
    requiresArg: true,
    describe: "Environment variable that holds that server's key",
  },
  layer: {
    type: "number",
    describe: "Block behind which hidden states are read [default: two thirds of the way up]",
    coerce: wholeFromZero("layer"),
  },
  centred: {
    type: "boolean",
    default: true,
    describe: "Take the mean over the first questions' responses off hidden states; else all cosines are near 1",
  },
} satisfies Record<string, Options>;

export interface EmbeddingArguments extends Pick<ServerArguments, "concurrency" | "timeout" | "retries"> {
  threshold: number;
  vectors?: string;
  embeddingModel?: string;
  embeddingUrl?: string;
  embeddingKeyVariable?: string;
  layer?: number;
  centred: boolean;
}

/** @throws UsageError for options that exclude each other */
export function checkEmbedding({
  vectors,
  embeddingModel,
  embeddingUrl,
  embeddingKeyVariable,
}: EmbeddingArguments): void {
  if (vectors !== undefined && (embeddingModel ?? embeddingUrl) !== undefined)
    throw new UsageError("--vectors: they are computed already; leave --embedding-model and --embedding-url out");
  if (embeddingUrl !== undefined && embeddingModel === undefined)
    throw new UsageError("--embedding-url: which of its models? Give --embedding-model");
  if (embeddingKeyVariable !== undefined && embeddingUrl === undefined)
    throw new UsageError("--embedding-key-variable: which server's? Give --embedding-url");
}

/** Vectors, with what has to be closed behind them. */
export interface OpenVectors extends AsyncDisposable {
  vectors: ResponseVectors;
}

/**
 * Opens what the options name.
 *
 * @param questions the texts that are compared, all of them in their order
 * @param policy whose states are the vectors where no option names others
 */
export async function openVectors(
  args: EmbeddingArguments,
  questions: readonly ComparedTexts[],
  { policy, engine, signal }: { policy?: Policy; engine: BaseOptions; signal?: AbortSignal },
): Promise<OpenVectors> {
  const { fileVectors, policyVectors, serverVectors } = await import("../../methods/sayself/response-vectors.js");
  const nothing = { async [Symbol.asyncDispose]() {} };
  const { vectors: path, embeddingModel: model, embeddingUrl: url, layer, centred } = args;
  if (path !== undefined) {
    const counts = questions.map(({ texts }) => texts.length);
    return { vectors: fileVectors(path, counts), ...nothing };
  }
  if (url !== undefined) {
    const { EmbeddingsServer } = await import("../../remote/embeddings-server.js");
    const { concurrency, timeout, retries } = judgeServer(args);
    const keyVariable = args.embeddingKeyVariable;
    const asked = { url, model: model!, keyVariable, concurrency, timeout, retries };
    const server = new EmbeddingsServer({ ...asked, note: (line) => note(line, "warn") });
    return { vectors: serverVectors(server), ...nothing };
  }
  const own = (of: Policy) => {
    if (layer !== undefined && layer > of.model.info.layers)
      throw new UsageError(`--layer ${layer}: ${of.model.name} has ${of.model.info.layers} blocks`);
    return policyVectors(of, questions, { layer, centred });
  };
  if (model === undefined) {
    if (policy) return { vectors: own(policy), ...nothing };
    throw new UsageError("by which vectors are responses clustered? Give --embedding-model, or --vectors");
  }
  const { loadPolicy } = await import("../policy.js");
  const loaded = await loadPolicy({ model, engine, signal });
  try {
    return { vectors: own(loaded.policy), [Symbol.asyncDispose]: () => loaded[Symbol.asyncDispose]() };
  } catch (error) {
    await loaded[Symbol.asyncDispose]();
    throw error;
  }
}
