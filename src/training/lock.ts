/**
 * One process at a time in a run's folder: two would write over each other's checkpoints. The lock is a file that names its
 * holder; what a killed process left behind is recognised and taken over, so that resuming needs no cleaning up.
 */
import { readFileSync, rmSync } from "node:fs";
import { hostname } from "node:os";
import { join, resolve } from "node:path";
import { CredenceError } from "../errors.js";
import { createFileAtomic } from "../files.js";

export const lockName = ".lock";

interface Holder {
  host: string;
  pid: number;
  /** When the process began, by the system's count: the same number given to another process later is told apart. */
  started: string;
}

/** Folders this process holds. */
const held = new Set<string>();

/** Field 22 of /proc/PID/stat; "" where there is no such process or file system. */
function startOf(pid: number): string {
  try {
    const stat = readFileSync(`/proc/${pid}/stat`, "latin1");
    return stat.slice(stat.lastIndexOf(")") + 2).split(" ")[19] ?? "";
  } catch {
    return "";
  }
}

function running({ pid, started }: Holder): boolean {
  try {
    process.kill(pid, 0);
  } catch (error) {
    // EPERM: it is there and somebody else's.
    if ((error as NodeJS.ErrnoException).code === "ESRCH") return false;
  }
  return startOf(pid) === started;
}

function holderOf(path: string): Holder | undefined {
  try {
    return JSON.parse(readFileSync(path, "utf8")) as Holder;
  } catch {
    return undefined; // gone meanwhile
  }
}

/**
 * Takes the folder for this process. The function it returns gives it back.
 *
 * @throws CredenceError "RUN_IN_USE" naming the process that has it
 */
export function lockFolder(directory: string): () => void {
  const folder = resolve(directory);
  const path = join(folder, lockName);
  const me: Holder = { host: hostname(), pid: process.pid, started: startOf(process.pid) };
  for (let attempt = 0; ; attempt++) {
    if (createFileAtomic(path, `${JSON.stringify(me)}\n`)) break;
    const holder = holderOf(path);
    const mine = holder?.host === me.host && holder.pid === me.pid && holder.started === me.started;
    const taken = mine ? held.has(folder) : holder && (holder.host !== me.host || running(holder));
    if (taken || attempt === 3) {
      const who = holder ? `process ${holder.pid} on ${holder.host}` : "another process";
      throw new CredenceError(
        "RUN_IN_USE",
        `${who} is running in ${directory}. Wait for it, or choose another folder with --run-dir; if that machine is gone, delete ${path}`,
      );
    }
    rmSync(path, { force: true });
  }
  held.add(folder);
  return () => {
    held.delete(folder);
    rmSync(path, { force: true });
  };
}
