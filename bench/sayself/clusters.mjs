// How long SaySelf's clusters of responses take, and what memory, as the samples of a question grow: a table.
//   node bench/sayself/clusters.mjs [--questions 1000] [--width 576] [--samples 25,50,100,200] [--repeats 3] [--json]
// Vectors are drawn as responses lie: around a few meanings (their number grows with the root of the samples), or each for itself,
// which is the most work that there can be. Only the clustering is timed; a question's vectors are in memory, as in a run.
import { parseArgs } from "node:util";
import { greedyClusters } from "../../dist/methods/sayself/clusters.js";
import { median, table } from "../common.mjs";

const { values } = parseArgs({
  options: {
    questions: { type: "string", default: "1000" },
    width: { type: "string", default: "576" },
    samples: { type: "string", default: "25,50,100,200" },
    repeats: { type: "string", default: "3" },
    json: { type: "boolean" },
  },
});
const [questions, width, repeats] = [values.questions, values.width, values.repeats].map(Number);

/** Numbers from -1 to 1, the same in every run (xorshift32). */
function numbers(seed) {
  let state = seed;
  return () => {
    state ^= state << 13;
    state ^= state >>> 17;
    state ^= state << 5;
    return (state >>> 0) / 2 ** 31 - 1;
  };
}

function drawn(samples, meanings, seed) {
  const next = numbers(seed);
  const centres = Array.from({ length: meanings }, () => Float32Array.from({ length: width }, next));
  const data = new Float32Array(samples * width);
  for (let row = 0; row < samples; row++) {
    const centre = centres[Math.floor(((next() + 1) / 2) * meanings)];
    for (let i = 0; i < width; i++) data[row * width + i] = centre[i] + 0.2 * next();
  }
  return { data, count: samples, width };
}

function measured(samples, meanings) {
  // A few questions stand for all: their clusters differ, their work does not.
  const own = Array.from({ length: 16 }, (_, i) => drawn(samples, meanings, 1 + i));
  let clusters = 0;
  const seconds = [];
  const before = process.memoryUsage().heapUsed;
  let most = 0;
  for (let repeat = 0; repeat < repeats; repeat++) {
    clusters = 0;
    const from = performance.now();
    for (let question = 0; question < questions; question++) {
      clusters += greedyClusters(own[question % own.length], 0.9).length;
      if (question % 100 === 0) most = Math.max(most, process.memoryUsage().heapUsed - before);
    }
    seconds.push((performance.now() - from) / 1000);
  }
  return {
    samples,
    clusters: clusters / questions,
    seconds: median(seconds),
    milliseconds: (1000 * median(seconds)) / questions,
    heap: most / 2 ** 20,
    vectors: (4 * samples * width) / 2 ** 20,
  };
}

greedyClusters(drawn(100, 10, 1), 0.9); // compiled before anything is timed
const rows = [];
for (const samples of values.samples.split(",").map(Number)) {
  rows.push({ kind: "a few meanings", ...measured(samples, Math.ceil(Math.sqrt(samples))) });
  rows.push({ kind: "each for itself", ...measured(samples, 16 * samples) });
}

if (values.json) console.log(JSON.stringify({ questions, width, rows }));
else
  console.log(
    table(
      [
        "samples",
        "responses",
        "clusters a question",
        "ms a question",
        `s for ${questions}`,
        "vectors, MiB",
        "heap, MiB",
      ],
      rows.map(({ samples, kind, clusters, milliseconds, seconds, vectors, heap }) => [
        samples,
        kind,
        clusters.toFixed(1),
        milliseconds.toFixed(3),
        seconds.toFixed(2),
        vectors.toFixed(2),
        heap.toFixed(1),
      ]),
    ),
  );
