/** LoRA + Prompt from judged rows to a policy; see tuning.ts for what is learnt. */
import type { DivergenceKind } from "../../native.js";
import type { Model } from "../../policy/model.js";
import type { Policy } from "../../policy/policy.js";
import type { CalibrationCompat } from "./compat.js";
import { type ClosedSetLoss, crossEntropy } from "./divergences.js";
import { type JudgedRow, type Lesson, lessonsOf } from "./lessons.js";
import {
  adapterDefaults,
  defaultPassTokens,
  digestOf,
  type StepTraining,
  trainBySteps,
  tuningDefaults,
} from "./training.js";
import { type TuningLoss, tuningLosses, tuningStep } from "./tuning.js";
import { choiceTokens } from "./wire.js";

type Given = "directory" | "steps";

export interface CalibrationTuning extends Pick<StepTraining, Given>, Partial<Omit<StepTraining, Given | "policy">> {
  model: Model;
  rows: readonly JudgedRow[];
  /** Held against at each tenth of the steps. */
  validation?: readonly JudgedRow[];
  /** Of a new adapter. Published: 8, 32 and 0.1, on the query and value projections. */
  rank?: number;
  alpha?: number;
  dropout?: number;
  /** A folder of an adapter that is trained further, in the place of a new one. */
  from?: string;
  /** Weight of the divergence, the published `kl_decay`. Default 1, the paper's; the published script's is 0. */
  kappa?: number;
  /** Default "jsd". */
  divergence?: DivergenceKind;
  /** A folder of the adapter that the distribution is held at. Default: `from`, else the base. */
  reference?: string;
  /** What the model chooses between and how the choice is judged; default the tokens of i and ii, by cross-entropy. */
  answer?: { candidates: readonly number[]; loss: ClosedSetLoss };
  /** Tokens of a question with its right answer at most; longer rows are left out. */
  maxTokens?: number;
  compat?: CalibrationCompat;
}

export interface CalibrationTuned {
  policy: Policy;
  /** Rows learnt from, and rows left out as too long. */
  rows: number;
  dropped: number;
}

const tokensOf = function* (lessons: readonly Lesson[]): Generator<NodeJS.ArrayBufferView> {
  for (const { label, prefix, query, target } of lessons) {
    yield prefix;
    yield query;
    yield target;
    yield Uint8Array.of(label);
  }
};

/**
 * Trains an adapter to say behind the uncertainty query whether answers are right, going on from the newest checkpoint in the
 * folder. The policy is the caller's to dispose of.
 *
 * @throws CredenceError "BAD_TOKENIZER" where the two tokens cannot be told apart; "TOO_LONG", "BAD_INPUT" naming a row;
 *   "OTHER_RECIPE" where the folder was begun with other settings or rows
 */
export async function calibrationTune(job: CalibrationTuning): Promise<CalibrationTuned> {
  const { model, from, kappa = 1, divergence = "jsd", compat = new Set(), signal } = job;
  const { candidates, loss: answer } = job.answer ?? {
    candidates: await choiceTokens(model.tokenizer),
    loss: crossEntropy,
  };
  const options = {
    held: kappa > 0,
    compat,
    ...(job.maxTokens === undefined ? {} : { maxTokens: job.maxTokens }),
  };
  const { lessons, dropped } = await lessonsOf(model, job.rows, options);
  const held = job.validation ? (await lessonsOf(model, job.validation, options)).lessons : [];
  const referenceFolder = kappa > 0 ? (job.reference ?? from) : undefined;
  const reference = referenceFolder === undefined ? undefined : await model.policy({ adapter: referenceFolder });
  const microBatchTokens = job.microBatchTokens ?? defaultPassTokens;
  const loss: TuningLoss = {
    candidates,
    answer,
    kappa: Math.max(0, kappa),
    divergence,
    reference,
    microBatchTokens,
    compat,
  };
  const seed = job.seed ?? tuningDefaults.seed;
  const { rank = adapterDefaults.rank, alpha = adapterDefaults.alpha, dropout = adapterDefaults.dropout } = job;
  try {
    const policy = await trainBySteps(
      {
        ...tuningDefaults,
        ...job,
        microBatchTokens,
        policy: (checkpoint) => {
          const folder = checkpoint ?? from;
          return model.policy({
            adapter: folder ?? { rank, alpha, dropout, targets: [...adapterDefaults.targets], seed },
          });
        },
      },
      {
        rows: lessons.length,
        settings: {
          kappa: loss.kappa,
          divergence,
          answer: answer.name,
          reference: referenceFolder ?? "base",
          ...(from === undefined ? { rank, alpha, dropout } : { from }),
          compat: [...compat].join(),
          learnt: digestOf(tokensOf(lessons)),
        },
        step: (places) =>
          tuningStep(
            places.map((place) => lessons[place]!),
            loss,
          ),
        ...(held.length > 0 ? { held: (policy) => heldLosses(policy, held, loss, signal) } : {}),
      },
    );
    return { policy, rows: lessons.length, dropped };
  } finally {
    await reference?.dispose();
  }
}

/** The published evaluation while training drops the adapter's inputs out as training does (A9-26). */
async function heldLosses(
  policy: Policy,
  held: readonly Lesson[],
  loss: TuningLoss,
  signal: AbortSignal | undefined,
): Promise<Record<string, number>> {
  using dropping = loss.compat.has("A9-26") ? policy.trainer({ schedule: 0 }) : undefined;
  const found = await tuningLosses(policy, held, loss, {
    ...(dropping ? { dropping } : {}),
    ...(signal ? { signal } : {}),
  });
  return { loss: found.loss, ...found.values, N: held.length };
}
