/**
 * What published code does otherwise than it should, as data: a row has an ID by which `--compat` brings it back. And how
 * its files write numbers.
 */

/** One row. */
export interface CompatRow<Id extends string = string> {
  /** As the specification counts them, e.g. "B9-10". */
  id: Id;
  /** What the published code does. */
  published: string;
  /** What is done here. */
  here: string;
  /** Commands on which `--compat ID` brings the published behaviour back; none: it is corrected for good. */
  commands: readonly string[];
}

/** Rows whose published behaviour is asked for. */
export type Compat<Id extends string = string> = ReadonlySet<Id>;

/** A number as Python prints a float: 1 is "1.0". */
export const pythonFloat = (value: number): string => (Number.isInteger(value) ? value.toFixed(1) : String(value));
