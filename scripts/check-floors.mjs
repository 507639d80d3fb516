// npm run floors [-- FOLDER]: an import or include that points upward fails. The floors are those of docs/architecture.md.
import { existsSync, readFileSync } from "node:fs";
import { dirname, join, posix, relative, resolve, sep } from "node:path";
import { pathToFileURL } from "node:url";
import { root, walk } from "./setup.mjs";

// From the ground up. A room may import itself and what is listed before it; a file of src/ itself is a room of its own name.
const rooms = [
  "errors.ts",
  "native-loader.ts",
  "native.ts",
  "files.ts",
  "version.ts",
  "model",
  "text",
  "data",
  "remote",
  "policy",
  "tracking",
  "evaluation",
  "rewards",
  "training",
  "report",
  "methods",
  "index.ts",
  "cli",
];

// Which folders' headers a native folder may include. The engine knows operators by their contract alone, the headers that
// lie in native/kernels itself; only a back end opens what is in its own folder. Tests see everything.
const includes = {
  kernels: ["kernels"],
  "kernels/reference": ["kernels", "kernels/reference"],
  "kernels/cpu": ["kernels", "kernels/cpu"],
  // The emulation stands in for CUDA's own headers, so it lies beneath the kernels it executes, and in their room.
  "kernels/cuda": ["kernels", "kernels/cuda", "kernels/cuda/emulation"],
  "kernels/cuda/emulation": ["kernels", "kernels/cuda", "kernels/cuda/emulation"],
  comm: ["comm"],
  engine: ["engine", "kernels", "comm"],
  addon: ["addon", "engine", "kernels", "comm"],
};

/** @returns one sentence for each import or include under `top` that points upward or out of the house */
export function violations(top) {
  return [...typescript(join(top, "src")), ...native(join(top, "native"))];
}

function* typescript(src) {
  if (!existsSync(src)) return;
  const room = (path) => path.split("/")[0];
  for (const file of walk(src).filter((name) => name.endsWith(".ts"))) {
    const from = posixRelative(src, file);
    const floor = rooms.indexOf(room(from));
    if (floor < 0)
      yield `src/${from}: the room "${room(from)}" is on no floor; add it to scripts/check-floors.mjs and docs/architecture.md`;
    for (const { target, line } of matches(file, /\b(?:from|import)\s*\(?\s*["'](\.[^"']+)["']/g)) {
      const to = posixRelative(src, resolve(dirname(file), target)).replace(/\.js$/, ".ts");
      if (to === "../package.json") continue;
      const below = rooms.indexOf(room(to));
      if (to.startsWith("..")) yield `src/${from}:${line} imports ${target}, which is outside src/`;
      else if (floor >= 0 && below > floor)
        yield `src/${from}:${line} imports ${target}: "${room(to)}" is above "${room(from)}"`;
    }
  }
}

function* native(folder) {
  if (!existsSync(folder)) return;
  for (const file of walk(folder).filter((name) => /\.(cpp|h|cu|cuh)$/.test(name))) {
    const from = posixRelative(folder, file);
    const allowed = includes[posix.dirname(from)];
    if (!allowed) continue;
    for (const { target, line } of matches(file, /^\s*#\s*include\s*"([^"]+)"/gm)) {
      const places = [dirname(file), folder, dirname(folder)].map((place) => join(place, target));
      const path = places.find((place) => existsSync(place)) ?? places[0];
      const to = posix.dirname(posixRelative(folder, path));
      if (!allowed.includes(to))
        yield `native/${from}:${line} includes "${target}": ${posix.dirname(from)} may include ${allowed.join(", ")}`;
    }
  }
}

function* matches(file, pattern) {
  const text = readFileSync(file, "utf8");
  for (const match of text.matchAll(pattern)) {
    yield { target: match[1], line: text.slice(0, match.index + match[0].length).split("\n").length };
  }
}

const posixRelative = (from, to) => relative(from, to).split(sep).join("/");

if (import.meta.url === pathToFileURL(process.argv[1] ?? "").href) {
  const found = violations(resolve(process.argv[2] ?? root));
  for (const violation of found) console.error(violation);
  console.log(found.length === 0 ? "floors: nothing points upward" : `floors: ${found.length} point upward`);
  process.exitCode = found.length > 0 ? 1 : 0;
}
