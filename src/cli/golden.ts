/**
 * The engine against a folder of reference tensors. The native driver compares tensors; token ids (greedy answers, the
 * tokenizer, chat templates) and metrics are compared here, through the same classes that everything else uses.
 */
import { existsSync, readdirSync } from "node:fs";
import { join } from "node:path";
import type { Argv } from "yargs";
import { CredenceError } from "../errors.js";
import { makeFolder, readJson, writeJsonAtomic } from "../files.js";
import { type Addon, type Dtype, type GoldenDevice, type NativePolicy, native } from "../native.js";
import type { Message } from "../text/chat.js";
import { type EngineArguments, engineOptions } from "./options.js";
import { note, print, printJson, ResultFailed, table } from "./output.js";

export const command = "golden <directory>";
export const describe = "Compare the engine with a folder of reference tensors";
export const builder = (line: Argv) =>
  line.positional("directory", { type: "string", demandOption: true, describe: "The reference tensors" }).options({
    device: {
      choices: ["cpu", "cuda", "cuda-emulated"] as const,
      default: "cpu" as const,
      describe: "cuda-emulated: the CUDA kernels, executed on the CPU (a build with tests has them)",
    },
    dtype: { ...engineOptions.dtype, describe: "f32 or bf16; auto compares both" },
    isa: engineOptions.isa,
    threads: engineOptions.threads,
    write: {
      type: "string",
      requiresArg: true,
      describe: "Leave what was computed in this folder under the same names (float32 unless --dtype bf16)",
    },
  });

interface Arguments extends Pick<EngineArguments, "dtype" | "isa" | "threads"> {
  directory: string;
  device: GoldenDevice;
  write?: string;
  json: boolean;
}

/** An error over its bound, or not a number, is not ok; a bound of 0 asks for equality. */
interface Quantity {
  error: number | null;
  bound: number;
  ok: boolean;
}
type Quantities = Record<string, Quantity>;
/** Folder to its quantities, and what was not compared: files or subjects ("FOLDER/NAME"), and single quantities. */
interface Comparison {
  models: Record<string, Quantities>;
  skipped: string[];
  notCompared: string[];
}

/** What the native driver tells: `not_compared` names the quantities that have no yardstick in this type. */
interface NativeComparison {
  models: Record<string, { not_compared?: string[] } & Quantities>;
  skipped: string[];
}

/** Subjects a folder may hold beside its inputs; a file of another name is an input, or not ours to judge. */
const subjectNames =
  /^(forward|sft|heads|closed_set|divergence|sampling|greedy|merged|ppo|mixed|smollm2-f16|cases|metrics)\.(json|safetensors|gguf)$/;

export async function handler(args: Arguments): Promise<void> {
  const { directory, device, dtype, isa, threads, write, json } = args;
  if (!existsSync(directory)) throw new CredenceError("NO_FILE", `${directory}: there is no such folder`);
  if (write) makeFolder(write);
  const addon = native();
  const dtypes: Dtype[] = dtype === "auto" ? ["f32", "bf16"] : [dtype];
  const written = dtypes[0];
  const compared: Comparison = { models: {}, skipped: [], notCompared: [] };
  const skipped: string[][] = [];
  for (const type of dtypes) {
    const out = type === written ? write : undefined;
    const document = await addon.golden(directory, { device, dtype: type, isa, threads, write: out });
    const result = JSON.parse(document) as NativeComparison;
    for (const [folder, { not_compared, ...quantities }] of Object.entries(result.models)) {
      compared.models[folder] ??= {};
      const into = compared.models[folder];
      for (const [name, value] of Object.entries(quantities)) into[type === "f32" ? name : `bf16.${name}`] = value;
      compared.notCompared.push(...(not_compared ?? []).map((name) => `${folder}/${name} (${type})`));
    }
    skipped.push(result.skipped);
  }
  // A subject counts as compared if it was in any type: bfloat16 has no yardstick for some.
  compared.skipped = skipped[0]!.filter((subject) => skipped.every((list) => list.includes(subject)));

  if (dtypes.includes("f32")) await compareGreedy(addon, args, compared);
  await compareTokenizer(directory, write, compared);
  await compareGgufTokenizer(directory, write, compared);
  await compareMetrics(directory, write, compared);
  report(compared, subjects(directory), json);
}

function add(compared: Comparison, subject: string, quantity: string, value: Quantity): void {
  const [folder, name] = subject.split("/") as [string, string];
  const key = `${name}.${quantity}`;
  compared.models[folder] ??= {};
  const quantities = compared.models[folder];
  const before = quantities[key];
  // Several cases of one quantity: the worst counts.
  if (!before || (before.ok && (!value.ok || value.error! > before.error!))) quantities[key] = value;
  compared.skipped = compared.skipped.filter((entry) => !names(entry, subject));
}

