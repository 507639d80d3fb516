// Tokens/s against length, batch, rank, threads and model size: a table a series and one plot.
//   npm run bench -- --growth [--shape 135m] [--threads 2] [--only length,rank] [--out FILE.json] [--svg FILE.svg]
import { writeFileSync } from "node:fs";
import { chosen, credence, number, percent, table } from "./common.mjs";

const sizes = ["15m", "42m", "135m", "360m", "1.1b"];
const sft = (shape, threads, ...args) => {
  const document = credence("bench", "sft", "--shape", shape, "--threads", threads, "--repeats", 2, ...args);
  return { tokensPerSecond: document.tokens_per_s_median, share: document.share_of_peak };
};
const decode = (shape, threads, batch) => {
  const given = ["--length", 16, "--repeats", 2, "--batch", batch];
  const { decode } = credence("bench", "generate", "--shape", shape, "--threads", threads, ...given);
  return { tokensPerSecond: decode[0].decode_tokens_per_s_median, share: decode[0].share_of_wall };
};

/** Each series: what grows, over which values, and how one is measured. */
const series = (shape, threads) => ({
  length: {
    title: `training, one sequence of T tokens, ${shape}`,
    of: [128, 512, 2048, 8192],
    at: (length) => sft(shape, threads, "--batch", 1, "--length", length),
  },
  batch: {
    title: `decoding together, ${shape}`,
    of: [1, 4, 16, 64, 256],
    at: (batch) => decode(shape, threads, batch),
  },
  rank: {
    title: `training, rank of the adapter, 2 x 256, ${shape}`,
    of: [1, 4, 16, 64],
    at: (rank) => sft(shape, threads, "--batch", 2, "--length", 256, "--rank", rank),
  },
  threads: {
    title: `training, threads, 2 x 256, ${shape}`,
    of: [...new Set([1, Number(threads)])],
    at: (count) => sft(shape, count, "--batch", 2, "--length", 256),
  },
  size: {
    title: "training, parameters, 1 x 256",
    of: sizes,
    at: (size) => sft(size, threads, "--batch", 1, "--length", 256),
  },
});

/** Measures what `measured` lacks, prints the tables, and writes the plot of those that are whole. */
export async function growth({ shape, threads, only, svg, measured, keep }) {
  const all = series(shape, threads);
  for (const name of chosen(only, Object.keys(all), "only")) {
    const { of, at } = all[name];
    measured[`growth ${name}`] ??= {};
    for (const value of of) {
      if (measured[`growth ${name}`][value]) continue;
      console.error(`measuring ${name} ${value} ...`);
      measured[`growth ${name}`][value] = at(value);
      keep();
    }
  }
  const whole = Object.entries(all).filter(([name, { of }]) =>
    of.every((value) => measured[`growth ${name}`]?.[value]),
  );
  for (const [name, { title, of }] of whole) {
    const cells = of.map((value) => {
      const { tokensPerSecond, share } = measured[`growth ${name}`][value];
      return [value, number(tokensPerSecond), percent(share)];
    });
    console.log(`\n${title}\n\n${table([name, "tokens/s", name === "batch" ? "of the wall" : "of peak"], cells)}`);
  }
  if (svg && whole.length > 0) await plot(svg, whole, measured);
}

async function plot(file, whole, measured) {
  const { render } = await import("../dist/report/charts.js");
  const width = 900;
  const height = 230 * Math.ceil(whole.length / 2);
  const box = (i) => ({ left: 70 + (i % 2) * 440, top: 46 + Math.floor(i / 2) * 230, width: 350, height: 130 });
  const ink = "#333";
  const option = {
    title: whole.map(([, { title }], i) => ({
      text: title,
      left: box(i).left - 40,
      top: box(i).top - 34,
      textStyle: { fontSize: 13, fontWeight: "normal", color: ink },
    })),
    grid: whole.map((_, i) => box(i)),
    xAxis: whole.map(([name, { of }], i) => ({
      gridIndex: i,
      type: "category",
      name,
      nameLocation: "middle",
      nameGap: 24,
      data: of.map(String),
    })),
    yAxis: whole.map((_, i) => ({ gridIndex: i, type: "log", name: "tokens/s", nameGap: 8, splitNumber: 3 })),
    series: whole.map(([name, { of }], i) => ({
      type: "line",
      xAxisIndex: i,
      yAxisIndex: i,
      symbol: "circle",
      symbolSize: 7,
      itemStyle: { color: "#2a6f97" },
      label: { show: true, position: "top", formatter: ({ value }) => number(value[1]), color: ink },
      data: of.map((value) => [String(value), measured[`growth ${name}`][value].tokensPerSecond]),
    })),
  };
  const alt = whole
    .map(
      ([name, { title, of }]) =>
        `${title}: ${of.map((v) => `${v}: ${number(measured[`growth ${name}`][v].tokensPerSecond)}`).join(", ")}`,
    )
    .join("; ");
  writeFileSync(file, `${render(option, `tokens/s. ${alt}`, width, height)}\n`);
}
