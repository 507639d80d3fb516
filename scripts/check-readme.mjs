// npm run check:readme: what README.md and docs/ tell a reader to type must exist. Commands in sh blocks are checked
// against package.json and the command line's own help, links against the tree, TypeScript blocks against the types.
import { spawnSync } from "node:child_process";
import { existsSync, mkdirSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { dirname, join, relative, resolve } from "node:path";
import { root, walk } from "./setup.mjs";

const pages = [join(root, "README.md"), ...(existsSync(join(root, "docs")) ? walk(join(root, "docs")) : [])].filter(
  (file) => file.endsWith(".md") && existsSync(file),
);
const scripts = JSON.parse(readFileSync(join(root, "package.json"), "utf8")).scripts;
const problems = [];
let checked = 0;

for (const page of pages) {
  const text = readFileSync(page, "utf8");
  const name = relative(root, page);
  for (const [, language, body] of text.matchAll(/^```(\w*)\n(.*?)^```/gms)) {
    if (["sh", "bash", "shell", "console"].includes(language)) shell(name, body);
    if (language === "ts") typescript(name, body);
  }
  for (const [, target] of text.replace(/^```.*?^```/gms, "").matchAll(/\]\(([^)\s#]+)(?:#[^)]*)?\)/g)) {
    if (/^[a-z]+:/.test(target)) continue;
    expect(name, `link to ${target}`, existsSync(resolve(dirname(page), decodeURI(target))), "there is no such file");
  }
}
for (const problem of problems) console.error(problem);
console.log(`${checked - problems.length} passed, ${problems.length} failed`);
process.exitCode = problems.length > 0 ? 1 : 0;

function expect(page, what, ok, reason) {
  checked++;
  if (!ok) problems.push(`${page}: ${what}: ${reason}`);
}

/** `npm run X` is a script; `credence X --option` is a command that has the option. */
function shell(page, body) {
  const lines = body.replace(/\\\n\s*/g, " ").split("\n");
  for (const line of lines.map((text) => text.replace(/^\$ /, "").replace(/\s+#.*$/, ""))) {
    for (const [, name] of line.matchAll(/\bnpm run ([\w:-]+)/g))
      expect(page, line, name in scripts, `no script "${name}"`);
    const [, rest] = line.match(/(?:^|&&|\||;)\s*(?:npx )?credence\s+(.*)/) ?? [];
    if (rest === undefined) continue;
    const words = rest.split(/\s*(?:\||&&|;|>)\s*/)[0].split(/\s+/);
    // A published script is a command of its method, whose flags may be spelt with _.
    const script = words[1]?.match(/^[a-z]/) && helpOf(words[0])?.startsWith(`credence ${words[0]} <script>`);
    const command = script ? `${words[0]} ${words[1]}` : words[0];
    const help = helpOf(command);
    expect(page, line, help !== undefined, `no command "${command}"`);
    for (const option of words.filter((word) => word.startsWith("--")).map((word) => word.split("=")[0])) {
      const known = help?.split(/[\s,]+/).includes(script ? option.replaceAll("_", "-") : option);
      expect(page, line, known ?? false, `"${command}" has no option ${option}`);
    }
  }
}

function helpOf(command) {
  helpOf.known ??= new Map();
  if (!helpOf.known.has(command)) {
    const args = command.startsWith("-") ? ["--help"] : [...command.split(" "), "--help"];
    const { status, stdout } = spawnSync(process.execPath, [join(root, "dist", "cli", "bin.js"), ...args], {
      encoding: "utf8",
    });
    // An unknown command is refused; --help alone would list all commands and exit 0.
    const own = command.startsWith("-") || stdout.startsWith(`credence ${command}`);
    helpOf.known.set(command, status === 0 && own ? stdout : undefined);
  }
  return helpOf.known.get(command);
}

/** Blocks are compiled as modules of this package, so `import ... from "credence"` means the built types. */
function typescript(page, body) {
  const folder = join(root, "build", "readme");
  mkdirSync(folder, { recursive: true });
  const file = join(folder, `block-${checked}.mts`);
  writeFileSync(file, body);
  const options = ["--noEmit", "--strict", "--skipLibCheck", "--module", "nodenext", "--target", "es2022"];
  const lib = ["--lib", "es2023,esnext.disposable", "--types", "node"];
  const { status, stdout } = spawnSync(
    process.execPath,
    [join(root, "node_modules", "typescript", "bin", "tsc"), ...options, ...lib, file],
    { encoding: "utf8", cwd: root },
  );
  expect(page, "TypeScript block", status === 0, stdout.trim());
  rmSync(file);
}
