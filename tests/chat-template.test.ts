import { existsSync, readFileSync } from "node:fs";
import { join } from "node:path";
import t from "tap";
import { Chat, type Message, type RenderOptions } from "../src/text/chat.js";
import { fitToContext } from "../src/text/context.js";
import { Tokenizer } from "../src/text/tokenizer.js";

const golden = new URL("golden/text/", import.meta.url).pathname;
const fixtures = new URL("../../shared/fixtures/tokenizer/", import.meta.url).pathname;
const json = (path: string) => JSON.parse(readFileSync(path, "utf8"));

interface Rendered {
  messages: Message[];
  without_generation_prompt: string;
  with_generation_prompt: string;
}
const cases: { name: string; template: string; chats: Rendered[] }[] = json(join(golden, "chat-cases.json"));
const tokenizer = await Tokenizer.load(join(golden, "tokenizer"));
const chatOf = (name: string) => new Chat(tokenizer, cases.find((c) => c.name === name)!.template);
const user = (content: string): Message => ({ role: "user", content });
const assistant = (content: string, weight?: number): Message => ({ role: "assistant", content, weight });
const system = (content: string): Message => ({ role: "system", content });

t.test("templates render as jinja2 renders them", async (t) => {
  for (const { name, template, chats } of cases) {
    const chat = new Chat(tokenizer, template);
    for (const c of chats) {
      t.equal(chat.render(c.messages, { addGenerationPrompt: false }), c.without_generation_prompt, name);
      t.equal(chat.render(c.messages, { addGenerationPrompt: true }), c.with_generation_prompt, name);
      const ends = c.messages.at(-1)!.role === "assistant" ? c.without_generation_prompt : c.with_generation_prompt;
      t.equal(chat.render(c.messages), ends, "an answer is asked for where none is there");
    }
  }
});

t.test("a system turn, given or left out", async (t) => {
  const asked = [user("Sure?")];
  const turn = "<|im_start|>user\nSure?<|im_end|>\n<|im_start|>assistant\n";
  const chatml = chatOf("default-system");
  t.equal(chatml.render(asked), `<|im_start|>system\nBe kind.<|im_end|>\n${turn}`);
  t.equal(chatml.render(asked, { system: null }), turn);
  t.equal(chatml.render(asked, { system: "" }), `<|im_start|>system\n<|im_end|>\n${turn}`);
  t.equal(chatml.render([system("Own."), ...asked], { system: null }), `<|im_start|>system\nOwn.<|im_end|>\n${turn}`);
  t.equal(
    chatml.render([system("Own."), ...asked], { system: "Other." }),
    `<|im_start|>system\nOwn.<|im_end|>\n${turn}`,
  );
  const trimmed = chatOf("bos-and-trim").render(asked, { system: null });
  t.equal(
    trimmed,
    "<|endoftext|><|im_start|>user\n\nSure?<|im_end|><|im_start|>assistant\n\n",
    "the first token stays",
  );
  t.equal(
    chatOf("merged-system").render(asked, { system: null }),
    "<|endoftext|>[INST] Sure? [/INST]",
    "there was none",
  );
  t.equal(chatOf("merged-system").render(asked, { system: "S" }), "<|endoftext|>[INST] S\n\nSure? [/INST]");
  t.equal(chatOf("thoughts-of-the-last-turn").render(asked, { system: null }), turn);
  const prologue = new Chat(tokenizer, "[start]{% for m in messages %}<{{ m.role }}>{{ m.content }}{% endfor %}");
  t.equal(prologue.render(asked, { system: null }), "[start]<user>Sure?", "an opening that is no system turn stays");
  const odd = new Chat(
    tokenizer,
    "{{ messages | length }}{% for m in messages %}{{ m.content }}{{ loop.revindex }}{% endfor %}",
  );
  t.throws(() => odd.render(asked, { system: null }), { code: "CHAT_TEMPLATE", message: /give a system turn/ });
});

/** The supervised text, stretches separated by "|". */
async function learned(chat: Chat, messages: Message[], options?: RenderOptions): Promise<string> {
  const { ids, supervised } = await chat.supervise(messages, options);
  let text = "";
  ids.forEach((id, i) => {
    if (supervised[i] === 1)
      text += (i > 0 && supervised[i - 1] === 0 && text !== "" ? "|" : "") + tokenizer.decode([id]);
  });
  return text;
}

t.test("supervised are the assistant's turns, to their end", async (t) => {
  const talk = [user("sure? sure."), assistant("sure."), user("sure."), assistant("The <|im_start|> 7")];
  for (const options of [{}, { system: null }, { system: "sure." }]) {
    t.equal(await learned(chatOf("default-system"), talk, options), "sure.<|im_end|>|The <|im_start|> 7<|im_end|>");
  }
  t.equal(await learned(chatOf("merged-system"), talk), " sure.<|im_end|>| The <|im_start|> 7<|im_end|>");
  const trimmed = [user("x"), assistant(" sure. \n"), user("y"), assistant("7")];
  t.equal(await learned(chatOf("bos-and-trim"), trimmed), "sure.<|im_end|>|7<|im_end|>");
  t.equal(
    await learned(chatOf("thoughts-of-the-last-turn"), talk.with(3, assistant("7"))),
    "sure.<|im_end|>|<think>\n\n</think>\n\n7<|im_end|>",
    "a turn that is written otherwise once others follow",
  );
  t.equal(
    await learned(chatOf("default-system"), [assistant("sure."), user("?")]),
    "sure.<|im_end|>",
    "speaking first",
  );
  t.equal(
    await learned(chatOf("default-system"), [user("?"), assistant("a", 0), user("?"), assistant("b")]),
    "b<|im_end|>",
  );
  t.equal(
    await learned(chatOf("default-system"), [user("?"), assistant("")]),
    "<|im_end|>",
    "saying nothing is an answer, too",
  );
});

