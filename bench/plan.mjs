// What credence plan says beside what the run then takes: engine bytes (exact), process memory (within 10 %), time
// (within 25 %). On a machine where nothing else runs:
//   node bench/plan.mjs [--recipe elical/quickstart] [--set path=value]... [--rounds 3] [--out FILE.json] [any engine option]
import { spawnSync } from "node:child_process";
import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { parseArgs } from "node:util";

const { values } = parseArgs({
  options: {
    recipe: { type: "string", default: "elical/quickstart" },
    set: { type: "string", multiple: true, default: ["questions.limit=120", "samples.count=3"] },
    rounds: { type: "string", default: "3" },
    out: { type: "string" },
    model: { type: "string" },
    threads: { type: "string" },
    dtype: { type: "string" },
    isa: { type: "string" },
    "max-memory": { type: "string" },
  },
});
const program = fileURLToPath(new URL("../dist/cli/bin.js", import.meta.url));
const given = ["model", "threads", "dtype", "isa", "max-memory"].flatMap((name) =>
  values[name] === undefined ? [] : [`--${name}`, values[name]],
);
const settings = [...values.set.flatMap((setting) => ["--set", setting]), ...given];

function credence(...args) {
  const started = performance.now();
  const { status, stdout, stderr } = spawnSync(process.execPath, [program, ...args, "--json"], {
    encoding: "utf8",
    maxBuffer: 1 << 28,
  });
  if (status !== 0) throw new Error(`credence ${args.join(" ")}: ${stderr}`);
  return { ...JSON.parse(stdout), wall: (performance.now() - started) / 1000 };
}

const median = (numbers) => numbers.toSorted((a, b) => a - b)[numbers.length >> 1];
const rounds = [];
for (let round = 0; round < Number(values.rounds); round++) {
  const directory = mkdtempSync(join(tmpdir(), "credence-plan-"));
  try {
    const plan = credence("plan", values.recipe, ...settings);
    const run = credence("run", values.recipe, ...settings, "--run-dir", join(directory, "run"));
    const ran = Object.entries(run.stages);
    const stages = plan.stages.filter(({ name }) => run.stages[name]);
    rounds.push({
      engineExact: stages.every(({ name, engineBytes }) => engineBytes === run.stages[name].engineBytes),
      memory: plan.processBytes / Math.max(...ran.map(([, stage]) => stage.peakBytes)),
      time: plan.seconds / run.wall,
      planSeconds: plan.wall,
      runSeconds: run.wall,
      stages: Object.fromEntries(
        stages.map(({ name, engineBytes, processBytes, seconds }) => [
          name,
          { engineBytes, processBytes, seconds, ran: run.stages[name] },
        ]),
      ),
    });
    const { engineExact, memory, time, planSeconds, runSeconds } = rounds.at(-1);
    console.log(
      `engine ${engineExact ? "exact" : "NOT EXACT"}, process memory ${memory.toFixed(3)} and time ${time.toFixed(3)} of the run's; ` +
        `planned in ${planSeconds.toFixed(1)} s, ran in ${runSeconds.toFixed(1)} s`,
    );
  } finally {
    rmSync(directory, { recursive: true, force: true });
  }
}
const memory = median(rounds.map((round) => round.memory));
const time = median(rounds.map((round) => round.time));
const ok = rounds.every(({ engineExact }) => engineExact) && Math.abs(memory - 1) <= 0.1 && Math.abs(time - 1) <= 0.25;
console.log(
  `medians: process memory ${memory.toFixed(3)}, time ${time.toFixed(3)}: ${ok ? "within" : "OUTSIDE"} the bounds`,
);
if (values.out) writeFileSync(values.out, `${JSON.stringify({ settings, memory, time, ok, rounds }, null, 2)}\n`);
process.exitCode = ok ? 0 : 1;
