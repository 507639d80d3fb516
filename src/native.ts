/**
 * The addon's typed surface, and nothing else: token ids and offsets go in, per-token or per-row float32 comes out,
 * handles stand for the rest. Every long call runs on the engine's own thread and returns a promise. A handle keeps what
 * it depends on alive; after `dispose()` work in flight still finishes, and later use throws a CredenceError "DISPOSED".
 */
import { createRequire } from "node:module";
import { fileURLToPath } from "node:url";
import { CredenceError } from "./errors.js";
import { cudaPackage, findCudaPackage, loadAddon } from "./native-loader.js";

export type Dtype = "f32" | "bf16";
/** Instruction set of the CPU table; "auto" takes the best one the machine has. */
export type Isa = "auto" | "scalar" | "avx2" | "avx512" | "avx512bf16";
export type Projection = "q" | "k" | "v" | "o" | "gate" | "up" | "down";

/** "cuda-emulated" is for tests: the CUDA kernels, executed on the CPU, which a build with tests has. */
export type GoldenDevice = "cpu" | "cuda" | "cuda-emulated";

export interface BaseOptions {
  device?: "auto" | GoldenDevice;
  /** "auto": bf16 where the instruction set has a bf16 dot product, else f32. */
  dtype?: "auto" | Dtype;
  isa?: Isa;
  /** Default: the number of cores. */
  threads?: number;
  /**
   * Bytes of the engine's memory that are kept to: passes are made smaller, fewer sequences decode together, and where
   * that is not enough training computes its blocks again on the way back. What cannot fit is an error that says what would.
   */
  maxMemory?: number;
  /** Counts memory and computes nothing: no weight is read, every read-out is zeros, `memory()` is exact. */
  dry?: boolean;
}

/** Bytes of the engine's allocations as they occupy memory; weights and adapters are part of current. */
export interface EngineMemory {
  current: number;
  /** Largest since the base was opened, or since the peak was restarted. */
  peak: number;
  weights: number;
  adapters: number;
}

/** How the latest batch was cut: tokens of a pass at most, and whether its blocks were computed again in backward. */
export interface PassSize {
  tokens: number;
  recompute: boolean;
}

export interface BaseInfo {
  architecture: string;
  device: string;
  isa: string;
  dtype: Dtype;
  threads: number;
  /** Why device "auto" is not cuda, where NVIDIA's driver is here or CUDA's kernels were named or installed. */
  notCuda?: string;
  /**
   * Absent while a token scores the same bits in any batch; else which product does not keep them. Then what a token scored while
   * it was sampled is not what scoring gives, and what learns from samples has to score them again.
   */
  rowsDiffer?: string;
  layers: number;
  hiddenSize: number;
  vocabularySize: number;
  contextLength: number;
  parameters: number;
  /** Every file the weights came from, in name order. */
  files: string[];
  /** Storage type of the matrices in the file, e.g. "Q4_1", "BF16". */
  storageType: string;
}

export interface AdapterSpec {
  rank: number;
  alpha: number;
  rslora?: boolean;
  /** Share of the inputs of A that a training pass drops, each projection with masks of its own; default 0. */
  dropout?: number;
  targets: Projection[];
  /** Default: every layer. */
  layers?: number[];
  /** A is Kaiming-uniform from this seed, B is zero. */
  seed: number;
}

/**
 * What of its base's numbers a policy has as its own, to be trained beside an adapter or without one. Masters are float32, whatever
 * the matrices are computed in; the base stays as it is for whoever shares it.
 */
export interface TrainSpec {
  /** The table of tokens; where the head is tied it is the head too. */
  embeddings?: boolean;
  /** The output matrix of a head that is not tied. */
  lmHead?: boolean;
  /** The weights of all norms. */
  norms?: boolean;
  /** The matrices of all seven projections in every block, and the biases of those that have one. */
  projections?: boolean;
}

/** Parameters that may have a learning rate and a weight decay of their own; `heads` are read-outs, `lmHead` is the vocabulary's. */
export const parameterGroups = ["embeddings", "lmHead", "norms", "biases", "projections", "adapter", "heads"] as const;
export type ParameterGroup = (typeof parameterGroups)[number];

