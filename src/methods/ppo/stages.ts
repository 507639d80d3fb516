/**
 * The stages of a run of reinforcement: questions, fine-tuning to the form, PPO, what is said before and after, evaluation, report.
 * What completions earn, and how they state their confidence, a method says.
 */
import { join } from "node:path";
import { fromJsonLines, recordsOf, toJsonLines } from "../../data/readers.js";
import { splitByGroup } from "../../data/splits.js";
import type { MetricName } from "../../evaluation/metrics.js";
import type { Prediction } from "../../evaluation/rows.js";
import { readJson, readText, writeFileAtomic, writeJsonAtomic } from "../../files.js";
import type { HeadSpec } from "../../native.js";
import type { Model } from "../../policy/model.js";
import type { Policy } from "../../policy/policy.js";
import type { Message } from "../../text/chat.js";
import { bestCheckpoint, givenPolicy } from "../../training/checkpoint.js";
import { type PpoTraining, trainPpo } from "../../training/ppo/ppo.js";
import { type Stage, type StageContext, stageFolder } from "../../training/run.js";
import { trainSft } from "../../training/sft.js";
import { type AskedQuestion, keepQuestions, readStageQuestions } from "../questions.js";
import {
  chooseTry,
  evaluateReinforcement,
  type OtherRow,
  type RowName,
  type TryResult,
  tryResult,
} from "./evaluate.js";
import { type ReinforcementRecipe, type Try, triesOf } from "./recipe.js";
import { type Form, formRows, promptsOf, type Said, say, type WrittenForm } from "./speaking.js";
import { summarize } from "./summary.js";

/** What the completions of one training earn. */
export interface Earning extends Pick<PpoTraining<AskedQuestion>, "reward" | "batchTerm" | "mask"> {
  /** Called when the training is over. */
  dispose?(): Promise<void>;
}

/** Conversations to learn from, and what to say of them. */
export interface Lessons {
  rows: { messages: Message[] }[];
  /** "which each state a confidence drawn at random": goes on after how many there are. */
  are: string;
}

/** What is hoped for: a metric of the reinforced policy that is better than another row's. */
export interface Hope {
  metric: MetricName;
  says: string;
  /** Default "before", the fine-tuned policy. */
  against?: Exclude<RowName, "after">;
}

/** What a method makes of reinforcement. */
export interface Reinforcement {
  recipe: ReinforcementRecipe & { method: string };
  /** How answers state their confidence. */
  form: Form;
  /** Stages before fine-tuning, which make what it learns from. */
  gathering?: Stage[];
  /** What fine-tuning learns from; for `ablation` where that is taught otherwise. */
  lessons(context: StageContext, training: "sft" | typeof ablation): Lessons;
  /** Stages between fine-tuning and reinforcement. */
  preparing?: Stage[];
  /** What completions earn in a training: one of the recipe's, or `ablation`, the chosen one without what the method adds. */
  earning(context: StageContext, training: string): Promise<Earning>;
  /**
   * The chosen settings are trained once more as `ablation`, which is asked too and never chosen; from a fine-tuning of its own
   * where it is `taught` otherwise.
   */
  ablated?: { title: string; taught?: boolean };
  /** What others say of the test questions, for rows beside. */
  others?(context: StageContext): Partial<Record<OtherRow, Prediction[]>>;
  aims: readonly Hope[];
  /** Sections of its own in the report, as markup. */
  sections?(runDirectory: string): string[];
}

/** Right answers to the training questions, which teach the form alone. */
export const randomly =
  (recipe: ReinforcementRecipe, form: WrittenForm): Reinforcement["lessons"] =>
  (context) => ({
    rows: formRows(questionsOf(context, recipe).train, { prompt: recipe.prompt, seed: recipe.sft.seed, form }),
    are: "each with a confidence drawn at random",
  });

export interface ReinforcementJob extends Reinforcement {
  model: Model;
}

/** Name of the training without what a method adds. */
export const ablation = "ablation" as const;

/** Folders under stages/. */
export const stageNames = {
  questions: "01-questions",
  sft: "02-sft",
  ablatedSft: "02-sft-ablation",
  before: "03-before",
  ppo: (name: string) => `04-ppo-${name}`,
  choice: "05-choice",
  ablation: "05-ablation",
  after: "06-after",
  evaluate: "07-evaluate",
  report: "08-report",
};

