/** Recipes: a preset's name, a YAML file, or a plain object; settings changed one by one; all checked by the method. */
import { existsSync } from "node:fs";
import { extname } from "node:path";
import { fileURLToPath } from "node:url";
import { parse, parseDocument } from "yaml";
import type { ZodType } from "zod";
import { CredenceError } from "../errors.js";
import { readText } from "../files.js";
import { zodProblems } from "../model/card.js";
import { type ConqordRecipe, conqordProblems, conqordRecipeSchema } from "./conqord/recipe.js";
import type { ConqordSummary } from "./conqord/run.js";
import type { ElicalPlan, PlanOptions } from "./elical/preflight.js";
import { type ElicalRecipe, elicalSchema, recipeProblems } from "./elical/recipe.js";
import type { ElicalSummary } from "./elical/summary.js";
import { type PpoRecipe, ppoRecipeSchema, reinforcementProblems } from "./ppo/recipe.js";
import type { PpoSummary, ReinforcementSummary } from "./ppo/summary.js";
import { type RecipeRunOptions, readSummary } from "./run.js";
import { type SaySelfRecipe, saySelfProblems, saySelfRecipeSchema } from "./sayself/recipe.js";
import type { SaySelfSummary } from "./sayself/run.js";

export type Recipe = ElicalRecipe | PpoRecipe | ConqordRecipe | SaySelfRecipe;
/** What a run ends with: `recipe.method` says which. */
export type RecipeSummary = ElicalSummary | PpoSummary | ConqordSummary | SaySelfSummary;

interface Method<Of extends Recipe, Summary> {
  schema: ZodType<Of>;
  /** What a single setting cannot tell. */
  problems(recipe: Of): string[];
  /** Loads what it needs when it is called. */
  run(recipe: Of, options: RecipeRunOptions): Promise<Summary>;
  /** The table a terminal shows. */
  text(summary: Summary, directory: string): Promise<string>;
  report(directory: string, summary: Summary): Promise<string>;
}

/** How what reinforcement did is shown, whatever earned. */
const reinforcement = {
  text: async (summary: ReinforcementSummary, directory: string) =>
    (await import("./ppo/summary.js")).reinforcementText(summary, directory),
  report: async (directory: string, summary: ReinforcementSummary) =>
    (await import("./ppo/report.js")).writeReport(directory, summary),
};

const methods: {
  elical: Method<ElicalRecipe, ElicalSummary>;
  ppo: Method<PpoRecipe, PpoSummary>;
  conqord: Method<ConqordRecipe, ConqordSummary>;
  sayself: Method<SaySelfRecipe, SaySelfSummary>;
} = {
  elical: {
    schema: elicalSchema,
    problems: recipeProblems,
    run: async (recipe, options) => (await import("./elical/run.js")).runElical(recipe, options),
    text: async (summary, directory) => (await import("./elical/summary.js")).summaryText(summary, directory),
    report: async (directory, summary) => (await import("./elical/report.js")).writeElicalReport(directory, summary),
  },
  ppo: {
    schema: ppoRecipeSchema,
    problems: reinforcementProblems,
    run: async (recipe, options) => (await import("./ppo/run.js")).runPpo(recipe, options),
    ...reinforcement,
  },
  conqord: {
    schema: conqordRecipeSchema,
    problems: conqordProblems,
    run: async (recipe, options) => (await import("./conqord/run.js")).runConqord(recipe, options),
    ...reinforcement,
  },
  sayself: {
    schema: saySelfRecipeSchema,
    problems: saySelfProblems,
    run: async (recipe, options) => (await import("./sayself/run.js")).runSaySelf(recipe, options),
    text: reinforcement.text,
    report: async (directory, summary) => {
      const { rationaleSections } = await import("./sayself/shown.js");
      return (await import("./ppo/report.js")).writeReport(directory, summary, rationaleSections(directory));
    },
  },
};

const methodOf = (name: Recipe["method"]) => methods[name] as unknown as Method<Recipe, RecipeSummary>;

/** Presets that come with the package: src/methods/presets/NAME.yaml. */
export const presets = [
  "ppo/quickstart",
  "conqord/quickstart",
  "sayself/quickstart",
  "elical/quickstart",
  "elical/qwen2.5-7b",
  "elical/qwen2.5-14b",
  "elical/llama3-8b",
  "elical/published",
] as const;

/** One change, as `--set path.to.option=value` gives it; the value is YAML. */
export type Setting = [path: string, value: unknown];

/** Reads "questions.limit=120" as a setting. */
export function parseSetting(text: string): Setting {
  const at = text.indexOf("=");
  if (at < 1) throw new CredenceError("USAGE", `--set ${text}: expected path=value, e.g. --set questions.limit=120`);
  try {
    return [text.slice(0, at).trim(), parse(text.slice(at + 1))];
  } catch (error) {
    throw new CredenceError("USAGE", `--set ${text}: ${(error as Error).message}`, { cause: error });
  }
}

function change(recipe: Record<string, unknown>, [path, value]: Setting): void {
  const names = path.split(".");
  let at = recipe;
  for (const name of names.slice(0, -1)) {
    const inner = at[name] ?? {};
    if (typeof inner !== "object" || Array.isArray(inner))
      throw new CredenceError("BAD_RECIPE", `${path}: ${name} holds no options of its own`);
    at[name] = { ...inner };
    at = at[name] as Record<string, unknown>;
  }
  at[names.at(-1)!] = value;
}

