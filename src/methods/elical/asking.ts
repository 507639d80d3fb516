/**
 * Rows that ask the model again: how sure it says it is, whether it calls its own answer right, and which samples mean the
 * given answer. The base answers; nothing is trained but a temperature.
 */
import { join } from "node:path";
import { NumpyRandom, PythonRandom, permutation } from "../../data/random.js";
import { CredenceError } from "../../errors.js";
import { ownWords } from "../../evaluation/match.js";
import { confidenceFormats } from "../../evaluation/stated.js";
import { writeJsonAtomic } from "../../files.js";
import { sigmoid } from "../../model/calibrator.js";
import type { GenerateStats } from "../../native.js";
import type { Model } from "../../policy/model.js";
import type { Policy } from "../../policy/policy.js";
import { pooledLayer, pooledStates, pooledTexts, pooledTogether } from "../../policy/pooled.js";
import type { StageContext } from "../../training/run.js";
import type { AskedQuestion } from "../questions.js";
import { thermometer } from "./baselines.js";
import { inChunks } from "./chunks.js";
import { type StagePrediction, writePredictions } from "./evaluate.js";
import type { LabelledRecord } from "./labels.js";
import { type Division, type NamedDivision, stageNames } from "./plan.js";
import type { ElicalRecipe } from "./recipe.js";

export interface AskingStage {
  context: StageContext;
  model: Model;
  recipe: ElicalRecipe;
  questions: LabelledRecord[];
}

/** What an asking stage did that no confidence shows; `note.json` in its folder. */
export interface AskingNote {
  /** Passes through the model for one confidence beside the answer itself, and tokens of one, on average. */
  passes: number;
  tokens: number;
  /** Labelled questions that were used, where it is not the number in the row's name. */
  labels?: number;
  /** Replies without a score, of how many. */
  unparsed?: { count: number; of: number };
  /** Cosine from which two answers are the same, and the pairs of different answers it comes from. */
  threshold?: { cosine: number; pairs: number; layer: number };
  /** Temperature by seed and number of labels; `bound`: the labels know none. */
  temperatures?: { seed: number; labels: number; without?: string; temperature: number; bound: boolean }[];
}

/** Requests that go through the model together, and are written together. */
const askedTogether = 64;

export const noteFile = "note.json";

const writeNote = (directory: string, note: AskingNote): void => writeJsonAtomic(join(directory, noteFile), note);

const mean = (values: readonly number[]): number => values.reduce((sum, value) => sum + value, 0) / values.length;

/** Rows that some division tests. */
const tested = (divisions: readonly { division: Division }[]): number[] =>
  [...new Set(divisions.flatMap(({ division }) => division.test))].sort((a, b) => a - b);

// ---------------------------------------------------------------- how sure it says it is

/** Seed of the published examples, and how many there are. */
const publishedSeed = 42;

/** So many of a test set's rows, drawn as the published examples are. */
export const publishedShots = <Row>(rows: readonly Row[], shots: number): Row[] =>
  permutation(rows, new PythonRandom(publishedSeed)).slice(0, shots);

/** Rows whose questions are shown solved before the question of `row`. */
export function shotRows(questions: LabelledRecord[], recipe: ElicalRecipe, division: Division, shots: number) {
  const { shotsFrom } = recipe.baselines.verbal;
  if (shotsFrom === "train") {
    const chosen = division.labels(0, shots);
    return () => chosen;
  }
  const bySet = new Map<string | undefined, number[]>();
  for (const row of division.test) {
    const { set } = questions[row]!;
    bySet.set(set, [...(bySet.get(set) ?? []), row]);
  }
  for (const [set, rows] of bySet) bySet.set(set, publishedShots(rows, shots));
  return (row: number) => bySet.get(questions[row]!.set)!;
}

/** The user's turn: solved examples, each the same request with the share of right samples, then the request. */
export function verbalRequest(user: string, question: string, shots: readonly { question: string; score: number }[]) {
  const request = (text: string) => user.replaceAll("{question}", () => text);
  const solved = shots.map((shot) => `${request(shot.question)}\n${shot.score.toFixed(2)}`);
  return [...solved, request(question)].join("\n\n");
}

/** Token ids of every row's request. */
export async function verbalPrompts(
  { model, recipe, questions }: Omit<AskingStage, "context">,
  rows: readonly number[],
  shotsOf: (row: number) => readonly number[],
): Promise<Int32Array[]> {
  const { user, system } = recipe.baselines.verbal.prompt;
  const score = ({ correct, given_correct }: LabelledRecord) => (correct.length ? mean(correct) : given_correct);
  return Promise.all(
    rows.map((row) => {
      const shots = shotsOf(row).map((shot) => ({
        question: questions[shot]!.question,
        score: score(questions[shot]!),
      }));
      const text = verbalRequest(user, questions[row]!.question, shots);
      return model.promptTokens(text, { user: "{question}", system });
    }),
  );
}