/** Name of the critic's head. */
const valueHead = "value";

export const saidFile = (part: "validation" | "test"): string => `${part}.jsonl`;

export function readSaid(directory: string, part: "validation" | "test"): Said[] {
  return fromJsonLines<Said>(readText(join(directory, saidFile(part))));
}

/** The training questions, and those of their groups that only choose; the test questions. */
export function partsOfQuestions(
  questions: readonly AskedQuestion[],
  { validationShare, seed }: ReinforcementRecipe["questions"],
): Record<"train" | "validation" | "test", AskedQuestion[]> {
  const learning = questions.filter(({ part }) => part === "train");
  const { train, test: validation } = splitByGroup(learning, { testShare: validationShare, seed });
  const of = (places: number[]) => places.map((place) => learning[place]!);
  return { train: of(train), validation: of(validation), test: questions.filter(({ part }) => part === "test") };
}

export const questionsOf = (context: StageContext, { questions }: ReinforcementRecipe) =>
  partsOfQuestions(readStageQuestions(stageFolder(context, stageNames.questions)), questions);

/** Folder of the fine-tuned policy: where reinforcement begins, and what it is kept near. */
export const fineTuned = (context: StageContext): string => bestCheckpoint(stageFolder(context, stageNames.sft));

/** Writes what a policy says to the questions of a part. */
async function tell(
  context: StageContext,
  { recipe, form }: ReinforcementJob,
  policy: Policy,
  part: "validation" | "test",
  label: string,
): Promise<Said[]> {
  const said = await say(policy, questionsOf(context, recipe)[part], { ...recipe, form }, { ...context, label });
  writeFileAtomic(join(context.directory, saidFile(part)), toJsonLines(said));
  return said;
}

async function fineTune(
  context: StageContext,
  { recipe, model, lessons }: ReinforcementJob,
  training: "sft" | typeof ablation,
): Promise<void> {
  const { adapter, sft } = recipe;
  const { rows, are } = lessons(context, training);
  const { policy, data } = await trainSft({
    ...sft,
    directory: context.directory,
    model,
    policy: (checkpoint) => model.policy({ adapter: checkpoint ?? adapter }),
    records: recordsOf(rows, "the training questions"),
    label: training === ablation ? "fine-tuning to the form, ablation" : "fine-tuning to the form",
    progress: context.progress,
    signal: context.signal,
    fitted: context.fitted,
  });
  await policy.dispose();
  context.progress.note(`${data.rows} answers of ${data.tokens} tokens, ${are}`);
}

/** A head that says 0 of everything: values are learnt from there. */
const heads: HeadSpec[] = [{ name: valueHead, kind: "linear" }];
function silence(policy: Policy): Policy {
  const width = policy.model.info.hiddenSize;
  policy.native.setTensors([
    { name: `${valueHead}.weight`, shape: [1, width], data: new Float32Array(width) },
    { name: `${valueHead}.bias`, shape: [1], data: new Float32Array(1) },
  ]);
  return policy;
}

async function reinforce(
  context: StageContext,
  job: ReinforcementJob,
  { name, settings }: Try,
  part: "validation" | "test",
): Promise<void> {
  const { recipe, model } = job;
  const { train } = questionsOf(context, recipe);
  const prompts = await promptsOf(model, train, recipe.prompt);
  const own = name === ablation && job.ablated?.taught;
  const start = own ? bestCheckpoint(stageFolder(context, stageNames.ablatedSft)) : fineTuned(context);
  const critic = settings.advantage.estimator === "gae";
  const { dispose, ...earning } = await job.earning(context, name);
  try {
    await using reference = await model.policy({ adapter: start });
    await using policy = await trainPpo({
      ...earning,
      directory: context.directory,
      policy: async (checkpoint) => {
        if (!critic) return model.policy({ adapter: checkpoint ?? start });
        return checkpoint
          ? model.policy({ adapter: checkpoint, heads })
          : silence(await model.policy({ adapter: start, heads }));
      },
      reference,
      prompts: prompts.map((tokens, i) => ({ tokens, text: train[i]!.question, data: train[i]! })),
      settings,
      ...(critic ? { valueHead } : {}),
      label: name === "ppo" ? "reinforcing" : `reinforcing, ${name}`,
      progress: context.progress,
      signal: context.signal,
    });
    await tell(context, job, policy, part, `asking the ${part} questions`);
  } finally {
    await dispose?.();
  }
}

