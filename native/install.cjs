// npm's install script: a prebuilt binary that loads is kept, anything else is built from the sources.
// `npm_config_build_from_source=true` builds in any case.
"use strict";
const { spawnSync } = require("node:child_process");
const { existsSync } = require("node:fs");
const { availableParallelism } = require("node:os");
const path = require("node:path");

const root = path.join(__dirname, "..");

/** In a process of its own: a binary made for another machine may end the process that opens it. */
function loads() {
  const script = `require("node-gyp-build")(${JSON.stringify(root)})`;
  return spawnSync(process.execPath, ["-e", script], { cwd: root, stdio: "ignore" }).status === 0;
}

function build() {
  const cmakeJs = require.resolve("cmake-js/bin/cmake-js");
  const options = ["build", "--parallel", String(availableParallelism()), "--CDCREDENCE_ADDON=ON"];
  // The tests are built by plain CMake; an install needs the addon alone.
  options.push("--CDCREDENCE_TESTS=OFF");
  return spawnSync(process.execPath, [cmakeJs, ...options], { cwd: root, stdio: "inherit" }).status === 0;
}

if (process.env.npm_config_build_from_source === "true" || !loads()) {
  if (!existsSync(path.join(root, "native", "addon"))) {
    console.error("credence: no prebuilt binary for this machine, and this package carries no sources of the engine");
    process.exit(1);
  }
  if (!build()) {
    console.error(
      "credence: the engine was not built. It needs CMake 3.18 or later and a C++20 compiler (g++ 11, clang 14); " +
        "on Debian: apt-get install cmake g++ make",
    );
    process.exit(1);
  }
}
