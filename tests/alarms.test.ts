/** Alarms of reinforcement: what raises each, what does not, and what it says. */
import t from "tap";
import { type AlarmKind, AlarmWatch, alarmsOf, type StepStatistics } from "../src/rewards/alarms.js";

/** A quiet run of so many steps; `change` makes it another. */
const run = (steps: number, change: (step: number) => Partial<StepStatistics> = () => ({})): StepStatistics[] =>
  Array.from({ length: steps }, (_, step) => ({
    step,
    ratio: 1 + 0.01 * Math.sin(step),
    startingRatioError: 0,
    kl: 2 + Math.cos(step),
    clipFraction: 0.1,
    reward: 0.5 + 0.1 * Math.sin(step),
    formatFailures: 0.05,
    entropy: 1.5,
    gradientNorm: 1 + 0.2 * Math.sin(3 * step),
    ...change(step),
  }));

t.test("a quiet run raises none", async (t) => {
  t.same(alarmsOf(run(200)), []);
  t.same(alarmsOf([{ step: 0 }, { step: 1 }]), [], "what is not given is not watched");
});

t.test("each alarm by what raises it, once, at its step", async (t) => {
  const from = (first: number, change: Partial<StepStatistics>) => (step: number) => (step >= first ? change : {});
  const cases: [AlarmKind, (step: number) => Partial<StepStatistics>, number, RegExp][] = [
    ["starting ratio", from(30, { startingRatioError: 0.02 }), 30, /up to 0\.02.*dropout/],
    ["ratio", from(30, { ratio: 12 }), 30, /ratio is 12\b.*learning rate/],
    ["ratio", from(30, { ratio: 0.05 }), 30, /ratio is 0\.05/],
    ["high KL", from(30, { kl: 40 }), 30, /40 nats, above 25.*KL coefficient/],
    ["negative KL", from(30, { kl: -1.5 }), 30, /-1\.5 nats.*temperature 1/],
    ["clip fraction", from(30, { clipFraction: 0.5 }), 30, /50 % of the ratios/],
    ["format failures", from(30, { formatFailures: 0.9 }), 35, /56\.?\d* % of the samples.*cue/],
    ["falling reward", from(30, { reward: -1 }), 31, /below the 0\.\d+ it began with.*sign/],
    ["entropy collapse", from(30, { entropy: 0.01 }), 39, /0\.01 nats, of 1\.5.*entropy bonus/],
    ["gradient spike", from(30, { gradientNorm: 50 }), 30, /norm is 50, of .*Clip it/],
    ["no gradient", from(30, { gradientNorm: 0 }), 40, /more than 10 steps.*mask empty/],
  ];
  for (const [kind, change, step, message] of cases) {
    const alarms = alarmsOf(run(60, change));
    t.equal(alarms.length, 1, `${kind}: ${alarms.map((alarm) => alarm.message).join("; ")}`);
    t.match(alarms[0], { kind, step }, kind);
    t.match(alarms[0]!.message, message);
    t.match(alarms[0]!.message, /^step \d+: .*[^.]$/);
  }
});

t.test("the first number that is not finite, by name", async (t) => {
  const tensor = alarmsOf(run(5, (step) => (step === 3 ? { nonFinite: "layers.7.v.lora_B" } : {})));
  t.match(tensor, [{ step: 3, kind: "not finite", message: /layers\.7\.v\.lora_B holds.*checkpoint before/ }]);
  const statistic = alarmsOf(run(5, (step) => (step >= 3 ? { kl: Number.NaN } : {})));
  t.match(statistic, [{ step: 3, kind: "not finite", message: /kl is NaN/ }]);
  t.equal(statistic.length, 1);
  const infinite = alarmsOf(run(30, (step) => (step === 12 ? { reward: Number.NEGATIVE_INFINITY } : {})));
  t.equal(infinite.length, 1, "it does not stay in the trend");
});

t.test("an alarm comes again where its cause does", async (t) => {
  const alarms = alarmsOf(run(40, (step) => (step === 10 || step === 11 || step === 20 ? { kl: 99 } : {})));
  t.same(
    alarms.map(({ step }) => step),
    [10, 20],
  );
});

t.test("thresholds are options", async (t) => {
  const loud = run(60, () => ({ kl: 40, clipFraction: 0.9 }));
  t.same(alarmsOf(loud, { klMost: 50, clipFraction: Number.POSITIVE_INFINITY }), []);
  t.equal(alarmsOf(run(30), { klMost: 2.5 })[0]!.kind, "high KL");
  t.equal(
    alarmsOf(
      run(30, () => ({ formatFailures: 0.9 })),
      { window: 3 },
    )[0]!.step,
    2,
    "a shorter window",
  );
  t.throws(() => new AlarmWatch({ klMost: Number.NaN }), { code: "USAGE", message: /klMost is NaN/ });
  t.throws(() => new AlarmWatch({ window: 1 }), { code: "USAGE" });
  t.throws(() => new AlarmWatch({ ratio: 0.5 }), { code: "USAGE" });
});

t.test("after a resume the earlier steps say all that is remembered", async (t) => {
  const series = run(80, (step) => ({ entropy: 1.5 * 0.9 ** step, reward: 0.5 - 0.02 * step }));
  const whole = alarmsOf(series);
  const resumed = new AlarmWatch();
  for (const statistics of series.slice(0, 25)) resumed.add(statistics);
  const rest = series.slice(25).flatMap((statistics) => resumed.add(statistics));
  t.same(
    rest,
    whole.filter(({ step }) => step >= 25),
  );
  t.ok(rest.length > 0);
});
