// npm run package:cuda [-- --library FILE --out FOLDER]: the optional package that carries the CUDA kernels, so that the package
// itself stays small. It is the library of `npm run build:cuda` without its symbols, and a package.json that npm installs on
// 64-bit Linux with glibc alone; credence names it, at its own version, as an optional peer and finds it beside itself.
import { execFileSync } from "node:child_process";
import { copyFileSync, existsSync, mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join, resolve } from "node:path";
import { parseArgs } from "node:util";
import { fail, root } from "./setup.mjs";

const { library = join(root, "build", "libcredence_cuda.so"), out = root } = parseArgs({
  options: { library: { type: "string" }, out: { type: "string" } },
}).values;
if (!existsSync(library)) fail(`${library} is not there: npm run build:cuda`);
const own = JSON.parse(readFileSync(join(root, "package.json"), "utf8"));
const [name, wanted] = Object.entries(own.peerDependencies)[0];
if (wanted !== own.version)
  fail(`package.json asks for ${name} ${wanted}; this is ${own.version}, and they go together`);

const folder = mkdtempSync(join(tmpdir(), "credence-cuda-"));
try {
  const file = "libcredence_cuda.so";
  copyFileSync(library, join(folder, file));
  execFileSync("strip", ["--strip-unneeded", join(folder, file)]);
  for (const text of ["LICENSE", "NOTICE"]) copyFileSync(join(root, text), join(folder, text));
  const manifest = {
    name,
    version: own.version,
    description: "The CUDA kernels of credence, for 64-bit Linux with an NVIDIA driver and cuBLASLt",
    license: own.license,
    os: ["linux"],
    cpu: ["x64"],
    libc: ["glibc"],
    files: [file, "NOTICE"],
  };
  writeFileSync(join(folder, "package.json"), `${JSON.stringify(manifest, null, 2)}\n`);
  mkdirSync(out, { recursive: true });
  const packed = execFileSync("npm", ["pack", "--json", "--pack-destination", resolve(out)], {
    cwd: folder,
    encoding: "utf8",
  });
  const [{ filename, size }] = JSON.parse(packed);
  console.log(`${join(resolve(out), filename)}  ${(size / 1e6).toFixed(1)} MB`);
} finally {
  rmSync(folder, { recursive: true });
}
