/** How likely the model is to answer each question right; with a reward model, the reward of each answer. */
import type { Argv } from "yargs";
import { interruptible } from "./interrupt.js";
import { baseOptions, type EngineArguments, modelOptions } from "./options.js";
import { logs, note } from "./output.js";

export const command = "score <questions>";
export const describe =
  "How likely is the model to answer each question right? With a reward model: how good is each answer?";
export const builder = (line: Argv) =>
  line
    .positional("questions", {
      type: "string",
      demandOption: true,
      describe:
        "Questions, samples or labels; with a reward model as --adapter answers (prompt, completion) or pairs (prompt, chosen, rejected); - for standard input",
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
  const { readPolicyFolder } = await import("../model/policy-folder.js");
  const card = args.adapter === undefined ? undefined : readPolicyFolder(args.adapter).card;
  await (card && "reward" in card ? scoreAnswers(args) : scoreQuestions(args));
}

/** Adds `reward` to answers, `chosen_reward` and `rejected_reward` to pairs. */
async function scoreAnswers(args: ScoreArguments): Promise<void> {
  const { readRecords, writeRecords } = await import("../data/readers.js");
  const { scoredSchema } = await import("../data/records.js");
  const { rewardModel } = await import("../training/reward-model/scoring.js");
  const { loadPolicy } = await import("./policy.js");
  const { progressOn, silent } = await import("../tracking/progress.js");
  const records = await readRecords(args.questions, scoredSchema);
  await interruptible(async (signal) => {
    await using loaded = await loadPolicy({ ...args, engine: baseOptions(args), signal });
    const { score } = rewardModel(loaded.policy);
    const task = (logs("info") ? progressOn() : silent).task("scoring", records.length, "records");
    let [pairs, right] = [0, 0];
    async function* scored() {
      for (let from = 0; from < records.length; from += chunkSize) {
        const chunk = records.slice(from, from + chunkSize);
        const answers = chunk.flatMap(({ prompt, messages, completion, chosen, rejected }) =>
          (completion === undefined ? [chosen!, rejected!] : [completion]).map((text) => ({
            prompt,
            messages,
            completion: text,
          })),
        );
        const rewards = await score(answers, { signal });
        let next = 0;
        for (const record of chunk) {
          if (record.completion !== undefined) {
            yield { ...record, reward: rewards[next++]! };
            continue;
          }
          const [chosen, rejected] = [rewards[next++]!, rewards[next++]!];
          pairs += 1;
          if (chosen > rejected) right += 1;
          yield { ...record, chosen_reward: chosen, rejected_reward: rejected };
        }
        task.advance(chunk.length);
      }
    }
    const written = await writeRecords(args.out, scored());
    task.end();
    if (args.out !== "-") note(`${written} records in ${args.out}`);
    if (pairs > 0) note(`the chosen answer scores higher in ${right} of ${pairs} pairs`);
  });
}

async function scoreQuestions(args: ScoreArguments): Promise<void> {
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
