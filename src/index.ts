/** What a program that embeds Credence sees. Importing this has no side effect. */

export { type BatchLayout, padRight } from "./data/packing.js";
export { openRecords, type RecordFile, readRecords, recordsOf } from "./data/readers.js";
export {
  type AnswerRecord,
  answerSchema,
  type ChatRecord,
  chatSchema,
  type Pair,
  pairSchema,
  type Rating,
  ratingSchema,
} from "./data/records.js";
export { type NpyRows, openNpy, type Vectors } from "./data/vectors.js";
export { CredenceError } from "./errors.js";
export {
  type BootstrapOptions,
  type EvaluateOptions,
  evaluate,
  type MetricValue,
  pairedBootstrap,
  type Runs,
} from "./evaluation/bootstrap.js";
export { type CalibratorKind, fitCalibrator } from "./evaluation/calibrators.js";
export { type Judge, type JudgeItem, modelJudge, stringJudge, type Verdict } from "./evaluation/judges/judge.js";
export { localResponder, type Responder, serverResponder } from "./evaluation/judges/responder.js";
export { agreeF1, hasAnswer } from "./evaluation/match.js";
export { type MetricName, measure } from "./evaluation/metrics.js";
export type { Prediction } from "./evaluation/rows.js";
export {
  type ConfidenceFormat,
  type ConfidenceFormatName,
  ConfidenceReader,
  confidenceFormats,
  labelledConfidence,
  type ReadingOptions,
  type Stated,
  withoutConfidence,
} from "./evaluation/stated.js";
export { openTuned, type Tuned, writeReleased } from "./methods/calibration-tuning/adapters.js";
export { type ClassifierTuning, classifierTune } from "./methods/calibration-tuning/classify.js";
export { type ClosedSetLoss, crossEntropy, tokenizedBrier } from "./methods/calibration-tuning/divergences.js";
export type { JudgedRow } from "./methods/calibration-tuning/lessons.js";
export { probabilities, type QueryOptions, type QueryRow, queryLogprobs } from "./methods/calibration-tuning/query.js";
export {
  type LabelledLogits,
  learnTemperature,
  solveTemperature,
  solveTokenTemperature,
  type Temperature,
} from "./methods/calibration-tuning/temperature.js";
export { type CalibrationTuned, type CalibrationTuning, calibrationTune } from "./methods/calibration-tuning/tune.js";
export {
  type AnswerPair,
  formatRows,
  type PhaseData,
  phaseTexts,
  preApproachPairs,
} from "./methods/conqord/data.js";
export { type ConqordMetrics, conqordMetrics, type RatedRow } from "./methods/conqord/metrics.js";
export { type RetrievalPoint, type RetrievalRow, retrievalSweep } from "./methods/conqord/retrieval.js";
export type { ConqordSummary } from "./methods/conqord/run.js";
export type { RecordTexts } from "./methods/conqord/sources.js";
export { writeIndices } from "./methods/conqord/splits.js";
export { confidenceLine, labelledRow, scoredText } from "./methods/conqord/wire.js";
export type { JudgeNote, JudgingOptions, PlannedJudging } from "./methods/elical/judging.js";
export type { ElicalPlan, PlanOptions, StagePlan } from "./methods/elical/preflight.js";
export type { ElicalSummary } from "./methods/elical/summary.js";
export type { PpoSummary } from "./methods/ppo/summary.js";
export {
  checkRecipe,
  loadRecipe,
  planRecipe,
  presets,
  type Recipe,
  type RecipeSummary,
  runRecipe,
  type Setting,
} from "./methods/recipes.js";
export type { RecipeRunOptions } from "./methods/run.js";
export {
  type Asking,
  largestGroup,
  publishedResponses,
  type ResponseSettings,
} from "./methods/sayself/asking.js";
export {
  type BuildQuestion,
  type ClusteredQuestion,
  type ClusterSettings,
  clusterQuestions,
  clusterSettings,
  type QuestionRationale,
  type ResponseCluster,
  readBuildQuestions,
  type SampledQuestion,
  type SampleSettings,
  sampleQuestions,
  sampleSettings,
  writeRationales,
} from "./methods/sayself/building.js";
export { greedyClusters } from "./methods/sayself/clusters.js";
export {
  type EvaluatedRow,
  type EvaluationResult,
  type EvaluationSettings,
  evaluateSaySelf,
} from "./methods/sayself/evaluate.js";
export { type Criterion, type ResponseToJudge, scoringJudge, stringScore } from "./methods/sayself/judging.js";
export { type SaySelfMetrics, type ScoredRow, saySelfMetrics } from "./methods/sayself/metrics.js";
export { refuseOverlap, sharedQuestions } from "./methods/sayself/overlap.js";
export { readSaySelfQuestions, type SaySelfQuestion } from "./methods/sayself/questions.js";
export {
  type Disagreement,
  modelSummariser,
  type Summariser,
  templateSummariser,
} from "./methods/sayself/rationales.js";
export { evaluateReasons, generateReasons, type ReasonRecord } from "./methods/sayself/reasons.js";
export {
  fileVectors,
  policyVectors,
  type ResponseVectors,
  serverVectors,
} from "./methods/sayself/response-vectors.js";
export { type ResponseRewardOptions, responseReward, type SaySelfRule } from "./methods/sayself/reward.js";
export type { SaySelfSummary } from "./methods/sayself/run.js";
export { type StageOneRow, stageOneRows, type VariantName, variants } from "./methods/sayself/stage-one.js";
export { type SaySelfFinetune, trainSaySelfFinetune } from "./methods/sayself/train-finetune.js";
export { type SaySelfRlhf, type SaySelfRlhfResult, trainSaySelfRlhf } from "./methods/sayself/train-rlhf.js";
export { applyCalibrator, type Calibrator } from "./model/calibrator.js";
export type { AnswerText, AnyCard, Card, Prompt, QueryCard, RewardCard } from "./model/card.js";
export { type ResolvedModel, resolveModel } from "./model/resolve.js";
export type {
  AdapterSpec,
  AdvantageInput,
  AdvantageResult,
  BaseInfo,
  BaseOptions,
  DivergenceKind,
  EngineMemory,
  ForwardResult,
  GenerateStats,
  HeadSpec,
  KlEstimator,
  OptimizerSpec,
  ParameterGroup,
  PassSize,
  PolicyTensors,
  ReadSpan,
  TensorData,
  TrainSpec,
  Upstream,
  Whitening,
} from "./native.js";
export { Model, type ModelOptions, type PolicyOptions } from "./policy/model.js";
export {
  type AdapterKeys,
  type ConvertOptions,
  convertModel,
  exportAdapter,
  type FileOptions,
  type LogitCheck,
  type ModelFileOptions,
  mergeAdapter,
  readTensors,
  type WrittenFiles,
} from "./policy/model-files.js";
export {
  type Answer,
  type AnswerOptions,
  type GenerateSettings,
  Policy,
  type PromptInput,
  type RetrievalOptions,
  type Sample,
} from "./policy/policy.js";
export {
  type FeatureBatch,
  type GroupOptions,
  type OpenPass,
  type PassReadouts,
  type PpoLoss,
  type PpoStatistics,
  type Rate,
  type StepResult,
  Trainer,
  type TrainerOptions,
  type TrainerState,
  type TrainingBatch,
} from "./policy/trainer.js";
export { AnswerStore, type StoredReply } from "./remote/answer-store.js";
export {
  ChatServer,
  type CompletionSettings,
  type ServerOptions,
  type ServerUsage,
} from "./remote/chat-server.js";
export { type EmbeddingsOptions, EmbeddingsServer } from "./remote/embeddings-server.js";
export { type GrpoOptions, grpoAdvantages, rlooAdvantages } from "./rewards/advantages.js";
export {
  type Alarm,
  type AlarmKind,
  type AlarmThresholds,
  AlarmWatch,
  alarmsOf,
  type StepStatistics,
} from "./rewards/alarms.js";
export {
  amongStated,
  type BatchTerm,
  type BatchTermState,
  type ConqordOptions,
  conqordTerm,
  inBlocks,
  type OrderOptions,
  orderPreserving,
  orderPreservingGathered,
  type PpoCOptions,
  ppoCTerm,
} from "./rewards/batch-terms.js";
export { type BatchItem, batchedReward } from "./rewards/batched.js";
export {
  type DecisionOptions,
  type DecisionReward,
  decisionReward,
  extractedAnswers,
  factualityReward,
  forecastOf,
} from "./rewards/decision.js";
export { type KlController, type KlSettings, klController } from "./rewards/kl-control.js";
export {
  type LimitedReward,
  type LimitedScore,
  limitedReward,
  memoryCache,
  type RewardCache,
  type RewardFailure,
  type RewardLimits,
  type RewardTally,
} from "./rewards/limited.js";
export { type NextTry, nextTry, type RetrySettings, stopWhen } from "./rewards/retries.js";
export {
  type ConfidenceRewardOptions,
  confidenceReward,
  type NamedReward,
  type Reward,
  type RewardContext,
  type RewardFunction,
  type Scored,
  type Settled,
  weightedSum,
} from "./rewards/reward.js";
export { type MomentsState, RunningMoments } from "./rewards/running-moments.js";
export {
  brierRule,
  correctnessPaying,
  linearRule,
  logRule,
  type Properness,
  quadraticRule,
  rewardingDoubtRule,
  rlcrRule,
  type ScoringRule,
  type ScoringRuleName,
  saySelfReward,
  scoringRules,
  sphericalRule,
} from "./rewards/scoring-rules.js";
export { type RewardSample, type RewardStreamOptions, rewardStream } from "./rewards/stream.js";
export type { Message, RenderOptions, SupervisedRow } from "./text/chat.js";
export { spansOfTokens, tokensBetween } from "./text/spans.js";
export { Tokenizer } from "./text/tokenizer.js";
export { type Progress, progressOn, silent, type Task } from "./tracking/progress.js";
export {
  type ConfidenceRow,
  type ConfidenceTraining,
  type FeatureRow,
  type HeadTraining,
  trainConfidenceHead,
  trainHeadOnFeatures,
  type Validation,
} from "./training/confidence-head.js";
export { type DpoResult, type DpoTraining, trainDpo } from "./training/dpo.js";
export { type PpoPrompt, type PpoTraining, trainPpo } from "./training/ppo/ppo.js";
export type { Rollout } from "./training/ppo/rollouts.js";
export { type PpoOptions, type PpoSettings, ppoSchema } from "./training/ppo/settings.js";
export { ppoAlarms } from "./training/ppo/watch.js";
export {
  type RewardFiles,
  type RewardLayout,
  readRewardModel,
  writeRewardModel,
} from "./training/reward-model/layouts.js";
export type { PairRecord, PairSurvey } from "./training/reward-model/pairs.js";
export type { Prompted } from "./training/reward-model/rows.js";
export { type AnswerToScore, type RewardModel, rewardModel } from "./training/reward-model/scoring.js";
export {
  type RatingRecord,
  type RatingSurvey,
  type RewardModelResult,
  type RewardModelTraining,
  trainRewardModel,
} from "./training/reward-model/train.js";
export type { PairwiseLoss, RatingLoss } from "./training/reward-model/units.js";
export { learningRate, type Schedule } from "./training/schedule.js";
export { type SftResult, type SftTraining, trainSft } from "./training/sft.js";
export { version } from "./version.js";
