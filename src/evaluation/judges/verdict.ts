/** What a judge that was asked for "certain" or "uncertain" said. */

const words = /[\p{L}\p{N}\p{M}'’]+/gu;

/**
 * A reply as 1 (certain) or 0 (uncertain), null where it says neither or both. "Not" directly before turns the word round.
 */
export function readVerdict(reply: string): 0 | 1 | null {
  const said = reply.toLowerCase().match(words) ?? [];
  const verdicts = new Set<0 | 1>();
  for (const [i, word] of said.entries()) {
    if (word !== "certain" && word !== "uncertain") continue;
    verdicts.add((word === "certain") === (said[i - 1] !== "not") ? 1 : 0);
  }
  return verdicts.size === 1 ? [...verdicts][0]! : null;
}
