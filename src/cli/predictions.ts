/** Predictions as commands read them. */
import { z } from "zod";
import { readRecords } from "../data/readers.js";
import { CredenceError } from "../errors.js";
import type { Prediction } from "../evaluation/rows.js";

/** Predictions with whether the answer was right, under either name that files use. */
export async function readPredictions(path: string): Promise<Prediction[]> {
  const bit = z.union([z.literal(0), z.literal(1)], { error: "0 or 1" });
  const schema = z.looseObject({
    id: z.union([z.string(), z.number()], { error: "a string or a number" }).optional(),
    confidence: z
      .number({ error: "a number from 0 to 1" })
      .min(0, { error: "a number from 0 to 1" })
      .max(1, { error: "a number from 0 to 1" }),
    given_correct: bit.optional(),
    correct: z.unknown().optional(),
    group: z.union([z.string(), z.number()], { error: "a string or a number" }).transform(String).optional(),
  });
  return (await readRecords(path, schema)).map(({ confidence, given_correct, correct, group }, i) => {
    const right = given_correct ?? correct;
    if (right !== 0 && right !== 1)
      throw new CredenceError(
        "BAD_INPUT",
        `${path}: record ${i + 1} says nothing of whether the answer was right; expected "given_correct" or "correct", 0 or 1`,
      );
    return { confidence, correct: right as 0 | 1, group };
  });
}
