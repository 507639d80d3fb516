/**
 * Proximal policy optimisation (Schulman et al. 2017) on one base: sample, score, learn, again. The sampler's own
 * log-probabilities are the old ones, since a later pass of the same policy has the same bits.
 */
import { NumpyRandom, permutation } from "../../data/random.js";
import type { RecordFile } from "../../data/readers.js";
import { CredenceError } from "../../errors.js";
import { makeFolder } from "../../files.js";
import type { Card } from "../../model/card.js";
import type { Model } from "../../policy/model.js";
import type { Policy } from "../../policy/policy.js";
import type { PpoStatistics, StepResult, Trainer } from "../../policy/trainer.js";
import type { BatchTerm } from "../../rewards/batch-terms.js";
import { type KlController, klController } from "../../rewards/kl-control.js";
import type { LimitedReward, LimitedScore } from "../../rewards/limited.js";
import type { Reward } from "../../rewards/reward.js";
import { RunningMoments } from "../../rewards/running-moments.js";
import { rewardStream } from "../../rewards/stream.js";
import type { Message } from "../../text/chat.js";
import { Metrics } from "../../tracking/metrics.js";
import { type Progress, silent } from "../../tracking/progress.js";
import { type Checkpoint, checkSame, newestCheckpoint, type Trained, writeCheckpoint } from "../checkpoint.js";
import { lockFolder } from "../lock.js";
import { groupSchedules } from "../loop.js";
import { learningRate } from "../schedule.js";
import { advantagesOf, type PlacedReward } from "./advantages.js";
import { confidenceCounts } from "./lines.js";
import { type Scored, scoreRollouts } from "./passes.js";
import { PtxRows } from "./ptx.js";
import { type Group, promptsOf, type Rollout, retriesOf, sampleRollouts } from "./rollouts.js";
import type { PpoSettings } from "./settings.js";
import { placeSettled } from "./settled.js";
import { type Target, updateOn } from "./update.js";
import { statisticsOf, watchFrom } from "./watch.js";

export interface PpoPrompt<Data> {
  tokens: Int32Array;
  /** As a reward reads it. */
  text: string;
  /** What a reward needs to know: answers, evidence. */
  data: Data;
}

export interface PpoTraining<Data> {
  /** The stage's folder. */
  directory: string;
  /** The policy to start from, given the folder of a checkpoint to resume or undefined for a fresh start. */
  policy(checkpoint: string | undefined): Promise<Policy>;
  /**
   * What the policy is kept near: a policy that stays as it is, or the base ("base": the adapter switched off). Absent:
   * nothing, and its divergence from where it began is not known.
   */
  reference?: Policy | "base";
  prompts: PpoPrompt<Data>[];
  /** Asked for each completion as soon as it is there; under `limitedReward`'s limits. */
  reward: Reward<Data> | LimitedReward<Data>;
  /** A completion as a reward reads it; default its text without space at its ends. */
  completion?(rollout: Rollout): string;
  /** What an iteration's rewards become together, where they are compared with each other. */
  batchTerm?: BatchTerm;
  /** [tokens] which of a completion's tokens are learnt from, 1 or 0; absent: all. The reward stands on the last of them. */
  mask?(rollout: Rollout, data: Data): Uint8Array;
  /**
   * What completions stand behind where they are learnt from, if that is not what they were sampled behind: their log-probabilities
   * are then scored anew.
   */
  learntPrompt?(prompt: Int32Array): Int32Array;
  settings: PpoSettings;
  /** Conversations that the policy goes on modelling beside what it is rewarded for, as `settings.ptx` says. */
  ptx?: RecordFile<{ messages: Message[] }>;
  /** Name of the head that says a completion's value so far; not needed where completions are held against each other. */
  valueHead?: string;
  /**
   * A critic of its own, which has that head: a policy with an adapter of its own on the same base, fresh or from the folder of
   * another (a reward model's), given its folder in a checkpoint to resume or undefined for a fresh start. Absent: the head is
   * the policy's.
   */
  critic?(checkpoint: string | undefined): Promise<Policy>;
  card?: Card;
  label?: string;
  progress?: Progress;
  signal?: AbortSignal;
  /** What else the training follows from, by name: it is not gone on with where any of it is another. */
  follows?: Record<string, string | number>;
  /** Told after each iteration. */
  told?(iteration: number, values: Record<string, number>): void;
}

