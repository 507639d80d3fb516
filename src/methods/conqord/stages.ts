/**
 * What CONQORD makes of reinforcement: answers that state a confidence under a heading, a reward model learnt from right and wrong
 * ones, and the term that pays where confidences are in the order of quality.
 */
import { join } from "node:path";
import { NumpyRandom } from "../../data/random.js";
import { fromJsonLines, toJsonLines } from "../../data/readers.js";
import { CredenceError } from "../../errors.js";
import { confidenceFormats } from "../../evaluation/stated.js";
import { readJson, readText, writeFileAtomic, writeJsonAtomic } from "../../files.js";
import type { Model } from "../../policy/model.js";
import { amongStated, conqordTerm } from "../../rewards/batch-terms.js";
import { bestCheckpoint } from "../../training/checkpoint.js";
import type { PairRecord } from "../../training/reward-model/pairs.js";
import { type RewardModel, rewardModel } from "../../training/reward-model/scoring.js";
import { trainRewardModel } from "../../training/reward-model/train.js";
import { type Stage, type StageContext, stageFolder } from "../../training/run.js";
import { askedMessages, partsBy, promptsOf, rightAs, type WrittenForm } from "../ppo/speaking.js";
import { ablation, type Earning, fineTuned, questionsOf, type Reinforcement, randomly } from "../ppo/stages.js";
import type { AskedQuestion } from "../questions.js";
import { alphaOf, type ConqordRecipe } from "./recipe.js";
import { qualityReward } from "./reward.js";
import { confidenceLine } from "./wire.js";

/** "Paris\n\n### Confidence: 0.7." */
export const conqordForm: WrittenForm = {
  written: (answer, confidence) => answer + confidenceLine(confidence),
  partsOf: (completion) => partsBy(confidenceFormats.conqord, completion),
};

const stageNames = { pairs: "03-pairs", rewardModel: "03-reward-model" };
const pairsFile = "pairs.jsonl";
const scaleFile = "scale.json";

/** Right answers beside wrong ones to the same question. `held`: of a validation question, which nothing learns from. */
type AnswerPair = PairRecord & { held: boolean };

/**
 * The wrong answers that were sampled to a question, most frequent first (where there are none, the right one to another question
 * of its kind), and right ones to questions of other kinds.
 *
 * @param sampled what was answered, without confidences
 */
export function pairsOf(
  question: AskedQuestion,
  sampled: readonly string[],
  others: readonly AskedQuestion[],
  { right, rewardModel: { pairs, strange } }: Pick<ConqordRecipe, "right" | "rewardModel">,
  random: NumpyRandom,
): { chosen: string; rejected: string }[] {
  const chosen = question.answer[0]!;
  const isRight = (answer: string) => rightAs[right](question.answer, answer);
  const counts = new Map<string, number>();
  for (const answer of sampled)
    if (answer !== "" && !isRight(answer)) counts.set(answer, (counts.get(answer) ?? 0) + 1);
  const wrong = [...counts].sort(([, a], [, b]) => b - a).map(([answer]) => answer);
  const ofOthers = (fits: (kind: string) => boolean): string[] => {
    const fitting = others.filter(({ kind, answer }) => fits(kind) && !isRight(answer[0]!));
    return fitting.length > 0 ? [fitting[Math.floor(random.random() * fitting.length)]!.answer[0]!] : [];
  };
  if (wrong.length === 0) wrong.push(...ofOthers((kind) => kind === question.kind));
  const rejected = new Set(wrong.slice(0, pairs));
  for (let i = 0; i < strange; i++)
    for (const answer of ofOthers((kind) => kind !== question.kind)) rejected.add(answer);
  return [...rejected].map((answer) => ({ chosen, rejected: answer }));
}

async function samplePairs(context: StageContext, recipe: ConqordRecipe, model: Model): Promise<void> {
  const { prompt, newTokens } = recipe;
  const { samples, seed } = recipe.rewardModel;
  const { train, validation } = questionsOf(context, recipe);
  const asked = [...train, ...validation];
  const said = asked.map(() => new Array<string>(samples).fill(""));
  const task = context.progress.task("sampling answers to compare", asked.length * samples, "answers", "tokens");
  await using policy = await model.policy({ adapter: fineTuned(context) });
  const prompts = await promptsOf(model, asked, prompt);
  try {
    const options = { maxNewTokens: newTokens, samples, temperature: 1, seed, signal: context.signal };
    for await (const sample of policy.generate(prompts, options)) {
      said[sample.prompt]![sample.sample] = conqordForm.partsOf(sample.text).answer;
      task.advance(1, sample.tokens.length);
    }
  } finally {
    task.end();
  }
  const random = new NumpyRandom([seed, 23]);
  const pairs = asked.flatMap((question, i): AnswerPair[] => {
    const held = i >= train.length;
    const messages = askedMessages(question.question, prompt);
    return pairsOf(question, said[i]!, train, recipe, random).map((pair) => ({ messages, ...pair, held }));
  });
  writeFileAtomic(join(context.directory, pairsFile), toJsonLines(pairs));
  context.progress.note(`${pairs.length} pairs of a right answer and a wrong one`);
}

