// npm run flags: writes the tables of docs/methods/elical-published.md, conqord.md, sayself.md and calibration-tuning.md, which flags the published scripts have
// here and what --compat brings back, from the commands themselves (dist/). With --check it writes nothing, and fails where a
// page is not what it would write.
import { readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { parseArgs } from "node:util";
import { fail, root } from "./setup.mjs";

const { check } = parseArgs({ options: { check: { type: "boolean" } } }).values;

const cell = (text) => text.replaceAll("|", "\\|");
const table = (head, rows) =>
  [head, head.map(() => "---"), ...rows].map((row) => `| ${row.map(cell).join(" | ")} |`).join("\n");

const byDefault = ({ default: given, defaultDescription: value = given, demandOption }) =>
  demandOption ? "needed" : value === undefined || value === "" ? "" : `\`${value}\``;

function tablesOf(scripts, compatRows) {
  return {
    flags: scripts
      .filter(({ honoured, unneeded, dead, unsupported = {} }) =>
        [honoured, unneeded, dead, unsupported].some((flags) => Object.keys(flags).length > 0),
      )
      .map(({ name, honoured, unneeded, dead, unsupported = {} }) => {
        const rows = [
          ...Object.entries(honoured).map(([flag, option]) => [flag, "honoured", byDefault(option), option.describe]),
          ...Object.entries(unneeded).map(([flag, { why }]) => [flag, "not needed", "", why]),
          ...Object.entries(dead).map(([flag, sentence]) => [flag, "refused", "", `did nothing: ${sentence}`]),
          ...Object.entries(unsupported).map(([flag, sentence]) => [flag, "refused", "", `not supported: ${sentence}`]),
        ];
        return `### ${name}\n\n${table(
          ["flag", "class", "default", "what it is"],
          rows.map(([flag, ...rest]) => [`\`--${flag.replaceAll("-", "_")}\``, ...rest]),
        )}`;
      })
      .join("\n\n"),
    rows: table(
      ["row", "the published code", "here", "`--compat` of"],
      compatRows.map(({ id, published, here, commands }) => [id, published, here, commands.join(", ") || "no switch"]),
    ),
  };
}

function write(name, tables) {
  const page = join(root, "docs", "methods", name);
  const before = readFileSync(page, "utf8");
  let after = before;
  for (const [part, text] of Object.entries(tables)) {
    const place = new RegExp(`(<!-- ${part}: written by npm run flags -->\n)[\\s\\S]*?(<!-- /${part} -->)`);
    if (!place.test(after)) fail(`${page}: has no place for the table ${part}`);
    after = after.replace(place, (_, begin, end) => `${begin}\n${text}\n\n${end}`);
  }
  if (check && after !== before) fail(`docs/methods/${name} is not what the commands say: npm run flags`);
  if (!check) writeFileSync(page, after);
}

const { scripts: elical } = await import("../dist/cli/elical.js");
const { elicalRows } = await import("../dist/methods/elical/published/compat.js");
write("elical-published.md", tablesOf(elical, elicalRows));
const { scripts: conqord } = await import("../dist/cli/conqord.js");
const { conqordRows } = await import("../dist/methods/conqord/compat.js");
write("conqord.md", tablesOf(conqord, conqordRows));
const { scripts: sayself } = await import("../dist/cli/sayself.js");
const { saySelfRows } = await import("../dist/methods/sayself/compat.js");
write("sayself.md", tablesOf(sayself, saySelfRows));
const { scripts: calibration } = await import("../dist/cli/calibration-tuning.js");
const { calibrationRows } = await import("../dist/methods/calibration-tuning/compat.js");
write("calibration-tuning.md", tablesOf(calibration, calibrationRows));
