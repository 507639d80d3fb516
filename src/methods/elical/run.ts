/** An EliCal run from its recipe to its summary. */
import { type RecipeRunOptions, runStages } from "../run.js";
import type { ElicalRecipe } from "./recipe.js";
import { elicalStages } from "./stages.js";
import type { ElicalSummary } from "./summary.js";

/**
 * Runs what is not done yet.
 *
 * @throws CredenceError "ABORTED" when the signal fires: the same call goes on from there
 */
export function runElical(recipe: ElicalRecipe, options: RecipeRunOptions): Promise<ElicalSummary> {
  const { engine, judging } = options;
  return runStages<ElicalSummary>(recipe, options, (model, addon) =>
    elicalStages({
      recipe,
      model,
      fit: (problem) => addon.fitLogistic({ ...problem, isa: model.info.isa }),
      engine,
      addon,
      judging,
    }),
  );
}
