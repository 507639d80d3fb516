/** Where calibration-tuning's published code does otherwise than it should, or than its paper says, and what is done here. */
import type { Compat, CompatRow } from "../published.js";

type CalibrationId = `A9-${number}`;

/** Rows of the published code that are asked for. */
export type CalibrationCompat = Compat<CalibrationId>;

/** `commands`: on which `--compat` brings the published behaviour back. */
export const calibrationRows: readonly CompatRow<CalibrationId>[] = [
  {
    id: "A9-1",
    published: "its instructions evaluate on eval:mmlu, which there is not",
    here: "sets that there are, are named: mmlu_all, mmlu:<task>",
    commands: [],
  },
  {
    id: "A9-2",
    published: "what a stage wrote has to be copied by hand to where the next looks, and a path with a colon is cut",
    here: "offline:<name> is also the folder that a stage wrote, by its path",
    commands: [],
  },
  {
    id: "A9-3",
    published: "--eval_kshot reaches nothing: MMLU is always put with 5 examples",
    here: "it is the number of examples",
    commands: ["evaluate"],
  },
  {
    id: "A9-4",
    published: "without --mode, and in every mode ve_*, the evaluation crashes",
    here: "--mode is needed; the modes ve_* are not among those that there are",
    commands: [],
  },
  {
    id: "A9-5",
    published:
      "how many target tokens count is one number for a batch, and 0 is all; a long row loses its end, the query with it",
    here: "each row has its own targets; a row that does not fit is an error",
    commands: ["tune"],
  },
  {
    id: "A9-6",
    published: "Llama 3's chat template is around a text with its target and not around one without",
    here: "texts are put as they are",
    commands: [],
  },
  {
    id: "A9-7",
    published: "ECE loses every confidence of 1.0",
    here: "the last bin holds 1; ECE of P(correct), the paper's, stands beside it",
    commands: ["evaluate", "evaluate-logits"],
  },
  {
    id: "A9-8",
    published:
      "the sampling baseline mixes up its verdicts, weighs samples by the likeliest token of each step, and loses a confidence of 1.0",
    here: "each verdict is its sample's, which weighs what its own tokens do",
    commands: [],
  },
  {
    id: "A9-9",
    published: "any failure of generation tries again without end",
    here: "failures are told",
    commands: [],
  },
  {
    id: "A9-10",
    published: "a share of a set is drawn with putting back, from every split",
    here: "without, and from the training rows alone",
    commands: ["label", "embed", "evaluate", "tune", "classify"],
  },
  {
    id: "A9-11",
    published: "the mixture's validation sample is of its first rows, most of which belong to the first sets",
    here: "it is of all of them",
    commands: ["generate", "embed"],
  },
  {
    id: "A9-12",
    published: "answers are sampled where a model's own settings say so",
    here: "answers are the likeliest tokens",
    commands: [],
  },
  {
    id: "A9-13",
    published: "a log folder that exists is refused, so that nothing can be gone on with",
    here: "the same command goes on from where it was; another one is refused",
    commands: ["generate", "label", "embed", "evaluate", "tune", "classify"],
  },
  {
    id: "A9-14",
    published: "fewer than ten steps save at intervals of 0; the weight of the divergence is called a decay",
    here: "saved at each tenth that there is; the flag keeps its name",
    commands: [],
  },
  {
    id: "A9-15",
    published: "a temperature is learnt at the rate of an adapter, which hardly moves it",
    here: "the temperature is solved for (solveTemperature; learnTemperature does as published)",
    commands: [],
  },
  {
    id: "A9-16",
    published: "a trained temperature's file has another name than the one that is looked for",
    here: "it is found by either name",
    commands: [],
  },
  {
    id: "A9-17",
    published: "released adapters load in the published program alone: their type is its own",
    here: "they are read as the LoRA that they are",
    commands: [],
  },
  {
    id: "A9-18",
    published: "adapters' files hold their keys twice, and the base's embeddings",
    here: "the keys of PEFT are read and written; embeddings are compared with the base's and left out",
    commands: [],
  },
  {
    id: "A9-19",
    published: "the released tables after temperature scaling are of other checkpoints",
    here: "a temperature changes no AUROC",
    commands: [],
  },
  {
    id: "A9-20",
    published:
      "the judge is asked with the few-shot examples, a reply with yes anywhere in it is one, and failures try again without end",
    here: "without examples; the reply's first word is the verdict, and a row without one is not judged",
    commands: ["label", "evaluate"],
  },
  {
    id: "A9-21",
    published: "the right letter is the second token of its text, which is none where no token is put before texts",
    here: "it is the letter's token",
    commands: [],
  },
  {
    id: "A9-22",
    published: "the divergence keeps two softmaxes over the whole vocabulary",
    here: "it is computed row by row, at target tokens alone",
    commands: [],
  },
  {
    id: "A9-23",
    published: "the evaluation on unanswerable questions does not start",
    here: "it does",
    commands: [],
  },
  {
    id: "A9-24",
    published: "Llama 3, Qwen 2 and Mixtral are named, without results",
    here: "any model that the engine runs",
    commands: [],
  },
  {
    id: "A9-25",
    published: "the verbal baseline needs answers and labels, else it crashes",
    here: "what is missing is made, as in the other modes",
    commands: [],
  },
  {
    id: "A9-26",
    published: "the losses that are told while training are with dropout",
    here: "evaluation is without",
    commands: ["tune"],
  },
];