/** The row "verbal-N": the score that the model states after N solved examples. */
export async function askVerbally(stage: AskingStage, divisions: NamedDivision[], shots: number): Promise<void> {
  const { context, model, recipe, questions } = stage;
  const { newTokens, unparsed } = recipe.baselines.verbal;
  const rows = tested(divisions);
  const prompts = await verbalPrompts(stage, rows, shotRows(questions, recipe, divisions[0]!.division, shots));
  await using policy = await model.policy();
  const label = shots ? `asking how sure it is, ${shots} examples` : "asking how sure it is";
  const replies = await inChunks(
    context,
    { file: "replies.jsonl", label, items: prompts, size: askedTogether },
    async (chunk, from) => {
      const out: { id: string; reply: string; tokens: number }[] = [];
      for await (const { prompt, text, tokens } of policy.generate(chunk, {
        maxNewTokens: newTokens,
        temperature: 0,
        signal: context.signal,
      }))
        out.push({
          id: questions[rows[from + prompt]!]!.id,
          reply: text,
          tokens: chunk[prompt]!.length + tokens.length,
        });
      if (out.length < chunk.length)
        throw new CredenceError("ABORTED", `stopped while ${label}; started again it goes on from there`);
      return out;
    },
  );
  // As published, a reply without a score is 0 and any digits at a boundary are one.
  const read = confidenceFormats[unparsed === 0 ? "elical-published" : "score"];
  const scores = replies.map(({ reply }) => read.find(reply)?.value);
  const predictions: StagePrediction[] = [];
  for (let seed = 0; seed < recipe.seeds; seed++) {
    for (const [i, index] of rows.entries())
      predictions.push({ row: `verbal-${shots}`, labels: null, seed, index, confidence: scores[i] ?? unparsed });
  }
  const without = replies.filter(({ reply }) => !confidenceFormats.score.find(reply)).length;
  if (without)
    context.progress.note(`${without} of ${replies.length} replies hold no score; their confidence is ${unparsed}`);
  writeNote(context.directory, {
    passes: 1,
    tokens: mean(replies.map(({ tokens }) => tokens)),
    labels: shots,
    unparsed: { count: without, of: replies.length },
  });
  writePredictions(context.directory, predictions);
}

// ---------------------------------------------------------------- whether it calls its answer right

/** Tokens that an answer to the question would begin with: "A" and "B". */
export async function yesAndNo(model: Model): Promise<number[]> {
  const ids = await Promise.all(["A", "B"].map((text) => model.tokenizer.encode(text)));
  if (ids.some((tokens) => tokens.length !== 1) || ids[0]![0] === ids[1]![0]) {
    throw new CredenceError(
      "BAD_INPUT",
      `${model.name}: "A" and "B" are not one token each, so that what comes next cannot be read among the two. Leave baselines.thermometer out`,
    );
  }
  return ids.map((tokens) => tokens[0]!);
}

/** Token ids of the question, the answer, and the request to judge it. */
export const judgedPrompt = (model: Model, recipe: ElicalRecipe, question: string, answer: string) =>
  model.promptTokens(
    [
      { role: "user", content: recipe.prompt.user.replaceAll("{question}", () => question) },
      { role: "assistant", content: answer },
      { role: "user", content: recipe.baselines.thermometer.ask },
    ],
    recipe.prompt,
  );

