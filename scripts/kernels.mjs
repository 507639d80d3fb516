// npm run kernels: writes docs/kernels.md, which operator has which kernels and what tests them, from what the code says of
// itself: the tables' functions, the definitions' headers and the tests' declarations. With --check it writes nothing and fails
// where the page is not what it would write. Either way it fails where an operator lacks a definition, a CPU kernel, a bench
// line, or a test of a kind that it needs. --build FOLDER: a CMake build to ask, instead of the one npm test makes.
import { execFileSync } from "node:child_process";
import { existsSync, readdirSync, readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { parseArgs } from "node:util";
import { root, setUp } from "./setup.mjs";

const { check, build } = parseArgs({ options: { check: { type: "boolean" }, build: { type: "string" } } }).values;
if (process.arch !== "x64") {
  console.log(
    `docs/kernels.md lists the instruction sets of x86-64, which this machine (${process.arch}) does not build`,
  );
  process.exit(0);
}
if (!build) await setUp({ tests: true });
const folder = build ?? join(root, "build");
const page = join(root, "docs", "kernels.md");

const isas = ["scalar", "avx2", "avx512", "avx512bf16"];
const kinds = ["reference", "finite-difference", "odd-shapes", "bits", "refusal"];
/** Definitions that go by another name than the operator. */
const definitions = { project_backward: "linear_backward", sample: "sampling_distribution" };

const read = (...path) => readFileSync(join(root, ...path), "utf8");

const contract = read("native", "kernels", "kernels.h");
const operators = [...contract.match(/#define CREDENCE_OPERATORS\(X\)([\s\S]*?)\n\/\//)[1].matchAll(/X\((\w+)\)/g)].map(
  ([, name]) => name,
);
const listed = execFileSync(join(folder, "credence_bench"), ["--list"], { encoding: "utf8" });
const have = new Set(listed.split("\n").map((line) => line.replace("\t", " ")));
const headers = readdirSync(join(root, "native", "kernels", "reference"))
  .filter((name) => name.endsWith(".h"))
  .map((name) => ({ name, text: read("native", "kernels", "reference", name) }));
// The macro refuses, at compile time, what is no operator and no kind; CMakeLists.txt gives CTest the same names.
const tests = readdirSync(join(root, "native", "tests"))
  .filter((name) => name.endsWith("_test.cpp"))
  .sort()
  .flatMap((file) => [
    ...read("native", "tests", file).matchAll(/^OPERATOR_TEST\(\s*"([^"]+)",\s*"([^"]+)",\s*(\w+)\s*\)/gm),
  ])
  .map(([, of, kinds, name]) => ({
    name: `${of.replaceAll(" ", "+")}.${name}`,
    of: of.split(" "),
    kinds: kinds.split(" "),
  }));

/** An operator has a gradient of its own to test if it is a way back, or gives one beside what it reads out or sums up. */
function differentiates(operator) {
  const [, fields] = contract.match(new RegExp(`typedef struct \\{([^{}]*)\\} credence_${operator};`)) ?? [];
  return operator.endsWith("_backward") || /\bfloat\* (dh|d_logprob|d_value|dz);/.test(fields ?? "");
}

const lacking = [];
const need = (operator, what, there) => {
  if (!there) lacking.push(`${operator} has no ${what}`);
  return there ? "yes" : "no";
};

function row(operator) {
  const definition = headers.find(({ text }) =>
    new RegExp(`^[a-zA-Z].*\\b${definitions[operator] ?? operator}\\(`, "m").test(text),
  );
  need(operator, "definition in native/kernels/reference", definition !== undefined);
  const of = (kind) => tests.filter((test) => test.of.includes(operator) && test.kinds.includes(kind));
  const cell = (kind) => {
    if (kind === "finite-difference" && !differentiates(operator)) return "-";
    if (kind === "refusal") return String(of(kind).length || "-");
    need(operator, `${kind} test`, of(kind).length > 0);
    return String(of(kind).length);
  };
  return [
    `\`${operator}\``,
    definition ? `[${definition.name}](../native/kernels/reference/${definition.name})` : "no",
    ...isas.map((isa) => need(operator, `kernel for ${isa}`, have.has(`${operator} ${isa}`))),
    have.has(`${operator} cuda`) ? "emulated" : "absent",
    need(operator, "bench line", have.has(`${operator} bench`)),
    ...kinds.map(cell),
  ];
}

const line = (cells) => `| ${cells.join(" | ")} |`;
const heading = ["operator", "definition", ...isas, "cuda", "bench", ...kinds.map((kind) => kind.replace("-", " "))];
const text = `# Operators, their kernels and what tests them

Written by \`npm run kernels\` from the tables of functions, the definitions' headers and the list of tests; CI fails when this
page is stale, or when an operator lacks a definition, a kernel, a bench line or a test it needs. What an operator computes
stands in [kernels.h](../native/kernels/kernels.h); \`credence bench kernels\` measures each.

The last five columns count tests: against the definition, of the definition's gradient against the quotient of differences
(\`-\`: no gradient of its own), at sizes that are multiples of nothing, of equal bits (over threads, in any batch, beside any
neighbour), and of what is refused. A test against the definition runs on every instruction set that the machine has, in
float32 and bf16, and once more on the CUDA kernels: \`emulated\` means that the tests execute the kernel on the CPU, warps taken
forward, backward and shuffled. What a GPU has run is in [measurements/cuda.md](measurements/cuda.md).

${line(heading)}
${line(heading.map(() => "---"))}
${operators.map((operator) => line(row(operator))).join("\n")}

## The tests by name

\`ctest -R NAME\` runs one; \`ctest -R OPERATOR\` runs an operator's.

${operators
  .map((operator) => {
    const own = tests.filter(({ of }) => of.includes(operator));
    return `- \`${operator}\`: ${own.map(({ name }) => `\`${name}\``).join(", ")}`;
  })
  .join("\n")}
`;

for (const what of lacking) console.error(what);
if (lacking.length > 0) process.exitCode = 1;
if (!check) {
  writeFileSync(page, text);
  console.log(`docs/kernels.md: ${operators.length} operators, ${tests.length} tests`);
} else if (!existsSync(page) || readFileSync(page, "utf8") !== text) {
  console.error("docs/kernels.md is not what the code says. Write it anew: npm run kernels");
  process.exitCode = 1;
} else if (lacking.length === 0) {
  console.log(`docs/kernels.md is what the code says: ${operators.length} operators, ${tests.length} tests`);
}
