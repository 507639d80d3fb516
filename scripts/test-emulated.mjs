// npm run test:emulated: the operators' tests on the CUDA kernels executed on the CPU, in the orders of warps that `npm test` does
// not take. With `-- --golden FOLDER` also the engine on these kernels against a folder of reference tensors, in both types (minutes; for
// a nightly run). Ends in one line: N passed, N failed, N skipped.
import { spawnSync } from "node:child_process";
import { join } from "node:path";
import { parseArgs } from "node:util";
import { ctest } from "./ctest.mjs";
import { root, setUp } from "./setup.mjs";

const { golden } = parseArgs({ options: { golden: { type: "string" } } }).values;
const build = join(root, "build");
await setUp({ tests: true });
const counts = ctest(build, ["-L", "emulated", "--timeout", "120"], { CREDENCE_TEST_ORDERS_FROM: "2" });
for (const dtype of golden ? ["f32", "bf16"] : []) {
  const args = [golden, "--device", "cuda-emulated", "--dtype", dtype];
  const { status, stdout, stderr } = spawnSync(join(build, "credence_golden"), args, { encoding: "utf8" });
  console.log(`${golden} in ${dtype} ${status === 0 ? "agrees" : `does not agree:\n${stdout}${stderr}`}`);
  counts[status === 0 ? "passed" : status === 77 ? "skipped" : "failed"] += 1;
}
console.log(`${counts.passed} passed, ${counts.failed} failed, ${counts.skipped} skipped`);
process.exitCode = counts.failed > 0 ? 1 : 0;
