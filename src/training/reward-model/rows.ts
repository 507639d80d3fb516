/**
 * Answers as models that judge or prefer them read them: a prompt and an answer become one row of tokens, which ends in the
 * answer's last token or in the token that ends it.
 */
import { CredenceError } from "../../errors.js";
import type { AnswerText } from "../../model/card.js";
import type { Model } from "../../policy/model.js";
import type { Message } from "../../text/chat.js";

/** What is answered: a text, or a conversation. */
export interface Prompted {
  prompt?: string | undefined;
  messages?: Message[] | undefined;
}

export interface AnswerRow {
  ids: Int32Array;
  /** The first token of the answer; one that also covers text before it belongs to the prompt. */
  from: number;
}

/** How a model's answers are put unless told otherwise: as a conversation where it has a template for that. */
export const defaultText = (model: Model): AnswerText => ({
  kind: model.tokenizer.chatTemplate === undefined ? "plain" : "chat",
});

/** Rows rendered at a time. */
const atOnce = 256;

/** The rows of many answers; see `answerRow`. */
export async function answerRows(
  model: Model,
  answers: readonly (Prompted & { answer: string })[],
  text: AnswerText,
): Promise<AnswerRow[]> {
  const rows: AnswerRow[] = [];
  for (let from = 0; from < answers.length; from += atOnce) {
    const some = answers.slice(from, from + atOnce);
    rows.push(...(await Promise.all(some.map(({ answer, ...prompted }) => answerRow(model, prompted, answer, text)))));
  }
  return rows;
}

/**
 * One answer. "chat": the prompt as a user's turn, or the messages as they are, and the answer as an assistant's turn, up to
 * its end of turn. "plain": the texts one after the other, tokenized together; the model's first token goes before them
 * where its tokenizer says that texts begin with it.
 *
 * @throws CredenceError "BAD_INPUT" where messages are to be plain text, or nothing is left of an answer
 */
export async function answerRow(
  model: Model,
  { prompt, messages }: Prompted,
  answer: string,
  text: AnswerText,
): Promise<AnswerRow> {
  const row =
    text.kind === "chat"
      ? await chatRow(model, messages ?? [{ role: "user", content: prompt! }], answer)
      : await plainRow(model, prompt, answer, text.end);
  if (row.from < row.ids.length) return row;
  throw new CredenceError(
    "BAD_INPUT",
    `an answer without a token of its own: ${JSON.stringify(answer.slice(0, 40))}. Give it a text, or a token that ends it`,
  );
}

async function chatRow(model: Model, turns: Message[], answer: string): Promise<AnswerRow> {
  const context = turns.map((turn) => ({ ...turn, weight: 0 }));
  const { ids, supervised } = await model.supervise([...context, { role: "assistant", content: answer }]);
  const from = supervised.indexOf(1);
  return from < 0 ? { ids, from: ids.length } : { ids: ids.slice(0, supervised.lastIndexOf(1) + 1), from };
}

async function plainRow(
  model: Model,
  prompt: string | undefined,
  answer: string,
  end = model.tokenizer.specialTokens.eos_token ?? "",
): Promise<AnswerRow> {
  if (prompt === undefined)
    throw new CredenceError("BAD_INPUT", 'messages are put as a conversation; give "prompt", or choose text: chat');
  const { tokenizer } = model;
  const { ids, spans } = await tokenizer.encodeAligned(prompt + answer + end);
  const first = tokenizer.addsBos && ids[0] !== tokenizer.bosId ? [tokenizer.bosId!] : [];
  let from = 0;
  while (from < ids.length && spans[2 * from]! < prompt.length) from += 1;
  return { ids: Int32Array.of(...first, ...ids), from: from + first.length };
}
