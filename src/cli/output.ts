/** What a command prints: results to standard output, notes to standard error, an error as a sentence. */
import { CredenceError } from "../errors.js";

const levels = ["error", "warn", "info", "debug"] as const;
export type LogLevel = (typeof levels)[number];

let threshold: LogLevel = "info";

export function setLogLevel(level: LogLevel): void {
  threshold = level;
}

export function logs(level: LogLevel): boolean {
  return levels.indexOf(level) <= levels.indexOf(threshold);
}

/** A line on standard error, if the log level lets it through. */
export function note(line: string, level: LogLevel = "info"): void {
  if (logs(level)) process.stderr.write(`${line}\n`);
}

/** A line of the result. */
export function print(line: string): void {
  process.stdout.write(`${line}\n`);
}

/** The result of `--json`: one object on one line. */
export function printJson(value: unknown): void {
  print(JSON.stringify(value));
}

/** Wrong use of the command line: exit code 2, with a pointer to --help. */
export class UsageError extends CredenceError {
  constructor(message: string) {
    super("USAGE", message);
    this.name = "UsageError";
  }
}

/** A result that is itself a failure and has been printed, such as a bound that was exceeded: exit code 1, no further message. */
export class ResultFailed extends CredenceError {
  constructor() {
    super("RESULT_FAILED", "the result is a failure");
    this.name = "ResultFailed";
  }
}

/** Columns as wide as their widest cell; numbers to the right. */
export function table(rows: (string | number)[][]): string {
  const text = rows.map((row) => row.map(String));
  const widths: number[] = [];
  for (const row of text) {
    for (const [i, cell] of row.entries()) widths[i] = Math.max(widths[i] ?? 0, cell.length);
  }
  return text
    .map((row, r) =>
      row
        .map((cell, i) => (typeof rows[r]?.[i] === "number" ? cell.padStart(widths[i]!) : cell.padEnd(widths[i]!)))
        .join("  ")
        .trimEnd(),
    )
    .join("\n");
}

/** Of one number or more. */
export function median(values: number[]): number {
  const sorted = values.toSorted((a, b) => a - b);
  const middle = sorted.length >> 1;
  return sorted.length % 2 ? sorted[middle]! : (sorted[middle - 1]! + sorted[middle]!) / 2;
}
