/**
 * Published scripts as sub-commands. Their flags are of these classes: those that mean here what they meant there; those
 * that nothing needs here, which are accepted, told once and recorded; those that did nothing there, and those that cannot be
 * honoured here, which are refused.
 */
import type { Options } from "yargs";
import type { Compat, CompatRow } from "../methods/published.js";
import { note, UsageError } from "./output.js";

/** A flag that nothing needs here. */
export interface Unneeded {
  type: "string" | "number" | "boolean";
  /** Ends the sentence "--FLAG is not needed here: ...". */
  why: string;
}

/** A published script: its name as a sub-command, and its flags by the names they were published under. */
export interface PublishedScript {
  name: string;
  honoured: Readonly<Record<string, Options>>;
  unneeded: Readonly<Record<string, Unneeded>>;
  /** Flags that did nothing, and the sentence that says what to do instead. */
  dead: Readonly<Record<string, string>>;
  /** Flags that cannot be honoured, and the sentence that says why and what to do instead. */
  unsupported?: Readonly<Record<string, string>>;
  /** What the published code does otherwise. */
  rows: readonly CompatRow[];
}

const dashed = (name: string): string => name.replaceAll("_", "-");

/** A script's flags and --compat, for yargs. */
export function publishedOptions(script: PublishedScript): Record<string, Options> {
  const { honoured, unneeded, dead, unsupported = {} } = script;
  const options: [string, Options][] = [];
  for (const [name, option] of Object.entries(honoured))
    options.push([name, { ...option, group: "Flags of the published script:" }]);
  for (const [name, { type, why }] of Object.entries(unneeded))
    options.push([
      name,
      {
        type,
        describe: `Accepted; not needed here: ${why}`,
        group: "Flags of the published script that nothing needs:",
      },
    ]);
  for (const [name, sentence] of Object.entries(dead))
    options.push([
      name,
      { type: "string", hidden: true, coerce: refused(name, `did nothing in the published script: ${sentence}`) },
    ]);
  for (const [name, sentence] of Object.entries(unsupported))
    options.push([name, { type: "string", hidden: true, coerce: refused(name, `is not supported: ${sentence}`) }]);
  return {
    ...Object.fromEntries(options.map(([name, option]) => [dashed(name), option])),
    compat: compatOption(script),
  };
}

function refused(name: string, sentence: string) {
  return (value: unknown): undefined => {
    if (value !== undefined) throw new UsageError(`--${name} ${sentence}`);
    return undefined;
  };
}

/** Rows of the published code that a command can bring back. */
const switches = ({ name, rows }: PublishedScript): readonly CompatRow[] =>
  rows.filter(({ commands }) => commands.includes(name));

function compatOption(script: PublishedScript): Options {
  const ids = switches(script).map(({ id }) => id);
  return {
    type: "string",
    requiresArg: true,
    default: "",
    defaultDescription: "none",
    describe: `Do as the published code does, quirk by quirk: all, or some of ${ids.join(", ") || "none here"}`,
    coerce: (value: string | string[]) => compatOf(script, [value].flat().join(",")),
  };
}

function compatOf(script: PublishedScript, text: string): Compat {
  const known = switches(script).map(({ id }) => id);
  const asked = text
    .split(",")
    .map((id) => id.trim())
    .filter((id) => id !== "");
  for (const id of asked) {
    if (id === "all" || known.includes(id)) continue;
    const row = script.rows.find((one) => one.id === id);
    const reason = !row
      ? "there is no such row"
      : row.commands.length === 0
        ? `it has no switch; here ${row.here}`
        : `it makes no difference to ${script.name}, only to ${row.commands.join(", ")}`;
    throw new UsageError(`--compat ${id}: ${reason}. Give all, or some of ${known.join(", ") || "none"}`);
  }
  return new Set(asked.includes("all") ? known : asked);
}

/** Flags that were given and that nothing needs, told in one notice; what the command writes records them. */
export function publishedUnneeded(script: PublishedScript, args: object): Record<string, unknown> {
  const given = Object.entries(script.unneeded).flatMap(([name, { why }]) => {
    const value = (args as Record<string, unknown>)[dashed(name)];
    return value === undefined ? [] : [{ name, value, why }];
  });
  if (given.length > 0) note(`not needed here: ${given.map(({ name, why }) => `--${name} (${why})`).join(", ")}`);
  return Object.fromEntries(given.map(({ name, value }) => [name, value]));
}

/**
 * A command line in which the flags of published scripts stand as yargs knows them: `_` is `-`, `--flag=True` is `--flag`,
 * and `--noflag` and `--flag=False` are `--no-flag`.
 *
 * @param methods commands and the scripts that are their sub-commands
 */
export function publishedSpelling(
  args: readonly string[],
  methods: Readonly<Record<string, readonly PublishedScript[]>>,
): string[] {
  const at = args.findIndex((arg) => Object.hasOwn(methods, arg));
  const script = methods[args[at] ?? ""]?.find(({ name }) => name === args[at + 1]);
  if (!script) return [...args];
  const from = at + 2;
  const end = args.indexOf("--", from);
  const flags = args.slice(from, end < 0 ? undefined : end);
  const switched = new Set(
    Object.entries({ ...script.honoured, ...script.unneeded }).flatMap(([name, { type }]) =>
      type === "boolean" ? [dashed(name)] : [],
    ),
  );
  return [...args.slice(0, from), ...flags.map((arg) => spelled(arg, switched)), ...(end < 0 ? [] : args.slice(end))];
}

function spelled(arg: string, switched: ReadonlySet<string>): string {
  const [, published, value] = /^--([^=]+)(?:=(.*))?$/s.exec(arg) ?? [];
  if (published === undefined) return arg;
  const name = dashed(published);
  const negated = /^no-?(.+)$/.exec(name)?.[1] ?? "";
  if (switched.has(negated) && value === undefined) return `--no-${negated}`;
  if (!switched.has(name) || value === undefined) return value === undefined ? `--${name}` : `--${name}=${value}`;
  if (/^true$/i.test(value)) return `--${name}`;
  if (/^false$/i.test(value)) return `--no-${name}`;
  throw new UsageError(`--${published}=${value}: expected True or False`);
}
