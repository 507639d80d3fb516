// npm run fuzz [-- --runs 100000 --seed 1 --target NAME ...]: made-up files for everything that reads files. Native
// readers by libFuzzer under the address and undefined-behaviour sanitizers (native/tests/fuzz; needs clang), those in
// TypeScript by fast-check (tests/fuzz). The same seed gives the same inputs. An input that breaks something is kept in
// build/fuzz/found. Ends in one line: N passed, N failed, N skipped.
import { spawn, spawnSync } from "node:child_process";
import { cpSync, existsSync, mkdirSync, mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { availableParallelism, tmpdir } from "node:os";
import { dirname, join, relative } from "node:path";
import { parseArgs } from "node:util";
import ts from "typescript";
import { fail, root, step, walk } from "./setup.mjs";

const { values: options } = parseArgs({
  options: {
    runs: { type: "string", default: "100000" },
    seed: { type: "string", default: "1" },
    target: { type: "string", multiple: true },
  },
});
for (const name of ["runs", "seed"])
  if (!/^[1-9]\d*$/.test(options[name])) fail(`--${name} ${options[name]}: expected a whole number from 1`);

const build = join(process.env.CREDENCE_BUILD_DIR ?? join(root, "build"), "fuzz");
const found = join(build, "found");
// Beside node_modules, so that packages are found from there.
const javascript = join(root, "build", "fuzz-js");
const sources = join(root, "native", "tests", "fuzz");
const jobs = availableParallelism();
// Every input is a file for a moment: in memory where the system has such a place.
const temporary = existsSync("/dev/shm") ? "/dev/shm" : tmpdir();

const nativeTargets = readdirSync(join(sources, "corpus")).sort();
const textTargets = ["card", "csv", "gguf", "jsonl", "recipe", "safetensors", "tokenizer", "zip"];
const all = [...nativeTargets.map((name) => `native/${name}`), ...textTargets.map((name) => `src/${name}`)];
const wanted = options.target ?? all;
for (const name of wanted) if (!all.includes(name)) fail(`no target ${name}; there are ${all.join(", ")}`);

mkdirSync(found, { recursive: true });
const counts = { passed: 0, failed: 0, skipped: 0 };
const queue = wanted.filter((name) => name.startsWith("src/"));
const native = wanted.filter((name) => name.startsWith("native/"));
if (native.length > 0) {
  const compiler = clang();
  if (compiler) {
    await step("configuring for libFuzzer", "cmake", [
      ...["-S", root, "-B", build, "-DCREDENCE_FUZZ=ON", `-DCMAKE_CXX_COMPILER=${compiler}`],
    ]);
    await step("building for libFuzzer", "cmake", ["--build", build, "--parallel", String(jobs)]);
    queue.unshift(...native);
  } else {
    counts.skipped += native.length;
    for (const name of native) console.log(`${name}: skipped, no clang with libFuzzer and its sanitizers is here`);
    console.log("On Debian or Ubuntu: apt-get install clang-16 libclang-rt-16-dev");
  }
}
if (queue.some((name) => name.startsWith("src/"))) transpile();
await Promise.all(Array.from({ length: jobs }, work));
console.log(`${counts.passed} passed, ${counts.failed} failed, ${counts.skipped} skipped`);
process.exitCode = counts.failed > 0 ? 1 : 0;

/** A clang++ that links a fuzzer with both sanitizers. */
function clang() {
  mkdirSync(build, { recursive: true });
  const probe = join(build, "probe.cpp");
  writeFileSync(probe, 'extern "C" int LLVMFuzzerTestOneInput(const unsigned char*, unsigned long) { return 0; }\n');
  const versions = [19, 18, 17, 16, 15, 14].map((version) => `clang++-${version}`);
  return [process.env.CLANGXX, "clang++", ...versions]
    .filter(Boolean)
    .find(
      (name) =>
        spawnSync(name, ["-fsanitize=fuzzer,address,undefined", "-o", join(build, "probe"), probe]).status === 0,
    );
}

/** The library and its targets as JavaScript. (Under a loader of TypeScript each `await import` is a round trip.) */
function transpile() {
  rmSync(javascript, { recursive: true, force: true });
  for (const file of [...walk(join(root, "src")), ...walk(join(root, "tests"))]) {
    if (!/\.(ts|js)$/.test(file) || /\.(d|test)\.ts$/.test(file)) continue;
    const target = join(javascript, relative(root, file)).replace(/\.ts$/, ".js");
    mkdirSync(dirname(target), { recursive: true });
    if (file.endsWith(".js")) cpSync(file, target);
    else writeFileSync(target, ts.transpile(readFileSync(file, "utf8"), { target: "es2022", module: "esnext" }));
  }
  cpSync(join(root, "package.json"), join(javascript, "package.json"));
}

async function work() {
  for (let name = queue.shift(); name; name = queue.shift()) {
    const folder = mkdtempSync(join(temporary, "credence-fuzz-"));
    const run = name.startsWith("native/") ? fuzzNative : fuzzText;
    const { summary, output, input } = await run(name.split("/")[1], folder);
    if (summary) {
      counts.passed += 1;
      console.log(`${name}: ${summary}`);
      rmSync(folder, { recursive: true, force: true });
    } else {
      counts.failed += 1;
      console.log(`${name}: FAILED\n${output.split("\n").slice(-60).join("\n")}`);
      console.log(`${name}: the input is ${input ?? `among the files in ${folder}`}`);
    }
  }
}

function said(executions, seconds, coverage) {
  const count = (number) => Math.round(number).toLocaleString("en");
  return `${count(executions)} executions, ${count(executions / seconds)} a second, ${coverage}`;
}

async function fuzzNative(name, folder) {
  // What is new to the coverage goes into the first folder; it begins empty, so that a run follows from its seed.
  const grown = join(folder, "grown");
  mkdirSync(grown);
  const before = new Set(readdirSync(found));
  const dictionary = join(sources, `${name}.dict`);
  const started = performance.now();
  const { status, output } = await finish(
    join(build, `fuzz_${name}`),
    [
      ...[`-runs=${options.runs}`, `-seed=${options.seed}`, "-max_len=8192", "-timeout=25"],
      ...["-malloc_limit_mb=256", "-rss_limit_mb=2048", `-artifact_prefix=${join(found, `${name}-`)}`],
      ...(existsSync(dictionary) ? [`-dict=${dictionary}`] : []),
      ...[grown, join(sources, "corpus", name)],
    ],
    { TMPDIR: folder },
  );
  const seconds = (performance.now() - started) / 1000;
  const [, edges] = [...output.matchAll(/ cov: (\d+)/g)].at(-1) ?? [];
  const input = readdirSync(found).find((file) => file.startsWith(`${name}-`) && !before.has(file));
  const [, executions] = output.match(/Done (\d+) runs/) ?? [];
  const good = status === 0 && executions !== undefined;
  return {
    summary: good && said(executions, seconds, `${Number(edges).toLocaleString("en")} edges`),
    output: output
      .split("\n")
      .filter((text) => !/^#\d+\s|^"/.test(text))
      .join("\n"),
    input: input && relative(root, join(found, input)),
  };
}

async function fuzzText(name, folder) {
  const { status, output } = await finish(
    process.execPath,
    [
      // A reader that takes memory without bound ends here.
      "--max-old-space-size=768",
      ...[join(javascript, "tests", "fuzz", "run.js"), name, options.runs, options.seed, found],
    ],
    { TMPDIR: folder },
  );
  const last = output.split("\n").findLast((text) => text.startsWith("{"));
  const { executions, seconds, covered, input } = last ? JSON.parse(last) : {};
  const good = status === 0 && last !== undefined;
  return {
    summary: good && said(executions, seconds, `${(100 * covered).toFixed(0)} % of the code`),
    output,
    input: input && relative(root, input),
  };
}

function finish(command, args, environment) {
  return new Promise((resolve) => {
    const child = spawn(command, args, {
      cwd: root,
      env: { ...process.env, ...environment },
      stdio: ["ignore", "pipe", "pipe"],
    });
    let output = "";
    const take = (chunk) => {
      output += chunk;
      if (output.length > 1 << 22) output = output.slice(-(1 << 21));
    };
    child.stdout.on("data", take);
    child.stderr.on("data", take);
    child.on("error", (error) => resolve({ status: 1, output: error.message }));
    child.on("close", (status) => resolve({ status: status ?? 1, output }));
  });
}
