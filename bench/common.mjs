// What the measuring scripts share: programs that leave a JSON line, medians, tables, and a file that keeps what was measured.
import { spawnSync } from "node:child_process";
import { existsSync, readFileSync, renameSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { fileURLToPath } from "node:url";

export const root = fileURLToPath(new URL("..", import.meta.url));
const program = join(root, "dist", "cli", "bin.js");

/** The last line of standard output as JSON. `seconds` ends a program that takes longer. */
export function jsonOf(command, args, { seconds, env } = {}) {
  const { status, signal, stdout, stderr, error } = spawnSync(command, args, {
    encoding: "utf8",
    maxBuffer: 1 << 26,
    timeout: seconds && seconds * 1000,
    env: { ...process.env, ...env },
  });
  if (error?.code === "ETIMEDOUT") throw new Error(`took more than ${seconds} s`);
  if (error) throw error;
  if (status !== 0) {
    const last = (stderr || stdout).trim().split("\n").slice(-3).join("\n");
    throw new Error(`${[command, ...args].join(" ")} ended with ${status ?? signal}:\n${last}`);
  }
  return JSON.parse(stdout.trim().split("\n").at(-1));
}

/** `credence WHAT ... --json`. */
export const credence = (...args) => jsonOf(process.execPath, [program, ...args, "--json"]);

export function median(values) {
  const sorted = values.toSorted((a, b) => a - b);
  const middle = sorted.length >> 1;
  return sorted.length % 2 ? sorted[middle] : (sorted[middle - 1] + sorted[middle]) / 2;
}

/** A table of Markdown. */
export const table = (head, rows) =>
  [head, head.map(() => "---"), ...rows].map((cells) => `| ${cells.join(" | ")} |`).join("\n");

export const percent = (share) => `${(100 * share).toFixed(0)} %`;
export const number = (value) =>
  value >= 100 ? Math.round(value).toLocaleString("en-US") : value >= 10 ? value.toFixed(1) : value.toFixed(2);

/** What earlier calls measured, and a way to keep it after each new figure: a measurement that is stopped goes on. */
export function kept(file) {
  const measured = file && existsSync(file) ? JSON.parse(readFileSync(file, "utf8")) : {};
  const keep = () => {
    if (!file) return;
    writeFileSync(`${file}.part`, `${JSON.stringify(measured, null, 1)}\n`);
    renameSync(`${file}.part`, file);
  };
  return { measured, keep };
}

/** Names given as a,b,c; every one if none are. */
export function chosen(given, known, flag) {
  const names = given ? given.split(",") : known;
  const unknown = names.filter((name) => !known.includes(name));
  if (unknown.length === 0) return names;
  console.error(`--${flag} ${unknown.join(",")}: expected some of ${known.join(", ")}`);
  process.exit(2);
}
