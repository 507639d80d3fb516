/** Questions that are trained on are not asked again in an evaluation: the published ones read the same file (B9-5). */
import { CredenceError } from "../../errors.js";
import { norm } from "../../evaluation/match.js";

/** Questions of one side, and the file or whatever else they are from, for messages. */
export interface NamedQuestions {
  name: string;
  questions: readonly string[];
}

/** A question by its words alone: case, accents, articles and punctuation make no other one of it. */
const known = (question: string): string => norm(question).join(" ");

/** Questions of `asked` that stand in `others` too, in their order and as often as they stand there. */
export function sharedQuestions(asked: readonly string[], others: readonly string[]): string[] {
  const all = new Set(others.map(known));
  return asked.filter((question) => all.has(known(question)));
}

/**
 * Refuses to train on questions that an evaluation asks, whatever their answers.
 *
 * @param remedy how the refusal can be overruled, which ends its sentence: "or give --held-out none"
 * @throws CredenceError "OVERLAP" naming both sides, how many questions they share, and the first of them
 */
export function refuseOverlap(trained: NamedQuestions, tested: NamedQuestions, remedy: string): void {
  const shared = sharedQuestions(trained.questions, tested.questions);
  const [first] = shared;
  if (first === undefined) return;
  throw new CredenceError(
    "OVERLAP",
    `${shared.length} of ${trained.questions.length} questions of ${trained.name} are asked in ${tested.name} too, the first of them ${JSON.stringify(first.trim().slice(0, 80))}: train on others, ${remedy}`,
  );
}
