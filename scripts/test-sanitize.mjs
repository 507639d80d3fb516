// npm run test:sanitize: the CTest suite, built by plain CMake without Node, under address + undefined behaviour and
// under the thread sanitizer. Ends in one line: N passed, N failed, N skipped.
import { availableParallelism } from "node:os";
import { join } from "node:path";
import { ctest } from "./ctest.mjs";
import { root, step } from "./setup.mjs";

const folder = process.env.CREDENCE_BUILD_DIR ?? join(root, "build");
const jobs = String(availableParallelism());
const counts = { passed: 0, failed: 0, skipped: 0 };

for (const [name, sanitizers] of [
  ["address-undefined", "address,undefined"],
  ["thread", "thread"],
]) {
  const build = join(folder, name);
  await step(`configuring for ${sanitizers}`, "cmake", ["-S", root, "-B", build, `-DCREDENCE_SANITIZE=${sanitizers}`]);
  await step(`building for ${sanitizers}`, "cmake", ["--build", build, "--parallel", jobs]);
  console.log(`native tests under ${sanitizers}`);
  const outcomes = ctest(build, [], {
    UBSAN_OPTIONS: "print_stacktrace=1",
    TSAN_OPTIONS: "halt_on_error=1",
    CREDENCE_SANITIZED: "1",
  });
  for (const outcome of Object.keys(counts)) counts[outcome] += outcomes[outcome];
}
console.log(`${counts.passed} passed, ${counts.failed} failed, ${counts.skipped} skipped`);
process.exitCode = counts.failed > 0 ? 1 : 0;
