/** Where EliCal's published code does otherwise than it should, or than its paper says, and what is done here. */
import type { Compat, CompatRow } from "../../published.js";

type ElicalId = `B9-${number}`;

/** Rows of the published code that `--compat` can bring back. */
export type ElicalCompat = Compat<ElicalId>;

export const elicalRows: readonly CompatRow<ElicalId>[] = [
  {
    id: "B9-1",
    published: "eval.py imports a module that does not exist, so scoring cannot start",
    here: "scoring is `evaluate`",
    commands: [],
  },
  {
    id: "B9-2",
    published: "the script that generates answers is not in the repository",
    here: "`infer` generates them with the engine of this library",
    commands: [],
  },
  {
    id: "B9-3",
    published: "the judge's path is made from the answering model's name: that model judges itself",
    here: "the judge is the model or server that is named",
    commands: ["infer"],
  },
  {
    id: "B9-4",
    published: "correctness is judged in a folder of the authors, whatever the results' folder is",
    here: "one folder of results",
    commands: [],
  },
  {
    id: "B9-5",
    published: "models_new/ and eval_new/ are written, models/ and eval/ are read",
    here: "models/ and eval/ are written and read",
    commands: ["sweep"],
  },
  {
    id: "B9-6",
    published:
      "launch scripts use variables that were never set, or are of an earlier step, and lack a slash in a path",
    here: "one command builds every path",
    commands: [],
  },
  {
    id: "B9-7",
    published: "sizes 3k and 5k are trained, 4k and 6k scored",
    here: "`sweep` trains and scores one list of sizes",
    commands: [],
  },
  {
    id: "B9-8",
    published: "figures are drawn from folders of the authors",
    here: "`draw` reads what `evaluate` wrote",
    commands: [],
  },
  {
    id: "B9-9",
    published:
      "the best epoch and when to stop are chosen on the test sets; Alignment's threshold on the first 20 % of the rows, which stay in file order",
    here: "on training questions that are held out; on a random 20 % of the rows, drawn by the seed",
    commands: ["train", "train-mlp", "evaluate", "sweep"],
  },
  {
    id: "B9-10",
    published: "ECE loses every confidence of 1.0, and is rounded to two decimals before it is averaged",
    here: "the last bin is closed, and only what is shown is rounded",
    commands: ["evaluate", "sweep"],
  },
  {
    id: "B9-11",
    published:
      "rows are padded on the right and read at index -1, so that a score depends on the rows that share its batch",
    here: "the last real token is read",
    commands: ["train", "train-mlp", "predict", "predict-mlp", "sweep"],
  },
  {
    id: "B9-12",
    published:
      "the end-of-sequence token follows the prompt in training, and not in scoring; a tokenizer that adds a first token adds it to texts that begin with it",
    here: "it follows the prompt in neither, and a text begins with one first token",
    commands: ["train", "train-mlp", "predict", "predict-mlp", "sweep"],
  },
  {
    id: "B9-13",
    published: "the head computes in bf16, which makes ties",
    here: "the head computes in float32",
    commands: ["predict", "predict-mlp", "sweep"],
  },
  {
    id: "B9-14",
    published: "a single process writes no predictions, and fewer than five rows are an error",
    here: "predictions are written by any number of processes for any number of rows",
    commands: [],
  },
  {
    id: "B9-15",
    published:
      'a verdict is "certain" unless it holds one of sixteen phrases: an empty or unrelated reply counts as certain, and any "no" as uncertain',
    here: "a verdict is the one of the two words that a reply gives; a reply with neither or both is an error, or counted as uncertain and told",
    commands: ["convert", "infer", "train", "train-mlp", "evaluate", "sweep"],
  },
  {
    id: "B9-16",
    published:
      "an answer without words matches everything, and the letter A is removed as an article: each question of MMLU whose answer is A counts as right",
    here: "such an answer matches nothing; the letter is the first one that the reply gives",
    commands: ["train", "train-mlp", "predict", "predict-mlp", "evaluate", "sweep"],
  },
  {
    id: "B9-17",
    published: "a loss summed over processes is computed and not used; the file of losses grows from run to run",
    here: "the loss of all rows, and one line an epoch of this run",
    commands: [],
  },
  {
    id: "B9-18",
    published: "--per_device_eval_batch_size, --train_acc_path and --test_acc_path of the training script do nothing",
    here: "they are refused",
    commands: [],
  },
  {
    id: "B9-19",
    published: "rows are sampled at random for LoRA and taken from the top for the head alone",
    here: "sampled at random for both",
    commands: ["train-mlp", "sweep"],
  },
  {
    id: "B9-20",
    published: "calibration on 1k rows takes at most 100 updates",
    here: "the same, as published: --num_train_epochs changes it",
    commands: [],
  },
  {
    id: "B9-21",
    published: "agreement is with one greedy answer, of which a model may be consistently and wrongly sure",
    here: "the same: it is what calibration repairs",
    commands: [],
  },
  {
    id: "B9-22",
    published: "ParaRel's filter takes quadratic time; the order of the aliases of an answer changes from run to run",
    here: "linear time, and the order of the source",
    commands: [],
  },
  {
    id: "B9-23",
    published: "stage 2 loads the base twice, in float32",
    here: "one base in memory",
    commands: [],
  },
  {
    id: "B9-24",
    published: "no licence: the adapters are bound by those of their base models",
    here: "nothing of the published code or adapters is part of this package",
    commands: [],
  },
];
