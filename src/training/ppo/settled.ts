/** Where the parts of a reward stand that an earlier token of the completion settles. */
import type { Settled } from "../../rewards/reward.js";
import { spansOfTokens, tokensBetween } from "../../text/spans.js";
import type { Tokenizer } from "../../text/tokenizer.js";
import type { PlacedReward } from "./advantages.js";
import type { Rollout } from "./rollouts.js";

/**
 * Each part on the last token that holds any of the characters that settle it, or the one before it that is learnt from. -1
 * where no such token is learnt from: nothing that is learnt has earned the part.
 *
 * @param unit of the rewards' scale: a part counts for `reward / unit`
 * @returns null where it is not known which characters a token stands for
 */
export function placeSettled(
  tokenizer: Tokenizer,
  { tokens, text }: Rollout,
  parts: readonly Settled[],
  mask: Uint8Array | undefined,
  unit: number,
): PlacedReward[] | null {
  const spans = spansOfTokens(tokenizer, tokens, text);
  if (spans === null) return null;
  return parts.map(({ reward, end }) => {
    const { from, to } = tokensBetween(spans, 0, end);
    let at = from < to ? to - 1 : -1;
    while (at >= 0 && mask && !mask[at]) at--;
    return { at, reward: reward / unit };
  });
}
