/** CSV files as tables: every cell as it stands, so that what is not understood can be written back. */
import { createReadStream, existsSync } from "node:fs";
import { CredenceError } from "../errors.js";
import { appendDurable, writeFileAtomic } from "../files.js";

export interface Table {
  columns: string[];
  /** A cell for each column. */
  rows: string[][];
}

const reason = (error: unknown): string => (error instanceof Error ? error.message : String(error));

/**
 * Reads a CSV file whose first line names its columns. Lines that repeat the first are left out: some programs append to a
 * file with its header each time.
 *
 * @throws CredenceError "NO_FILE" or "BAD_INPUT"
 */
export async function readTable(path: string): Promise<Table> {
  if (!existsSync(path)) throw new CredenceError("NO_FILE", `${path}: there is no such file`);
  const { parse } = await import("csv-parse");
  const rows: string[][] = [];
  const file = createReadStream(path);
  const parser = parse({ bom: true });
  file.on("error", (error) => parser.destroy(error));
  try {
    for await (const row of file.pipe(parser) as AsyncIterable<string[]>) rows.push(row);
  } catch (error) {
    throw new CredenceError("BAD_INPUT", `${path}: not valid CSV (${reason(error)})`, { cause: error });
  } finally {
    file.destroy();
  }
  const [columns, ...rest] = rows;
  if (!columns) throw new CredenceError("BAD_INPUT", `${path}: is empty`);
  return { columns, rows: rest.filter((row) => row.some((cell, i) => cell !== columns[i])) };
}

/**
 * The cells of some columns, row by row.
 *
 * @throws CredenceError "BAD_INPUT" naming a column that is missing, and those that are there
 */
export function columnsOf<Name extends string>(
  { columns, rows }: Table,
  names: readonly Name[],
  path: string,
): Record<Name, string>[] {
  const places = names.map((name) => {
    const at = columns.indexOf(name);
    if (at < 0)
      throw new CredenceError("BAD_INPUT", `${path}: has no column ${name}; its columns are ${columns.join(", ")}`);
    return at;
  });
  return rows.map(
    (row) => Object.fromEntries(names.map((name, i) => [name, row[places[i]!]!])) as Record<Name, string>,
  );
}

const cell = (text: string): string => (/[",\r\n]/.test(text) ? `"${text.replaceAll('"', '""')}"` : text);
const line = (cells: readonly string[]): string => `${cells.map(cell).join(",")}\n`;

/** A table as CSV; a cell with a comma, a quote or a line break is quoted, as pandas writes it. */
export const tableText = ({ columns, rows }: Table): string => [columns, ...rows].map(line).join("");

/** Writes a table, whole or not at all. */
export const writeTable = (path: string, table: Table): void => writeFileAtomic(path, tableText(table));

/**
 * Adds rows to a table's file, and begins it where it is not there.
 *
 * @throws CredenceError "BAD_INPUT" where the file has other columns
 */
export async function appendTable(path: string, table: Table): Promise<void> {
  if (!existsSync(path)) return writeTable(path, table);
  const { columns } = await readTable(path);
  if (columns.join("\n") !== table.columns.join("\n"))
    throw new CredenceError(
      "BAD_INPUT",
      `${path}: has the columns ${columns.join(", ")}; ${table.columns.join(", ")} cannot be added`,
    );
  appendDurable(path, table.rows.map(line).join(""));
}
