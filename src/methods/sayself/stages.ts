/**
 * What SaySelf makes of reinforcement: responses that reflect and state a confidence from 0 to 10, first learnt from how often the
 * untrained model's own answers agree, then paid by a scoring rule on the confidence alone.
 */
import { join } from "node:path";
import { fromJsonLines, toJsonLines } from "../../data/readers.js";
import { CredenceError } from "../../errors.js";
import type { FitLogistic } from "../../evaluation/calibrators.js";
import type { Prediction } from "../../evaluation/rows.js";
import { type ConfidenceFormat, confidenceFormats, upToOne } from "../../evaluation/stated.js";
import { readJson, readText, writeFileAtomic, writeJsonAtomic } from "../../files.js";
import type { Model } from "../../policy/model.js";
import { type Stage, type StageContext, stageFolder } from "../../training/run.js";
import { probeDepths } from "../elical/answers.js";
import { elicit, elicitedAgreement, labelParts } from "../elical/probe.js";
import { statedPredictions } from "../ppo/evaluate.js";
import { askedMessages, type Form, partsBy, promptsOf, rightAs, say } from "../ppo/speaking.js";
import {
  ablation,
  type Earning,
  fineTuned,
  type Lessons,
  questionsOf,
  type Reinforcement,
  readSaid,
  stageNames as reinforcement,
  saidFile,
} from "../ppo/stages.js";
import type { AskedQuestion } from "../questions.js";
import {
  type ClusteredQuestion,
  clusterQuestions,
  comparedTexts,
  type QuestionRationale,
  sampleQuestions,
  writeRationales,
} from "./building.js";
import { templateSummariser } from "./rationales.js";
import type { SaySelfRecipe } from "./recipe.js";
import { policyVectors } from "./response-vectors.js";
import { responseReward } from "./reward.js";
import { clustersFile, rationaleSections, rationalesFile, sampled } from "./shown.js";
import { stageOneRows, variants } from "./stage-one.js";
import { bareConfidence, partsOf, reinforcedTokens } from "./wire.js";

/** "Vienna lies on the Danube. Answer: Danube. Self-reflection: ... Confidence: 7", with or without the reflection. */
export const saySelfForm: Form = {
  partsOf(completion) {
    const { answer, rationale } = partsOf(completion);
    const stated = formatOf(rationale !== null).find(completion);
    const label = "Answer:";
    const from = completion.lastIndexOf(label, stated?.from) + label.length;
    return {
      answer: answer ?? "",
      end: answer === null ? completion.length : completion.indexOf(answer, from) + answer.length,
      ...(rationale === null ? {} : { rationale }),
      confidence: stated?.value ?? null,
    };
  },
};

/** What an untrained model says that was asked for an answer and a number: all before the number is its answer. */
const directForm: Form = { partsOf: (completion) => partsBy(bareConfidence, completion) };

const stageNames = { sampled, direct: "03-direct", probe: "03-probe" };
const beliefsFile = "beliefs.json";

/** Samples the untrained model, clusters what it says, and writes over what it disagrees with itself. */
async function gather(context: StageContext, recipe: SaySelfRecipe, model: Model): Promise<void> {
  const { threshold, compared, ...sampling } = recipe.sampling;
  const { directory, progress, signal } = context;
  const asked = questionsOf(context, recipe).train.map(({ question, answer }) => ({ question, answers: answer }));
  const pass = (label: string, file: string) => ({ output: join(directory, file), progress, label, signal });
  await using policy = await model.policy();
  const answers = await sampleQuestions(policy, asked, sampling, pass("sampling the untrained model", "samples.jsonl"));
  const vectors = policyVectors(policy, comparedTexts(answers, compared));
  const clustered = await clusterQuestions(
    vectors,
    answers,
    { threshold, compared },
    pass("clustering what it said", clustersFile),
  );
  await writeRationales(templateSummariser(), clustered, pass("writing rationales", rationalesFile));
  const known = clustered.filter(({ right }) => right).length;
  const mean = clustered.reduce((sum, { clusters }) => sum + clusters.length, 0) / Math.max(1, clustered.length);
  progress.note(
    `${sampling.samples} answers to each of ${asked.length} questions, in ${mean.toFixed(1)} clusters a question; of ${known} questions one is right`,
  );
}

/** What fine-tuning learns: an answer, over what the untrained model disagreed with itself, and how much of it agreed. */
function lessons(context: StageContext, recipe: SaySelfRecipe, training: "sft" | typeof ablation): Lessons {
  const rationale = recipe.rationale && training !== ablation;
  const folder = stageFolder(context, stageNames.sampled);
  const lines = <T>(file: string) => fromJsonLines<T>(readText(join(folder, file)));
  const { rows, unanswered, unreadable } = stageOneRows(lines<ClusteredQuestion>(clustersFile), {
    variant: variants[rationale ? "standard" : "no-reflection"],
    rationales: lines<QuestionRationale>(rationalesFile).map((one) => one.rationale),
    unanswered: recipe.unanswered,
  });
  if (rows.length === 0)
    throw new CredenceError(
      "BAD_INPUT",
      `no answer that was sampled can be learnt (${unanswered} questions without a right one, ${unreadable} without any): ask easier questions, or another model`,
    );
  const { prompt } = recipe;
  return {
    rows: rows.map(({ question, response }) => ({
      messages: [...askedMessages(question, prompt), { role: "assistant", content: response }],
    })),
    are: `${rationale ? "with a reflection and" : "with"} the share of answers that agreed; ${unanswered} questions without a right answer are ${recipe.unanswered === "keep" ? "learnt with a confidence of 0" : "left out"}`,
  };
}