/** What goes on from iteration to iteration. */
interface Standing {
  iteration: number;
  readonly kl: KlController;
  /** Of all rewards so far. */
  readonly moments: RunningMoments;
  readonly ptx?: PtxRows;
}

/** What learns: the policy, and its critic where that is one of its own. */
interface Learners {
  actor: Trained;
  critic?: Trained;
}

/** Settings by the names they differ in. */
const told = <Data>({ settings, critic, ptx, follows }: PpoTraining<Data>): Record<string, string | number> => ({
  ...Object.fromEntries(Object.entries(settings).map(([name, value]) => [name, JSON.stringify(value)])),
  critic: critic ? "of its own" : "the policy's head",
  ...(ptx ? { ptxRecords: ptx.records } : {}),
  ...follows,
});

/**
 * Trains to the end, going on from the newest checkpoint in the folder; a run that was killed ends with the same bytes.
 * Abort stops before an iteration learns, after writing a checkpoint of those before it.
 *
 * @returns the trained policy, or its running average where `settings.ema` keeps one. Both are in the folder: the trained one,
 *   which a resumption goes on from, is `best`, the average `best/average`.
 * @throws CredenceError "OTHER_RECIPE" where the folder was begun with other settings; "REWARD_FAILED" where a completion
 *   got no finite reward; "BAD_RECIPE" for settings that do not go together
 */
export async function trainPpo<Data>(job: PpoTraining<Data>): Promise<Policy> {
  check(job);
  makeFolder(job.directory);
  const unlock = lockFolder(job.directory);
  try {
    const checkpoint = newestCheckpoint(job.directory);
    checkSame(job.directory, checkpoint?.state, told(job));
    const policy = await job.policy(checkpoint?.directory);
    let critic: Policy | undefined;
    try {
      critic = await job.critic?.(checkpoint?.critic?.directory);
      await iterate(job, policy, critic, checkpoint);
      return policy;
    } catch (error) {
      await policy.dispose();
      throw error;
    } finally {
      await critic?.dispose();
    }
  } finally {
    unlock();
  }
}

function check<Data>({ settings, valueHead, critic, ptx, prompts, batchTerm }: PpoTraining<Data>): void {
  const { advantage, rollout } = settings;
  const bad = (what: string) => new CredenceError("BAD_RECIPE", what);
  if (prompts.length === 0) throw bad("there are no prompts to learn from");
  if (advantage.estimator === "gae" && valueHead === undefined)
    throw bad("advantage.estimator gae needs a value head; give one, or take rloo or grpo");
  if (advantage.estimator !== "gae" && advantage.cutOff === "bootstrap")
    throw bad(`advantage.cutOff bootstrap asks a critic, and ${advantage.estimator} has none; take terminated`);
  if (advantage.estimator !== "gae" && rollout.samples < 2)
    throw bad(
      `advantage.estimator ${advantage.estimator} holds a prompt's completions against each other; rollout.samples is ${rollout.samples}, expected 2 or more`,
    );
  if (critic && advantage.estimator !== "gae")
    throw bad(`advantage.estimator ${advantage.estimator} asks no critic; leave critic out, or take gae`);
  if (settings.criticOptimizer && !critic)
    throw bad("criticOptimizer is of a critic of its own; give one (critic), or leave it out");
  if (ptx && !settings.ptx) throw bad("ptx has rows, and settings.ptx does not say how much they count: set it");
  if (settings.ptx && !ptx)
    throw bad("settings.ptx is of rows of language modelling; give some (ptx), or leave it out");
  if (batchTerm && rollout.prompts * rollout.samples < 2)
    throw bad(`${batchTerm.name} compares completions; expected two or more in an iteration`);
}

