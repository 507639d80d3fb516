/** Confidence in each question before it is answered, as the published scripts write it: one line a row, in file order. */
import { join } from "node:path";
import { writeRecords } from "../../../data/readers.js";
import { CredenceError } from "../../../errors.js";
import { sigmoid } from "../../../model/calibrator.js";
import type { Card, Prompt } from "../../../model/card.js";
import type { Model } from "../../../policy/model.js";
import type { Policy } from "../../../policy/policy.js";
import { type Progress, silent } from "../../../tracking/progress.js";
import { confidenceHead } from "../lora.js";
import type { ElicalCompat } from "./compat.js";
import { predictionsName, type Split } from "./paths.js";
import { coarseSigmoid, eosText, type LastToken, paddedRows, paddingOf, promptTokens, readingOf } from "./reading.js";
import { isPut, type PublishedRow, readSampledRows } from "./rows.js";

export interface PublishedPrediction {
  /** A file of sampled answers: its prompts are scored. */
  data: string;
  output: string;
  split: Split;
  /** Rows padded together where rows are padded. */
  batch: number;
  lastToken?: LastToken;
  paddingSide?: "right" | "left";
  /** Score prompts that are put otherwise than the adapter was trained with. */
  otherPrompt?: boolean;
  compat: ElicalCompat;
}

export interface PredictedRow {
  index: number;
  predicted: number;
  /** Share of the sampled answers in which an answer stands. */
  true_label: number;
}

/** How the released adapters were trained, which have no card; whether with a system turn is not known of all. */
const releasedPrompts: Prompt[] = (["default", "none", { text: "You are a helpful assistant." }] as const).map(
  (system) => ({
    user: "Answer the following question.\nQuestion: {question}",
    system,
  }),
);

/**
 * Scores a file's prompts and writes `evaluation_results_<split>.jsonl`, whole or not at all.
 *
 * @throws CredenceError "OTHER_PROMPT" where prompts are put otherwise than those that were trained on, unless told
 */
export async function predictPublished(
  policy: Policy,
  job: PublishedPrediction,
  { progress = silent, signal }: { progress?: Progress; signal?: AbortSignal } = {},
): Promise<PredictedRow[]> {
  const { compat } = job;
  const { rows } = await readSampledRows(job.data, undefined, job);
  const eos = checkPrompts(policy, rows, job);
  const tokens = await promptTokens(policy.model, rows, { eos, compat });
  const reading = readingOf({ lastToken: job.lastToken, paddingSide: job.paddingSide, group: job.batch }, compat);
  const padded = paddedRows(tokens, paddingOf(policy.model, reading));
  const task = progress.task("predicting", rows.length, "rows", "tokens");
  const out: PredictedRow[] = [];
  try {
    for (let from = 0; from < rows.length; from += rowsAtOnce) {
      const some = padded.rows.slice(from, from + rowsAtOnce);
      const paddedTo = padded.paddedTo?.slice(from, from + rowsAtOnce);
      const logits = await policy.logits(some, confidenceHead, { signal, ...(paddedTo ? { paddedTo } : {}) });
      for (const [i, logit] of logits.entries()) {
        const { index, target } = rows[from + i]!;
        out.push({ index, predicted: compat.has("B9-13") ? coarseSigmoid(logit) : sigmoid(logit), true_label: target });
      }
      task.advance(
        some.length,
        some.reduce((sum, row) => sum + row.length, 0),
      );
    }
  } finally {
    task.end();
  }
  await writeRecords(join(job.output, predictionsName(job.split)), out);
  return out;
}

/** Rows between two signs of progress. */
const rowsAtOnce = 256;

/** Whether the end-of-sequence token follows, as the card says; refuses prompts that were not trained on. */
function checkPrompts({ card, model }: Policy, rows: readonly PublishedRow[], job: PublishedPrediction): boolean {
  const trained = card ? [card.confidence.prompt ?? card.prompt] : releasedPrompts;
  const eos = model.tokenizer.specialTokens.eos_token ?? "";
  const ends = eos !== "" && trained.some(({ user, template }) => template === "none" && user.endsWith(eos));
  if (job.otherPrompt) return ends;
  const end = ends ? eosText(model) : "";
  const other = rows.filter((row) => !trained.some((prompt) => fits(model, row, prompt, end)));
  if (other.length === 0) return ends;
  const { index, prompt } = other[0]!;
  const what = card ? "the card says" : "adapters without a card are taken to be released ones, trained with";
  throw new CredenceError(
    "OTHER_PROMPT",
    `${job.data}: ${other.length} of ${rows.length} prompts are put otherwise than in training (${what} ${JSON.stringify(trained[0]!.user)}; record ${index + 1} is ${JSON.stringify(prompt)}). Use an adapter trained with this prompt, or --other-prompt to score all the same`,
  );
}

function fits(model: Model, row: PublishedRow, prompt: Card["prompt"], end: string): boolean {
  const whole = end && !row.prompt.endsWith(end) ? { ...row, prompt: row.prompt + end } : row;
  if (prompt.template === "none") return isPut(whole, prompt.user);
  return model.promptText(row.question, prompt) === row.prompt;
}
