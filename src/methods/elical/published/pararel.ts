/** ParaRel's patterns as questions, and the published split of them. */
import { PythonRandom } from "../../../data/random.js";
import { CredenceError } from "../../../errors.js";
import type { QaRecord } from "./convert.js";

/** Whether a pattern has a place for the subject, and one for the object. */
export const isPattern = (pattern: string): boolean => pattern.includes("[X]") && pattern.split("[Y]").length === 2;

/**
 * A pattern such as "[X] was born in [Y] ." as a question about [Y]: "Where was [X] born?". Patterns of other shapes ask
 * with "what" in the place of [Y].
 */
export function patternQuestion(pattern: string): string {
  const text = pattern
    .trim()
    .replace(/[\s.]+$/, "")
    .replace(/\s+/g, " ");
  const passive = /^(\[X\]) (is|was|are|were) (?:(.*) )?(in|at|by) \[Y\]$/.exec(text);
  if (passive) {
    const [, subject, verb, rest, preposition] = passive;
    const asked = [verb, subject, rest].filter(Boolean).join(" ");
    return preposition === "by" ? `Who ${asked} by?` : `Where ${asked}?`;
  }
  const stated = /^(\[X\]) (is|was|are|were) (.*)\[Y\]$/.exec(text);
  if (stated) return `What ${stated[2]} ${stated[1]}${stated[3] ? ` ${stated[3]}` : ""}`.trimEnd().concat("?");
  const named = /^(.*) (is|was|are|were) \[Y\]$/.exec(text);
  if (named) return `What ${named[2]} ${named[1]!.replace(/^(The|An?) /, (article) => article.toLowerCase())}?`;
  const asked = `${text.replace("[Y]", "what")}?`;
  return asked[0]!.toUpperCase() + asked.slice(1);
}

/** How many rows were drawn for testing. */
export const pararelTestRows = 3000;

/**
 * The published split: rows for testing are drawn as Python's `random.seed(0); random.sample(rows, 3000)` does; what equals
 * one of them is not trained on.
 */
export function splitPararel(
  rows: readonly QaRecord[],
  testRows = pararelTestRows,
): { train: QaRecord[]; test: QaRecord[] } {
  if (testRows > rows.length) {
    throw new CredenceError(
      "BAD_INPUT",
      `${testRows} rows for testing are more than the ${rows.length} there are. Give all of ParaRel, or ask for fewer`,
    );
  }
  const test = new PythonRandom(0).sample(rows, testRows);
  const content = (row: QaRecord) => JSON.stringify(row);
  const taken = new Set(test.map(content));
  return { train: rows.filter((row) => !taken.has(content(row))), test };
}