async function iterate<Data>(
  job: PpoTraining<Data>,
  policy: Policy,
  ownCritic: Policy | undefined,
  checkpoint: Checkpoint | undefined,
): Promise<void> {
  const { directory, settings, card, signal, progress = silent } = job;
  const { seed, iterations, optimizer, criticOptimizer } = settings;
  const trainer = trainerOf(policy, optimizer, settings, settings.ema?.decay);
  const learners: Learners = { actor: { policy, trainer } };
  if (ownCritic)
    learners.critic = { policy: ownCritic, trainer: trainerOf(ownCritic, criticOptimizer ?? optimizer, settings) };
  const { critic } = learners;
  let step = checkpoint?.state.step ?? 0;
  if (checkpoint) {
    const { state, moments: tensors, average } = checkpoint;
    trainer.restore({ step, seed: state.seed, tensors, average });
    critic?.trainer.restore({ step, seed: state.seed, tensors: checkpoint.critic!.moments });
  }
  const standing = await stands(job, policy.model, checkpoint);
  if (checkpoint) job.batchTerm?.restore(checkpoint.state.ppo?.term ?? null);
  let saved = checkpoint ? standing.iteration : -1;
  const metrics = new Metrics(directory, checkpoint?.state.metricsBytes ?? 0, step);
  const watch = watchFrom(directory, standing.iteration);
  const save = () => {
    if (saved === standing.iteration) return;
    const { iteration, kl, moments, ptx } = standing;
    const ppo = {
      iteration,
      kl: kl.state(),
      moments: moments.state(),
      term: job.batchTerm?.state() ?? null,
      ...(ptx ? { ptx: ptx.state() } : {}),
    };
    const state = { step, seed, metricsBytes: metrics.sync(), settings: told(job), ppo };
    writeCheckpoint(directory, { policy, trainer, card, critic, state });
    saved = standing.iteration;
  };
  const task = progress.task(job.label ?? "reinforcing", iterations, "iterations", "tokens");
  task.advance(standing.iteration);
  try {
    while (standing.iteration < iterations) {
      const done = await oneIteration(job, learners, standing).catch((error) => {
        // Nothing can stop an iteration once it learns: this one has moved nothing.
        if (signal?.aborted) save();
        throw error;
      });
      step += done.steps;
      standing.iteration += 1;
      const counts = confidenceCounts(done.confidences);
      metrics.add(step, { iteration: standing.iteration, ...done.values }, done.measured, counts);
      metrics.addHistogram(step, "rewards", done.rewards, bins(done.rewards));
      if (done.confidences.length > 0) metrics.addHistogram(step, "confidences", done.confidences, twentieths);
      for (const { message } of watch.add(statisticsOf(standing.iteration, done.values))) progress.note(message);
      job.told?.(standing.iteration, done.values);
      task.advance(1, done.tokens);
      if (standing.iteration % settings.checkpointEvery === 0) save();
    }
    save();
    const average = trainer.average();
    if (average) policy.native.setTensors([...average.adapter, ...average.heads]);
  } finally {
    task.end();
    await standing.ptx?.close();
    trainer.dispose();
    critic?.trainer.dispose();
  }
}

function trainerOf(
  policy: Policy,
  { schedule: kind, learningRate: peak, warmup, groups, ...optimizer }: PpoSettings["optimizer"],
  { seed, iterations, epochs, miniBatches }: PpoSettings,
  averageDecay?: number,
): Trainer {
  const schedule = { kind, peak, steps: iterations * epochs * miniBatches, warmup };
  const rate = (step: number) => learningRate(schedule, step);
  return policy.trainer({
    optimizer: { ...optimizer, seed, averageDecay },
    schedule: rate,
    groups: groupSchedules({ groups, learningRate: peak }, rate),
  });
}

async function stands<Data>(job: PpoTraining<Data>, model: Model, from?: Checkpoint): Promise<Standing> {
  const { seed, ptx } = job.settings;
  const { controller, coefficient, target, horizon } = job.settings.kl;
  const kl =
    controller === "fixed"
      ? klController({ kind: "fixed", coefficient })
      : klController({ kind: "adaptive", coefficient, target, horizon });
  const moments = new RunningMoments();
  const then = from?.state.ppo;
  if (then) {
    kl.restore(then.kl);
    moments.restore(then.moments);
  }
  const standing = { iteration: then?.iteration ?? 0, kl, moments };
  if (!job.ptx || !ptx) return standing;
  const { signal, progress } = job;
  const rows = await PtxRows.open(model, job.ptx, ptx, { seed, from: then?.ptx, signal, progress });
  return { ...standing, ptx: rows };
}

interface Iteration {
  steps: number;
  tokens: number;
  values: Record<string, number>;
  measured: Record<string, number>;
  rewards: number[];
  /** Of the completions that state one. */
  confidences: number[];
}

/** Edges of bins. */
const twentieths = Array.from({ length: 21 }, (_, i) => i / 20);
function bins(values: readonly number[]): number[] {
  const least = values.reduce((a, b) => Math.min(a, b));
  const most = values.reduce((a, b) => Math.max(a, b));
  return Array.from({ length: 21 }, (_, i) => least + ((most - least || 1) * i) / 20);
}

