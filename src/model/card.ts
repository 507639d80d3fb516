/** `credence.json`, the card beside an adapter or a head: all that `ask`, `serve` and `policy.answer` need to use it. */
import { join } from "node:path";
import { z } from "zod";
import { CredenceError } from "../errors.js";
import { readJson } from "../files.js";
import { answerStatisticNames } from "./answer-statistics.js";
import { calibratorSchema } from "./calibrator.js";

/** Name of the card's file. */
export const cardName = "credence.json";

/** A prompt: the user turn with `{question}` in it, and what stands in the system turn. */
const promptSchema = z.strictObject({
  user: z.string().refine((text) => text.includes("{question}"), "has no {question} in it"),
  /** "default": what the chat template itself puts there; "none": no system turn at all; else its text. */
  system: z.union([z.literal("default"), z.literal("none"), z.strictObject({ text: z.string() })]).default("default"),
  /** "none": `user` is the whole text that the model reads, its special tokens by their names. */
  template: z.literal("none").optional(),
});

const headSchema = z.strictObject({
  name: z.string(),
  layer: z.int().min(0),
  kind: z.enum(["linear", "mlp"]),
  widths: z.array(z.int().positive()).optional(),
  outputs: z.int().positive().default(1),
  /** Absent: it has one. */
  bias: z.boolean().optional(),
});

const baseSchema = z.strictObject({
  name: z.string(),
  sha256: z.string(),
  storageType: z.string(),
  architecture: z.string(),
  hiddenSize: z.int().positive(),
  layers: z.int().positive(),
});

const placeSchema = z.enum(["answer-mean", "prompt-last"]);

const cardSchema = z.strictObject({
  version: z.literal(1),
  method: z.string(),
  /** How a question is put when it is answered. */
  prompt: promptSchema,
  /** Who answers: the base alone, or the base with the adapter. */
  answers: z.enum(["base", "adapter"]),
  answer: z.strictObject({ newTokens: z.int().positive() }),
  heads: z.array(headSchema),
  confidence: z
    .strictObject({
      head: z.string(),
      /** Where the head reads: the mean over the answer's tokens, or the prompt's last token. */
      at: placeSchema,
      /** The prompt it reads from, where that is not the one that is answered. */
      prompt: promptSchema.optional(),
      /** confidence = sigmoid(slope * logit + offset), then as the calibrator has it. */
      slope: z.number().default(1),
      offset: z.number().default(0),
      calibrator: calibratorSchema.optional(),
      /** Added to the head's logit, from the same pass: other heads' logits, and weighed statistics of the answer. */
      beside: z
        .strictObject({
          heads: z.array(z.strictObject({ head: z.string(), at: placeSchema })).default([]),
          statistics: z.partialRecord(z.enum(answerStatisticNames), z.number()).default({}),
        })
        .optional(),
    })
    .refine(({ at, beside }) => !beside || at === "answer-mean", "beside needs a head that reads answer-mean"),
  base: baseSchema,
});

/**
 * The card of a policy that is asked whether its answer is right: the base answers, and of two tokens behind prompt, answer and
 * query the second's share is the confidence. An answer is its first line.
 */
const queryCardSchema = z.strictObject({
  ...cardSchema.omit({ confidence: true, prompt: true, heads: true }).shape,
  /** The whole text that is answered, without turns; the token that texts begin with is put before it. */
  prompt: promptSchema.refine(({ template }) => template === "none", 'needs "template": "none"'),
  heads: z.array(headSchema).default([]),
  confidence: z.strictObject({
    /** What follows the prompt, a space and the answer. */
    query: z.string(),
    /** Token ids: what says that the answer is wrong, and what says that it is right. */
    choices: z.tuple([z.int().min(0), z.int().min(0)]),
    /** confidence = sigmoid(slope * (log p(right) - log p(wrong)) + offset), then as the calibrator has it: slope is 1 / temperature. */
    slope: z.number().default(1),
    offset: z.number().default(0),
    calibrator: calibratorSchema.optional(),
  }),
});

/** How a prompt and an answer to it become one text that a model reads. */
const answerTextSchema = z.strictObject({
  /** "chat": a conversation that ends in the answer; "plain": the prompt, the answer and `end`, one after the other. */
  kind: z.enum(["chat", "plain"]),
  /** What follows a plain answer, special tokens by their names. Default: the token that ends the model's texts, if any. */
  end: z.string().optional(),
});

/** A reward model's: a head's value at an answer's last token is the answer's reward. */
const rewardCardSchema = z.strictObject({
  version: z.literal(1),
  method: z.string(),
  heads: z.array(headSchema),
  reward: z.strictObject({ head: z.string(), text: answerTextSchema }),
  base: baseSchema,
});

export type Prompt = z.infer<typeof promptSchema>;
export type Card = z.infer<typeof cardSchema>;
export type RewardCard = z.infer<typeof rewardCardSchema>;
export type QueryCard = z.infer<typeof queryCardSchema>;
export type AnyCard = Card | QueryCard | RewardCard;
export type AnswerText = z.infer<typeof answerTextSchema>;
export { promptSchema };

/** One line for each thing wrong: where it stands, what is wrong with it. */
export function zodProblems(error: z.ZodError): string {
  return error.issues
    .map((issue) => {
      const path = issue.path.join(".");
      if (issue.code === "unrecognized_keys") {
        const names = issue.keys.map((key) => [path, key].filter(Boolean).join("."));
        return `${names.join(", ")}: there is no such option`;
      }
      return `${path || "the whole"}: ${issue.message}`;
    })
    .join("; ");
}

const holds = (value: unknown, key: string): value is Record<string, unknown> =>
  typeof value === "object" && value !== null && key in value;

/** Which kind of card a file is to be. */
function schemaOf(found: unknown) {
  if (holds(found, "reward")) return rewardCardSchema;
  return holds(found, "confidence") && holds(found.confidence, "query") ? queryCardSchema : cardSchema;
}

/** Whether a card says that its policy is asked whether an answer is right. */
export const isQueryCard = (card: AnyCard): card is QueryCard => "confidence" in card && "query" in card.confidence;

/** The card in a folder. */
export function readCard(directory: string): AnyCard {
  const path = join(directory, cardName);
  const found = readJson(path);
  const result = schemaOf(found).safeParse(found);
  if (!result.success) throw new CredenceError("BAD_INPUT", `${path}: ${zodProblems(result.error)}`);
  return result.data;
}

/** Refuses a card that was made for another model, naming both. */
export function checkCardFits(card: AnyCard, base: Card["base"], where: string): void {
  if (card.base.sha256 === base.sha256) return;
  const shape = card.base.hiddenSize !== base.hiddenSize || card.base.layers !== base.layers;
  throw new CredenceError(
    "WRONG_BASE",
    shape
      ? `${where} was made for a model ${card.base.hiddenSize} wide with ${card.base.layers} layers; ${base.name} is ${base.hiddenSize} wide ` +
          `with ${base.layers}. Use the base its credence.json names: ${card.base.name}`
      : `${where} was made for ${card.base.name} (${card.base.storageType}, SHA-256 ${card.base.sha256.slice(0, 12)}...); ${base.name} ` +
          `(${base.storageType}, ${base.sha256.slice(0, 12)}...) has other weights. Use the base its credence.json names`,
  );
}
