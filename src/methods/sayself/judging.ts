/** Scores of responses, from 1 to 10: what a model is asked for, how its reply is read, and a judge that looks at words alone. */
import { CredenceError } from "../../errors.js";
import type { Judge, Verdict } from "../../evaluation/judges/judge.js";
import type { Responder } from "../../evaluation/judges/responder.js";
import type { ServerOptions } from "../../remote/chat-server.js";
import type { SaySelfCompat } from "./compat.js";
import { type Gold, isRight, isRightAsPublished } from "./correctness.js";

/** A response, and the answers that it is held against. */
export interface ResponseToJudge extends Gold {
  question: string;
  response: string;
}

/**
 * What earns a score. "reasoning", as published: a response that gives the answer without a reason for it has 1, right or not.
 * "answer": the answer alone counts.
 */
export type Criterion = "reasoning" | "answer";

/** The request to a judge, with the best answer alone, as published. The wording is our own. */
export function scoreRequest({ question, response, answers }: ResponseToJudge, criterion: Criterion): string {
  return [
    "Below are a question, a response to it, and the right answer. How well does the response agree with the right answer?",
    "Give a whole number from 1 (it answers something else, or nothing) to 10 (it gives the right answer).",
    ...(criterion === "reasoning"
      ? ["A response that gives an answer and no reasoning that leads to it gets 1, even where the answer is right."]
      : []),
    "Compare the two texts only: what you know yourself about the question does not count.",
    `Question: ${question}`,
    `Response: ${response}`,
    `Right answer: ${answers[0] ?? ""}`,
    'Reply with one line: "Score: " and the number.',
  ].join("\n");
}

/** Put behind a request whose reply held no score: another request, so that a judge which always says the same says another thing. */
const reminders = [
  "",
  '\nYour reply must hold one line that reads "Score: " and a whole number from 1 to 10.',
  '\nWrite nothing but "Score: " and a whole number from 1 to 10.',
];

/** How often a judge is asked for a score at most, as published. */
export const judgeTries = reminders.length;

const outOfTen = /\s*(?:\/|out of)\s*10(?!\d|\.\d)/gi;
const number = /(?<![\w.,-])\d+(?:\.\d+)?(?![\w%]|[.,]\d)/g;

/** A reply's score: the one number from 1 to 10 behind its last "Score:", or that is all of the reply; null where there is none. */
export function readScore(reply: string): number | null {
  const label = /(?<![a-z])score[\s*_]*[:=]?/gi;
  const labelled = [...reply.matchAll(label)].at(-1);
  const text = (
    labelled
      ? reply
          .slice(labelled.index + labelled[0].length)
          .trimStart()
          .split("\n")[0]!
      : reply
  ).replace(outOfTen, "");
  if (!labelled && /[a-z]/i.test(text)) return null;
  const found = new Set((text.match(number) ?? []).map(Number));
  const [value] = found;
  return found.size === 1 && value! >= 1 && value! <= 10 ? value! : null;
}

/** Responses judged before the first of them is yielded. */
const together = 64;

/** A model that scores. One that gives none is asked `judgeTries` times, each time more plainly. */
export function scoringJudge(responder: Responder, criterion: Criterion = "reasoning"): Judge<ResponseToJudge> {
  async function scores(items: readonly ResponseToJudge[], signal?: AbortSignal): Promise<Verdict[]> {
    const verdicts: Verdict[] = items.map(() => ({ value: null }));
    for (const reminder of reminders) {
      const open = verdicts.flatMap(({ value }, i) => (value === null ? [i] : []));
      if (open.length === 0) break;
      let next = 0;
      const requests = open.map((i) => scoreRequest(items[i]!, criterion) + reminder);
      for await (const { text } of responder.replies(requests, signal)) {
        verdicts[open[next]!] = { value: readScore(text), reply: text };
        next += 1;
      }
      if (next < open.length)
        throw new CredenceError(
          "ABORTED",
          "stopped while judging; replies that came are kept where a folder for them was named",
        );
    }
    return verdicts;
  }
  return {
    name: responder.name,
    async *judge(items, { signal } = {}) {
      const all = [...items];
      for (let from = 0; from < all.length; from += together)
        yield* await scores(all.slice(from, from + together), signal);
    },
  };
}

/**
 * Scores by words, without a model: 10 where the text under "Answer:" is right, else 0. As published in training (B9-4) where the
 * best answer stands anywhere in the response.
 */
export function stringScore(compat: SaySelfCompat = new Set()): Judge<ResponseToJudge> {
  return {
    name: "string match",
    async *judge(items, { signal } = {}) {
      for (const item of items) {
        signal?.throwIfAborted();
        const right = compat.has("B9-4")
          ? isRightAsPublished(item.response, item.answers[0] ?? "")
          : isRight(item.response, item);
        yield { value: right ? 10 : 0 };
      }
    },
  };
}

/**
 * The server that the published code asks, by its environment variables: OPENAI_DEPLOYMENT_NAME (the model), OPENAI_API_KEY, and
 * for a deployment on Azure OPENAI_AZURE_ENDPOINT and OPENAI_API_VERSION; without those two OpenAI's own.
 *
 * @throws CredenceError "USAGE" naming the variable that is missing
 */
export function publishedServer(
  variables: Readonly<Record<string, string | undefined>> = process.env,
): Pick<ServerOptions, "url" | "model" | "keyVariable" | "apiVersion"> {
  const { OPENAI_DEPLOYMENT_NAME: model, OPENAI_AZURE_ENDPOINT: azure, OPENAI_API_VERSION: apiVersion } = variables;
  const missing = (name: string, why: string) =>
    new CredenceError("USAGE", `the environment variable ${name} is not set: ${why}`);
  if (!model) throw missing("OPENAI_DEPLOYMENT_NAME", "it names the model that judges");
  const keyVariable = "OPENAI_API_KEY";
  if (!variables[keyVariable]) throw missing(keyVariable, "it holds the server's key");
  if (!azure && !apiVersion) return { url: "https://api.openai.com/v1", model, keyVariable };
  if (!azure) throw missing("OPENAI_AZURE_ENDPOINT", "OPENAI_API_VERSION is, so the model is on Azure");
  if (!apiVersion) throw missing("OPENAI_API_VERSION", "OPENAI_AZURE_ENDPOINT is, so the model is on Azure");
  const url = `${azure.replace(/\/+$/, "")}/openai/deployments/${encodeURIComponent(model)}`;
  return { url, model, keyVariable, apiVersion };
}
