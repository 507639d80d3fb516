/** What samples say of themselves: which answers are right by string match, and how far the samples agree. */
import type { Argv } from "yargs";
import { note, printJson } from "./output.js";

export const command = "label <samples>";
export const describe =
  "Mark which answers are right (string match), and how far the samples agree with the first answer";
export const builder = (line: Argv) =>
  line
    .positional("samples", {
      type: "string",
      demandOption: true,
      describe: "What credence generate wrote; - for standard input",
    })
    .options({
      out: { type: "string", default: "-", requiresArg: true, describe: "Where the labels go" },
    });

export async function handler({ samples, out, json }: { samples: string; out: string; json: boolean }): Promise<void> {
  const { readRecords, writeRecords } = await import("../data/readers.js");
  const { sampleSchema } = await import("../data/records.js");
  const { labelRecord } = await import("../methods/elical/labels.js");
  const { CredenceError } = await import("../errors.js");
  const records = await readRecords(samples, sampleSchema);
  const labelled = records.map((record, i) => {
    if (!record.answer)
      throw new CredenceError("BAD_INPUT", `${samples}: record ${i + 1} has no "answer"; what is right cannot be told`);
    const question = record.question ?? record.messages?.at(-1)?.content ?? "";
    return {
      ...record,
      ...labelRecord({ question, answer: record.answer, given: record.given, responses: record.responses }),
    };
  });
  const written = await writeRecords(out, labelled);
  const right = labelled.filter((label) => label.given_correct).length;
  if (json && out !== "-") printJson({ records: written, right });
  else note(`${right} of ${written} answers are right (${((100 * right) / written).toFixed(1)} %)`);
}