/** A YAML text's value. What the parser only warns of (an unknown tag) is an error too: it means something else here. */
function parseYaml(text: string, where: string): unknown {
  try {
    const document = parseDocument(text, { stringKeys: true });
    const problem = document.errors[0] ?? document.warnings[0];
    if (problem) throw problem;
    return document.toJS();
  } catch (error) {
    throw new CredenceError("BAD_RECIPE", `${where}: ${(error as Error).message}`, { cause: error });
  }
}

/** Checks settings against their method and fills in the defaults. */
export function checkRecipe(recipe: unknown, where = "recipe"): Recipe {
  const method = (recipe as { method?: unknown } | null)?.method;
  if (typeof method !== "string" || !Object.hasOwn(methods, method)) {
    throw new CredenceError(
      "BAD_RECIPE",
      `${where}: method is ${JSON.stringify(method)}; expected one of ${Object.keys(methods).join(", ")}`,
    );
  }
  const { schema, problems: problemsOf } = methodOf(method as Recipe["method"]);
  const result = schema.safeParse(recipe);
  if (!result.success) throw new CredenceError("BAD_RECIPE", `${where}: ${zodProblems(result.error)}`);
  const checked = result.data;
  const problems = problemsOf(checked);
  if (problems.length) throw new CredenceError("BAD_RECIPE", `${where}: ${problems.join("; ")}`);
  return checked;
}

/**
 * A recipe by a preset's name, the path of a YAML file, or as an object, with settings changed.
 *
 * @throws CredenceError "BAD_RECIPE" naming each option that is unknown or wrong, by its path
 */
export function loadRecipe(
  recipe: `elical/${string}` | ({ method: "elical" } & Record<string, unknown>),
  settings?: Setting[],
): ElicalRecipe;
export function loadRecipe(
  recipe: `ppo/${string}` | ({ method: "ppo" } & Record<string, unknown>),
  settings?: Setting[],
): PpoRecipe;
export function loadRecipe(
  recipe: `conqord/${string}` | ({ method: "conqord" } & Record<string, unknown>),
  settings?: Setting[],
): ConqordRecipe;
export function loadRecipe(
  recipe: `sayself/${string}` | ({ method: "sayself" } & Record<string, unknown>),
  settings?: Setting[],
): SaySelfRecipe;
export function loadRecipe(recipe: string | Record<string, unknown>, settings?: Setting[]): Recipe;
export function loadRecipe(recipe: string | Record<string, unknown>, settings: Setting[] = []): Recipe {
  let plain: unknown = structuredClone(recipe);
  let where = "recipe";
  if (typeof recipe === "string") {
    where = recipe;
    const isFile = [".yaml", ".yml", ".json"].includes(extname(recipe)) || existsSync(recipe);
    if (!isFile && !(presets as readonly string[]).includes(recipe)) {
      throw new CredenceError(
        "NO_RECIPE",
        `there is no recipe ${recipe}. Give a YAML file, or one of: ${presets.join(", ")}`,
      );
    }
    plain = parseYaml(
      readText(isFile ? recipe : fileURLToPath(new URL(`./presets/${recipe}.yaml`, import.meta.url))),
      recipe,
    );
  }
  if (typeof plain !== "object" || plain === null || Array.isArray(plain))
    throw new CredenceError("BAD_RECIPE", `${where}: expected options by name`);
  for (const setting of settings) change(plain as Record<string, unknown>, setting);
  return checkRecipe(plain, where);
}

/**
 * What running a recipe here would do and take; nothing is written.
 *
 * @throws CredenceError "USAGE" for a method that cannot look ahead yet
 */
export async function planRecipe(recipe: Recipe, options: PlanOptions = {}): Promise<ElicalPlan> {
  if (recipe.method !== "elical")
    throw new CredenceError("USAGE", `plan looks ahead at elical recipes; this one is of ${recipe.method}. Run it`);
  return (await import("./elical/preflight.js")).planElical(recipe, options);
}

/** Runs a recipe in a run folder, or goes on there. */
export function runRecipe(recipe: ElicalRecipe, options: RecipeRunOptions): Promise<ElicalSummary>;
export function runRecipe(recipe: PpoRecipe, options: RecipeRunOptions): Promise<PpoSummary>;
export function runRecipe(recipe: ConqordRecipe, options: RecipeRunOptions): Promise<ConqordSummary>;
export function runRecipe(recipe: SaySelfRecipe, options: RecipeRunOptions): Promise<SaySelfSummary>;
export function runRecipe(recipe: Recipe, options: RecipeRunOptions): Promise<RecipeSummary>;
export function runRecipe(recipe: Recipe, options: RecipeRunOptions): Promise<RecipeSummary> {
  return methodOf(recipe.method).run(recipe, options);
}

/** summary.json of a run that is done. */
export const summaryOf = (directory: string): RecipeSummary => readSummary<RecipeSummary>(directory);

/** The table a terminal shows of a run. */
export const summaryText = (summary: RecipeSummary, directory: string): Promise<string> =>
  methodOf(summary.recipe.method).text(summary, directory);

/** report.html of a run, as text. */
export const reportOf = (directory: string, summary: RecipeSummary): Promise<string> =>
  methodOf(summary.recipe.method).report(directory, summary);
