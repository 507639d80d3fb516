#include "machine.h"

#include <sys/resource.h>

#include <algorithm>
#include <chrono>
#include <cstdint>
#include <ctime>
#include <fstream>
#include <functional>
#include <memory>
#include <thread>
#include <vector>

#include "device.h"
#include "error.h"
#include "native/kernels/kernels.h"

namespace credence {

std::string cpu_name() {
  std::ifstream file("/proc/cpuinfo");
  for (std::string line; std::getline(file, line);) {
    const size_t colon = line.find(": ");
    if (line.starts_with("model name") && colon != std::string::npos) return line.substr(colon + 2);
  }
  return "unknown";
}

long peak_memory() {
  rusage usage{};
  getrusage(RUSAGE_SELF, &usage);
  return usage.ru_maxrss * 1024;
}

namespace {

/// Best rate of five runs with every thread at work; `work` returns what one thread did.
double best_rate(int threads, const std::function<double(int thread)>& work) {
  double best = 0;
  for (int run = 0; run < 5; ++run) {
    std::vector<double> done(threads);
    std::vector<std::thread> helpers;
    const double start = work_seconds(threads);
    for (int t = 1; t < threads; ++t) helpers.emplace_back([&, t] { done[t] = work(t); });
    done[0] = work(0);
    for (std::thread& helper : helpers) helper.join();
    const double seconds = work_seconds(threads) - start;
    double total = 0;
    for (double amount : done) total += amount;
    best = std::max(best, total / seconds);
  }
  return best;
}

double gflops(int threads, const char* isa, credence_dtype dtype) {
  constexpr int64_t kRounds = 10'000'000;
  return best_rate(threads, [&](int) { return credence_cpu_peak(isa, dtype, kRounds); }) / 1e9;
}

double read_gbs(int threads) {
  constexpr size_t kWords = size_t{64} << 20;  // 512 MiB a thread: far beyond the caches
  std::vector<std::unique_ptr<uint64_t[]>> memory;
  for (int t = 0; t < threads; ++t) {
    memory.emplace_back(new uint64_t[kWords]);
    std::fill_n(memory.back().get(), kWords, 1);
  }
  volatile uint64_t sink = 0;
  return best_rate(threads,
                   [&](int t) {
                     const uint64_t* words = memory[t].get();
                     uint64_t sums[8] = {};
                     for (size_t i = 0; i < kWords; i += 8) {
                       for (int lane = 0; lane < 8; ++lane) sums[lane] += words[i + lane];
                     }
                     for (uint64_t sum : sums) sink = sink + sum;
                     return static_cast<double>(kWords * sizeof(uint64_t));
                   }) /
         1e9;
}

}  // namespace

Peaks measure_peaks(int threads, const std::string& isa) {
  if (threads < 1 || threads > 1024) fail("BAD_OPTION", "threads: expected 1 to 1024 but received %d", threads);
  const credence_table& table = cpu_table(isa);
  return {gflops(threads, table.isa, CREDENCE_F32), gflops(threads, table.isa, CREDENCE_BF16), read_gbs(threads)};
}

double work_seconds(int threads) {
  if (threads == 1) {
    // std::clock() counts whole microseconds, and the smallest operators take less than one.
    timespec spent{};
    clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &spent);
    return static_cast<double>(spent.tv_sec) + 1e-9 * static_cast<double>(spent.tv_nsec);
  }
  return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count();
}

}  // namespace credence
