/** Expected answers as published files hold them: one as it is, or several as Python writes a list of strings. */

const escapes: Record<string, string> = { n: "\n", r: "\r", t: "\t", "\\": "\\", "'": "'", '"': '"' };
const item = /\s*(?:'((?:[^'\\]|\\.)*)'|"((?:[^"\\]|\\.)*)")\s*(,|$)/sy;

/** The answers of a cell; one that is no list is one answer, an empty one none. */
export function referencesOf(cell: string): string[] {
  const text = cell.trim();
  if (text === "") return [];
  if (!text.startsWith("[") || !text.endsWith("]")) return [text];
  const inner = text.slice(1, -1);
  const out: string[] = [];
  item.lastIndex = 0;
  while (item.lastIndex < inner.length) {
    const match = item.exec(inner);
    if (!match) return [text];
    out.push(unescaped(match[1] ?? match[2]!));
    if (match[3] === "") break;
  }
  return out;
}

const unescaped = (text: string): string =>
  text.replace(
    /\\(?:x([0-9a-f]{2})|u([0-9a-f]{4})|U([0-9a-f]{8})|(.))/gs,
    (_, byte?: string, unit?: string, wide?: string, short?: string) =>
      short !== undefined
        ? (escapes[short] ?? `\\${short}`)
        : String.fromCodePoint(parseInt(byte ?? unit ?? wide!, 16)),
  );
