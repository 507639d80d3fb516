/** Rows against a model's context: nothing is cut or dropped unless asked for, and then it is counted. */
import { CredenceError } from "../errors.js";

export type Truncate = "error" | "drop" | "left" | "right";

/** Token ids, and for rows to learn from what is supervised; arrays of equal length. */
export interface Row {
  ids: Int32Array;
  supervised?: Uint8Array;
  weights?: Float32Array;
}

export interface FitOptions {
  contextLength: number;
  /** What to do with a longer row: fail (default), leave it out, keep its end ("left" is cut) or its beginning. */
  truncate?: Truncate;
  /**
   * What to do with a row of which nothing is supervised: fail (default) or leave it out. Rows without `supervised`
   * pass.
   */
  unsupervised?: "error" | "drop";
}

export interface FittedRows<T extends Row> {
  rows: T[];
  /** For each row kept, which of the given ones it was. */
  indices: number[];
  /** Rows left out for their length, cut, and left out because nothing in them was supervised. */
  dropped: number;
  cut: number;
  unsupervised: number;
}

/**
 * Rows that fit into the context.
 *
 * @throws CredenceError "ROW_TOO_LONG" or "NOTHING_SUPERVISED" with counts and what to choose
 */
export function fitToContext<T extends Row>(rows: T[], options: FitOptions): FittedRows<T> {
  const { contextLength, truncate = "error", unsupervised = "error" } = options;
  const long = rows.filter((row) => row.ids.length > contextLength);
  if (long.length > 0 && truncate === "error") {
    const longest = long.reduce((most, row) => Math.max(most, row.ids.length), 0);
    throw new CredenceError(
      "ROW_TOO_LONG",
      `${count(long.length)} of ${count(rows.length)} rows ${long.length === 1 ? "is" : "are"} longer than the context ` +
        `(${count(contextLength)} tokens; longest ${count(longest)}). Choose truncate: drop, left or right, or a longer context`,
    );
  }
  const fitted: FittedRows<T> = { rows: [], indices: [], dropped: 0, cut: 0, unsupervised: 0 };
  const bare: number[] = [];
  rows.forEach((row, index) => {
    let kept = row;
    if (row.ids.length > contextLength) {
      if (truncate === "drop") {
        fitted.dropped += 1;
        return;
      }
      fitted.cut += 1;
      kept = cutRow(row, truncate === "left" ? row.ids.length - contextLength : 0, contextLength);
    }
    if (kept.supervised && !kept.supervised.includes(1)) {
      bare.push(index);
      return;
    }
    fitted.rows.push(kept);
    fitted.indices.push(index);
  });
  fitted.unsupervised = bare.length;
  if (bare.length > 0 && (unsupervised === "error" || fitted.rows.length === 0)) {
    const cutToo = fitted.cut > 0 ? " (some after being cut)" : "";
    const instead =
      fitted.rows.length === 0
        ? "Give at least one assistant turn with a weight"
        : `Remove them, or choose unsupervised: drop`;
    throw new CredenceError(
      "NOTHING_SUPERVISED",
      `${count(bare.length)} of ${count(rows.length)} rows have nothing to learn from${cutToo}: no token of theirs is an ` +
        `assistant's (the first is row ${count(bare[0]! + 1)}). ${instead}`,
    );
  }
  return fitted;
}

function cutRow<T extends Row>(row: T, from: number, length: number): T {
  const to = from + length;
  return {
    ...row,
    ids: row.ids.slice(from, to),
    ...(row.supervised && { supervised: row.supervised.slice(from, to) }),
    ...(row.weights && { weights: row.weights.slice(from, to) }),
  };
}

const count = (n: number): string => n.toLocaleString("en");
