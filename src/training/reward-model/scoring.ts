/** A trained reward model in use: the reward of answers to prompts. */
import { CredenceError } from "../../errors.js";
import type { AnswerText } from "../../model/card.js";
import type { Policy } from "../../policy/policy.js";
import { answerRows, defaultText, type Prompted } from "./rows.js";

/** An answer to be scored: a record of src/data/records.ts. */
export interface AnswerToScore extends Prompted {
  completion: string;
}

export interface RewardModel {
  readonly policy: Policy;
  readonly head: string;
  /** How a prompt and an answer are put. */
  readonly text: AnswerText;
  /**
   * The reward of each answer, or of each row of tokens: the head's value at its last token. A row's reward has the same
   * bits in any company. Abort leaves nothing behind.
   *
   * @throws CredenceError "TOO_LONG" naming the row that is longer than the context
   */
  score(answers: readonly (AnswerToScore | Int32Array)[], options?: { signal?: AbortSignal }): Promise<Float32Array>;
}

/**
 * A policy as a reward model, read as its card says unless told otherwise.
 *
 * @throws CredenceError "NO_CARD" where neither says which head; "NO_HEAD" where the policy has none of that name
 */
export function rewardModel(policy: Policy, options: { head?: string; text?: AnswerText } = {}): RewardModel {
  const { rewardCard, model } = policy;
  const head = options.head ?? rewardCard?.reward.head;
  const text = options.text ?? rewardCard?.reward.text ?? defaultText(model);
  if (head === undefined) {
    throw new CredenceError(
      "NO_CARD",
      "this policy has no credence.json of a reward model. Load it from a reward model's best folder, or name its head",
    );
  }
  const spec = policy.heads.find(({ name }) => name === head);
  if (!spec || (spec.outputs ?? 1) !== 1) {
    const have = policy.heads.map(({ name }) => name).join(", ") || "none";
    throw new CredenceError(
      "NO_HEAD",
      spec
        ? `head "${head}" has ${spec.outputs} outputs; a reward is one number`
        : `no head "${head}"; this policy has ${have}`,
    );
  }
  return {
    policy,
    head,
    text,
    async score(answers, { signal } = {}) {
      const rows = await tokensOf(policy, answers, text);
      const { contextLength } = model.info;
      const long = rows.findIndex((row) => row.length > contextLength);
      if (long >= 0) {
        throw new CredenceError(
          "TOO_LONG",
          `answer ${long + 1} has ${rows[long]!.length} tokens with its prompt, more than the context (${contextLength}). Shorten it, or cut its row yourself`,
        );
      }
      return policy.logits(rows, head, signal ? { signal } : {});
    },
  };
}

async function tokensOf(
  { model }: Policy,
  answers: readonly (AnswerToScore | Int32Array)[],
  text: AnswerText,
): Promise<Int32Array[]> {
  const texts = answers.filter((answer): answer is AnswerToScore => !(answer instanceof Int32Array));
  const given = texts.map(({ completion, ...prompted }) => ({ ...prompted, answer: completion }));
  const rendered = (await answerRows(model, given, text)).map(({ ids }) => ids);
  let next = 0;
  return answers.map((answer) => (answer instanceof Int32Array ? answer : rendered[next++]!));
}
