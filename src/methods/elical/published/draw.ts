/** The published figures, drawn from what `evaluate` wrote: evaluation.json of each model, and each question's confidences. */
import { existsSync, readdirSync } from "node:fs";
import { join } from "node:path";
import { z } from "zod";
import { readRecords } from "../../../data/readers.js";
import { CredenceError } from "../../../errors.js";
import { spearman } from "../../../evaluation/correlation.js";
import { readJson, writeFileAtomic } from "../../../files.js";
import { figure, type Mark, type Panel } from "../../../report/figures.js";
import {
  confidencesPath,
  type Evaluation,
  evaluationPath,
  evaluationSchema,
  type PublishedMetric,
} from "./evaluate.js";
import { sizeName, type TrainedPart, workbookFolder } from "./paths.js";

export interface DrawSettings {
  /** Folder of the workbooks. */
  results: string;
  models: readonly string[];
  trainSet: string;
  /** Questions that were elicited from, for all figures but the one about their number; 0: all. */
  elicitationRows: number;
  /** How many questions "all" stands for, on the axes. */
  allRows: number;
  /** Set whose confidences are drawn; the first that lies in the domain if there is none. */
  set?: string;
  /** Folder of the figures. */
  out: string;
}

/** A figure that was drawn, or why it was not. */
export type DrawnFigure = { name: string; path: string } | { name: string; missing: string };

/** Of one model: everything that was evaluated, of LoRA and of heads alone. */
interface ModelResults {
  model: string;
  lora?: Evaluation;
  mlp?: Evaluation;
}

type Group = Evaluation["averages"][number]["group"];

const eliCal: Mark = { name: "EliCal", colour: "after" };
const calOnly: Mark = { name: "Cal-Only", colour: "before" };
const trainedMarks = [eliCal, calOnly];

const metricWords: Record<PublishedMetric, string> = { auroc: "AUROC", ece: "ECE", align: "Alignment" };
const groupWords: Record<Group, string> = {
  "in-domain": "in-domain",
  "out-of-domain": "out-of-domain",
  "other-format": "MMLU",
};

/** Draws every figure for which there is something to draw, under the names of the published functions. */
export async function drawFigures(settings: DrawSettings): Promise<DrawnFigure[]> {
  const models = settings.models.map((model): ModelResults => {
    const read = (part: TrainedPart) => readEvaluation({ ...settings, model, part }, settings.elicitationRows);
    return { model, lora: read("lora"), mlp: read("mlp") };
  });
  if (!models.some(({ lora, mlp }) => lora || mlp))
    throw new CredenceError(
      "NO_FILE",
      `${join(settings.results, settings.models[0]!, settings.trainSet)}: nothing was evaluated there. Run credence elical evaluate first, or give the same --out`,
    );
  const figures: [name: string, drawn: string | Missing][] = [
    ["long_qa_baselines", baselines(models)],
    ["in_domain_and_mmlu_auroc", inDomainAndMmlu(models, "auroc", settings)],
    ["in_domain_and_mmlu_align", inDomainAndMmlu(models, "align", settings)],
    ["ood_only", grid(models, "lora", ["out-of-domain"], "auroc", settings)],
    ["effects_of_training_size_for_elicitation", elicitationSizes(settings)],
    ["in_and_ood_mlp", grid(models, "mlp", ["in-domain", "out-of-domain"], "auroc", settings)],
    ["in_and_ood_ece", grid(models, "lora", ["in-domain", "out-of-domain"], "ece", settings)],
    ["confidence_values", await confidenceValues(models, settings)],
  ];
  return figures.map(([name, drawn]) => {
    if (typeof drawn !== "string") return { name, ...drawn };
    const path = join(settings.out, `${name}.svg`);
    writeFileAtomic(path, drawn);
    return { name, path };
  });
}

/** What would have to be evaluated first. */
interface Missing {
  missing: string;
}

function readEvaluation(
  { results, model, trainSet, part }: { results: string; model: string; trainSet: string; part: TrainedPart },
  elicitationRows: number,
): Evaluation | undefined {
  const path = evaluationPath(workbookFolder(results, { model, trainSet, elicitationRows, part }), part);
  if (!existsSync(path)) return undefined;
  const parsed = evaluationSchema.safeParse(readJson(path));
  if (!parsed.success) throw new CredenceError("BAD_INPUT", `${path}: is not as evaluate writes it; evaluate it again`);
  return parsed.data;
}

