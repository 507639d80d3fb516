/** Reinforcement with a critic of its own: an adapter and a head beside the policy's, on the same base. */
import { join } from "node:path";
import { Worker } from "node:worker_threads";
import t from "tap";
import { readPolicyTensors } from "../src/model/policy-folder.js";
import type { AdapterSpec } from "../src/native.js";
import { Model } from "../src/policy/model.js";
import { scoreRollouts } from "../src/training/ppo/passes.js";
import { type PpoTraining, trainPpo } from "../src/training/ppo/ppo.js";
import type { PpoOptions } from "../src/training/ppo/settings.js";
import { plantedWords } from "./fixtures/planted.js";
import type { PlantedJob, PlantedOutcome } from "./fixtures/planted-worker.js";
import { metricsOf, runBytes } from "./fixtures/runs.js";
import { writeTinyModel } from "./fixtures/tiny-model.js";
import { lateRed, type TinyPpoData, tinyPpo, valueHeads } from "./fixtures/tiny-ppo.js";

const folder = t.testdir();
const modelPath = writeTinyModel(join(folder, "model"), { words: plantedWords, sharpness: 4 });
const model = await Model.load(modelPath, { dtype: "f32", threads: 1 });
t.teardown(() => model.dispose());

const adapter: AdapterSpec = { rank: 4, alpha: 8, targets: ["q", "v", "gate", "down"], seed: 9 };
const critic = (checkpoint: string | undefined) => model.policy({ adapter: checkpoint ?? adapter, heads: valueHeads });

/** The policy has no head; the critic has its own. */
const job = async (directory: string, options: PpoOptions = {}, more: Partial<PpoTraining<TinyPpoData>> = {}) =>
  tinyPpo(model, directory, options, {
    policy: (checkpoint) => model.policy({ adapter: checkpoint ?? { ...adapter, seed: 3 } }),
    critic,
    ...more,
  });
const run = async (training: PpoTraining<TinyPpoData>) => (await trainPpo(training)).dispose();
const best = (directory: string, ...more: string[]) => readPolicyTensors(join(directory, "best", ...more));

t.test("it learns with settings of its own, and does not touch the policy", async (t) => {
  const options: PpoOptions = { iterations: 1, epochs: 1, miniBatches: 1 };
  const rates = [undefined, 1e-3, 1e-1] as const;
  const directories = rates.map((rate) => join(folder, `rate-${rate}`));
  for (const [i, learningRate] of rates.entries())
    await run(
      await job(directories[i]!, {
        ...options,
        criticOptimizer: learningRate === undefined ? null : { learningRate },
      }),
    );
  const [own, low, high] = directories as [string, string, string];
  t.same(best(low), best(high), "one step of the policy is the same whatever its critic learns from it");
  t.same(best(own), best(high));
  t.notSame(best(low, "critic"), best(high, "critic"));
  t.same(best(own).heads, []);
  for (const [i, directory] of directories.entries()) {
    const [told] = metricsOf(directory);
    t.match(told, { learningRate: 1e-2, criticLearningRate: rates[i] ?? 1e-2, firstRatioChange: 0 });
    t.ok(told!.criticGradientNorm! > 0 && told!.valueLoss! > 0);
  }
});