export interface HeadSpec {
  name: string;
  /** 0: the embedding; k: after block k; `layers`: after the last block and norm (default). */
  layer?: number;
  kind: "linear" | "mlp";
  /** Hidden widths of an MLP (ReLU between). */
  widths?: number[];
  outputs?: number;
  /** Whether its layers add a bias; default true. */
  bias?: boolean;
  /** PyTorch's Linear initialisation from this seed; absent: zeros. */
  seed?: number;
}

/** Where a head reads: one row, or the mean over rows [from, to) of a sequence. */
export interface ReadSpan {
  sequence: number;
  from: number;
  to: number;
}

/** A flat batch: sequence b is tokens[offsets[b] .. offsets[b+1]), after those of the sequence it has as its prefix. */
export interface NativeBatch {
  tokens: Int32Array;
  offsets: Int32Array;
  /** Which earlier sequence of the batch sequence b goes on from, or -1: a prompt stands once for all its completions. */
  prefixOf?: Int32Array;
  /**
   * [T] 1: a token at its sequence's end that reads the tokens before it and is seen by nobody, itself included, as the row
   * of a PAD token is in a batch padded on the right.
   */
  queryOnly?: Uint8Array;
  /** [T] places for rotary, -1: as counted from the sequence's start. Only a query-only token may stand elsewhere. */
  positions?: Int32Array;
}

export interface GenerateOptions {
  prompts: Int32Array[];
  /** Samples of each prompt; the prompt is evaluated once. */
  samples: number;
  /** The number of each prompt's first sample, which its random numbers follow from; default 0. */
  firstSamples?: number[];
  /** 0: greedy. */
  temperature: number;
  /** Log-probabilities are those of the logits divided by it: with `temperature` the same, what is sampled from. Default 1. */
  scoreTemperature?: number;
  topK?: number;
  topP?: number;
  repetitionPenalty?: number;
  maxNewTokens: number;
  stopTokens: number[];
  /** Needs setVocabulary. */
  stopStrings?: string[];
  seed: number;
  /** false: the base answers, whatever adapter the policy has. */
  adapter?: boolean;
  /** Depths (see HeadSpec.layer) whose hidden states are returned: at the prompt's last token, and the mean over the new tokens. */
  collect?: number[];
  /** Name of heads to read on the mean over the new tokens / at the prompt's last token, without returning hidden states. */
  answerHeads?: string[];
  promptHeads?: string[];
  /** Sequences decoded together at most; default chosen from the model's size. */
  maxBatch?: number;
  /** Decoding may divide a sequence's keys among work items; default false. */
  fastDecode?: boolean;
}

export interface NativeSample {
  prompt: number;
  sample: number;
  /** Without the stop token. */
  tokens: Int32Array;
  /**
   * Natural log-probability of each token, with nothing cut, at scoreTemperature; the stop token's last when it was one.
   * What a forward pass scores, bit for bit, but with fastDecode.
   */
  logprobs: Float32Array;
  finish: "stop" | "length";
  /** The stop token that was chosen; absent where the length ran out or a stop string ended it. */
  stopToken?: number;
  /** [depths.length * hiddenSize] each, when asked for. The mean is over the answer's tokens without the stop token; no token: the row that chose to stop. */
  promptHidden?: Float32Array;
  answerHidden?: Float32Array;
  promptHeads?: Float32Array;
  answerHeads?: Float32Array;
}

export interface GenerateStats {
  promptTokens: number;
  newTokens: number;
  seconds: number;
  /** Sequences decoded together at most: what was asked for, or what fits. */
  maxBatch: number;
}

export interface ForwardResult {
  /** Token-aligned [T]: log-probability of token t given those before it in its sequence; 0 at a sequence's first token. */
  logprobs?: Float32Array;
  /** Row-aligned [T], nats. */
  entropy?: Float32Array;
  /** [spans, outputs] logits for each head named. */
  heads?: Record<string, Float32Array>;
  /** [rows, candidates] log-probabilities over the candidates alone. */
  closedSet?: Float32Array;
  /** Token-aligned [T], nats; 0 outside the mask. */
  divergence?: Float32Array;
  /** Token-aligned [T]: the head at the row before each token in the mask; 0 outside it. */
  values?: Float32Array;
  /** [spans, depths, H] */
  hidden?: Float32Array;
}

/** p is the adapter on, q the adapter off: sum p log(p/q), sum q log(q/p), and the mean of both's distance from (p + q) / 2. */
export type DivergenceKind = "kl" | "reverse-kl" | "jsd";

