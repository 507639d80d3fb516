// npm run format:native [-- --check]: clang-format 19 over native/. --check changes nothing and fails where it would.
import { spawnSync } from "node:child_process";
import { join } from "node:path";
import { fail, root, walk } from "./setup.mjs";

const program = ["clang-format-19", "clang-format"].find((name) =>
  spawnSync(name, ["--version"], { encoding: "utf8" }).stdout?.includes(" 19."),
);
if (!program) fail("clang-format 19 is not here: apt-get install clang-format-19, or pip install clang-format==19.1.7");
const files = walk(join(root, "native")).filter((file) => /\.(cpp|h|cu|cuh)$/.test(file));
const mode = process.argv.includes("--check") ? ["--dry-run", "-Werror"] : ["-i"];
const { status } = spawnSync(program, [...mode, ...files], { stdio: "inherit" });
process.exitCode = status ?? 1;