/** The rows "p-true" and "thermometer": the probability of Yes against No, as it is and with a fitted temperature. */
export async function askWhetherRight(stage: AskingStage, divisions: NamedDivision[]): Promise<void> {
  const { context, model, recipe, questions } = stage;
  const candidates = await yesAndNo(model);
  const prompts = await Promise.all(
    questions.map(({ question, given }) => judgedPrompt(model, recipe, question, given.text)),
  );
  await using policy = await model.policy();
  const read = await inChunks(
    context,
    { file: "logits.jsonl", label: "asking whether it is right", items: prompts, size: askedTogether },
    async (chunk, from) =>
      (await policy.choices(chunk, candidates, { signal: context.signal })).map(([yes, no], i) => ({
        id: questions[from + i]!.id,
        logit: yes! - no!,
        tokens: chunk[i]!.length,
      })),
  );
  const logits = read.map(({ logit }) => logit);
  const correct = questions.map(({ given_correct }) => given_correct);
  const predictions: StagePrediction[] = [];
  const temperatures: NonNullable<AskingNote["temperatures"]> = [];
  for (const { division, without } of divisions) {
    const { test } = division;
    const put = (row: string, labels: number | null, seed: number, values: ArrayLike<number>) => {
      for (const [i, index] of test.entries()) {
        const more = without === undefined ? {} : { transfer: true as const };
        predictions.push({ row, labels, seed, index, confidence: values[i]!, ...more });
      }
    };
    for (let seed = 0; seed < recipe.seeds; seed++) {
      if (without === undefined)
        put(
          "p-true",
          null,
          seed,
          test.map((row) => sigmoid(logits[row]!)),
        );
      for (const labels of new Set([recipe.labels.main, ...recipe.labels.counts])) {
        const fitted = thermometer(logits, correct, division.labels(seed, labels), test);
        put("thermometer", labels, seed, fitted.confidences);
        const { temperature, bound } = fitted;
        temperatures.push({ seed, labels, ...(without === undefined ? {} : { without }), temperature, bound });
      }
    }
  }
  const bounds = temperatures.filter(({ bound }) => bound).length;
  if (bounds)
    context.progress.note(`${bounds} of ${temperatures.length} temperatures stand at the end of what is looked at`);
  writeNote(context.directory, { passes: 1, tokens: mean(read.map(({ tokens }) => tokens)), temperatures });
  writePredictions(context.directory, predictions);
}

// ---------------------------------------------------------------- which samples mean the given answer

/** Pairs of answers to different questions that the threshold is taken from. */
const foreignPairs = 5000;

const semanticLayer = (model: Model, { baselines }: ElicalRecipe): number =>
  baselines.semantic.layer ?? pooledLayer(model);

/** What an answer says beyond its question, as it is compared. */
const gist = (text: string, question: string): string => ownWords(text, question).join(" ");

const cosine = (a: Float32Array, b: Float32Array): number => {
  let [ab, aa, bb] = [0, 0, 0];
  for (let i = 0; i < a.length; i++) {
    ab += a[i]! * b[i]!;
    aa += a[i]! * a[i]!;
    bb += b[i]! * b[i]!;
  }
  return aa > 0 && bb > 0 ? ab / Math.sqrt(aa * bb) : 0;
};

/** The value that a share of the numbers lies above. */
function upperQuantile(values: readonly number[], above: number): number {
  const sorted = values.toSorted((a, b) => a - b);
  return sorted[Math.min(sorted.length - 1, Math.floor(sorted.length * (1 - above)))]!;
}

/**
 * The row "consistency-semantic": the share of samples that mean the given answer. Two answers do if the words they say
 * beyond the question are the same, or the mean hidden states of those words lie closer (cosine, the mean over all answers
 * taken off) than all but a few of the answers to different questions of the set. No label is used.
 */
export async function compareMeanings(stage: AskingStage, divisions: NamedDivision[]): Promise<void> {
  const { context, model, recipe, questions } = stage;
  const { falseMatches } = recipe.baselines.semantic;
  const layer = semanticLayer(model, recipe);
  const rows = tested(divisions);
  const givenOf = (row: number) => gist(questions[row]!.given.text, questions[row]!.question);
  const responsesOf = (row: number) =>
    questions[row]!.responses.map(({ text }) => gist(text, questions[row]!.question));
  const texts = [...new Set([...questions.map((_, row) => givenOf(row)), ...rows.flatMap(responsesOf)])].filter(
    Boolean,
  );
  await using policy = await model.policy();
  const vectors = await embed(context, policy, texts, layer);
  const centre = new Float32Array(model.info.hiddenSize);
  const given = questions.map((_, row) => givenOf(row)).filter(Boolean);
  for (const text of given) for (const [i, value] of vectors.get(text)!.entries()) centre[i]! += value / given.length;
  for (const vector of vectors.values()) for (let i = 0; i < vector.length; i++) vector[i]! -= centre[i]!;
  const foreign = foreignCosines(questions, givenOf, vectors);
  const threshold = foreign.length ? upperQuantile(foreign, falseMatches) : 1;
  const same = (a: string, b: string) =>
    a === b || (a !== "" && b !== "" && cosine(vectors.get(a)!, vectors.get(b)!) >= threshold);
  const predictions: StagePrediction[] = [];
  for (let seed = 0; seed < recipe.seeds; seed++) {
    for (const index of rows) {
      const own = givenOf(index);
      const agree = responsesOf(index).map((text): number => (same(own, text) ? 1 : 0));
      const confidence = agree.length ? mean(agree) : 0;
      predictions.push({ row: "consistency-semantic", labels: null, seed, index, confidence });
    }
  }
  const sampled = mean(rows.map((row) => questions[row]!.responses.length));
  const words = mean(texts.map((text) => text.split(" ").length));
  writeNote(context.directory, {
    passes: sampled,
    tokens: sampled * words,
    threshold: { cosine: threshold, pairs: foreign.length, layer },
  });
  writePredictions(context.directory, predictions);
}

