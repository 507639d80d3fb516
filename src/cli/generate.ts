/** Answers of a model to a file of questions: the likeliest one, and samples. */
import type { Argv } from "yargs";
import type { PromptRecord } from "../data/records.js";
import { interruptible } from "./interrupt.js";
import {
  baseOptions,
  decodeOptions,
  type EngineArguments,
  modelOptions,
  positiveInteger,
  seedOption,
  tellFastDecode,
} from "./options.js";
import { logs, note } from "./output.js";

export const command = "generate <questions>";
export const describe = "Answer questions: the likeliest answer, and samples, with their log-probabilities";
export const builder = (line: Argv) =>
  line
    .positional("questions", {
      type: "string",
      demandOption: true,
      describe: "Questions, one JSON object a line; - for standard input",
    })
    .options({
      ...modelOptions,
      ...decodeOptions,
      ...seedOption,
      samples: { type: "number", default: 10, describe: "Samples of each question; 0 for none" },
      temperature: { type: "number", default: 1, describe: "Of the samples" },
      "top-k": { type: "number", default: 50, describe: "Of the samples; 0 for all tokens" },
      "top-p": { type: "number", default: 0.95, describe: "Of the samples" },
      "max-new-tokens": {
        type: "number",
        default: 64,
        describe: "Longest answer",
        coerce: positiveInteger("max-new-tokens"),
      },
      prompt: {
        type: "string",
        default: "{question}",
        requiresArg: true,
        describe: "The user's turn, with {question} in it",
      },
      out: { type: "string", default: "-", requiresArg: true, describe: "Where the samples go" },
    });

interface GenerateArguments extends EngineArguments {
  questions: string;
  model?: string;
  adapter?: string;
  fastDecode: boolean;
  seed: number;
  samples: number;
  temperature: number;
  topK: number;
  topP: number;
  maxNewTokens: number;
  prompt: string;
  out: string;
}

/** Questions answered at a time; their prompts are in memory together. */
const chunkSize = 64;

export async function handler(args: GenerateArguments): Promise<void> {
  const { readRecords, writeRecords } = await import("../data/readers.js");
  const { promptSchema } = await import("../data/records.js");
  const { loadPolicy } = await import("./policy.js");
  const { progressOn, silent } = await import("../tracking/progress.js");
  const questions = await readRecords(args.questions, promptSchema);
  await interruptible(async (signal) => {
    await using loaded = await loadPolicy({ ...args, engine: baseOptions(args), signal });
    const { model, policy } = loaded;
    tellFastDecode(args, model.info.device);
    const prompt = { user: args.prompt, system: "default" as const };
    const input = (record: PromptRecord) => record.question ?? record.messages!;
    const task = (logs("info") ? progressOn() : silent).task("answering", questions.length, "questions");
    const record = ({ text, tokens, logprobs, finish }: import("../policy/policy.js").Sample) => ({
      text,
      tokens: Array.from(tokens),
      logprobs: Array.from(logprobs),
      finish,
    });
    async function* samples() {
      for (let from = 0; from < questions.length; from += chunkSize) {
        const chunk = questions.slice(from, from + chunkSize);
        const prompts = await Promise.all(chunk.map((question) => model.promptTokens(input(question), prompt)));
        const common = { maxNewTokens: args.maxNewTokens, fastDecode: args.fastDecode, signal };
        const given: ReturnType<typeof record>[] = [];
        for await (const sample of policy.generate(prompts, common)) given.push(record(sample));
        const responses: ReturnType<typeof record>[][] = chunk.map(() => []);
        const settings = {
          samples: args.samples,
          temperature: args.temperature,
          topK: args.topK || undefined,
          topP: args.topP,
          seed: args.seed,
        };
        if (args.samples > 0) {
          for await (const sample of policy.generate(prompts, { ...common, ...settings }))
            responses[sample.prompt]!.push(record(sample));
        }
        for (const [i, question] of chunk.entries()) {
          yield {
            ...question,
            prompt: model.promptText(input(question), prompt),
            given: given[i]!,
            responses: responses[i]!,
          };
        }
        task.advance(chunk.length);
      }
    }
    const written = await writeRecords(args.out, samples());
    task.end();
    if (args.out !== "-") note(`${written} questions answered in ${args.out}`);
  });
}
