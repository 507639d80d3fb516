/** Where SaySelf's published code does otherwise than it should, or than its paper says, and what is done here. */
import type { Compat, CompatRow } from "../published.js";

type SaySelfId = `B9-${number}`;

/** Rows of the published code that are asked for. */
export type SaySelfCompat = Compat<SaySelfId>;

/** `commands`: on which `--compat` brings the published behaviour back. */
export const saySelfRows: readonly CompatRow<SaySelfId>[] = [
  {
    id: "B9-1",
    published: "generation stops at the first digit of a confidence, so that 10 becomes 1",
    here: "a row stops once its number is complete",
    commands: ["rlhf", "evaluate"],
  },
  {
    id: "B9-2",
    published: "a batch stops where its first row does, and the other rows are cut off and asked to go on",
    here: "each row stops on its own",
    commands: [],
  },
  {
    id: "B9-3",
    published: "a response begins with its prompt and is put behind the prompt again, so that learning reads it twice",
    here: "a response is what was sampled",
    commands: ["rlhf"],
  },
  {
    id: "B9-4",
    published:
      "a response is right where the expected answer stands anywhere in it, the question included: of FEVER and StrategyQA every one is",
    here: "what stands under Answer: is looked at",
    commands: ["rlhf", "evaluate"],
  },
  {
    id: "B9-5",
    published: "training and evaluation on HotpotQA read the same file",
    here: "a question that is held out (--held-out) is refused in training, one that was trained on (--trained-on) in evaluation",
    commands: ["finetune", "rlhf", "evaluate"],
  },
  {
    id: "B9-6",
    published: "the policy is kept near the base model, though it begins as the fine-tuned one",
    here: "the fine-tuned policy, and --reference base has the other; so has the preset script",
    commands: [],
  },
  {
    id: "B9-7",
    published: "a confidence beyond 10 counts as 1, and sure and right pays as much as unsure and wrong",
    here: "it counts as 10, and is told; --reward correctness pays for being right as well",
    commands: ["rlhf"],
  },
  {
    id: "B9-8",
    published:
      "a single number anywhere may be the confidence, and what cannot be read is a 0, which pays where the answer is wrong; so is a judge's reply without a score",
    here: "the number behind Confidence:, after a reflection; a response without one earns the least, and is counted, as is a reply without a score",
    commands: ["rlhf", "evaluate"],
  },
  {
    id: "B9-9",
    published: "the checkpoint is chosen by the distance between confidences from 0 to 10 and rewards from -1 to 1",
    here: "the last one is given; metrics.jsonl has reward, confidence and correctness of each step",
    commands: [],
  },
  {
    id: "B9-10",
    published:
      "--gradient_accumulation_steps only shortens the training, each sample is an optimiser step of its own, the learning rate never falls, no gradient is clipped",
    here: "an optimiser step learns from micro-batch times accumulation; the rate falls as asked; gradients are clipped at 1",
    commands: ["rlhf"],
  },
  {
    id: "B9-11",
    published: "a paid judge's key is needed to begin any training, and a reply that it cannot read ends it",
    here: "strings tell what is right unless a judge is asked for",
    commands: [],
  },
  {
    id: "B9-12",
    published: "fine-tuning, reinforcement and each evaluation write the prompt in another way",
    here: "reinforcement and evaluation ask as fine-tuning taught",
    commands: ["rlhf", "evaluate"],
  },
  {
    id: "B9-13",
    published:
      "--dataset_name does not load a file, arguments of the scripts are skipped, and numbers are one process's",
    here: "--train_file names the file; one process has all rows",
    commands: [],
  },
  {
    id: "B9-14",
    published: "without a seed each process splits the rows in another way; a tokenizer is named that is not imported",
    here: "the seed is 0 unless told otherwise",
    commands: [],
  },
  {
    id: "B9-15",
    published:
      "rationales are paired with clusters by place, though single ones were removed, and how many responses are in a cluster is told as if they were percent",
    here: "paired by the cluster; shares are told",
    commands: ["evaluate-reasons"],
  },
  {
    id: "B9-16",
    published:
      "two to four tokens of a response are learnt from, one response at a time, so that spreads of one token divide by zero",
    here: "advantages are whitened over all tokens of a step that are learnt from",
    commands: [],
  },
  {
    id: "B9-17",
    published: "whether wrong answers with a low confidence are learnt from, and which rows were released, is not told",
    here: "every row of the file is learnt from, and rows that are left out are counted",
    commands: [],
  },
];
