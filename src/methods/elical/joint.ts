/**
 * The joint probe: one linear read-out of everything a pass leaves when it answers.
 *
 * Elicit: ridge logistic fits to what the samples of all training questions tell (how far they agree with the answer, and
 * with each other), each on the means of the answer's states at all depths, and on the prompt's last states. Each is a
 * *direction*: one number a question, the agreement it predicts as a logit.
 * Calibrate: one logistic fit to the labels, on the directions, on statistics of the answer's token log-probabilities, and
 * on the answer's states at one depth, for what agreement does not tell.
 *
 * All columns are standardised over the training questions, states also divided by the root of their number, so that a
 * question's states have a squared length of 1 however wide the model is and however many depths are read. Then a ridge of
 * 1 / (2 n) on the mean loss of n rows is a Gaussian prior, and a column's factor its standard deviation: how far that kind
 * of column is thought to move the logit. Such strengths mean the same for 30 labels and 300, and no label is spent on
 * choosing them.
 */
import { CredenceError } from "../../errors.js";
import type { FitLogistic } from "../../evaluation/calibrators.js";
import { sigmoid } from "../../model/calibrator.js";

export type JointFamily = "answer" | "question" | "statistics";

/** One kind of numbers of every question. */
export interface JointPart {
  family: JointFamily;
  /** Of states; 0 for statistics. */
  depth: number;
  width: number;
  /** [questions, width], row-major. */
  data: Float32Array | Float64Array;
}

/** Standardised columns of every question. */
interface Columns {
  width: number;
  /** [questions, width], row-major. */
  data: Float64Array;
  /** column = (raw - mean) * scale */
  mean: Float64Array;
  scale: Float64Array;
}

/** What the samples of every question tell, without a label. */
export interface ElicitTarget {
  /** [questions], in [0, 1]. */
  values: ArrayLike<number>;
  /** Of the logit, by each of its directions, under calibration's prior. */
  deviation: number;
}

/** What elicitation makes of a target and a family's states. */
interface Direction {
  family: "answer" | "question";
  deviation: number;
  /** The agreement that is predicted, as a logit, standardised. */
  column: Columns;
  /** [width of the family + 1], of that logit on the family's columns, offset last. */
  weights: Float64Array;
}

export interface ElicitedJoint {
  parts: readonly JointPart[];
  columns: Record<JointFamily, Columns>;
  /** The answer's states at the depth that calibration reads. */
  states: Columns;
  depth: number;
  directions: Direction[];
}

/** Prior deviations of the logit by each kind of column; a kind that is left out has 0. */
interface Deviations {
  /** Whether there are directions, with their targets' deviations. */
  directions: boolean;
  /** Each statistic's. */
  statistic: number;
  /** That of the answer's states together. */
  states: number;
}

const elicitDeviation = 3.5;
const calibrateDeviations: Deviations = { directions: true, statistic: 0.3, states: 1.2 };
const calibrationOnlyDeviations: Deviations = { directions: false, statistic: 0.3, states: elicitDeviation };
const elicitationOnlyDeviations: Deviations = { directions: true, statistic: 0, states: 0 };

/** The parts side by side, each number standardised over the training rows and multiplied by `length`. */
function standardise(parts: readonly JointPart[], train: readonly number[], length: number): Columns {
  const width = parts.reduce((sum, part) => sum + part.width, 0);
  const questions = parts.length ? parts[0]!.data.length / parts[0]!.width : 0;
  const [data, mean, scale] = [new Float64Array(questions * width), new Float64Array(width), new Float64Array(width)];
  let at = 0;
  for (const { width: own, data: raw } of parts) {
    for (let j = 0; j < own; j++) {
      let mu = 0;
      for (const row of train) mu += raw[row * own + j]! / train.length;
      let variance = 0;
      for (const row of train) variance += (raw[row * own + j]! - mu) ** 2 / train.length;
      mean[at + j] = mu;
      scale[at + j] = length / (Math.sqrt(variance) + 1e-6);
      for (let i = 0; i < questions; i++) data[i * width + at + j] = (raw[i * own + j]! - mu) * scale[at + j]!;
    }
    at += own;
  }
  return { width, data, mean, scale };
}