/** What a forward pass is asked for besides heads and hidden states. */
export interface NativeReadouts {
  logprobs?: boolean;
  entropy?: boolean;
  /** Both are those of the logits divided by it; default 1. */
  temperature?: number;
  /** Read at these rows of the flat batch. */
  closedSet?: { candidates: Int32Array; rows: Int32Array };
  /** Read where the mask [T], token-aligned, is not 0. */
  divergence?: { kind: DivergenceKind; mask: Uint8Array };
  /** [T], token-aligned: log-probabilities, and entropy of the row before, are read where it is not 0; default everywhere. */
  mask?: Uint8Array;
  /** A head of one output, read at the row before each token whose mask [T], token-aligned, is not 0. */
  values?: { head: string; mask: Uint8Array };
}

/** Gradients of the summed loss with respect to each read-out, in its layout. */
export interface Upstream {
  logprobs?: Float32Array;
  entropy?: Float32Array;
  heads?: Record<string, Float32Array>;
  closedSet?: Float32Array;
  divergence?: Float32Array;
  values?: Float32Array;
}

export interface OptimizerSpec {
  beta1: number;
  beta2: number;
  epsilon: number;
  weightDecay: number;
  /** 0: no clipping. */
  maxGradientNorm: number;
  /** Of the adapter's dropout; default 0. */
  seed?: number;
  /**
   * After each step average = averageDecay * average + (1 - averageDecay) * number, over every number that is trained; above 0
   * and below 1. The average begins as what the policy is when its trainer is made. Default: none is kept.
   */
  averageDecay?: number;
}

/** The loss of one optimiser step is divided once, by `count` at update(): pass the step's global count there. */
export type NativeLoss =
  /** weights[T], token-aligned: sum of weight * nll. */
  | { kind: "nll"; weights: Float32Array }
  /** (sigmoid(head) - target)^2 summed over spans. */
  | { kind: "sigmoid-mse"; head: string; spans: ReadSpan[]; targets: Float32Array }
  /** Sum over rows of -weight * log-probability of candidates[label] among the candidates alone. */
  | {
      kind: "closed-set";
      candidates: Int32Array;
      rows: Int32Array;
      labels: Int32Array;
      weights: Float32Array;
    }
  /** weights[T], token-aligned: sum of weight * divergence from the base. */
  | { kind: "divergence"; divergence: DivergenceKind; weights: Float32Array };

/** Of a divergence, from r = log p - log p_ref (Schulman 2020): r, r^2 / 2, e^-r - 1 + r. */
export type KlEstimator = 1 | 2 | 3;

/**
 * The losses of proximal policy optimisation (Schulman et al. 2017, eq. 7 and 9) over tokens that were sampled. Every list is
 * token-aligned [T], and what has weight 0 is not read. With ratio = exp(new - old log-probability), summed over tokens:
 *
 *     w (max(-A ratio, -A clip(ratio, 1 - clipLow, 1 + clipHigh)) + kl.coefficient k - entropy H)
 *     + value.coefficient w' max((v - R)^2, (old + clip(v - old, -clip, clip) - R)^2) / 2
 *
 * H: entropy of the row before the token; v: the head there; k: estimate of the divergence from the reference, from r = new -
 * reference log-probability.
 */
export interface NativePpoLoss {
  kind: "ppo";
  /** Empty: no policy loss. */
  weights: Float32Array;
  oldLogprobs: Float32Array;
  advantages: Float32Array;
  /** Infinity: not clipped on that side. */
  clipLow: number;
  clipHigh: number;
  /** Coefficient; default 0. */
  entropy?: number;
  /** Log-probabilities and entropy are those of the logits divided by it; default 1. */
  temperature?: number;
  kl?: { reference: Float32Array; coefficient: number; estimator: KlEstimator };
  /** clip 0 (default): none, and oldValues is not read. Coefficient: default 1. */
  value?: {
    head: string;
    weights: Float32Array;
    oldValues?: Float32Array;
    returns: Float32Array;
    clip?: number;
    coefficient?: number;
  };
}

