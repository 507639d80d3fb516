/** Reinforcement that keeps a running average of its policy. */
import { join } from "node:path";
import t from "tap";
import { readPolicyTensors } from "../src/model/policy-folder.js";
import type { PolicyTensors } from "../src/native.js";
import { Model } from "../src/policy/model.js";
import type { Policy } from "../src/policy/policy.js";
import { trainPpo } from "../src/training/ppo/ppo.js";
import { metricsOf, runBytes } from "./fixtures/runs.js";
import { writeTinyModel } from "./fixtures/tiny-model.js";
import { lateRed, tinyPpo, valueHeads } from "./fixtures/tiny-ppo.js";

const folder = t.testdir();
const model = await Model.load(writeTinyModel(join(folder, "model")), { dtype: "f32", threads: 1 });
t.teardown(() => model.dispose());

const ema = { decay: 0.8 };
const numbers = (policy: Policy) => {
  const { adapter, heads } = policy.native.tensors();
  return [...adapter, ...heads].flatMap(({ data }) => Array.from(data));
};

t.test("it follows every step that is taken, and is what is given", async (t) => {
  const directory = join(folder, "average");
  let expected: number[] = [];
  let [taken, refused] = [0, 0];
  const training = await tinyPpo(model, directory, { ema, kl: { stop: 0.02 } });
  const averaged = await trainPpo({
    ...training,
    policy: async (checkpoint) => {
      const policy = await training.policy(checkpoint);
      expected = numbers(policy);
      const { trainer: make } = policy;
      policy.trainer = (options) => {
        const trainer = make.call(policy, options);
        const { step } = trainer;
        trainer.step = async (batch) => {
          const result = await step.call(trainer, batch);
          const now = numbers(policy);
          if (result.ppo!.accepted) expected = expected.map((a, i) => ema.decay * a + (1 - ema.decay) * now[i]!);
          result.ppo!.accepted ? taken++ : refused++;
          return result;
        };
        return trainer;
      };
      return policy;
    },
  });
  t.ok(taken > 0 && refused > 0, `${taken} steps taken, ${refused} not`);
  const got = numbers(averaged);
  t.ok(
    got.every((a, i) => Math.abs(a - expected[i]!) < 1e-6),
    "decay * average + (1 - decay) * policy, from where training began",
  );
  const sorted = ({ weights, adapter, heads }: PolicyTensors) =>
    [...weights, ...adapter, ...heads].sort((a, b) => (a.name < b.name ? -1 : 1));
  const beside = (...path: string[]) => sorted(readPolicyTensors(join(directory, "best", ...path)));
  t.same(beside("average"), sorted(averaged.native.tensors()), "beside the trained one");
  t.notSame(beside(), sorted(averaged.native.tensors()));
  const loaded = await model.policy({ adapter: join(directory, "best", "average"), heads: valueHeads });
  const [prompt] = training.prompts;
  const read = (policy: Policy) => policy.forward([prompt!.tokens], { logprobs: true });
  t.same((await read(loaded)).logprobs, (await read(averaged)).logprobs, "a policy's folder; its adapter is what runs");
  await loaded.dispose();
  await averaged.dispose();
});

t.test("training is the same with it, and goes on to the same bytes", async (t) => {
  const [with_, without, stopped] = ["with", "without", "stopped"].map((name) => join(folder, name)) as [
    string,
    string,
    string,
  ];
  await (await trainPpo(await tinyPpo(model, with_, { ema }))).dispose();
  await (await trainPpo(await tinyPpo(model, without))).dispose();
  const policies = (directory: string) =>
    Object.entries(runBytes(directory)).filter(([path]) => !/average|state|manifest/.test(path));
  t.same(policies(with_), policies(without));
  t.ok(Object.keys(runBytes(with_)).some((path) => path.endsWith("average/adapter_model.safetensors")));
  const controller = new AbortController();
  const told = (iteration: number) => iteration === 3 && controller.abort();
  const { signal } = controller;
  await t.rejects(tinyPpo(model, stopped, { ema }, { reward: lateRed, told, signal }).then(trainPpo), {
    code: "ABORTED",
  });
  t.equal(metricsOf(stopped).length, 3);
  await t.rejects(tinyPpo(model, stopped).then(trainPpo), { code: "OTHER_RECIPE", message: /ema: .*0.8.* then, null/ });
  const resumed = await trainPpo(await tinyPpo(model, stopped, { ema }));
  t.same(runBytes(stopped), runBytes(with_));
  const again = await trainPpo(await tinyPpo(model, stopped, { ema }));
  t.same(numbers(again), numbers(resumed), "a run that is done gives the average as well");
  await again.dispose();
  await resumed.dispose();
});

t.test("a decay that is none is refused", async (t) => {
  for (const decay of [0, 1, -0.5, Number.NaN])
    await t.rejects(tinyPpo(model, join(folder, "none"), { ema: { decay } }), { name: "ZodError" });
  const policy = await model.policy({ heads: valueHeads });
  t.throws(() => policy.trainer({ schedule: 0, optimizer: { averageDecay: 1 } }), { code: "BAD_OPTION" });
  await policy.dispose();
});