const average = (evaluation: Evaluation | undefined, group: Group) =>
  evaluation?.averages.find((one) => one.group === group);

const untrainedMethods = ["Prob", "N-Prob", "Verbal-0", "Verbal-10", "Consis-Lex", "Cons-Sem"];

/** Methods that train nothing, in and out of the domain, as a mean over the models. */
function baselines(models: readonly ModelResults[]): string | Missing {
  const groups = (["in-domain", "out-of-domain"] as const).filter((group) =>
    models.some(({ lora }) => average(lora, group)),
  );
  const meanAuroc = (group: Group, method: string): number | null => {
    const values = models.flatMap(
      ({ lora }) => average(lora, group)?.methods.find((one) => one.method === method)?.auroc ?? [],
    );
    return values.length ? values.reduce((sum, value) => sum + value, 0) / values.length : null;
  };
  const methods = untrainedMethods.filter((method) => groups.some((group) => meanAuroc(group, method) !== null));
  if (methods.length === 0) return { missing: "no set with both right and wrong answers was evaluated" };
  const marks = groups.map(
    (group): Mark => ({ name: groupWords[group], colour: group === "in-domain" ? "after" : "asking" }),
  );
  const panel: Panel = {
    title: "Methods without training",
    remark: models.length > 1 ? `mean of ${models.length} models` : models[0]!.model,
    x: "",
    y: "AUROC",
    range: { low: 0, high: 100, step: 20 },
    ticks: methods.map((method, at) => ({ at, label: method })),
    bars: groups.map((group) => ({
      mark: groupWords[group],
      values: methods.map((method) => meanAuroc(group, method)),
    })),
  };
  return figure(
    marks,
    [[panel]],
    `AUROC of ${methods.join(", ")}, ${groups.map((group) => groupWords[group]).join(" and ")}`,
  );
}

/** EliCal and Cal-Only against the number of annotated questions. */
function sizePanel(
  title: string,
  evaluation: Evaluation | undefined,
  group: Group,
  metric: PublishedMetric,
  { allRows }: DrawSettings,
): Panel | undefined {
  const methods = average(evaluation, group)?.methods ?? [];
  const lines = trainedMarks.flatMap(({ name }) => {
    const points = methods
      .filter((one) => one.method === name && one[metric] !== null)
      .map((one) => [one.rows || allRows, one[metric]!] as const)
      .sort(([a], [b]) => a - b);
    return points.length ? [{ mark: name, points }] : [];
  });
  if (lines.length === 0) return undefined;
  const sizes = evaluation!.settings.sizes;
  return {
    title,
    x: "annotated questions",
    y: metricWords[metric],
    most: metric === "ece" ? 1 : 100,
    lines,
    ticks: sizes.map((rows) => ({ at: rows || allRows, label: sizeName(rows) })),
    logarithmic: true,
  };
}

function inDomainAndMmlu(
  models: readonly ModelResults[],
  metric: PublishedMetric,
  settings: DrawSettings,
): string | Missing {
  const panels = models.flatMap(
    ({ model, lora }) => sizePanel(`${model}, in-domain`, lora, "in-domain", metric, settings) ?? [],
  );
  const other = models.find(({ lora }) => average(lora, "other-format"));
  const mmlu = other && sizePanel(`${other.model}, MMLU`, other.lora, "other-format", metric, settings);
  if (mmlu) panels.push(mmlu);
  if (panels.length === 0) return { missing: "no set of the training domain was evaluated" };
  return figure(trainedMarks, [panels], `${metricWords[metric]} against annotated questions: ${titles([panels])}`);
}

const titles = (rows: readonly (readonly Panel[])[]): string =>
  rows
    .flat()
    .map(({ title }) => title)
    .join("; ");