/** Sums over tokens, each by its weight w (or w' for values), not divided. */
export interface PpoSums {
  /** What the gradients are of. */
  loss: number;
  weight: number;
  /** The clipped loss, without entropy and divergence. */
  policy: number;
  entropy: number;
  ratio: number;
  /** Not a sum: the largest |ratio - 1|. */
  ratioChange: number;
  /** Weight of the tokens whose gradient clipping takes, and of those whose ratio is outside the range. */
  clipped: number;
  outside: number;
  /** Estimates of the divergence of the old policy from the new one, with r = new - old: -r and r^2 / 2. */
  oldKl1: number;
  oldKl2: number;
  /** k, without its coefficient. */
  referenceKl: number;
  valueWeight: number;
  /** The clipped loss with its 1/2, without the coefficient. */
  value: number;
  /** (v - R)^2. */
  valueError: number;
  valueClipped: number;
}

/** "biased": variance by n; "unbiased": by n - 1 (of fewer than two numbers it is 0). */
export type Whitening = "none" | "biased" | "unbiased";

/**
 * The advantage step (Schulman et al. 2016, eq. 16). Of each completion the tokens whose mask is not 0 count:
 *
 *     reward_t = -kl.coefficient k_t, and at scoreAt + clamp((score - scoreShift) scoreScale, +-scoreClamp)
 *     A_t      = reward_t + gamma V_{t+1} - V_t + gamma lambda A_{t+1}
 *     return_t = A_t + V_t
 *
 * V is 0 where a token does not count; behind the last token it is bootstrap. Numbers outside completions are not read.
 */
export interface AdvantageInput {
  /** [B + 1]: sequence b is tokens [offsets[b], offsets[b + 1]) of every list [T]. */
  offsets: Int32Array;
  /** [B] index in the sequence of the completion's first token; its length where there is none. */
  completionStart: Int32Array;
  /** [T] default: every token of a completion counts. */
  mask?: Uint8Array;
  /** [T]; default 0. */
  values?: Float32Array;
  /** [T] what a token earns beside the score; default 0. */
  tokenRewards?: Float32Array;
  /** [B] */
  scores: Float32Array;
  /** [B] index in the sequence, -1: nowhere; default the last token that counts. */
  scoreAt?: Int32Array;
  /** [B] the value after the last token of a completion that was cut off, 0 of one that ended; default 0. */
  bootstrap?: Float32Array;
  /** Lists [T]. Default: no divergence. clamp (default false): k at least 0. Estimator: default 1. */
  kl?: {
    logprobs: Float32Array;
    reference: Float32Array;
    coefficient: number;
    estimator?: KlEstimator;
    clamp?: boolean;
  };
  /** Defaults 0, 1, and 0 for no clamp. Running normalisation: shift = mean, scale = 1 / deviation. */
  scoreShift?: number;
  scoreScale?: number;
  scoreClamp?: number;
  /** Defaults 1. */
  gamma?: number;
  lambda?: number;
  /** (x - mean) / sqrt(var + whitenEpsilon) over all tokens that count; rewards keep their mean. Defaults "none". */
  whitenRewards?: Whitening;
  whitenAdvantages?: Whitening;
  /** Whitened advantages keep their mean; default false. */
  keepMean?: boolean;
  /** Default 1e-8. */
  whitenEpsilon?: number;
  /**
   * Each completion stands in so many slots, as in a batch padded on the right: those behind it have value and divergence 0, and
   * count in the scan and in the whitenings. Default: completions as they are.
   */
  slots?: number;
}

/** Lists [T], 0 outside completions. */
export interface AdvantageResult {
  /** Whitened where asked for. */
  rewards: Float32Array;
  advantages: Float32Array;
  returns: Float32Array;
  /** The advantages as a loss takes them: whitened as asked for, 0 where a token does not count. */
  whitened: Float32Array;
  /** Of the advantages; squares: sum of squared deviations. */
  moments: { count: number; mean: number; squares: number };
  /** Of the rewards before they are whitened; zeros where they are not. */
  rewardMoments: { count: number; mean: number; squares: number };
}

export interface TensorData {
  name: string;
  shape: number[];
  data: Float32Array;
}

