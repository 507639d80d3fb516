/** The LoRA classifier from judged rows to a policy: the published head, with its gradients going on into an adapter. */
import type { Model } from "../../policy/model.js";
import type { Policy } from "../../policy/policy.js";
import {
  classifierFiles,
  classifierLogits,
  classifierSpec,
  classifierStep,
  initialise,
  type Place,
  placedRows,
  type ReadRow,
  toldOf,
} from "./classifier.js";
import type { JudgedRow } from "./lessons.js";
import {
  adapterDefaults,
  defaultPassTokens,
  digestOf,
  type StepTraining,
  trainBySteps,
  tuningDefaults,
} from "./training.js";

type Given = "directory" | "steps";

export interface ClassifierTuning extends Pick<StepTraining, Given>, Partial<Omit<StepTraining, Given | "policy">> {
  model: Model;
  rows: readonly JudgedRow[];
  /** Held against at each tenth of the steps. */
  validation?: readonly JudgedRow[];
  /** Of a new adapter. Published: 8, 32 and 0.1, on the query and value projections. */
  rank?: number;
  alpha?: number;
  dropout?: number;
  /** A folder of an adapter that is trained further, in the place of a new one; the head begins anew. */
  from?: string;
  /** Where the head reads. Default "last". */
  place?: Place;
  /** 0: the embedding, k: behind block k; default behind the last block and norm. */
  depth?: number;
}

/**
 * Trains adapter and head, going on from the newest checkpoint in the folder. The policy is the caller's to dispose of.
 *
 * @throws CredenceError "TOO_LONG" naming a row; "OTHER_RECIPE" where the folder was begun with other settings or rows
 */
export async function classifierTune(job: ClassifierTuning): Promise<Policy> {
  const { model, from, place = "last", depth, signal } = job;
  const seed = job.seed ?? tuningDefaults.seed;
  const {
    rank = adapterDefaults.rank,
    alpha = adapterDefaults.alpha,
    dropout = adapterDefaults.dropout,
    microBatchTokens = defaultPassTokens,
  } = job;
  const read = async (rows: readonly JudgedRow[]): Promise<ReadRow[]> =>
    (await placedRows(model, rows, place)).map((row, i) => ({ ...row, label: rows[i]!.label }));
  const rows = await read(job.rows);
  const held = await read(job.validation ?? []);
  const heads = [classifierSpec({ seed, ...(depth === undefined ? {} : { depth }) })];
  function* learnt() {
    for (const { tokens, from: first, label } of rows) {
      yield tokens;
      yield Int32Array.of(first, label);
    }
  }
  return trainBySteps(
    {
      ...tuningDefaults,
      ...job,
      microBatchTokens,
      policy: async (checkpoint) => {
        const adapter = checkpoint ?? from ?? { rank, alpha, dropout, targets: [...adapterDefaults.targets], seed };
        const policy = await model.policy({ adapter, heads });
        if (checkpoint === undefined) initialise(policy, seed);
        return policy;
      },
    },
    {
      rows: rows.length,
      settings: {
        form: "classifier",
        place,
        depth: depth ?? model.info.layers,
        ...(from === undefined ? { rank, alpha, dropout } : { from }),
        learnt: digestOf(learnt()),
      },
      step: (places) =>
        classifierStep(
          places.map((row) => rows[row]!),
          microBatchTokens,
        ),
      files: (policy) => classifierFiles(policy),
      ...(held.length > 0
        ? {
            held: async (policy) =>
              toldOf(
                await classifierLogits(policy, held, { microBatchTokens, ...(signal ? { signal } : {}) }),
                held.map(({ label }) => label),
              ),
          }
        : {}),
    },
  );
}
