/** Reinforcement: a planted problem comes out, old probabilities are the sampler's, runs resume to the same bytes. */
import { appendFileSync } from "node:fs";
import { join } from "node:path";
import { Worker } from "node:worker_threads";
import t from "tap";
import { native } from "../src/native.js";
import { Model } from "../src/policy/model.js";
import { conqordTerm } from "../src/rewards/batch-terms.js";
import { silent } from "../src/tracking/progress.js";
import { advantagesOf } from "../src/training/ppo/advantages.js";
import { readPpoLines } from "../src/training/ppo/lines.js";
import { type PpoTraining, trainPpo } from "../src/training/ppo/ppo.js";
import { promptsOf } from "../src/training/ppo/rollouts.js";
import { type PpoOptions, ppoSchema } from "../src/training/ppo/settings.js";
import { placeSettled } from "../src/training/ppo/settled.js";
import { ppoAlarms } from "../src/training/ppo/watch.js";
import { plantedWords } from "./fixtures/planted.js";
import type { PlantedJob, PlantedOutcome } from "./fixtures/planted-worker.js";
import { metricsOf, runBytes } from "./fixtures/runs.js";
import { writeTinyModel } from "./fixtures/tiny-model.js";
import { lateRed, red, type TinyPpoData, tinyPpo } from "./fixtures/tiny-ppo.js";

const folder = t.testdir();
// Of one instruction set wherever it can be: what a seed's noise comes to is then the same everywhere.
const isa = native().machine().isas.includes("avx2") ? "avx2" : "auto";
const modelPath = writeTinyModel(join(folder, "model"), { words: plantedWords, sharpness: 4 });
const model = await Model.load(modelPath, { isa, dtype: "f32", threads: 1 });
t.teardown(() => model.dispose());

t.test("what a proper reward teaches is the planted probability", { timeout: 30 * 60_000 }, async (t) => {
  const options: PpoOptions = {
    iterations: 200,
    rollout: { prompts: 4, samples: 128, newTokens: 1 },
    loss: { entropyCoefficient: 0.3, valueCoefficient: 1 },
    optimizer: { learningRate: 2e-2, schedule: "linear", warmup: 0.05 },
    // Being right earns a random 1 under "rlcr", whatever is stated: the average over iterations has less of that noise.
    ema: { decay: 0.99 },
    checkpointEvery: 1000,
  };
  const teach = (rule: PlantedJob["rule"], seeds: number[]) =>
    new Promise<PlantedOutcome[]>((resolve, reject) => {
      const outcomes: PlantedOutcome[] = [];
      const workerData: PlantedJob = { modelPath, isa, folder, rule, seeds, options };
      new Worker(new URL("./fixtures/planted-worker.ts", import.meta.url), { workerData })
        .on("message", (outcome: PlantedOutcome) => outcomes.push(outcome))
        .on("error", reject)
        .on("exit", () => resolve(outcomes));
    });
  const proper = (["brier", "log", "rlcr"] as const).map((rule) => {
    const learning = teach(rule, [0, 1, 2, 3, 4]);
    return t.test(rule, async (t) => {
      const outcomes = await learning;
      t.equal(outcomes.length, 5);
      for (const { seed, stated, error, ratiosBeginAtOne } of outcomes) {
        t.ok(error <= 0.05, `seed ${seed}: states ${stated.join(", ")}, off by ${error.toFixed(4)}`);
        t.ok(ratiosBeginAtOne, "the first ratios are exactly 1");
      }
    });
  });
  await Promise.all(proper);
  const [flipped] = await teach("flipped", [0]);
  t.ok(flipped!.error > 0.2, `with the sign flipped: states ${flipped!.stated.join(", ")}`);
});

type Data = TinyPpoData;
const job = (directory: string, options: PpoOptions = {}, more: Partial<PpoTraining<Data>> = {}) =>
  tinyPpo(model, directory, options, more);
const run = async (training: PpoTraining<Data>) => (await trainPpo(training)).dispose();

t.test("ratios begin at 1 in every iteration, and the reward rises", async (t) => {
  const directory = join(folder, "rises");
  await run(await job(directory, { iterations: 30 }));
  const lines = metricsOf(directory);
  t.equal(lines.length, 30);
  t.ok(lines.every(({ firstRatioChange }) => firstRatioChange === 0));
  t.ok(
    lines.some(({ ratioChange }) => ratioChange! > 0),
    "later steps move the policy",
  );
  const mean = (from: number, to: number) =>
    lines.slice(from, to).reduce((sum, { reward }) => sum + reward!, 0) / (to - from);
  t.ok(mean(20, 30) > mean(0, 10) + 0.3, `${mean(0, 10)} at first, ${mean(20, 30)} at last`);
  t.equal(lines[0]!.kl, 0, "B is 0: the reference is where it begins");
  t.not(lines[1]!.klCoefficient, lines[0]!.klCoefficient, "the controller moves");
});

