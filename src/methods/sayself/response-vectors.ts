/** Where responses get the vectors that they are clustered by: the policy's own states, a server, or a file. */
import { openNpy, type Vectors } from "../../data/vectors.js";
import { CredenceError } from "../../errors.js";
import { whoAnswers } from "../../evaluation/judges/responder.js";
import { sha256File } from "../../files.js";
import type { Policy } from "../../policy/policy.js";
import { pooledLayer, pooledTexts } from "../../policy/pooled.js";
import type { EmbeddingsServer } from "../../remote/embeddings-server.js";

/** The texts of one question that are compared, and the question's place in its file. */
export interface ComparedTexts {
  place: number;
  texts: readonly string[];
}

export interface ResponseVectors {
  /** As records name it. */
  readonly name: string;
  /** What the vectors depend on beside the texts: work that was done with others is not gone on with. */
  readonly identity: unknown;
  /** The vectors of each question's texts. */
  of(questions: readonly ComparedTexts[], signal?: AbortSignal): Promise<Vectors[]>;
}

/** Vectors of all texts of several questions, dealt back to them. */
function dealt({ data, width }: Vectors, questions: readonly ComparedTexts[]): Vectors[] {
  let row = 0;
  return questions.map(({ texts }) => {
    const from = row * width;
    row += texts.length;
    return { data: data.subarray(from, row * width), count: texts.length, width };
  });
}

/** Questions whose texts the centre is taken from: the first of the file, so that it does not depend on how work is divided. */
export const centreQuestions = 64;

/**
 * The mean hidden state of each text. States of one model all point much the same way, so their mean over the texts of the first
 * questions is taken off; without that every cosine is near 1.
 *
 * @param questions all that will be asked for, in their order; the first 64 make the centre
 * @param layer default two thirds of the way up
 */
export function policyVectors(
  policy: Policy,
  questions: readonly ComparedTexts[],
  { layer = pooledLayer(policy.model), centred = true }: { layer?: number; centred?: boolean } = {},
): ResponseVectors {
  const pooled = async (some: readonly ComparedTexts[], signal?: AbortSignal) =>
    pooledTexts(
      policy,
      some.flatMap(({ texts }) => texts),
      { layer, signal },
    );
  let centre: Promise<Float64Array> | undefined;
  return {
    name: `hidden states of ${policy.model.name} after block ${layer}`,
    identity: { layer, centred, model: whoAnswers(policy) },
    async of(some, signal) {
      const vectors = await pooled(some, signal);
      if (centred) {
        centre ??= pooled(questions.slice(0, centreQuestions), signal).then(meanOf);
        takeOff(vectors, await centre);
      }
      return dealt(vectors, some);
    },
  };
}

/** Of those that are not zeros, which stand for texts without a token. */
function meanOf({ data, count, width }: Vectors): Float64Array {
  const mean = new Float64Array(width);
  let rows = 0;
  for (let row = 0; row < count; row++) {
    const vector = data.subarray(row * width, (row + 1) * width);
    if (vector.every((value) => value === 0)) continue;
    rows += 1;
    for (let i = 0; i < width; i++) mean[i]! += vector[i]!;
  }
  return rows === 0 ? mean : mean.map((sum) => sum / rows);
}

function takeOff({ data, count, width }: Vectors, centre: Float64Array): void {
  for (let row = 0; row < count; row++) {
    const vector = data.subarray(row * width, (row + 1) * width);
    if (vector.every((value) => value === 0)) continue;
    for (let i = 0; i < width; i++) vector[i]! -= centre[i]!;
  }
}

/** A server's vectors, as they come. */
export const serverVectors = (server: EmbeddingsServer): ResponseVectors => ({
  name: server.name,
  identity: { server: server.name },
  async of(some, signal) {
    const texts = some.flatMap((question) => question.texts);
    return dealt(await server.embed(texts, signal), some);
  },
});

/**
 * Vectors that were computed before: a row for each response, those of the first question first.
 *
 * @param path a .npy file of shape (responses, width) or (questions, samples, width)
 * @param counts how many responses each question has
 * @throws CredenceError "NO_FILE" or "BAD_INPUT" where the file is not such, or has another number of rows
 */
export function fileVectors(path: string, counts: readonly number[]): ResponseVectors {
  const file = openNpy(path);
  const firsts: number[] = [0];
  for (const count of counts) firsts.push(firsts.at(-1)! + count);
  if (file.rows !== firsts.at(-1))
    throw new CredenceError(
      "BAD_INPUT",
      `${path}: holds ${file.rows} vectors, and there are ${firsts.at(-1)} responses to ${counts.length} questions`,
    );
  return {
    name: path,
    identity: { file: sha256File(path) },
    async of(some) {
      return some.map(({ place, texts }) => {
        if (texts.length !== counts[place])
          throw new CredenceError(
            "BAD_INPUT",
            `${path}: question ${place + 1} has ${counts[place]} vectors, not ${texts.length}`,
          );
        return file.read(firsts[place]!, firsts[place + 1]!);
      });
    },
  };
}
