// npm run flags: writes the tables of docs/methods/elical-published.md, which flags the published scripts have here and what
// --compat brings back, from the commands themselves (dist/). With --check it writes nothing, and fails where the page is
// not what it would write.
import { readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { parseArgs } from "node:util";
import { fail, root } from "./setup.mjs";

const { check } = parseArgs({ options: { check: { type: "boolean" } } }).values;
const { scripts } = await import("../dist/cli/elical.js");
const { elicalRows } = await import("../dist/methods/elical/published/compat.js");
const page = join(root, "docs", "methods", "elical-published.md");

const cell = (text) => text.replaceAll("|", "\\|");
const table = (head, rows) =>
  [head, head.map(() => "---"), ...rows].map((row) => `| ${row.map(cell).join(" | ")} |`).join("\n");

const byDefault = ({ default: value, demandOption }) =>
  demandOption ? "needed" : value === undefined || value === "" ? "" : `\`${value}\``;

const tables = {
  flags: scripts
    .filter(({ honoured, unneeded, dead }) => [honoured, unneeded, dead].some((flags) => Object.keys(flags).length > 0))
    .map(({ name, honoured, unneeded, dead }) => {
      const rows = [
        ...Object.entries(honoured).map(([flag, option]) => [flag, "honoured", byDefault(option), option.describe]),
        ...Object.entries(unneeded).map(([flag, { why }]) => [flag, "not needed", "", why]),
        ...Object.entries(dead).map(([flag, sentence]) => [flag, "refused", "", `did nothing: ${sentence}`]),
      ];
      return `### ${name}\n\n${table(
        ["flag", "class", "default", "what it is"],
        rows.map(([flag, ...rest]) => [`\`--${flag.replaceAll("-", "_")}\``, ...rest]),
      )}`;
    })
    .join("\n\n"),
  rows: table(
    ["row", "the published code", "here", "`--compat` of"],
    elicalRows.map(({ id, published, here, commands }) => [id, published, here, commands.join(", ") || "no switch"]),
  ),
};

const before = readFileSync(page, "utf8");
let after = before;
for (const [name, text] of Object.entries(tables)) {
  const place = new RegExp(`(<!-- ${name}: written by npm run flags -->\n)[\\s\\S]*?(<!-- /${name} -->)`);
  if (!place.test(after)) fail(`${page}: has no place for the table ${name}`);
  after = after.replace(place, (_, begin, end) => `${begin}\n${text}\n\n${end}`);
}
if (check && after !== before) fail("docs/methods/elical-published.md is not what the commands say: npm run flags");
if (!check) writeFileSync(page, after);