t.test("it goes on from a folder, and comes nearer to the returns", async (t) => {
  const directory = join(folder, "nearer");
  // The policy all but stands still: what it earns would otherwise rise, and the values would have to follow.
  const still = { optimizer: { learningRate: 1e-9 }, criticOptimizer: { learningRate: 1e-2 } };
  await run(
    await job(directory, { ...still, iterations: 25, loss: { valueClip: null }, score: { normalise: "none" } }),
  );
  const lines = metricsOf(directory);
  const mean = (from: number) => lines.slice(from, from + 8).reduce((sum, { valueLoss }) => sum + valueLoss! / 8, 0);
  t.ok(mean(17) < 0.7 * mean(0), `${mean(0)} at first, ${mean(17)} at last`);
  // Another training begins with what this one's critic has learnt.
  const from = join(directory, "best", "critic");
  const next = join(folder, "next");
  const read: number[][] = [];
  const training = await job(
    next,
    { iterations: 1 },
    {
      critic: async (checkpoint) => {
        const policy = await critic(checkpoint ?? from);
        const { forward } = policy;
        policy.forward = async (...asked) => {
          const result = await forward.apply(policy, asked);
          if (result.values) read.push(Array.from(result.values));
          return result;
        };
        return policy;
      },
    },
  );
  await run(training);
  const loaded = await critic(from);
  t.teardown(() => loaded.dispose());
  const rollout = { group: 0, sample: 0, tokens: training.prompts[1]!.tokens, logprobs: new Float32Array(), text: "" };
  const parts = [{ prompt: training.prompts[0]!.tokens, rollouts: [{ ...rollout, finish: "stop" as const }] }];
  const [scored] = (await scoreRollouts(loaded, parts, { head: "value", budget: 1000 })).values();
  t.ok(scored!.values!.every((value) => value !== 0));
  t.ok(
    read.flat().some((value) => value !== 0),
    "its first values are not those of a fresh head, which is 0",
  );
});

t.test("a run that stopped goes on to the same bytes", async (t) => {
  const options: PpoOptions = {
    criticOptimizer: { learningRate: 3e-2, schedule: "linear" },
    kl: { stop: 0.02 },
    ema: { decay: 0.5 },
  };
  const [whole, stopped] = [join(folder, "whole"), join(folder, "stopped")];
  await run(await job(whole, options));
  const expected = runBytes(whole);
  const lines = metricsOf(whole);
  t.ok(
    lines.some(({ steps }) => steps! < 4),
    "an iteration ends early, and its critic with it",
  );
  t.ok(Object.keys(expected).some((path) => path.endsWith("critic/optimizer.safetensors")));
  for (const after of [1, 3]) {
    const controller = new AbortController();
    const told = (iteration: number) => iteration === after && controller.abort();
    const { signal } = controller;
    const directory = `${stopped}-${after}`;
    await t.rejects(job(directory, options, { reward: lateRed, told, signal }).then(trainPpo), { code: "ABORTED" });
    await run(await job(directory, options, { reward: lateRed }));
    t.same(runBytes(directory), expected, `stopped after iteration ${after}`);
  }
  await t.rejects(tinyPpo(model, whole, options).then(trainPpo), {
    code: "BAD_RECIPE",
    message: /criticOptimizer is of a critic of its own/,
  });
  const { criticOptimizer: _, ...shared } = options;
  await t.rejects(tinyPpo(model, whole, shared).then(trainPpo), {
    code: "OTHER_RECIPE",
    message: /critic: of its own then, the policy's head now/,
  });
  await t.rejects(job(join(folder, "rloo"), { advantage: { estimator: "rloo" } }).then(trainPpo), {
    code: "BAD_RECIPE",
    message: /rloo asks no critic/,
  });
});

t.test("the planted probabilities come out with it", { timeout: 10 * 60_000 }, async (t) => {
  const { stated, error } = await new Promise<PlantedOutcome>((resolve, reject) => {
    const options: PpoOptions = {
      iterations: 200,
      rollout: { prompts: 4, samples: 128, newTokens: 1 },
      loss: { entropyCoefficient: 0.3, valueCoefficient: 1 },
      optimizer: { learningRate: 2e-2, schedule: "linear", warmup: 0.05 },
      criticOptimizer: { learningRate: 1e-2 },
      checkpointEvery: 1000,
    };
    const workerData: PlantedJob = {
      modelPath,
      isa: "auto",
      folder,
      rule: "brier",
      seeds: [0],
      options,
      ownCritic: true,
    };
    new Worker(new URL("./fixtures/planted-worker.ts", import.meta.url), { workerData })
      .on("message", resolve)
      .on("error", reject);
  });
  t.ok(error <= 0.05, `states ${stated.join(", ")}, off by ${error.toFixed(4)}`);
});
