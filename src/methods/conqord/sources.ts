/** The sets that CONQORD's published code knows by their paths (DeepSpeed-Chat's, and its own), and what it makes of a record. */
import { CredenceError } from "../../errors.js";
import { dialoguePrefix } from "./wire.js";

/** A record as three texts, whole: the prompt, and the prompt with each answer where the set has one. */
export interface RecordTexts {
  prompt: string;
  chosen: string | null;
  rejected: string | null;
}

/** A record as it lies in its set, and its place for messages. */
type Fields = Record<string, unknown>;

export interface Source {
  /** What stands in its path. */
  name: string;
  /** Name in files of rows. */
  clean: string;
  /** The split that is evaluated; null: a tenth of the training split is held out by the seed. */
  evaluated: "test" | "validation" | "dev" | "eval" | null;
  texts(record: Fields, place: string): RecordTexts;
}

const bad = (message: string): CredenceError => new CredenceError("BAD_INPUT", message);

/** A text at a path of fields, e.g. "question.full_text" or "answers.0". */
function textAt(record: Fields, path: string, place: string): string {
  let value: unknown = record;
  for (const part of path.split(".")) value = (value as Fields | null | undefined)?.[part];
  if (typeof value !== "string" || value === "") throw bad(`${place}: "${path}" is no text`);
  return value;
}

const dialogue = (question: string, chosen: string | null, rejected: string | null): RecordTexts => {
  const prompt = ` Human: ${question} Assistant:`;
  const whole = (answer: string | null) => (answer === null ? null : `${prompt} ${answer}`);
  return { prompt, chosen: whole(chosen), rejected: whole(rejected) };
};

/** A set of questions and answers at these paths. */
const asked =
  (question: string, chosen: string, rejected?: string): Source["texts"] =>
  (record, place) =>
    dialogue(
      textAt(record, question, place),
      textAt(record, chosen, place),
      rejected === undefined ? null : textAt(record, rejected, place),
    );

/** Prompt and answers one after the other. */
const joined: Source["texts"] = (record, place) => {
  const prompt = textAt(record, "prompt", place);
  const whole = (name: string) => prompt + textAt(record, name, place);
  return { prompt, chosen: whole("chosen"), rejected: whole("rejected") };
};

/** Whole dialogues behind the few-shot prefix, which is glued on: they must begin with a turn. */
const prefixed =
  (confidences: boolean): Source["texts"] =>
  (record, place) => {
    const prefix = dialoguePrefix({ confidences });
    const whole = (name: string) => {
      const text = textAt(record, name, place);
      if (!text.startsWith("\n\n### Human:"))
        throw bad(
          `${place}: "${name}" does not begin with ${JSON.stringify("\n\n### Human:")}, and the examples end there`,
        );
      return prefix + text;
    };
    return {
      prompt: whole("prompt"),
      chosen: whole("chosen"),
      rejected: record.rejected == null ? null : whole("rejected"),
    };
  };

/** What stands in brackets is a citation. */
const uncited = (text: string): string => text.replace(/ ?[([].*?[)\]]/g, "");

const webGpt: Source["texts"] = (record, place) => {
  const [first, second] = [Number(record.score_0), Number(record.score_1)];
  if (!Number.isFinite(first) || !Number.isFinite(second)) throw bad(`${place}: "score_0" or "score_1" is no number`);
  const answers = ["answer_0", "answer_1"].map((name) => uncited(textAt(record, name, place)));
  const [chosen, rejected] = first >= second ? answers : answers.toReversed();
  return dialogue(textAt(record, "question.full_text", place), chosen!, rejected!);
};

const shp: Source["texts"] = (record, place) => {
  const answers = ["human_ref_A", "human_ref_B"].map((name) => textAt(record, name, place));
  const [chosen, rejected] = Number(record.labels) === 1 ? answers : answers.toReversed();
  return dialogue(textAt(record, "history", place), chosen!, rejected!);
};

const shareGpt: Source["texts"] = (record, place) => {
  const prompt = textAt(record, "prompt", place).replaceAll("USER", "Human").replaceAll("ASSISTANT", "Assistant");
  return { prompt, chosen: `${prompt} ${textAt(record, "label", place)}`, rejected: null };
};

const localJson: Source["texts"] = (record, place) => {
  const prompt = ` ${textAt(record, "prompt", place)}`;
  const whole = (name: string) => (record[name] == null ? null : `${prompt} ${textAt(record, name, place)}`);
  return { prompt, chosen: whole("chosen"), rejected: whole("rejected") };
};

const rewardSets: Source["texts"] = (record, place) => {
  const { prompt, ...answers } = joined(record, place);
  return { prompt: `${prompt}Assistant:`, ...answers };
};

const miracl = asked("query", "positive_passages.0.text", "negative_passages.0.text");
const mkqa = (language: string) => asked(`queries.${language}`, `answers.${language}.0.text`);

function source(name: string, evaluated: Source["evaluated"], texts: Source["texts"], clean?: string): Source {
  return { name, evaluated, texts, clean: clean ?? name.replaceAll(/[/-]/g, "_") };
}

/** In the order in which a path is looked at: the first whose name stands in it is taken. */
export const sources: readonly Source[] = [
  source("Dahoas/rm-static", "test", joined),
  source("Dahoas/full-hh-rlhf", "test", joined),
  source(
    "Anthropic/hh-rlhf/helpful-base_conf",
    "test",
    prefixed(true),
    "Anthropic_hh-rlhf_helpful-base_conf_half_sharp",
  ),
  source("Anthropic/hh-rlhf/helpful-base", "test", prefixed(false), "Anthropic_hh-rlhf_helpful-base"),
  source("Dahoas/synthetic-instruct-gptj-pairwise", null, asked("prompt", "chosen", "rejected")),
  source("yitingxie/rlhf-reward-datasets", "test", rewardSets),
  source("openai/webgpt_comparisons", null, webGpt),
  source("stanfordnlp/SHP", "validation", shp),
  source("pvduy/sharegpt_alpaca_oa_vicuna_format", "test", shareGpt),
  source("wangrui6/Zhihu-KOL", null, asked("INSTRUCTION", "RESPONSE")),
  source("Cohere/miracl-zh-queries-22-12", "dev", miracl),
  source("Hello-SimpleAI/HC3-Chinese", null, asked("question", "human_answers.0")),
  source("mkqa-Chinese", null, mkqa("zh_cn"), "mkqa"),
  source("mkqa-Japanese", null, mkqa("ja"), "mkqa"),
  source("Cohere/miracl-ja-queries-22-12", "dev", miracl),
  source("lmqg/qg_jaquad", "validation", asked("question", "sentence")),
  source("lmqg/qag_jaquad", "validation", asked("questions.0", "paragraph")),
  source("local/jsonfile", "eval", localJson, "jsonfile"),
];

/**
 * What a path names, or `kind` where that is given.
 *
 * @throws CredenceError "USAGE" with the known names
 */
export function sourceOf(path: string, kind?: string): Source {
  const found =
    kind === undefined ? sources.find(({ name }) => path.includes(name)) : sources.find(({ name }) => name === kind);
  if (found) return found;
  const known = sources.map(({ name }) => name).join(", ");
  throw new CredenceError(
    "USAGE",
    kind === undefined
      ? `${path}: nothing in the path says what its records are. Say it, as one of ${known}`
      : `no kind of data is called "${kind}"; there are ${known}`,
  );
}
