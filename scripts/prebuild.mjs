// The binary a package carries: build/Release/credence.node, without its symbols, where node-gyp-build looks for it.
import { execFileSync } from "node:child_process";
import { copyFileSync, mkdirSync } from "node:fs";
import { join } from "node:path";
import { root } from "./setup.mjs";

const folder = join(root, "prebuilds", `${process.platform}-${process.arch}`);
const libc =
  process.platform === "linux" ? (process.report.getReport().header.glibcVersionRuntime ? ".glibc" : ".musl") : "";
const binary = join(folder, `credence${libc}.node`);
mkdirSync(folder, { recursive: true });
copyFileSync(join(root, "build", "Release", "credence.node"), binary);
execFileSync("strip", process.platform === "darwin" ? ["-x", binary] : ["--strip-unneeded", binary]);
console.log(binary);
