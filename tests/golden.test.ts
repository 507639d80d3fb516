import { spawnSync } from "node:child_process";
import { cpSync, existsSync, mkdtempSync, readdirSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import t from "tap";

const root = fileURLToPath(new URL("..", import.meta.url));
const odd = join(root, "tests", "golden", "odd");
const fixtures = join(process.env.CREDENCE_SHARED ?? join(root, "..", "shared"), "fixtures");

interface Quantity {
  error: number | null;
  bound: number;
  ok: boolean;
}

function golden(...args: string[]): { models: Record<string, Record<string, Quantity>>; skipped: string[] } {
  const bin = join(root, "dist", "cli", "bin.js");
  const { status, stdout, stderr } = spawnSync(process.execPath, [bin, "golden", ...args, "--json"], {
    encoding: "utf8",
    maxBuffer: 2 ** 26,
  });
  if (status !== 0) throw new Error(`golden ended with ${status}: ${stderr}`);
  const { skipped, not_compared: _, ...models } = JSON.parse(stdout);
  return { models, skipped };
}

const exceeded = (models: Record<string, Record<string, Quantity>>): string[] =>
  Object.entries(models).flatMap(([folder, quantities]) =>
    Object.entries(quantities)
      .filter(([, { ok }]) => !ok)
      .map(([name, { error, bound }]) => `${folder}/${name}: ${error} over ${bound}`),
  );

t.test("folders of odd shapes, in both types, written under the names they have", async (t) => {
  const out = mkdtempSync(join(tmpdir(), "credence-golden-"));
  t.teardown(() => rmSync(out, { recursive: true }));
  const { models, skipped } = golden(odd, "--write", out);
  t.same(exceeded(models), []);
  t.same(skipped, []);
  for (const folder of readdirSync(odd)) {
    t.ok(models[folder]!["forward.adapter.logits"] && models[folder]!["bf16.divergence.jsd.grad"], folder);
    const subjects = readdirSync(join(odd, folder)).filter(
      (name) => !/^(adapter|batch|bfloat16|config|model)/.test(name),
    );
    const written = readdirSync(join(out, folder));
    t.same(
      subjects.filter((name) => !written.includes(name) && name !== "sampling.json"),
      [],
    );
  }
});

const emulated = existsSync(join(root, "build", "libcredence_cuda_emulated.so"));
t.test("the same folders on CUDA's kernels", { skip: !emulated && "no emulated kernels in this build" }, async (t) => {
  const { models, skipped } = golden(odd, "--device", "cuda-emulated", "--dtype", "f32");
  t.same(exceeded(models), []);
  t.same(skipped, []);
  t.ok(readdirSync(odd).every((folder) => models[folder]!["forward.adapter.logits"]));
});

const small = ["llama", "qwen2"];
t.test(
  "small fixtures on CUDA's kernels",
  { skip: (!emulated || !existsSync(fixtures)) && "no fixtures" },
  async (t) => {
    const folder = mkdtempSync(join(tmpdir(), "credence-golden-"));
    t.teardown(() => rmSync(folder, { recursive: true }));
    for (const family of small) cpSync(join(fixtures, family), join(folder, family), { recursive: true });
    const { models } = golden(folder, "--device", "cuda-emulated", "--dtype", "f32");
    t.same(exceeded(models), []);
    t.same(Object.keys(models).sort(), small);
  },
);

t.test("the fixtures: nothing is skipped", { skip: !existsSync(fixtures) && "no fixtures" }, async (t) => {
  const { models, skipped } = golden(fixtures);
  t.same(exceeded(models), []);
  t.same(skipped, []);
  t.ok(models.ppo!["ppo.gamma_0.95.unbiased.grad.new_logprob"] && models.llama3!["ppo.grad"]);
});
