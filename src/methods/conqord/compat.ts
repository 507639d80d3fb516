/** Where CONQORD's published code does otherwise than it should, or than its paper says, and what is done here. */
import type { Compat, CompatRow } from "../published.js";

type ConqordId = `A9-${number}`;

/** Rows of the published code that are asked for. */
export type ConqordCompat = Compat<ConqordId>;

/** `commands`: on which `--compat` brings the published behaviour back. */
export const conqordRows: readonly CompatRow<ConqordId>[] = [
  {
    id: "A9-1",
    published:
      "saving fuses the adapter into the live weights and switches it off; the first save comes before the first step",
    here: "saving changes nothing of what is trained",
    commands: ["sft", "reward-model", "ppo"],
  },
  {
    id: "A9-2",
    published: "the script rolls out one sample at a time, for which the order-preserving term is always 0",
    here: "a batch of one is refused while alpha is above 0",
    commands: ["ppo"],
  },
  {
    id: "A9-3",
    published: "checkpoints are named by micro-step, and the one that is evaluated is from before the first update",
    here: "checkpoints are named by optimiser step",
    commands: [],
  },
  {
    id: "A9-4",
    published: "prompts are padded on the right, so that the first word of an answer is predicted from a PAD token",
    here: "nothing is padded",
    commands: [],
  },
  {
    id: "A9-5",
    published: "the reward model also reads the confidence, and turns that the model went on to invent",
    here: "both are cut from the text, which is then tokenized again",
    commands: ["ppo"],
  },
  {
    id: "A9-6",
    published:
      "a confidence that cannot be read is 1.0 in training and 0.0 in evaluation, where 1 and .85 cannot be; any number is taken. A judge's first number is its rating, and 0 where it gives none",
    here: "one reader: a number from 0 to 1, those beyond taken as the nearer of them and counted; what happens without one is chosen. A judge's one number within its scale",
    commands: ["ppo", "rate", "metrics", "retrieval"],
  },
  {
    id: "A9-7",
    published: "ECE leaves confidences of 0 (so all that could not be read) out of every bin",
    here: "the first bin holds 0",
    commands: ["metrics"],
  },
  {
    id: "A9-8",
    published: "rewards are clipped at 5 after alpha times the term is added, so that an alpha of 5 or 10 saturates",
    here: "the same, and the clip is a setting",
    commands: [],
  },
  {
    id: "A9-9",
    published: "rollouts are greedy: the same weights always roll out the same",
    here: "rollouts are sampled, at a temperature that is a setting",
    commands: ["ppo"],
  },
  {
    id: "A9-10",
    published: "the KL penalty is 0.1 and alpha 0.5, where the paper has 0.005 and 0.4",
    here: "both are settings, and the presets script and paper have either's",
    commands: [],
  },
  {
    id: "A9-11",
    published: "adapters learn at 5e-4, whatever --learning_rate says",
    here: "an adapter learns at the rate of all else, unless it is given one of its own",
    commands: ["sft", "reward-model", "ppo"],
  },
  {
    id: "A9-12",
    published: "what one stage writes the next cannot load: no config.json, and folders of other names",
    here: "each training leaves a policy's folder and, of the actor, a whole model; the next begins with either",
    commands: [],
  },
  {
    id: "A9-13",
    published: "the data paths of the scripts are of no class of data, and other lines of them cannot run",
    here: "a set's kind can be said where its path does not say it",
    commands: [],
  },
  {
    id: "A9-14",
    published:
      "the evaluation scripts cannot be imported, and look for other suffixes than were written; dialogues have no reference",
    here: "infer, rate and metrics make every path from the same flags",
    commands: [],
  },
  {
    id: "A9-15",
    published:
      "answers by chain of thought are cut where the explanation begins, so that the judge sees none; the template of equality takes the answer for the reference",
    here: "the judge sees the answer after the explanation; each in its place",
    commands: ["rate"],
  },
  {
    id: "A9-16",
    published: "fp16 everywhere; a curve is logged under two names; a batch of short answers alone ends the training",
    here: "bf16 or float32, each curve by its own name",
    commands: [],
  },
  {
    id: "A9-17",
    published: "only an old version of its libraries runs it",
    here: "one engine",
    commands: [],
  },
  {
    id: "A9-18",
    published: "a paid judge is needed for every number",
    here: "string match, a model here or a server judges",
    commands: [],
  },
];
