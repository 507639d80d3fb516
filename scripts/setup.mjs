// What `npm test` and `npm run quickstart` need before anything else works, with Node's own modules only: packages
// installed, TypeScript compiled, the engine built. Each part is skipped when it is up to date.
import { spawn, spawnSync } from "node:child_process";
import { cpSync, existsSync, mkdirSync, readdirSync, readFileSync, rmSync, statSync } from "node:fs";
import { availableParallelism } from "node:os";
import { dirname, join, relative } from "node:path";
import { fileURLToPath } from "node:url";

export const root = fileURLToPath(new URL("..", import.meta.url));
const at = (...parts) => join(root, ...parts);
const cores = availableParallelism();

/** Ends the process with one sentence: these scripts are not called as a library. */
export function fail(message) {
  process.stderr.write(`${message}\n`);
  process.exit(1);
}

export async function setUp({ tests = false } = {}) {
  const [major, minor] = process.versions.node.split(".").map(Number);
  if (major < 20 || (major === 20 && minor < 19)) {
    fail(`Node ${process.versions.node} is too old: Credence needs 20.19 or later`);
  }
  await installPackages();
  await buildTypeScript();
  await buildEngine({ tests });
}

// --- packages -------------------------------------------------------------------------------------------------------

async function installPackages() {
  if (packagesInstalled()) return;
  // No package here has an install script of its own; the engine is built below, where its progress can be shown.
  const npm = process.env.npm_execpath;
  const [command, args] = npm?.endsWith(".js") ? [process.execPath, [npm]] : ["npm", []];
  await step("installing packages", command, [...args, "ci", "--ignore-scripts", "--no-audit", "--no-fund"], {
    advice: "npm needs its registry: check the network, then start again",
  });
}

/** Whether node_modules holds what the lock file names. Optional packages of other platforms are not there. */
function packagesInstalled() {
  const installed = at("node_modules", ".package-lock.json");
  if (!existsSync(installed)) return false;
  const packages = (file) => JSON.parse(readFileSync(file, "utf8")).packages;
  const have = packages(installed);
  return Object.entries(packages(at("package-lock.json"))).every(
    ([name, { version, optional, peer }]) =>
      name === "" || (have[name] ? have[name].version === version : optional === true || peer === true),
  );
}

// --- TypeScript -----------------------------------------------------------------------------------------------------

export async function buildTypeScript() {
  const sources = walk(at("src"));
  const compiled = (file) => at("dist", relative(at("src"), file).replace(/\.ts$/, ".js"));
  const stamp = at("dist", ".tsbuildinfo");
  // A module whose source is gone must not stay importable.
  const wanted = new Set(sources.map(compiled));
  for (const file of existsSync(at("dist")) ? walk(at("dist")) : []) {
    if (file.endsWith(".js") && !wanted.has(file)) rmSync(file);
  }
  const newest = Math.max(
    ...[...sources, at("tsconfig.json"), at("package-lock.json")].map((file) => statSync(file).mtimeMs),
  );
  const complete = sources.every((file) => file.endsWith(".d.ts") || existsSync(compiled(file)));
  if (existsSync(stamp) && statSync(stamp).mtimeMs >= newest && complete) return;
  if (!complete) rmSync(stamp, { force: true });
  await step("compiling TypeScript", process.execPath, [
    at("node_modules", "typescript", "bin", "tsc"),
    "-p",
    at("tsconfig.json"),
  ]);
  // What tsc leaves alone: recipes, generated JavaScript and its declarations.
  for (const file of sources.filter((name) => !name.endsWith(".ts") || name.endsWith(".d.ts"))) {
    const target = at("dist", relative(at("src"), file));
    mkdirSync(dirname(target), { recursive: true });
    cpSync(file, target);
  }
}

export function walk(folder) {
  return readdirSync(folder, { withFileTypes: true, recursive: true })
    .filter((entry) => entry.isFile())
    .map((entry) => join(entry.parentPath ?? entry.path, entry.name))
    .sort();
}

// --- the engine -----------------------------------------------------------------------------------------------------

