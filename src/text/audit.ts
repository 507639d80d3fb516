/** What a chat template does to a conversation, shown on an example: a look before a model learns from its renderings. */
import { CredenceError } from "../errors.js";
import { Chat, type Message } from "./chat.js";
import type { Tokenizer } from "./tokenizer.js";

/** One assistant turn of the example: what it says, and the text of the tokens that would be learnt. */
export interface AuditedTurn {
  content: string;
  supervised: string;
  /** The supervised text is the content and the end of the turn, nothing else. */
  exact: boolean;
}

export interface TemplateAudit {
  /** The example as the model reads it; without a template only prompts can be used. */
  rendered: string | null;
  tokens: number;
  /** Indices of tokens that begin a text and that end a turn. */
  bos: { token: string | null; at: number[] };
  eos: { tokens: string[]; at: number[] };
  /** What is written where an answer is to begin. */
  generationPrompt: string | null;
  /** What the template writes before the first turn by itself. */
  defaultSystem: boolean;
  turns: AuditedTurn[];
  problems: string[];
}

const example: Message[] = [
  { role: "user", content: "What is the capital of Kenya?" },
  { role: "assistant", content: "Nairobi." },
  { role: "user", content: "And of Peru?" },
  { role: "assistant", content: "Lima." },
];

/** Renders an example and looks where things stand; what is wrong is listed, not thrown. */
export async function auditTemplate(tokenizer: Tokenizer): Promise<TemplateAudit> {
  const { bosId, eosIds, specialTokens } = tokenizer;
  const out: TemplateAudit = {
    rendered: null,
    tokens: 0,
    bos: { token: specialTokens.bos_token ?? null, at: [] },
    eos: { tokens: eosIds.map((id) => tokenizer.decode([id])), at: [] },
    generationPrompt: null,
    defaultSystem: false,
    turns: [],
    problems: [],
  };
  if (tokenizer.chatTemplate === undefined) {
    out.problems.push(
      "the model has no chat template: prompts are read as they are, and messages cannot be learnt from",
    );
    return out;
  }
  try {
    const chat = new Chat(tokenizer);
    const { text, ids, supervised } = await chat.supervise(example);
    out.rendered = text;
    out.tokens = ids.length;
    out.bos.at = [...ids.keys()].filter((i) => ids[i] === bosId);
    out.eos.at = [...ids.keys()].filter((i) => eosIds.includes(ids[i]!));
    const open = chat.render(example.slice(0, 1), { addGenerationPrompt: true });
    const closed = chat.render(example.slice(0, 1), { addGenerationPrompt: false });
    out.generationPrompt = open.startsWith(closed) ? open.slice(closed.length) : null;
    out.defaultSystem = withoutSystem(chat) !== closed;
    const runs = supervisedRuns(supervised);
    const answers = example.filter(({ role }) => role === "assistant");
    for (const [i, { content }] of answers.entries()) {
      const learnt = ids.subarray(...(runs[i] ?? [0, 0]));
      const words = learnt.filter((id) => !eosIds.includes(id));
      // As the tokenizer gives it back: a word it does not know is unknown in both.
      const expected = tokenizer.decode(await tokenizer.encode(content, { specials: "text" }));
      const exact = tokenizer.decode(words).trim() === expected.trim();
      out.turns.push({ content, supervised: tokenizer.decode(learnt), exact });
    }
    if (runs.length !== answers.length || out.turns.some(({ exact }) => !exact))
      out.problems.push("the tokens learnt from are not exactly the assistant's turns");
    if (runs.some(([, to]) => !eosIds.includes(ids[to - 1]!)))
      out.problems.push("an assistant's turn is learnt without its end: the model would not learn to stop");
    if (out.generationPrompt === null || out.generationPrompt === "")
      out.problems.push("the template writes nothing where an answer begins");
  } catch (error) {
    if (!(error instanceof CredenceError)) throw error;
    out.problems.push(error.message);
  }
  return out;
}

/** The example's first turn without the template's own system turn; the same text where it has none. */
function withoutSystem(chat: Chat): string {
  try {
    return chat.render(example.slice(0, 1), { addGenerationPrompt: false, system: null });
  } catch {
    return chat.render(example.slice(0, 1), { addGenerationPrompt: false });
  }
}

/** [from, to) of neighbouring supervised tokens. */
function supervisedRuns(supervised: Uint8Array): [number, number][] {
  const runs: [number, number][] = [];
  supervised.forEach((on, i) => {
    if (!on) return;
    const last = runs.at(-1);
    if (last && last[1] === i) last[1] = i + 1;
    else runs.push([i, i + 1]);
  });
  return runs;
}