export interface NativeTrainer {
  readonly passSize: PassSize;
  /** Forward and backward of one micro-batch; gradients and losses add up, on the device. */
  accumulate(batch: NativeBatch, loss: NativeLoss | NativePpoLoss): Promise<void>;
  /** What PPO's losses have come to since the last update, for judging a step before it is taken; waits for the device. "NOT_FINITE" as update. */
  ppoSums(): Promise<PpoSums>;
  /** The loss "sigmoid-mse" of a head alone, on hidden states [n, H] that were collected before: no forward pass. */
  accumulateHead(head: string, hidden: Float32Array, targets: Float32Array): Promise<void>;
  /** A forward held open for a loss of the caller's own: then backward(), once or more often; gradients add up. */
  forward(
    batch: NativeBatch,
    readouts: NativeReadouts & { heads?: { name: string; spans: ReadSpan[] }[] },
  ): Promise<ForwardResult>;
  backward(upstream: Upstream): Promise<void>;
  /**
   * Divides gradients and losses by count, clips, takes one AdamW step at this learning rate, clears them. Code "NOT_FINITE" where the
   * loss or the gradient is not finite: nothing was learnt, and what was accumulated is forgotten. `ppo`: zeros without such a loss.
   */
  update(options: {
    learningRate: number;
    count: number;
    /** Of the groups that differ. */
    groups?: Partial<Record<ParameterGroup, { learningRate?: number; weightDecay?: number }>>;
  }): Promise<{ loss: number; gradientNorm: number; ppo: PpoSums }>;
  gradients(): TensorData[];
  /** Forgets what was accumulated since the last update. */
  clearGradients(): void;
  /** Moments, step count and the seed of dropout; without a seed, restore keeps the trainer's own. */
  state(): { step: number; seed: number; tensors: TensorData[] };
  /** The running average, under the names of `NativePolicy.tensors`; undefined where none is kept. */
  average(): PolicyTensors | undefined;
  /** `average`: in the order of `average()`, the adapter's first; without it the trainer's own goes on. */
  restore(state: { step: number; seed?: number; tensors: TensorData[]; average?: TensorData[] }): void;
  dispose(): void;
}

export interface PolicyTensors {
  /** What it owns of its base. */
  weights: TensorData[];
  adapter: TensorData[];
  heads: TensorData[];
}

export interface NativePolicy {
  readonly trainable: number;
  /** Whether it has some of its base's numbers as its own. */
  readonly ownsWeights: boolean;
  /** Hugging Face's names for what it owns of its base, PEFT's for the adapter's tensors, `NAME.weight`, `NAME.bias` (or `NAME.0.weight`, ...) for a head's, a bias where it has one. */
  tensors(): PolicyTensors;
  /** Replaces the tensors named; an unknown name or another shape throws. */
  setTensors(tensors: TensorData[]): void;
  generate(
    options: GenerateOptions,
    onSamples: (samples: NativeSample[]) => void,
    signal?: AbortSignal,
    /**
     * Told of each step's tokens, without stop tokens, before the samples they end: [row, token, row, token, ..], where a row is
     * prompt * samples + place among them. The rows it gives end soon, as stopped; nothing waits for it, so that a row may have
     * some tokens more by then. Not with hidden states or heads.
     */
    onTokens?: (tokens: Int32Array) => Int32Array | undefined,
  ): Promise<GenerateStats>;
  forward(
    batch: NativeBatch,
    options: NativeReadouts & { adapter?: boolean; spans?: ReadSpan[]; heads?: string[]; collect?: number[] },
    signal?: AbortSignal,
  ): Promise<ForwardResult>;
  /** The head's outputs [n, outputs] for rows of hidden states [n, H] that were collected before. */
  readHead(head: string, hidden: Float32Array): Float32Array;
  trainer(optimizer: OptimizerSpec): NativeTrainer;
  dispose(): void;
}

export interface NativeBase {
  readonly info: BaseInfo;
  /** Bytes of each token, for stop strings: pieces[offsets[i] .. offsets[i+1]]. */
  setVocabulary(pieces: Uint8Array, offsets: Int32Array): void;
  /** `weights`: a file of what the policy owns, in the place of `train`. */
  policy(options: {
    adapter?: AdapterSpec | { path: string };
    heads?: HeadSpec[];
    train?: TrainSpec;
    weights?: string;
  }): NativePolicy;
  /** `restartPeak`: after this call the peak begins at what is current. */
  memory(options?: { restartPeak?: boolean }): EngineMemory;
  /** The advantage step of a rollout, on this base's device. */
  advantages(input: AdvantageInput): Promise<AdvantageResult>;
  dispose(): void;
}