/** A row of panels for each kind of set, a column for each model. */
function grid(
  models: readonly ModelResults[],
  part: TrainedPart,
  groups: readonly Group[],
  metric: PublishedMetric,
  settings: DrawSettings,
): string | Missing {
  const rows = groups
    .map((group) =>
      models.flatMap(
        (one) => sizePanel(`${one.model}, ${groupWords[group]}`, one[part], group, metric, settings) ?? [],
      ),
    )
    .filter((row) => row.length > 0);
  if (rows.length === 0)
    return {
      missing: `no ${groups.map((group) => groupWords[group]).join(" or ")} set was evaluated${part === "mlp" ? " with --part mlp" : ""}`,
    };
  const what = part === "mlp" ? " of heads alone" : "";
  return figure(trainedMarks, rows, `${metricWords[metric]}${what} against annotated questions: ${titles(rows)}`);
}

/** Eli-Only against the number of questions that were elicited from, a logarithm fitted to it, and Consis-Sem's level. */
function elicitationSizes(settings: DrawSettings): string | Missing {
  const [model] = settings.models as [string];
  const folder = join(settings.results, model, settings.trainSet);
  const names = existsSync(folder) ? readdirSync(folder) : [];
  const sizes = names.flatMap((name) => {
    const [, thousands] = /^_(\d+(?:\.\d+)?)k_training_samples$/.exec(name) ?? [];
    return thousands ? [Math.round(Number(thousands) * 1000)] : [];
  });
  const points = [...sizes, 0].flatMap((rows) => {
    const of = average(readEvaluation({ ...settings, model, part: "lora" }, rows), "in-domain");
    const auroc = of?.methods.find(({ method }) => method === "Eli-Only")?.auroc;
    const level = of?.methods.find(({ method }) => method === "Cons-Sem")?.auroc;
    return auroc === undefined || auroc === null ? [] : [{ rows: rows || settings.allRows, auroc, level }];
  });
  points.sort((a, b) => a.rows - b.rows);
  if (points.length < 2) return { missing: "fewer than two sizes of elicitation were evaluated (--greedy_samples)" };
  const marks: Mark[] = [{ name: "Eli-Only", colour: "after" }];
  const ends = [points[0]!.rows, points.at(-1)!.rows] as const;
  const lines: NonNullable<Panel["lines"]>[number][] = [
    { mark: "Eli-Only", points: points.map(({ rows, auroc }) => [rows, auroc] as const) },
  ];
  const fit = fitLogarithm(points.map(({ rows, auroc }) => [rows / 1000, auroc] as const));
  if (fit) {
    marks.push({ name: "fit", colour: "twin", dashed: true });
    lines.push({
      mark: "fit",
      smooth: true,
      points: Array.from({ length: 61 }, (_, i) => {
        const rows = ends[0] * (ends[1] / ends[0]) ** (i / 60);
        return [rows, fit.a * Math.log(rows / 1000 + fit.b) + fit.c] as const;
      }),
    });
  }
  const level = points.at(-1)!.level;
  if (level !== undefined && level !== null) {
    marks.push({ name: "Consis-Sem", colour: "before", dashed: true });
    lines.push({ mark: "Consis-Sem", smooth: true, points: ends.map((rows) => [rows, level] as const) });
  }
  const panel: Panel = {
    title: `${model}, in-domain`,
    x: "elicited questions",
    y: "AUROC",
    lines,
    ticks: points.map(({ rows }) => ({ at: rows, label: rows === settings.allRows ? "all" : sizeName(rows) })),
    logarithmic: true,
    ...(fit ? { remark: `${fit.a.toFixed(2)} ln(x + ${fit.b.toFixed(1)}) + ${fit.c.toFixed(2)}, x in thousands` } : {}),
  };
  return figure(marks, [[panel]], `AUROC of Eli-Only against the number of elicited questions, ${model}`);
}

/**
 * Least squares of y = a ln(x + b) + c, b from 0: for each b a straight line in ln(x + b), and b by a search over ratios of
 * the largest x. Fewer than four points leave nothing to be fitted.
 */