/** How sure the untrained model says it is. */
async function askDirectly(context: StageContext, recipe: SaySelfRecipe, model: Model): Promise<void> {
  await using policy = await model.policy();
  const how = {
    prompt: recipe.beside.direct,
    newTokens: recipe.newTokens,
    right: "contained",
    form: directForm,
  } as const;
  const said = await say(policy, questionsOf(context, recipe).test, how, {
    ...context,
    label: "asking the untrained model",
  });
  writeFileAtomic(join(context.directory, saidFile("test")), toJsonLines(said));
}

/** A ridge logistic fit to whether the fine-tuned policy's answers to the validation questions are right, on their mean states. */
async function probe(context: StageContext, recipe: SaySelfRecipe, model: Model, fit: FitLogistic): Promise<void> {
  const { validation, test } = questionsOf(context, recipe);
  const asked = [...validation, ...test];
  const depths = probeDepths(model.info.layers, recipe.beside.depths);
  const width = model.info.hiddenSize;
  const features = depths.map((depth) => ({ depth, width, data: new Float32Array(asked.length * width) }));
  await using policy = await model.policy({ adapter: fineTuned(context) });
  const task = context.progress.task("reading the answers' hidden states", asked.length, "questions", "tokens");
  try {
    const options = { maxNewTokens: recipe.newTokens, temperature: 0, collect: depths, signal: context.signal };
    for await (const one of policy.generate(await promptsOf(model, asked, recipe.prompt), options)) {
      for (const [d, { data }] of features.entries())
        data.set(one.answerHidden!.subarray(d * width, (d + 1) * width), one.prompt * width);
      task.advance(1, one.tokens.length);
    }
  } finally {
    task.end();
  }
  const before = readSaid(stageFolder(context, reinforcement.before), "validation");
  const agreement = Float64Array.from(asked, (_, i) => before[i]?.correct ?? 0);
  const train = validation.map((_, i) => i);
  const inner = labelParts(train, recipe.evaluation.seed);
  const elicited = await elicit({ features, agreement, train, inner, fit, signal: context.signal });
  const beliefs = elicitedAgreement(
    elicited,
    test.map((_, i) => validation.length + i),
  );
  writeJsonAtomic(join(context.directory, beliefsFile), { depth: elicited.depth, beliefs: Array.from(beliefs) });
}

function earning(recipe: SaySelfRecipe, model: Model, training: string): Earning {
  const format = formatOf(recipe.rationale && training !== ablation);
  const { partsOf: read } = saySelfForm;
  const { reward } = responseReward<AskedQuestion>({
    ...recipe.reward,
    format,
    correctness: (_, completion, { answer }) => (rightAs[recipe.right](answer, read(completion).answer) ? 10 : 0),
  });
  return { reward, mask: (rollout) => reinforcedTokens(model.tokenizer, rollout, format) };
}

/** A number beyond 10 states nothing: taken as 10, the nearest, it would pay a policy that goes on and on with digits. */
const formatOf = (rationale: boolean): ConfidenceFormat =>
  upToOne(rationale ? confidenceFormats.sayself : bareConfidence);

/** SaySelf as reinforcement. */
export function byReflection(recipe: SaySelfRecipe, model: Model, fit: FitLogistic): Reinforcement {
  const preparing: Stage[] = [
    { name: stageNames.direct, run: (context) => askDirectly(context, recipe, model) },
    { name: stageNames.probe, run: (context) => probe(context, recipe, model, fit) },
  ];
  return {
    recipe,
    form: saySelfForm,
    gathering: [{ name: stageNames.sampled, run: (context) => gather(context, recipe, model) }],
    lessons: (context, training) => lessons(context, recipe, training),
    preparing,
    earning: async (_, training) => earning(recipe, model, training),
    sections: rationaleSections,
    ...(recipe.ablation ? { ablated: { title: "Without rationales, after PPO, as stated", taught: true } } : {}),
    others(context) {
      const test = readSaid(stageFolder(context, reinforcement.before), "test");
      const { beliefs } = readJson(join(stageFolder(context, stageNames.probe), beliefsFile)) as { beliefs: number[] };
      return {
        direct: statedPredictions(readSaid(stageFolder(context, stageNames.direct), "test"), recipe.evaluation),
        "answer-probe": test.map(({ correct, group }, i): Prediction => ({ confidence: beliefs[i]!, correct, group })),
      };
    },
    aims: (["before", "direct"] as const).flatMap((against) => {
      const than = against === "before" ? "the first stage alone" : "direct prompting";
      return [
        { metric: "brier", says: `the Brier score falls against ${than}`, against },
        { metric: "absoluteError", says: `the published absolute error falls against ${than}`, against },
        { metric: "auroc", says: `AUROC rises against ${than}`, against },
      ] as const;
    }),
  };
}