/** weights . row + offset of every question. */
function logits({ data, width }: Columns, weights: Float64Array): Float64Array {
  return Float64Array.from({ length: data.length / width }, (_, row) => {
    let sum = weights[width]!;
    for (let j = 0; j < width; j++) sum += data[row * width + j]! * weights[j]!;
    return sum;
  });
}

/** The rows named of several kinds of columns side by side, each multiplied by its prior's deviation. */
function design(kinds: readonly { columns: Columns; deviation: number }[], rows: readonly number[]) {
  const width = kinds.reduce((sum, { columns }) => sum + columns.width, 0);
  const features = new Float64Array(rows.length * width);
  rows.forEach((row, i) => {
    let at = i * width;
    for (const { columns, deviation } of kinds) {
      const from = row * columns.width;
      for (let j = 0; j < columns.width; j++) features[at++] = columns.data[from + j]! * deviation;
    }
  });
  return { features, rows: rows.length, width };
}

const pick = (values: ArrayLike<number>, rows: readonly number[]) => Float64Array.from(rows, (row) => values[row]!);

/** The ridge under which a column's factor is the deviation of its prior. */
const unitPrior = (rows: number): number => 1 / (2 * rows);

/**
 * Learns the targets from the training rows.
 *
 * @param parts states of both families at any depths, and the answer's statistics
 * @param options.depth where calibration reads the answer's states
 * @throws CredenceError "BAD_INPUT" where a family is missing, or there is nothing to learn from
 */
export async function elicitJoint(
  parts: readonly JointPart[],
  {
    targets,
    train,
    depth,
    fit,
  }: { targets: readonly ElicitTarget[]; train: readonly number[]; depth: number; fit: FitLogistic },
): Promise<ElicitedJoint> {
  const of = (family: JointFamily, at?: number) => {
    const own = parts.filter((part) => part.family === family && (at === undefined || part.depth === at));
    if (own.length === 0 || train.length < 2) {
      throw new CredenceError(
        "BAD_INPUT",
        `joint probe: ${own.length} parts of ${family} and ${train.length} training questions; expected one part of each family and two questions at least`,
      );
    }
    const width = own.reduce((sum, part) => sum + part.width, 0);
    return standardise(own, train, family === "statistics" ? 1 : 1 / Math.sqrt(width));
  };
  const columns = { answer: of("answer"), question: of("question"), statistics: of("statistics") };
  const directions: Direction[] = [];
  for (const { values, deviation } of targets) {
    for (const family of ["answer", "question"] as const) {
      const states = columns[family];
      const problem = design([{ columns: states, deviation: elicitDeviation }], train);
      const fitted = await fit({ ...problem, targets: pick(values, train), penalty: unitPrior(train.length) });
      const weights = fitted.map((weight, j) => (j < states.width ? weight * elicitDeviation : weight));
      const logit: JointPart = { family, depth: 0, width: 1, data: logits(states, weights) };
      directions.push({ family, deviation, column: standardise([logit], train, 1), weights });
    }
  }
  return { parts, columns, states: of("answer", depth), depth, directions };
}

/** A linear read-out of raw numbers: the logit is the bias and each part's weights . numbers + bias, summed. */
export interface JointHead {
  parts: { family: JointFamily; depth: number; weights: Float64Array; bias: number }[];
  bias: number;
}

export interface JointResult {
  /** [test rows] */
  probabilities: Float64Array;
  head: JointHead;
}

export interface JointCalibrated {
  /** Elicited, then calibrated: EliCal. */
  elical: JointResult;
  /** The same labels without elicitation. */
  calibrationOnly: JointResult;
  /** The directions alone, weighed by the same labels. */
  elicitationOnly: JointResult;
}

