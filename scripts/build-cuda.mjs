// npm run build:cuda: build/libcredence_cuda.so, by plain CMake with a compiler that scripts/cuda-toolkit.sh brings where
// there is none (a CUDACXX in the environment is used as it is). Then the table of what each kernel takes of a multiprocessor,
// native/kernels/cuda/resources.txt, is compared with what was built: --update writes it, for a change to be made knowingly.
import { execFileSync, spawnSync } from "node:child_process";
import { copyFileSync, existsSync, mkdirSync, readFileSync, writeFileSync } from "node:fs";
import { availableParallelism } from "node:os";
import { join } from "node:path";
import { parseArgs } from "node:util";
import { fail, root, step } from "./setup.mjs";

const { update } = parseArgs({ options: { update: { type: "boolean" } } }).values;
const build = join(process.env.CREDENCE_BUILD_DIR ?? join(root, "build"), "cuda");
const library = join(build, "libcredence_cuda.so");
const page = join(root, "native", "kernels", "cuda", "resources.txt");
const env = { ...process.env, ...toolkit() };
if (!env.CMAKE_CUDA_COMPILER_LAUNCHER && env.CMAKE_CXX_COMPILER_LAUNCHER)
  env.CMAKE_CUDA_COMPILER_LAUNCHER = env.CMAKE_CXX_COMPILER_LAUNCHER;

const settings = ["-DCREDENCE_CUDA=ON", "-DCREDENCE_TESTS=OFF"];
await step("configuring the CUDA kernels", "cmake", ["-S", root, "-B", build, ...settings], { env });
const jobs = String(availableParallelism());
await step("compiling the CUDA kernels", "cmake", ["--build", build, "--target", "credence_cuda", "--parallel", jobs], {
  env,
});
mkdirSync(join(root, "build"), { recursive: true });
copyFileSync(library, join(root, "build", "libcredence_cuda.so"));
checkExports();
compareResources();

/** What the toolkit's script exports, as an object; empty where a compiler is named already. */
function toolkit() {
  if (process.env.CUDACXX) return {};
  const { status, stdout } = spawnSync(join(root, "scripts", "cuda-toolkit.sh"), ["--tools"], {
    encoding: "utf8",
    stdio: ["ignore", "pipe", "inherit"],
  });
  if (status !== 0)
    fail("There is no CUDA compiler: scripts/cuda-toolkit.sh could not install one (its words are above)");
  const words = execFileSync("bash", ["-c", `${stdout}\nprintf '%s\\0' "$CUDAToolkit_ROOT" "$CUDACXX" "$PATH"`], {
    encoding: "utf8",
  });
  const [CUDAToolkit_ROOT, CUDACXX, PATH] = words.split("\0");
  return { CUDAToolkit_ROOT, CUDACXX, PATH };
}

/** One function out, and no CUDA library in: the driver and cuBLASLt are found at run time. */
function checkExports() {
  const lines = (command, args) => execFileSync(command, args, { encoding: "utf8" }).split("\n");
  const out = lines("nm", ["-D", "--defined-only", library])
    .filter(Boolean)
    .map((line) => line.split(" ").at(-1));
  if (out.join() !== "credence_backend_v4")
    fail(`${library} exports ${out.join(", ")}; expected credence_backend_v4 alone`);
  const needed = lines("objdump", ["-p", library]).filter((line) => /NEEDED.*(cuda|cublas|nccl)/.test(line));
  if (needed.length > 0) fail(`${library} is linked against\n${needed.join("\n")}`);
}

function compareResources() {
  const text = resources();
  const kernels = text.split("\n").filter((line) => /^\S/.test(line) && !line.startsWith("#")).length;
  if (update || !existsSync(page)) {
    writeFileSync(page, text);
    console.log(`${kernels} kernels in build/libcredence_cuda.so; native/kernels/cuda/resources.txt is written`);
    return;
  }
  const before = readFileSync(page, "utf8");
  if (before === text) {
    console.log(`${kernels} kernels in build/libcredence_cuda.so take what native/kernels/cuda/resources.txt says`);
    return;
  }
  const [was, is] = [before, text].map((all) => new Set(all.split("\n")));
  for (const line of was) if (!is.has(line)) console.error(`- ${line}`);
  for (const line of is) if (!was.has(line)) console.error(`+ ${line}`);
  fail(
    "The kernels take other registers, stack or shared memory than resources.txt says: npm run build:cuda -- --update",
  );
}

/** A line a kernel and architecture, out of the library. */
function resources() {
  const tool = spawnSync("cuobjdump", ["--dump-resource-usage", library], {
    encoding: "utf8",
    env,
    maxBuffer: 2 ** 28,
  });
  if (tool.status !== 0)
    fail("cuobjdump, which reads what a kernel takes, is not here: scripts/cuda-toolkit.sh --tools");
  const names = spawnSync("c++filt", [], { encoding: "utf8", input: tool.stdout, maxBuffer: 2 ** 28 }).stdout;
  const rows = [];
  let arch = "";
  let kernel = "";
  for (const line of names.split("\n")) {
    arch = line.match(/^arch = (\S+)/)?.[1] ?? arch;
    kernel = line.match(/^ Function (.*):$/)?.[1] ?? kernel;
    const [, registers, stack, shared, local] = line.match(/REG:(\d+) STACK:(\d+) SHARED:(\d+) LOCAL:(\d+)/) ?? [];
    if (registers) rows.push({ arch, kernel: short(kernel), cells: [registers, stack, shared, local] });
  }
  const lines = rows
    .sort((a, b) => (a.kernel + a.arch < b.kernel + b.arch ? -1 : 1))
    .map(
      ({ arch, kernel, cells }) => `${kernel.padEnd(72)} ${arch.padEnd(7)}${cells.map((n) => n.padStart(8)).join("")}`,
    );
  return [
    "# What each kernel takes, as the compiler says: npm run build:cuda compares, --update writes.",
    `# ${"kernel".padEnd(70)} arch   registers stack  shared   local`,
    ...new Set(lines),
    "",
  ].join("\n");
}

/** "void credence::cuda::(anonymous namespace)::norm_kernel<float>(...)": norm_kernel<float>. */
function short(name) {
  const bare = name.replace(/credence::cuda::|\(anonymous namespace\)::|^void /g, "").replace(/_INTERNAL_\w+?::/g, "");
  return bare.replace(/\((?!credence_activation\)).*$/, "").replaceAll("__nv_bfloat16", "bf16");
}