async function oneIteration<Data>(job: PpoTraining<Data>, learners: Learners, standing: Standing): Promise<Iteration> {
  const { settings, signal } = job;
  const { policy } = learners.actor;
  if (signal?.aborted)
    throw new CredenceError(
      "ABORTED",
      `stopped after iteration ${standing.iteration}; started again it goes on from there`,
    );
  const watch = stopwatch();
  const { groups, scores } = await rollOut(job, policy, standing.iteration);
  const rollouts = groups.flatMap((group) => group.rollouts);
  const masks = rollouts.map((rollout) => maskOf(job, rollout, groups[rollout.group]!.data));
  const rolloutSeconds = watch();
  if (job.learntPrompt) for (const group of groups) group.prompt = job.learntPrompt(group.prompt);
  if (job.learntPrompt || policy.model.info.rowsDiffer !== undefined) await scoreAgain(job, policy, groups);

  const budget = settings.microBatchTokens;
  const head = settings.advantage.estimator === "gae" ? job.valueHead : undefined;
  const reference = await referenceOf(job, policy, groups);
  const critic = learners.critic?.policy ?? policy;
  const after = settings.advantage.cutOff === "bootstrap";
  const values = head === undefined ? undefined : await scoreRollouts(critic, groups, { head, after, budget, signal });
  const scoringSeconds = watch();

  const placed = placedRewards(job, scores, standing.moments);
  const unit = settings.score.normalise === "none" ? 1 : standing.moments.unit;
  const settled = scores.map(({ settled: parts }, i) =>
    head !== undefined && parts?.length
      ? placeSettled(policy.model.tokenizer, rollouts[i]!, parts, masks[i], unit)
      : [],
  );
  const episodes = rollouts.map((rollout, i) => ({
    logprobs: rollout.logprobs,
    reference: reference?.get(rollout)?.logprobs,
    values: values?.get(rollout)?.values,
    reward: placed[i]!,
    settled: settled[i] ?? [],
    bootstrap: rollout.finish === "length" ? values?.get(rollout)?.after : 0,
    group: rollout.group,
    mask: masks[i],
    sampled: rollout.sampled,
  }));
  const shaped = await advantagesOf(policy.model, episodes, settings, standing.kl.coefficient);
  const targets = new Map<Rollout, Target>(
    rollouts.map((rollout, i) => {
      const { values, mask } = episodes[i]!;
      return [rollout, { ...shaped.worth[i]!, values, mask }];
    }),
  );
  const updates = await learn(job, learners, groups, targets, standing, head);
  const updateSeconds = watch();

  const tokens = rollouts.reduce((sum, rollout) => sum + rollout.tokens.length, 0);
  const result = {
    reward: mean(scores.map(({ reward }) => reward)),
    ...partsOf(scores),
    learntReward: mean(placed),
    ...(reference
      ? { kl: shaped.kl, klOfCompletion: shaped.klOfCompletion, klCoefficient: standing.kl.coefficient }
      : {}),
    length: tokens / rollouts.length,
    ...placesOf(settled),
    cutOff: mean(rollouts.map(({ finish }) => Number(finish === "length"))),
    ...retriesOf(rollouts),
    ...lossesOf(updates, head === undefined ? "none" : learners.critic ? "own" : "shared"),
    tokens,
  };
  if (reference) standing.kl.update(shaped.klOfCompletion, rollouts.length);
  return {
    steps: updates.filter(({ actor }) => actor.ppo!.accepted).length,
    tokens,
    values: result,
    measured: { rolloutSeconds, scoringSeconds, updateSeconds },
    rewards: scores.map(({ reward }) => reward),
    confidences: scores.flatMap(({ confidence }) => confidence ?? []),
  };
}

/** Where a later pass has other bits than the sampler, or reads another prompt, its log-probabilities are the old ones: ratios begin at 1 all the same. */
async function scoreAgain<Data>(
  { settings: { microBatchTokens: budget, trainedTemperature: temperature }, signal }: PpoTraining<Data>,
  policy: Policy,
  groups: Group<Data>[],
): Promise<void> {
  const asked = { logprobs: true, temperature, budget, signal };
  for (const [rollout, { logprobs }] of await scoreRollouts(policy, groups, asked)) rollout.logprobs = logprobs!;
}

