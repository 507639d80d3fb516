/** Progress lines, metrics and TensorBoard's event files. */
import { spawnSync } from "node:child_process";
import { readdirSync, readFileSync } from "node:fs";
import protobuf from "protobufjs";
import t from "tap";
import { crc32c, EventsFile } from "../src/tracking/events.js";
import { Metrics } from "../src/tracking/metrics.js";
import { clock, progressLine, progressOn } from "../src/tracking/progress.js";
import { learningRate } from "../src/training/schedule.js";
import { metricsOf } from "./fixtures/runs.js";

t.test("a progress line", async (t) => {
  const state = { done: 312, total: 1235, unit: "questions", work: 36080, workUnit: "tokens", seconds: 22 };
  t.equal(progressLine("sampling", state), "sampling  312/1,235 questions  1,640 tokens/s  1:05 left");
  t.equal(
    progressLine("sampling", { ...state, done: 1235 }),
    "sampling  1,235/1,235 questions  1,640 tokens/s  0:22 in all",
  );
  t.equal(clock(3675), "1:01:15");
});

t.test("a log has plain lines, a terminal one that moves", async (t) => {
  const written: string[] = [];
  const stream = { write: (text: string) => written.push(text) > 0, isTTY: false } as unknown as NodeJS.WriteStream;
  const task = progressOn({ stream, interval: 0 }).task("reading", 3, "files");
  for (let i = 0; i < 3; i++) task.advance(1);
  task.end();
  t.equal(written.length, 3);
  t.ok(written.every((line) => line.startsWith("reading  ") && line.endsWith("\n") && !line.includes("\u001b")));
});

t.test("an events file is what TensorBoard reads", async (t) => {
  t.equal(crc32c(Buffer.from("123456789")), 0xe3069283, "the check value of CRC-32C");
  const folder = t.testdir();
  const events = new EventsFile(folder, 5);
  events.add(5, { loss: 0.25, rate: 3 });
  const bytes = readFileSync(events.path);
  const unmask = (sum: number) => {
    const turned = (sum - 0xa282ead8) >>> 0;
    return ((turned >>> 17) | (turned << 15)) >>> 0;
  };
  const records: Buffer[] = [];
  for (let at = 0; at < bytes.length; ) {
    const length = Number(bytes.readBigUInt64LE(at));
    t.equal(unmask(bytes.readUInt32LE(at + 8)), crc32c(bytes.subarray(at, at + 8)));
    const data = bytes.subarray(at + 12, at + 12 + length);
    t.equal(unmask(bytes.readUInt32LE(at + 12 + length)), crc32c(data));
    records.push(data);
    at += length + 16;
  }
  const { root } = protobuf.parse(`
    syntax = "proto3";
    message Value { string tag = 1; float simple_value = 2; }
    message Summary { repeated Value value = 1; }
    message SessionLog { int32 status = 1; }
    message Event { double wall_time = 1; int64 step = 2; string file_version = 3; Summary summary = 5; SessionLog session_log = 7; }`);
  const Event = root.lookupType("Event");
  const decoded = records.map((record) => Event.toObject(Event.decode(record), { longs: Number }));
  t.match(decoded, [
    { fileVersion: "brain.Event:2" },
    { step: 5, sessionLog: { status: 1 } },
    {
      step: 5,
      summary: {
        value: [
          { tag: "loss", simpleValue: 0.25 },
          { tag: "rate", simpleValue: 3 },
        ],
      },
    },
  ]);
});

const python = (script: string, ...args: string[]) =>
  spawnSync("python3", ["-c", script, ...args], {
    encoding: "utf8",
    env: { ...process.env, TF_CPP_MIN_LOG_LEVEL: "3" },
  });
const tensorboard = python("import tensorboard").status === 0;

t.test(
  "TensorBoard's own reader gives back what was written, a resumed run's steps once",
  { skip: tensorboard ? false : "python3 has no tensorboard to read events with" },
  async (t) => {
    const folder = t.testdir();
    const limits = [0.25, 0.5, 0.75, 1];
    const first = new Metrics(folder);
    for (let step = 1; step <= 4; step++) first.add(step, { loss: 1 / step, kl: -0.5 }, { seconds: step });
    first.addHistogram(2, "confidence", [0, 0.25, 0.3, 0.9, 1.5], limits);
    const second = new Metrics(folder, 0, 3);
    second.add(3, { loss: 7 });
    second.addHistogram(3, "confidence", [0.6], limits);
    const read = python(
      `
import json, sys
from tensorboard.backend.event_processing.event_multiplexer import EventMultiplexer
run = EventMultiplexer(size_guidance={"scalars": 0, "histograms": 0}).AddRunsFromDirectory(sys.argv[1]).Reload()
name = list(run.Runs())[0]
scalars = {tag: [[e.step, e.value] for e in run.Scalars(name, tag)] for tag in run.Runs()[name]["scalars"]}
histograms = [
    [e.step, e.histogram_value.num, list(e.histogram_value.bucket_limit), list(e.histogram_value.bucket), e.histogram_value.min, e.histogram_value.max]
    for e in run.Histograms(name, "confidence")
]
print(json.dumps({"scalars": scalars, "histograms": histograms}))
`,
      folder,
    );
    t.equal(read.status, 0, read.stderr);
    const { scalars, histograms } = JSON.parse(read.stdout);
    t.same(scalars.loss, [
      [1, 1],
      [2, 0.5],
      [3, 7],
    ]);
    t.same(scalars.kl, [
      [1, -0.5],
      [2, -0.5],
    ]);
    t.same(scalars.seconds, [
      [1, 1],
      [2, 2],
    ]);
    t.same(histograms, [
      [2, 5, limits, [2, 1, 0, 2], 0, 1.5],
      [3, 1, limits, [0, 0, 1, 0], 0.6, 0.6],
    ]);
  },
);

t.test("metrics go on from a checkpoint's offset", async (t) => {
  const folder = t.testdir();
  const first = new Metrics(folder);
  first.add(1, { loss: 1 }, { seconds: 0.5 });
  const offset = first.sync();
  first.add(2, { loss: 0.5 });
  const second = new Metrics(folder, offset, 2);
  second.add(2, { loss: 0.25 });
  t.same(metricsOf(folder), [
    { step: 1, loss: 1, measured: { seconds: 0.5 } },
    { step: 2, loss: 0.25, measured: {} },
  ]);
  t.equal(readdirSync(folder).filter((name) => name.startsWith("events.")).length, 2);
});

t.test("schedules", async (t) => {
  const linear = { kind: "linear" as const, peak: 1, steps: 10, warmup: 0.2 };
  t.same(
    [0, 1, 2, 6, 10].map((step) => learningRate(linear, step)),
    [0.5, 1, 1, 0.5, 0],
  );
  const cosine = { ...linear, kind: "cosine" as const };
  t.ok(Math.abs(learningRate(cosine, 6) - 0.5) < 1e-12);
  t.equal(learningRate({ ...linear, kind: "constant", warmup: 0 }, 9), 1);
});
