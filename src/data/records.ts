/**
 * The records that files hold, one JSON object a line: questions, samples, labels, predictions, chats, pairs. Each kind
 * says what it expects in words a person can act on; fields it does not know are carried through.
 */
import { z } from "zod";

/** A schema whose failure reads "expected <what>". */
const expecting = <T extends z.ZodType>(what: string, make: (error: () => string) => T): T => make(() => what);

const text = (what = "a string") => expecting(what, (error) => z.string({ error }));
const filled = (what: string) => expecting(what, (error) => z.string({ error }).regex(/\S/, { error }));
const oneOf = (what: string) => expecting(what, (error) => z.union([z.literal(0), z.literal(1)], { error }));
const share = (what = "a number from 0 to 1") =>
  expecting(what, (error) => z.number({ error }).min(0, { error }).max(1, { error }));
const listOf = <T extends z.ZodType>(what: string, item: T) => expecting(what, (error) => z.array(item, { error }));

const id = expecting("a string or a whole number", (error) => z.union([z.string(), z.int()], { error })).transform(
  String,
);

/** One turn of a conversation. */
export const messageSchema = expecting('a message, e.g. {"role": "user", "content": "Hello"}', (error) =>
  z.looseObject(
    {
      role: filled('a string, e.g. "user"'),
      content: text(),
      weight: expecting("a number from 0", (e) => z.number({ error: e }).min(0, { error: e })).optional(),
    },
    { error },
  ),
);

const messagesWhat = 'a list of messages, e.g. [{"role": "user", "content": "Hello"}]';
const messages = expecting(messagesWhat, (error) => z.array(messageSchema, { error }).min(1, { error }));

/** What a model wrote, with the log-probability (nats) of each token. */
export const completionSchema = expecting("an object with text, tokens, logprobs and finish", (error) =>
  z.looseObject(
    {
      text: text(),
      tokens: listOf(
        "a list of token ids",
        expecting("a token id", (e) => z.int({ error: e }).min(0, { error: e })),
      ),
      logprobs: listOf(
        "a list of numbers",
        expecting("a number", (e) => z.number({ error: e })),
      ),
      finish: expecting('"stop" or "length"', (e) => z.enum(["stop", "length"], { error: e })),
    },
    { error },
  ),
);

const answerWhat = 'a list of strings, e.g. ["Rhone", "Rhône"]';
const asked = {
  id: id.optional(),
  question: filled("a string").optional(),
  messages: messages.optional(),
  group: expecting("a string or a number", (error) => z.union([z.string(), z.number()], { error }))
    .transform(String)
    .optional(),
};
const answers = expecting(answerWhat, (error) => z.array(filled("a string"), { error }).min(1, { error }));

/** Either `question` or `messages` says what is asked. */
const says = <T extends z.ZodType>(schema: T) =>
  schema.refine(
    (record) => {
      const { question, messages } = record as { question?: unknown; messages?: unknown };
      return question !== undefined || messages !== undefined;
    },
    { path: ["question"], error: 'a string (or "messages", a list of messages)' },
  );

const sampleFields = {
  ...asked,
  answer: answers.optional(),
  prompt: text().optional(),
  given: completionSchema,
  responses: listOf("a list of what the model wrote", completionSchema),
};
const labelFields = {
  given_correct: oneOf("0 or 1").optional(),
  correct: listOf("a list of 0 and 1", oneOf("0 or 1")).optional(),
  agrees: listOf("a list of numbers from 0 to 1", share()).optional(),
  target: share().optional(),
};

/** Either `prompt` or `messages` says what is answered. */
const prompted = [
  ({ prompt, messages }: { prompt?: unknown; messages?: unknown }) => prompt !== undefined || messages !== undefined,
  { path: ["prompt"], error: 'a string (or "messages", a list of messages)' },
] satisfies Parameters<z.ZodObject["refine"]>;