t.test("weights are the messages'", async (t) => {
  const { weights, supervised } = await chatOf("default-system").supervise([
    user("?"),
    assistant("a", 0.5),
    user("?"),
    assistant("b"),
  ]);
  t.same([...new Set(weights)], [0, 0.5, 1]);
  t.same(
    Array.from(weights, (w) => (w > 0 ? 1 : 0)),
    [...supervised],
  );
});

t.test("a turn of another's counts where it has a weight: its content and its end, not its header", async (t) => {
  const talk = [{ ...user("sure?"), weight: 2 }, assistant("The"), { ...system("Own."), weight: 0 }];
  for (const name of ["default-system", "bos-and-trim"])
    t.equal(await learned(chatOf(name), talk.slice(0, 2)), "sure?<|im_end|>|The<|im_end|>", name);
  const { weights } = await chatOf("default-system").supervise(talk.slice(0, 2));
  t.same(new Set(weights), new Set([0, 2, 1]));
  t.equal(await learned(chatOf("default-system"), [{ ...user("sure?"), weight: 0.5 }]), "sure?<|im_end|>");
});

t.test("a token across the border is not supervised", async (t) => {
  const chat = new Chat(
    tokenizer,
    "{% for m in messages %}{{ m.role }}: su{{ m.content }}{% endfor %}{% if add_generation_prompt %}assistant: su{% endif %}",
  );
  const { ids, supervised } = await chat.supervise([user(" x"), assistant("re")]);
  t.equal(tokenizer.decode(ids.slice(-1)), " sure");
  t.equal(supervised.includes(1), false);
});

t.test("what goes wrong is said", async (t) => {
  t.throws(() => chatOf("merged-system").render([user("a"), user("b")]), {
    code: "CHAT_TEMPLATE",
    message: /refuses the conversation: .*roles must alternate/,
  });
  t.throws(() => new Chat(tokenizer), { code: "NO_CHAT_TEMPLATE", message: /Give prompts instead of messages/ });
  t.throws(() => new Chat(tokenizer, "{% for %}"), { code: "CHAT_TEMPLATE", message: /cannot be parsed/ });
  t.throws(() => chatOf("default-system").render([]), { code: "BAD_INPUT" });
  const twice = new Chat(tokenizer, "{{ bos_token }}{{ messages[0].content }}");
  await t.rejects(twice.encode([user("<|endoftext|>Sure")]), { code: "DOUBLED_BOS", message: /<\|endoftext\|> twice/ });
});

t.test("rows that do not fit", async (t) => {
  const row = (length: number, from = 0) => ({
    ids: new Int32Array(length).map((_, i) => i),
    supervised: new Uint8Array(length).fill(1, from),
  });
  const rows = [row(3), row(5210), row(8, 6)];
  t.throws(() => fitToContext(rows, { contextLength: 6 }), {
    code: "ROW_TOO_LONG",
    message:
      "2 of 3 rows are longer than the context (6 tokens; longest 5,210). Choose truncate: drop, left or right, or a longer context",
  });
  const dropped = fitToContext(rows, { contextLength: 6, truncate: "drop" });
  t.same([dropped.indices, dropped.dropped, dropped.cut], [[0], 2, 0]);
  const left = fitToContext(rows, { contextLength: 6, truncate: "left" });
  t.same([left.rows[2]!.ids[0], [...left.rows[2]!.supervised], left.cut], [2, [0, 0, 0, 0, 1, 1], 2]);
  t.throws(() => fitToContext(rows, { contextLength: 6, truncate: "right" }), {
    code: "NOTHING_SUPERVISED",
    message: /^1 of 3 rows have nothing .*after being cut.*the first is row 3.*unsupervised: drop/,
  });
  const bare = fitToContext(rows, { contextLength: 6, truncate: "right", unsupervised: "drop" });
  t.same([bare.indices, bare.cut, bare.unsupervised], [[0, 1], 2, 1]);
  t.throws(() => fitToContext([row(3, 3)], { contextLength: 6, unsupervised: "drop" }), { code: "NOTHING_SUPERVISED" });
});

const skip = existsSync(fixtures) ? false : "absent: shared/fixtures/tokenizer";
t.test("SmolLM2's template, every conversation", { skip }, async (t) => {
  const smol = await Tokenizer.load(fixtures);
  const chat = new Chat(smol);
  for (const c of json(`${fixtures}cases.json`).chats) {
    for (const addGenerationPrompt of [false, true]) {
      const expected = c[`${addGenerationPrompt ? "with" : "without"}_generation_prompt`];
      t.equal(chat.render(c.messages, { addGenerationPrompt }), expected.text);
      t.same([...(await chat.encode(c.messages, { addGenerationPrompt }))], expected.ids);
      const bare = expected.text.replace(/^<\|im_start\|>system\n.*?<\|im_end\|>\n/s, "");
      if (c.messages[0].role !== "system")
        t.equal(chat.render(c.messages, { addGenerationPrompt, system: null }), bare);
    }
    const row = await chat.supervise(c.messages);
    const turns = c.messages.filter((m: Message) => m.role === "assistant").length;
    t.equal(row.ids.filter((id, i) => id === 2 && row.supervised[i] === 1).length, turns);
  }
});