async function referenceOf<Data>(
  { reference, settings: { microBatchTokens: budget, trainedTemperature: temperature }, signal }: PpoTraining<Data>,
  policy: Policy,
  groups: Group<Data>[],
): Promise<Map<Rollout, Scored> | undefined> {
  if (reference === undefined) return undefined;
  const [by, adapter] = reference === "base" ? [policy, false] : [reference, true];
  return scoreRollouts(by, groups, { logprobs: true, temperature, adapter, budget, signal });
}

function stopwatch(): () => number {
  let from = performance.now();
  return () => {
    const now = performance.now();
    const seconds = (now - from) / 1000;
    from = now;
    return seconds;
  };
}

/** Samples an iteration's completions and asks for each one's reward as soon as it is there. */
async function rollOut<Data>(
  job: PpoTraining<Data>,
  policy: Policy,
  iteration: number,
): Promise<{ groups: Group<Data>[]; scores: LimitedScore[] }> {
  const { prompts, settings, reward, signal } = job;
  const { samples } = settings.rollout;
  const chosen = promptsOf(prompts.length, settings.rollout.prompts, iteration, settings.seed).map((i) => prompts[i]!);
  const groups = chosen.map(({ tokens, data }): Group<Data> => ({ prompt: tokens, data, rollouts: [] }));
  const tokens = chosen.map((prompt) => prompt.tokens);
  async function* asked() {
    for await (const rollout of sampleRollouts(policy, tokens, settings, iteration, signal)) {
      const { text: prompt, data: record } = chosen[rollout.group]!;
      const { group: question, sample } = rollout;
      const completion = job.completion?.(rollout) ?? rollout.text;
      yield { question, sample, prompt, completion, record, rollout };
    }
  }
  const scores: LimitedScore[] = [];
  for await (const { sample, scored } of rewardStream(asked(), reward, { samples, signal })) {
    groups[sample.question]!.rollouts.push(sample.rollout);
    scores.push(scored);
  }
  return { groups, scores };
}

/** Nothing is learnt from tokens that were put in, whatever the job's mask says. */
function maskOf<Data>({ mask }: PpoTraining<Data>, rollout: Rollout, data: Data): Uint8Array | undefined {
  const own = mask?.(rollout, data);
  const { sampled, tokens } = rollout;
  const fits = !own || own.length === tokens.length;
  const all = own && sampled && fits ? own.map((one, t) => (one && sampled[t] ? 1 : 0)) : (own ?? sampled);
  if (fits && (!all || all.some((one) => one !== 0))) return all;
  throw new CredenceError(
    "BAD_INPUT",
    `the mask of sample ${rollout.sample} of prompt ${rollout.group} has ${own!.length} entries${fits ? ", 0 at all tokens that were sampled" : ""}; expected one for each of ${tokens.length} tokens, and at least one of a sampled token that is not 0`,
  );
}

/** Rewards as they are learnt from: compared, brought to the scale of all so far, clamped. */
function placedRewards<Data>(
  { batchTerm, settings }: PpoTraining<Data>,
  scores: LimitedScore[],
  moments: RunningMoments,
): ArrayLike<number> {
  const { normalise, clamp } = settings.score;
  const own = scores.map(({ reward }) => reward);
  const compared = batchTerm
    ? batchTerm.apply(
        own,
        scores.map((score) => {
          if (score.confidence === null && batchTerm.takesUnstated) return Number.NaN;
          return score.confidence ?? noConfidence(batchTerm, score);
        }),
      )
    : own;
  const clip = clamp ?? Number.POSITIVE_INFINITY;
  if (normalise === "none") return Float64Array.from(compared, (reward) => Math.min(clip, Math.max(-clip, reward)));
  moments.update(compared);
  return moments.scale(compared, { center: normalise === "full", clip });
}

function noConfidence({ name }: BatchTerm, { confidence }: LimitedScore): never {
  throw new CredenceError(
    "BAD_REWARD",
    confidence === null
      ? `${name} needs the confidence of every completion, and one states none: let its reader give a value there, counted`
      : `${name} needs the confidence of every completion, and the reward tells none: use confidenceReward, or return { reward, confidence }`,
  );
}

