/**
 * Finding and opening the addon: a build of one's own first, then the prebuilt binary, else an error that says what to do. And
 * finding the package of CUDA kernels, which may be absent.
 */
import { existsSync, readdirSync } from "node:fs";
import { join } from "node:path";
import { CredenceError } from "./errors.js";

/**
 * Opens the addon under `root` (the package's folder) with node-gyp-build: `build/Release`, then `build/Debug`, then
 * `prebuilds/<platform>-<arch>`. `CREDENCE_PREBUILD` names another folder to look in first.
 *
 * @param require of the module that asks, so that node-gyp-build and the addon are resolved from there
 * @throws CredenceError "NO_ADDON": what was tried, why it failed and the commands that fix it
 */
export function loadAddon<T>(require: NodeJS.Require, root: string): T {
  try {
    const nodeGypBuild = require("node-gyp-build") as (folder: string) => T;
    return nodeGypBuild(root);
  } catch (error) {
    throw new CredenceError("NO_ADDON", explain(error, root), { cause: error });
  }
}

/** The optional package with the CUDA kernels for this machine; undefined where there is none to install. */
export const cudaPackage =
  process.platform === "linux" && process.arch === "x64" ? "@credence/linux-x64-cuda" : undefined;

/** @returns the library in it, or undefined if it is not installed where `require` looks */
export function findCudaPackage(require: NodeJS.Require): string | undefined {
  try {
    return require.resolve(`${cudaPackage}/libcredence_cuda.so`);
  } catch {
    return undefined;
  }
}

function explain(error: unknown, root: string): string {
  const target = `${process.platform}-${process.arch}`;
  const cause = (error instanceof Error ? error.message : String(error)).split("\n")[0] ?? "";
  const tried = ["build/Release", "build/Debug", `prebuilds/${target}`].map((folder) => {
    const found = binaries(join(root, folder));
    return `  ${folder}: ${found.length > 0 ? found.join(", ") : "no .node file"}`;
  });
  const remedy = [`  npm rebuild credence --build-from-source   # needs CMake 3.18 and a C++20 compiler`];
  if (existsSync(join(root, "scripts", "build.mjs"))) {
    remedy.unshift("  npm run build                              # in a clone of the project");
  }
  if (process.platform === "win32") {
    remedy.push("  wsl npm install credence                   # Windows itself is not supported; WSL is");
  }
  return [
    `cannot load Credence's engine for ${target} (Node ${process.versions.node}): ${cause}`,
    `Looked under ${root}:`,
    ...tried,
    "What helps:",
    ...remedy,
  ].join("\n");
}

function binaries(folder: string): string[] {
  return existsSync(folder) ? readdirSync(folder).filter((name) => name.endsWith(".node")) : [];
}
