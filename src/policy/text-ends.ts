/** Rows of generation that end by what stands in their text. */
import type { Tokenizer } from "../text/tokenizer.js";

/**
 * Reads the texts of rows while they are written. Where a row ends follows from its tokens alone, however late the engine hears
 * of it: at the first of them behind which the text is done.
 */
export class TextEnds {
  private readonly rows = new Map<number, { tokens: number[]; begun: number; end?: number }>();

  /**
   * @param done whether a text, with nothing trimmed, needs no more behind it
   * @param beginning tokens that a row's text begins with before any is written
   */
  constructor(
    private readonly tokenizer: Tokenizer,
    private readonly done: (text: string) => boolean,
    private readonly beginning: (row: number) => Int32Array | undefined,
  ) {}

  /** @param chosen [row, token, row, token, ..] of one step; the rows that are done with it */
  readonly add = (chosen: Int32Array): Int32Array | undefined => {
    const ended: number[] = [];
    for (let i = 0; i < chosen.length; i += 2) {
      const [number, token] = [chosen[i]!, chosen[i + 1]!];
      const row = this.rows.get(number) ?? this.open(number);
      if (row.end !== undefined) continue;
      row.tokens.push(token);
      if (!this.done(this.tokenizer.decode(row.tokens, { skipSpecials: true }))) continue;
      row.end = row.tokens.length - row.begun;
      ended.push(number);
    }
    return ended.length > 0 ? Int32Array.from(ended) : undefined;
  };

  private open(number: number): { tokens: number[]; begun: number; end?: number } {
    const tokens = Array.from(this.beginning(number) ?? []);
    const row = { tokens, begun: tokens.length };
    this.rows.set(number, row);
    return row;
  }

  /** How many new tokens a row that came back has up to its end, which is forgotten then; undefined: its text was never done. */
  take(number: number): number | undefined {
    const end = this.rows.get(number)?.end;
    this.rows.delete(number);
    return end;
  }
}
