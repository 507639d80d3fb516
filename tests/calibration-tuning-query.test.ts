/** The query's two tokens beside a softmax over the whole vocabulary, and answers that share their question. */
import { join } from "node:path";
import t from "tap";
import { probabilities, queryLogprobs } from "../src/methods/calibration-tuning/query.js";
import { choiceTokens, queryText, sanitised, textTokens } from "../src/methods/calibration-tuning/wire.js";
import { Model } from "../src/policy/model.js";
import type { Policy } from "../src/policy/policy.js";
import { queryWords, writeTinyModel } from "./fixtures/tiny-model.js";

const row = (question: string, output: string) => ({
  prompt: "",
  context: question,
  targetPrompt: "\nAnswer:",
  output,
});
const rows = [
  ...["red", "green hat", "blue\nwhat colour", "red"].map((output) =>
    row("Question: what colour is that hat of ada says loudly ?", output),
  ),
  row("Question: what colour is that pen of ben says quietly ?", "black"),
  row("that", "white"),
  ...["brown", "white"].map((output) => row("Question: what colour is that cup of eve says loudly ?", output)),
];

/** The same by the log-probabilities of the whole vocabulary: each row once with each choice behind it. */
async function restricted(policy: Policy, adapter: boolean): Promise<number[]> {
  const { model } = policy;
  const choices = await choiceTokens(model.tokenizer);
  const out: number[] = [];
  for (const one of rows) {
    const tokens = await textTokens(model, queryText(one, sanitised(one.output)));
    const logprobs: number[] = [];
    for (const choice of choices) {
      const result = await policy.forward([Int32Array.of(...tokens, choice)], { logprobs: true, adapter });
      logprobs.push(result.logprobs!.at(-1)!);
    }
    const sum = Math.log(Math.exp(logprobs[0]!) + Math.exp(logprobs[1]!));
    out.push(logprobs[0]! - sum, logprobs[1]! - sum);
  }
  return out;
}

const apart = (a: ArrayLike<number>, b: ArrayLike<number>): number =>
  Math.max(...Array.from(a, (value, i) => Math.abs(value - b[i]!)));

t.test("two rows of the output matrix say what the whole of it does", async (t) => {
  const folder = writeTinyModel(join(t.testdir(), "model"), { words: queryWords });
  await using model = await Model.load(folder, { dtype: "f32", threads: 1 });
  await using policy = await model.policy({ adapter: { rank: 4, alpha: 8, targets: ["q", "v"], seed: 3 } });
  const { adapter } = policy.native.tensors();
  policy.native.setTensors(
    adapter.map((tensor, k) => ({ ...tensor, data: tensor.data.map((_, i) => 0.4 * Math.sin(1 + i * (k + 1))) })),
  );
  const on = await restricted(policy, true);
  const off = await restricted(policy, false);
  t.ok(apart(on, off) > 1e-3, "the adapter makes a difference");
  let read = 0;
  const shared = await queryLogprobs(policy, rows, { onScored: (_, tokens) => (read += tokens) });
  let alone = 0;
  const single = await queryLogprobs(policy, rows, { share: false, onScored: (_, tokens) => (alone += tokens) });
  t.equal(shared.length, 2 * rows.length);
  t.ok(apart(shared, on) < 1e-4, `behind one question: ${apart(shared, on)}`);
  t.ok(apart(single, on) < 1e-4, `row by row: ${apart(single, on)}`);
  t.ok(apart(await queryLogprobs(policy, rows, { adapter: "off" }), off) < 1e-4, "the base alone");
  t.ok(read < alone - 30, `${read} tokens are read instead of ${alone}`);
  t.equal(shared[0], shared[6], "an answer that is given twice");
  const long = row("hat ".repeat(300), "red");
  await t.rejects(queryLogprobs(policy, [rows[0]!, long]), { code: "TOO_LONG", message: /^row 2: .*256/ });
});

t.test("a softmax over two tokens, and a temperature", (t) => {
  const logits = Float32Array.of(-0.3, 1.1);
  const at = (logT: number) => probabilities(logits, Math.exp(logT))[0]!;
  for (const [logT, want] of [
    [0, 0.802184],
    [0.3555, 0.727337],
    [0.9021, 0.638302],
  ] as const)
    t.ok(Math.abs(at(logT) - want) < 1e-6, `${logT}`);
  t.throws(() => probabilities(logits, 0), { code: "BAD_OPTION" });
  t.end();
});
