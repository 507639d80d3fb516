// Each operator of the contract alone, at SmolLM2-135M's shapes, beside the peaks measured in the same process.
#pragma once

#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "device.h"
#include "machine.h"

namespace credence {

struct OperatorLine {
  std::string name;  // as in CREDENCE_OPERATORS; of bench_kernels.h, what is measured
  std::string shape;
  double best = 0, median = 0;  // seconds
  double flop = 0, bytes = 0;   // what the definition needs: multiply-adds count two, each input and output moves once
  bool float32 = false;         // computes in float32 whatever the type of the activations
};

/// A line or more for every operator. `tokens` is a micro-batch (a multiple of 64; 2048 where a number is to be quoted) and
/// `seconds` what measuring one line takes at least.
std::vector<OperatorLine> bench_operators(const std::shared_ptr<Device>& device, int tokens, double seconds);

/// The least time the peaks allow, over the time it took; `memory`: reading is what binds it.
struct PeakShare {
  double share = 0;
  bool memory = false;
};
PeakShare peak_share(const OperatorLine& line, const Peaks& peaks, credence_dtype dtype);

/// Best and median of as many runs as fit into `seconds`, three at least, after one to warm up.
struct RunTimes {
  double best = 0, median = 0;
};
RunTimes times_of(int threads, double seconds, const std::function<void()>& body);

}  // namespace credence