/** Cosines of given answers to different questions of one set, where they are different words. */
function foreignCosines(
  questions: LabelledRecord[],
  givenOf: (row: number) => string,
  vectors: Map<string, Float32Array>,
): number[] {
  const bySet = new Map<string | undefined, string[]>();
  for (const [row, { set }] of questions.entries()) {
    const own = givenOf(row);
    if (own) bySet.set(set, [...(bySet.get(set) ?? []), own]);
  }
  const out: number[] = [];
  const each = Math.ceil(foreignPairs / Math.max(1, bySet.size));
  for (const [place, texts] of [...bySet.values()].entries()) {
    for (let round = 0, found = 0; found < each && round < 2 * Math.ceil(each / texts.length); round++) {
      const other = permutation(texts, new NumpyRandom([place, round]));
      for (const [i, text] of texts.entries()) {
        if (found >= each || text === other[i]) continue;
        out.push(cosine(vectors.get(text)!, vectors.get(other[i]!)!));
        found += 1;
      }
    }
  }
  return out;
}

/** Each text's vector: the mean hidden state of its tokens. */
async function embed(
  context: StageContext,
  policy: Policy,
  texts: string[],
  layer: number,
): Promise<Map<string, Float32Array>> {
  const task = context.progress.task("comparing meanings", texts.length, "answers");
  try {
    const { signal } = context;
    const { data, width } = await pooledTexts(policy, texts, { layer, signal, onDone: (done) => task.advance(done) });
    return new Map(texts.map((text, i) => [text, data.subarray(i * width, (i + 1) * width)]));
  } finally {
    task.end();
  }
}

// ---------------------------------------------------------------- looking ahead

/** What a stage will read, before there are answers: texts that are not there yet are as long as they may be. */
export interface PlannedAsking {
  name: string;
  prompts: Int32Array[];
  /** Tokens it may add to each; 0: it only reads. */
  newTokens: number;
  /** How many go through the model together. */
  together: number;
  /** Reads some of them as the stage does. */
  read(policy: Policy, prompts: Int32Array[], onStats?: (stats: GenerateStats) => void): Promise<void>;
}

/** The prompts of the asking stages. */
export async function plannedAsking(
  model: Model,
  recipe: ElicalRecipe,
  prepared: readonly AskedQuestion[],
  divisions: NamedDivision[],
): Promise<PlannedAsking[]> {
  const { semantic, verbal, thermometer } = recipe.baselines;
  const nothing = { correct: [], given_correct: 0 as const };
  const questions = prepared.map((question) => ({ ...question, ...nothing }) as unknown as LabelledRecord);
  const rows = tested(divisions);
  const longest = recipe.answer.newTokens;
  const out: PlannedAsking[] = [];
  if (semantic.enabled) {
    const answers = questions.length + rows.length * recipe.samples.count;
    const filler = new Int32Array(longest + 1).fill(model.stopTokens[0] ?? 0);
    out.push({
      name: stageNames.semantic,
      prompts: Array.from({ length: answers }, () => filler),
      newTokens: 0,
      together: pooledTogether.texts,
      read: async (policy, prompts) => {
        await pooledStates(policy, prompts, semanticLayer(model, recipe));
      },
    });
  }
  for (const shots of verbal.shots) {
    const shotsOf = shotRows(questions, recipe, divisions[0]!.division, shots);
    const prompts = await verbalPrompts({ model, recipe, questions }, rows, shotsOf);
    out.push({
      name: stageNames.verbal(shots),
      prompts,
      newTokens: verbal.newTokens,
      together: askedTogether,
      read: async (policy, some, onStats) => {
        for await (const _ of policy.generate(some, { maxNewTokens: verbal.newTokens, temperature: 0, onStats }));
      },
    });
  }
  if (thermometer.enabled) {
    const filler = new Array<number>(longest).fill(model.stopTokens[0] ?? 0);
    const prompts = await Promise.all(questions.map(({ question }) => judgedPrompt(model, recipe, question, "")));
    const padded = prompts.map((prompt) => Int32Array.from([...prompt, ...filler]));
    out.push({
      name: stageNames.thermometer,
      prompts: padded,
      newTokens: 0,
      together: askedTogether,
      read: async (policy, some) => {
        await policy.choices(some, [0, 1]);
      },
    });
  }
  return out;
}
