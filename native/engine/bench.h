// What `credence bench` measures: workloads that run beside a peer (the same tokens, shapes and model file), and operators.
#pragma once

#include <string>

#include "device.h"
#include "json.h"

namespace credence {

struct BenchOptions {
  DeviceOptions device;
  std::string model;  // sft
  int repeats = 6;    // timed steps of sft
};

/// "sft": a LoRA step (r 16, alpha 32, seven projections, AdamW at 2e-4) on 4 x 512 tokens, all supervised. Two steps warm up.
/// The tokens are those of torch.randint(0, vocabulary, (4, 512)) under torch.Generator().manual_seed(1234): the stream of
/// MT19937, reduced by the remainder.
/// "operators": each operator alone (bench_operators.h), its rates and its share of the peak that binds it.
Json bench(const std::string& what, const BenchOptions& options);

}  // namespace credence
