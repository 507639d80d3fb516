// npm run test:emulated: the operators' tests on the CUDA kernels executed on the CPU, in the orders of warps that `npm test` does
// not take. Ends in one line: N passed, N failed, N skipped.
import { join } from "node:path";
import { ctest } from "./ctest.mjs";
import { root, setUp } from "./setup.mjs";

await setUp({ tests: true });
const counts = ctest(join(root, "build"), ["-L", "emulated", "--timeout", "120"], { CREDENCE_TEST_ORDERS_FROM: "2" });
console.log(`${counts.passed} passed, ${counts.failed} failed, ${counts.skipped} skipped`);
process.exitCode = counts.failed > 0 ? 1 : 0;
