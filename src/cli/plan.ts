/** What running a recipe here would do and take, before it does. */
import type { Argv } from "yargs";
import type { PlannedJudging } from "../methods/elical/judging.js";
import type { ElicalPlan } from "../methods/elical/preflight.js";
import { interruptible } from "./interrupt.js";
import { judgeServer, judgingOptions, type ServerArguments } from "./judge.js";
import { baseOptions, type EngineArguments, engineOptions, modelOption, positiveInteger } from "./options.js";
import { note, print, printJson, table } from "./output.js";

export const command = "plan <recipe>";
export const describe =
  "Look ahead at a recipe: rows, what would be refused, the chat template, memory and time on this machine; touches nothing";
export const builder = (line: Argv) =>
  line
    .positional("recipe", { type: "string", demandOption: true, describe: "A preset's name, or a YAML file" })
    .options({
      ...modelOption,
      ...engineOptions,
      set: {
        type: "string",
        array: true,
        requiresArg: true,
        default: [] as string[],
        describe: "Change one option: path=value, e.g. questions.limit=120",
      },
      seeds: { type: "number", describe: "As for run", coerce: positiveInteger("seeds") },
      folds: { type: "number", describe: "As for run", coerce: positiveInteger("folds") },
      "price-in": judgingOptions["price-in"],
      "price-out": judgingOptions["price-out"],
      time: { type: "boolean", default: true, describe: "Measure some passes to predict time; --no-time: memory only" },
    });

interface PlanArguments extends EngineArguments, Pick<ServerArguments, "priceIn" | "priceOut"> {
  recipe: string;
  set: string[];
  model?: string;
  seeds?: number;
  folds?: number;
  time: boolean;
  json: boolean;
}

export async function handler(args: PlanArguments): Promise<void> {
  const { loadRecipe, parseSetting, planRecipe } = await import("../methods/recipes.js");
  const settings = args.set.map(parseSetting);
  for (const name of ["model", "seeds", "folds"] as const)
    if (args[name] !== undefined) settings.push([name, args[name]]);
  const recipe = loadRecipe(args.recipe, settings);
  const plan = await interruptible((signal) =>
    planRecipe(recipe, { engine: baseOptions(args), judging: judgeServer(args), probe: args.time, note, signal }),
  );
  if (args.json) printJson(plan);
  else print(planText(plan));
}

const bytes = (count: number): string =>
  count >= 1e9 ? `${(count / 1e9).toFixed(2)} GB` : `${(count / 1e6).toFixed(1)} MB`;

const time = (seconds: number | null): string =>
  seconds === null ? "-" : seconds < 100 ? `${seconds.toFixed(1)} s` : `${(seconds / 60).toFixed(1)} min`;

function planText(plan: ElicalPlan): string {
  const { model, questions, template, stages } = plan;
  const rows: (string | number)[][] = [
    ["stage", "does", "rows", "tokens", "refused", "supervised", "engine", "process", "time"],
    ...stages.map(({ name, does, rows, tokens, refused, supervisedShare, engineBytes, processBytes, seconds }) => [
      name,
      does,
      rows,
      tokens ? `${tokens.min} to ${tokens.max}, median ${tokens.median}` : "",
      tokens || refused ? refused : "",
      supervisedShare === null ? "" : `${(100 * supervisedShare).toFixed(1)} %`,
      bytes(engineBytes),
      bytes(processBytes),
      time(seconds),
    ]),
  ];
  const refused = stages.filter((stage) => stage.refused > 0);
  const fitted = [...new Set(stages.flatMap((stage) => stage.fitted.map((choice) => `${stage.name}: ${choice}`)))];
  const open = plan.seconds === null ? [] : stages.filter(({ seconds }) => seconds === null).map(({ name }) => name);
  const unknown = open.length ? `, and what ${open.join(", ")} takes, which is not known here` : "";
  return [
    `${model.name} on ${model.device}, ${model.isa}, ${model.dtype}; context ${model.contextLength} tokens`,
    `${questions.total} questions: ${questions.train} to learn from, ${questions.test} held out; ${questions.leftOut} left out because their answer stands in them`,
    "",
    table(rows),
    "",
    ...refused.map(({ name, refused, tokens }) => {
      const longest = tokens ? `, the longest of ${tokens.max} tokens` : "";
      return `REFUSED in ${name}: ${refused} rows are longer than the context${longest}. The run would stop there; leave them out`;
    }),
    ...stages.flatMap(({ name, judge }) => (judge ? [judgeLine(name, judge)] : [])),
    ...fitted,
    `Largest memory: engine ${bytes(plan.engineBytes)}, process ${bytes(plan.processBytes)}${plan.maxMemory === null ? "" : `, limit of the engine ${bytes(plan.maxMemory)}`}. Time: ${time(plan.seconds)}${unknown}. No row is cut.`,
    "",
    ...templateText(template),
  ].join("\n");
}

/** What a judge is asked, in a line. */
function judgeLine(stage: string, { judge, url, requests, inputTokens, outputTokens, cost }: PlannedJudging): string {
  const grouped = (value: number) => value.toLocaleString("en-US");
  const where = url === undefined ? judge : `${judge} at ${url}`;
  const price = cost === null ? "" : `, cost ${cost.toFixed(4)}`;
  return `${stage} asks ${where}: at most ${grouped(requests)} requests, ${grouped(inputTokens)} tokens in and ${grouped(outputTokens)} out${price}; equal requests are one`;
}

function templateText({
  rendered,
  bos,
  eos,
  generationPrompt,
  defaultSystem,
  turns,
  problems,
}: ElicalPlan["template"]) {
  const lines = ["The chat template, on an example:"];
  if (rendered !== null) {
    lines.push(
      ...rendered
        .trimEnd()
        .split("\n")
        .map((line) => `  | ${line}`),
      `  begins with ${bos.token ?? "no token of its own"}${bos.at.length ? ` (token ${bos.at.join(", ")})` : " (not in the text)"}; turns end with ${eos.tokens.join(" or ")} (tokens ${eos.at.join(", ")})`,
      `  an answer begins after ${JSON.stringify(generationPrompt)}; ${defaultSystem ? "a system turn is put in front by default" : "no system turn by default"}`,
      ...turns.map(
        ({ supervised, exact }) => `  learnt: ${JSON.stringify(supervised)}${exact ? "" : " (not exactly the turn)"}`,
      ),
    );
  }
  lines.push(...(problems.length ? problems.map((problem) => `  PROBLEM: ${problem}`) : ["  nothing wrong with it"]));
  return lines;
}
