/** How likely the model is to answer each question right. */
import type { Argv } from "yargs";
import { interruptible } from "./interrupt.js";
import { baseOptions, type EngineArguments, modelOptions } from "./options.js";
import { logs, note } from "./output.js";

export const command = "score <questions>";
export const describe = "How likely is the model to answer each question right?";
export const builder = (line: Argv) =>
  line
    .positional("questions", {
      type: "string",
      demandOption: true,
      describe: "Questions, samples or labels; - for standard input",
    })
    .options({
      ...modelOptions,
      run: { type: "string", requiresArg: true, describe: "A run's folder, instead of --model and --adapter" },
      out: { type: "string", default: "-", requiresArg: true, describe: "Where the predictions go" },
    });

interface ScoreArguments extends EngineArguments {
  questions: string;
  model?: string;
  adapter?: string;
  run?: string;
  out: string;
}

/** Questions scored at a time, for the progress line. */
const chunkSize = 64;

export async function handler(args: ScoreArguments): Promise<void> {
  const { readRecords, writeRecords } = await import("../data/readers.js");
  const { promptSchema } = await import("../data/records.js");
  const { loadAsked, loadPolicy } = await import("./policy.js");
  const { progressOn, silent } = await import("../tracking/progress.js");
  const records = await readRecords(args.questions, promptSchema);
  await interruptible(async (signal) => {
    const engine = baseOptions(args);
    await using loaded = args.run
      ? await loadAsked({ ...args, run: args.run, engine, signal })
      : await loadPolicy({ ...args, engine, signal });
    const task = (logs("info") ? progressOn() : silent).task("scoring", records.length, "questions");
    async function* scored() {
      for (let from = 0; from < records.length; from += chunkSize) {
        const chunk = records.slice(from, from + chunkSize);
        const confidences = await loaded.policy.score(
          chunk.map((record) => record.question ?? record.messages!),
          { signal },
        );
        for (const [i, record] of chunk.entries()) yield { ...record, confidence: confidences[i]! };
        task.advance(chunk.length);
      }
    }
    const written = await writeRecords(args.out, scored());
    task.end();
    if (args.out !== "-") note(`${written} predictions in ${args.out}`);
  });
}
