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
  /** What that length is, as messages call it: the model's context (default), or a batch that a row must fit into. */
  limit?: "context" | "batch";
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
  const fitting = new Fitting(options);
  const kept = rows.map((row) => fitting.fit(row));
  fitting.check();
  const indices = kept.flatMap((row, index) => (row ? [index] : []));
  const { dropped, cut, unsupervised } = fitting;
  return { rows: kept.filter((row) => row !== undefined), indices, dropped, cut, unsupervised };
}

/** Fits rows one after the other and counts; what is wrong with them is told at the end, all of it together. */
export class Fitting {
  rows = 0;
  kept = 0;
  longest = 0;
  /** Rows left out for their length, cut, and left out because nothing in them was supervised. */
  dropped = 0;
  cut = 0;
  unsupervised = 0;
  private long = 0;
  private firstBare = 0;
  private readonly options: FitOptions;

  constructor(options: FitOptions) {
    this.options = options;
  }

  /** The row, perhaps cut, or undefined where it is left out. A row's first token cannot be learnt: nothing predicts it. */
  fit<T extends Row>(row: T): T | undefined {
    const { contextLength, truncate = "error" } = this.options;
    const { length } = row.ids;
    this.rows += 1;
    this.longest = Math.max(this.longest, length);
    let kept = row;
    if (length > contextLength) {
      this.long += 1;
      if (truncate === "error") return undefined;
      if (truncate === "drop") {
        this.dropped += 1;
        return undefined;
      }
      this.cut += 1;
      kept = cutRow(row, truncate === "left" ? length - contextLength : 0, contextLength);
    }
    if (kept.supervised && !kept.supervised.includes(1, 1)) {
      this.firstBare ||= this.rows;
      this.unsupervised += 1;
      return undefined;
    }
    this.kept += 1;
    return kept;
  }

  /** @throws CredenceError "ROW_TOO_LONG" or "NOTHING_SUPERVISED" with counts and what to choose */
  check(): void {
    const { contextLength, limit = "context", truncate = "error", unsupervised = "error" } = this.options;
    const { long, rows } = this;
    if (long > 0 && truncate === "error") {
      throw new CredenceError(
        "ROW_TOO_LONG",
        `${count(long)} of ${count(rows)} rows ${long === 1 ? "is" : "are"} longer than the ${limit} ` +
          `(${count(contextLength)} tokens; longest ${count(this.longest)}). Choose truncate: drop, left or right, or a longer ${limit}`,
      );
    }
    if (this.kept === 0 && this.dropped === rows && rows > 0) {
      throw new CredenceError(
        "ROW_TOO_LONG",
        `all ${count(rows)} rows are longer than the ${limit} (${count(contextLength)} tokens) and none is left. ` +
          `Choose truncate: left or right, or a longer ${limit}`,
      );
    }
    if (this.unsupervised > 0 && (unsupervised === "error" || this.kept === 0)) {
      const cutToo = this.cut > 0 ? " (some after being cut)" : "";
      const instead =
        this.kept === 0
          ? "Give at least one assistant turn with a weight"
          : "Remove them, or choose unsupervised: drop";
      throw new CredenceError(
        "NOTHING_SUPERVISED",
        `${count(this.unsupervised)} of ${count(rows)} rows have nothing to learn from${cutToo}: no token of theirs is an ` +
          `assistant's (the first is row ${count(this.firstBare)}). ${instead}`,
      );
    }
  }
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
