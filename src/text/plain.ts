/** Texts that a model goes on with as they are, without turns: their tokens, and where an answer behind them ends. */
import type { Tokenizer } from "./tokenizer.js";

/** Token ids of a text as it is, behind the token that texts begin with where the tokenizer's files say so. */
export async function textTokens(
  { tokenizer }: { tokenizer: Pick<Tokenizer, "encode" | "addsBos" | "bosId"> },
  text: string,
): Promise<Int32Array> {
  const ids = await tokenizer.encode(text);
  return tokenizer.addsBos ? Int32Array.of(tokenizer.bosId!, ...ids) : ids;
}

/** An answer as it is judged and asked about: its first line. */
export function sanitised(output: string): string {
  const text = output.trim().replaceAll("\n\n", "\n").replaceAll(":\n", ":");
  return text.replace(/^\n+/, "").split("\n")[0]!;
}

/** Whether nothing that follows makes an answer another one. */
export const answerIsWhole = (output: string): boolean => !sanitised(`${output}\u0000`).includes("\u0000");
