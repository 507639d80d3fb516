// npm test [-- tests/one.test.ts ...]: sets itself up, runs the native suite (CTest) and the TypeScript suite (tap),
// and ends in one line: N passed, N failed, N skipped. With files named, only those run.
import { spawn } from "node:child_process";
import { availableParallelism } from "node:os";
import { join } from "node:path";
import { createInterface } from "node:readline";
import { root, setUp } from "./setup.mjs";

const files = process.argv.slice(2);
await setUp({ tests: true });

const results = [];
if (files.length === 0) results.push(await native());
results.push(await typescript(files));

const sum = (what) => results.reduce((total, result) => total + result[what], 0);
console.log(`${sum("passed")} passed, ${sum("failed")} failed, ${sum("skipped")} skipped`);
process.exitCode = sum("failed") > 0 ? 1 : 0;

/** CTest says one line a test; the output of a failed one follows it. */
async function native() {
  console.log("native tests");
  const counts = { passed: 0, failed: 0, skipped: 0 };
  const args = ["--test-dir", join(root, "build"), "--output-on-failure", "--parallel", String(availableParallelism())];
  const status = await lines("ctest", args, (line) => {
    const [, outcome] = line.match(/^\s*\d+\/\d+ Test\s+#\d+: .*?(Passed|\*\*\*\w+)/) ?? [];
    if (outcome === "Passed") counts.passed++;
    else if (outcome === "***Skipped") counts.skipped++;
    else if (outcome) counts.failed++;
    if (outcome || !/^\s*(Start\s+\d+:|Test project|Internal ctest)/.test(line)) console.log(line);
  });
  if (status !== 0 && counts.failed === 0) counts.failed = 1;
  return counts;
}

/** A file that passed is one line; one that failed is shown whole. The counts are assertions, from TAP's last summary. */
async function typescript(names) {
  console.log("TypeScript tests");
  let counts = {};
  let inside = [];
  let failing = false;
  const args = [join(root, "node_modules", "tap", "dist", "esm", "run.mjs"), "--reporter=tap", ...names];
  const status = await lines(process.execPath, args, (line) => {
    const [, total] = line.match(/^# \{ (total: .*) \}/) ?? [];
    if (total) counts = Object.fromEntries([...total.matchAll(/(\w+): (\d+)/g)].map(([, key, n]) => [key, Number(n)]));
    const [, outcome] = line.match(/^(ok|not ok) \d+ - /) ?? [];
    if (outcome) {
      failing = outcome === "not ok";
      if (failing) for (const held of inside) console.log(held);
      inside = [];
      console.log(line.replace(/ \{$/, ""));
    } else if (failing) console.log(line);
    else if (/^\s|^#|^\}/.test(line)) inside.push(line);
    else if (!/^(TAP version|1\.\.|$)/.test(line)) console.log(line);
  });
  const failed = counts.fail ?? 0;
  return {
    passed: counts.pass ?? 0,
    failed: status !== 0 && failed === 0 ? 1 : failed,
    skipped: (counts.skip ?? 0) + (counts.todo ?? 0),
  };
}

function lines(command, args, take) {
  return new Promise((resolve, reject) => {
    const child = spawn(command, args, { cwd: root, stdio: ["ignore", "pipe", "inherit"] });
    const reader = createInterface({ input: child.stdout });
    reader.on("line", take);
    child.on("error", reject);
    const ended = new Promise((done) => reader.on("close", done));
    child.on("close", (status) => ended.then(() => resolve(status ?? 1)));
  });
}