/** All stages of a recipe in order. */
export function reinforcementStages(job: ReinforcementJob): Stage[] {
  const { recipe, model, gathering = [], preparing = [], ablated } = job;
  const tries = triesOf(recipe);
  const { limits, evaluation } = recipe;
  return [
    {
      name: stageNames.questions,
      run: async ({ directory, progress }) => {
        const { questions, dropped } = await keepQuestions(directory, recipe);
        const { train, validation, test } = partsOfQuestions(questions, recipe.questions);
        progress.note(
          `${train.length} questions to learn from, ${validation.length} that choose, ${test.length} held out; ${dropped} left out because their answer stands in them`,
        );
      },
    },
    ...gathering,
    { name: stageNames.sft, run: (context) => fineTune(context, job, "sft") },
    {
      name: stageNames.before,
      run: async (context) => {
        await using policy = await model.policy({ adapter: fineTuned(context) });
        for (const part of ["validation", "test"] as const)
          await tell(context, job, policy, part, `asking the ${part} questions before`);
      },
    },
    ...preparing,
    ...tries.map(
      (one): Stage => ({
        name: stageNames.ppo(one.name),
        run: (context) => reinforce(context, job, one, "validation"),
      }),
    ),
    {
      name: stageNames.choice,
      run: async (context) => {
        const before = readSaid(stageFolder(context, stageNames.before), "validation");
        const results = tries.map((one): TryResult => {
          const folder = stageFolder(context, stageNames.ppo(one.name));
          return tryResult(one, readSaid(folder, "validation"), before, folder, recipe);
        });
        const chosen = chooseTry(results, limits);
        writeJsonAtomic(join(context.directory, "choice.json"), { chosen, results });
        if (tries.length > 1) context.progress.note(`the validation questions choose ${chosen}`);
      },
    },
    ...(ablated
      ? [
          ...(ablated.taught
            ? [{ name: stageNames.ablatedSft, run: (context: StageContext) => fineTune(context, job, ablation) }]
            : []),
          {
            name: stageNames.ablation,
            run: async (context: StageContext) => {
              const { chosen } = readChoice(context.runDirectory);
              const { settings } = tries.find(({ name }) => name === chosen)!;
              await reinforce(context, job, { name: ablation, settings }, "test");
            },
          },
        ]
      : []),
    {
      name: stageNames.after,
      run: async (context) => {
        const { chosen } = readChoice(context.runDirectory);
        const from = givenPolicy(stageFolder(context, stageNames.ppo(chosen)));
        const critic = tries.find(({ name }) => name === chosen)!.settings.advantage.estimator === "gae";
        await using policy = await model.policy({ adapter: from, ...(critic ? { heads } : {}) });
        await tell(context, job, policy, "test", "asking the test questions after");
      },
    },
    {
      name: stageNames.evaluate,
      run: async (context) => {
        const before = stageFolder(context, stageNames.before);
        const evaluated = evaluateReinforcement(
          {
            before: readSaid(before, "test"),
            after: readSaid(stageFolder(context, stageNames.after), "test"),
            labelled: readSaid(before, "validation"),
            ...(ablated ? { ablation: readSaid(stageFolder(context, stageNames.ablation), "test") } : {}),
            others: job.others?.(context) ?? {},
          },
          evaluation,
          job.aims,
        );
        if (ablated) evaluated.rows.ablation!.title = ablated.title;
        writeJsonAtomic(join(context.directory, "evaluated.json"), evaluated);
      },
    },
    {
      name: stageNames.report,
      run: async (context) => {
        const summary = summarize(context.runDirectory, job);
        writeJsonAtomic(join(context.runDirectory, "summary.json"), summary);
        const { writeReport } = await import("./report.js");
        writeFileAtomic(
          join(context.runDirectory, "report.html"),
          writeReport(context.runDirectory, summary, job.sections?.(context.runDirectory)),
        );
      },
    },
  ];
}

export const readChoice = (runDirectory: string) =>
  readJson(join(stageFolder({ runDirectory }, stageNames.choice), "choice.json")) as {
    chosen: string;
    results: TryResult[];
  };
