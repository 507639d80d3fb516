/** How far a long job is: one line with rate and time left on a terminal, a plain line now and then in a log. */
import cliProgress from "cli-progress";

/** One job with a known number of things to do. */
export interface Task {
  /** `count` more are done; `work` is what a rate is measured in, e.g. tokens. */
  advance(count: number, work?: number): void;
  end(): void;
}

/** Where a run tells what it does. */
export interface Progress {
  task(label: string, total: number, unit: string, workUnit?: string): Task;
  note(line: string): void;
}

export interface ProgressOptions {
  stream?: NodeJS.WriteStream;
  /** Milliseconds between two lines of one job in a log. */
  interval?: number;
  /** Default: whether the stream is a terminal. */
  terminal?: boolean;
}

/** 72.4 s as 1:12, an hour and more as 1:01:12. */
export function clock(seconds: number): string {
  const whole = Math.max(0, Math.round(seconds));
  const two = (value: number) => String(value).padStart(2, "0");
  const hours = Math.floor(whole / 3600);
  const minutes = Math.floor(whole / 60) % 60;
  return hours ? `${hours}:${two(minutes)}:${two(whole % 60)}` : `${minutes}:${two(whole % 60)}`;
}

const grouped = (value: number): string => Math.round(value).toLocaleString("en-US");

/** The line itself, e.g. "sampling  312/1,235 questions  1,640 tokens/s  1:12 left". */
export function progressLine(
  label: string,
  {
    done,
    total,
    unit,
    work,
    workUnit,
    seconds,
  }: { done: number; total: number; unit: string; work: number; workUnit?: string; seconds: number },
): string {
  const rate = seconds > 0 && (workUnit ? work : done) > 0 ? (workUnit ? work : done) / seconds : 0;
  const parts = [`${label}  ${grouped(done)}/${grouped(total)} ${unit}`];
  if (rate) parts.push(`${rate < 10 ? rate.toFixed(1) : grouped(rate)} ${workUnit ?? unit}/s`);
  if (done >= total) parts.push(`${clock(seconds)} in all`);
  else if (done > 0) parts.push(`${clock(((total - done) * seconds) / done)} left`);
  return parts.join("  ");
}

/** Progress on a stream, standard error unless told. */
export function progressOn(options: ProgressOptions = {}): Progress {
  const stream = options.stream ?? process.stderr;
  const terminal = options.terminal ?? Boolean(stream.isTTY);
  const interval = options.interval ?? 10_000;
  return {
    note: (line) => void stream.write(`${line}\n`),
    task(label, total, unit, workUnit) {
      const started = performance.now();
      const state = { done: 0, total, unit, work: 0, workUnit, seconds: 0 };
      const line = () => {
        state.seconds = (performance.now() - started) / 1000;
        return progressLine(label, state);
      };
      let told = started;
      const bar = terminal
        ? new cliProgress.SingleBar({
            stream,
            format: () => line(),
            fps: 4,
            hideCursor: true,
            clearOnComplete: false,
            linewrap: false,
          })
        : undefined;
      bar?.start(total, 0);
      return {
        advance(count, work = 0) {
          state.done += count;
          state.work += work;
          bar?.update(state.done);
          const now = performance.now();
          if (!bar && now - told >= interval && state.done < total) {
            told = now;
            stream.write(`${line()}\n`);
          }
        },
        end() {
          if (bar) bar.stop();
          else stream.write(`${line()}\n`);
        },
      };
    },
  };
}

/** Says nothing: for a library's caller who did not ask. */
export const silent: Progress = { note() {}, task: () => ({ advance() {}, end() {} }) };