/** Calibrates an elicited joint probe on labelled rows, beside its two twins on the same labels. */
export async function calibrateJoint(
  elicited: ElicitedJoint,
  {
    correct,
    labels,
    test,
    fit,
  }: { correct: ArrayLike<number>; labels: readonly number[]; test: readonly number[]; fit: FitLogistic },
): Promise<JointCalibrated> {
  if (labels.length < 2)
    throw new CredenceError("BAD_INPUT", `joint probe: ${labels.length} labels; expected at least 2`);
  const { columns, states: ownStates, directions } = elicited;
  const learn = async (deviations: Deviations): Promise<JointResult> => {
    const kinds = [
      { columns: columns.statistics, deviation: deviations.statistic },
      { columns: ownStates, deviation: deviations.states },
      ...directions.map(({ column, deviation }) => ({
        columns: column,
        deviation: deviations.directions ? deviation : 0,
      })),
    ];
    const used = kinds.filter(({ deviation }) => deviation > 0);
    const targets = pick(correct, labels);
    const fitted = await fit({ ...design(used, labels), targets, penalty: unitPrior(labels.length) });
    // Weights on the columns as they are, zeros for kinds that were left out.
    let at = 0;
    const weights = kinds.map(({ columns: { width }, deviation }) => {
      const own = new Float64Array(width);
      if (deviation > 0) for (let j = 0; j < width; j++) own[j] = fitted[at++]! * deviation;
      return own;
    });
    const [statistics, states, ...byDirection] = weights;
    const head = fold(elicited, { statistics: statistics!, states: states!, byDirection, offset: fitted[at]! });
    return { probabilities: read(elicited, head, test), head };
  };
  return {
    elical: await learn(calibrateDeviations),
    calibrationOnly: await learn(calibrationOnlyDeviations),
    elicitationOnly: await learn(elicitationOnlyDeviations),
  };
}

/** The read-out of raw numbers that weights on columns stand for: a direction is spread over the states it is made of. */
function fold(
  { parts, columns, states: ownStates, depth: ownDepth, directions }: ElicitedJoint,
  {
    statistics,
    states,
    byDirection,
    offset,
  }: { statistics: Float64Array; states: Float64Array; byDirection: Float64Array[]; offset: number },
): JointHead {
  let bias = offset;
  const onColumns: Record<JointFamily, Float64Array> = {
    answer: new Float64Array(columns.answer.width),
    question: new Float64Array(columns.question.width),
    statistics,
  };
  for (const [d, { family, column, weights }] of directions.entries()) {
    const slope = byDirection[d]![0]! * column.scale[0]!;
    bias += slope * (weights.at(-1)! - column.mean[0]!);
    const own = onColumns[family];
    for (let j = 0; j < own.length; j++) own[j]! += slope * weights[j]!;
  }
  const at: Record<JointFamily, number> = { answer: 0, question: 0, statistics: 0 };
  const raw = parts.map(({ family, depth, width }) => {
    const { mean, scale } = columns[family];
    const weights = new Float64Array(width);
    // Each part takes off its own mean, so that no large numbers are left to cancel when heads are summed.
    let own = 0;
    for (let j = 0; j < width; j++, at[family]++) {
      weights[j] = onColumns[family][at[family]]! * scale[at[family]]!;
      if (family === "answer" && depth === ownDepth) weights[j]! += states[j]! * ownStates.scale[j]!;
      own -= weights[j]! * mean[at[family]]!;
    }
    return { family, depth, weights, bias: own };
  });
  return { parts: raw, bias };
}

/** What a head says of the rows named. */
function read({ parts }: ElicitedJoint, head: JointHead, rows: readonly number[]): Float64Array {
  return Float64Array.from(rows, (row) => {
    let sum = head.bias;
    for (const [p, { width, data }] of parts.entries()) {
      const { weights, bias } = head.parts[p]!;
      sum += bias;
      for (let j = 0; j < width; j++) sum += data[row * width + j]! * weights[j]!;
    }
    return sigmoid(sum);
  });
}
