// npm run test:emulated: the operators' tests on the CUDA kernels executed on the CPU, in the orders of warps that `npm test` does
// not take. Ends in one line: N passed, N failed, N skipped.
import { spawnSync } from "node:child_process";
import { availableParallelism } from "node:os";
import { join } from "node:path";
import { root, setUp } from "./setup.mjs";

await setUp({ tests: true });
const args = ["--test-dir", join(root, "build"), "-L", "emulated", "--output-on-failure", "--timeout", "120"];
const { stdout, status } = spawnSync("ctest", [...args, "--parallel", String(availableParallelism())], {
  encoding: "utf8",
  env: { ...process.env, CREDENCE_TEST_ORDERS_FROM: "2" },
  maxBuffer: 2 ** 28,
});
process.stdout.write(stdout);
const outcomes = [...stdout.matchAll(/^\s*\d+\/\d+ Test\s+#\d+: .*?(Passed|\*\*\*\w+)/gm)].map(
  ([, outcome]) => outcome,
);
const passed = outcomes.filter((outcome) => outcome === "Passed").length;
const skipped = outcomes.filter((outcome) => outcome === "***Skipped").length;
const failed = Math.max(outcomes.length - passed - skipped, status === 0 ? 0 : 1);
console.log(`${passed} passed, ${failed} failed, ${skipped} skipped`);
process.exitCode = failed > 0 ? 1 : 0;