/** Whether an entry of `skipped` is the subject, one of its files, or its whole folder. */
const names = (entry: string, subject: string): boolean =>
  entry === subject || entry.startsWith(`${subject}.`) || subject.startsWith(`${entry}/`);

const exactly = (got: unknown, expected: unknown): Quantity => {
  const ok = JSON.stringify(got) === JSON.stringify(expected);
  return { error: ok ? 0 : null, bound: 0, ok };
};

// ---- greedy answers

interface GreedyFile {
  max_new_tokens: number;
  cases: { prompt: number[]; base: number[]; adapter: number[] }[];
}

async function compareGreedy(
  addon: Addon,
  { directory, device, isa, threads, write }: Arguments,
  compared: Comparison,
): Promise<void> {
  for (const folder of Object.keys(compared.models)) {
    const file = join(directory, folder, "greedy.json");
    if (!existsSync(file)) continue;
    const { cases, max_new_tokens } = readJson(file) as GreedyFile;
    const base = await addon.openBase(join(directory, folder), { device, dtype: "f32", isa, threads });
    const policy = base.policy({ adapter: { path: join(directory, folder, "adapter") } });
    const prompts = cases.map(({ prompt }) => Int32Array.from(prompt));
    const answers = {
      base: await greedy(policy, prompts, max_new_tokens, false),
      adapter: await greedy(policy, prompts, max_new_tokens, true),
    };
    policy.dispose();
    base.dispose();
    for (const kind of ["base", "adapter"] as const) {
      for (const [i, expected] of cases.entries())
        add(compared, `${folder}/greedy`, kind, exactly(answers[kind][i], expected[kind]));
    }
    save(write, folder, "greedy", {
      cases: cases.map((_, i) => ({ base: answers.base[i], adapter: answers.adapter[i] })),
    });
  }
}

async function greedy(
  policy: NativePolicy,
  prompts: Int32Array[],
  maxNewTokens: number,
  adapter: boolean,
): Promise<number[][]> {
  const answers: number[][] = [];
  const take = (samples: { prompt: number; tokens: Int32Array }[]) => {
    for (const { prompt, tokens } of samples) answers[prompt] = [...tokens];
  };
  await policy.generate({ prompts, samples: 1, temperature: 0, maxNewTokens, stopTokens: [], seed: 0, adapter }, take);
  return answers;
}

// ---- tokenizer

interface Rendering {
  text: string;
  ids: number[];
}
interface TokenizerFile {
  strings: { text: string; ids: number[]; ids_specials_as_text?: number[]; decoded?: string }[];
  chats: { messages: Message[]; without_generation_prompt: Rendering; with_generation_prompt: Rendering }[];
}

async function compareTokenizer(directory: string, write: string | undefined, compared: Comparison): Promise<void> {
  const file = join(directory, "tokenizer", "cases.json");
  if (!existsSync(file)) return;
  const { Chat } = await import("../text/chat.js");
  const { Tokenizer } = await import("../text/tokenizer.js");
  const { strings, chats } = readJson(file) as TokenizerFile;
  const tokenizer = await Tokenizer.load(join(directory, "tokenizer"));
  const chat = new Chat(tokenizer);
  const subject = "tokenizer/cases";
  const ours = { strings: [] as object[], chats: [] as object[] };
  for (const { text, ids: expected, ids_specials_as_text = expected, decoded = text } of strings) {
    const ids = [...(await tokenizer.encode(text))];
    const plain = [...(await tokenizer.encode(text, { specials: "text" }))];
    const back = tokenizer.decode(expected);
    add(compared, subject, "ids", exactly(ids, expected));
    add(compared, subject, "ids_specials_as_text", exactly(plain, ids_specials_as_text));
    add(compared, subject, "decoded", exactly(back, decoded));
    ours.strings.push({ ids, ids_specials_as_text: plain, decoded: back });
  }
  for (const { messages, ...expected } of chats) {
    const rendered: Record<string, Rendering> = {};
    for (const kind of ["without_generation_prompt", "with_generation_prompt"] as const) {
      const options = { addGenerationPrompt: kind === "with_generation_prompt" };
      rendered[kind] = { text: chat.render(messages, options), ids: [...(await chat.encode(messages, options))] };
      add(compared, subject, "chat.text", exactly(rendered[kind].text, expected[kind].text));
      add(compared, subject, "chat.ids", exactly(rendered[kind].ids, expected[kind].ids));
    }
    ours.chats.push(rendered);
  }
  // The folder's other files are what the tokenizer was read from.
  compared.skipped = compared.skipped.filter((entry) => !entry.startsWith("tokenizer/"));
  save(write, "tokenizer", "cases", ours);
}

