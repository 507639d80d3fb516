/**
 * `credence bench query` and `answers`: how likely answers are right, as bench/peers/calibration_query.py asks it: a fresh LoRA on
 * q and v (switched on), two tokens of the vocabulary looked at behind each row. Of ten answers the question is read once.
 */
import { MersenneTwister } from "../data/random.js";
import { choiceLogprobs, probabilities } from "../methods/calibration-tuning/query.js";
import { Model } from "../policy/model.js";
import { baseOptions, type EngineArguments } from "./options.js";
import { median, note } from "./output.js";

/** Tokens of a question, and of an answer with its query; questions of a call. */
const [questionTokens, restTokens, questionCount] = [160, 40, 16];
const candidates = [11, 12];

/** torch.randint under torch.Generator().manual_seed(1234): every question, then every rest. */
function rowsOfPeer(answers: number, vocabulary: number): { tokens: Int32Array[]; questions: string[] } {
  const random = new MersenneTwister(1234);
  const drawn = (length: number) => Int32Array.from({ length }, () => 13 + (random.uint32() % (vocabulary - 13)));
  const heads = Array.from({ length: questionCount }, () => drawn(questionTokens));
  const tokens = heads.flatMap((head) =>
    Array.from({ length: answers }, () => Int32Array.of(...head, ...drawn(restTokens))),
  );
  return { tokens, questions: tokens.map((_, row) => String(Math.floor(row / answers))) };
}

export async function benchQuery(
  path: string,
  answers: number,
  { repeats, ...engine }: EngineArguments & { repeats: number },
): Promise<Record<string, unknown>> {
  await using model = await Model.load(path, { ...baseOptions(engine), note });
  await using policy = await model.policy({ adapter: { rank: 8, alpha: 32, targets: ["q", "v"], seed: 1 } });
  const rows = rowsOfPeer(answers, model.info.vocabularySize);
  const seconds: number[] = [];
  let [read, first] = [0, 0];
  for (let i = 0; i <= repeats; i += 1) {
    read = 0;
    const start = performance.now();
    const logprobs = await choiceLogprobs(
      policy,
      { ...rows, candidates },
      { onScored: (_, tokens) => (read += tokens) },
    );
    // The first is not counted.
    if (i > 0) seconds.push((performance.now() - start) / 1000);
    first = probabilities(logprobs.subarray(0, 2))[0]!;
  }
  const count = rows.tokens.length;
  return {
    engine: "credence",
    rows: count,
    tokens: rows.tokens.reduce((sum, row) => sum + row.length, 0),
    tokens_read: read,
    rows_per_s_best: count / Math.min(...seconds),
    rows_per_s_median: count / median(seconds),
    p_first: first,
    repeats,
  };
}
