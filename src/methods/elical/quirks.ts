/** Quirks of the published code that a recipe's stages can have (`compat`), and why it cannot have the others. */
import { type ElicalCompat, elicalRows } from "./published/compat.js";
import type { ElicalRecipe } from "./recipe.js";

/** Rows by what keeps a recipe from having them; null where nothing does. */
const needs: Record<string, (recipe: ElicalRecipe) => string | null> = {
  "B9-3": ({ judge }) =>
    judge.by === "local" ? null : `it is of a judge that is a model here; judge.by is ${judge.by}`,
  "B9-9": () => null,
  "B9-10": () => null,
  "B9-11": ({ lora }) => (lora.enabled ? null : "it is of LoRA; lora.enabled is false"),
  "B9-12": ({ lora }) => (lora.enabled ? null : "it is of LoRA; lora.enabled is false"),
  "B9-13": ({ lora, heads }) =>
    lora.enabled || heads.kinds.length ? null : "it is of LoRA and heads; the recipe has neither",
  "B9-15": ({ judge }) => (judge.by === "string" ? "it is of a judge that replies; judge.by is string" : null),
  "B9-16": ({ judge }) => (judge.by === "string" ? null : `it is of string match; judge.by is ${judge.by}`),
  "B9-19": ({ heads }) => (heads.kinds.length ? null : "it is of heads alone; heads.kinds is empty"),
};

/** Rows that a recipe may have, whatever else it says. */
export const recipeRows: readonly string[] = Object.keys(needs);

/** Rows that a recipe asks for; "all": those that make a difference to it. */
export function compatOf(recipe: ElicalRecipe): ElicalCompat {
  const asked = recipe.compat === "all" ? recipeRows.filter((id) => needs[id]!(recipe) === null) : recipe.compat;
  return new Set(asked) as ElicalCompat;
}

/** Why a recipe cannot have rows that it asks for. */
export function compatProblems(recipe: ElicalRecipe): string[] {
  if (recipe.compat === "all") return [];
  return recipe.compat.flatMap((id) => {
    const row = elicalRows.find((one) => one.id === id);
    const why = !row
      ? "there is no such row"
      : Object.hasOwn(needs, id)
        ? needs[id]!(recipe)
        : row.commands.length > 0
          ? `it makes no difference to a recipe, only to credence elical ${row.commands.join(", ")}`
          : `it has no switch; here ${row.here}`;
    return why === null ? [] : [`compat: ${id}: ${why}. Give all, or some of ${recipeRows.join(", ")}`];
  });
}
