// npm run test:emulated: the operators' tests on the CUDA kernels executed on the CPU, in the orders of warps that `npm test` does
// not take. For a nightly run, three minutes more:
//   npm run test:emulated -- --golden ../shared/fixtures
// also compares the engine on these kernels with every model and subject of a folder of reference tensors, in both types; the folder
// has to be there. Ends in one line: N passed, N failed, N skipped.
import { spawnSync } from "node:child_process";
import { existsSync } from "node:fs";
import { join } from "node:path";
import { parseArgs } from "node:util";
import { ctest } from "./ctest.mjs";
import { fail, root, setUp } from "./setup.mjs";

const { golden } = parseArgs({ options: { golden: { type: "string" } } }).values;
if (golden && !existsSync(golden))
  fail(`--golden ${golden}: there is no such folder, so nothing is compared. It is made by the fixtures' own make.py`);
const build = join(root, "build");
await setUp({ tests: true });
const counts = ctest(build, ["-L", "emulated", "--timeout", "120"], { CREDENCE_TEST_ORDERS_FROM: "2" });
for (const dtype of golden ? ["f32", "bf16"] : []) compare(golden, dtype);
console.log(`${counts.passed} passed, ${counts.failed} failed, ${counts.skipped} skipped`);
process.exitCode = counts.failed > 0 ? 1 : 0;

/** Counts a model as a test; says how far its worst quantity is from its bound. */
function compare(folder, dtype) {
  const started = performance.now();
  const { status, stdout, stderr } = spawnSync(
    join(build, "credence_golden"),
    [folder, "--device", "cuda-emulated", "--dtype", dtype],
    { encoding: "utf8", maxBuffer: 2 ** 28 },
  );
  if (!stdout.startsWith("{")) {
    console.log(`${folder} in ${dtype}: not compared (exit status ${status}): ${stdout}${stderr}`);
    counts[status === 77 ? "skipped" : "failed"] += 1;
    return;
  }
  const { models, skipped } = JSON.parse(stdout);
  const failed = counts.failed;
  for (const [model, { not_compared: left = [], ...quantities }] of Object.entries(models)) {
    const all = Object.entries(quantities);
    const wrong = all.filter(([, { ok }]) => !ok);
    const share = Math.max(...all.map(([, { error, bound }]) => (bound > 0 ? error / bound : error)));
    const without = left.length > 0 ? `; ${left.length} have no yardstick in this type` : "";
    if (all.length === 0) console.log(`${model} in ${dtype}: nothing in it was compared${without}`);
    else if (wrong.length === 0)
      console.log(
        `${model} in ${dtype}: ${all.length} quantities agree, ${share.toFixed(2)} of the bound at most${without}`,
      );
    for (const [name, { error, bound }] of wrong)
      console.log(`${model} in ${dtype}: ${name} errs by ${error}, bound ${bound}`);
    counts[all.length > 0 && wrong.length === 0 ? "passed" : "failed"] += 1;
  }
  if (status !== 0 && counts.failed === failed) {
    console.log(`${folder} in ${dtype}: ended with ${status} though every quantity agrees: ${stderr}`);
    counts.failed += 1;
  }
  const seconds = Math.round((performance.now() - started) / 1000);
  console.log(`${folder} in ${dtype}: ${seconds} s; left to npm test: ${skipped.join(", ") || "nothing"}`);
}
