#include "bench.h"

#include <algorithm>
#include <chrono>
#include <random>

#include "bench_operators.h"
#include "machine.h"
#include "trainer.h"

namespace credence {

namespace {

constexpr int kSequences = 4, kLength = 512, kWarmUp = 2;

double median(std::vector<double> values) {
  std::sort(values.begin(), values.end());
  const size_t n = values.size();
  return n % 2 ? values[n / 2] : (values[n / 2 - 1] + values[n / 2]) / 2;
}

Json sft(const BenchOptions& options) {
  const auto base = Base::open(options.model, options.device);
  AdapterSpec adapter;
  adapter.config.r = 16;
  adapter.config.alpha = 32;
  adapter.config.targets.assign(kProjections.begin(), kProjections.end());
  const auto policy = std::make_shared<Policy>(base, std::optional(adapter), std::vector<HeadSpec>{});
  OptimizerSpec optimizer;
  optimizer.weight_decay = 0.01;  // PyTorch's default for AdamW, which the peer keeps
  Trainer trainer(policy, optimizer);

  HostBatch batch;
  std::mt19937 random(1234);
  for (int i = 0; i < kSequences * kLength; ++i)
    batch.tokens.push_back(static_cast<int32_t>(random() % base->family().vocabulary));
  Loss loss;
  loss.nll_weights.assign(batch.tokens.size(), 1.0f);
  for (int b = 0; b <= kSequences; ++b) batch.offsets.push_back(b * kLength);
  for (int b = 0; b < kSequences; ++b) loss.nll_weights[batch.offsets[b]] = 0;  // nothing comes before a first token
  const double count = kSequences * (kLength - 1);
  std::vector<double> losses, seconds;
  for (int step = 0; step < kWarmUp + options.repeats; ++step) {
    const auto start = std::chrono::steady_clock::now();
    losses.push_back(trainer.accumulate(batch, loss) / count);
    trainer.update(2e-4, count);
    if (step >= kWarmUp)
      seconds.push_back(std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count());
  }
  const double tokens = kSequences * kLength, best = *std::min_element(seconds.begin(), seconds.end()),
               middle = median(seconds);
  Json out = Json::object();
  out.set("engine", "credence");
  out.set("workload", "full");
  out.set("batch", kSequences);
  out.set("seq", kLength);
  out.set("isa", base->device()->table().isa);
  out.set("dtype", base->device()->dtype() == CREDENCE_BF16 ? "bf16" : "f32");
  out.set("threads", base->device()->threads());
  out.set("trainable", policy->count());
  out.set("tokens_per_s_best", tokens / best);
  out.set("tokens_per_s_median", tokens / middle);
  out.set("ms_best", best * 1e3);
  out.set("ms_median", middle * 1e3);
  out.set("repeats", options.repeats);
  out.set("loss_first", losses.front());
  out.set("loss_last", losses.back());
  out.set("peak_rss_mb", static_cast<int64_t>(peak_memory() >> 20));
  return out;
}

Json operators(const BenchOptions& options) {
  constexpr int kTokens = 2048;
  const auto device = Device::open(options.device);
  const std::vector<OperatorLine> lines = bench_operators(device, kTokens, 0.2);
  const Peaks peaks = measure_peaks(device->threads(), device->table().isa);
  Json out = Json::object(), list = Json::array();
  out.set("isa", device->table().isa);
  out.set("dtype", device->dtype() == CREDENCE_BF16 ? "bf16" : "f32");
  out.set("threads", device->threads());
  out.set("tokens", kTokens);
  Json top = Json::object();  // measured beside the operators: each line is a share of one of them
  top.set("f32Gflops", peaks.f32_gflops);
  top.set("bf16Gflops", peaks.bf16_gflops);
  top.set("readGBs", peaks.read_gbs);
  out.set("peaks", std::move(top));
  for (const OperatorLine& line : lines) {
    const PeakShare share = peak_share(line, peaks, device->dtype());
    Json row = Json::object();
    row.set("operator", line.name);
    row.set("shape", line.shape);
    row.set("ms_best", line.best * 1e3);
    row.set("ms_median", line.median * 1e3);
    row.set("gflops", line.flop / line.best * 1e-9);
    row.set("gbs", line.bytes / line.best * 1e-9);
    row.set("share_of_peak", share.share);
    row.set("bound", share.memory ? "memory" : "product");
    list.as_array().push_back(std::move(row));
  }
  out.set("operators", std::move(list));
  return out;
}

}  // namespace

Json bench(const std::string& what, const BenchOptions& options) {
  if (options.repeats < 1) fail("BAD_OPTION", "repeats: expected 1 or more but received %d", options.repeats);
  if (what == "sft") return sft(options);
  if (what == "operators") return operators(options);
  fail("BAD_OPTION", "bench: no workload \"%s\"; there are sft and operators", what.c_str());
}

}  // namespace credence