/** The tokenizer inside a GGUF. */
async function compareGgufTokenizer(directory: string, write: string | undefined, compared: Comparison): Promise<void> {
  const file = join(directory, "gguf", "mixed.json");
  if (!existsSync(file)) return;
  const { Tokenizer } = await import("../text/tokenizer.js");
  const { tokenizer_cases } = readJson(file) as { tokenizer_cases: { text: string; ids: number[] }[] };
  const tokenizer = await Tokenizer.load(join(directory, "gguf", "mixed.gguf"));
  const cases: { ids: number[] }[] = [];
  for (const { text, ids: expected } of tokenizer_cases) {
    const ids = [...(await tokenizer.encode(text))];
    add(compared, "gguf/mixed", "tokenizer", exactly(ids, expected));
    cases.push({ ids });
  }
  save(write, "gguf", "mixed", { tokenizer_cases: cases });
}

// ---- metrics

type MetricsFile = Record<string, { scores: number[]; labels: number[]; expected: Record<string, number | null> }>;

/** The reference gives doubles; the order of a sum may differ. */
const metricBound = 1e-9;

async function compareMetrics(directory: string, write: string | undefined, compared: Comparison): Promise<void> {
  const file = join(directory, "metrics", "metrics.json");
  if (!existsSync(file)) return;
  const { goldenMetrics } = await import("../evaluation/metrics.js");
  const ours: Record<string, { expected: Record<string, number | null> }> = {};
  for (const [name, { scores, labels, expected }] of Object.entries(readJson(file) as MetricsFile)) {
    const values = goldenMetrics(scores, labels);
    ours[name] = { expected: values };
    for (const [metric, value] of Object.entries(expected)) {
      const got = values[metric];
      const error = typeof got === "number" && value !== null ? Math.abs(got - value) : got === value ? 0 : null;
      add(compared, "metrics/metrics", metric, {
        error,
        bound: metricBound,
        ok: error !== null && error <= metricBound,
      });
    }
  }
  save(write, "metrics", "metrics", ours);
}

// ---- what is told

function save(write: string | undefined, folder: string, name: string, value: unknown): void {
  if (!write) return;
  makeFolder(join(write, folder));
  writeJsonAtomic(join(write, folder, `${name}.json`), value);
}

/** Every subject the folder holds, as "FOLDER/NAME". */
function subjects(directory: string): string[] {
  const found = readdirSync(directory, { withFileTypes: true })
    .filter((entry) => entry.isDirectory())
    .flatMap(({ name }) =>
      readdirSync(join(directory, name))
        .filter((file) => subjectNames.test(file))
        .map((file) => `${name}/${file.replace(/\.\w+$/, "")}`),
    );
  return [...new Set(found)].sort();
}

function report({ models, skipped, notCompared }: Comparison, known: string[], json: boolean): void {
  const compared = new Set(
    Object.entries(models).flatMap(([folder, quantities]) =>
      Object.keys(quantities).map((key) => `${folder}/${key.replace(/^bf16\./, "").split(".")[0]}`),
    ),
  );
  const told = [...skipped, ...notCompared];
  const forgotten = known.filter((subject) => !compared.has(subject) && !told.some((entry) => names(entry, subject)));
  const exceeded = Object.values(models)
    .flatMap((quantities) => Object.values(quantities))
    .filter(({ ok }) => !ok).length;
  if (json) {
    printJson({ ...models, skipped, not_compared: notCompared });
  } else {
    const rows = Object.entries(models).flatMap(([folder, quantities]) =>
      Object.entries(quantities).map(([name, { error, bound, ok }]) => [
        folder,
        name,
        error === null ? "-" : error.toExponential(1),
        bound === 0 ? "exact" : String(bound),
        ok ? "ok" : "EXCEEDED",
      ]),
    );
    print(table(rows));
    if (notCompared.length > 0) print(`${notCompared.length} quantities have no yardstick in bf16; --json names them`);
    print(`${rows.length} quantities, ${exceeded} exceeded; skipped: ${skipped.join(", ") || "nothing"}`);
  }
  if (forgotten.length > 0) note(`neither compared nor skipped: ${forgotten.join(", ")}`, "error");
  if (exceeded > 0 || forgotten.length > 0) throw new ResultFailed();
}
