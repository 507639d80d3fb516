// A run of CTest whose outcomes are counted; what it prints is passed on.
import { spawnSync } from "node:child_process";
import { availableParallelism } from "node:os";

/**
 * @param build the folder that was built
 * @param args further arguments of ctest
 * @param env added to the environment
 * @returns how many tests passed, failed and were skipped
 */
export function ctest(build, args, env) {
  const all = ["--test-dir", build, "--output-on-failure", "--parallel", String(availableParallelism()), ...args];
  const { stdout, status } = spawnSync("ctest", all, {
    encoding: "utf8",
    env: { ...process.env, ...env },
    maxBuffer: 2 ** 28,
  });
  process.stdout.write(stdout);
  const outcomes = [...stdout.matchAll(/^\s*\d+\/\d+ Test\s+#\d+: .*?(Passed|\*\*\*\w+)/gm)].map(
    ([, outcome]) => outcome,
  );
  const passed = outcomes.filter((outcome) => outcome === "Passed").length;
  const skipped = outcomes.filter((outcome) => outcome === "***Skipped").length;
  // A run that failed without a failed test counts as one.
  return { passed, skipped, failed: Math.max(outcomes.length - passed - skipped, status === 0 ? 0 : 1) };
}
