/**
 * Answers that were paid for, in an embedded database (LevelDB): a folder of a few files, one process at a time. What
 * `put` was awaited for is on the disk. An answer is a model's reply, or whatever else JSON holds.
 */
import { createHash } from "node:crypto";
import { existsSync, readdirSync } from "node:fs";
import type { ClassicLevel } from "classic-level";
import { CredenceError } from "../errors.js";
import { makeFolder } from "../files.js";

/** What a model replied to one conversation. */
export interface StoredReply {
  text: string;
  /** "stop", or "length" where the limit of new tokens cut it. */
  finish: "stop" | "length";
  /** Tokens read and written, where that is known. */
  usage?: { input: number; output: number };
  /** The server's model that was paid for it, as `ChatServer` names it. */
  from?: string;
}

/** SHA-256 of whatever a reply depends on: who replies, the conversation, the sampling settings. */
export const answerKey = (...parts: unknown[]): string =>
  createHash("sha256").update(JSON.stringify(parts)).digest("hex");

const databaseFile = /^(CURRENT|LOCK|LOG|LOG\.old|MANIFEST-\d+|\d+\.(log|ldb|sst|dbtmp)|lost)$/;

export class AnswerStore<T = StoredReply> implements AsyncDisposable {
  readonly folder: string;
  private readonly database: ClassicLevel<string, T>;

  private constructor(folder: string, database: ClassicLevel<string, T>) {
    this.folder = folder;
    this.database = database;
  }

  /**
   * Opens the database in a folder, or makes one.
   *
   * @throws CredenceError "STORE" where another process has it open, it is damaged, or the folder holds something else
   */
  static async open<T = StoredReply>(folder: string): Promise<AnswerStore<T>> {
    if (existsSync(folder)) {
      const other = readdirSync(folder).find((name) => !databaseFile.test(name));
      if (other !== undefined)
        throw new CredenceError("STORE", `${folder} holds other files (${other}); name a folder for the answers alone`);
    }
    makeFolder(folder);
    const { ClassicLevel } = await import("classic-level");
    const database = new ClassicLevel<string, T>(folder, { valueEncoding: "json" });
    try {
      await database.open();
    } catch (error) {
      const cause = (error as Error).cause as NodeJS.ErrnoException | undefined;
      const why =
        cause?.code === "LEVEL_LOCKED"
          ? "another process is using it. Wait for that one, or name another folder"
          : `it cannot be opened (${cause?.message ?? (error as Error).message}). Remove it to pay for its answers again`;
      throw new CredenceError("STORE", `the answers in ${folder}: ${why}`, { cause: error });
    }
    return new AnswerStore<T>(folder, database);
  }

  get(key: string): Promise<T | undefined> {
    return this.database.get(key);
  }

  /** Every answer that is kept, in no order. */
  all(): AsyncIterable<T> {
    return this.database.values();
  }

  /** Resolves once the answer is on the disk. */
  async put(key: string, answer: T): Promise<void> {
    await this.putAll([[key, answer]]);
  }

  /** Several at once, with one wait for the disk. */
  async putAll(answers: [string, T][]): Promise<void> {
    const entries = answers.map(([key, value]) => ({ type: "put" as const, key, value }));
    try {
      await this.database.batch(entries, { sync: true });
    } catch (error) {
      throw new CredenceError(
        "STORE",
        `an answer could not be kept in ${this.folder} (${(error as Error).message}). Free some space and start again: what was kept before is not paid for again`,
        { cause: error },
      );
    }
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.database.close();
  }
}