/** What the iteration's optimiser steps were like; those that were not taken count in the statistics that stopped them. */
function lossesOf(updates: Update[], critic: "none" | "own" | "shared"): Record<string, number> {
  const told = updates.map(({ actor }) => actor.ppo!);
  const taken = updates.map(({ actor }) => actor).filter(({ ppo }) => ppo!.accepted);
  const over = (of: (one: PpoStatistics) => number) => mean(told.map(of));
  const own = updates.flatMap(({ critic }) => critic ?? []);
  const values = { none: [], own: own.map(({ ppo }) => ppo!), shared: told }[critic];
  return {
    policyLoss: over((one) => one.policyLoss),
    ...(values.length
      ? {
          valueLoss: mean(values.map((one) => one.valueLoss)),
          valueClipFraction: mean(values.map((one) => one.valueClipFraction)),
        }
      : {}),
    ...ptxOf(taken),
    entropy: told[0]!.entropy,
    ratio: over((one) => one.ratio),
    clipFraction: over((one) => one.clipFraction),
    approximateKl: told.at(-1)!.approximateKl,
    firstRatioChange: told[0]!.ratioChange,
    ratioChange: Math.max(...told.map((one) => one.ratioChange)),
    gradientNorm: taken.length ? mean(taken.map((one) => one.gradientNorm)) : 0,
    learningRate: taken.at(-1)?.learningRate ?? 0,
    ...(own.length
      ? {
          criticGradientNorm: mean(own.map((one) => one.gradientNorm)),
          criticLearningRate: own.at(-1)!.learningRate,
        }
      : {}),
    steps: taken.length,
  };
}

function ptxOf(taken: StepResult[]): Record<string, number> {
  const losses = taken.flatMap(({ ppo }) => ppo!.ptxLoss ?? []);
  return losses.length ? { ptxLoss: mean(losses) } : {};
}

/** Where parts are settled early: the share of completions in which they are not placed, and in which no token has earned one. */
function placesOf(settled: (PlacedReward[] | null)[]): Record<string, number> {
  if (settled.every((parts) => parts?.length === 0)) return {};
  return {
    settledAtEnd: mean(settled.map((parts) => Number(parts === null))),
    settledBefore: mean(settled.map((parts) => Number(parts?.some(({ at }) => at < 0) ?? false))),
  };
}

function mean(numbers: ArrayLike<number>): number {
  let sum = 0;
  for (let i = 0; i < numbers.length; i++) sum += numbers[i]!;
  return sum / numbers.length;
}

/** Means of what rewards are made of, and how often there was nothing to read. */
function partsOf(scores: LimitedScore[]): Record<string, number> {
  const sums = new Map<string, { sum: number; count: number }>();
  const add = (name: string, value: number) => {
    const { sum, count } = sums.get(name) ?? { sum: 0, count: 0 };
    sums.set(name, { sum: sum + value, count: count + 1 });
  };
  for (const { parts = {}, confidence, failure } of scores) {
    for (const [name, value] of Object.entries(parts)) add(name, value);
    if (confidence !== undefined) add("unstated", Number(confidence === null));
    if (confidence != null) add("confidence", confidence);
    add("rewardFailures", Number(failure !== undefined));
  }
  return Object.fromEntries([...sums].map(([name, { sum, count }]) => [name, sum / count]));
}

/** One optimiser step: the policy's, and that of a critic of its own, which is not taken where the policy's is not. */
interface Update {
  actor: StepResult;
  critic?: StepResult;
}

/** The iteration's epochs; each is cut anew, by prompts, into its optimiser steps. */
async function learn<Data>(
  job: PpoTraining<Data>,
  { actor, critic }: Learners,
  groups: Group<Data>[],
  targets: Map<Rollout, Target>,
  { iteration, ptx }: Standing,
  head: string | undefined,
): Promise<Update[]> {
  const { settings } = job;
  const { epochs, miniBatches, seed } = settings;
  const updates: Update[] = [];
  const random = new NumpyRandom([seed, iteration, 1]);
  const each = Math.ceil(groups.length / miniBatches);
  for (let epoch = 0; epoch < epochs; epoch++) {
    const order = permutation(groups, random);
    for (let from = 0; from < order.length; from += each) {
      const part = order.slice(from, from + each);
      const rows = await ptx?.next();
      const beside = rows && { ...rows, coefficient: settings.ptx!.coefficient };
      const update: Update = {
        actor: await updateOn(actor.trainer, part, targets, settings, critic ? undefined : head, { beside }),
      };
      updates.push(update);
      if (!update.actor.ppo!.accepted) return updates;
      if (critic) update.critic = await updateOn(critic.trainer, part, targets, settings, head, { policy: false });
    }
  }
  return updates;
}
