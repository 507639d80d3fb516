/** The library as a program sees it: models, policies, samples, trainers; order, abort, disposal, bad input. */
import { readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import t from "tap";
import { flatten } from "../src/data/packing.js";
import {
  CredenceError,
  evaluate,
  learningRate,
  Model,
  type OpenPass,
  type PassReadouts,
  type Policy,
  type Sample,
  type Upstream,
} from "../src/index.js";
import { encodeSafetensors, readSafetensors } from "../src/model/safetensors.js";
import type { NativeLoss } from "../src/native.js";
import { defaultOptimizer } from "../src/policy/trainer.js";
import { writeTinyModel } from "./fixtures/tiny-model.js";

const targets = ["q", "k", "v", "o", "gate", "up", "down"] as const;
const questions = ["what colour is that hat ?", "what colour is that cup of ada ?", "what is that ?"];

/** An adapter's tensors with a B that is not zero, as a new one's is: then the adapter does something. */
const adapted = (policy: Policy) =>
  policy.native.tensors().adapter.map(({ name, shape, data }, i) => ({
    name,
    shape,
    data: name.includes("lora_B") ? data.map((_, k) => 0.3 * Math.sin(k + i)) : data,
  }));

t.test("a program's use", async (t) => {
  const model = await Model.load(writeTinyModel(join(t.testdir(), "model")), { threads: 2 });
  t.teardown(() => model.dispose());
  const head = { name: "confidence", kind: "linear" as const, seed: 1 };
  const adapter = { rank: 4, alpha: 8, targets: [...targets], seed: 1 };

  t.test("samples come in order and do not depend on company", async (t) => {
    const policy = await model.policy();
    const settings = { samples: 3, temperature: 1, topK: 20, topP: 0.95, maxNewTokens: 6, seed: 7, collect: [1, 2] };
    const all: Sample[] = [];
    for await (const sample of policy.generate(questions, settings)) all.push(sample);
    t.same(
      all.map(({ prompt, sample }) => [prompt, sample]),
      questions.flatMap((_, prompt) => [0, 1, 2].map((sample) => [prompt, sample])),
    );
    const alone: Sample[] = [];
    for await (const sample of policy.generate([questions[1]!], settings)) alone.push(sample);
    for (const [i, sample] of alone.entries()) t.same({ ...sample, prompt: 1 }, all[3 + i]);
    t.equal(all[0]!.answerHidden!.length, 2 * model.info.hiddenSize);
    const again: Sample[] = [];
    for await (const sample of policy.generate(questions, { ...settings, maxBatch: 2 })) again.push(sample);
    t.same(again, all);
    t.same(await collect(policy.generate([], settings)), []);
  });

  t.test("what was scored while sampling is what a later pass scores", async (t) => {
    const policy = await model.policy();
    let stopped = 0;
    for (const question of questions) {
      const prompt = await model.promptTokens(question);
      const settings = { samples: 40, temperature: 1, maxNewTokens: 5, seed: 3 };
      for (const { tokens, stopToken, finish, logprobs } of await collect(policy.generate([prompt], settings))) {
        t.equal(stopToken, finish === "stop" ? 2 : undefined);
        stopped += Number(finish === "stop");
        const whole = Int32Array.from([...prompt, ...tokens, ...(stopToken === undefined ? [] : [stopToken])]);
        const scored = await policy.forward([whole], { logprobs: true });
        t.same(scored.logprobs!.subarray(prompt.length), logprobs);
      }
    }
    t.ok(stopped > 3);
  });

  t.test("abort ends a generation, and what follows works", async (t) => {
    const policy = await model.policy();
    const controller = new AbortController();
    const prompts = Array.from({ length: 200 }, (_, i) => questions[i % 3]!);
    let seen = 0;
    const sampling = (async () => {
      for await (const _ of policy.generate(prompts, {
        temperature: 1,
        samples: 8,
        maxNewTokens: 30,
        signal: controller.signal,
      })) {
        seen += 1;
        if (seen === 3) controller.abort();
      }
    })();
    await t.rejects(sampling, { code: "ABORTED" });
    t.ok(seen < 1600);
    t.equal((await collect(policy.generate([questions[0]!], { maxNewTokens: 2 }))).length, 1);
    let left = 0;
    for await (const _ of policy.generate(prompts, { temperature: 1, maxNewTokens: 30 })) if (++left === 2) break;
    t.equal(left, 2, "leaving the loop stops the work");
  });

  t.test("a loss of one's own gives the fused one's step", async (t) => {
    const policies = await Promise.all([0, 1].map(() => model.policy({ adapter, heads: [head] })));
    const rows = await Promise.all(questions.map((question) => model.promptTokens(question)));
    const targetsOf = [0.2, 0.9, 0.5];
    const [fused, own] = policies.map((policy) => policy.trainer({ schedule: 1e-2 }));
    const spans = rows.map((row, sequence) => ({ sequence, from: row.length - 1, to: row.length }));
    // A step moves confidence to its targets: what is left of the gradient is a difference of two near numbers, each
    // rounded as large ones are. So the largest gradient is the measure.
    let largest = 0;
    for (let step = 0; step < 3; step++) {
      const first = await fused!.step({
        sequences: rows,
        loss: { kind: "confidence", head: "confidence", targets: targetsOf },
      });
      const pass = await own!.forward(rows, { heads: [{ name: "confidence", spans }] });
      const gradient = pass.heads!.confidence!.map((logit, i) => {
        const p = 1 / (1 + Math.exp(-logit));
        return 2 * (p - targetsOf[i]!) * p * (1 - p);
      });
      await pass.backward({ heads: { confidence: gradient } });
      const second = await own!.update({ count: rows.length });
      largest = Math.max(largest, first.gradientNorm);
      t.ok(
        Math.abs(first.gradientNorm - second.gradientNorm) <= 1e-5 * largest,
        `${first.gradientNorm} ${second.gradientNorm}`,
      );
    }
    const [a, b] = policies.map((policy) => policy.native.tensors().heads[0]!.data);
    t.ok(a!.every((value, i) => Math.abs(value - b![i]!) < 1e-4));
  });

  t.test("log-prob, closed-set and divergence losses in TypeScript give the fused ones' gradients", async (t) => {
    const policy = await model.policy({ adapter });
    policy.native.setTensors(adapted(policy));
    const sequences = await Promise.all(questions.map((question) => model.promptTokens(question)));
    const { tokens, offsets } = flatten(sequences);
    const weights = Float32Array.from(tokens, (_, at) => (offsets.includes(at) ? 0 : ((at * 7) % 5) / 4));
    const candidates = [7, 3, 11];
    const labels = [2, 0, 1];
    const rows = Int32Array.from(offsets.subarray(1), (end) => end - 1);
    const mask = sequences.map((row, b) => Uint8Array.from(row, (_, i) => (weights[offsets[b]! + i] ? 1 : 0)));
    const kinds = ["kl", "reverse-kl", "jsd"] as const;
    const fusedTrainer = () => policy.native.trainer({ ...defaultOptimizer });
    interface Case {
      fused: NativeLoss;
      asked: PassReadouts;
      value: (pass: OpenPass) => number;
      upstream: (pass: OpenPass) => Upstream;
    }
    const sum = (values: Float32Array) => values.reduce((total, value, at) => total + value * weights[at]!, 0);
    const cases: Record<string, Case> = {
      "log-probs": {
        fused: { kind: "nll", weights },
        asked: { readouts: ["logprobs"] },
        value: (pass) => -sum(pass.logprobs!),
        upstream: () => ({ logprobs: weights.map((weight) => -weight) }),
      },
      "closed set": {
        fused: {
          kind: "closed-set",
          candidates: Int32Array.from(candidates),
          rows,
          labels: Int32Array.from(labels),
          weights: new Float32Array(3).fill(1),
        },
        asked: { closedSet: { candidates } },
        value: (pass) =>
          -labels.reduce((total, label, b) => total + pass.closedSet![b * candidates.length + label]!, 0),
        upstream: (pass) => ({
          closedSet: pass.closedSet!.map((_, at) => (at % candidates.length === labels[Math.floor(at / 3)] ? -1 : 0)),
        }),
      },
      ...Object.fromEntries(
        kinds.map((kind) => [
          kind,
          {
            fused: { kind: "divergence" as const, divergence: kind, weights },
            asked: { divergence: { kind, mask } },
            value: (pass: OpenPass) => sum(pass.divergence!),
            upstream: () => ({ divergence: weights }),
          },
        ]),
      ),
    };
    for (const [name, { fused, asked, value, upstream }] of Object.entries(cases)) {
      const native = fusedTrainer();
      await native.accumulate({ tokens, offsets }, fused);
      const gradients = native.gradients();
      const { loss } = await native.update({ learningRate: 0, count: 1 });
      const trainer = policy.trainer({ schedule: 1e-2 });
      const pass = await trainer.forward(sequences, asked);
      t.ok(Math.abs(value(pass) - loss) <= 1e-6 * Math.abs(loss), `${name}: ${value(pass)} ${loss}`);
      await pass.backward(upstream(pass));
      for (const [i, { name: tensor, data }] of trainer.gradients().entries()) {
        const right = gradients[i]!.data;
        const largest = right.reduce((most, x) => Math.max(most, Math.abs(x)), 0);
        const worst = data.reduce((most, x, k) => Math.max(most, Math.abs(x - right[k]!)), 0);
        t.ok(largest > 0 && worst <= 1e-6 * largest, `${name}: ${tensor} differs by ${worst} of ${largest}`);
      }
      native.dispose();
      trainer.dispose();
    }
  });

  t.test("steps with a closed set and a divergence lower them; a pass is open until the next", async (t) => {
    const sequences = await Promise.all(questions.map((question) => model.promptTokens(question)));
    const policy = await model.policy({ adapter });
    const trainer = policy.trainer({ schedule: 1e-2 });
    const closed = { sequences, loss: { kind: "closed-set" as const, candidates: [5, 9], labels: [0, 1, 0] } };
    const first = (await trainer.step(closed)).loss;
    for (let step = 0; step < 10; step++) await trainer.step({ ...closed, microBatchTokens: 1 });
    const { loss } = await trainer.step(closed);
    t.ok(loss < first / 2, `${first} to ${loss}`);
    const weights = sequences.map((row) => Float32Array.from(row, (_, i) => (i > 0 ? 1 : 0)));
    const back = { sequences, loss: { kind: "divergence" as const, divergence: "jsd" as const, weights } };
    const far = (await trainer.step(back)).loss;
    for (let step = 0; step < 10; step++) await trainer.step(back);
    const near = (await trainer.step(back)).loss;
    t.ok(near < far / 2, `${far} to ${near}`);
    const pass = await trainer.forward(sequences, { readouts: ["entropy"], divergence: { kind: "kl" } });
    t.equal(pass.divergence!.filter((value) => value > 0).length, pass.divergence!.length - sequences.length);
    await pass.backward({ entropy: new Float32Array(pass.entropy!.length).fill(1) });
    await pass.backward({ divergence: pass.divergence!.map((value) => Math.sign(value)) });
    await trainer.update({ count: 1 });
    await t.rejects(pass.backward({ entropy: pass.entropy! }), { code: "STALE_PASS" });
    await t.rejects(trainer.forward(sequences, { closedSet: { candidates: [1], at: [{ sequence: 0, index: 99 }] } }), {
      code: "BAD_INPUT",
    });
    await t.rejects(trainer.step({ ...closed, loss: { ...closed.loss, labels: [0] } }), { code: "BAD_INPUT" });
  });

  t.test("completions behind one prompt give what whole sequences give, however they are cut", async (t) => {
    const [a, b] = await Promise.all(questions.slice(0, 2).map((question) => model.promptTokens(question)));
    const answers = [[5, 9, 4], [7], [11, 3]].map((tokens) => Int32Array.from(tokens));
    const prompts = [a!, b!, a!];
    const whole = answers.map((answer, i) => Int32Array.from([...prompts[i]!, ...answer]));
    const shared = { sequences: [a!, b!, ...answers], prefixOf: [-1, -1, 0, 1, 0] };
    const policy = await model.policy({ adapter });
    const apart = await policy.forward(whole, { logprobs: true });
    const behind = await policy.forward(shared.sequences, { logprobs: true, prefixOf: shared.prefixOf });
    const scored = whole.map((row, i) => row.length - answers[i]!.length);
    const ends = whole.map((_, i) => whole.slice(0, i + 1).reduce((sum, row) => sum + row.length, 0));
    t.same(
      behind.logprobs!.subarray(a!.length + b!.length),
      ends.flatMap((end, i) => [...apart.logprobs!.subarray(end - whole[i]!.length + scored[i]!, end)]),
    );
    const ones = (row: Int32Array, from: number) => Float32Array.from(row, (_, i) => (i >= from ? 1 : 0));
    const norms: number[] = [];
    for (const [sequences, prefixOf, weights] of [
      [whole, undefined, whole.map((row, i) => ones(row, scored[i]!))],
      [
        shared.sequences,
        shared.prefixOf,
        [...prompts.slice(0, 2).map((row) => ones(row, 99)), ...answers.map((row) => ones(row, 0))],
      ],
    ] as const) {
      for (const microBatchTokens of [undefined, 1]) {
        const trainer = (await model.policy({ adapter })).trainer({ schedule: 0 });
        const batch = { sequences: [...sequences], prefixOf: prefixOf && [...prefixOf], microBatchTokens };
        const nll = await trainer.step({ ...batch, loss: { kind: "nll", weights: [...weights] } });
        const labels = sequences.map((_, i) => (sequences.length - i <= 3 ? i % 2 : null));
        const set = await trainer.step({ ...batch, loss: { kind: "closed-set", candidates: [5, 9], labels } });
        norms.push(nll.loss, nll.gradientNorm, set.loss, set.gradientNorm);
      }
    }
    // Where the type is bf16 so is what flows back to the prompt; trainer_test has float32's bound.
    for (const [i, norm] of norms.entries())
      t.ok(Math.abs(norm - norms[i % 4]!) <= (i % 2 ? 1e-3 : 1e-6) * norm, `${norm} ${norms[i % 4]}`);
    await t.rejects(policy.forward([a!, b!], { prefixOf: [1, -1] }), { code: "BAD_BATCH" });
    const trainer = policy.trainer({ schedule: 1e-2 });
    for (const prefixOf of [[-1], [-1, 1]]) {
      await t.rejects(
        trainer.step({ sequences: [a!, b!], prefixOf, loss: { kind: "closed-set", candidates: [5], labels: [0, 0] } }),
        { code: "BAD_INPUT" },
      );
    }
  });

  t.test("accumulation does not change a step, and training lowers the loss", async (t) => {
    const rows = await Promise.all(questions.map((question) => model.promptTokens(question)));
    const losses: number[][] = [];
    for (const microBatchTokens of [Number.POSITIVE_INFINITY, 1]) {
      const policy = await model.policy({ adapter, heads: [head] });
      const trainer = policy.trainer({
        schedule: (step) => learningRate({ kind: "linear", peak: 1e-2, steps: 20, warmup: 0.1 }, step),
      });
      const run: number[] = [];
      for (let step = 0; step < 20; step++) {
        const { loss } = await trainer.step({
          sequences: rows,
          loss: { kind: "confidence", head: "confidence", targets: [0, 1, 0] },
          microBatchTokens,
        });
        run.push(loss);
      }
      losses.push(run);
    }
    t.ok(Math.abs(losses[0]![0]! - losses[1]![0]!) < 1e-5);
    t.ok(losses[0]!.at(-1)! < losses[0]![0]! / 2, `${losses[0]![0]} to ${losses[0]!.at(-1)}`);
  });

  t.test("a restored trainer goes on to the same bits, with dropout too", async (t) => {
    const dropping = { ...adapter, dropout: 0.3 };
    const rows = await Promise.all(questions.map((question) => model.promptTokens(question)));
    const step = { sequences: rows, loss: { kind: "confidence" as const, head: "confidence", targets: [0, 1, 0] } };
    const whole = await model.policy({ adapter: dropping, heads: [head] });
    const trainer = whole.trainer({ schedule: 1e-2, optimizer: { seed: 4, averageDecay: 0.9 } });
    for (let i = 0; i < 3; i++) await trainer.step(step);
    const directory = t.testdir();
    const folder = join(directory, "dropping");
    const made = await model.policy({ adapter: dropping });
    made.save(folder);
    t.match(JSON.parse(readFileSync(join(folder, "adapter_config.json"), "utf8")), { lora_dropout: 0.3 });
    const passes = [made, await model.policy({ adapter: folder }), await model.policy({ adapter })].map(
      async (policy) => {
        policy.native.setTensors(adapted(policy));
        return (await policy.trainer({ schedule: 0 }).forward(rows, { readouts: ["logprobs"] })).logprobs;
      },
    );
    const [own, loaded, without] = await Promise.all(passes);
    t.same(loaded, own, "a folder's dropout is on in a training pass");
    t.notSame(without, own);
    const { adapter: lora, heads } = whole.native.tensors();
    const state = trainer.state();
    const path = join(directory, "optimizer.safetensors");
    writeFileSync(path, Buffer.concat(encodeSafetensors(state.tensors)));
    const resumed = await model.policy({ adapter: dropping, heads: [head] });
    resumed.native.setTensors([...lora, ...heads]);
    const again = resumed.trainer({ schedule: 1e-2, optimizer: { averageDecay: 0.9 } });
    const { average, ...others } = state;
    t.throws(() => again.restore(others), { code: "BAD_CHECKPOINT", message: /no running average/ });
    t.throws(() => resumed.trainer({ schedule: 0 }).restore(state), { message: /a running average, and none is kept/ });
    again.restore({ ...state, tensors: readSafetensors(path) });
    for (let i = 0; i < 3; i++) t.same(await again.step(step), await trainer.step(step));
    t.same(resumed.native.tensors(), whole.native.tensors());
    t.same(again.average(), trainer.average());
    t.notSame(again.average(), average);
    t.notSame(again.average(), resumed.native.tensors());
    await t.rejects(model.policy({ adapter: { ...adapter, dropout: 1 } }), { code: "BAD_OPTION" });
  });

  t.test("nll learns a row by heart", async (t) => {
    const policy = await model.policy({ adapter });
    const trainer = policy.trainer({ schedule: 1e-2 });
    const row = await model.promptTokens(questions[1]!);
    const weights = Float32Array.from(row, (_, i) => (i > 0 ? 1 : 0));
    let last = Number.POSITIVE_INFINITY;
    const first = (await trainer.step({ sequences: [row], loss: { kind: "nll", weights: [weights] } })).loss;
    for (let step = 0; step < 15; step++)
      last = (await trainer.step({ sequences: [row], loss: { kind: "nll", weights: [weights] } })).loss;
    t.ok(last < first / 2, `${first} to ${last}`);
    await t.rejects(
      trainer.step({ sequences: [row], loss: { kind: "nll", weights: [new Float32Array(row.length)] } }),
      { code: "NOTHING_SUPERVISED" },
    );
    await t.rejects(trainer.step({ sequences: [row], loss: { kind: "confidence", head: "none", targets: [1, 0] } }), {
      code: "BAD_INPUT",
    });
  });

  t.test("bad input is named, and nothing ends the process", async (t) => {
    const policy = await model.policy();
    await t.rejects(collect(policy.generate([new Int32Array(0)])), { code: "BAD_INPUT" });
    await t.rejects(collect(policy.generate([new Int32Array(300)], { maxNewTokens: 5 })), {
      code: "TOO_LONG",
      message: /300 tokens.*context \(256 tokens\)/,
    });
    const badBatch = (error: unknown) => error instanceof CredenceError && error.code === "BAD_BATCH";
    for (const token of [99999, -5]) {
      const error = await collect(policy.generate([Int32Array.of(1, token)], { maxNewTokens: 2 })).catch(
        (e: unknown) => e,
      );
      t.ok(badBatch(error), "a failure on the engine's thread is a CredenceError");
    }
    await t.rejects(
      policy.forward([Int32Array.of(1, 2)], { spans: [{ sequence: 4, from: 0, to: 1 }], heads: ["none"] }),
    );
    t.throws(() => policy.native.setTensors([{ name: "none", shape: [1], data: new Float32Array(2) }]), CredenceError);
    t.throws(() => policy.native.trainer({ ...defaultOptimizer }), CredenceError);
    await t.rejects(policy.score(questions), { code: "NO_CARD" });
    await t.rejects(collect(policy.generate(questions, { temperature: -1 })));
  });

  t.test("parents dispose of children, and later use says so", async (t) => {
    const own = await Model.load(writeTinyModel(join(t.testdir(), "own")), { threads: 1 });
    const policy = await own.policy({ adapter, heads: [head] });
    const trainer = policy.trainer({ schedule: 1e-3 });
    await own.dispose();
    await own.dispose();
    await t.rejects(own.policy(), { code: "DISPOSED" });
    await t.rejects(policy.forward([Int32Array.of(1)], {}), { code: "DISPOSED" });
    await t.rejects(trainer.update({ count: 1 }), { code: "DISPOSED" });
  });

  t.test("evaluate takes plain predictions", async (t) => {
    const predictions = [0.9, 0.8, 0.3, 0.1].map((confidence, i) => ({
      confidence,
      correct: (i < 2 ? 1 : 0) as 0 | 1,
    }));
    const { ece, auroc, brier } = evaluate(predictions, { bins: 10 });
    t.equal(auroc.value, 1);
    t.ok(Math.abs(ece.value! - 0.175) < 1e-9);
    t.ok(Math.abs(brier.value! - 0.0375) < 1e-9);
    t.throws(() => evaluate([{ confidence: 2, correct: 1 }]), CredenceError);
  });
});

async function collect<T>(items: AsyncIterable<T>): Promise<T[]> {
  const out: T[] = [];
  for await (const item of items) out.push(item);
  return out;
}
