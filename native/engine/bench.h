// Workloads that a benchmark runs beside a peer: the same tokens, shapes and model file.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "device.h"
#include "json.h"

namespace credence {

struct BenchOptions {
  DeviceOptions device;
  std::string model;
  int repeats = 6;
  std::vector<int32_t> tokens;  // sft: [4, 512]
};

/// "sft": a LoRA step (r 16, alpha 32, seven projections, AdamW at 2e-4) on 4 x 512 tokens, all supervised. Two steps warm up.
Json bench(const std::string& what, const BenchOptions& options);

}  // namespace credence
