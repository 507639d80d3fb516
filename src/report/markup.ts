/** Text and pieces of a page. */

const escapes: Record<string, string> = { "&": "&amp;", "<": "&lt;", ">": "&gt;", '"': "&quot;", "'": "&#39;" };

/** Text that stays text inside HTML. */
export const text = (s: string): string => s.replace(/[&<>"']/g, (c) => escapes[c]!);

export const join = (parts: readonly string[]): string => parts.join("\n");

export const legend = (items: readonly [colour: string, label: string, shape?: string][]): string =>
  `<ul class="legend">${items.map(([c, label, shape = ""]) => `<li><span class="key ${shape}" style="background:${c}"></span>${text(label)}</li>`).join("")}</ul>`;
