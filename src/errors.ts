/** What went wrong, in a code that stays the same and a sentence that names the cause and the way out. */
export class CredenceError extends Error {
  readonly code: string;

  constructor(code: string, message: string, options?: ErrorOptions) {
    super(message, options);
    this.name = "CredenceError";
    this.code = code;
  }
}
