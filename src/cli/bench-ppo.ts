/**
 * `credence bench ppo`: a PPO step in the shape of bench/peers/torch_ppo.py, made of the trainer's own parts. Actor, critic and
 * reward model are adapters on one base, which is also the reference; the sampler's log-probabilities are the old ones.
 */
import { setFlagsFromString } from "node:v8";
import { runInNewContext } from "node:vm";
import { flattenValues } from "../data/packing.js";
import { MersenneTwister, NumpyRandom, permutation } from "../data/random.js";
import { type AdapterSpec, native, type TensorData } from "../native.js";
import { Model } from "../policy/model.js";
import type { Policy } from "../policy/policy.js";
import type { StepResult, Trainer } from "../policy/trainer.js";
import { advantagesOf } from "../training/ppo/advantages.js";
import { scoreRollouts } from "../training/ppo/passes.js";
import { type Group, type Rollout, sampleRollouts } from "../training/ppo/rollouts.js";
import { type PpoSettings, ppoSchema } from "../training/ppo/settings.js";
import { type Target, updateOn } from "../training/ppo/update.js";
import { rewardModel } from "../training/reward-model/scoring.js";
import { adapterTargets, baseOptions, type EngineArguments } from "./options.js";
import { median, note } from "./output.js";

export interface PpoBenchOptions extends EngineArguments {
  /** Prompts of a step; a quarter of them is an optimiser step. */
  batch: number;
  newTokens: number;
  rank: number;
  /** Steps measured, after one that is not. */
  repeats: number;
}

const phases = ["rollout", "scoring", "advantage", "update", "total"] as const;
type Seconds = Record<(typeof phases)[number], number>;

/** What a step was like, under the names the peer has for it. */
interface Seen {
  kl_to_reference: number;
  score_mean: number;
  ratio_first_minibatch_max_off: number;
  logprob_mean: number;
  /** Of `logprob_mean`. */
  logprob_error: number;
  policy_loss: number;
  value_loss: number;
}

const clamp = 5;
const klCoefficient = 0.1;
const miniBatches = 4;

const ppoSettings = (newTokens: number, batch: number): PpoSettings =>
  ppoSchema.parse({
    rollout: { prompts: batch, samples: 1, newTokens, stopTokens: [] },
    kl: { coefficient: klCoefficient },
    advantage: { gamma: 1, lambda: 0.95 },
    loss: { clip: 0.2, valueClip: 0.2, valueCoefficient: 1 },
    epochs: 1,
    miniBatches,
    optimizer: { learningRate: 1e-4, beta2: 0.95 },
  });

/** torch.randint under torch.Generator().manual_seed(1234): lengths of 24 to 48, sorted, then each prompt's tokens. */
function promptsOfPeer(count: number, vocabulary: number): Int32Array[] {
  const random = new MersenneTwister(1234);
  const drawn = (length: number, low: number, high: number) =>
    Int32Array.from({ length }, () => low + (random.uint32() % (high - low)));
  const lengths = drawn(count, 24, 49).toSorted();
  return Array.from(lengths, (length) => drawn(length, 5, vocabulary));
}

/** As a trained critic or reward model is: its B is not 0. */
function perturb(policy: Policy, seed: number): void {
  const random = new NumpyRandom(seed);
  const tensors = policy.native.tensors().adapter.filter(({ name }) => name.includes("lora_B"));
  const spread = 0.01 * Math.sqrt(12);
  policy.native.setTensors(
    tensors.map((tensor) => ({ ...tensor, data: tensor.data.map(() => spread * (random.random() - 0.5)) })),
  );
}

/** FLOP that a token, a supervised row of the head and a query-key pair cost, forward and back. */
interface Work {
  token: number;
  headRow: number;
  pair: number;
}

/** As native/engine/bench_sft.cpp counts them: what is recomputed, and padding, does not count. */
function workOf({ model, native: policy }: Policy): Work {
  const work = { token: 0, headRow: 4 * model.info.vocabularySize * model.info.hiddenSize, pair: 0 };
  const shapes = new Map(policy.tensors().adapter.map(({ name, shape }: TensorData) => [name, shape]));
  for (const [name, [rank, input]] of shapes) {
    if (!name.includes("lora_A")) continue;
    const output = shapes.get(name.replace("lora_A", "lora_B"))![0]!;
    work.token += 4 * input! * output + 6 * rank! * (input! + output);
    if (name.includes(".q_proj.")) work.pair += 3.5 * 4 * output;
  }
  return work;
}

/** One PPO step after another. */
class Bench implements AsyncDisposable {
  private readonly trainers: { actor: Trainer; critic: Trainer };

  private constructor(
    private readonly model: Model,
    private readonly prompts: Int32Array[],
    private readonly settings: PpoSettings,
    private readonly policies: { actor: Policy; critic: Policy; reward: Policy },
  ) {
    const { learningRate: schedule, ...optimizer } = settings.optimizer;
    const given = { optimizer: { ...optimizer, seed: settings.seed }, schedule };
    this.trainers = { actor: policies.actor.trainer(given), critic: policies.critic.trainer(given) };
  }

