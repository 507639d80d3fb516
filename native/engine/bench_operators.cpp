#include "bench_operators.h"

#include <algorithm>
#include <utility>

#include "operator_bench.h"

namespace credence {

RunTimes times_of(int threads, double seconds, const std::function<void()>& body) {
  body();
  std::vector<double> times;
  for (const double start = work_seconds(threads); times.size() < 3 || work_seconds(threads) - start < seconds;) {
    const double before = work_seconds(threads);
    body();
    times.push_back(work_seconds(threads) - before);
  }
  return run_times(std::move(times));
}

RunTimes run_times(std::vector<double> seconds) {
  std::sort(seconds.begin(), seconds.end());
  const size_t n = seconds.size(), tenth = n / 10;
  return {seconds.front(), seconds[n / 2], seconds[tenth], seconds[n - 1 - tenth]};
}

std::vector<OperatorLine> bench_operators(const std::shared_ptr<Device>& device, int tokens, double seconds) {
  return bench_operators(device, tokens, [&device, seconds](const std::function<void()>& body) {
    return times_of(device->threads(), seconds, body);
  });
}

std::vector<OperatorLine> bench_operators(const std::shared_ptr<Device>& device, int tokens, const Timer& timer) {
  if (tokens < 64 || tokens % 64) fail("BAD_OPTION", "tokens: expected a multiple of 64 but received %d", tokens);
  operator_bench::OperatorBench bench{device, tokens, timer, {}};
#define CREDENCE_BENCH(name) bench.name();
  CREDENCE_OPERATORS(CREDENCE_BENCH)
#undef CREDENCE_BENCH
  return std::move(bench.lines);
}

PeakShare peak_share(const OperatorLine& line, const Peaks& peaks, credence_dtype dtype) {
  const double rate = line.float32 || dtype == CREDENCE_F32 ? peaks.f32_gflops : peaks.bf16_gflops;
  const double product = line.flop / (rate * 1e9), memory = line.bytes / (peaks.read_gbs * 1e9);
  return {std::max(product, memory) / line.best, memory > product};
}

}  // namespace credence
