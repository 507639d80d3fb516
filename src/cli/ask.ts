/** A question to a trained policy: its answer, and how likely that is to be right. */
import { createInterface } from "node:readline/promises";
import type { Argv } from "yargs";
import type { Message } from "../text/chat.js";
import { interruptible } from "./interrupt.js";
import {
  baseOptions,
  decodeOptions,
  type EngineArguments,
  engineOptions,
  modelOption,
  tellFastDecode,
} from "./options.js";
import { note, print, printJson } from "./output.js";

export const command = "ask [question]";
export const describe = "Answer a question and say how sure the answer is; without a question, a conversation";
export const builder = (line: Argv) =>
  line
    .positional("question", { type: "string", describe: "The question; without one they are asked for, one a line" })
    .options({
      run: { type: "string", requiresArg: true, default: "runs/quickstart", describe: "A run's folder" },
      adapter: { type: "string", requiresArg: true, describe: "A policy's folder, instead of the run's best" },
      ...modelOption,
      ...engineOptions,
      ...decodeOptions,
      history: {
        type: "string",
        requiresArg: true,
        describe: "Turns before the question: a JSON file with a list of {role, content}",
      },
      chat: { type: "boolean", default: false, describe: "Without a question: each one follows those before it" },
      "max-new-tokens": { type: "number", describe: "Longest answer [default: what the policy was trained with]" },
    });

interface AskArguments extends EngineArguments {
  question?: string;
  run: string;
  adapter?: string;
  model?: string;
  history?: string;
  chat: boolean;
  fastDecode: boolean;
  maxNewTokens?: number;
  json: boolean;
}

/** "Nairobi" and 0.83 as the line a person reads. */
export function answerLine(text: string, confidence: number | null): string {
  const sure =
    confidence === null ? "no confidence: the policy has no credence.json" : `${Math.round(100 * confidence)} % sure`;
  return `${text || "(no answer)"}   [${sure}]`;
}

export async function handler(args: AskArguments): Promise<void> {
  const { loadAsked, readHistory } = await import("./policy.js");
  const history: Message[] = args.history ? readHistory(args.history) : [];
  await interruptible(async (signal) => {
    await using loaded = await loadAsked({ ...args, engine: baseOptions(args), signal });
    tellFastDecode(args, loaded.model.info.device);
    const ask = async (question: string, turns: Message[]) => {
      const answer = await loaded.policy.answer(question, {
        history: turns,
        signal,
        maxNewTokens: args.maxNewTokens,
        fastDecode: args.fastDecode,
      });
      if (args.json) printJson({ question, ...answer });
      else print(answerLine(answer.text, answer.confidence));
      return answer;
    };
    if (args.question !== undefined) {
      await ask(args.question, history);
      return;
    }
    if (process.stdin.isTTY) note(`ask away; an empty line ends it${args.chat ? "" : ". Each question stands alone"}`);
    const lines = createInterface({
      input: process.stdin,
      output: process.stderr,
      prompt: "> ",
      terminal: Boolean(process.stdin.isTTY),
    });
    signal.addEventListener("abort", () => lines.close());
    lines.prompt();
    for await (const line of lines) {
      if (!line.trim()) break;
      const { text } = await ask(line.trim(), history);
      if (args.chat) history.push({ role: "user", content: line.trim() }, { role: "assistant", content: text });
      lines.prompt();
    }
    lines.close();
  });
}