  static async open(model: Model, { batch, newTokens, rank }: PpoBenchOptions): Promise<Bench> {
    const adapter = (seed: number): AdapterSpec => ({ rank, alpha: 2 * rank, targets: [...adapterTargets], seed });
    const policies = {
      actor: await model.policy({ adapter: adapter(1) }),
      critic: await model.policy({ adapter: adapter(2), heads: [{ name: "value", kind: "linear", seed: 4 }] }),
      reward: await model.policy({
        adapter: adapter(3),
        heads: [{ name: "reward", kind: "linear", bias: false, seed: 5 }],
      }),
    };
    perturb(policies.critic, 6);
    perturb(policies.reward, 7);
    const prompts = promptsOfPeer(batch, model.info.vocabularySize);
    return new Bench(model, prompts, ppoSettings(newTokens, batch), policies);
  }

  get trainable(): { actor: number; critic: number } {
    return { actor: this.policies.actor.native.trainable, critic: this.policies.critic.native.trainable };
  }

  get promptTokens(): number {
    return this.prompts.reduce((sum, prompt) => sum + prompt.length, 0);
  }

  /** Useful FLOP of the update: the actor with the head's rows, and the critic without. */
  get flop(): number {
    const { newTokens } = this.settings.rollout;
    const { token, headRow, pair } = workOf(this.policies.actor);
    let flop = 0;
    for (const { length } of this.prompts) {
      const tokens = length + newTokens;
      flop += 2 * (token * tokens + (pair * tokens * (tokens + 1)) / 2) + headRow * newTokens;
    }
    return flop;
  }

  async step(iteration: number): Promise<{ seconds: Seconds; seen: Seen }> {
    const { settings, model } = this;
    const { actor, critic, reward } = this.policies;
    const seconds = { rollout: 0, scoring: 0, advantage: 0, update: 0, total: 0 };
    let before = performance.now();
    const told = (phase: keyof Seconds) => {
      const now = performance.now();
      seconds[phase] = (now - before) / 1000;
      seconds.total += seconds[phase];
      before = now;
    };

    const groups = this.prompts.map((prompt): Group<undefined> => ({ prompt, data: undefined, rollouts: [] }));
    for await (const rollout of sampleRollouts(actor, this.prompts, settings, iteration))
      groups[rollout.group]!.rollouts.push(rollout);
    told("rollout");

    const budget = settings.microBatchTokens;
    const reference = await scoreRollouts(actor, groups, { logprobs: true, adapter: false, budget });
    const values = await scoreRollouts(critic, groups, { head: "value", budget });
    const rollouts = groups.flatMap((group) => group.rollouts);
    const whole = rollouts.map(({ group, tokens }) => Int32Array.of(...this.prompts[group]!, ...tokens));
    const scores = await rewardModel(reward, { head: "reward" }).score(whole);
    told("scoring");

    const episodes = rollouts.map((rollout, i) => ({
      logprobs: rollout.logprobs,
      reference: reference.get(rollout)!.logprobs!,
      values: values.get(rollout)!.values!,
      reward: Math.min(clamp, Math.max(-clamp, scores[i]!)),
      group: rollout.group,
    }));
    const shaped = await advantagesOf(model, episodes, settings, klCoefficient);
    const targets = new Map<Rollout, Target>(
      rollouts.map((rollout, i) => [rollout, { ...shaped.worth[i]!, values: episodes[i]!.values }]),
    );
    told("advantage");

    const each = Math.ceil(groups.length / miniBatches);
    const parts = Array.from({ length: Math.ceil(groups.length / each) }, (_, i) =>
      groups.slice(i * each, (i + 1) * each),
    );
    const updates: { actor: StepResult; critic: StepResult }[] = [];
    for (const part of permutation(parts, new NumpyRandom([settings.seed, iteration])))
      updates.push({
        actor: await updateOn(this.trainers.actor, part, targets, settings, undefined),
        critic: await updateOn(this.trainers.critic, part, targets, settings, "value", { policy: false }),
      });
    told("update");

    const logprobs = flattenValues(rollouts.map((rollout) => rollout.logprobs));
    const average = mean(logprobs);
    const seen = {
      kl_to_reference: shaped.kl,
      score_mean: mean(scores),
      ratio_first_minibatch_max_off: updates[0]!.actor.ppo!.ratioChange,
      logprob_mean: average,
      logprob_error: Math.sqrt(mean(logprobs.map((x) => (x - average) ** 2)) / logprobs.length),
      policy_loss: mean(updates.map(({ actor }) => actor.ppo!.policyLoss)),
      value_loss: mean(updates.map(({ critic }) => critic.ppo!.valueLoss)),
    };
    return { seconds, seen };
  }

  async [Symbol.asyncDispose](): Promise<void> {
    for (const policy of Object.values(this.policies)) await policy.dispose();
  }
}