export function fitLogarithm(
  points: readonly (readonly [x: number, y: number])[],
): { a: number; b: number; c: number } | undefined {
  if (points.length < 4) return undefined;
  const largest = Math.max(...points.map(([x]) => x));
  let best: { a: number; b: number; c: number; error: number } | undefined;
  for (let step = -1; step <= 400; step++) {
    const b = step < 0 ? 0 : largest * 10 ** (step / 100 - 3);
    const logs = points.map(([x]) => Math.log(x + b));
    const meanLog = logs.reduce((sum, l) => sum + l, 0) / points.length;
    const meanY = points.reduce((sum, [, y]) => sum + y, 0) / points.length;
    const spread = logs.reduce((sum, l) => sum + (l - meanLog) ** 2, 0);
    if (!(spread > 0) || !Number.isFinite(spread)) continue;
    const a = points.reduce((sum, [, y], i) => sum + (logs[i]! - meanLog) * (y - meanY), 0) / spread;
    const c = meanY - a * meanLog;
    const error = points.reduce((sum, [, y], i) => sum + (a * logs[i]! + c - y) ** 2, 0);
    if (!best || error < best.error) best = { a, b, c, error };
  }
  return best && { a: best.a, b: best.b, c: best.c };
}

const questionSchema = z.looseObject({
  sampled_accuracy: z.number().optional(),
  confidences: z.record(z.string(), z.number()),
});

const accuracyMark: Mark = { name: "accuracy", colour: "after" };
const consistencyMark: Mark = { name: "consistency", colour: "before" };

/** Consistency beside accuracy: along the questions in the order of their accuracy, and how often each value stands. */
async function confidenceValues(models: readonly ModelResults[], settings: DrawSettings): Promise<string | Missing> {
  const evaluated = models.find(({ lora }) => lora);
  const sets = evaluated?.lora?.sets ?? [];
  const set = settings.set
    ? sets.find((one) => one.set === settings.set)
    : sets.find((one) => one.group === "in-domain");
  if (!evaluated || !set)
    return {
      missing: settings.set ? `${settings.set} was not evaluated` : "no set of the training domain was evaluated",
    };
  const { model } = evaluated;
  const folder = workbookFolder(settings.results, { ...settings, model, part: "lora", evalSet: set.set });
  const path = confidencesPath(folder, set.questionType, "lora");
  const questions = await readRecords(path, questionSchema);
  const accuracy = questions.flatMap((one) => one.sampled_accuracy ?? []);
  if (accuracy.length < questions.length) return { missing: `the sampled answers of ${set.set} were not judged` };
  const consistency = questions.map((one) => one.confidences["Cons-Sem"]!);
  const rho = spearman(Float64Array.from(accuracy), Float64Array.from(consistency));
  const order = accuracy.map((_, i) => i).sort((a, b) => accuracy[a]! - accuracy[b]!);
  const parts = Math.min(20, order.length);
  const meanOf = (values: readonly number[]) =>
    Array.from({ length: parts }, (_, part) => {
      const rows = order.slice(
        Math.floor((part * order.length) / parts),
        Math.floor(((part + 1) * order.length) / parts),
      );
      return [part + 1, rows.reduce((sum, row) => sum + values[row]!, 0) / rows.length] as const;
    });
  const shares = (values: readonly number[]) => {
    const counts = new Array<number>(10).fill(0);
    for (const value of values) counts[Math.min(9, Math.floor(value * 10 + 1e-9))]! += 100 / values.length;
    return counts;
  };
  const along: Panel = {
    title: `${set.set}, ${model}`,
    x: "questions by accuracy, in parts",
    y: "mean of the part",
    lines: [
      { mark: "accuracy", points: meanOf(accuracy) },
      { mark: "consistency", points: meanOf(consistency) },
    ],
    between: ["accuracy", "consistency"],
    range: { low: 0, high: 1, step: 0.2 },
    ticks: Array.from({ length: parts }, (_, i) => i + 1)
      .filter((at) => at === 1 || at % 5 === 0)
      .map((at) => ({ at, label: String(at) })),
    remark: rho === null ? "Spearman: one side is constant" : `Spearman ρ = ${rho.toFixed(3)}`,
  };
  const histogram: Panel = {
    title: "how often each value stands",
    x: "value, from",
    y: "% of the questions",
    ticks: Array.from({ length: 10 }, (_, i) => ({ at: i, label: (i / 10).toFixed(1) })),
    bars: [
      { mark: "accuracy", values: shares(accuracy) },
      { mark: "consistency", values: shares(consistency) },
    ],
    bare: true,
  };
  return figure(
    [accuracyMark, consistencyMark],
    [[along, histogram]],
    `Accuracy and consistency of ${set.set}, ${model}`,
  );
}
