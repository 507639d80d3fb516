/** What a judge model is asked. It is to answer with one word, "certain" or "uncertain". */

/** A text as Python's repr() shows it; non-printable characters are escaped. */
function pythonString(text: string): string {
  const quote = text.includes("'") && !text.includes('"') ? '"' : "'";
  const short: Record<string, string> = { "\\": "\\\\", "\n": "\\n", "\r": "\\r", "\t": "\\t", [quote]: `\\${quote}` };
  const shown = Array.from(text, (character) => {
    if (character in short) return short[character];
    if (character === " " || !/[\p{C}\p{Z}]/u.test(character)) return character;
    const code = character.codePointAt(0)!;
    const hex = code.toString(16);
    if (code < 0x100) return `\\x${hex.padStart(2, "0")}`;
    return code < 0x10000 ? `\\u${hex.padStart(4, "0")}` : `\\U${hex.padStart(8, "0")}`;
  });
  return `${quote}${shown.join("")}${quote}`;
}

/** A list of texts as Python shows it: the published requests put the expected answers so. */
export const pythonList = (texts: readonly string[]): string => `[${texts.map(pythonString).join(", ")}]`;

/** Asks whether an answer means the same as one of those expected. */
export function correctnessRequest(question: string, expected: readonly string[], given: string): string {
  return (
    `Question: ${question}\n` +
    `Expected answers: ${pythonList(expected)}\n` +
    "Does the generated answer below mean the same as any one of the expected answers?\n" +
    `Generated answer: ${given}\n` +
    'Reply with one word only: "certain" if it does, "uncertain" if it does not.'
  );
}

/** Asks whether two answers to one question mean the same. */
export function equivalenceRequest(question: string, first: string, second: string): string {
  return (
    "Two answers to the same question are given below. Do they mean the same? " +
    'Reply with one word only: "certain" if they do, "uncertain" if they do not.\n' +
    `Question: ${question}\nAnswer: ${first}\n\n` +
    `Question: ${question}\nAnswer: ${second}`
  );
}
