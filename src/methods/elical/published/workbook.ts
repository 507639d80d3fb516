/** A workbook of one sheet without a header, as the published evaluation writes them. */
import writeExcelFile from "write-excel-file/node";
import { writeFileAtomic } from "../../../files.js";

/** Numbers row by row; null is an empty cell. Cells hold the numbers given, and show so many decimals. */
export async function writeWorkbook(
  path: string,
  rows: readonly (readonly (number | null)[])[],
  decimals: number,
): Promise<void> {
  const format = `0.${"0".repeat(decimals)}`;
  const cells = rows.map((row) => row.map((value) => (value === null ? null : { value, type: Number, format })));
  writeFileAtomic(path, await writeExcelFile(cells, { sheet: "Sheet1" }).toBuffer());
}