t.test("a run that stopped goes on to the same bytes, though rewards come late and out of order", async (t) => {
  const whole = join(folder, "whole");
  await run(await job(whole));
  const expected = runBytes(whole);
  for (const after of [0, 1, 2, 3]) {
    const stopped = join(folder, `stopped-${after}`);
    const controller = new AbortController();
    const told = (iteration: number) => {
      if (iteration === after + 1) controller.abort();
    };
    await t.rejects(job(stopped, {}, { reward: lateRed, told, signal: controller.signal }).then(trainPpo), {
      code: "ABORTED",
    });
    await run(await job(stopped, {}, { reward: lateRed }));
    t.same(runBytes(stopped), expected, `stopped after iteration ${after + 1}`);
  }
  // As if it had been killed in iteration 5: the newest checkpoint is of iteration 4, the metrics are ahead of it.
  const killed = join(folder, "killed");
  const controller = new AbortController();
  const dying = await job(killed, {}, { signal: controller.signal, told: (i) => i === 4 && controller.abort() });
  await t.rejects(trainPpo(dying), { code: "ABORTED" });
  appendFileSync(join(killed, "metrics.jsonl"), `${JSON.stringify(metricsOf(whole).at(-1))}\n`);
  await run(await job(killed));
  t.same(runBytes(killed), expected);
});

t.test("where a token scores other bits than when it was sampled, it is scored again", async (t) => {
  const told = join(folder, "told");
  const info = model.info as { rowsDiffer?: string };
  info.rowsDiffer = "for this test";
  t.teardown(() => {
    info.rowsDiffer = undefined;
  });
  const read: unknown[] = [];
  const training = await job(told);
  await run({
    ...training,
    policy: async (checkpoint) => {
      const policy = await training.policy(checkpoint);
      const { forward } = policy;
      policy.forward = (sequences, readouts, signal) => {
        read.push(readouts.logprobs && readouts.adapter === undefined);
        return forward.call(policy, sequences, readouts, signal);
      };
      return policy;
    },
  });
  t.ok(read.includes(true), "log-probabilities of the policy itself were read");
  t.same(runBytes(told), runBytes(join(folder, "whole")), "which are the sampler's, here");
});

t.test("completions are held against each other where there is no value", async (t) => {
  for (const estimator of ["rloo", "grpo"] as const) {
    const directory = join(folder, estimator);
    await run(await job(directory, { advantage: { estimator }, iterations: 15 }, { valueHead: undefined }));
    const lines = metricsOf(directory);
    t.ok(lines.every(({ firstRatioChange, valueLoss }) => firstRatioChange === 0 && valueLoss === undefined));
    t.ok(lines.at(-1)!.reward! > lines[0]!.reward!);
  }
});

t.test("a mask says what is learnt from; a term compares completions", async (t) => {
  const seen: number[] = [];
  const training = await job(
    join(folder, "masked"),
    { iterations: 2, epochs: 1, miniBatches: 1 },
    {
      mask: ({ tokens }) => {
        const mask = new Uint8Array(tokens.length);
        mask[tokens.length - 1] = 1;
        seen.push(tokens.length);
        return mask;
      },
      reward: (_prompt, completion) => ({ reward: completion.length, confidence: completion.length / 100 }),
      batchTerm: conqordTerm({ reduce: "mean" }),
    },
  );
  await run(training);
  t.equal(seen.length, 24);
  const [line] = readPpoLines(training.directory);
  t.equal(line!.confidences!.length, 20);
  t.equal(
    line!.confidences!.reduce((sum, n) => sum + n, 0),
    12,
    "every stated confidence is counted",
  );
  const none = { ...training, directory: join(folder, "no-mask"), mask: () => new Uint8Array(1) };
  await t.rejects(trainPpo(none), { code: "BAD_INPUT", message: /mask of sample 0 of prompt 0/ });
  const blind = { ...training, directory: join(folder, "blind"), reward: red };
  await t.rejects(trainPpo(blind), { code: "BAD_REWARD", message: /the reward tells none/ });
});

