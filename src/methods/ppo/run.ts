/** Reinforcement by a scoring rule of the stated confidence, from its recipe to its summary. */
import { confidenceReward } from "../../rewards/reward.js";
import type { AskedQuestion } from "../questions.js";
import { type RecipeRunOptions, runStages } from "../run.js";
import type { PpoRecipe } from "./recipe.js";
import { labelledForm, rightAs } from "./speaking.js";
import { type Reinforcement, randomly, reinforcementStages } from "./stages.js";
import type { PpoSummary } from "./summary.js";

function byRule(recipe: PpoRecipe): Reinforcement {
  const { partsOf } = labelledForm;
  const reward = confidenceReward<AskedQuestion>({
    ...recipe.reward,
    confidence: (completion) => partsOf(completion).confidence,
    correct: (_, completion, { answer }) => rightAs[recipe.right](answer, partsOf(completion).answer),
    answerEnd: (completion) => partsOf(completion).end,
  });
  return {
    recipe,
    form: labelledForm,
    lessons: randomly(recipe, labelledForm),
    earning: async () => ({ reward }),
    aims: [
      { metric: "brier", says: "the Brier score falls" },
      { metric: "auroc", says: "AUROC rises" },
    ],
  };
}

/**
 * Runs what is not done yet.
 *
 * @throws CredenceError "ABORTED" when the signal fires: the same call goes on from there
 */
export function runPpo(recipe: PpoRecipe, options: RecipeRunOptions): Promise<PpoSummary> {
  return runStages<PpoSummary>(recipe, options, (model) => reinforcementStages({ ...byRule(recipe), model }));
}
