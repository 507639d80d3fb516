// Each operator of the contract alone, at SmolLM2-135M's shapes, beside the peaks measured in the same process.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "device.h"
#include "machine.h"

namespace credence {

/// Y [m, n] = X [m, k] W [n, k]^T, which an operator is around.
struct BareProduct {
  int64_t m = 0, n = 0, k = 0;  // zeros: around none
};

struct OperatorLine {
  std::string name;  // as in CREDENCE_OPERATORS; of bench_kernels.h, what is measured
  std::string shape;
  double best = 0, median = 0;  // seconds
  double flop = 0, bytes = 0;   // what the definition needs: multiply-adds count two, each input and output moves once
  bool float32 = false;         // computes in float32 whatever the type of the activations
  double low = 0, high = 0;     // seconds: the 10th and the 90th percentile
  BareProduct product = {};
};

/// How long something takes, in seconds.
struct RunTimes {
  double best = 0, median = 0, low = 0, high = 0;
};
using Timer = std::function<RunTimes(const std::function<void()>& body)>;
/// Of runs in any order.
RunTimes run_times(std::vector<double> seconds);

/// A line or more for every operator. `tokens` is a micro-batch (a multiple of 64; 2048 where a number is to be quoted) and
/// `seconds` what measuring one line takes at least.
std::vector<OperatorLine> bench_operators(const std::shared_ptr<Device>& device, int tokens, double seconds);
/// The same, timed by whoever calls.
std::vector<OperatorLine> bench_operators(const std::shared_ptr<Device>& device, int tokens, const Timer& timer);

/// The least time the peaks allow, over the time it took; `memory`: reading is what binds it.
struct PeakShare {
  double share = 0;
  bool memory = false;
};
PeakShare peak_share(const OperatorLine& line, const Peaks& peaks, credence_dtype dtype);

/// As many runs as fit into `seconds`, three at least, after one to warm up.
RunTimes times_of(int threads, double seconds, const std::function<void()>& body);

}  // namespace credence