t.test("what is settled before the end is earned by the tokens up to there", async (t) => {
  const tokens = await model.tokenizer.encode("hat of ada loudly");
  const rollout = { group: 0, sample: 0, tokens, logprobs: new Float32Array(4), finish: "stop" as const };
  const text = model.tokenizer.decode(tokens);
  const at = (end: number, mask?: Uint8Array, unit = 1, own = text) =>
    placeSettled(model.tokenizer, { ...rollout, text: own }, [{ reward: 3, end }], mask, unit);
  t.same(at(text.indexOf(" ada")), [{ at: 1, reward: 3 }]);
  t.same(at(text.indexOf("da"), undefined, 2), [{ at: 2, reward: 1.5 }], "a word that is begun, in another unit");
  t.same(
    at(text.indexOf("ada"), Uint8Array.of(1, 0, 0, 1)),
    [{ at: 0, reward: 3 }],
    "the one before it that is learnt",
  );
  t.same(at(0), [{ at: -1, reward: 3 }], "nothing of the completion has earned it");
  t.equal(at(3, undefined, 1, "another text"), null);

  const settings = ppoSchema.parse({ advantage: { whiten: false, lambda: 1 } });
  const episode = { logprobs: new Float32Array(4), values: new Float32Array(4), reward: 5, group: 0 };
  const worth = async (settled: { at: number; reward: number }[]) => {
    const { worth } = await advantagesOf(model, [{ ...episode, settled }], settings, 0);
    return Array.from(worth[0]!.advantages);
  };
  t.same(await worth([]), [5, 5, 5, 5]);
  t.same(await worth([{ at: 1, reward: 3 }]), [5, 5, 2, 2]);
  t.same(await worth([{ at: -1, reward: 3 }]), [2, 2, 2, 2]);
});

t.test("what goes wrong is said as it goes, the same after a resumption, and can be read afterwards", async (t) => {
  const said = (notes: string[]) => ({ task: silent.task, note: (line: string) => notes.push(line) });
  const falling = () => {
    let asked = 0;
    return () => (asked++ < 150 ? 1 + (asked % 3) / 10 : -5);
  };
  const options: PpoOptions = { iterations: 30, checkpointEvery: 4 };
  const [whole, stopped] = [join(folder, "alarmed"), join(folder, "alarmed-stopped")];
  const notes: string[] = [];
  await run(await job(whole, options, { reward: falling(), progress: said(notes) }));
  t.match(notes, [/^iteration \d+: over 10 steps the reward is/]);
  t.same(
    ppoAlarms(whole).map(({ message }) => message),
    notes,
  );
  t.throws(() => ppoAlarms(join(folder, "nowhere")), { code: "FILE_NOT_FOUND" });
  const controller = new AbortController();
  const told = (iteration: number) => iteration === 12 && controller.abort();
  const reward = falling();
  const before: string[] = [];
  const first = await job(stopped, options, { reward, progress: said(before), told, signal: controller.signal });
  await t.rejects(trainPpo(first), { code: "ABORTED" });
  const after: string[] = [];
  await run(await job(stopped, options, { reward, progress: said(after) }));
  t.same([...before, ...after], notes);
});

t.test("what cannot work is said before anything is sampled", async (t) => {
  const refused = async (options: PpoOptions, more: Partial<PpoTraining<Data>>, message: RegExp) =>
    t.rejects(trainPpo(await job(join(folder, "refused"), options, more)), { code: "BAD_RECIPE", message });
  await refused({}, { valueHead: undefined }, /gae needs a value head/);
  await refused({ rollout: { samples: 1 }, advantage: { estimator: "rloo" } }, {}, /expected 2 or more/);
  await refused({}, { prompts: [] }, /no prompts/);
  await refused({ rollout: { prompts: 1, samples: 1 } }, { batchTerm: conqordTerm() }, /two or more/);
  const other = await job(join(folder, "whole"), { loss: { clip: 0.1 } });
  await t.rejects(trainPpo(other), { code: "OTHER_RECIPE", message: /loss: .*"clip":0.2.* then, .*"clip":0.1/ });
  const nan = await job(join(folder, "nan"), {}, { reward: () => Number.NaN });
  await t.rejects(trainPpo(nan), { code: "REWARD_FAILED", message: /question 0, sample 0/ });
});

t.test("each prompt comes once before any comes again", (t) => {
  const places = [0, 1, 2, 3, 4].flatMap((iteration) => promptsOf(7, 3, iteration, 5));
  t.same(
    places.slice(0, 7).sort((a, b) => a - b),
    [0, 1, 2, 3, 4, 5, 6],
  );
  t.same(
    places.slice(7, 14).sort((a, b) => a - b),
    [0, 1, 2, 3, 4, 5, 6],
  );
  t.not(places.slice(0, 7).join(), places.slice(7, 14).join());
  t.end();
});