export interface FitLogisticOptions {
  /** [rows, width], row-major; standardise first. */
  features: Float64Array;
  rows: number;
  width: number;
  /** [rows] in [0, 1]: soft targets allowed. */
  targets: Float64Array;
  penalty: number;
  /** [width + 1], offset last; default zeros. The ridge pulls the weights (not the offset) towards it. */
  towards?: Float64Array;
  /** Default "auto". A run names the one its model runs on: a fit has other bits on another instruction set. */
  isa?: string;
}

/** How weights are stored in files that are written; "auto": as in the source, F16 where the source's type is not written. */
export type WeightType = "auto" | "F32" | "F16" | "BF16" | "Q8_0" | "Q4_0";

/** A metadata value of a GGUF: numbers are unsigned 32-bit, lists of numbers signed. */
export type GgufField = boolean | number | string | string[] | Int32Array;

export interface WriteModelOptions {
  /** A folder or a GGUF. */
  model: string;
  /** A PEFT folder whose product is added to the weights. */
  adapter?: string;
  /** A file of weights that stand in for the model's of the same names. */
  weights?: string;
  /** Rows of the embedding and the head; new ones are the mean of the old. Default: as they are. */
  vocabulary?: number;
  /** A folder that is there (safetensors and config.json), or a file that is not (gguf). */
  out: string;
  format: "safetensors" | "gguf";
  type: WeightType;
  /** Longest shard of safetensors. */
  shardBytes?: number;
  /** Tokenizer, template and names of a GGUF. */
  metadata?: Record<string, GgufField>;
}

export interface WrittenWeights {
  type: Exclude<WeightType, "auto">;
  files: string[];
  bytes: number;
  /** What is not as asked for, in sentences. */
  notes: string[];
}

export interface LogitDifference {
  largestDifference: number;
  largestLogit: number;
  /** Rows compared, and those in which both find the same token likeliest. */
  rows: number;
  sameChoice: number;
}

export interface Addon {
  /** What failures of the engine are thrown as, from now on. */
  errors(type: new (code: string, message: string) => Error): void;
  openBase(path: string, options: BaseOptions): Promise<NativeBase>;
  /** Ridge logistic regression by Newton's method; returns [width + 1], offset last. */
  fitLogistic(options: FitLogisticOptions): Promise<Float64Array>;
  /** The golden driver over a folder of reference tensors; a JSON document (see native/engine/golden.h). */
  golden(
    directory: string,
    options: { device: GoldenDevice; dtype: Dtype; isa?: Isa; threads?: number; write?: string },
  ): Promise<string>;
  /** Writes a model a block of rows at a time: it is never in memory as a whole. */
  writeModel(options: WriteModelOptions, signal?: AbortSignal): Promise<WrittenWeights>;
  /** Logits of two models over the same tokens; one after the other is in memory. */
  compareModels(
    source: { model: string; adapter?: string; weights?: string },
    written: { model: string; adapter?: string; weights?: string },
    tokens: Int32Array,
    options: BaseOptions,
    signal?: AbortSignal,
  ): Promise<LogitDifference>;
  /** Every tensor of a safetensors file, or of a file of torch.save (.pt, .pth, .bin), which is read without running it. */
  readTensors(path: string): TensorData[];
  /** Where the package `name` has its library of CUDA kernels; without `library` it is not installed, and errors say so. */
  cudaPackage(name: string, library?: string): void;
  machine(): { isas: Isa[]; cpu: string; cores: number; memoryBytes: number; cuda: string };
  /** Measured on this machine in this process: GFLOP/s of the dot product for each dtype, GB/s of reading. */
  /** Of one instruction set, default the best; without a bf16 dot product a bf16 product is made of float32's steps. */
  peaks(threads: number, isa?: string): Promise<{ f32Gflops: number; bf16Gflops: number; readGBs: number }>;
  /** One of the native benchmark workloads; a JSON document. */
  bench(what: string, options: Record<string, unknown>): Promise<string>;
}

let addon: Addon | undefined;

/** The addon, loaded when first needed: importing this module has no side effect. */
export function native(): Addon {
  if (!addon) {
    const require = createRequire(import.meta.url);
    addon = loadAddon<Addon>(require, fileURLToPath(new URL("..", import.meta.url)));
    addon.errors(CredenceError);
    if (cudaPackage) addon.cudaPackage(cudaPackage, findCudaPackage(require));
  }
  return addon;
}
