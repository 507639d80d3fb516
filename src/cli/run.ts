/** A recipe's stages in order, in a run folder; started again on the same folder it goes on. */
import { basename, extname, join } from "node:path";
import type { Argv } from "yargs";
import { interruptible } from "./interrupt.js";
import { judgeServer, judgingOptions, type ServerArguments } from "./judge.js";
import { baseOptions, type EngineArguments, engineOptions, modelOption, positiveInteger } from "./options.js";
import { logs, print, printJson, UsageError } from "./output.js";

export const command = "run <recipe>";
export const describe =
  "Run a recipe (a preset such as elical/quickstart or ppo/quickstart, or a YAML file); again on the same folder it goes on";
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
      "run-dir": {
        type: "string",
        requiresArg: true,
        describe: "The run's folder [default: runs/ and the recipe's name]",
      },
      seeds: {
        type: "number",
        describe: "Seeds of labels and training [default: the recipe's]",
        coerce: positiveInteger("seeds"),
      },
      folds: {
        type: "number",
        describe: "Test every question once, in so many folds [default: the recipe's]",
        coerce: positiveInteger("folds"),
      },
      ...Object.fromEntries(
        Object.entries(judgingOptions).map(([name, option]) => [name, { ...option, group: "A judge on a server:" }]),
      ),
      "resume-inexact": {
        type: "boolean",
        default: false,
        describe: "Go on with a run that another machine began: as good, but not the same bits",
      },
    });

interface RunArguments extends EngineArguments, ServerArguments {
  recipe: string;
  set: string[];
  model?: string;
  runDir?: string;
  seeds?: number;
  folds?: number;
  resumeInexact: boolean;
  json: boolean;
}

export async function handler(args: RunArguments): Promise<void> {
  const { loadRecipe, parseSetting, presets, runRecipe, summaryText } = await import("../methods/recipes.js");
  const { progressOn, silent } = await import("../tracking/progress.js");
  const settings = args.set.map(parseSetting);
  for (const name of ["model", "seeds", "folds"] as const)
    if (args[name] !== undefined) settings.push([name, args[name]]);
  const recipe = loadRecipe(args.recipe, settings);
  const isPreset = (presets as readonly string[]).includes(args.recipe);
  const directory = args.runDir ?? join("runs", isPreset ? args.recipe : basename(args.recipe, extname(args.recipe)));
  const progress = logs("info") ? progressOn() : silent;
  const unused = (["keyVariable", "priceIn", "priceOut"] as const).some((name) => args[name] !== undefined);
  const judge = recipe.method === "elical" ? recipe.judge.by : "string";
  if (unused && judge !== "server")
    throw new UsageError("--key-variable, --price-in and --price-out are of a server; the recipe's judge is none");
  if (args.answers !== undefined && judge === "string")
    throw new UsageError("--answers: the recipe's judge is no model that replies; set judge.by to local or server");
  const judging = { ...judgeServer(args), ...(args.answers === undefined ? {} : { answers: args.answers }) };
  const options = { directory, progress, engine: baseOptions(args), judging, resumeInexact: args.resumeInexact };
  const summary = await interruptible((signal) => runRecipe(recipe, { ...options, signal }));
  if (args.json) printJson(summary);
  else print(await summaryText(summary, directory));
}