/** A question that nothing is known about: for asking and scoring. */
export const promptSchema = says(z.looseObject({ ...asked, answer: answers.optional() }));
/** A question with every wording of its answer that counts as right. */
export const questionSchema = says(z.looseObject({ ...asked, answer: answers }));
/** A question with the model's greedy answer and what it said when sampled. */
export const sampleSchema = says(z.looseObject(sampleFields));
/** The same with what is right about them, and how far the samples agree with the greedy answer. */
export const labelSchema = says(z.looseObject({ ...sampleFields, ...labelFields }));
/** A confidence, with whatever else is known about its question. */
export const predictionSchema = z.looseObject({
  ...asked,
  answer: answers.optional(),
  prompt: text().optional(),
  given: completionSchema.optional(),
  responses: sampleFields.responses.optional(),
  ...labelFields,
  confidence: share(),
});
/** A conversation to learn from. */
export const chatSchema = z.looseObject({ id: id.optional(), messages, group: asked.group });
/** Two answers to one prompt, the first preferred. */
export const pairSchema = z
  .looseObject({
    id: id.optional(),
    prompt: text().optional(),
    messages: messages.optional(),
    chosen: text(),
    rejected: text(),
    margin: expecting("a number", (error) => z.number({ error })).optional(),
    group: asked.group,
  })
  .refine(...prompted);
/** An answer to a prompt, for a reward model to score. */
export const answerSchema = z
  .looseObject({
    id: id.optional(),
    prompt: text().optional(),
    messages: messages.optional(),
    completion: text(),
    group: asked.group,
  })
  .refine(...prompted);
/** An answer with what its score should say: a probability, or any number. */
export const ratingSchema = z
  .looseObject({ ...answerSchema.shape, target: expecting("a number", (error) => z.number({ error })) })
  .refine(...prompted);

/** What a reward model scores: an answer, or a pair of them. */
export const scoredSchema = z
  .looseObject({
    ...answerSchema.shape,
    completion: text().optional(),
    chosen: text().optional(),
    rejected: text().optional(),
  })
  .refine(...prompted)
  .refine(
    ({ completion, chosen, rejected }) => completion !== undefined || (chosen !== undefined && rejected !== undefined),
    { path: ["completion"], error: 'a string (or "chosen" and "rejected")' },
  );

export type PromptRecord = z.infer<typeof promptSchema>;
export type Question = z.infer<typeof questionSchema>;
export type Completion = z.infer<typeof completionSchema>;
export type Sample = z.infer<typeof sampleSchema>;
export type Label = z.infer<typeof labelSchema>;
export type PredictionRecord = z.infer<typeof predictionSchema>;
export type ChatRecord = z.infer<typeof chatSchema>;
export type Pair = z.infer<typeof pairSchema>;
export type AnswerRecord = z.infer<typeof answerSchema>;
export type Rating = z.infer<typeof ratingSchema>;

/** Fields that are numbers, and fields that are lists of strings: a table's cells are only text. */
export const numberFields = new Set(["confidence", "target", "given_correct", "weight", "margin"]);
export const listFields = new Set(["answer"]);

/** What is wrong with a record, e.g. `"answer" is a string; expected a list of strings, e.g. ["Rhone", "Rhône"]`. */
export function explainIssue(record: unknown, issue: z.core.$ZodIssue): string {
  if (issue.path.length === 0)
    return `${describe(record)} where a record is expected, e.g. {"question": "...", "answer": ["..."]}`;
  const field = issue.path
    .map((part, i) => (typeof part === "number" ? `[${part}]` : i === 0 ? String(part) : `.${String(part)}`))
    .join("");
  let value: unknown = record;
  for (const part of issue.path) value = (value as Record<PropertyKey, unknown> | undefined)?.[part];
  const found = value === undefined ? "is missing" : `is ${describe(value, issue.code !== "invalid_type")}`;
  return `"${field}" ${found}; expected ${issue.message}`;
}

/** A value in words: its type, or where the type is right and the value is not, the value. */
function describe(value: unknown, exactly = false): string {
  if (value === null) return "null";
  if (Array.isArray(value))
    return value.length === 0 ? "an empty list" : exactly ? `a list of ${value.length}` : "a list";
  if (typeof value === "string") {
    if (value.trim() === "") return "an empty string";
    return exactly && value.length <= 40 ? JSON.stringify(value) : "a string";
  }
  if (typeof value === "object") return "an object";
  return String(value);
}
