/** A judge of answers as commands name it: a strategy, and where its model is. */
import type { Judge } from "../../evaluation/judges/judge.js";
import type { CalibrationCompat } from "../../methods/calibration-tuning/compat.js";
import type { GradingItem, Strategy } from "../../methods/calibration-tuning/labels.js";
import type { BaseOptions } from "../../native.js";
import type { ChatServer } from "../../remote/chat-server.js";
import { openResponder, type ServerArguments } from "../judge.js";
import { UsageError } from "../output.js";

/** Longest reply of a judge, in tokens. */
const replyTokens = 16;

export interface Grader extends AsyncDisposable {
  judge: Judge<GradingItem>;
  server?: ChatServer;
}

export interface GraderArguments extends ServerArguments {
  compat: CalibrationCompat;
  engine: BaseOptions;
  signal: AbortSignal;
}

/** Opens the judge of a strategy: of `fuzzy_<model>` a model of this machine, or with --url a server's. */
export async function openGrader(strategy: Strategy, args: GraderArguments): Promise<Grader> {
  const { gradingJudge, substringJudge } = await import("../../methods/calibration-tuning/labels.js");
  if (strategy.kind === "substring") {
    if (args.url !== undefined) throw new UsageError("--url: which model judges? Give --strategy fuzzy_<model>");
    return { judge: substringJudge(), async [Symbol.asyncDispose]() {} };
  }
  const opened = await openResponder({ ...args, model: strategy.model, maxTokens: replyTokens, mayBeEmpty: true });
  return {
    judge: gradingJudge(opened.responder, args.compat),
    ...(opened.server ? { server: opened.server } : {}),
    [Symbol.asyncDispose]: () => opened[Symbol.asyncDispose](),
  };
}
