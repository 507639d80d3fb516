/** Rationales beside the clusters that they should tell of, so that a reader can judge them. */
import { join, text } from "./markup.js";
import { track } from "./page.js";
import { count, percent } from "./words.js";

/** A response's parts, and what else the model says to the same question. */
export interface RationaleExample {
  question: string;
  /** What counts as right. */
  expected: readonly string[];
  reasoning?: string;
  answer: string | null;
  right: boolean;
  rationale: string | null;
  /** In [0, 1]; null where none is stated. */
  confidence: number | null;
  /** One response of each, and how many responses it stands for; any order. */
  clusters: readonly { response: string; size: number }[];
}

/** Clusters shown of a question; the others are counted. */
const mostClusters = 6;
/** Characters of a response. */
const mostText = 280;

function shortened(words: string): string {
  const line = Array.from(words.replace(/\s+/g, " ").trim());
  if (line.length <= mostText) return line.join("");
  return `${line
    .slice(0, mostText)
    .join("")
    .replace(/\s+\S*$/, "")}\u00a0\u2026`;
}

function clusterList({ clusters }: RationaleExample): string {
  const all = clusters.reduce((sum, { size }) => sum + size, 0);
  const sorted = clusters.toSorted((a, b) => b.size - a.size);
  const items = sorted.slice(0, mostClusters).map(({ response, size }) => {
    const share = size / all;
    return `<li><b>${percent(share)}</b><i aria-hidden="true"><span style="width:${(100 * share).toFixed(2)}%"></span></i><span>${text(shortened(response))}</span></li>`;
  });
  const rest = sorted.slice(mostClusters);
  const others = rest.reduce((sum, { size }) => sum + size, 0);
  const more =
    rest.length > 0 ? `<p class="note">And ${count(others)} responses in ${count(rest.length)} more.</p>` : "";
  return `<h4>Of ${count(all)} samples</h4><ol class="clusters">${join(items)}</ol>${more}`;
}

function said(example: RationaleExample): string {
  const { expected, reasoning, answer, right, rationale, confidence } = example;
  const verdict = right ? "right" : `wrong: ${expected.slice(0, 3).join(" / ")}`;
  const stated =
    confidence === null
      ? '<p class="note">No confidence that can be read.</p>'
      : `<div class="stated"><span>sure</span>${track(null, confidence, null, 0, 1)}<span>${(10 * confidence).toFixed(0)} of 10</span></div>`;
  return `${reasoning ? `<p class="note">${text(shortened(reasoning))}</p>` : ""}
<p><strong>${answer === null ? "No answer that can be read" : text(answer)}</strong> <span class="${right ? "v-better" : "v-worse"}">(${text(verdict)})</span></p>
${rationale === null ? '<p class="note">No rationale.</p>' : `<blockquote>${text(shortened(rationale))}</blockquote>`}
${stated}`;
}

/**
 * A section of a report: each example's response on the left, what else the model says on the right. Text is escaped, and long
 * responses are cut.
 *
 * @param most examples shown, from the first on
 * @returns "" for no examples
 */
export function rationaleSection(examples: readonly RationaleExample[], most = 10): string {
  const shown = examples.slice(0, most);
  if (shown.length === 0) return "";
  const articles = shown.map(
    (example) => `<article class="rationale"><h3>${text(example.question.trim())}</h3>
<div class="pair"><div>${said(example)}</div><div>${clusterList(example)}</div></div></article>`,
  );
  return `<section><h2>What it says it does not know</h2>
<p>A rationale should tell why the model is not sure: the answers between which it wavers. On the right is what it says when it is asked again and again, one response for all that mean the same. Read whether the left tells of the right.</p>
${join(articles)}</section>`;
}
