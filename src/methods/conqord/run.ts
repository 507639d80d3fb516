/** A run of CONQORD from its recipe to its summary. */
import { reinforcementStages } from "../ppo/stages.js";
import type { ReinforcementSummary } from "../ppo/summary.js";
import { type RecipeRunOptions, runStages } from "../run.js";
import type { ConqordRecipe } from "./recipe.js";
import { byOrder } from "./stages.js";

export type ConqordSummary = ReinforcementSummary<ConqordRecipe>;

/**
 * Runs what is not done yet.
 *
 * @throws CredenceError "ABORTED" when the signal fires: the same call goes on from there
 */
export function runConqord(recipe: ConqordRecipe, options: RecipeRunOptions): Promise<ConqordSummary> {
  return runStages<ConqordSummary>(recipe, options, (model) =>
    reinforcementStages({ ...byOrder(recipe, model), model }),
  );
}