/** Engine bytes of a LoRA step on 4 sequences of 512 tokens, every token supervised: what a PPO step is held against. */
async function bytesOfSft(model: Model, rank: number): Promise<number> {
  const length = Math.min(512, model.info.contextLength);
  const targets = [...adapterTargets];
  const policy = await model.policy({ adapter: { rank, alpha: 2 * rank, targets, seed: 1 } });
  try {
    using trainer = policy.trainer({ schedule: 1e-4 });
    const sequences = Array.from({ length: 4 }, (_, row) =>
      Int32Array.from({ length }, (_, i) => (row * 7919 + i * 104729) % model.info.vocabularySize),
    );
    const weights = sequences.map(() => new Float32Array(length).fill(1, 1));
    model.memory({ restartPeak: true });
    await trainer.step({ sequences, loss: { kind: "nll", weights } });
    return model.memory().peak;
  } finally {
    await policy.dispose();
  }
}

/** V8's collection of garbage, which a process may ask for once it has this flag. */
function collector(): () => void {
  setFlagsFromString("--expose-gc");
  return runInNewContext("gc");
}

/** Slope of a straight line through numbers one apart (least squares); 0 for fewer than two. */
function slope(values: number[]): number {
  const middle = (values.length - 1) / 2;
  let [products, squares] = [0, 0];
  values.forEach((value, i) => {
    products += (i - middle) * value;
    squares += (i - middle) ** 2;
  });
  return squares === 0 ? 0 : products / squares;
}

function mean(values: ArrayLike<number>): number {
  let sum = 0;
  for (let i = 0; i < values.length; i++) sum += values[i]!;
  return sum / values.length;
}

const each = (of: (phase: keyof Seconds) => number) => Object.fromEntries(phases.map((phase) => [phase, of(phase)]));

/** Steps on the model at `path`; the document that `credence bench ppo --json` prints. */
export async function benchPpo(path: string, options: PpoBenchOptions): Promise<Record<string, unknown>> {
  await using model = await Model.load(path, { ...baseOptions(options), note });
  const { isa, dtype, threads } = model.info;
  const bench = await Bench.open(model, options);
  const first = await bench.step(0);
  const times: Seconds[] = [];
  const memory: { current: number; peak: number; rss: number }[] = [];
  let last = first.seen;
  // Resident memory counts what is held. V8 collects garbage when it sees fit: left to itself, its heap alone rises by
  // tens of kilobytes a step for a thousand steps before it stays where it is.
  const collect = collector();
  for (let i = 1; i <= options.repeats; i++) {
    if (i % 10 === 0) collect();
    model.memory({ restartPeak: true });
    const { seconds, seen } = await bench.step(i);
    const { current, peak } = model.memory();
    times.push(seconds);
    memory.push({ current, peak, rss: process.memoryUsage.rss() });
    last = seen;
  }
  const peakRss = process.resourceUsage().maxRSS; // before what follows, which takes memory of its own
  const { flop, promptTokens, trainable } = bench;
  await bench[Symbol.asyncDispose]();
  const sftBytes = await bytesOfSft(model, options.rank);
  const peaks = await native().peaks(threads, isa);
  const best = times.reduce((least, time) => (time.total < least.total ? time : least));
  const middle = each((phase) => median(times.map((time) => time[phase])));
  const generated = options.batch * options.newTokens;
  const gflops = (flop / middle.update!) * 1e-9;
  // A tenth of the steps for the system and the JavaScript engine to come to rest.
  const settled = memory.slice(Math.floor(memory.length / 10));
  const bytes = Math.max(...memory.map(({ peak }) => peak));
  return {
    engine: "credence",
    isa,
    dtype,
    threads,
    prompts: options.batch,
    prompt_tokens: promptTokens,
    new_tokens: options.newTokens,
    minibatch: Math.ceil(options.batch / miniBatches),
    rank: options.rank,
    trainable_actor: trainable.actor,
    trainable_critic: trainable.critic,
    seconds_best: best,
    seconds_median: middle,
    tokens_per_s_best: generated / best.total,
    tokens_per_s_median: generated / middle.total!,
    repeats: times.length,
    update_gflops_median: gflops,
    update_share_of_peak: gflops / (dtype === "bf16" ? peaks.bf16Gflops : peaks.f32Gflops),
    engine_bytes: bytes,
    engine_bytes_sft_4x512: sftBytes,
    engine_bytes_ratio: bytes / sftBytes,
    engine_bytes_constant: settled.every(
      ({ current, peak }) => current === settled[0]!.current && peak === settled[0]!.peak,
    ),
    rss_slope_bytes_per_step: slope(settled.map(({ rss }) => rss)),
    first_step: first.seen,
    last_step: last,
    peak_rss_mb: Math.round(peakRss / 1024),
    peaks,
    lacks: isa === "avx512bf16" ? [] : [`no bf16 dot product in ${isa}: bf16 runs at float32's rate`],
  };
}
