/** A reinforcement run from its recipe to its summary. */
import { type RecipeRunOptions, runStages } from "../run.js";
import type { PpoRecipe } from "./recipe.js";
import { ppoStages } from "./stages.js";
import type { PpoSummary } from "./summary.js";

/**
 * Runs what is not done yet.
 *
 * @throws CredenceError "ABORTED" when the signal fires: the same call goes on from there
 */
export function runPpo(recipe: PpoRecipe, options: RecipeRunOptions): Promise<PpoSummary> {
  return runStages<PpoSummary>(recipe, options, (model) => ppoStages({ recipe, model }));
}
