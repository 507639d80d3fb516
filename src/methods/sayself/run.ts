/** A run of SaySelf from its recipe to its summary. */
import { reinforcementStages } from "../ppo/stages.js";
import type { ReinforcementSummary } from "../ppo/summary.js";
import { type RecipeRunOptions, runStages } from "../run.js";
import type { SaySelfRecipe } from "./recipe.js";
import { byReflection } from "./stages.js";

export type SaySelfSummary = ReinforcementSummary<SaySelfRecipe>;

/**
 * Runs what is not done yet.
 *
 * @throws CredenceError "ABORTED" when the signal fires: the same call goes on from there
 */
export function runSaySelf(recipe: SaySelfRecipe, options: RecipeRunOptions): Promise<SaySelfSummary> {
  return runStages<SaySelfSummary>(recipe, options, (model, { fitLogistic }) =>
    reinforcementStages({ ...byReflection(recipe, model, fitLogistic), model }),
  );
}
