/** Whether answers are right: the published substring match, or a judge that is asked as a teacher's assistant. */
import { CredenceError } from "../../errors.js";
import type { Judge } from "../../evaluation/judges/judge.js";
import type { Responder } from "../../evaluation/judges/responder.js";
import type { CalibrationCompat } from "./compat.js";
import { type Row, sanitised, textOf } from "./wire.js";

/** What is judged: an answer against the right one, or whether two answers say the same. */
export interface GradingItem extends Row {
  /** The answer, as it is judged. */
  answer: string;
  /** The other answer, where two are compared. */
  other?: string;
}

/** `substring`, or `fuzzy_<model>`: the model that judges. */
export type Strategy = { kind: "substring" } | { kind: "fuzzy"; model: string };

/** @throws CredenceError "BAD_OPTION" with what there is */
export function strategyOf(name: string): Strategy {
  if (name === "substring") return { kind: "substring" };
  const model = /^fuzzy_(.+)$/.exec(name)?.[1];
  if (model !== undefined) return { kind: "fuzzy", model };
  throw new CredenceError("BAD_OPTION", `the strategy is ${JSON.stringify(name)}; expected substring or fuzzy_<model>`);
}

/** Whether the right answer stands in the first line of another, letter by letter. */
export function substringLabel(target: string, output: string): 0 | 1 {
  if (target === "")
    throw new CredenceError("BAD_INPUT", "an empty right answer stands in every answer; nothing can be judged by it");
  return sanitised(output).includes(target) ? 1 : 0;
}

/**
 * The request to a judge. Its wording is our own. The examples before the question are left out; as published (A9-20) they are
 * part of it.
 */
export function gradingRequest(item: GradingItem, compat: CalibrationCompat): string {
  const problem = textOf(compat.has("A9-20") ? item : { ...item, prompt: "" });
  const { answer, target, other } = item;
  if (other !== undefined)
    return [
      "You help a teacher to sort students' answers.",
      `Problem: ${problem}`,
      `Answer of student A: ${other}`,
      `Answer of student B: ${answer}`,
      "Do the two answers say the same? A difference in form alone, such as an abbreviated name, is none.",
      "Reply with yes or no only.",
    ].join("\n\n");
  return [
    "You help a teacher to grade students' answers.",
    `Problem: ${problem}`,
    `Right answer: ${target}`,
    `Student's answer: ${answer}`,
    "Does the student give the right answer? It has to be specific, and it has to be one: of two different answers neither counts. A difference in form alone, such as an abbreviated name, is no mistake.",
    "Reply with yes or no only.",
  ].join("\n\n");
}

/** A reply as a verdict: its first word where that is yes or no. As published (A9-20) whether "yes" stands in it anywhere. */
export function readGrade(reply: string, compat: CalibrationCompat): 0 | 1 | null {
  if (compat.has("A9-20")) return reply.toLowerCase().includes("yes") ? 1 : 0;
  const word = /^[^\p{L}\p{N}]*(yes|no)(?![\p{L}\p{N}])/iu.exec(reply)?.[1]?.toLowerCase();
  return word === undefined ? null : word === "yes" ? 1 : 0;
}

/** A model that judges, here or on a server. */
export function gradingJudge(responder: Responder, compat: CalibrationCompat): Judge<GradingItem> {
  return {
    name: responder.name,
    async *judge(items, { signal } = {}) {
      function* requests() {
        for (const item of items) yield gradingRequest(item, compat);
      }
      for await (const { text } of responder.replies(requests(), signal))
        yield { value: readGrade(text, compat), reply: text };
    },
  };
}

/** Judges by letters. */
export const substringJudge = (): Judge<GradingItem> => ({
  name: "substring",
  async *judge(items) {
    for (const { answer, other, target } of items) yield { value: substringLabel(other ?? target, answer) };
  },
});

/** What a judge said of answers. */
export interface Grades {
  /** null: its reply was no verdict. */
  labels: (0 | 1 | null)[];
  /** How many of them. */
  unread: number;
}

/**
 * A judge's verdicts, one an item.
 *
 * @throws CredenceError "UNPARSED" where not one reply is a verdict, with the first of them; "ABORTED"
 */
export async function grades(
  items: readonly GradingItem[],
  judge: Judge<GradingItem>,
  { signal, onJudged }: { signal?: AbortSignal; onJudged?: () => void } = {},
): Promise<Grades> {
  const labels: Grades["labels"] = [];
  let reply: string | undefined;
  for await (const verdict of judge.judge(items, { signal })) {
    labels.push(verdict.value as 0 | 1 | null);
    if (verdict.value === null) reply ??= verdict.reply ?? "";
    onJudged?.();
  }
  if (labels.length < items.length)
    throw new CredenceError("ABORTED", "stopped while judging; what was paid for is kept");
  const unread = labels.filter((label) => label === null).length;
  if (unread > 0 && unread === labels.length)
    throw new CredenceError(
      "UNPARSED",
      `${judge.name}: none of ${unread} replies begins with yes or no; the first is ${JSON.stringify(reply!.slice(0, 120))}. Have another model judge`,
    );
  return { labels, unread };
}
