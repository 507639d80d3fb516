import { execFileSync, spawnSync } from "node:child_process";
import { cpSync, existsSync, mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import t from "tap";

const root = fileURLToPath(new URL("..", import.meta.url));
const folder = mkdtempSync(join(tmpdir(), "credence-package-"));
t.teardown(() => rmSync(folder, { recursive: true, force: true }));
const run = (command: string, args: string[], cwd: string) =>
  execFileSync(command, args, { cwd, encoding: "utf8", stdio: "pipe" });

/** The package, made from a copy so that the tree stays as it is; its path. */
function pack(): string {
  const copy = join(folder, "credence");
  for (const name of [
    "dist",
    "docs",
    "native",
    "package.json",
    "CMakeLists.txt",
    "README.md",
    "LICENSE",
    "NOTICE",
    "scripts",
  ]) {
    cpSync(join(root, name), join(copy, name), { recursive: true });
  }
  mkdirSync(join(copy, "build", "Release"), { recursive: true });
  cpSync(join(root, "build", "Release", "credence.node"), join(copy, "build", "Release", "credence.node"));
  run(process.execPath, [join(copy, "scripts", "prebuild.mjs")], copy);
  const [made] = JSON.parse(run("npm", ["pack", "--json", "--ignore-scripts", "--pack-destination", folder], copy));
  return join(folder, made.filename);
}

const own = JSON.parse(readFileSync(join(root, "package.json"), "utf8"));

/** The package of CUDA kernels; where they are not built, with those that the CPU executes in their place. Its path. */
function packCuda(): string {
  const library = ["libcredence_cuda.so", "libcredence_cuda_emulated.so"]
    .map((name) => join(root, "build", name))
    .find(existsSync);
  const script = join(root, "scripts", "package-cuda.mjs");
  const said = run(process.execPath, [script, "--library", library ?? "", "--out", folder], root);
  return said.split("  ")[0] ?? "";
}

t.test(
  "a tarball installs elsewhere with install scripts off, and works from its prebuilt binary",
  { timeout: 300_000 },
  async (t) => {
    const tarball = pack();
    const contents = run("tar", ["tzf", tarball], folder).split("\n");
    for (const file of [
      "dist/index.js",
      "dist/index.d.ts",
      "dist/cli/bin.js",
      "native/install.cjs",
      "LICENSE",
      "NOTICE",
    ]) {
      t.ok(contents.includes(`package/${file}`), file);
    }
    t.ok(contents.some((name) => name.startsWith("package/prebuilds/") && name.endsWith(".node")));
    // A binding.gyp or a build folder in a package is an install script by another name.
    t.notOk(
      contents.some((name) => /binding\.gyp|\.so$|package\/(build|node_modules|tests|src)\//.test(name)),
      "nothing else",
    );

    const consumer = join(folder, "consumer");
    mkdirSync(consumer);
    writeFileSync(join(consumer, "package.json"), JSON.stringify({ name: "consumer", private: true, type: "module" }));
    run("npm", ["install", "--ignore-scripts", "--no-audit", "--no-fund", "--prefer-offline", tarball], consumer);

    const script = 'import * as credence from "credence"; console.log(JSON.stringify(Object.keys(credence)))';
    const names = JSON.parse(run(process.execPath, ["--input-type=module", "-e", script], consumer));
    for (const name of ["Model", "evaluate", "loadRecipe"]) t.ok(names.includes(name), `exports ${name}`);

    const store =
      'const { AnswerStore } = await import("credence"); const store = await AnswerStore.open("answers");' +
      'await store.put("key", { text: "kept", finish: "stop" }); console.log((await store.get("key")).text)';
    t.equal(run(process.execPath, ["--input-type=module", "-e", store], consumer), "kept\n", "the database is loaded");

    const doctor = spawnSync(
      join(consumer, "node_modules", ".bin", "credence"),
      ["doctor", "--json", "--threads", "1"],
      {
        cwd: consumer,
        encoding: "utf8",
      },
    );
    t.equal(doctor.status, 0, doctor.stderr);
    t.ok(JSON.parse(doctor.stdout).machine.isas.includes("scalar"), "the engine is loaded");

    await t.test("the CUDA kernels are a package of their own, which is found beside this one", async (t) => {
      if (process.platform !== "linux" || process.arch !== "x64") return t.pass("there is none for this machine");
      const cuda = () =>
        JSON.parse(run(process.execPath, [join("node_modules", ".bin", "credence"), "doctor", "--json"], consumer))
          .machine.cuda;
      t.match(cuda(), /and the package @credence\/linux-x64-cuda is not installed; .*npm install @credence/);
      const kernels = packCuda();
      t.match(JSON.parse(run("tar", ["xzfO", kernels, "package/package.json"], folder)), {
        os: ["linux"],
        cpu: ["x64"],
        libc: ["glibc"],
        version: own.version,
      });
      t.strictSame(Object.entries(own.peerDependencies), [["@credence/linux-x64-cuda", own.version]]);
      run("npm", ["install", "--ignore-scripts", "--no-audit", "--no-fund", "--prefer-offline", kernels], consumer);
      t.notMatch(cuda(), /libcredence_cuda\.so is not beside|not installed/);
      t.match(cuda(), /^available$|is here, but there are no kernels|driver|CUDA finds no device/);
    });

    const installed = join(consumer, "node_modules", "credence");
    const install = spawnSync(process.execPath, [join(installed, "native", "install.cjs")], { encoding: "utf8" });
    t.equal(install.status, 0, "the install script is content with the prebuilt binary");
    t.equal(install.stdout + install.stderr, "");

    rmSync(join(installed, "prebuilds"), { recursive: true });
    const broken = spawnSync(process.execPath, [join(installed, "dist", "cli", "bin.js"), "doctor"], {
      encoding: "utf8",
    });
    t.equal(broken.status, 1);
    t.match(broken.stderr, /cannot load Credence's engine[\s\S]*npm rebuild credence/);
  },
);

t.test("the lock file names no registry, so any will do", async (t) => {
  const lock = readFileSync(join(root, "package-lock.json"), "utf8");
  t.notMatch(lock, '"resolved"');
});