export async function buildEngine({ tests = false } = {}) {
  requireTools();
  const cache = at("build", "CMakeCache.txt");
  const settings = existsSync(cache) ? readFileSync(cache, "utf8") : "";
  const ready =
    settings.includes("CREDENCE_ADDON:UNINITIALIZED=ON") || settings.includes("CREDENCE_ADDON:BOOL=ON")
      ? settings.includes(`CMAKE_HOME_DIRECTORY:INTERNAL=${root.replace(/\/$/, "")}\n`)
      : false;
  if (!ready) {
    // A cache of another checkout or of an earlier shape cannot be configured again.
    rmSync(at("build", "CMakeCache.txt"), { force: true });
    rmSync(at("build", "CMakeFiles"), { recursive: true, force: true });
    await step("configuring the engine", process.execPath, [
      at("node_modules", "cmake-js", "bin", "cmake-js"),
      "configure",
      "--CDCREDENCE_ADDON=ON",
      `--CDCREDENCE_TESTS=${tests ? "ON" : "OFF"}`,
    ]);
  } else if (tests && !settings.includes("CREDENCE_TESTS:BOOL=ON")) {
    await step("configuring the engine's tests", "cmake", ["-S", root, "-B", at("build"), "-DCREDENCE_TESTS=ON"]);
  }
  const label = tests ? "building the engine and its tests" : "building the engine";
  const target = tests ? [] : ["--target", "credence_node"];
  await step(label, "cmake", ["--build", at("build"), "--parallel", String(cores), ...target]);
}

function requireTools() {
  const missing = [
    ["cmake", ["cmake"]],
    ["a C++ compiler", [process.env.CXX, "c++", "g++", "clang++"].filter(Boolean)],
  ].filter(([, names]) => !names.some((name) => spawnSync(name, ["--version"], { stdio: "ignore" }).status === 0));
  if (missing.length > 0) {
    fail(
      `${missing.map(([what]) => what).join(" and ")} not found: the engine is built from its C++ sources.\n` +
        "On Debian or Ubuntu: apt-get install cmake g++ make; on macOS: xcode-select --install and brew install cmake",
    );
  }
}

// --- running a part -------------------------------------------------------------------------------------------------

/**
 * Runs one part of the set-up. A terminal sees one line that moves, with the time left where the tool counts its work;
 * a log sees a line at the start, one every half minute and one at the end. The tool's own words are shown if it fails.
 */
export function step(label, command, args, { advice, env } = {}) {
  const terminal = process.stderr.isTTY === true;
  const started = Date.now();
  const seconds = () => (Date.now() - started) / 1000;
  let output = "";
  let share = 0;
  let shown = false;

  const line = () => {
    const left = share > 0.05 ? `, about ${clock((seconds() / share) * (1 - share))} left` : "";
    const percent = share > 0 ? `  ${Math.round(share * 100)} %` : "";
    return `${label}${percent}  ${clock(seconds())}${left}`;
  };
  const show = () => {
    if (terminal) process.stderr.write(`\r\x1b[K${line()}`);
    else process.stderr.write(shown ? `  ${line()}\n` : `${label} ...\n`);
    shown = true;
  };
  // A part with nothing to do stays silent.
  const first = setTimeout(show, 700);
  const timer = setInterval(show, terminal ? 500 : 30_000);

  return new Promise((resolve) => {
    const child = spawn(command, args, {
      cwd: root,
      env: { ...process.env, ...env },
      stdio: ["ignore", "pipe", "pipe"],
    });
    const take = (chunk) => {
      output += chunk;
      // ninja: [3/40]; make: [ 12%]
      const [, done, total, percent] = [...String(chunk).matchAll(/\[\s*(?:(\d+)\/(\d+)|(\d+)%)\]/g)].at(-1) ?? [];
      if (total) share = Number(done) / Number(total);
      else if (percent) share = Number(percent) / 100;
    };
    child.stdout.on("data", take);
    child.stderr.on("data", take);
    const ended = (status, reason) => {
      clearTimeout(first);
      clearInterval(timer);
      if (terminal && shown) process.stderr.write("\r\x1b[K");
      if (status === 0) {
        if (shown) process.stderr.write(`${terminal ? label : `  ${label}`}: done in ${clock(seconds())}\n`);
        resolve();
        return;
      }
      process.stderr.write(`${output.split("\n").slice(-80).join("\n")}\n`);
      fail(`${label} failed${reason ? `: ${reason}` : ""}${advice ? `. ${advice}` : ""}`);
    };
    child.on("error", (error) => ended(1, error.message));
    child.on("close", (status, signal) => ended(status, signal ? `ended by ${signal}` : undefined));
  });
}

export function clock(seconds) {
  const whole = Math.round(seconds);
  return `${Math.floor(whole / 60)}:${String(whole % 60).padStart(2, "0")}`;
}

/** Runs a program in the foreground, its output going where ours goes; resolves to its exit code. */
export function foreground(command, args, options = {}) {
  return new Promise((resolve, reject) => {
    const child = spawn(command, args, { cwd: root, stdio: "inherit", ...options });
    // Ctrl-C reaches the child as well; it decides when to stop, and this process reports how it ended.
    const wait = () => {};
    const pass = () => child.kill("SIGTERM");
    process.on("SIGINT", wait).on("SIGTERM", pass);
    child.on("error", reject);
    child.on("close", (status, signal) => {
      process.off("SIGINT", wait).off("SIGTERM", pass);
      resolve(status ?? (signal === "SIGINT" ? 130 : 1));
    });
  });
}
