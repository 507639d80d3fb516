/** What CONQORD's order-preserving term does on a planted problem: with it confidences stand in the order of quality. */
import { join } from "node:path";
import t from "tap";
import { spearman } from "../src/evaluation/correlation.js";
import { native } from "../src/native.js";
import { Model } from "../src/policy/model.js";
import { conqordTerm } from "../src/rewards/batch-terms.js";
import type { NamedReward } from "../src/rewards/reward.js";
import type { PpoOptions } from "../src/training/ppo/settings.js";
import {
  type Planted,
  plantedPrompts,
  plantedShares,
  plantedWords,
  statedBy,
  teachPlanted,
} from "./fixtures/planted.js";
import { writeTinyModel } from "./fixtures/tiny-model.js";

const folder = t.testdir();
const isa = native().machine().isas.includes("avx2") ? "avx2" : "auto";
const modelPath = writeTinyModel(join(folder, "model"), { words: plantedWords, sharpness: 4 });
const model = await Model.load(modelPath, { isa, dtype: "f32", threads: 1 });
t.teardown(() => model.dispose());

/** The quality of an answer is what is planted for its kind, whatever confidence it states. */
const quality: NamedReward<Planted> = {
  name: "planted",
  score: (_prompt, completion, { share }) => {
    const confidence = statedBy(completion);
    return confidence === null ? { reward: -2, confidence: 0 } : { reward: share, confidence };
  },
};

const options: PpoOptions = {
  iterations: 40,
  rollout: { prompts: 4, samples: 64, newTokens: 1 },
  loss: { entropyCoefficient: 0.2, valueCoefficient: 1 },
  optimizer: { learningRate: 1e-2, schedule: "linear", warmup: 0.05 },
  checkpointEvery: 1000,
};

/**
 * Spearman's correlation of the planted qualities and what is stated for each kind, the mean of 200 answers. (Of single answers it
 * would be .894 at most: the term is not proper, and at its best says 0 to the two poorer kinds and 1 to the two better.)
 */
async function orderLearnt(alpha: number, seed: number): Promise<number> {
  const { policy } = await teachPlanted(
    model,
    join(folder, `${alpha}-${seed}`),
    "brier",
    { ...options, seed },
    {
      reward: quality,
      batchTerm: conqordTerm({ alpha, reduce: "mean" }),
    },
  );
  const stated = plantedShares.map(() => 0);
  const prompts = plantedPrompts(model).map(({ tokens }) => tokens);
  for await (const { prompt, text } of policy.generate(prompts, {
    samples: 200,
    maxNewTokens: 1,
    temperature: 1,
    seed,
  }))
    stated[prompt]! += (statedBy(text) ?? 0) / 200;
  await policy.dispose();
  return spearman(plantedShares, stated)!;
}

t.test("confidences come in the order of quality with the term, and not without", { timeout: 300_000 }, async (t) => {
  const seeds = [0, 1, 2];
  for (const seed of seeds) t.ok((await orderLearnt(0.4, seed)) >= 0.9, `alpha 0.4, seed ${seed}`);
  let without = 0;
  for (const seed of seeds) without += (await orderLearnt(0, seed)) / seeds.length;
  t.ok(without < 0.5, `alpha 0: ${without} in the mean over seeds`);
});
