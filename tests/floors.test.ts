import { spawnSync } from "node:child_process";
import { mkdirSync, writeFileSync } from "node:fs";
import { dirname, join } from "node:path";
import { fileURLToPath } from "node:url";
import t, { type Test } from "tap";

const root = fileURLToPath(new URL("..", import.meta.url));
const check = (...args: string[]) =>
  spawnSync(process.execPath, [join(root, "scripts", "check-floors.mjs"), ...args], { encoding: "utf8" });

/** A tree with these files, checked. */
function house(t: Test, files: Record<string, string>) {
  const top = t.testdir({});
  for (const [name, content] of Object.entries(files)) {
    mkdirSync(dirname(join(top, name)), { recursive: true });
    writeFileSync(join(top, name), content);
  }
  return check(top);
}

t.test("nothing in this house points upward", async (t) => {
  const { status, stderr } = check();
  t.equal(status, 0, stderr);
});

t.test("what points upward is named with its line", async (t) => {
  const { status, stderr, stdout } = house(t, {
    "src/native.ts": "export const x = 1;\n",
    "src/model/good.ts": 'import { x } from "../native.js";\nexport { x };\n',
    "src/model/bad.ts": '// one\nimport type { Run } from "../training/run.js";\n',
    "src/model/lazy.ts": 'export const f = () => import("../cli/main.js");\n',
    "src/data/out.ts": 'export * from "../../scripts/setup.mjs";\n',
    "src/attic/new.ts": "export {};\n",
    "native/kernels/kernels.h": "",
    "native/kernels/reference/norm.cpp": '#include "native/kernels/kernels.h"\n#include "engine/pass.h"\n',
    "native/engine/pass.h": '#include "kernels/kernels.h"\n#include <vector>\n',
    "native/engine/pass.cpp": '#include "pass.h"\n#include "../kernels/cpu/pack.h"\n',
    "native/kernels/cpu/pack.h": '#include "../kernels.h"\n',
    "native/tests/pass_test.cpp": '#include "../engine/pass.h"\n#include "../kernels/cpu/pack.h"\n',
  });
  t.equal(status, 1);
  const lines = stderr.trim().split("\n");
  const starts = (start: string) =>
    t.ok(
      lines.some((line) => line.startsWith(start)),
      start,
      { stderr },
    );
  starts('src/model/bad.ts:2 imports ../training/run.js: "training" is above "model"');
  starts("src/model/lazy.ts:1 imports ../cli/main.js");
  starts("src/data/out.ts:1 imports ../../scripts/setup.mjs, which is outside src/");
  starts('src/attic/new.ts: the room "attic" is on no floor');
  starts('native/kernels/reference/norm.cpp:2 includes "engine/pass.h"');
  starts('native/engine/pass.cpp:2 includes "../kernels/cpu/pack.h"');
  t.equal(lines.length, 6, stderr);
  t.match(stdout, "6 point upward");
});
