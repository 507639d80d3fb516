import { type SpawnSyncReturns, spawnSync } from "node:child_process";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import t from "tap";
import { writeTinyModel } from "./fixtures/tiny-model.js";

const root = fileURLToPath(new URL("..", import.meta.url));
const credence = (...args: string[]): SpawnSyncReturns<string> =>
  spawnSync(process.execPath, [join(root, "dist", "cli", "bin.js"), ...args], { encoding: "utf8" });

t.test("help lists the commands and goes to standard output", async (t) => {
  const { status, stdout, stderr } = credence("--help");
  t.equal(status, 0);
  t.equal(stderr, "");
  for (const name of ["run", "ask", "golden", "bench", "doctor", "completion"]) t.match(stdout, `credence ${name}`);
});

t.test("the version is the package's", async (t) => {
  const { version } = (await import("../package.json", { with: { type: "json" } })).default;
  t.equal(credence("--version").stdout.trim(), version);
});

t.test("wrong usage is exit code 2, a sentence, and nothing on standard output", async (t) => {
  for (const [args, sentence] of [
    [[], /which command/],
    [["doctr"], /Did you mean doctor\?/],
    [["doctor", "--threds", "2"], /Unknown argument: threds/],
    [["doctor", "--threads", "0"], /--threads: expected one whole number above 0, got 0/],
    [["doctor", "--threads", "2", "--threads", "3"], /--threads: expected one whole number/],
    [["golden"], /Not enough non-option arguments/],
    [["golden", ".", "--dtype", "f16"], /Invalid values[\s\S]*dtype/],
    [["bench", "sft"], /bench sft: --model is missing, or --shape for random weights/],
    [["bench", "sft", "--model", "m", "--device", "tpu"], /--device tpu: expected auto, cpu or cuda/],
  ] as [string[], RegExp][]) {
    const { status, stdout, stderr } = credence(...args);
    t.equal(status, 2, args.join(" "));
    t.equal(stdout, "");
    t.match(stderr, sentence);
    t.notMatch(stderr, /^\s+at /m, "no stack trace");
  }
});

t.test("a failure is exit code 1 and a sentence; its stack trace is for --log-level debug", async (t) => {
  const { status, stderr, stdout } = credence("golden", "no/such/folder");
  t.equal(status, 1);
  t.equal(stdout, "");
  t.equal(stderr, "credence: no/such/folder: there is no such folder\n");
  t.match(credence("golden", "no/such/folder", "--log-level", "debug").stderr, /^\s+at /m);
});

t.test("completion prints a script, and completes commands", async (t) => {
  t.match(credence("completion").stdout, "begin-credence-completions");
  const { stdout } = credence("--get-yargs-completions", "credence", "do");
  t.match(stdout, /^doctor/m);
});

t.test("device auto says why it did not take cuda where there was a choice", async (t) => {
  const folder = t.testdir({ "questions.jsonl": '{"question":"a","answer":["b"]}\n' });
  const model = writeTinyModel(join(folder, "model"));
  const told = (device: string) => {
    const args = ["generate", join(folder, "questions.jsonl"), "--model", model, "--device", device];
    const { status, stderr } = spawnSync(
      process.execPath,
      [join(root, "dist", "cli", "bin.js"), ...args, "--max-new-tokens", "1", "--samples", "0"],
      { encoding: "utf8", env: { ...process.env, CREDENCE_CUDA_LIBRARY: "no/such.so" } },
    );
    t.equal(status, 0, stderr);
    return stderr;
  };
  t.match(told("auto"), /device auto: cpu \(\w+, \w+\); not cuda: CREDENCE_CUDA_LIBRARY: no\/such\.so/);
  t.notMatch(told("cpu"), "device auto");
});

t.test("--fast-decode says that it changes nothing on a CPU, and changes nothing", async (t) => {
  const folder = t.testdir({ "questions.jsonl": '{"question":"a","answer":["b"]}\n' });
  const model = writeTinyModel(join(folder, "model"));
  const args = ["generate", join(folder, "questions.jsonl"), "--model", model, "--device", "cpu"];
  const run = (...more: string[]) => credence(...args, "--max-new-tokens", "3", "--samples", "0", ...more);
  const [plain, fast] = [run(), run("--fast-decode")];
  t.equal(fast.status, 0, fast.stderr);
  t.match(fast.stderr, "fast-decode");
  t.notMatch(plain.stderr, "fast-decode");
  t.equal(fast.stdout, plain.stdout);
});

t.test("doctor measures this machine", async (t) => {
  const { status, stdout, stderr } = credence("doctor", "--json", "--threads", "1");
  t.equal(status, 0, stderr);
  const report = JSON.parse(stdout);
  t.ok(report.machine.isas.includes("scalar"));
  t.match(report.machine.cuda, /libcredence_cuda|NVIDIA driver|CUDA finds no device|no kernels yet|available/);
  t.ok(report.peaks.f32Gflops > 0 && report.peaks.readGBs > 0);
  t.equal(report.versions.node, process.versions.node);
  t.match(credence("doctor", "--threads", "1").stdout, /instruction sets\s+.*scalar/);
});