async function learnQuality(context: StageContext, { rewardModel: settings, adapter }: ConqordRecipe, model: Model) {
  const folder = stageFolder(context, stageNames.pairs);
  const pairs = fromJsonLines<AnswerPair>(readText(join(folder, pairsFile)));
  const { samples: _, pairs: __, strange: ___, ...training } = settings;
  const { policy } = await trainRewardModel({
    directory: context.directory,
    model,
    loss: { kind: "sequence" },
    records: pairs
      .filter(({ held }) => !held)
      .map(({ messages, chosen, rejected }) => ({ messages, chosen, rejected })),
    policy: (checkpoint, made) => model.policy({ adapter: checkpoint ?? adapter, ...made }),
    ...training,
    label: "learning quality",
    progress: context.progress,
    ...(context.signal ? { signal: context.signal } : {}),
  });
  try {
    const told = pairs.filter(({ held }) => held);
    if (told.length === 0)
      throw new CredenceError(
        "BAD_INPUT",
        "no wrong answer to a validation question: what the reward model prefers cannot be told. Raise questions.validationShare or rewardModel.samples",
      );
    const scores = await rewardModel(policy).score(
      told.flatMap(({ messages, chosen, rejected }) => [
        { messages, completion: chosen },
        { messages, completion: rejected },
      ]),
    );
    const rightly = told.filter((_, i) => scores[2 * i]! > scores[2 * i + 1]!).length;
    const scale = scaleOf(scores);
    writeJsonAtomic(join(context.directory, scaleFile), scale);
    context.progress.note(
      `of ${told.length} pairs of validation questions the reward model prefers the right answer in ${rightly}; its scores there are ${scale.mean.toFixed(2)} in the mean, with a deviation of ${scale.deviation.toFixed(2)}`,
    );
  } finally {
    await policy.dispose();
  }
}

/** Mean and deviation of a reward model's scores. */
interface Scale {
  mean: number;
  deviation: number;
}

/** @returns a deviation of 1 where all scores are the same */
function scaleOf(scores: ArrayLike<number>): Scale {
  const all = Array.from(scores);
  const mean = all.reduce((sum, one) => sum + one, 0) / all.length;
  const variance = all.reduce((sum, one) => sum + (one - mean) ** 2, 0) / all.length;
  return { mean, deviation: Math.sqrt(variance) || 1 };
}

/**
 * A reward model whose scores are freed of a mean and divided by a deviation. Pairs settle neither, and a clamp at +-5 would cut whatever
 * the zero happens to be beyond.
 */
function standardised(model: RewardModel, { mean, deviation }: Scale): RewardModel {
  const score: RewardModel["score"] = async (...args) =>
    (await model.score(...args)).map((one) => (one - mean) / deviation);
  return { ...model, score };
}

/** Quality as the reward model scores the answer alone, and the stated confidence, which the term compares. */
async function earning(context: StageContext, recipe: ConqordRecipe, model: Model, training: string): Promise<Earning> {
  const { prompt, term } = recipe;
  const folder = stageFolder(context, stageNames.rewardModel);
  const scale = readJson(join(folder, scaleFile)) as Scale;
  const policy = await model.policy({ adapter: bestCheckpoint(folder) });
  const { unparsed, form, reduce, clamp } = term;
  const { reward } = qualityReward<AskedQuestion>(standardised(rewardModel(policy), scale), {
    unparsed: 0,
    missing: unparsed,
    answerEnd: (completion) => conqordForm.partsOf(completion).end,
    asked: (record) => ({ messages: askedMessages(record.question, prompt) }),
  });
  return {
    reward,
    batchTerm: amongStated(
      conqordTerm({ alpha: training === ablation ? 0 : alphaOf(recipe, training), form, reduce, clamp }),
    ),
    dispose: () => policy.dispose(),
  };
}

/** CONQORD as reinforcement. */
export function byOrder(recipe: ConqordRecipe, model: Model): Reinforcement {
  const preparing: Stage[] = [
    { name: stageNames.pairs, run: (context) => samplePairs(context, recipe, model) },
    { name: stageNames.rewardModel, run: (context) => learnQuality(context, recipe, model) },
  ];
  return {
    recipe,
    form: conqordForm,
    lessons: randomly(recipe, conqordForm),
    preparing,
    earning: (context, training) => earning(context, recipe, model, training),
    ...(recipe.ablation ? { ablated: { title: "After PPO without the term, as stated" } } : {}),
    aims: [
      { metric: "ece", says: "ECE falls" },
      { metric: "spearman", says: "Spearman's correlation of confidence and being right rises" },
    ],
  };
}
